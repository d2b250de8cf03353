//! F11: a server is down, and everybody goes on calling it: it is not stormed, nothing piles up, each is told at once.
//! Not here: one of several endpoints that fails (`load`), when a breaker opens and closes (`upstream`).

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Card, as_much_as};
use crate::client::Caller;
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::sim::{Door, Manner, Sim};

/// Callers at once; each calls again as soon as it was told.
const CALLERS: usize = 8;
/// How long the server is down in each way, in seconds.
const DOWN: [u64; 2] = [3, 60];
/// Attempts for each call that was offered, retries included.
const ATTEMPTS_MAX: f64 = 1.2;
/// What a call may take that is refused because the server is known to be down; the machine may be busy.
const AT_ONCE: Duration = Duration::from_millis(500);
/// What waits for a server that is down takes memory: this much is none.
const MEMORY_KIB_MAX: u64 = 24 * 1024;

/// What callers were told.
#[derive(Default)]
struct Told {
    offered: usize,
    wrong: Vec<String>,
    /// How long those took that were told that the circuit is open.
    open: Vec<Duration>,
    all: Vec<Duration>,
}

async fn caller(url: String, number: usize, until: Instant) -> Told {
    let caller = Caller::new(&url);
    let mut told = Told::default();
    while Instant::now() < until {
        // Half of it may be repeated, half may not.
        let (method, params) = match told.offered % 2 {
            0 => (
                "tools/call",
                json!({"name": "echo", "arguments": {"n": format!("{number} {}", told.offered)}}),
            ),
            _ => ("tools/list", json!({})),
        };
        let asked = Instant::now();
        let answer = caller.modern_post(1, method, params).await;
        let took = asked.elapsed();
        told.offered += 1;
        told.all.push(took);
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let reason = body["error"]["data"]["reason"].as_str().unwrap_or_default();
        if reason == "circuit_open" {
            told.open.push(took);
        }
        let again = answer.header("retry-after").is_some();
        if ![502, 503].contains(&answer.status) || reason.is_empty() || answer.status == 503 && !again {
            told.wrong.push(format!("{answer:?}"));
        }
    }
    told
}

/// The time that 99 % stayed below.
fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_server_that_is_down_is_not_stormed() {
    let mut card = Card::new("F11");
    let mut figures = Vec::new();
    for way in ["refuses", "resets", "answers 500"] {
        let sim = Sim::start();
        let server = json!({"id": "it", "runtime": {"type": "remote-http", "url": sim.url()}, "health": {"type": "off"}});
        let gateway = Gateway::start(&json!({"servers": [server]}).to_string());
        match way {
            "refuses" => sim.door(Door::Shut),
            "resets" => sim.door(Door::Reset),
            _ => sim.be(Manner::Status(500)),
        }
        let rise = Meter(gateway.pid()).rise();
        let until = Instant::now() + Duration::from_secs(as_much_as(DOWN[0], DOWN[1]));
        let calling = (0..CALLERS).map(|number| tokio::spawn(caller(gateway.url("it"), number, until)));
        let calling: Vec<_> = calling.collect();
        let mut told = Told::default();
        for one in calling {
            let mut one = one.await.unwrap();
            told.offered += one.offered;
            told.wrong.append(&mut one.wrong);
            told.open.append(&mut one.open);
            told.all.append(&mut one.all);
        }
        let facts = sim.facts();
        let attempts = facts.connections.max(facts.requests.values().sum());
        let times = attempts as f64 / told.offered as f64;
        card.check(&format!("{way}: attempts"), times <= ATTEMPTS_MAX, &(attempts, told.offered));
        card.check(&format!("{way}: load"), told.offered > 100, &told.offered);
        card.case(&format!("{way}: words"), &told.wrong.into_iter().take(3).collect::<Vec<_>>());
        card.check(&format!("{way}: at most once"), facts.most() <= 1, &facts.most());
        let quick = p99(&mut told.open);
        card.check(&format!("{way}: at once"), quick < AT_ONCE, &quick);
        let kib = rise.kib();
        card.check(&format!("{way}: memory"), kib < MEMORY_KIB_MAX, &kib);
        let metrics = Caller::new(&gateway.path("/metrics")).send(Method::GET, Vec::new()).await.body;
        // The one that asks is counted too.
        let idle = metrics
            .lines()
            .any(|line| line == "tollgate_requests_in_flight 1" || line == "tollgate_requests_in_flight 0");
        card.check(
            &format!("{way}: nothing waits"),
            idle,
            &metrics.lines().find(|line| line.contains("in_flight")),
        );
        let (all, open) = (p99(&mut told.all), told.open.len());
        figures.push(format!(
            "{way}: {} offered, {times:.2} times as many attempts, p99 {} ms, {open} at an open circuit",
            told.offered,
            all.as_millis()
        ));
    }
    card.pass(&format!("checks of a server that {}", figures.join("; ")));
}
