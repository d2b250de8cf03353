//! What the conformance suite cannot see in a proxy: GET streams, disconnects, 202, resumption, server requests.
//! Not here: what the suite does see (`conformance`), upstreams that lie (`upstream`).

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Caller, SOON, notification, request};
use crate::fake::{self, Act, Fake, Seen, Step};
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::packages::Server;

/// How soon an upstream must learn that a modern client is gone.
const CANCEL: Duration = Duration::from_secs(1);

fn before(url: &str) -> Gateway {
    Gateway::start(
        &json!({"servers": [{"id": "it", "runtime": {"type": "remote-http", "url": url}}]}).to_string(),
    )
}

/// An honest legacy server, except for what `special` scripts.
fn legacy_but(special: impl Fn(&Seen) -> Option<Act> + Send + Sync + 'static) -> Fake {
    Fake::start(move |seen| special(seen).unwrap_or_else(|| fake::legacy(seen)))
}

fn modern_but(special: impl Fn(&Seen) -> Option<Act> + Send + Sync + 'static) -> Fake {
    Fake::start(move |seen| special(seen).unwrap_or_else(|| fake::modern(seen)))
}

#[tokio::test]
async fn get_stream_delivers_what_the_official_server_announces() {
    let fixture = Server::fixture();
    let gateway = before(&fixture.url);
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let mut stream = session.get_stream().await;
    let call = request(1, "tools/call", json!({"name": "test_trigger_tool_change", "arguments": {}}));
    assert_eq!(session.post(&call).await.result()["content"][0]["text"], "Announced");
    assert_eq!(stream.message().await["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn get_stream_is_not_buffered_and_keeps_ids_and_retry() {
    let fake = legacy_but(|seen| {
        (seen.method == "GET").then(|| {
            Act::Stream(vec![
                Step::Lines("id: a:1\nretry: 700\ndata:".into()),
                Step::Gate,
                Step::Lines("id: a:2\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}".into()),
                Step::Hang,
            ])
        })
    });
    let gateway = before(&fake.url());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let mut stream = session.get_stream().await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.id.as_deref(), first.retry.as_deref()), (Some("a:1"), Some("700")));
    fake.release();
    let second = stream.next().await.unwrap();
    assert_eq!(second.id.as_deref(), Some("a:2"));
    assert_eq!(second.json()["method"], "notifications/tools/list_changed");
    drop(stream);
    let get = fake.wait_for("GET", SOON).await;
    fake.wait_for_gone(get.number, SOON).await;
}

