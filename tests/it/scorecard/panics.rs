//! F15: panics of our own, at chosen places: each costs one request, or starts one task again, and is told.
//! Not here: the places (`src/failpoint.rs`), which only a build with debug assertions has.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::Card;
use crate::client::{Answer, Caller, SOON, request};
use crate::gateway::Gateway;
use crate::sim::Sim;

/// How long a task that panicked may be away, and what a busy machine adds.
const AGAIN: Duration = Duration::from_secs(1);

fn catalog(sim: &Sim) -> Value {
    let local = json!({"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]});
    json!({"servers": [
        {"id": "it", "runtime": {"type": "remote-http", "url": sim.url()}, "health": {"type": "off"}},
        {"id": "local", "runtime": local},
    ]})
}

/// A gateway that will panic there, once.
fn gateway(sim: &Sim, failpoint: &str) -> Gateway {
    Gateway::with(&catalog(sim).to_string()).env("FAILPOINTS", failpoint).start()
}

/// How many panics it tells of.
async fn panics(gateway: &Gateway) -> String {
    let text = Caller::new(&gateway.path("/metrics")).send(Method::GET, Vec::new()).await.body;
    let line = text.lines().find(|line| line.starts_with("tollgate_panics_total"));
    line.unwrap_or("no tollgate_panics_total").replace("tollgate_panics_total ", "")
}

async fn call(gateway: &Gateway, server: &str, n: usize) -> Answer {
    let arguments = json!({"name": "echo", "arguments": {"n": n.to_string(), "text": "hello"}});
    Caller::new(&gateway.url(server)).modern_post(n as u64, "tools/call", arguments).await
}

/// Whether an answer says 500 and is complete: JSON, with the request's id, and no word of what went wrong.
fn is_confession(answer: &Answer) -> bool {
    let id = answer.header("x-request-id").is_some_and(|id| !id.is_empty());
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let told = body["error"]["data"]["reason"] == "internal" || body["error"] == "Internal Server Error";
    answer.status == 500 && id && told && !answer.body.contains("test wants")
}

#[tokio::test]
async fn f15_a_panic_in_a_stream_ends_that_stream_and_is_recorded() {
    let sim = Sim::start();
    let mut card = Card::new("F15");
    let gateway = gateway(&sim, "stream=1");
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let stream = session.open(Method::GET, Vec::new()).await;
    let rest = tokio::time::timeout(SOON, stream.bytes()).await;
    card.check("it has no proper end", matches!(rest, Ok(Err(_))), &rest);
    let line = gateway.wait_for_log("its access line", SOON, |line| {
        (line["type"] == "access" && line["verb"] == "GET").then(|| line.clone())
    });
    card.check("it is recorded", line["server"] == "it", &line);
    let count = panics(&gateway).await;
    card.check("it is counted", count == "1", &count);
    let (stream, answer) =
        (session.open(Method::GET, Vec::new()).await.status(), call(&gateway, "it", 1).await);
    card.check("the next one is there", stream == 200 && answer.status == 200, &(stream, answer));
    card.pass("checks: a panic in a stream ends it, with a line in the log and one in the metric");
}

#[tokio::test]
async fn f15_a_panic_costs_one_request() {
    let sim = Sim::start();
    let mut card = Card::new("F15");
    for place in ["filter", "handler"] {
        let gateway = gateway(&sim, &format!("{place}=3"));
        for n in 1..=6 {
            let answer = call(&gateway, "it", n).await;
            let right = if n == 3 { is_confession(&answer) } else { answer.status == 200 };
            card.check(&format!("{place}, call {n}"), right, &answer);
        }
        let line = gateway.wait_for_log("its access line", SOON, |line| {
            (line["type"] == "access" && line["status"] == 500).then(|| line.clone())
        });
        card.check(&format!("{place} is recorded"), line["reason"] == "internal", &line);
        let line = gateway
            .wait_for_log("the panic", SOON, |line| (line["message"] == "panic").then(|| line.clone()));
        let place_is_told = line["place"].as_str().is_some_and(|place| place.starts_with("src/failpoint.rs"));
        card.check(&format!("{place} is told in the log"), place_is_told, &line);
        let count = panics(&gateway).await;
        card.check(&format!("{place} is counted"), count == "1", &count);
    }
    let gateway = gateway(&sim, "control=1");
    for (n, want) in [(1, 500), (2, 200)] {
        let answer = Caller::new(&gateway.path("/health")).send(Method::GET, Vec::new()).await;
        let right = if want == 500 { is_confession(&answer) } else { answer.status == want };
        card.check(&format!("control, request {n}"), right, &answer);
    }
    card.pass("requests: a panic is one 500 with its id, a line in the log and one in the metric");
}

#[tokio::test]
async fn f15_a_panic_under_a_lock_leaves_the_lock() {
    let sim = Sim::start();
    let gateway = gateway(&sim, "lock=1");
    let mut card = Card::new("F15");
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    let answer = Caller::new(&gateway.url("it")).post(&request(0, "initialize", hello)).await;
    card.check("the request", is_confession(&answer), &answer);
    // More sessions than there are locks, so that each is taken.
    for n in 0..100 {
        let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
        let answer = session.post(&request(1, "ping", json!({}))).await;
        card.check(&format!("session {n}"), answer.status == 200, &answer);
    }
    // These look into all of them.
    let count = panics(&gateway).await;
    card.check("counted", count == "1", &count);
    card.pass("sessions: a lock that was held at a panic is free");
}

#[tokio::test]
async fn f15_a_panic_of_a_background_task_starts_it_again() {
    let sim = Sim::start();
    let gateway = gateway(&sim, "watch=1");
    let mut card = Card::new("F15");
    let mut catalog = catalog(&sim);
    catalog["servers"][1] =
        json!({"id": "new", "runtime": {"type": "remote-http", "url": sim.url()}, "health": {"type": "off"}});
    gateway.edit_catalog(&catalog.to_string());
    gateway.wait_for_log("the panic", SOON, |line| (line["message"] == "panic").then_some(()));
    let panicked = Instant::now();
    let mut answer = call(&gateway, "new", 1).await;
    while answer.status != 200 && panicked.elapsed() < SOON {
        answer = call(&gateway, "new", 1).await;
    }
    let took = panicked.elapsed();
    card.check("the edit is taken", answer.status == 200 && took < AGAIN + AGAIN, &(took, answer));
    gateway.wait_for_log("the restart", SOON, |line| (line["task"] == "catalog").then_some(()));
    let count = panics(&gateway).await;
    card.check("counted", count == "1", &count);
    card.pass(&format!("checks: the catalog's watch goes on {} ms after its panic", took.as_millis()));
}

#[tokio::test]
async fn f15_a_panic_at_a_childs_output_ends_that_child_and_no_more() {
    let sim = Sim::start();
    let gateway = gateway(&sim, "reader=2");
    let mut card = Card::new("F15");
    let mut failed = 0;
    for n in 1..=5 {
        let asked = Instant::now();
        let answer = call(&gateway, "local", n).await;
        let error = answer.json()["error"]["data"]["reason"].as_str().map(str::to_owned);
        failed += usize::from(error.is_some());
        let told = answer.status == 200 && error.as_deref().is_none_or(|reason| reason == "internal");
        card.check(&format!("call {n}"), told && asked.elapsed() < SOON / 2, &(asked.elapsed(), answer));
        let other = call(&gateway, "it", n).await;
        card.check(&format!("another server, call {n}"), other.status == 200, &other);
    }
    let count = panics(&gateway).await;
    card.check("one call failed", failed == 1 && count == "1", &(failed, count));
    card.pass(
        "calls: a child whose reader panics is ended, its caller is told, the next call starts another",
    );
}
