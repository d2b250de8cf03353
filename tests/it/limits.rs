//! Limits over the wire: who is refused at which layer, with which words, and that a refusal costs nobody else.
//! Not here: exactness and bounds of the buckets (`src/limit`).

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Caller, SOON, request};
use crate::fake::{Act, Fake, Step, legacy};
use crate::gateway::Gateway;

const ALICE: &str = "Rq7vB2mX9kT4wZ6n-alice";
const BOB: &str = "Jd5hC8pL3sF1yG0u-bob";
const CAROL: &str = "Xe2nM7wQ4rT9vK5z-carol";

/// Tokens come back within hours: what is taken stays taken as long as a test runs.
fn conf(more: &str) -> String {
    format!(
        "auth:
  keys:
    - {{name: alice, key: {ALICE}, servers: ['*']}}
    - {{name: bob, key: {BOB}, servers: ['*']}}
    - {{name: carol, key: {CAROL}, servers: [other]}}
{more}
drain: 5s
"
    )
}

/// A gateway before a server of which `tools/call` is answered by `call`, with what stands beside its address.
fn before(more: &str, beside: Value, call: fn() -> Act) -> (Gateway, Fake) {
    let fake = Fake::start(move |seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        ("POST", "tools/call") => match call() {
            Act::Json(200, _) => Act::Json(200, seen.text("fake")),
            other => other,
        },
        _ => legacy(seen),
    });
    let mut docs = json!({"id": "docs", "runtime": {"type": "remote-http", "url": fake.url()},
        "health": {"type": "off"}});
    docs.as_object_mut().unwrap().extend(beside.as_object().unwrap().clone());
    let other = json!({"id": "other", "runtime": {"type": "remote-http", "url": fake.url()},
        "health": {"type": "off"}});
    let catalog = json!({"servers": [docs, other]});
    (Gateway::with(&catalog.to_string()).conf(&conf(more)).start(), fake)
}

fn fine() -> Act {
    Act::Json(200, Value::Null)
}

fn caller(gateway: &Gateway, server: &str, key: &str) -> Caller {
    Caller::new(&gateway.url(server)).with("x-api-key", key)
}

async fn call(caller: &Caller, tool: &str) -> Answer {
    caller.post(&request(1, "tools/call", json!({"name": tool, "arguments": {}}))).await
}

/// The tightest bucket, as the answer tells of it.
fn told(answer: &Answer) -> (u32, u32, &str) {
    let number = |name: &str| answer.header(name).unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
    let policy = answer.header("x-ratelimit-policy").unwrap();
    assert!(number("x-ratelimit-reset") > 0 || number("x-ratelimit-remaining") > 0, "{answer:?}");
    (number("x-ratelimit-limit"), number("x-ratelimit-remaining"), policy)
}