/// Held open to listen, a stream goes on without the rest of its request; a stream that answers does not.
#[tokio::test]
async fn a_stream_that_is_held_open_is_recorded_once_when_it_ends_and_its_connection_with_it() {
    let fake = legacy_but(|seen| {
        let news = || Step::Send(json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
        (seen.method == "GET").then(|| Act::Stream(vec![news(), Step::Gate, news()]))
    });
    let gateway = before(&fake.url());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let lines = |of: &str| gateway.log().lines().filter(|line| line.contains(of)).count();
    let of_stream = r#""verb":"GET""#;
    let answer = session.open(reqwest::Method::GET, Vec::new()).await;
    assert_eq!(answer.headers()["connection"], "close", "nothing comes after it");
    // Its request is over for Pingora long before this call is answered.
    session.post(&request(1, "tools/call", json!({"name": "echo", "arguments": {}}))).await.result();
    assert_eq!(lines(of_stream), 0);
    fake.release();
    let said = tokio::time::timeout(SOON, answer.text()).await.unwrap().unwrap();
    assert_eq!(said.matches("list_changed").count(), 2, "{said}");
    let is_its = |line: &serde_json::Value| (line["verb"] == "GET").then(|| line["outcome"].clone());
    assert_eq!(gateway.wait_for_log("the stream's line", SOON, is_its), "ok");
    // Whatever else would be written of it is there before the end of another call.
    session.post(&request(2, "tools/call", json!({"name": "echo", "arguments": {}}))).await.result();
    assert_eq!(lines(of_stream), 1);
}

/// What a stream costs at most in a build that is not optimised; `make soak` holds an optimised one to 45 KiB.
const STREAM_KIB_MAX: u64 = 100;

#[tokio::test]
async fn hundreds_of_silent_streams_take_little_memory_and_give_it_back() {
    const STREAMS: u64 = 300;
    let fake = legacy_but(|seen| {
        let news = Step::Send(json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
        (seen.method == "GET").then_some(Act::Stream(vec![news, Step::Hang]))
    });
    let gateway = before(&fake.url());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let meter = Meter(gateway.pid());
    let open = async |count: u64| {
        let mut open = Vec::new();
        for _ in 0..count {
            let mut stream = session.get_stream().await;
            stream.message().await;
            open.push(stream);
        }
        open
    };
    // The first few fill what all of them use.
    drop(open(10).await);
    let before = meter.resident_kib();
    let streams = open(STREAMS).await;
    let during = meter.resident_kib();
    assert!(during - before < STREAMS * STREAM_KIB_MAX, "{before} to {during} KiB");
    drop(streams);
    let back = before + (during - before) / 4;
    let until = Instant::now() + SOON * 3;
    while meter.resident_kib() > back && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = meter.resident_kib();
    assert!(after <= back, "{before} to {during}, and then {after} KiB");
}

#[tokio::test]
async fn last_event_id_reaches_the_upstream() {
    let fake = legacy_but(|seen| {
        let answer = json!({"jsonrpc": "2.0", "id": 7, "result": {}});
        (seen.method == "GET").then(|| Act::Stream(vec![Step::Send(answer)]))
    });
    let gateway = before(&fake.url());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let mut stream = session.with("last-event-id", "a:2").get_stream().await;
    assert_eq!(stream.message().await["id"], 7);
    assert_eq!(fake.wait_for("GET", SOON).await.headers["last-event-id"], "a:2");
}

#[tokio::test]
async fn an_official_server_that_closes_its_stream_is_resumed() {
    let fixture = Server::fixture();
    let gateway = before(&fixture.url);
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let call = request(5, "tools/call", json!({"name": "test_reconnection", "arguments": {}}));
    let mut stream = session.post_stream(&call).await;
    let mut last = None;
    while let Some(event) = stream.next().await {
        last = event.id.or(last);
        assert!(!event.data.contains("result"), "the stream was to close before the answer");
    }
    let last = last.expect("a priming event with an id");
    let answer = session.with("last-event-id", &last).get_stream().await.message().await;
    assert_eq!(
        (&answer["id"], &answer["result"]["content"][0]["text"]),
        (&json!(5), &json!("Answered after the stream was closed"))
    );
}

#[tokio::test]
async fn modern_disconnect_before_the_answer_reaches_the_upstream_within_a_second() {
    let fake = modern_but(|seen| (seen.rpc() == "tools/call").then_some(Act::Hang));
    let gateway = before(&fake.url());
    let (caller, body) =
        Caller::new(&gateway.url("it")).modern(1, "tools/call", json!({"name": "echo", "arguments": {}}));
    let call = tokio::spawn(async move { caller.post(&body).await });
    let seen = fake.wait_for("tools/call", SOON).await;
    let left = Instant::now();
    call.abort();
    let gone = fake.wait_for_gone(seen.number, CANCEL).await;
    assert!(gone.duration_since(left) < CANCEL);
}

#[tokio::test]
async fn modern_disconnect_in_a_stream_reaches_the_upstream_within_a_second() {
    let fake = modern_but(|seen| {
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
        (seen.rpc() == "tools/call").then(|| Act::Stream(vec![Step::Send(progress), Step::Hang]))
    });
    let gateway = before(&fake.url());
    let (caller, body) =
        Caller::new(&gateway.url("it")).modern(1, "tools/call", json!({"name": "echo", "arguments": {}}));
    let mut stream = caller.post_stream(&body).await;
    assert_eq!(stream.message().await["method"], "notifications/progress");
    drop(stream);
    let seen = fake.wait_for("tools/call", SOON).await;
    fake.wait_for_gone(seen.number, CANCEL).await;
}

#[tokio::test]
async fn legacy_disconnect_is_not_a_cancel() {
    let fake = legacy_but(|seen| {
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
        (seen.rpc() == "tools/call")
            .then(|| Act::Stream(vec![Step::Send(progress), Step::Gate, Step::Send(seen.text("late"))]))
    });
    let gateway = before(&fake.url());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let mut stream =
        session.post_stream(&request(1, "tools/call", json!({"name": "echo", "arguments": {}}))).await;
    assert_eq!(stream.message().await["method"], "notifications/progress");
    drop(stream);
    // Well past the moment at which a modern client's disconnect would have been passed on.
    let passed = Instant::now();
    while passed.elapsed() < CANCEL + CANCEL / 2 {
        assert_eq!(session.post(&request(2, "ping", json!({}))).await.result(), json!({}));
    }
    assert_eq!(fake.seen_rpc("notifications/cancelled").len(), 0, "a disconnect was passed on as a cancel");
    // A cancel that the client does send goes through as it is.
    let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "reason": "enough"}});
    assert_eq!(session.post(&cancelled).await.status, 202);
    assert_eq!(fake.wait_for("notifications/cancelled", SOON).await.json(), cancelled);
    fake.release();
}

