//! F06: thousands of clients that come and go through local servers in each mode, rudely, with children as rude.
//! Not here: the short form of it, with its assertions on single clients (`tests/it/children.rs`).
//!
//! A third of the clients vanish without a goodbye, half of these in the middle of a call. A third of the children
//! ignore SIGTERM and start another process that does.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::gateway::Gateway;
use crate::{Failure, Options, Verdict};

/// Clients at once.
const AT_ONCE: usize = 24;
/// Callers, by turns.
const CALLERS: usize = 500;
/// Children that nobody uses are stopped after this time, and all of them are gone soon after that.
const REST: Duration = Duration::from_secs(1);
const GONE: Duration = Duration::from_secs(10);
/// What resident memory may have grown by in the end.
const GROWTH_MAX: f64 = 0.05;
/// A session that was not used for five minutes is forgotten.
const SETTLING: Duration = Duration::from_secs(330);
/// A client that gets no session for so long gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// One in so many clients more comes before anything is measured: tables of sessions and callers fill, and the
/// allocator takes what the busiest moment needs.
const WARM_UP: usize = 2;

const CHILD: &str = r#"
import json, os, signal, subprocess, sys, time
deaf = os.getpid() % 3 == 0
if deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; sleep 600; true"], stdin=subprocess.DEVNULL)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("id") is None or (message.get("params") or {}).get("name") == "hold":
        continue
    result = {"content": [{"type": "text", "text": str(os.getpid())}]}
    if message["method"] == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "churned", "version": "1"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
if deaf:
    time.sleep(600)
"#;

fn key(number: usize) -> String {
    format!("Kq7vB2mX9kT4wZ6nP3cL8dR5{:03}", number % CALLERS)
}

fn start(options: &Options, mode: &str) -> Result<Gateway, Failure> {
    let keys: Vec<Value> = (0..CALLERS)
        .map(|caller| json!({"name": format!("c{caller}"), "key": key(caller), "servers": ["*"]}))
        .collect();
    let conf = format!(
        "auth: {}\nlimits: {{child_pending: 10000}}\nlog: {{level: error, audit: off}}",
        json!({ "keys": keys })
    );
    let runtime = json!({"type": "local-process", "command": "python3", "args": ["-I", "-S", "-c", CHILD]});
    let rest = format!("{}s", REST.as_secs());
    let timeouts = json!({"total": "3s"});
    let server = if mode == "shared" {
        json!({"id": "soak", "runtime": runtime, "idle_timeout": rest, "timeouts": timeouts})
    } else {
        json!({"id": "soak", "runtime": runtime, "mode": mode, "idle_timeout": rest, "timeouts": timeouts, "max_processes": 300})
    };
    Gateway::start(&options.tollgate, &conf, &json!({ "servers": [server] }).to_string())
}

/// What became of the clients of one mode.
#[derive(Default)]
struct Tally {
    /// Sessions that rested for too long between two messages, so that the client began again.
    lost: AtomicUsize,
    /// Answers that say to come again later.
    later: AtomicUsize,
    failed: AtomicUsize,
    /// Why the first client that failed did.
    first: OnceLock<String>,
}

/// Stands it and says how.
pub(crate) async fn stand(options: &Options) -> Result<Verdict, Failure> {
    let (mut pass, mut figures) = (true, Vec::new());
    for mode in ["shared", "per_caller", "per_session"] {
        let gateway = start(options, mode)?;
        let tally = Arc::new(Tally::default());
        churn(&gateway, options.cycles / WARM_UP, &tally).await;
        let left_before = gone(gateway.home()).await;
        let before = gateway.resident_kib()?;
        let begun = Instant::now();
        churn(&gateway, options.cycles, &tally).await;
        let took = begun.elapsed();
        let since = Instant::now();
        let left = gone(gateway.home()).await + left_before;
        let gone_after = since.elapsed();
        let after = settled(&gateway, before).await?;
        let growth = after as f64 / before as f64 - 1.0;
        let failed = tally.failed.load(Ordering::Relaxed);
        pass &= left == 0 && growth <= GROWTH_MAX && failed == 0;
        figures.push(format!(
            "{mode}: {} clients in {:.0} s, {failed} failed, {} told to come later, {} sessions begun again; {left} \
             processes left after {:.1} s; memory {} to {} KiB ({:+.1} %){}",
            options.cycles,
            took.as_secs_f64(),
            tally.later.load(Ordering::Relaxed),
            tally.lost.load(Ordering::Relaxed),
            gone_after.as_secs_f64(),
            before,
            after,
            growth * 100.0,
            tally.first.get().map(|why| format!("; first failure: {why}")).unwrap_or_default(),
        ));
    }
    Ok(Verdict { id: "F06", pass, figure: figures.join("; ") })
}

