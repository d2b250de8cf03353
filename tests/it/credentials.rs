//! What servers are shown of the gateway itself: tokens from files and from token endpoints, over the wire.
//! Not here: their life and renewal (`src/upstream/credential`); static headers (`raw`, `exchange`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Caller, SOON, request};
use crate::fake::{Act, Fake, Seen, legacy};
use crate::gateway::Gateway;

const KEY: &str = "Rq7vB2mX9kT4wZ6n-alice";

fn conf() -> String {
    format!("auth: {{keys: [{{name: alice, key: {KEY}, servers: ['*']}}]}}\ndrain: 5s\n")
}

async fn call(gateway: &Gateway) -> Answer {
    let alice = Caller::new(&gateway.url("docs")).with("authorization", &format!("Bearer {KEY}"));
    alice.post(&request(1, "tools/call", json!({"name": "echo", "arguments": {}}))).await
}

/// A catalog with one server, whose `auth` is as given.
fn catalog(kind: &str, url: &str, health: &Value, auth: &Value) -> String {
    json!({"servers": [{"id": "docs", "runtime": {"type": kind, "url": url}, "health": health, "auth": auth}]})
        .to_string()
}

fn off() -> Value {
    json!({"type": "off"})
}

/// An honest server that takes whatever is shown.
fn open(seen: &Seen) -> Act {
    match seen.rpc().as_str() {
        "tools/call" => Act::Json(200, seen.text("fake")),
        _ => legacy(seen),
    }
}

/// A token endpoint that numbers its tokens.
fn tokens() -> Fake {
    Fake::start(|seen| {
        let form = String::from_utf8(seen.body.clone()).unwrap();
        assert_eq!(seen.headers["content-type"], "application/x-www-form-urlencoded");
        assert_eq!(seen.headers["authorization"], "Basic Z2F0ZXdheTpvZi10aGUtZ2F0ZXdheQ==");
        assert_eq!(form, "grant_type=client_credentials&scope=tools");
        let token = format!("fetched-{}", seen.number);
        Act::Json(200, json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600}))
    })
}

fn client_credentials(tokens: &Fake) -> Value {
    json!({"client_credentials": {"token_url": tokens.url(), "client_id": "gateway",
        "client_secret": "of-the-gateway", "scopes": ["tools"]}})
}

fn shown(fake: &Fake) -> Vec<String> {
    fake.seen_rpc("tools/call").iter().map(|seen| seen.headers["authorization"].clone()).collect()
}

#[tokio::test]
async fn a_fetched_token_serves_many_calls_and_the_callers_key_none() {
    let (tokens, server) = (tokens(), Fake::start(open));
    server.forbid(KEY);
    tokens.forbid(KEY);
    let auth = client_credentials(&tokens);
    let gateway = Gateway::with(&catalog("remote-http", &server.url(), &off(), &auth)).conf(&conf()).start();
    let answers = futures_util::future::join_all((0..20).map(|_| call(&gateway))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(shown(&server), vec!["Bearer fetched-0"; 20]);
    assert_eq!(tokens.seen().len(), 1);
    let log = gateway.log();
    assert!(!log.contains("fetched-0") && !log.contains("of-the-gateway"), "{log}");
    gateway.stop();
}

#[tokio::test]
async fn a_servers_401_is_a_reason_to_fetch_another_token_but_not_to_call_twice() {
    let tokens = tokens();
    let server = Fake::start(|seen| match seen.headers["authorization"].as_str() {
        "Bearer fetched-0" => Act::Status(401),
        _ => open(seen),
    });
    let auth = client_credentials(&tokens);
    let gateway = Gateway::with(&catalog("remote-http", &server.url(), &off(), &auth)).conf(&conf()).start();
    let first = call(&gateway).await;
    assert_eq!(
        (first.status, &first.json()["error"]["data"]["reason"]),
        (502, &json!("upstream_credentials"))
    );
    assert_eq!(shown(&server).len(), 1, "the refused call is not repeated");
    assert_eq!(call(&gateway).await.status, 200);
    assert_eq!(shown(&server), ["Bearer fetched-0", "Bearer fetched-1"]);
    gateway.stop();
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let tokens = Fake::start(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Act::Json(401, json!({"error": "invalid_client", "error_description": "secret words"}))
    });
    let server = Fake::start(open);
    let auth = client_credentials(&tokens);
    let gateway = Gateway::with(&catalog("remote-http", &server.url(), &off(), &auth)).conf(&conf()).start();
    for _ in 0..5 {
        let answer = call(&gateway).await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert_eq!(answer.json()["error"]["data"]["reason"], "upstream_credential");
        assert!(!answer.body.contains(&tokens.url()) && !answer.body.contains("secret words"), "{answer:?}");
    }
    assert!(server.seen().is_empty());
    assert!(asked.load(Ordering::Relaxed) <= 3, "failures are not asked for again at once");
    let log = gateway.log();
    assert!(log.contains("invalid_client") && !log.contains("secret words"), "{log}");
    gateway.stop();
}

#[tokio::test]
async fn a_token_in_a_file_is_read_again_when_it_changes() {
    let server = Fake::start(open);
    let auth = json!({"bearer_file": "token"});
    let gateway = Gateway::with(&catalog("remote-http", &server.url(), &off(), &auth)).conf(&conf()).start();
    let path = gateway.home().join("token");
    assert_eq!(call(&gateway).await.json()["error"]["data"]["reason"], "upstream_credential");
    assert!(server.seen().is_empty());
    let wait_for = async |wanted: &str| {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let answer = call(&gateway).await;
            if answer.status == 200 && shown(&server).last().is_some_and(|shown| shown == wanted) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{wanted} is not shown: {answer:?}");
            tokio::task::yield_now().await;
        }
    };
    for token in ["first-token", "other-token"] {
        std::fs::write(path.with_extension("new"), format!("{token}\n")).unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
        wait_for(&format!("Bearer {token}")).await;
    }
    gateway.stop();
}

#[tokio::test]
async fn raw_upstreams_and_health_checks_are_shown_it_too() {
    let server = Fake::start(|seen| match seen.headers.get("authorization").map(String::as_str) {
        Some("Basic Z2F0ZXdheTpwYXNz") => Act::Json(200, json!({"fine": true})),
        _ => Act::Status(500),
    });
    let auth = json!({"basic": {"username": "gateway", "password": "pass"}});
    let health = json!({"type": "http", "path": "/health", "interval": "1s"});
    let catalog = catalog("raw-http", &server.url(), &health, &auth);
    let gateway = Gateway::with(&catalog).conf(&conf()).start();
    let docs = Caller::new(&gateway.path("/servers/docs/raw/x")).with("x-api-key", KEY);
    let answer = docs.send(Method::GET, Vec::new()).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"fine": true})), "{answer:?}");
    let deadline = tokio::time::Instant::now() + SOON;
    while !server.seen().iter().any(|seen| seen.path == "/health") {
        assert!(tokio::time::Instant::now() < deadline, "health is not asked");
        tokio::task::yield_now().await;
    }
    assert!(server.seen().iter().all(|seen| seen.headers["authorization"] == "Basic Z2F0ZXdheTpwYXNz"));
    gateway.stop();
}
