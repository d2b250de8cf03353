//! F10 and F11: one of three replicas fails in one way or another, or all of them do.
//! Not here: sessions of replicas that die (`links`); the choice among them (`upstream/select`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Card;
use crate::client::{Caller, SOON};
use crate::gateway::Gateway;
use crate::sim::{Door, Manner, Sim};

/// Faster than the defaults, so that a fault and its healing fit into seconds.
const BREAKER: &str = r#"{"failures": 5, "eject_for": "500ms", "eject_for_max": "1s", "open_for": "1s", "slow_start": "500ms"}"#;

fn gateway(sims: &[Sim], more: Value) -> Gateway {
    let endpoints: Vec<Value> = sims.iter().map(|sim| json!({"url": sim.url()})).collect();
    let breaker: Value = serde_json::from_str(BREAKER).unwrap();
    let mut server = json!({"id": "it", "runtime": {"type": "remote-http", "endpoints": endpoints},
        "health": {"type": "tcp", "interval": "500ms"}, "breaker": breaker,
        "timeouts": {"response": "2s"}});
    for (key, value) in more.as_object().unwrap() {
        server[key] = value.clone();
    }
    Gateway::start(&json!({"servers": [server]}).to_string())
}

/// What callers were answered, by status and reason.
type Tally = BTreeMap<String, usize>;

/// Calls of eight callers, one after another each, until `enough` says so.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Tally>>,
}

static NEXT: AtomicUsize = AtomicUsize::new(0);

