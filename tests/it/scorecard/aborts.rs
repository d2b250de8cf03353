//! F18: clients that hang up at random: a modern call ends with its client, a legacy one goes on, nothing is left over.
//! Not here: one abort of each kind (`streams`), the long form (`benches/soak`).

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Card;
use crate::client::{Caller, LEGACY, MODERN, SOON, request};
use crate::gateway::Gateway;
use crate::sim::{Kind, Manner, Sim};

/// Calls of each era.
const CALLS: usize = 1_000;
/// Clients at once.
const AT_ONCE: usize = 40;
/// How soon an upstream learns that a modern client is gone.
const CANCEL: Duration = Duration::from_secs(1);

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// The bytes of a call.
fn bytes(n: &str, session: Option<&str>) -> Vec<u8> {
    let mut params = json!({"name": "echo", "arguments": {"n": n, "ms": 60_000, "progress": 20}});
    let mut headers = String::new();
    match session {
        Some(id) => headers.push_str(&format!("mcp-session-id: {id}\r\nmcp-protocol-version: {LEGACY}\r\n")),
        None => {
            params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {}, "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"}});
            headers.push_str(&format!(
                "mcp-protocol-version: {MODERN}\r\nmcp-method: tools/call\r\nmcp-name: echo\r\n"
            ));
        }
    }
    let body = request(1, "tools/call", params).to_string();
    format!(
        "POST /servers/it/mcp HTTP/1.1\r\nhost: localhost\r\naccept: application/json, text/event-stream\r\n\
         content-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Descriptors that the process has open.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A number that the gateway tells of itself.
async fn metric(gateway: &Gateway, name: &str) -> f64 {
    let text = reqwest::get(gateway.path("/metrics")).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Waits until it holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < SOON, "not seen: {what}");
        tokio::task::yield_now().await;
    }
}

fn hang_up(address: SocketAddr, call: &[u8], sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&call[..sent]).unwrap();
    stream
}

#[tokio::test]
async fn f18_what_clients_abandon_ends_with_them_or_goes_on_as_their_era_says() {
    let sim = Sim::start();
    sim.answers_in(Kind::Events);
    let server =
        json!({"id": "it", "runtime": {"type": "remote-http", "url": sim.url()}, "health": {"type": "off"}});
    let gateway = Gateway::start(&json!({"servers": [server]}).to_string());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let id = session.session().unwrap();
    let mut card = Card::new("F18");
    let base = descriptors(gateway.pid());
    let running = metric(&gateway, "tollgate_requests_in_flight").await;
    let mut dice = Dice(18);
    let (mut slowest, mut arrived) = (Duration::ZERO, [0, 0]);
    for round in 0..CALLS / AT_ONCE {
        for modern in [true, false] {
            sim.be_at("tools/call", if dice.below(2) == 0 { Manner::Honest } else { Manner::Silent });
            let mut open = Vec::new();
            for call in 0..AT_ONCE {
                let n = format!("{modern} {round} {call}");
                let whole = bytes(&n, (!modern).then_some(&id));
                // One in four leaves before all of its call was sent.
                let sent =
                    if dice.below(4) == 0 { dice.below(whole.len() as u64) as usize } else { whole.len() };
                open.push((n, sent == whole.len(), hang_up(gateway.address(), &whole, sent)));
            }
            // Some leave before their call can have arrived, some while it runs.
            let patience = dice.below(AT_ONCE as u64) as usize;
            let prefix = format!("{modern} {round} ");
            let there = |n: &String| n.starts_with(&prefix);
            let whole = open.iter().filter(|(_, whole, _)| *whole).count();
            let wanted = patience.min(whole);
            let count = |sim: &Sim| sim.look(|facts| facts.executed.keys().filter(|n| there(n)).count());
            until("the calls", async || count(&sim) >= wanted).await;
            let left = Instant::now();
            let names: Vec<String> = open.iter().map(|(n, ..)| n.clone()).collect();
            drop(open);
            arrived[usize::from(modern)] += count(&sim);
            if modern {
                let all_gone = |facts: &crate::sim::Facts| {
                    let mut ran = names.iter().filter(|n| facts.executed.contains_key(*n));
                    ran.all(|n| facts.abandoned.contains_key(n) || facts.answered.contains(n)).then_some(())
                };
                sim.until("each call that ran is given up", SOON, all_gone).await;
                let last =
                    sim.look(|facts| names.iter().filter_map(|n| facts.abandoned.get(n)).max().copied());
                slowest =
                    slowest.max(last.map_or(Duration::ZERO, |last| last.saturating_duration_since(left)));
            } else {
                let given_up = |facts: &crate::sim::Facts| {
                    names.iter().filter(|n| facts.abandoned.contains_key(*n)).count()
                };
                card.check(
                    &format!("legacy calls of round {round} go on"),
                    sim.look(given_up) == 0,
                    &sim.look(given_up),
                );
            }
        }
    }
    card.check("modern calls end within a second", slowest < CANCEL + CANCEL, &slowest);
    card.check("calls arrived", arrived.iter().all(|count| *count > CALLS / 4), &arrived);
    // Well past the moment at which a modern client's leaving would have been passed on.
    let passed = Instant::now();
    while passed.elapsed() < CANCEL + CANCEL / 2 {
        assert_eq!(session.post(&request(2, "ping", json!({}))).await.result(), json!({}));
    }
    // Legacy calls went on all the time: they were neither given up nor cancelled.
    let (given_up, cancelled) = sim.look(|facts| {
        (facts.abandoned.keys().filter(|n| n.starts_with("false")).count(), facts.cancelled.len())
    });
    card.check("no legacy call was cancelled", given_up == 0 && cancelled == 0, &(given_up, cancelled));
    let held = metric(&gateway, "tollgate_requests_in_flight").await - running;
    // The server ends them, and then nothing is left.
    sim.reset();
    until("what was in flight is gone", async || {
        metric(&gateway, "tollgate_requests_in_flight").await <= running
    })
    .await;
    until("descriptors are as before", async || descriptors(gateway.pid()) <= base + 4).await;
    let after = session.post(&request(1, "tools/list", json!({}))).await;
    card.check("the session goes on", after.status == 200, &after);
    card.pass(&format!(
        "checks of {} calls abandoned, {} of which had arrived: modern ones end upstream after at most {} ms, {held} legacy ones ran on; descriptors {base} before and {} after",
        2 * CALLS, arrived[0] + arrived[1], slowest.as_millis(), descriptors(gateway.pid()),
    ));
}
