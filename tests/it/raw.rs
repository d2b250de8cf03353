//! Raw upstreams: HTTP services that the catalog names and the gateway forwards unread under `/servers/{id}/raw/`.
//! Not here: MCP exchanges (`exchange`), which never take this way.

use reqwest::Method;
use serde_json::json;

use crate::client::{Answer, Caller, SOON, request};
use crate::fake::{Act, Fake, Step};
use crate::gateway::Gateway;
use crate::issuer::{Key, claims, key_set};

const CONF: &str = r#"
auth:
  keys:
    - {name: alice, key: Rq7vB2mX9kT4wZ6n-alice, servers: [docs]}
    - {name: bob, key: Jd5hC8pL3sF1yG0u-bob, servers: [other]}
drain: 5s
"#;
const ALICE: &str = "Rq7vB2mX9kT4wZ6n-alice";
const BOB: &str = "Jd5hC8pL3sF1yG0u-bob";

/// A gateway before a service that answers whatever comes, on `/base` of its address.
fn before(act: impl Fn() -> Act + Send + Sync + 'static) -> (Gateway, Fake) {
    let fake = Fake::start(move |_| act());
    let url = fake.url().replace("/mcp", "/base/");
    let catalog = json!({"servers": [
        {"id": "docs", "runtime": {"type": "raw-http", "url": url}, "health": {"type": "off"},
         "headers": {"Authorization": "Bearer of-the-server", "X-Team": "tollgate"}},
        {"id": "other", "runtime": {"type": "remote-http", "url": fake.url()}, "health": {"type": "off"}},
    ]});
    (Gateway::with(&catalog.to_string()).conf(CONF).start(), fake)
}

fn fine() -> Act {
    Act::Json(200, json!({"fine": true}))
}

fn alice(gateway: &Gateway, path: &str) -> Caller {
    Caller::new(&gateway.path(path)).with("x-api-key", ALICE)
}

async fn get(caller: &Caller) -> Answer {
    caller.send(Method::GET, Vec::new()).await
}

#[tokio::test]
async fn a_large_body_arrives_whole_and_in_one_request() {
    let (gateway, fake) = before(fine);
    let body: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let caller = alice(&gateway, "/servers/docs/raw/upload?name=a%20b&x=1");
    let caller = caller.with("content-type", "application/octet-stream");
    let answer = caller.send(Method::PUT, body.clone()).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"fine": true})));
    let [seen] = fake.seen().try_into().unwrap();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("PUT", "/base/upload?name=a%20b&x=1"));
    assert_eq!(seen.headers["content-type"], "application/octet-stream");
    assert!(seen.body == body, "{} of {} bytes", seen.body.len(), body.len());
}

#[tokio::test]
async fn the_callers_credentials_stay_and_the_servers_own_go() {
    let (gateway, fake) = before(fine);
    for text in [ALICE, "cookie-of-alice", "proxy-of-alice", "9.9.9.9"] {
        fake.forbid(text);
    }
    let caller = alice(&gateway, "/servers/docs/raw/page")
        .with("authorization", &format!("Bearer {ALICE}"))
        .with("cookie", "s=cookie-of-alice")
        .with("proxy-authorization", "Basic proxy-of-alice")
        .with("x-forwarded-for", "9.9.9.9")
        .with("forwarded", "for=9.9.9.9")
        .with("x-team", "forged")
        .with("x-request-id", "mine-1")
        .with("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .without("x-api-key");
    let answer = get(&caller).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("mine-1")), "{answer:?}");
    let [seen] = fake.seen().try_into().unwrap();
    assert_eq!(seen.headers["authorization"], "Bearer of-the-server");
    assert_eq!(seen.headers["x-team"], "tollgate");
    assert_eq!(seen.headers["x-request-id"], "mine-1");
    assert!(seen.headers["traceparent"].starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    assert_eq!(seen.headers["host"], fake.url().replace("http://", "").replace("/mcp", ""));
}

#[tokio::test]
async fn who_may_not_is_refused_before_anything_is_sent() {
    let (gateway, fake) = before(fine);
    let nobody = get(&alice(&gateway, "/servers/docs/raw/x").without("x-api-key")).await;
    assert_eq!((nobody.status, nobody.header("www-authenticate").is_some()), (401, true), "{nobody:?}");
    let wrong = get(&alice(&gateway, "/servers/docs/raw/x").with("x-api-key", "wrong-key-0123456789")).await;
    assert_eq!(wrong.status, 401, "{wrong:?}");
    let bob = get(&alice(&gateway, "/servers/docs/raw/x").with("x-api-key", BOB)).await;
    let unknown = get(&alice(&gateway, "/servers/nope/raw/x")).await;
    // One that is not allowed looks like one that is not there.
    for (answer, server) in [(&bob, "docs"), (&unknown, "nope")] {
        let said = answer.json();
        assert_eq!((answer.status, said["reason"].as_str()), (404, Some("unknown_server")), "{answer:?}");
        assert_eq!(said["message"], format!("Server '{server}' not found"), "{answer:?}");
    }
    assert!(fake.seen().is_empty(), "{:?}", fake.seen());
}

#[tokio::test]
async fn an_mcp_server_is_not_raw_and_a_raw_one_is_no_mcp_server() {
    let (gateway, fake) = before(fine);
    let raw = get(&alice(&gateway, "/servers/other/raw/x").with("x-api-key", BOB)).await;
    assert_eq!((raw.status, raw.json()["reason"].as_str()), (404, Some("not_raw")), "{raw:?}");
    let mcp = alice(&gateway, "/servers/docs/mcp").post(&request(1, "ping", json!({}))).await;
    assert_eq!(mcp.status, 404, "{mcp:?}");
    assert!(fake.seen().is_empty(), "{:?}", fake.seen());
}