#[track_caller]
fn refused(answer: &Answer, layer: &str) {
    assert_eq!(answer.status, 429, "{answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(error["data"]["reason"], "rate_limited", "{answer:?}");
    assert_eq!(error["data"]["layer"], layer, "{answer:?}");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
}

#[tokio::test]
async fn the_callers_bucket_is_told_of_and_refuses_with_a_time() {
    let (gateway, fake) = before("limit: {requests: 60, per: 1h, burst: 2}", json!({}), fine);
    let (alice, bob) = (caller(&gateway, "docs", ALICE), caller(&gateway, "docs", BOB));
    let first = call(&alice, "echo").await;
    assert_eq!((first.status, told(&first)), (200, (2, 1, "60;w=3600;burst=2;name=caller")));
    assert_eq!(told(&call(&alice, "echo").await).1, 0);
    let third = call(&alice, "echo").await;
    refused(&third, "caller");
    assert_eq!(told(&third).1, 0);
    let wait: u64 = third.header("retry-after").unwrap().parse().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
    assert_eq!(call(&bob, "echo").await.status, 200, "another caller has a bucket of its own");
    let stats =
        Caller::new(&gateway.path("/stats")).with("x-api-key", ALICE).send(Method::GET, Vec::new()).await;
    assert_eq!(stats.status, 429, "the control plane draws on the same bucket: {stats:?}");
    assert_eq!(fake.seen_rpc("tools/call").len(), 3);
    gateway.stop();
}

#[tokio::test]
async fn a_refusal_by_one_tool_costs_neither_caller_nor_server() {
    let tools = json!({
        "limit": {"requests": 100, "per": "1h"},
        "tools": {
            "slow": {"limit": {"requests": 1, "per": "1h"}},
            "dear": {"cost": 40},
        }
    });
    let (gateway, _fake) = before("limit: {requests: 100, per: 1h}", tools, fine);
    let alice = caller(&gateway, "docs", ALICE);
    let slow = call(&alice, "slow").await;
    assert_eq!((slow.status, told(&slow)), (200, (1, 0, "1;w=3600;burst=1;name=tool")));
    for _ in 0..20 {
        refused(&call(&alice, "slow").await, "tool");
    }
    let echo = call(&alice, "echo").await;
    assert_eq!((echo.status, told(&echo).1), (200, 98), "two calls went through, and two tokens are gone");
    assert_eq!(told(&call(&alice, "dear").await).1, 58, "a tool may cost more");
    assert_eq!(told(&call(&alice, "dear").await).1, 18);
    refused(&call(&alice, "dear").await, "caller");
    assert_eq!(told(&call(&alice, "echo").await).1, 17, "what was too dear took nothing");
    // The server's bucket is everybody's.
    let bob = caller(&gateway, "docs", BOB);
    assert_eq!(told(&call(&bob, "echo").await), (100, 16, "100;w=3600;burst=100;name=server"));
    refused(&call(&bob, "dear").await, "server");
    let other = call(&caller(&gateway, "other", BOB), "dear").await;
    assert_eq!((other.status, told(&other).1), (200, 98), "prices are those of one server");
    gateway.stop();
}

#[tokio::test]
async fn a_limit_of_each_caller_is_not_shared() {
    let limit = json!({"limit": {"requests": 1, "per": "1h", "each_caller": true}});
    let (gateway, _fake) = before("", limit, fine);
    let (alice, bob) = (caller(&gateway, "docs", ALICE), caller(&gateway, "docs", BOB));
    assert_eq!(call(&alice, "echo").await.status, 200);
    refused(&call(&alice, "echo").await, "server");
    assert_eq!(call(&bob, "echo").await.status, 200);
    refused(&call(&bob, "echo").await, "server");
    gateway.stop();
}

#[tokio::test]
async fn an_address_pays_for_wrong_keys_and_is_then_not_listened_to() {
    let (gateway, _fake) = before("address_limit: {requests: 5, per: 1h}", json!({}), fine);
    let wrong = caller(&gateway, "docs", "wrong-key-0123456789");
    for left in (0..5).rev() {
        let answer = call(&wrong, "echo").await;
        assert_eq!((answer.status, told(&answer).1), (401, left), "{answer:?}");
    }
    refused(&call(&wrong, "echo").await, "address");
    let alice = caller(&gateway, "docs", ALICE);
    refused(&call(&alice, "echo").await, "address");
    let nowhere = Caller::new(&gateway.path("/nowhere")).send(Method::GET, Vec::new()).await;
    assert_eq!((nowhere.status, &nowhere.json()["layer"]), (429, &json!("address")), "{nowhere:?}");
    let health = Caller::new(&gateway.path("/livez")).send(Method::GET, Vec::new()).await;
    assert_eq!(health.status, 200, "orchestrators ask on");
    gateway.stop();
}

#[tokio::test]
async fn only_questions_are_probes_and_they_have_a_bucket_of_their_own() {
    let (gateway, _fake) = before("address_limit: {requests: 2, per: 1h}", json!({}), fine);
    let prober = Caller::new(&gateway.path("/livez"));
    for _ in 0..2 {
        assert_ne!(prober.send(Method::POST, Vec::new()).await.status, 429);
    }
    let limited = |answer: &Answer| answer.status == 429 && answer.json()["layer"] == "address";
    assert!(limited(&prober.send(Method::POST, Vec::new()).await));
    let mut answered = 0;
    while answered < 2000 {
        let answer = prober.send(Method::GET, Vec::new()).await;
        if answer.status != 200 {
            assert!(limited(&answer), "{answer:?}");
            break;
        }
        answered += 1;
    }
    assert!((100..2000).contains(&answered), "{answered}");
    gateway.stop();
}

#[tokio::test]
async fn what_is_not_allowed_costs_the_caller_and_not_the_server() {
    let limit = json!({"limit": {"requests": 2, "per": "1h"}});
    let (gateway, _fake) = before("limit: {requests: 4, per: 1h}", limit, fine);
    let carol = caller(&gateway, "docs", CAROL);
    for left in (0..4).rev() {
        let answer = call(&carol, "echo").await;
        assert_eq!((answer.status, told(&answer).1), (404, left), "{answer:?}");
    }
    refused(&call(&carol, "echo").await, "caller");
    let alice = caller(&gateway, "docs", ALICE);
    assert_eq!(told(&call(&alice, "echo").await).1, 1, "the server's bucket was full");
    // What is no message at all costs a token as well, and is refused before it is read when there is none.
    for _ in 0..3 {
        assert_eq!(alice.send(Method::POST, b"{".to_vec()).await.status, 400);
    }
    refused(&alice.send(Method::POST, b"{".to_vec()).await, "caller");
    gateway.stop();
}

#[tokio::test]
async fn floods_of_one_address_are_refused_before_anything_else() {
    let (gateway, _fake) = before("flood: 20", json!({}), fine);
    let wrong = caller(&gateway, "docs", "wrong-key-0123456789");
    let mut statuses = Vec::new();
    // Windows are a second long: somewhere within so many there are more than twenty.
    for _ in 0..400 {
        let answer = call(&wrong, "echo").await;
        if answer.status == 429 {
            assert_eq!(answer.json()["error"]["data"]["layer"], "flood");
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        statuses.push(answer.status);
    }
    assert!(statuses[..20].iter().all(|status| *status == 401), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    gateway.stop();
}

fn hanging() -> Act {
    Act::Stream(vec![Step::Hang])
}

/// Waits until `try_call` is not refused for want of a place.
async fn when_there_is_a_place(caller: &Caller, tool: &str) -> Answer {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let answer = caller.post(&request(1, "tools/list", json!({}))).await;
        if answer.status != 429 || tokio::time::Instant::now() > deadline {
            return answer;
        }
        assert_eq!(answer.json()["error"]["data"]["reason"], "too_many_in_flight", "{tool}: {answer:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn places_are_held_by_running_calls_and_come_back_when_the_client_leaves() {
    let (gateway, fake) = before("limit: {in_flight: 2}", json!({}), hanging);
    let alice = caller(&gateway, "docs", ALICE);
    let hang = async |id: u64| {
        let (modern, message) = alice.modern(id, "tools/call", json!({"name": "echo", "arguments": {}}));
        modern.post_stream(&message).await
    };
    let (one, two) = (hang(1).await, hang(2).await);
    fake.wait_for("tools/call", SOON).await;
    let third = call(&alice, "echo").await;
    assert_eq!(third.status, 429, "{third:?}");
    let data = &third.json()["error"]["data"];
    assert_eq!((&data["reason"], &data["layer"]), (&json!("too_many_in_flight"), &json!("caller")));
    assert_eq!(third.header("retry-after"), Some("1"));
    let bob = caller(&gateway, "docs", BOB);
    let listed = bob.post(&request(1, "tools/list", json!({}))).await;
    assert_eq!(listed.status, 200, "another caller has places of its own: {listed:?}");
    drop(one);
    assert_eq!(
        when_there_is_a_place(&alice, "echo").await.status,
        200,
        "a client that leaves gives its place back"
    );
    drop(two);
    gateway.stop();
}

#[tokio::test]
async fn tools_have_places_too_and_listening_takes_none() {
    let tools = json!({"tools": {"echo": {"limit": {"in_flight": 1}}}});
    let (gateway, fake) = before("limit: {in_flight: 2}", tools, hanging);
    let alice = caller(&gateway, "docs", ALICE);
    let (session, _) = alice.initialize().await;
    let listening = (session.get_stream().await, session.get_stream().await, session.get_stream().await);
    let (modern, message) = alice.modern(7, "tools/call", json!({"name": "echo", "arguments": {}}));
    let running = modern.post_stream(&message).await;
    fake.wait_for("tools/call", SOON).await;
    let bob = caller(&gateway, "docs", BOB);
    let second = call(&bob, "echo").await;
    assert_eq!(
        (second.status, &second.json()["error"]["data"]["layer"]),
        (429, &json!("tool")),
        "{second:?}"
    );
    let listed = bob.post(&request(1, "tools/list", json!({}))).await;
    assert_eq!(listed.status, 200, "only that tool is busy: {listed:?}");
    drop((running, listening));
    gateway.stop();
}

#[tokio::test]
async fn raw_upstreams_have_limits_as_well() {
    let fake = Fake::start(|_| Act::Json(200, json!({"fine": true})));
    let catalog = json!({"servers": [{"id": "docs", "runtime": {"type": "raw-http", "url": fake.url()},
        "health": {"type": "off"}, "limit": {"requests": 1, "per": "1h"}}]});
    let gateway = Gateway::with(&catalog.to_string()).conf(&conf("")).start();
    let docs = Caller::new(&gateway.path("/servers/docs/raw/x")).with("x-api-key", ALICE);
    let first = docs.send(Method::GET, Vec::new()).await;
    assert_eq!((first.status, told(&first).1), (200, 0), "{first:?}");
    let second = docs.send(Method::GET, Vec::new()).await;
    assert_eq!((second.status, &second.json()["layer"]), (429, &json!("server")), "{second:?}");
    assert_eq!(fake.seen().len(), 1);
    gateway.stop();
}

#[tokio::test]
async fn buckets_outlive_a_changed_catalog_and_a_changed_limit_applies_at_once() {
    let fake = Fake::start(|seen| match seen.rpc().as_str() {
        "tools/call" => Act::Json(200, seen.text("fake")),
        _ => legacy(seen),
    });
    let catalog = |requests: u32, burst: u32| {
        json!({"servers": [{"id": "docs", "runtime": {"type": "remote-http", "url": fake.url()},
            "health": {"type": "off"}, "limit": {"requests": requests, "per": "1h", "burst": burst}}]})
        .to_string()
    };
    let gateway = Gateway::with(&catalog(1, 3)).conf(&conf("")).start();
    let alice = caller(&gateway, "docs", ALICE);
    for _ in 0..3 {
        assert_eq!(call(&alice, "echo").await.status, 200);
    }
    refused(&call(&alice, "echo").await, "server");
    gateway.edit_catalog(&catalog(3600, 3));
    let deadline = tokio::time::Instant::now() + SOON;
    // A token flows in each second now, and the three hours that the old limit left to wait are forgotten.
    while call(&alice, "echo").await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the old limit is still in force");
        tokio::task::yield_now().await;
    }
    gateway.edit_catalog(&catalog(1, 1));
    while told(&call(&alice, "echo").await).2 != "1;w=3600;burst=1;name=server" {
        assert!(tokio::time::Instant::now() < deadline, "the new limit is not in force");
        tokio::task::yield_now().await;
    }
    refused(&call(&alice, "echo").await, "server");
    gateway.stop();
}

/// Whoever listens takes no call's place, and nobody's bodies that never come take others' places.
#[tokio::test]
async fn listeners_and_half_bodies_leave_others_their_places() {
    let more = "limits: {in_flight: 4, streams: 8, streams_per_caller: 2}\nlimit: {in_flight: 2}";
    let fake = Fake::start(|seen| match seen.method.as_str() {
        "GET" => {
            Act::Stream(vec![Step::Send(json!({"jsonrpc": "2.0", "method": "notifications/x"})), Step::Hang])
        }
        _ => legacy(seen),
    });
    let catalog = json!({"servers": [{"id": "docs", "runtime": {"type": "remote-http", "url": fake.url()},
        "health": {"type": "off"}}]});
    let gateway = Gateway::with(&catalog.to_string()).conf(&conf(more)).start();
    let (alice, _) = caller(&gateway, "docs", ALICE).initialize().await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = alice.get_stream().await;
        stream.message().await;
        streams.push(stream);
    }
    let third = alice.clone().with("accept", "text/event-stream").send(Method::GET, Vec::new()).await;
    assert_eq!(
        (third.status, third.json()["error"]["data"]["reason"].as_str()),
        (503, Some("too_many_streams"))
    );
    // She may still call, and so may others.
    assert_eq!(call(&alice, "echo").await.status, 200);
    let mut halves = Vec::new();
    for _ in 0..4 {
        use tokio::io::AsyncWriteExt as _;
        let mut half = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        let head = format!(
            "POST /servers/docs/mcp HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {BOB}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: 100\r\n\r\n{{"
        );
        half.write_all(head.as_bytes()).await.unwrap();
        halves.push(half);
    }
    let since = std::time::Instant::now();
    while call(&caller(&gateway, "docs", BOB), "echo").await.status != 429 {
        assert!(since.elapsed() < SOON, "bob's two places are not taken");
    }
    assert_eq!(call(&alice, "echo").await.status, 200, "bob takes his own places only");
}
