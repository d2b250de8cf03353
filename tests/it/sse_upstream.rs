//! Servers of 2024-11-05 behind the gateway (`remote-sse`), and the bridges that people put before stdio servers.
//! Not here: clients of that transport (`legacy_sse`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Caller, request};
use crate::fake::{self, Act, Fake, Seen, Step};
use crate::gateway::Gateway;
use crate::packages::Server;

const SOON: Duration = Duration::from_secs(20);

fn before(kind: &str, url: &str) -> Gateway {
    let runtime = json!({"type": kind, "url": url});
    Gateway::start(
        &json!({"servers": [{"id": "it", "runtime": runtime, "health": {"type": "off"}}]}).to_string(),
    )
}

fn call(id: impl Into<Value>) -> Value {
    request(id, "tools/call", json!({"name": "echo", "arguments": {"message": "hi"}}))
}

/// A session with one call, what the server says unasked, and the session's end.
async fn works(what: &str, gateway: &Gateway) {
    let (session, opened) = Caller::new(&gateway.url("it")).initialize().await;
    assert!(opened["serverInfo"]["name"].is_string(), "{what}: {opened}");
    assert!(session.session().is_some(), "{what}: a session");
    let tools = session.post(&request(1, "tools/list", json!({}))).await.result();
    assert!(tools["tools"].as_array().unwrap().len() >= 13, "{what}: {tools}");
    for id in [json!(2), json!("two")] {
        let called = session.post(&call(id.clone())).await;
        assert_eq!(called.json()["id"], id, "{what}: {called:?}");
        assert_eq!(called.result()["content"][0]["text"], "Echo: hi", "{what}: {called:?}");
    }
    let ended = session.send(Method::DELETE, Vec::new()).await;
    assert!((200..300).contains(&ended.status), "{what}: {ended:?}");
    let after = session.post(&call(3)).await;
    assert!([400, 404].contains(&after.status), "{what}: a session that has ended: {after:?}");
}

#[tokio::test]
async fn an_official_server_of_the_old_transport() {
    let server = Server::everything_sse();
    let gateway = before("remote-sse", &server.url);
    works("server-everything", &gateway).await;
    // Two sessions at once, with the same ids.
    let (one, two) = tokio::join!(async { Caller::new(&gateway.url("it")).initialize().await.0 }, async {
        Caller::new(&gateway.url("it")).initialize().await.0
    },);
    let (first, second) = (call(1), call(1));
    let (a, b) = tokio::join!(one.post(&first), two.post(&second));
    assert_eq!((a.status, b.status), (200, 200), "{a:?} {b:?}");
}

#[tokio::test]
async fn the_server_speaks_unasked() {
    let server = Server::everything_sse();
    let gateway = before("remote-sse", &server.url);
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let mut stream = session.get_stream().await;
    let ask = request(
        1,
        "tools/call",
        json!({"name": "trigger-sampling-request", "arguments": {"prompt": "p", "maxTokens": 5}}),
    );
    let answer = async {
        loop {
            let asked = stream.message().await;
            // It also asks for roots, and announces things.
            let result = match asked["method"].as_str() {
                Some("sampling/createMessage") => {
                    json!({"role": "assistant", "content": {"type": "text", "text": "so"}, "model": "m"})
                }
                Some("roots/list") => json!({"roots": []}),
                _ => continue,
            };
            let told = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result});
            assert_eq!(session.post(&told).await.status, 202);
            if asked["method"] == "sampling/createMessage" {
                break;
            }
        }
    };
    let (called, ()) = tokio::join!(session.post(&ask), answer);
    assert!(called.body.contains("so"), "{called:?}");
}

#[tokio::test]
async fn supergateway_over_both_transports() {
    let server = Server::supergateway("sse", "/sse");
    works("supergateway over SSE", &before("remote-sse", &server.url)).await;
    drop(server);
    let server = Server::supergateway("streamableHttp", "/mcp");
    works("supergateway over Streamable HTTP", &before("remote-http", &server.url)).await;
}

#[tokio::test]
async fn mcp_proxy_over_both_transports() {
    let server = Server::mcp_proxy("/sse");
    works("mcp-proxy over SSE", &before("remote-sse", &server.url)).await;
    let server = Server::mcp_proxy("/mcp");
    works("mcp-proxy over Streamable HTTP", &before("remote-http", &server.url)).await;
}

