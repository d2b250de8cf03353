//! F02: a gateway that is told to end while it has calls and streams open.
//! Not here: a gateway that is replaced by a new binary (`replacing`), what children notice (`stdio`).

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Card;
use crate::client::{Answer, Caller, SOON, request};
use crate::fake::{self, Act, Fake, Seen, Step};
use crate::gateway::Gateway;

const CALLS: u64 = 200;
const STREAMS: usize = 100;
/// The drain time of these gateways; longer than any call.
const DRAIN: Duration = Duration::from_secs(10);

/// A server that answers streams of both eras and lets them stay open; calls are never answered.
fn listening(seen: &Seen) -> Act {
    let tick =
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}});
    match (seen.method.as_str(), seen.rpc().as_str()) {
        ("GET", _) | (_, "subscriptions/listen") => Act::Stream(vec![Step::Send(tick), Step::Hang]),
        (_, "tools/call") => Act::Hang,
        _ => fake::legacy(seen),
    }
}

fn catalog(fake: &Fake) -> String {
    let sample = json!({"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]});
    let remote = json!({"type": "remote-http", "url": fake.url()});
    json!({"servers": [{"id": "slow", "runtime": sample}, {"id": "fake", "runtime": remote}]}).to_string()
}

fn slow(id: u64, milliseconds: u64) -> Value {
    request(id, "tools/call", json!({"name": "slow", "arguments": {"milliseconds": milliseconds}}))
}

/// Waits until that many requests are in flight.
async fn in_flight(gateway: &Gateway, wanted: usize) {
    let (caller, deadline) = (Caller::new(&gateway.path("/metrics")), Instant::now() + SOON);
    loop {
        let text = caller.send(reqwest::Method::GET, Vec::new()).await.body;
        let line = text.lines().find(|line| line.starts_with("tollgate_requests_in_flight "));
        let now = line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).unwrap_or_default();
        // The question is one itself.
        if now > wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{now} of {wanted} in flight");
    }
}

/// Calls that take from half a second to two and a half.
async fn begin_calls(gateway: &Gateway) -> JoinSet<(Answer, Instant)> {
    let (session, _) = Caller::new(&gateway.url("slow")).initialize().await;
    let mut calls = JoinSet::new();
    for id in 0..CALLS {
        let session = session.clone();
        calls.spawn(async move { (session.post(&slow(id, 500 + id * 10)).await, Instant::now()) });
    }
    calls
}

/// Reads a stream to its end: what came last, and whether the end was proper.
async fn to_the_end(mut stream: reqwest::Response) -> (String, bool, Instant) {
    let mut text = String::new();
    loop {
        match stream.chunk().await {
            Ok(Some(piece)) => text.push_str(&String::from_utf8_lossy(&piece)),
            Ok(None) => return (text, true, Instant::now()),
            Err(_) => return (text, false, Instant::now()),
        }
    }
}

async fn begin_streams(gateway: &Gateway) -> JoinSet<(String, bool, Instant)> {
    let (session, _) = Caller::new(&gateway.url("fake")).initialize().await;
    let listen = json!({"notifications": {"toolsListChanged": true}});
    let (modern, message) = Caller::new(&gateway.url("fake")).modern(1, "subscriptions/listen", listen);
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        streams.spawn(to_the_end(session.open(reqwest::Method::GET, Vec::new()).await));
        let body = message.to_string().into_bytes();
        streams.spawn(to_the_end(modern.open(reqwest::Method::POST, body).await));
    }
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_sigterm_lets_calls_finish_and_ends_streams() {
    let mut card = Card::new("F02");
    let fake = Fake::start(listening);
    let mut gateway = Gateway::with(&catalog(&fake))
        .conf(&format!("drain: {}s\ndrain_delay: 1s\n", DRAIN.as_secs()))
        .start();
    let streams = begin_streams(&gateway).await;
    let (session, _) = Caller::new(&gateway.url("fake")).initialize().await;
    let calls = begin_calls(&gateway).await;
    in_flight(&gateway, usize::try_from(CALLS).unwrap() + 2 * STREAMS).await;

    let told = Instant::now();
    gateway.signal(Signal::SIGTERM);
    let ready = Caller::new(&gateway.path("/readyz"));
    let mut answer = ready.send(reqwest::Method::GET, Vec::new()).await;
    while answer.status == 200 && told.elapsed() < Duration::from_millis(900) {
        answer = ready.send(reqwest::Method::GET, Vec::new()).await;
    }
    card.check("readyz fails first", answer.status == 503 && answer.body == "draining", &answer);
    // The one above may have come before the signal and been answered after it.
    let answer = ready.send(reqwest::Method::GET, Vec::new()).await;
    card.check("and asks to go", answer.header("connection") == Some("close"), &answer);
    let params = json!({"protocolVersion": crate::client::LEGACY, "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    let refused = Caller::new(&gateway.url("fake")).post(&request(7, "initialize", params)).await;
    let reason = refused.json()["error"]["data"]["reason"].clone();
    card.check(
        "no new session",
        refused.status == 503 && refused.header("retry-after") == Some("1") && reason == "leaving",
        &refused,
    );
    let known = session.post(&request(8, "ping", json!({}))).await;
    let served = known.status == 200 && known.header("connection") == Some("close");
    card.check("a known session is served meanwhile", served, &known);

    let ended = streams.join_all().await;
    let streams_over = ended.iter().map(|(_, _, at)| *at).max().unwrap();
    for (text, proper, _) in &ended {
        card.check("a stream ends properly", *proper && text.contains("notifications/message"), text);
    }
    let told_when = ended.iter().filter(|(text, ..)| text.ends_with("retry: 1000\n\n")).count();
    card.check("listeners of the legacy era are told when to come back", told_when == STREAMS, &told_when);
    let answers = calls.join_all().await;
    let last = answers.iter().map(|(_, at)| *at).max().unwrap();
    for (answer, _) in &answers {
        let whole = answer.status == 200 && answer.json().get("result").is_some();
        card.check("a call finishes", whole, answer);
    }
    card.check("streams do not wait for calls", streams_over < last, &told.elapsed());
    let status = gateway.exit(DRAIN);
    let after = last.elapsed();
    card.check("it ends well", status.success(), &status);
    card.check("soon after the last", after < Duration::from_secs(3), &after);
    card.pass(&format!("exit {} ms after the last of {CALLS} calls", after.as_millis()));
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_it_ends_in_time_with_nothing_and_with_too_much_to_do() {
    let mut card = Card::new("F02");
    let fake = Fake::start(listening);
    let mut idle = Gateway::with(&catalog(&fake)).conf("drain: 10s\n").start();
    let kept = Caller::new(&idle.url("slow"));
    kept.post(&slow(1, 1)).await;
    let told = Instant::now();
    idle.signal(Signal::SIGTERM);
    let status = idle.exit(DRAIN);
    let took = told.elapsed();
    card.check("an idle one", status.success() && took < Duration::from_secs(4), &took);

    // The control: without time to drain, what is in flight is cut.
    let mut busy = Gateway::with(&catalog(&fake)).conf("drain: 300ms\n").start();
    let (session, _) = Caller::new(&busy.url("slow")).initialize().await;
    let call = tokio::spawn(async move { session.post(&slow(2, 60_000)).await });
    in_flight(&busy, 1).await;
    let told = Instant::now();
    busy.signal(Signal::SIGTERM);
    let status = busy.exit(DRAIN);
    let overdue = told.elapsed();
    // Nobody answers it: the connection ends, or its stream does without a response.
    let answered = call.await.is_ok_and(|answer| answer.body.contains("\"result\""));
    card.check("a call without end is cut", !answered, &answered);
    card.check("in time", status.success() && overdue < Duration::from_millis(5_300), &overdue);
    card.pass(&format!(
        "idle exit {} ms, with a call without end {} ms",
        took.as_millis(),
        overdue.as_millis()
    ));
}
