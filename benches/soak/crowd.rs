//! B07 in full: of fifty servers one hangs, one answers garbage and one is down; callers of the others do not notice.
//! Not here: the short form, with every way to misbehave (`tests/it/scorecard/hostile`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::client::Caller;
use crate::gateway::Gateway;
use crate::sim::{Door, End, Manner, Sim};
use crate::{Failure, Options, Verdict};

const SERVERS: usize = 50;
/// The last ones are the bad ones.
const GOOD: usize = SERVERS - 3;
/// Callers of good servers, and of each bad one, and their pace.
const CALLERS: usize = 8;
const NOISY: usize = 2;
const PACE: Duration = Duration::from_millis(10);
/// How much slower calls of good servers may be beside the bad ones.
const SLOWER_MAX: f64 = 1.5;
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How calls of good servers went.
#[derive(Default)]
struct Tally {
    took: Vec<Duration>,
    bad: usize,
    first: Option<String>,
}

impl Tally {
    fn p99(&mut self) -> Duration {
        self.took.sort_unstable();
        self.took.get(self.took.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// Stands it and says how.
pub(crate) async fn stand(options: &Options) -> Result<Verdict, Failure> {
    let sims: Vec<Sim> = (0..SERVERS).map(|_| Sim::start()).collect();
    let server = |(at, sim): (usize, &Sim)| {
        json!({"id": format!("s{at}"), "runtime": {"type": "remote-http", "url": sim.url()},
            "timeouts": {"response": "2s"}, "health": {"type": "off"}})
    };
    let servers: Vec<Value> = sims.iter().enumerate().map(server).collect();
    let conf = "log: {level: error, audit: off}";
    let gateway = Gateway::start(&options.tollgate, conf, &json!({ "servers": servers }).to_string())?;
    let base = format!("http://{}", gateway.address);
    let time = options.time() / 2;
    // What is new to both sides is not compared.
    good(&base, Duration::from_secs(2)).await;
    let mut calm = good(&base, time).await;
    for (sim, bad) in sims.iter().rev().zip([misbehave_silent, misbehave_garbage, misbehave_down]) {
        bad(sim);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut noise = JoinSet::new();
    for at in 0..NOISY * (SERVERS - GOOD) {
        let (url, stop) =
            (format!("{base}/servers/s{}/mcp", GOOD + at % (SERVERS - GOOD)), Arc::clone(&stop));
        noise.spawn(async move {
            let mut pace = interval(PACE);
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                let (caller, call) =
                    Caller::new(&url).modern(1, "tools/call", json!({"name": "echo", "arguments": {}}));
                // Whatever it is told, in time or not.
                drop(timeout(PATIENCE, caller.try_post(call.to_string())).await);
            }
        });
    }
    let mut beside = good(&base, time).await;
    let whole = lists(&base).await?;
    stop.store(true, Ordering::Relaxed);
    while noise.join_next().await.is_some() {}
    let (before, after) = (calm.p99(), beside.p99());
    let slower = after.as_secs_f64() / before.as_secs_f64().max(1e-4);
    let bad = calm.bad + beside.bad;
    let pass = slower <= SLOWER_MAX && bad == 0 && whole == GOOD;
    let figure = format!(
        "{} calls of {GOOD} good servers: p99 {:.2} ms, beside one that hangs, one that talks garbage and one that is down \
         {:.2} ms ({slower:.2} times); {bad} failed, {whole} lists of {GOOD} are whole{}",
        calm.took.len() + beside.took.len(),
        before.as_secs_f64() * 1e3,
        after.as_secs_f64() * 1e3,
        calm.first.or(beside.first).map(|first| format!("; first failure: {first}")).unwrap_or_default(),
    );
    Ok(Verdict { id: "B07", pass, figure })
}

fn misbehave_silent(sim: &Sim) {
    sim.be(Manner::Silent);
}

fn misbehave_garbage(sim: &Sim) {
    sim.be(Manner::raw(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n\u{0}garbage{",
        End::Close,
    ));
}

fn misbehave_down(sim: &Sim) {
    sim.door(Door::Shut);
    sim.reset();
}

/// Calls of good servers, each in its turn, for `time`.
async fn good(base: &str, time: Duration) -> Tally {
    let until = Instant::now() + time;
    let mut callers = JoinSet::new();
    for at in 0..CALLERS {
        let callers_of: Vec<Caller> =
            (0..GOOD).map(|server| Caller::new(&format!("{base}/servers/s{server}/mcp"))).collect();
        callers.spawn(async move {
            let mut tally = Tally::default();
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            for caller in callers_of.iter().cycle().skip(at * 7) {
                pace.tick().await;
                if Instant::now() > until {
                    break;
                }
                let (caller, call) =
                    caller.clone().modern(1, "tools/call", json!({"name": "echo", "arguments": {"n": "n"}}));
                let begun = Instant::now();
                match timeout(PATIENCE, caller.try_post(call.to_string())).await {
                    Ok(Ok(answer)) if answer.contains("\"result\"") => tally.took.push(begun.elapsed()),
                    other => {
                        tally.bad += 1;
                        tally.first.get_or_insert(format!("{other:?}"));
                    }
                }
            }
            tally
        });
    }
    let mut all = Tally::default();
    while let Some(one) = callers.join_next().await {
        let Ok(mut one) = one else { continue };
        all.took.append(&mut one.took);
        all.bad += one.bad;
        all.first = all.first.or(one.first);
    }
    all
}

/// How many good servers' lists are whole.
async fn lists(base: &str) -> Result<usize, Failure> {
    let mut whole = 0;
    for server in 0..GOOD {
        let (caller, list) =
            Caller::new(&format!("{base}/servers/s{server}/mcp")).modern(1, "tools/list", json!({}));
        let answer = timeout(PATIENCE, caller.try_post(list.to_string())).await??;
        whole += usize::from(answer.contains("\"tools\":[{"));
    }
    Ok(whole)
}
