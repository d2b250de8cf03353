//! What one caller, one server or the whole process may have at once: others go on, and it is given back.
//! Not here: limits that callers are given (`limits`), descriptors (`scorecard`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::{Answer, Caller, LEGACY, SOON, request};
use crate::fake::{self, Act, Fake, Step};
use crate::gateway::Gateway;
use crate::meter::Meter;

const ALICE: &str = "Yq3hT7wPz0KdLm2N";
const BOB: &str = "Rb8vXc5nQj1FsGt4";

/// A server that answers no call and lets streams stay open.
fn hanging() -> Fake {
    Fake::start(|seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        (_, "tools/call") => Act::Hang,
        ("GET", _) => Act::Stream(vec![Step::Lines(": open".into()), Step::Hang]),
        _ => fake::legacy(seen),
    })
}

fn behind(fakes: &[(&str, &Fake)], limits: &str) -> Gateway {
    let servers: Vec<Value> = fakes
        .iter()
        .map(|(id, fake)| json!({"id": id, "runtime": {"type": "remote-http", "url": fake.url()}}))
        .collect();
    let key = |name, key| json!({"name": name, "key": key, "servers": ["*"]});
    let keys = json!([key("alice", ALICE), key("bob", BOB)]);
    let conf = format!("drain: 200ms\nauth: {{keys: {keys}}}\nlimits: {limits}\n");
    Gateway::with(&json!({ "servers": servers }).to_string()).conf(&conf).start()
}

fn caller(gateway: &Gateway, server: &str, key: &str) -> Caller {
    Caller::new(&gateway.url(server)).with("authorization", &format!("Bearer {key}"))
}

fn call(bytes: usize) -> Value {
    request(1, "tools/call", json!({"name": "echo", "arguments": {"text": "x".repeat(bytes)}}))
}

fn held(caller: &Caller, bytes: usize) -> JoinHandle<reqwest::Result<String>> {
    let caller = caller.clone();
    tokio::spawn(async move { caller.try_post(call(bytes).to_string()).await })
}

/// Waits until that many calls have come to a server.
async fn arrived(fake: &Fake, wanted: usize) {
    let deadline = Instant::now() + SOON;
    while fake.seen_rpc("tools/call").len() < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted} calls came", fake.seen_rpc("tools/call").len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[track_caller]
fn refused_by(answer: &Answer, bound: &str) {
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, answer.header("retry-after"), error["data"]["bound"].as_str()),
        (503, Some("1"), Some(bound)),
        "{answer:?}"
    );
    assert!(error["code"].is_i64() && error["data"]["reason"].is_string(), "{answer:?}");
}

