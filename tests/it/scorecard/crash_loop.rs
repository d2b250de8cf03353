//! F05: local servers that die as soon as they are started, in four ways and in each mode: started rarely, then left alone.
//! Not here: when a server may be started again, to the millisecond (`bridge/starts`).

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Card, as_much_as};
use crate::client::{Caller, SOON, request};
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::packages;

/// Starts within a minute before a server is left alone.
const STARTS_MAX: usize = 5;
/// What the gateway may use of one processor with servers that crash, and for how long that is watched.
const CPU_MAX: f64 = 0.02;
const WATCHED: [u64; 2] = [10, 60];
/// Delays begin here and double; jitter takes a quarter of each at most.
const FIRST_DELAY: f64 = 0.100;
const JITTER: f64 = 0.75;

const WAYS: [&str; 4] = ["exit 0", "exit 1", "segfault", "slow"];
const MODES: [&str; 3] = ["shared", "per_caller", "per_session"];

/// Writes down when it was started, then dies, unless it was repaired.
const CHILD: &str = r#"
import json, os, signal, sys, time
name, way = sys.argv[1:]
with open("starts-" + name, "a") as log:
    log.write("%.6f\n" % time.time())
if not os.path.exists("repaired"):
    print("cannot start: " + way, file=sys.stderr, flush=True)
    if way == "slow":
        time.sleep(0.2)
    if way == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(0 if way == "exit 0" else 1)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("id") is not None:
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "it", "version": "1"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;

fn server(mode: &str, way: &str) -> (String, Value) {
    let id = format!("{mode}-{}", way.replace(' ', "-"));
    let args = json!(["-I", "-S", "-c", CHILD, id, way]);
    let runtime = json!({"type": "local-process", "command": packages::python(), "args": args});
    (id.clone(), json!({"id": id, "runtime": runtime, "mode": mode}))
}

/// When a server was started, in seconds.
fn starts(gateway: &Gateway, id: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(gateway.home().join(format!("starts-{id}"))).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn hello() -> Value {
    request(
        1,
        "initialize",
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}),
    )
}

