//! Upstreams that lie, hang or are not there: each gets a JSON-RPC error in time, and nothing else suffers.
//! Not here: honest servers (`exchange`), children on stdio (`stdio`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Answer, Caller, SOON, request};
use crate::fake::{self, Act, Fake, Step};
use crate::gateway::Gateway;

/// A gateway before a fake that misbehaves at `tools/call` (`bad`) and an honest one (`good`).
struct Pair {
    gateway: Gateway,
    bad: Fake,
    _good: Fake,
}

fn pair(act: impl Fn() -> Act + Send + Sync + 'static) -> Pair {
    let bad = Fake::start(move |seen| if seen.rpc() == "tools/call" { act() } else { fake::legacy(seen) });
    let good = Fake::start(fake::legacy);
    // Short waits, so that a test of a hung server is short.
    let timeouts = json!({"response": "1s", "idle": "1s", "total": "5s"});
    let server = |id: &str, url: String| json!({"id": id, "timeouts": timeouts, "runtime": {"type": "remote-http", "url": url}});
    let catalog = json!({"servers": [server("bad", bad.url()), server("good", good.url())]});
    Pair { gateway: Gateway::start(&catalog.to_string()), bad, _good: good }
}

impl Pair {
    /// Calls the bad server: the answer must come in time and be an error of its request. Then the good one must work.
    async fn call(&self) -> Answer {
        let (session, _) = Caller::new(&self.gateway.url("bad")).initialize().await;
        let asked = Instant::now();
        let answer = session.post(&request(42, "tools/call", json!({"name": "echo", "arguments": {}}))).await;
        assert!(asked.elapsed() < Duration::from_secs(10), "an answer after {:?}", asked.elapsed());
        let (session, _) = Caller::new(&self.gateway.url("good")).initialize().await;
        session.post(&request(1, "tools/call", json!({"name": "echo", "arguments": {}}))).await.result();
        answer
    }

