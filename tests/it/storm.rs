//! Servers that are killed one after another under the calls of many sessions.
//! Not here: single losses (`links`), children (`load`, `children`), the gateway's own end (`scorecard/kills`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::client::{Caller, request};
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::sim::Sim;

const SERVERS: usize = 10;
const SESSIONS: usize = 100;
const KILLS: usize = 20;
/// Between two calls of one session: some 200 calls a second in all.
const PACE: Duration = Duration::from_millis(500);
/// How long a killed server is down.
const DOWN: Duration = Duration::from_millis(150);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_servers_killed_in_turn_lose_no_session_and_run_no_call_twice() {
    let sims: Vec<Sim> = (0..SERVERS).map(|_| Sim::start()).collect();
    let server = |(at, sim): (usize, &Sim)| {
        sim.speaks(true, false);
        json!({"id": format!("s{at}"), "runtime": {"type": "remote-http", "url": sim.url()},
            "health": {"type": "tcp", "interval": "500ms"}})
    };
    let servers: Vec<Value> = sims.iter().enumerate().map(server).collect();
    let gateway = Gateway::start(&json!({"servers": servers}).to_string());
    let mut sessions = Vec::new();
    for at in 0..SESSIONS {
        let caller = Caller::new(&gateway.url(&format!("s{}", at % SERVERS)));
        sessions.push(caller.initialize().await.0);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicUsize::new(0));
    let load = |session: Caller| {
        let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
        tokio::spawn(async move {
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                let n = format!("n{}", next.fetch_add(1, Ordering::Relaxed));
                let call = request(1, "tools/call", json!({"name": "echo", "arguments": {"n": n, "ms": 5}}));
                let answer = session.post(&call).await;
                if answer.json().get("result").is_none() {
                    failures.push(answer.json()["error"]["data"].clone());
                }
            }
            failures
        })
    };
    let loads: Vec<_> = sessions.iter().cloned().map(load).collect();
    let meter = Meter(gateway.pid());
    sleep(Duration::from_secs(1)).await;
    let before = meter.descriptors();
    for kill in 0..KILLS {
        let sim = &sims[kill % SERVERS];
        tokio::task::block_in_place(|| sim.crash());
        sleep(DOWN).await;
        tokio::task::block_in_place(|| sim.heal());
        sleep(Duration::from_millis(350)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut failures = Vec::new();
    for load in loads {
        failures.extend(load.await.unwrap());
    }
    let calls = next.load(Ordering::Relaxed);
    // Only what was on its way when its server died: nobody knows whether that ran.
    let unknown = |data: &&Value| data["outcome"] == "unknown";
    assert_eq!(failures.iter().filter(unknown).count(), failures.len(), "{failures:?}");
    assert!(failures.len() <= KILLS * 4 && calls > 1_000, "{} of {calls} calls failed", failures.len());
    for sim in &sims {
        assert!(sim.facts().most() <= 1, "a call ran twice");
    }
    // Every session goes on.
    for session in &sessions {
        session.post(&request(2, "tools/list", json!({}))).await.result();
    }
    let after = meter.descriptors();
    assert!(after <= before + 20, "{before} descriptors before, {after} after");
}