/// Calls a server until it is left alone, and for a while after that; the last answer and what was wrong.
async fn hammer(gateway: &Gateway, id: &str) -> Vec<String> {
    let client = Caller::new(&gateway.url(id));
    let mut wrong = Vec::new();
    let deadline = Instant::now() + SOON;
    let mut refused = 0;
    while refused < 50 {
        if Instant::now() > deadline {
            return vec![format!("was not left alone: {} starts", starts(gateway, id).len())];
        }
        let answer = client.post(&hello()).await;
        let error = answer.json()["error"].clone();
        match (answer.status, error["data"]["reason"].as_str()) {
            (503, Some("start_limit")) => {
                refused += 1;
                if answer.header("retry-after").is_none() {
                    wrong.push("no Retry-After".to_owned());
                }
            }
            (200, Some("child_exited")) if refused == 0 => {}
            _ => wrong.push(format!("{answer:?}")),
        }
        if !error["data"]["stderr"].to_string().contains("cannot start") {
            wrong.push(format!("its last words are missing: {error}"));
        }
    }
    let began = starts(gateway, id);
    if began.len() > STARTS_MAX {
        wrong.push(format!("{} starts", began.len()));
    }
    for (at, pair) in began.windows(2).enumerate() {
        let wanted = FIRST_DELAY * JITTER * f64::from(1 << at);
        if pair[1] - pair[0] < wanted {
            wrong.push(format!("start {} after {:.3} s instead of {wanted:.3}", at + 2, pair[1] - pair[0]));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_a_server_that_crashes_is_started_rarely_then_left_alone_until_it_is_reset() {
    let mut card = Card::new("F05");
    let mut crashing = Vec::new();
    for mode in MODES {
        for way in WAYS {
            crashing.push(server(mode, way));
        }
    }
    let good = json!({"id": "good", "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]}});
    let mut servers: Vec<Value> = crashing.iter().map(|(_, server)| server.clone()).collect();
    servers.push(good);
    let gateway = Arc::new(Gateway::start(&json!({ "servers": servers }).to_string()));
    // The others must not notice.
    let stop = Arc::new(AtomicBool::new(false));
    let beside = tokio::spawn({
        let (stop, client) = (Arc::clone(&stop), Caller::new(&gateway.url("good")));
        async move {
            let (session, _) = client.initialize().await;
            let call = request(1, "tools/call", json!({"name": "echo", "arguments": {"text": "x"}}));
            let (mut calls, mut errors) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let answer = session.post(&call).await;
                calls += 1;
                if answer.status != 200 || answer.json().get("result").is_none() {
                    errors.push(format!("{answer:?}"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (calls, errors)
        }
    });
    let mut hammered = tokio::task::JoinSet::new();
    for (id, _) in &crashing {
        let (gateway, id) = (Arc::clone(&gateway), id.clone());
        hammered.spawn(async move { (hammer(&gateway, &id).await, id) });
    }
    while let Some(done) = hammered.join_next().await {
        let (wrong, id) = done.unwrap();
        card.case(&id, &wrong);
    }
    stop.store(true, Ordering::Relaxed);
    let (calls, errors) = beside.await.unwrap();
    card.case("another server", &errors);
    let most = crashing.iter().map(|(id, _)| starts(&gateway, id).len()).max().unwrap();
    // Repaired, it needs a word of its operator, not a minute.
    std::fs::write(gateway.home().join("repaired"), "").unwrap();
    for (id, _) in &crashing {
        let refused = Caller::new(&gateway.url(id)).post(&hello()).await.status;
        let reset = Caller::new(&gateway.path(&format!("/servers/{id}/start"))).post(&json!({})).await.status;
        let answer = Caller::new(&gateway.url(id)).post(&hello()).await;
        let works = answer.status == 200 && answer.json().get("result").is_some();
        card.check(
            &format!("{id} is reset"),
            refused == 503 && reset == 200 && works,
            &(refused, reset, &answer),
        );
    }
    card.pass(&format!(
        "4 ways to crash x 3 modes: at most {most} starts, from 100 ms on apart, then left alone; reset by hand works; {calls} calls beside them, 0 errors"
    ));
}

#[tokio::test]
async fn f05_a_crash_loop_costs_next_to_nothing() {
    let mut card = Card::new("F05");
    // Kept warm, it is started without anybody's call: the loop is the gateway's own.
    let (id, mut looping) = server("per_session", "exit 1");
    looping["warm"] = json!(2);
    let gateway = Gateway::start(&json!({"servers": [looping]}).to_string());
    let meter = Meter(gateway.pid());
    let (before, since) = (meter.cpu(), Instant::now());
    let watched = Duration::from_secs(as_much_as(WATCHED[0], WATCHED[1]));
    tokio::time::sleep(watched).await;
    let share = (meter.cpu() - before).as_secs_f64() / since.elapsed().as_secs_f64();
    let count = starts(&gateway, &id).len();
    card.check("processor time", share < CPU_MAX, &share);
    card.check("starts", count == STARTS_MAX, &count);
    // The control: who starts it again at once does nothing else.
    let folder = tempfile::tempdir().unwrap();
    let until = Instant::now() + Duration::from_secs(1);
    let mut naive = 0;
    while Instant::now() < until {
        let mut child = Command::new(packages::python())
            .args(["-I", "-S", "-c", CHILD, "naive", "exit 1"])
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.wait().unwrap();
        naive += 1;
    }
    card.check("a naive supervisor", naive > STARTS_MAX, &naive);
    card.pass(&format!(
        "{:.2} % of a processor over {watched:?} with a server that crashes, {count} starts; without back-off {naive} starts each second",
        share * 100.0
    ));
}