    /// The same, and the answer is a JSON-RPC error for the request.
    async fn fails(&self) -> Answer {
        let answer = self.call().await;
        let message = answer.json();
        assert_eq!(message["id"], 42, "{answer:?}");
        assert!(message["error"]["code"].is_i64(), "{answer:?}");
        answer
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let pair = pair(|| Act::Hang);
    pair.fails().await;
    let call = pair.bad.wait_for("tools/call", SOON).await;
    pair.bad.wait_for_gone(call.number, SOON).await;
    assert_eq!(pair.bad.seen_rpc("tools/call").len(), 1, "tools/call must not be sent twice");
}

#[tokio::test]
async fn a_server_that_hangs_up_is_not_called_twice() {
    let pair = pair(|| Act::Close);
    pair.fails().await;
    assert_eq!(pair.bad.seen_rpc("tools/call").len(), 1, "tools/call must not be sent twice");
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_an_error() {
    pair(|| Act::Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec())).fails().await;
}

#[tokio::test]
async fn an_answer_that_is_not_json_is_an_error() {
    pair(|| {
        Act::Raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\n<html".to_vec())
    })
    .fails()
    .await;
}

#[tokio::test]
async fn a_failure_without_json_is_an_error_that_does_not_show_the_upstreams_text() {
    let secret =
        b"HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\ncontent-length: 18\r\n\r\nstack trace secret"
            .to_vec();
    let answer = pair(move || Act::Raw(secret.clone())).fails().await;
    assert!(!answer.body.contains("secret"), "{answer:?}");
}

#[tokio::test]
async fn an_upstreams_401_is_not_ours() {
    let challenge =
        b"HTTP/1.1 401 No\r\nwww-authenticate: Bearer realm=\"up\"\r\ncontent-length: 0\r\n\r\n".to_vec();
    let answer = pair(move || Act::Raw(challenge.clone())).fails().await;
    assert_ne!(answer.status, 401, "{answer:?}");
    assert!(answer.header("www-authenticate").is_none(), "{answer:?}");
}

#[tokio::test]
async fn a_body_shorter_than_its_length_does_not_look_whole() {
    let short = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":42,\"result\":{}}".to_vec();
    let answer = pair(move || Act::Raw(short.clone())).call().await;
    let whole: Result<Value, _> = serde_json::from_str(&answer.body);
    // Streamed answers have left with status 200 before the lie shows: then the connection must break.
    assert!(
        answer.body.starts_with("cut:") || whole.is_ok_and(|message| message["error"]["code"].is_i64()),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_stream_that_ends_without_an_answer_does_not_leave_the_caller_waiting() {
    let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
    let answer = pair(move || Act::Stream(vec![Step::Send(progress.clone())])).call().await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut_and_memory_stays() {
    let pair = pair(|| Act::Endless("application/json"));
    let before = resident_kib(pair.gateway.pid());
    let (session, _) = Caller::new(&pair.gateway.url("bad")).initialize().await;
    let call = request(42, "tools/call", json!({"name": "echo", "arguments": {}}));
    let mut response = session.open(reqwest::Method::POST, call.to_string().into_bytes()).await;
    let mut bytes = 0;
    // Read until it is cut; a gateway that lets it run is stopped by our own bound.
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(SOON, response.chunk()).await {
        bytes += chunk.len();
        if bytes > 256 << 20 {
            break;
        }
    }
    drop(response);
    let call = pair.bad.wait_for("tools/call", SOON).await;
    pair.bad.wait_for_gone(call.number, SOON).await;
    let after = resident_kib(pair.gateway.pid());
    assert!(after < before + 64 * 1024, "memory went from {before} KiB to {after} KiB");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_503_with_retry_after() {
    // Bound and dropped: nobody listens at that address.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let catalog = json!({"servers": [{"id": "away", "runtime": {"type": "remote-http", "url": format!("http://{address}/mcp")}}]});
    let gateway = Gateway::start(&catalog.to_string());
    let answer = Caller::new(&gateway.url("away")).modern_post(9, "tools/list", json!({})).await;
    assert!([502, 503].contains(&answer.status), "{answer:?}");
    assert_eq!(answer.json()["id"], 9);
    assert!(
        answer.json()["error"]["message"].as_str().unwrap().contains("away"),
        "the error must name the server: {answer:?}"
    );
    assert!(answer.status != 503 || answer.header("retry-after").is_some(), "{answer:?}");
}

#[tokio::test]
async fn a_refused_connection_goes_to_the_next_endpoint() {
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let there = Fake::start(fake::modern);
    let endpoints = json!([{"url": format!("http://{away}/mcp")}, {"url": there.url()}]);
    let catalog = json!({"servers": [{"id": "it", "runtime": {"type": "remote-http", "endpoints": endpoints}, "health": {"type": "off"}}]});
    let gateway = Gateway::start(&catalog.to_string());
    for id in 0..10 {
        let answer = Caller::new(&gateway.url("it"))
            .modern_post(id, "tools/call", json!({"name": "echo", "arguments": {}}))
            .await;
        assert_eq!(answer.result()["content"][0]["text"], "fake");
    }
    assert_eq!(there.seen_rpc("tools/call").len(), 10);
}

/// A server that dies takes all its connections with it. Whoever meets the first of them has met them all.
#[tokio::test]
async fn when_a_connection_breaks_those_as_old_are_not_used_either() {
    const OLD: usize = 10;
    let dead = Arc::new(AtomicUsize::new(0));
    let oldest_alive = Arc::clone(&dead);
    let server = Fake::start(move |seen| match oldest_alive.load(Ordering::SeqCst) {
        _ if seen.rpc() != "tools/call" => fake::modern(seen),
        0 => Act::Stream(vec![Step::Gate, Step::Send(seen.text("all at once"))]),
        oldest if seen.connection < oldest => Act::Close,
        _ => Act::Json(200, seen.text("well")),
    });
    let catalog = json!({"servers": [{"id": "it", "runtime": {"type": "remote-http", "url": server.url()}, "health": {"type": "off"}}]});
    let gateway = Gateway::start(&catalog.to_string());
    let url = gateway.url("it");
    let call = |id: usize| {
        let caller = Caller::new(&url);
        async move { caller.modern_post(id, "tools/call", json!({"name": "echo", "arguments": {}})).await }
    };
    let calls: Vec<_> = (0..OLD).map(|id| tokio::spawn(call(id))).collect();
    while server.seen_rpc("tools/call").len() < OLD {
        tokio::task::yield_now().await;
    }
    (0..OLD).for_each(|_| server.release());
    for call in calls {
        call.await.unwrap().result();
    }
    let newest = server.seen().iter().map(|seen| seen.connection).max().unwrap();
    dead.store(newest + 1, Ordering::SeqCst);
    let mut failed = Vec::new();
    for id in 0..OLD {
        let answer = call(id).await;
        failed.extend(answer.json().get("error").is_some().then_some(id));
    }
    assert_eq!(failed, [0], "only the call that met it may be lost");
}

/// Resident memory of a process.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