#[tokio::test]
async fn an_accepted_notification_stays_202_without_a_body() {
    let fake = Fake::start(fake::legacy);
    let gateway = before(&fake.url());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let answer = session.post(&notification("notifications/roots/list_changed")).await;
    assert_eq!((answer.status, answer.body.as_str()), (202, ""), "{answer:?}");
    fake.wait_for("notifications/roots/list_changed", SOON).await;
}

#[tokio::test]
async fn a_server_request_and_the_clients_answer_pass() {
    let fake = legacy_but(|seen| {
        let ask = json!({"jsonrpc": "2.0", "id": "ask-1", "method": "roots/list"});
        (seen.rpc() == "tools/call").then(|| {
            Act::Stream(vec![
                Step::Send(ask),
                Step::Answer(json!("ask-1")),
                Step::Send(seen.text("answered")),
            ])
        })
    });
    let gateway = before(&fake.url());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let mut stream =
        session.post_stream(&request(1, "tools/call", json!({"name": "echo", "arguments": {}}))).await;
    let asked = stream.message().await;
    assert_eq!(asked["method"], "roots/list");
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": []}});
    assert_eq!(session.post(&answer).await.status, 202);
    assert_eq!(stream.message().await["result"]["content"][0]["text"], "answered");
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_stream_is_not_buffered() {
    let fake = modern_but(|seen| {
        let tick = |n: u32| {
            Step::Send(
                json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": n}}),
            )
        };
        (seen.rpc() == "tools/call").then(|| {
            Act::Stream(vec![tick(1), Step::Gate, tick(2), Step::Gate, Step::Send(seen.text("end"))])
        })
    });
    let gateway = before(&fake.url());
    let (caller, body) =
        Caller::new(&gateway.url("it")).modern(1, "tools/call", json!({"name": "echo", "arguments": {}}));
    let mut stream = caller.post_stream(&body).await;
    for tick in [1, 2] {
        // The upstream waits for the gate, so this event can only come if nobody waits for the rest.
        assert_eq!(stream.message().await["params"]["progress"], tick);
        fake.release();
    }
    assert_eq!(stream.message().await["result"]["content"][0]["text"], "end");
}

#[tokio::test]
async fn delete_ends_the_session_upstream() {
    let fixture = Server::fixture();
    let gateway = before(&fixture.url);
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let ended = session.send(reqwest::Method::DELETE, Vec::new()).await;
    assert!((200..300).contains(&ended.status), "{ended:?}");
    assert_eq!(session.post(&request(1, "tools/list", json!({}))).await.status, 404);
}

/// A stream's text until it has `wanted`, and whether it goes on.
async fn read_until(response: &mut reqwest::Response, wanted: &str) -> (String, bool) {
    let mut text = String::new();
    while !text.contains(wanted) {
        match tokio::time::timeout(SOON, response.chunk()).await.expect("it says nothing") {
            Ok(Some(piece)) => text.push_str(&String::from_utf8_lossy(&piece)),
            Ok(None) | Err(_) => return (text, false),
        }
    }
    (text, true)
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_and_yet_given_up_when_its_server_is_silent_for_too_long() {
    let fake = legacy_but(|seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        ("GET", _) => Some(Act::Stream(vec![Step::Hang])),
        (_, "tools/call") => Some(Act::Stream(vec![
            // The id of an event whose data comes later: nothing may come between that makes two events of it.
            Step::Raw("id: 7\n".into()),
            Step::Gate,
            Step::Send(seen.text("late")),
            Step::Hang,
        ])),
        _ => None,
    });
    let remote = json!({"type": "remote-http", "url": fake.url()});
    let server =
        json!({"id": "it", "runtime": remote, "health": {"type": "off"}, "timeouts": {"idle": "3s"}});
    let conf = "drain: 5s\nlimits: {comment_every: 300ms}\n";
    let gateway = Gateway::with(&json!({"servers": [server]}).to_string()).conf(conf).start();
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let mut listening = session.open(reqwest::Method::GET, Vec::new()).await;
    assert!(read_until(&mut listening, ": \n: \n: \n").await.1);
    let call = request(1, "tools/call", json!({"name": "echo", "arguments": {}})).to_string();
    let mut answer = session.open(reqwest::Method::POST, call.clone().into_bytes()).await;
    let (before, _) = read_until(&mut answer, ": \n: \n").await;
    fake.release();
    let (after, _) = read_until(&mut answer, "late").await;
    let text = before + &after;
    let events: Vec<&str> = text.split("\n\n").filter(|event| event.contains("late")).collect();
    assert!(events[0].contains("id: 7\n"), "the id and its data are one event: {text:?}");
    // Comments of ours are no sign of the server's life.
    let mut answer = session.open(reqwest::Method::POST, call.into_bytes()).await;
    let (text, _) = read_until(&mut answer, "never said").await;
    assert!(text.matches(": \n").count() >= 3, "{text:?}");
}