async fn churn(gateway: &Gateway, cycles: usize, tally: &Arc<Tally>) {
    let url = format!("http://{}/servers/soak/mcp", gateway.address);
    let mut clients = JoinSet::new();
    for cycle in 0..cycles {
        while clients.len() >= AT_ONCE {
            clients.join_next().await;
        }
        let (url, tally) = (url.clone(), Arc::clone(tally));
        clients.spawn(async move {
            if let Err(error) = come_and_go(&url, cycle, &tally).await {
                tally.failed.fetch_add(1, Ordering::Relaxed);
                let _ = tally.first.set(error.to_string());
            }
        });
    }
    while clients.join_next().await.is_some() {}
}

/// One client, on a connection of its own.
async fn come_and_go(url: &str, cycle: usize, tally: &Tally) -> Result<(), Failure> {
    let http = Client::builder().no_proxy().build()?;
    let until = Instant::now() + PATIENCE;
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}});
    let post = |session: Option<&str>, message: Value| {
        let request = http
            .post(url)
            .bearer_auth(key(cycle))
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(message.to_string());
        match session {
            Some(id) => request.header("mcp-session-id", id),
            None => request,
        }
    };
    let call = |name: &str| json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}});
    let session = loop {
        if Instant::now() > until {
            return Err("no session that lasts for a call".into());
        }
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let answer = post(None, hello).send().await?;
        if answer.status() == 503 {
            tally.later.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(200)).await;
            continue;
        }
        let id = answer.headers().get("mcp-session-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let id = id.ok_or("no session")?;
        answer.bytes().await?;
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        post(Some(&id), ready).send().await?.bytes().await?;
        let answer = post(Some(&id), call("pid")).send().await?;
        if answer.status() == 404 {
            tally.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
        if answer.get("result").is_none() {
            return Err(format!("no result: {answer}").into());
        }
        break id;
    };
    match cycle % 6 {
        0 => {}
        1 => drop(timeout(Duration::from_millis(20), post(Some(&session), call("hold")).send()).await),
        _ => {
            let goodbye = http.delete(url).bearer_auth(key(cycle)).header("mcp-session-id", &session);
            goodbye.send().await?.bytes().await?;
        }
    }
    Ok(())
}

/// Waits until memory is back where it was, or nothing more can be expected to go; what is resident then.
async fn settled(gateway: &Gateway, before: u64) -> Result<u64, Failure> {
    let until = Instant::now() + SETTLING;
    loop {
        // To be asked is when it forgets the sessions of those who left without a word.
        gateway.metric("tollgate_sessions_active", "").await?;
        let now = gateway.resident_kib()?;
        if now as f64 <= before as f64 * (1.0 + GROWTH_MAX) || Instant::now() > until {
            return Ok(now);
        }
        sleep(Duration::from_secs(5)).await;
    }
}

/// Waits until no process works in the gateway's folder but itself; tells how many are left when the time is over.
async fn gone(home: &Path) -> usize {
    let until = Instant::now() + REST + GONE;
    loop {
        let left = processes_in(home).saturating_sub(1);
        if left == 0 || Instant::now() > until {
            return left;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn processes_in(home: &Path) -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == home)).count()
}
