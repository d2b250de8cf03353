//! Clients that hang up in the middle of their calls, at random bytes and times: the run of F18, short or whole.
//! Not here: what is asserted (`scorecard/aborts`), the long form (`benches/soak`).

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Caller, LEGACY, MODERN, SOON, request};
use crate::sim::{Facts, Kind, Manner, Sim};

/// Clients at once.
const AT_ONCE: usize = 40;
/// How soon an upstream learns that a modern client is gone.
pub(crate) const CANCEL: Duration = Duration::from_secs(1);

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
async fn metric(gateway: SocketAddr, name: &str) -> f64 {
    let text = reqwest::get(format!("http://{gateway}/metrics")).await.unwrap().text().await.unwrap();
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

/// What became of them.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Calls that arrived, of legacy and of modern clients.
    pub(crate) arrived: [usize; 2],
    /// How late the last upstream learned that its modern client was gone.
    pub(crate) slowest: Duration,
    /// Legacy calls that the gateway gave up, and that it cancelled.
    pub(crate) given_up: usize,
    pub(crate) cancelled: usize,
    /// Legacy calls that ran on without their clients.
    pub(crate) running: f64,
    /// Descriptors of the gateway before and after.
    pub(crate) descriptors: [usize; 2],
    /// Status of the session's next request.
    pub(crate) after: u16,
}

/// `calls` of each era, to the server `it` of that gateway, which is `sim`. It ends when nothing is left of them.
pub(crate) async fn leave(sim: &Sim, gateway: SocketAddr, pid: u32, calls: usize) -> Left {
    sim.answers_in(Kind::Events);
    let (session, _) = Caller::new(&format!("http://{gateway}/servers/it/mcp")).initialize().await;
    let id = session.session().unwrap();
    let base = descriptors(pid);
    let running = metric(gateway, "tollgate_requests_in_flight").await;
    let mut dice = Dice(18);
    let mut left = Left::default();
    for round in 0..calls / AT_ONCE {
        for modern in [true, false] {
            go(sim, gateway, &mut dice, (round, (!modern).then_some(&id)), &mut left).await;
        }
    }
    // Well past the moment at which a modern client's leaving would have been passed on.
    let passed = Instant::now();
    while passed.elapsed() < CANCEL + CANCEL / 2 {
        assert_eq!(session.post(&request(2, "ping", json!({}))).await.result(), json!({}));
    }
    (left.given_up, left.cancelled) = sim.look(|facts| {
        (facts.abandoned.keys().filter(|n| n.starts_with("false")).count(), facts.cancelled.len())
    });
    left.running = metric(gateway, "tollgate_requests_in_flight").await - running;
    // The server ends them, and then nothing is left.
    sim.reset();
    until("what was in flight is gone", async || {
        metric(gateway, "tollgate_requests_in_flight").await <= running
    })
    .await;
    until("descriptors are as before", async || descriptors(pid) <= base + 4).await;
    left.descriptors = [base, descriptors(pid)];
    left.after = session.post(&request(1, "tools/list", json!({}))).await.status;
    left
}

/// Some clients of one era, who leave at once.
async fn go(
    sim: &Sim,
    gateway: SocketAddr,
    dice: &mut Dice,
    (round, session): (usize, Option<&String>),
    left: &mut Left,
) {
    let modern = session.is_none();
    sim.be_at("tools/call", if dice.below(2) == 0 { Manner::Honest } else { Manner::Silent });
    let mut open = Vec::new();
    for call in 0..AT_ONCE {
        let n = format!("{modern} {round} {call}");
        let whole = bytes(&n, session.map(String::as_str));
        // One in four leaves before all of its call was sent.
        let sent = if dice.below(4) == 0 { dice.below(whole.len() as u64) as usize } else { whole.len() };
        open.push((n, sent == whole.len(), hang_up(gateway, &whole, sent)));
    }
    // Some leave before their call can have arrived, some while it runs.
    let patience = dice.below(AT_ONCE as u64) as usize;
    let prefix = format!("{modern} {round} ");
    let whole = open.iter().filter(|(_, whole, _)| *whole).count();
    let count = || sim.look(|facts| facts.executed.keys().filter(|n| n.starts_with(&prefix)).count());
    until("the calls", async || count() >= patience.min(whole)).await;
    let gone = Instant::now();
    let names: Vec<String> = open.iter().map(|(n, ..)| n.clone()).collect();
    drop(open);
    left.arrived[usize::from(modern)] += count();
    if modern {
        let all_gone = |facts: &Facts| {
            let mut ran = names.iter().filter(|n| facts.executed.contains_key(*n));
            ran.all(|n| facts.abandoned.contains_key(n) || facts.answered.contains(n)).then_some(())
        };
        sim.until("each call that ran is given up", SOON, all_gone).await;
        let last = sim.look(|facts| names.iter().filter_map(|n| facts.abandoned.get(n)).max().copied());
        let late = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(gone));
        left.slowest = left.slowest.max(late);
    }
}