/// A server that names `endpoint` as the place for messages, answers `initialize`, and then ends its stream when the
/// test says so.
fn scripted(endpoint: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Fake {
    Fake::start(move |seen| match seen.method.as_str() {
        "GET" => Act::Stream(vec![
            Step::Lines(format!("event: endpoint\ndata: {}", endpoint(seen))),
            Step::Gate,
            Step::Send(
                json!({"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {"name": "old", "version": "1"}}}),
            ),
            Step::Gate,
        ]),
        _ if seen.path == "/mcp" => Act::Status(405),
        _ => Act::Status(202),
    })
}

fn hello() -> Value {
    request(
        0,
        "initialize",
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}),
    )
}

/// Opens a session: the server answers once it has `initialize`, at the place that it named.
async fn open(fake: &Fake, caller: &Caller) -> Answer {
    let (before, hello) = (fake.seen().len(), hello());
    let answered = async {
        fake.wait_for_one("initialize at its place", |seen| {
            seen.number >= before && seen.path.starts_with("/message") && seen.rpc() == "initialize"
        })
        .await;
        fake.release();
    };
    tokio::join!(caller.post(&hello), answered).0
}

#[tokio::test]
async fn an_endpoint_of_another_origin_gets_nothing() {
    let canary = Fake::start(|_| Act::Status(202));
    let elsewhere = canary.url().replace("/mcp", "/message");
    let fake = scripted(move |_| elsewhere.clone());
    let refused = Caller::new(&before("remote-sse", &fake.url()).url("it")).post(&hello()).await;
    assert_eq!(refused.status, 502, "{refused:?}");
    assert_eq!(refused.json()["error"]["data"]["reason"], "upstream_redirect", "{refused:?}");
    assert!(canary.seen().is_empty());
    // The positive control: the same words, naming the server's own origin.
    let fake = scripted(|seen| format!("http://{}/message?sessionId=x", seen.headers["host"]));
    let gateway = before("remote-sse", &fake.url());
    let caller = Caller::new(&gateway.url("it"));
    let opened = open(&fake, &caller).await;
    assert_eq!(opened.result()["serverInfo"]["name"], "old", "{opened:?}");
}

#[tokio::test]
async fn a_session_ends_with_the_servers_stream() {
    let fake = scripted(|_| "/message?sessionId=x".to_owned());
    let gateway = before("remote-sse", &fake.url());
    let caller = Caller::new(&gateway.url("it"));
    let opened = open(&fake, &caller).await;
    assert_eq!(opened.result()["serverInfo"]["name"], "old", "{opened:?}");
    let session = caller.clone().with("mcp-session-id", opened.header("mcp-session-id").unwrap());
    // A call in flight learns that its answer will not come.
    let call = call(1);
    let (cut, ()) = tokio::join!(session.post(&call), async {
        fake.wait_for("tools/call", SOON).await;
        fake.release();
    });
    assert_eq!((cut.status, &cut.json()["id"]), (502, &json!(1)), "{cut:?}");
    // The next one finds the session lost: it is opened anew on a stream of its own, and then the call is sent.
    let before = fake.seen().len();
    let (again, ()) = tokio::join!(session.post(&call), async {
        for method in ["initialize", "tools/call"] {
            fake.wait_for_one(method, |seen| {
                seen.number >= before && seen.path.starts_with("/message") && seen.rpc() == method
            })
            .await;
            fake.release();
        }
    });
    assert_eq!(again.status, 502, "{again:?}");
    let streams = fake.seen().iter().filter(|seen| seen.method == "GET").count();
    assert_eq!(streams, 2);
}

#[tokio::test]
async fn a_server_that_was_replaced_by_a_newer_one_is_found_out() {
    let new = Arc::new(AtomicBool::new(false));
    let is_new = Arc::clone(&new);
    let fake = Fake::start(move |seen| match (is_new.load(Ordering::SeqCst), seen.method.as_str()) {
        (true, "GET") => Act::Status(405),
        (true, _) => fake::legacy(seen),
        (false, "GET") => Act::Stream(vec![
            Step::Lines("event: endpoint\ndata: /message".into()),
            Step::Send(
                json!({"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {"name": "old", "version": "1"}}}),
            ),
            Step::Gate,
        ]),
        _ if seen.path == "/mcp" => Act::Status(404),
        _ => Act::Status(202),
    });
    let gateway = before("remote-sse", &fake.url());
    let caller = Caller::new(&gateway.url("it"));
    assert_eq!(open(&fake, &caller).await.result()["serverInfo"]["name"], "old");
    fake.release();
    new.store(true, Ordering::SeqCst);
    assert_eq!(caller.post(&hello()).await.result()["serverInfo"]["name"], "fake");
}

/// Contract 001's `remote-sse`: JSON-RPC over POST. No stream is asked for.
#[tokio::test]
async fn a_server_that_answers_posts_is_asked_by_posts() {
    let fake = Fake::start(fake::legacy);
    let gateway = before("remote-sse", &fake.url());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    assert_eq!(session.post(&call(1)).await.result()["content"][0]["text"], "fake");
    assert!(fake.seen().iter().all(|seen| seen.method == "POST"), "no stream was tried");
    let _ = tokio::time::timeout(SOON, session.send(Method::DELETE, Vec::new())).await;
}