/// Waits until a call is answered again.
async fn until_answered(what: &str, caller: &Caller, message: &Value) {
    let deadline = Instant::now() + SOON;
    loop {
        let answer = caller.post(message).await;
        if answer.status == 200 {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn calls_of_one_caller_and_to_one_server_leave_places_for_others() {
    let (stuck, other) = (hanging(), Fake::start(fake::legacy));
    let limits = "{in_flight: 50, in_flight_per_caller: 4, in_flight_per_server: 6}";
    let gateway = behind(&[("stuck", &stuck), ("other", &other)], limits);
    let (alice, bob) = (caller(&gateway, "stuck", ALICE), caller(&gateway, "stuck", BOB));
    let mut calls: Vec<_> = (0..4).map(|_| held(&alice, 1)).collect();
    arrived(&stuck, 4).await;
    refused_by(&alice.post(&call(1)).await, "in_flight_per_caller");
    // Whatever the caller asks for: it has what it has.
    refused_by(&caller(&gateway, "other", ALICE).post(&call(1)).await, "in_flight_per_caller");
    calls.extend((0..2).map(|_| held(&bob, 1)));
    arrived(&stuck, 6).await;
    refused_by(&bob.post(&call(1)).await, "in_flight_per_server");
    caller(&gateway, "other", BOB).post(&call(1)).await.result();
    let metrics = Caller::new(&gateway.path("/metrics")).with("authorization", &format!("Bearer {BOB}"));
    let text = metrics.send(reqwest::Method::GET, Vec::new()).await.body;
    for line in [
        r#"tollgate_rate_limited_total{scope="in_flight_per_caller"} 2"#,
        r#"tollgate_rate_limited_total{scope="in_flight_per_server"} 1"#,
        r#"tollgate_bound_limit{bound="in_flight"} 50"#,
        r#"tollgate_bound_used{bound="in_flight"} "#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    drop(stuck);
    for call in calls {
        drop(call.await);
    }
    until_answered("given back", &caller(&gateway, "other", ALICE), &call(1)).await;
}

#[tokio::test]
async fn streams_of_one_server_leave_places_for_those_of_others() {
    let (busy, other) = (hanging(), hanging());
    let gateway = behind(&[("busy", &busy), ("other", &other)], "{streams_per_server: 2}");
    let (session, _) = caller(&gateway, "busy", ALICE).initialize().await;
    let (elsewhere, _) = caller(&gateway, "other", ALICE).initialize().await;
    let open = [session.get_stream().await, session.get_stream().await];
    refused_by(&session.send(reqwest::Method::GET, Vec::new()).await, "streams_per_server");
    let _another = elsewhere.get_stream().await;
    drop(open);
    let deadline = Instant::now() + SOON;
    while session.open(reqwest::Method::GET, Vec::new()).await.status() != 200 {
        assert!(Instant::now() < deadline, "the places of streams are not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn sessions_are_bounded_for_each_and_in_all() {
    let (one, two) = (hanging(), hanging());
    let limits = "{sessions: 5, sessions_per_caller: 3, sessions_per_server: 4}";
    let gateway = behind(&[("one", &one), ("two", &two)], limits);
    let params =
        json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    let begin = request(0, "initialize", params);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(caller(&gateway, "one", ALICE).initialize().await.0);
    }
    refused_by(&caller(&gateway, "one", ALICE).post(&begin).await, "sessions_per_caller");
    sessions.push(caller(&gateway, "one", BOB).initialize().await.0);
    refused_by(&caller(&gateway, "one", BOB).post(&begin).await, "sessions_per_server");
    sessions.push(caller(&gateway, "two", BOB).initialize().await.0);
    refused_by(&caller(&gateway, "two", BOB).post(&begin).await, "sessions");
    // Those that are there are used as before, and none of them was given up for another.
    for session in &sessions {
        assert_eq!(session.post(&request(1, "ping", json!({}))).await.result(), json!({}));
    }
    assert_eq!(sessions[0].send(reqwest::Method::DELETE, Vec::new()).await.status, 200);
    caller(&gateway, "one", ALICE).post(&begin).await.result();
}

#[tokio::test]
async fn bodies_that_are_held_are_weighed() {
    let (stuck, other) = (hanging(), Fake::start(fake::legacy));
    let limits = "{request_bytes: 1MiB, request_bytes_per_caller: 600KiB, request_bytes_per_server: 800KiB}";
    let gateway = behind(&[("stuck", &stuck), ("other", &other)], limits);
    let (alice, bob) = (caller(&gateway, "stuck", ALICE), caller(&gateway, "stuck", BOB));
    let heavy = 250 * 1024;
    let mut calls = vec![held(&alice, heavy), held(&alice, heavy)];
    arrived(&stuck, 2).await;
    refused_by(&caller(&gateway, "other", ALICE).post(&call(heavy)).await, "request_bytes_per_caller");
    calls.push(held(&bob, heavy));
    arrived(&stuck, 3).await;
    refused_by(&bob.post(&call(heavy)).await, "request_bytes_per_server");
    // Light ones pass, and heavy ones of others elsewhere.
    caller(&gateway, "other", ALICE).post(&call(1000)).await.result();
    caller(&gateway, "other", BOB).post(&call(heavy)).await.result();
    refused_by(&caller(&gateway, "other", BOB).post(&call(2 * heavy)).await, "request_bytes");
    drop(stuck);
    for call in calls {
        drop(call.await);
    }
    until_answered("given back", &caller(&gateway, "other", ALICE), &call(2 * heavy)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_memory_sheds_calls_before_it_swaps() {
    let (stuck, other) = (hanging(), Fake::start(fake::legacy));
    let probe = behind(&[("stuck", &stuck)], "{}");
    let idle_kib = Meter(probe.pid()).resident_kib();
    probe.stop();
    let ceiling_mib = idle_kib / 1024 + 60;
    let limits = format!(
        "{{memory: {ceiling_mib}MiB, request_bytes: 1GiB, request_bytes_per_caller: 1GiB, request_bytes_per_server: 1GiB}}"
    );
    let gateway = behind(&[("stuck", &stuck), ("other", &other)], &limits);
    let (bob, ping) = (caller(&gateway, "other", BOB), request(3, "ping", json!({})));
    bob.post(&ping).await.result();
    let alice = caller(&gateway, "stuck", ALICE);
    let mut calls = Vec::new();
    let shed = loop {
        calls.push(held(&alice, 2 * 1024 * 1024));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let answer = bob.post(&ping).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(calls.len() < 200, "400 MiB are held: {} KiB resident", Meter(gateway.pid()).resident_kib());
    };
    refused_by(&shed, "memory");
    // Orchestrators are answered on what is open; the log says why.
    assert!(
        gateway.log().contains("memory is nearly used up") || gateway.log().contains("memory is used up")
    );
    for call in calls {
        call.abort();
    }
    drop(stuck);
    until_answered("memory is given back", &bob, &ping).await;
    gateway.stop();
}
