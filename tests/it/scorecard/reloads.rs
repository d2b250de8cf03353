//! F04: a storm of reloads, a third of them wrong, while clients call.
//! Not here: what one reload touches and whom it tells (`reload`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::{Card, as_much_as};
use crate::client::{Caller, request};
use crate::fake::{self, Act, Fake};
use crate::gateway::Gateway;
use crate::meter::Meter;

const RELOADS: u64 = 200;
/// The short form has the pace of three storms of 60 s.
const PACE: Duration = Duration::from_millis(100);
const FULL_PACE: Duration = Duration::from_millis(300);
/// The memory of the gateway is compared from here on: the first reloads fill tables that are used again.
const WARM: u64 = 60;

fn local(id: &str, round: u64) -> Value {
    let command = env!("CARGO_BIN_EXE_tollgate");
    json!({"id": id, "runtime": {"type": "local-process", "command": command, "args": ["sample", "stdio"], "env": {"ROUND": round.to_string()}}})
}

/// The catalog of one round. One server says in its path and in a header which round it is of.
fn catalog(fake: &Fake, twin: &Fake, round: u64) -> Value {
    let twin = json!({"type": "remote-http", "url": format!("{}/{round}", twin.url()), "headers": {"x-round": round.to_string()}});
    let mut servers = vec![
        json!({"id": "twin", "runtime": twin}),
        json!({"id": "kept", "description": format!("round {round}"), "runtime": {"type": "remote-http", "url": fake.url()}}),
        local("local", 0),
        local("changed", round / 20),
    ];
    servers.extend((0..round % 5).map(|extra| {
        json!({"id": format!("extra-{}", round + extra), "runtime": {"type": "remote-http", "url": fake.url()}})
    }));
    json!({ "servers": servers })
}

/// Calls one after the other; gives how many, and what was answered with anything but a result.
fn calls(caller: Caller, message: Value, stop: &Arc<AtomicBool>) -> JoinHandle<(usize, Vec<String>)> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let (mut count, mut failures) = (0, Vec::new());
        let mut pace = interval(Duration::from_millis(20));
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let answer = caller.post(&message).await;
            count += 1;
            if answer.status != 200 || answer.json().get("result").is_none() {
                failures.push(format!("{} {}", answer.status, answer.body));
            }
        }
        (count, failures)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_storm_of_reloads_is_not_noticed() {
    let mut card = Card::new("F04");
    let mixed = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&mixed);
    let twin = Fake::start(move |call| {
        if call.path.rsplit('/').next() != call.headers.get("x-round").map(String::as_str) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        match call.rpc().as_str() {
            "" => Act::Status(405),
            _ => fake::modern(call),
        }
    });
    let fake = Fake::start(fake::legacy);
    let gateway = Gateway::start(&catalog(&fake, &twin, 0).to_string());
    let sessions = async |server: &str| Caller::new(&gateway.url(server)).initialize().await.0;
    let echo = |id: u64| request(id, "tools/call", json!({"name": "echo", "arguments": {"text": "hello"}}));
    let local = sessions("local").await;
    local.post(&echo(1)).await.result();
    let children = gateway.descendants();
    let (modern, message) =
        Caller::new(&gateway.url("twin")).modern(1, "tools/call", json!({"name": "echo", "arguments": {}}));
    let stop = Arc::default();
    let loads = [
        ("a server that changes each time", calls(modern, message, &stop)),
        ("a session with a server that stays", calls(sessions("kept").await, echo(2), &stop)),
        ("a session with a process that stays", calls(local, echo(3), &stop)),
        ("a session with a process that changes", calls(sessions("changed").await, echo(4), &stop)),
    ];
    let meter = Meter(gateway.pid());
    let (mut warm, mut wrong) = (0, 0);
    let began = Instant::now();
    let mut pace = interval(as_much_as(PACE, FULL_PACE));
    for round in 1..=RELOADS {
        pace.tick().await;
        // Three of ten.
        if matches!(round % 10, 0 | 3 | 6) {
            wrong += 1;
            gateway.edit_catalog(if round % 4 == 0 { "servers: [{id: 1}]" } else { "servers:\n - {" });
        } else {
            gateway.edit_catalog(&catalog(&fake, &twin, round).to_string());
        }
        gateway.signal(Signal::SIGHUP);
        if round == WARM {
            warm = meter.resident_kib();
        }
    }
    let took = began.elapsed();
    gateway.edit_catalog(&catalog(&fake, &twin, RELOADS + 1).to_string());
    let reload = Caller::new(&gateway.path("/admin/reload"));
    let last = reload.send(reqwest::Method::POST, Vec::new()).await;
    card.check("the last one is in force", last.status == 200, &last);
    stop.store(true, Ordering::Relaxed);
    let mut all = 0;
    for (what, load) in loads {
        let (count, failures) = load.await.unwrap();
        card.check(what, failures.is_empty() && count > 100, &(count, failures.len(), failures.first()));
        all += count;
    }
    let metrics = Caller::new(&gateway.path("/metrics")).send(reqwest::Method::GET, Vec::new()).await.body;
    let counted = |result: &str| {
        let beginning = format!("tollgate_config_reloads_total{{result=\"{result}\"}} ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&beginning)?.parse::<u64>().ok())
            .unwrap_or_default()
    };
    // A signal that comes while a reload runs is the same signal; the control, too: wrong ones were refused.
    let (good, refused) = (counted("success"), counted("failure"));
    card.check("they were reloads", good > RELOADS / 3 && refused > wrong / 3, &(good, refused));
    card.check("every call is of one catalog", mixed.load(Ordering::Relaxed) == 0, &mixed);
    card.check("the process that stays is the same", gateway.descendants().is_superset(&children), &children);
    let memory = meter.resident_kib();
    card.check("memory", memory < warm + warm / 10, &(warm, memory));
    gateway.stop();
    let percent = (memory as f64 / warm as f64 - 1.0) * 100.0;
    card.pass(&format!(
        "{RELOADS} edits in {:.0} s ({good} taken over, {refused} refused), 0 of {all} calls failed, memory {percent:+.1} %",
        took.as_secs_f64()
    ));
}
