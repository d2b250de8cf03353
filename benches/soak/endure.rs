//! L05: minutes of calls while servers and processes are killed, clients come and go and the catalog changes.
//! Not here: single losses (`tests/it/storm`, `tests/it/children`), the picture of it (`graph`).
//!
//! No session is lost, nothing runs twice, every error is told to a call that was on its way, and nothing grows.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::client::{Caller, request};
use crate::gateway::Gateway;
use crate::graph::{self, Sample};
use crate::meter::Meter;
use crate::sim::Sim;
use crate::{Failure, Options, Verdict};

/// Servers at an address, and on stdio.
const REMOTE: usize = 8;
const LOCAL: usize = 2;
/// Sessions that stay, each with a call every second.
const SESSIONS: usize = 200;
const PACE: Duration = Duration::from_secs(1);
/// One of the servers is killed so often, by turns, and a remote one is away for so long.
const KILL_EVERY: Duration = Duration::from_secs(2);
const DOWN: Duration = Duration::from_millis(150);
/// The catalog changes so often; every fifth is wrong.
const RELOAD_EVERY: Duration = Duration::from_secs(3);
/// A client comes so often, calls once and goes, one way or another.
const CHURN_EVERY: Duration = Duration::from_millis(100);
/// What a run begins with does not count: sessions of those who vanish are remembered for five minutes.
const WARM_UP: f64 = 0.35;
/// What resident memory may grow by in an hour, in percent.
const GROWTH_MAX: f64 = 1.0;
/// Descriptors of calls that are just on their way differ by so much.
const DESCRIPTORS_MAX: f64 = 15.0;
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of the calls.
#[derive(Default)]
struct Tally {
    calls: AtomicUsize,
    /// Those that were on their way at a server that died, and were told so.
    in_flight: AtomicUsize,
    /// Sessions that were answered with 404.
    lost: AtomicUsize,
    /// Everything else that went wrong, and the first of it.
    wrong: AtomicUsize,
    first: Mutex<Option<String>>,
    churned: AtomicUsize,
}

impl Tally {
    fn wrong(&self, what: String) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        self.first.lock().get_or_insert(what);
    }

    fn answered(&self, status: u16, body: &str) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let answer: Value = serde_json::from_str(body).unwrap_or_default();
        let outcome = answer.pointer("/error/data/outcome").and_then(Value::as_str);
        match (status, answer.get("result"), outcome) {
            (200, Some(_), _) => {}
            (404, ..) => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
            (_, None, Some("unknown")) => drop(self.in_flight.fetch_add(1, Ordering::Relaxed)),
            _ => self.wrong(format!("{status} {body}")),
        }
    }
}

fn name(at: usize) -> String {
    format!("s{at}")
}

/// The catalog of one round: some servers come and go, one says something else of itself, the others stay as they are.
fn catalog(program: &str, sims: &[Sim], round: usize) -> String {
    let health = json!({"type": "tcp", "interval": "500ms"});
    let remote = |(at, sim): (usize, &Sim)| {
        let runtime = json!({"type": "remote-http", "url": sim.url()});
        json!({"id": name(at), "description": format!("round {}", if at == 0 { round } else { 0 }),
            "runtime": runtime, "health": health})
    };
    let mut servers: Vec<Value> = sims.iter().enumerate().map(remote).collect();
    servers.extend((0..LOCAL).map(|at| {
        let runtime = json!({"type": "local-process", "command": program, "args": ["sample", "stdio"]});
        json!({"id": name(REMOTE + at), "runtime": runtime})
    }));
    servers.extend((0..round % 3).map(|extra| {
        json!({"id": format!("extra-{}", round + extra), "runtime": {"type": "remote-http", "url": "http://127.0.0.1:9/mcp"}})
    }));
    json!({ "servers": servers }).to_string()
}

