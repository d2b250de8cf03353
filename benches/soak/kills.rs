//! F01 in full: the gateway is killed a hundred times under load; sessions go on, no call runs twice, no child is left.
//! Not here: the short form (`tests/it/scorecard/kills`). There is no store yet, so nothing is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, interval, timeout};

use crate::client::{Caller, request};
use crate::gateway::Gateway;
use crate::sim::Sim;
use crate::{Failure, Options, Verdict};

/// Kills, however short the run.
const KILLS: usize = 100;
/// How soon a session of before is answered again.
const READY: Duration = Duration::from_secs(2);
/// How soon nothing is left of what was killed.
const SWEPT: Duration = Duration::from_secs(5);
/// Calls answered between two kills.
const CALLS: usize = 100;
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Calls without a pause until `stop`, and how many were answered.
async fn load(url: String, number: usize, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    let (caller, mut count) = (Caller::new(&url), 0);
    let mut beat = interval(Duration::from_millis(5));
    while !stop.load(Ordering::Relaxed) {
        beat.tick().await;
        count += 1;
        let arguments = json!({"name": "echo", "arguments": {"n": format!("{number} {count}"), "ms": 20}});
        let (caller, body) = caller.modern(1, "tools/call", arguments);
        let sent = timeout(PATIENCE, caller.try_send(&body)).await;
        let fine = sent.is_ok_and(|sent| sent.is_ok_and(|answer| answer.status() == 200));
        answered.fetch_add(usize::from(fine), Ordering::Relaxed);
    }
}

/// Stands it and says how.
pub(crate) async fn stand(options: &Options) -> Result<Verdict, Failure> {
    let sim = Sim::start();
    let program = std::fs::canonicalize(&options.tollgate)?;
    let local = json!({"type": "local-process", "command": program, "args": ["sample", "stdio"]});
    let catalog = json!({"servers": [
        {"id": "it", "runtime": {"type": "remote-http", "url": sim.url()}, "health": {"type": "off"}},
        {"id": "local", "runtime": local},
    ]});
    let mut gateway = Gateway::start(&program, "log: {level: error, audit: off}", &catalog.to_string())?;
    let url = |server: &str| format!("http://{}/servers/{server}/mcp", gateway.address);
    let (it, child) = (url("it"), Caller::new(&url("local")));
    let (session, _) = Caller::new(&it).initialize().await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let loads: Vec<_> = (0..8)
        .map(|number| tokio::spawn(load(it.clone(), number, Arc::clone(&stop), Arc::clone(&answered))))
        .collect();
    let (mut slowest, mut swept, mut wrong) = (Duration::ZERO, Duration::ZERO, Vec::new());
    for kill in 0..KILLS {
        let call =
            child.modern_post(1, "tools/call", json!({"name": "echo", "arguments": {"text": "x"}})).await;
        let before = gateway.children();
        if call.status != 200 || before.is_empty() {
            wrong.push(format!("kill {kill}: no child: {}", call.body));
        }
        let enough = answered.load(Ordering::Relaxed) + CALLS;
        let since = Instant::now();
        while answered.load(Ordering::Relaxed) < enough && since.elapsed() < PATIENCE {
            tokio::task::yield_now().await;
        }
        let killed = Instant::now();
        gateway.kill_and_start(&program)?;
        let ping = request(2, "ping", json!({}));
        while !session.try_send(&ping).await.is_ok_and(|answer| answer.status() == 200)
            && killed.elapsed() < PATIENCE
        {}
        slowest = slowest.max(killed.elapsed());
        let back = Instant::now();
        while gateway.children().iter().any(|pid| before.contains(pid)) && back.elapsed() < PATIENCE {}
        swept = swept.max(back.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        load.await?;
    }
    let (most, opened) = sim.look(|facts| (facts.most(), facts.opened));
    let pass = wrong.is_empty() && slowest <= READY && swept <= SWEPT && most == 1 && opened == 1;
    let figure = format!(
        "{KILLS} kills under {} calls: the session of before was answered after {} ms at most, children were gone {} ms \
         after that, no call ran more than {most} time, {opened} session was opened{}",
        answered.load(Ordering::Relaxed),
        slowest.as_millis(),
        swept.as_millis(),
        wrong.first().map(|wrong| format!("; {wrong}")).unwrap_or_default(),
    );
    Ok(Verdict { id: "F01", pass, figure })
}