impl Load {
    fn start(gateway: &Gateway) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let caller = Caller::new(&gateway.url("it"));
        let one = |_| {
            let (stop, calls, caller) = (Arc::clone(&stop), Arc::clone(&calls), caller.clone());
            tokio::spawn(async move {
                let mut tally = Tally::new();
                while !stop.load(Ordering::Relaxed) {
                    let n = format!("n{}", NEXT.fetch_add(1, Ordering::Relaxed));
                    let arguments = json!({"name": "echo", "arguments": {"n": n}});
                    let answer = caller.modern_post(1, "tools/call", arguments).await;
                    let reason = answer.json()["error"]["data"]["reason"].as_str().unwrap_or("").to_owned();
                    *tally.entry(format!("{} {reason}", answer.status)).or_default() += 1;
                    calls.fetch_add(1, Ordering::Relaxed);
                    if answer.status == 503 {
                        // A caller that is told to wait does, a little.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                tally
            })
        };
        Self { tasks: (0..8).map(one).collect(), stop, calls }
    }

    /// Waits for that many more calls.
    async fn more(&self, count: usize) {
        let until = self.calls.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + SOON;
        while self.calls.load(Ordering::Relaxed) < until {
            assert!(Instant::now() < deadline, "the load stands still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::new();
        for task in self.tasks {
            for (what, count) in task.await.unwrap() {
                *all.entry(what).or_default() += count;
            }
        }
        all
    }
}

fn failures(tally: &Tally) -> usize {
    tally.iter().filter(|(what, _)| !what.starts_with("200")).map(|(_, count)| count).sum()
}

async fn states(gateway: &Gateway) -> Vec<String> {
    let shown = Caller::new(&gateway.path("/servers/it")).send(reqwest::Method::GET, Vec::new()).await.json();
    let endpoints = shown["endpoints"].as_array().unwrap().iter();
    endpoints.map(|endpoint| endpoint["state"].as_str().unwrap().to_owned()).collect()
}

async fn wait_for(gateway: &Gateway, wanted: &[&str]) -> Duration {
    let started = Instant::now();
    loop {
        let seen = states(gateway).await;
        if seen == wanted {
            return started.elapsed();
        }
        assert!(started.elapsed() < SOON, "{seen:?} instead of {wanted:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const WELL: [&str; 3] = ["healthy"; 3];

#[tokio::test]
async fn f10_one_of_three_replicas_fails_and_callers_hardly_notice() {
    let sims = [Sim::start(), Sim::start(), Sim::start()];
    let gateway = gateway(&sims, json!({}));
    let mut card = Card::new("F10");
    wait_for(&gateway, &WELL).await;
    let html = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\nhtml";
    let faults = [
        ("status 500", Manner::Status(500)),
        ("status 503", Manner::Status(503)),
        ("no MCP", Manner::raw(html, crate::sim::End::Close)),
        ("connections break", Manner::Cut(0, crate::sim::End::Reset)),
    ];
    let mut slowest = Duration::ZERO;
    for (name, manner) in faults {
        let load = Load::start(&gateway);
        load.more(200).await;
        sims[0].be(manner);
        wait_for(&gateway, &["ejected", "healthy", "healthy"]).await;
        // While it stays bad it is asked again and again by the gateway, and by no caller.
        let asked = sims[0].facts().asked("tools/call");
        load.more(600).await;
        let probed = sims[0].facts().asked("tools/call") - asked;
        let seen = states(&gateway).await;
        sims[0].heal();
        slowest = slowest.max(wait_for(&gateway, &WELL).await);
        load.more(200).await;
        let tally = load.end().await;
        card.check(&format!("{name}: callers' errors"), failures(&tally) <= 5 + 8, &tally);
        card.check(&format!("{name}: calls to it while it is out"), probed <= 8, &probed);
        card.check(&format!("{name}: the others stay"), seen[1..] == ["healthy", "healthy"], &seen);
    }
    // Now well, now not: whoever is often wrong is out most of the time, and the others take its calls.
    let turns = Arc::new(AtomicUsize::new(0));
    let load = Load::start(&gateway);
    sims[0].be_at(
        "tools/call",
        Manner::by(move |_| {
            let well = turns.fetch_add(1, Ordering::Relaxed) % 20 < 10;
            if well { Manner::Honest } else { Manner::Status(500) }
        }),
    );
    load.more(1_000).await;
    sims[0].heal();
    wait_for(&gateway, &WELL).await;
    let tally = load.end().await;
    card.check("flapping: callers' errors", failures(&tally) <= 60, &tally);
    card.check("back within 30 s", slowest < Duration::from_secs(30), &slowest);
    // What tools say of their own failures is no fault of the server.
    for sim in &sims {
        sim.be_at("tools/call", Manner::made(tool_error, crate::sim::End::Close));
    }
    let load = Load::start(&gateway);
    load.more(200).await;
    load.end().await;
    card.check("a tool's own failure", states(&gateway).await == WELL, &states(&gateway).await);
    card.pass(&format!("one replica out of three; back {slowest:?} after it was well again"));
}

fn tool_error(asked: &crate::sim::Asked) -> Vec<u8> {
    let result = json!({"jsonrpc": "2.0", "id": asked.message["id"],
        "result": {"content": [], "isError": true, "resultType": "complete"}});
    let body = result.to_string();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One that is slow is not out, but those that are less busy get the calls.
#[tokio::test]
async fn f10_a_slow_replica_gets_fewer_calls() {
    let mut card = Card::new("F10");
    let mut shares = Vec::new();
    for balance in ["least_in_flight", "round_robin"] {
        let sims = [Sim::start(), Sim::start(), Sim::start()];
        let gateway = gateway(&sims, json!({"balance": balance}));
        wait_for(&gateway, &WELL).await;
        sims[0].be_at("tools/call", Manner::Late(Duration::from_millis(100)));
        let load = Load::start(&gateway);
        load.more(300).await;
        let tally = load.end().await;
        card.check(&format!("{balance}: callers' errors"), failures(&tally) == 0, &tally);
        let share = sims[0].facts().executed.len() * 100
            / sims.iter().map(|sim| sim.facts().executed.len()).sum::<usize>();
        shares.push(share);
    }
    card.check("its share of the calls, and in rounds", shares[0] < 20 && shares[1] > 25, &shares);
    card.pass(&format!("a slow replica gets {} % of the calls, in rounds {} %", shares[0], shares[1]));
}

/// The control: without a breaker a third of the calls fails for as long as the replica does.
#[tokio::test]
async fn f10_without_a_breaker_a_third_of_the_calls_fails() {
    let sims = [Sim::start(), Sim::start(), Sim::start()];
    let gateway = gateway(&sims, json!({"breaker": {"enabled": false}}));
    sims[0].be(Manner::Status(500));
    let load = Load::start(&gateway);
    load.more(600).await;
    let tally = load.end().await;
    assert!(failures(&tally) > 150, "{tally:?}");
}

#[tokio::test]
async fn f11_an_upstream_that_is_down_is_left_alone_and_callers_are_told_at_once() {
    let mut card = Card::new("F11");
    let mut figures = String::new();
    for (name, manner) in [("refuses", None), ("answers 500", Some(Manner::Status(500)))] {
        let sims = [Sim::start()];
        let gateway = gateway(&sims, json!({"breaker": {"open_for": "2s"}}));
        wait_for(&gateway, &["healthy"]).await;
        let load = Load::start(&gateway);
        load.more(200).await;
        match manner {
            None => sims[0].crash(),
            Some(manner) => sims[0].be(manner),
        }
        let out = |seen: &[String]| seen == ["ejected"] || seen == ["down"];
        let deadline = Instant::now() + SOON;
        while !out(&states(&gateway).await) {
            assert!(Instant::now() < deadline, "it is not left alone");
        }
        let before = sims[0].facts().asked("tools/call");
        load.more(400).await;
        let attempts = sims[0].facts().asked("tools/call") - before;
        card.check(&format!("{name}: attempts for 400 calls"), attempts <= 80, &attempts);
        // One who is told is told how long to wait, and soon.
        let asked = Instant::now();
        let answer = Caller::new(&gateway.url("it"))
            .modern_post(1, "tools/call", json!({"name": "echo", "arguments": {"n": "told"}}))
            .await;
        let took = asked.elapsed();
        let told = answer.status == 503 && answer.header("retry-after").is_some();
        card.check(&format!("{name}: told"), told || answer.status == 500 || answer.status == 502, &answer);
        card.check(&format!("{name}: at once"), took < Duration::from_secs(1), &took);
        sims[0].heal();
        let back = wait_for(&gateway, &["healthy"]).await;
        load.more(100).await;
        let tally = load.end().await;
        figures +=
            &format!(" {name}: {attempts} attempts for 400 calls, told in {took:?}, back after {back:?};");
        card.check(
            &format!("{name}: most were told by the gateway"),
            tally.contains_key("503 circuit_open") || tally.contains_key("503 no_healthy_endpoint"),
            &tally,
        );
    }
    card.pass(figures.trim_end_matches(';'));
}

/// The control: without a breaker every call goes to the upstream that is down.
#[tokio::test]
async fn f11_without_a_breaker_every_call_goes_there() {
    let sims = [Sim::start()];
    let gateway = gateway(&sims, json!({"breaker": {"enabled": false}}));
    wait_for(&gateway, &["healthy"]).await;
    sims[0].be(Manner::Status(500));
    let load = Load::start(&gateway);
    load.more(200).await;
    load.end().await;
    assert!(sims[0].facts().asked("tools/call") >= 200);
    sims[0].door(Door::Open);
}