/// The catalog names a folder of the service: nothing outside of it is offered.
#[tokio::test]
async fn a_path_does_not_climb_out_of_the_servers_own() {
    let (gateway, fake) = before(fine);
    // Written by hand: clients tidy such paths up.
    for path in [
        "/servers/docs/raw/../secret",
        "/servers/docs/raw/a/../../secret",
        "/servers/docs/raw/%2e%2e/secret",
        "/servers/docs/raw/.%2E/secret",
        "/servers/docs/raw/..%2fsecret",
        "/servers/docs/raw/..%5csecret",
        "/servers/docs/raw/..",
    ] {
        let answer = plain(&gateway, path).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
    assert!(fake.seen().is_empty(), "{:?}", fake.seen());
    for (path, there) in
        [("/servers/docs/raw/a..b/.c/...", "/base/a..b/.c/..."), ("/servers/docs/raw", "/base")]
    {
        assert!(plain(&gateway, path).await.starts_with("HTTP/1.1 200 "), "{path}");
        assert_eq!(fake.seen().last().unwrap().path, there);
    }
}

/// One GET with exactly that path; gives the whole answer.
async fn plain(gateway: &Gateway, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {ALICE}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("no answer").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A challenge is for the gateway's own credential, and a cookie of the service would be everybody's.
#[tokio::test]
async fn a_services_challenge_cookie_and_name_stay_here() {
    let (gateway, fake) = before(|| {
        let headers = [
            ("www-authenticate", "Basic realm=\"inside\""),
            ("set-cookie", "s=of-the-server"),
            ("server", "inside/1.2"),
            ("etag", "\"7\""),
        ];
        Act::JsonWith(401, headers.map(|(name, value)| (name, value.to_owned())).into(), json!({}))
    });
    let answer = get(&alice(&gateway, "/servers/docs/raw/x")).await;
    for name in ["www-authenticate", "set-cookie", "server"] {
        assert_eq!(answer.header(name), None, "{answer:?}");
    }
    assert_eq!(answer.header("etag"), Some("\"7\""), "{answer:?}");
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_service_that_is_away_is_an_error_of_ours() {
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = json!({"id": "docs", "runtime": {"type": "raw-http", "url": format!("http://{away}/")}, "health": {"type": "off"}});
    let gateway = Gateway::start(&json!({ "servers": [server] }).to_string());
    let answer = get(&Caller::new(&gateway.path("/servers/docs/raw/x"))).await;
    assert!([502, 503].contains(&answer.status), "{answer:?}");
    assert!(!answer.body.contains(&away.to_string()) && answer.json()["error"].is_string(), "{answer:?}");
}

/// A stream that is open at a raw upstream gives nothing more to a caller whose key was taken away.
#[tokio::test]
async fn a_key_taken_away_ends_what_is_open() {
    let events = || (0..2000).map(|n| Step::Send(json!({"n": n}))).collect::<Vec<_>>();
    let (gateway, fake) = before(move || {
        let mut steps = vec![Step::Send(json!({"first": true})), Step::Gate];
        steps.extend(events());
        steps.push(Step::Hang);
        Act::Stream(steps)
    });
    let mut stream = alice(&gateway, "/servers/docs/raw/x").get_stream().await;
    assert_eq!(stream.message().await, json!({"first": true}));
    gateway.edit_conf(&CONF.replace(ALICE, "another-key-0123456789abcdef"));
    let since = std::time::Instant::now();
    while get(&alice(&gateway, "/servers/other/raw/x")).await.status != 401 {
        assert!(since.elapsed() < SOON, "{}", gateway.log());
        tokio::task::yield_now().await;
    }
    fake.release();
    assert!(stream.next().await.is_none(), "what comes after the key is gone is not passed on");
    gateway.wait_for_log("its audit line", SOON, |line| {
        (line["type"] == "audit" && line["reason"] == "revoked").then_some(())
    });
}

/// Rules speak of raw upstreams as well: a token that lacks the scopes is told which, and sends nothing through.
#[tokio::test]
async fn a_token_without_the_scopes_goes_nowhere() {
    let fake = Fake::start(|_| fine());
    let catalog = json!({
        "servers": [{"id": "docs", "runtime": {"type": "raw-http", "url": fake.url()}, "health": {"type": "off"}}],
        "rules": [{"allow": ["*"], "who": {"scopes": ["raw:use"]}, "servers": ["docs"]}],
    });
    let (folder, key) = (tempfile::tempdir().unwrap(), Key::new("k1"));
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, key_set(&[&key]).to_string()).unwrap();
    let issuer = json!({"issuer": "https://login.example.com", "audience": "gw", "algorithms": ["ES256"],
        "jwks_file": keys, "servers": ["*"]});
    let conf = json!({"auth": {"issuers": [issuer]}, "drain": "5s"}).to_string();
    let gateway = Gateway::with(&catalog.to_string()).conf(&conf).start();
    let token =
        |scope: &str| key.sign(&claims("https://login.example.com", "gw", "ann", json!({"scope": scope})));
    let ask = |scope: &str| {
        let caller = Caller::new(&gateway.path("/servers/docs/raw/x"));
        caller.with("authorization", &format!("Bearer {}", token(scope)))
    };
    let without = get(&ask("none")).await;
    assert_eq!(without.status, 403, "{without:?}");
    let challenge = without.header("www-authenticate").unwrap_or_default();
    assert!(challenge.contains("insufficient_scope") && challenge.contains("raw:use"), "{without:?}");
    assert!(fake.seen().is_empty(), "{:?}", fake.seen());
    assert_eq!(get(&ask("raw:use")).await.status, 200, "and with them it does");
}
