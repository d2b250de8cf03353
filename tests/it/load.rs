//! Under load: a catalog edited a hundred times, an endpoint that dies and comes back, children killed again and again.
//! Not here: one call at a time (`exchange`, `stdio`), speed (`benches`).

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::{Caller, SOON, request};
use crate::fake::{self, Fake};
use crate::gateway::{self, Gateway};

/// Calls to one server at a steady pace, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    task: JoinHandle<Vec<String>>,
}

impl Load {
    /// 50 calls a second. A call fails if it is not answered 200 with a result.
    fn start(caller: Caller, message: Value) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&calls));
        let task = tokio::spawn(async move {
            let mut failures = Vec::new();
            let mut pace = interval(Duration::from_millis(20));
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                let answer = caller.post(&message).await;
                if answer.status != 200 || answer.json().get("result").is_none() {
                    failures.push(format!("{} {}", answer.status, answer.body));
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
        Self { stop, calls, task }
    }

    /// Ends it: how many calls there were, and those that failed.
    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.task.await.unwrap();
        (self.calls.load(Ordering::Relaxed), failures)
    }
}

fn remote(id: &str, url: &str) -> Value {
    json!({"id": id, "runtime": {"type": "remote-http", "url": url}})
}

fn sample(id: &str) -> Value {
    json!({"id": id, "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]}})
}

fn catalog(servers: &[Value]) -> String {
    json!({ "servers": servers }).to_string()
}

fn echo(id: u64) -> Value {
    request(id, "tools/call", json!({"name": "echo", "arguments": {"text": "hello"}}))
}

/// Waits until the condition holds; fails with what it says last after the deadline.
async fn until<F: Future<Output = Result<(), String>>>(within: Duration, condition: impl Fn() -> F) {
    let deadline = Instant::now() + within;
    while let Err(complaint) = condition().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {complaint}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_hundred_edits_of_the_catalog_fail_no_call_and_touch_no_unchanged_child() {
    let fake = Fake::start(fake::legacy);
    let kept = [remote("remote", &fake.url()), sample("local")];
    let gateway = Gateway::start(&catalog(&kept));
    let (session, _) = Caller::new(&gateway.url("remote")).initialize().await;
    let (local, _) = Caller::new(&gateway.url("local")).initialize().await;
    local.post(&echo(1)).await.result();
    let children = gateway.descendants();
    assert_eq!(children.len(), 1, "{children:?}");
    let loads = [Load::start(session, echo(2)), Load::start(local, echo(3))];

    let mut pace = interval(Duration::from_millis(100));
    for edit in 0..100 {
        pace.tick().await;
        let mut servers = kept.to_vec();
        servers.push(remote(&format!("extra-{edit}"), &fake.url()));
        match edit % 3 {
            0 => gateway.edit_catalog("servers:\n  - id: [not, an, id]\n   bad: indent\n"),
            1 => gateway.edit_catalog(&catalog(&servers)),
            _ => {
                servers[0]["description"] = json!(format!("edit {edit}"));
                gateway.edit_catalog(&catalog(&servers));
            }
        }
    }

    // An added server answers within a second, a removed one is 404 as soon.
    let mut servers = kept.to_vec();
    servers.push(remote("added", &fake.url()));
    gateway.edit_catalog(&catalog(&servers));
    let status = |server: &'static str| {
        let caller = Caller::new(&gateway.url(server));
        async move { caller.post(&request(4, "tools/list", json!({}))).await.status }
    };
    until(Duration::from_secs(1), || async {
        let status = status("added").await;
        (status == 200).then_some(()).ok_or_else(|| format!("added: {status}"))
    })
    .await;
    gateway.edit_catalog(&catalog(&kept));
    until(Duration::from_secs(1), || async {
        let status = status("added").await;
        (status == 404).then_some(()).ok_or_else(|| format!("removed: {status}"))
    })
    .await;

    for load in loads {
        let (calls, failures) = load.end().await;
        assert!(calls > 200, "only {calls} calls");
        assert!(failures.is_empty(), "{} of {calls} calls failed, first {}", failures.len(), failures[0]);
    }
    assert_eq!(gateway.descendants(), children, "an unchanged child was replaced");
    gateway.stop();
}

#[tokio::test]
async fn endpoints_share_calls_evenly_and_a_dead_one_leaves_and_returns() {
    let mut fakes: Vec<Fake> = (0..3).map(|_| Fake::start(fake::modern)).collect();
    let endpoints: Vec<Value> = fakes.iter().map(|fake| json!({"url": fake.url()})).collect();
    let health = json!({"type": "tcp", "interval": "200ms", "timeout": "1s", "unhealthy_after": 1, "healthy_after": 1});
    let server =
        json!({"id": "it", "runtime": {"type": "remote-http", "endpoints": endpoints}, "health": health});
    let gateway = Gateway::start(&catalog(&[server]));
    let caller = Caller::new(&gateway.url("it"));
    let call = |id: u64| caller.modern(id, "tools/call", json!({"name": "echo", "arguments": {}}));
    for id in 0..90 {
        let (caller, message) = call(id);
        caller.post(&message).await.result();
    }
    let shares: Vec<usize> = fakes.iter().map(|fake| fake.seen_rpc("tools/call").len()).collect();
    assert!(shares.iter().all(|share| (25..=35).contains(share)), "{shares:?} of 90");

    let (loaded, message) = call(1);
    let load = Load::start(loaded.clone(), message.clone());
    let dead = fakes.remove(0);
    let address = dead.url().trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
    drop(dead);
    // It has left once a hundred calls in a row succeed: a third of them would have been its own.
    until(SOON, || async {
        for _ in 0..100 {
            let answer = loaded.post(&message).await;
            if answer.status != 200 {
                return Err(answer.body);
            }
        }
        Ok(())
    })
    .await;
    let back = Fake::start_on(TcpListener::bind(&address).unwrap(), fake::modern);
    back.wait_for("tools/call", SOON).await;
    let (calls, failures) = load.end().await;
    // What was on its way when it died may fail: a call is never sent twice.
    assert!(failures.len() <= 5, "{} of {calls} calls failed, first {}", failures.len(), failures[0]);
}

#[tokio::test]
async fn a_child_killed_fifty_times_under_load_disturbs_nobody() {
    let fake = Fake::start(fake::legacy);
    let gateway =
        Gateway::start(&catalog(&[remote("remote", &fake.url()), sample("other"), sample("victim")]));
    let (remote, _) = Caller::new(&gateway.url("remote")).initialize().await;
    let (other, _) = Caller::new(&gateway.url("other")).initialize().await;
    other.post(&echo(1)).await.result();
    let others = gateway.descendants();
    let (victim, _) = Caller::new(&gateway.url("victim")).initialize().await;
    let loads = [Load::start(remote, echo(2)), Load::start(other, echo(3))];
    let mut killed = BTreeSet::new();
    for round in 0..50 {
        let asked = Instant::now();
        // A call that the kill meets may fail, but at once; then the next is answered.
        until(Duration::from_secs(2), || async {
            let answer = victim.post(&echo(4)).await;
            (answer.json().get("result").is_some())
                .then_some(())
                .ok_or(format!("round {round}: {}", answer.body))
        })
        .await;
        assert!(asked.elapsed() < Duration::from_secs(2), "round {round} took {:?}", asked.elapsed());
        for &child in gateway.descendants().difference(&others) {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child).unwrap());
            // It may be gone already.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            killed.insert(child);
        }
    }
    assert!(killed.len() >= 50, "only {} children were killed", killed.len());
    for load in loads {
        let (calls, failures) = load.end().await;
        assert!(failures.is_empty(), "{} of {calls} calls failed, first {}", failures.len(), failures[0]);
    }
    let left: Vec<&u32> = killed.iter().filter(|&&pid| gateway::alive(pid)).collect();
    assert!(left.len() <= 1, "zombies: {left:?}");
    gateway.stop();
}

#[tokio::test]
async fn a_thousand_starts_and_stops_leave_nothing_behind() {
    let gateway = Gateway::start(&catalog(&[sample("it")]));
    let cycle = |what: &'static str| {
        let caller = Caller::new(&gateway.path(&format!("/servers/it/{what}")));
        async move {
            let answer = caller.send(reqwest::Method::POST, Vec::new()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    let open = || std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    // The first cycles open what stays open: connections, the bridge's socket.
    for _ in 0..5 {
        cycle("start").await;
        cycle("stop").await;
    }
    let before = open();
    for _ in 0..1000 {
        cycle("start").await;
        cycle("stop").await;
    }
    let after = open();
    assert!(after <= before + 5, "open files went from {before} to {after}");
    assert_eq!(gateway.descendants(), BTreeSet::new());
    gateway.stop();
}