/// Stands it and says how.
pub(crate) async fn stand(options: &Options) -> Result<Verdict, Failure> {
    let sims: Arc<[Sim]> = (0..REMOTE).map(|_| Sim::start()).collect();
    for sim in sims.iter() {
        sim.speaks(true, false);
    }
    let program = fs::canonicalize(&options.tollgate)?.display().to_string();
    let gateway =
        Gateway::start(&options.tollgate, "log: {level: error, audit: off}", &catalog(&program, &sims, 0))?;
    let base = format!("http://{}/servers", gateway.address);
    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let mut loads = JoinSet::new();
    for at in 0..SESSIONS {
        let caller = Caller::new(&format!("{base}/{}/mcp", name(at % (REMOTE + LOCAL))));
        let session = caller.initialize().await.0;
        loads.spawn(calls(session, at, Arc::clone(&tally), Arc::clone(&stop)));
    }
    loads.spawn(churn(base, Arc::clone(&tally), Arc::clone(&stop)));
    let until = Instant::now() + Duration::from_secs(options.minutes * 60);
    let (mut samples, mut kills, mut reloads) = (Vec::new(), 0, 0);
    let (mut killing, mut reloading, mut sampling) =
        (interval(KILL_EVERY), interval(RELOAD_EVERY), interval(Duration::from_secs(1)));
    let began = Instant::now();
    while Instant::now() < until {
        tokio::select! {
            _ = killing.tick() => {
                murder(&sims, &gateway, kills).await?;
                kills += 1;
            }
            _ = reloading.tick() => {
                reloads += 1;
                let text = if reloads % 5 == 0 { "servers: [{id: 1}]".to_owned() } else { catalog(&program, &sims, reloads) };
                fs::write(gateway.home().join("catalog.yaml"), text)?;
            }
            _ = sampling.tick() => samples.push(sample(&gateway, began)),
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(load) = loads.join_next().await {
        load?;
    }
    graph::draw(&options.graph, &samples)?;
    Ok(verdict(options, &samples, &tally, &sims, (kills, reloads)))
}

fn verdict(
    options: &Options,
    samples: &[Sample],
    tally: &Tally,
    sims: &[Sim],
    (kills, reloads): (usize, usize),
) -> Verdict {
    let warm = (samples.len() as f64 * WARM_UP) as usize;
    let counted = samples.get(warm..).unwrap_or_default();
    let growth = graph::growth_an_hour(counted);
    let third = (counted.len() / 3).max(1);
    let (early, late) = (counted.get(..third), counted.get(counted.len().saturating_sub(third)..));
    let flat = |of: fn(&Sample) -> f64, more: f64| {
        let (early, late) = (graph::median(early, of), graph::median(late, of));
        (late <= early + more, format!("{early:.0} to {late:.0}"))
    };
    let descriptors = flat(|sample| sample.descriptors, DESCRIPTORS_MAX);
    let children = flat(|sample| sample.children, 0.0);
    let threads = flat(|sample| sample.threads, 0.0);
    let twice = sims.iter().map(|sim| sim.look(crate::sim::Facts::most)).max().unwrap_or_default();
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    let pass = growth < GROWTH_MAX
        && descriptors.0
        && children.0
        && threads.0
        && twice <= 1
        && count(&tally.lost) == 0
        && count(&tally.wrong) == 0;
    let figure = format!(
        "{} min: {} calls of {SESSIONS} sessions, {kills} kills, {reloads} changes of the catalog, {} clients that came and went: {} \
         sessions lost, no call ran more than {twice} time, {} calls on their way at a kill were told so, {} other errors; memory \
         {growth:+.2} % an hour at {:.1} MiB, descriptors {}, children {}, threads {}; {}{}",
        options.minutes,
        count(&tally.calls),
        count(&tally.churned),
        count(&tally.lost),
        count(&tally.in_flight),
        count(&tally.wrong),
        graph::median(late, |sample| sample.resident_mib),
        descriptors.1,
        children.1,
        threads.1,
        options.graph.display(),
        tally.first.lock().as_ref().map(|first| format!("; first error: {first}")).unwrap_or_default(),
    );
    Verdict { id: "L05", pass, figure }
}

fn sample(gateway: &Gateway, began: Instant) -> Sample {
    let meter = Meter(gateway.pid());
    Sample {
        seconds: began.elapsed().as_secs_f64(),
        resident_mib: meter.resident_kib() as f64 / 1024.0,
        descriptors: meter.descriptors() as f64,
        children: gateway.children().len() as f64,
        threads: fs::read_dir(format!("/proc/{}/task", gateway.pid())).map_or(0, Iterator::count) as f64,
    }
}

/// Kills one of the servers.
async fn murder(sims: &Arc<[Sim]>, gateway: &Gateway, turn: usize) -> Result<(), Failure> {
    let at = turn % (REMOTE + LOCAL);
    if at >= REMOTE {
        let children = gateway.children();
        if let Some(pid) = children.get(turn % children.len().max(1)).and_then(|pid| pid.parse().ok()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        return Ok(());
    }
    let struck = Arc::clone(sims);
    tokio::task::spawn_blocking(move || struck.get(at).map(Sim::crash)).await?;
    sleep(DOWN).await;
    let healed = Arc::clone(sims);
    tokio::task::spawn_blocking(move || healed.get(at).map(Sim::heal)).await?;
    Ok(())
}

async fn calls(session: Caller, at: usize, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    // Not all at the same moment.
    sleep(PACE.mul_f64(at as f64 / SESSIONS as f64)).await;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        number += 1;
        let n = format!("{at}-{number}");
        let arguments = json!({"n": n, "ms": 5, "text": n});
        let call = request(number, "tools/call", json!({"name": "echo", "arguments": arguments}));
        match exchange(&session, &call).await {
            Ok((status, body)) => tally.answered(status, &body),
            Err(error) => tally.wrong(error.to_string()),
        }
    }
}

async fn exchange(session: &Caller, message: &Value) -> Result<(u16, String), Failure> {
    let answer = timeout(PATIENCE, session.try_send(message)).await??;
    let status = answer.status().as_u16();
    let body = timeout(PATIENCE, answer.text()).await??;
    // The message of a stream is the last thing in it.
    let message = body.lines().rev().find_map(|line| line.strip_prefix("data:")).map(str::to_owned);
    Ok((status, message.unwrap_or(body)))
}

/// Clients that come, call once, and leave with a goodbye, without one, or in the middle of listening.
async fn churn(base: String, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    let mut pace = interval(CHURN_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut clients = JoinSet::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        number += 1;
        let (url, tally) = (format!("{base}/{}/mcp", name(number % (REMOTE + LOCAL))), Arc::clone(&tally));
        clients.spawn(async move {
            // One that meets a server that was just killed is not what is counted here.
            if come_and_go(&url, number).await.is_ok() {
                tally.churned.fetch_add(1, Ordering::Relaxed);
            }
        });
        while clients.try_join_next().is_some() {}
    }
    while clients.join_next().await.is_some() {}
}

async fn come_and_go(url: &str, number: usize) -> Result<(), Failure> {
    let caller = Caller::new(url);
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}});
    let answer = timeout(PATIENCE, caller.try_send(&request(0, "initialize", params))).await??;
    let id = answer.headers().get("mcp-session-id").and_then(|id| id.to_str().ok()).ok_or("no session")?;
    let (id, http) = (id.to_owned(), caller.http().clone());
    let session = caller.with("mcp-session-id", &id).with("mcp-protocol-version", "2025-11-25");
    drop(answer);
    let arguments = json!({"n": format!("churn {number}"), "ms": 5, "text": "hello"});
    exchange(&session, &request(1, "tools/call", json!({"name": "echo", "arguments": arguments}))).await?;
    let of = |method: reqwest::Method| {
        let asked =
            http.request(method, url).header("accept", "text/event-stream").header("mcp-session-id", &id);
        timeout(PATIENCE, asked.send())
    };
    match number % 3 {
        0 => drop(of(reqwest::Method::DELETE).await??),
        1 => {
            let stream = of(reqwest::Method::GET).await??;
            sleep(Duration::from_millis(200)).await;
            drop(stream);
        }
        _ => {}
    }
    Ok(())
}
