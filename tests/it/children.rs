//! Modes of local servers, through the gateway: real clients that are asked back, and clients of every kind of child.
//! Not here: one child's life (`stdio`), attacks and faults that are counted (`scorecard`).

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Caller, SOON};
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::packages;
use crate::scorecard::Card;

/// Each client has a shorter deadline of its own.
const CLIENT: Duration = Duration::from_secs(60);

fn everything(mode: &str) -> Gateway {
    let script = packages::everything();
    let runtime = json!({"type": "local-process", "command": packages::node(), "args": [script, "stdio"]});
    Gateway::start(&json!({"servers": [{"id": "it", "runtime": runtime, "mode": mode}]}).to_string())
}

/// Runs clients side by side; what each printed.
#[track_caller]
fn run(gateway: &Gateway, clients: Vec<(Command, &'static str)>) -> Vec<(&'static str, Value)> {
    let url = gateway.url("it");
    std::thread::scope(|scope| {
        let running: Vec<_> = clients
            .into_iter()
            .map(|(mut command, word)| {
                command.args([&url, "--tool", word]);
                scope.spawn(move || {
                    let said = packages::run(command, CLIENT);
                    assert!(said.status.success(), "{word} failed: {}{}", said.stdout, said.stderr);
                    (word, serde_json::from_str(said.stdout.lines().last().unwrap()).unwrap())
                })
            })
            .collect();
        running.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

/// Waits until no child is left: their clients have said goodbye.
#[track_caller]
fn until_childless(gateway: &Gateway) {
    let deadline = Instant::now() + SOON;
    while !gateway.descendants().is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}. It wrote:\n{}", gateway.descendants(), gateway.log());
        std::thread::yield_now();
    }
}

fn typescript() -> Command {
    let mut command = Command::new(packages::node());
    command.arg(packages::folder().join("clients/ts_asked.mjs"));
    command
}

fn python() -> Command {
    let mut command = Command::new(packages::python());
    command.arg(packages::folder().join("clients/python_asked.py"));
    command
}

#[test]
fn real_clients_are_asked_back_by_the_child_of_their_session_and_by_no_other() {
    let gateway = everything("per_session");
    let clients = vec![(typescript(), "alpha"), (python(), "beta"), (typescript(), "gamma")];
    let words = ["alpha", "beta", "gamma"];
    for (word, line) in run(&gateway, clients) {
        let tools = line["tools"].as_array().unwrap();
        assert!(tools.iter().any(|tool| tool == "trigger-sampling-request"), "{word}: {line}");
        for method in ["sampling/createMessage", "elicitation/create", "roots/list"] {
            assert!(
                line["asked"].as_array().unwrap().contains(&json!(method)),
                "{word}: no {method}: {line}"
            );
        }
        for key in ["sampled", "elicited", "roots"] {
            let text = line[key].as_str().unwrap();
            assert!(text.contains(word), "{word} did not get its own {key}: {text}");
            let others = words.iter().filter(|other| **other != word);
            assert!(others.clone().all(|other| !text.contains(other)), "{word} got another's {key}: {text}");
        }
    }
    until_childless(&gateway);
}

#[test]
fn a_shared_child_offers_nothing_that_asks_back() {
    // The control: the same server, and the same clients, without a child of their own.
    for mode in ["shared", "per_caller"] {
        let gateway = everything(mode);
        let mut command = typescript();
        command.args([&gateway.url("it"), "--tool", "alpha"]);
        let said = packages::run(command, CLIENT);
        assert!(
            said.stderr.contains("trigger-sampling-request") || said.stdout.contains("not found"),
            "{}{}",
            said.stdout,
            said.stderr
        );
        assert!(!said.stdout.contains("sampled alpha"), "{}", said.stdout);
    }
}

#[test]
fn clients_that_try_the_modern_era_first_find_their_way_in_each_mode() {
    for mode in ["per_caller", "per_session"] {
        let gateway = everything(mode);
        let run = |mut command: Command, program: &str| {
            command.arg(packages::folder().join("clients").join(program));
            command.args([
                &gateway.url("it"),
                "--mode",
                "auto",
                "--tool",
                "echo",
                "--args",
                r#"{"message": "hello"}"#,
            ]);
            let said = packages::run(command, CLIENT);
            assert!(said.status.success(), "{mode}, {program}: {}{}", said.stdout, said.stderr);
            let line: Value = serde_json::from_str(said.stdout.lines().last().unwrap()).unwrap();
            assert_eq!(line["result"]["content"][0]["text"], "Echo: hello", "{mode}, {program}: {line}");
            assert_eq!(line["era"], "legacy", "{mode}, {program}: {line}");
        };
        run(Command::new(packages::node()), "ts_v2.mjs");
        run(Command::new(packages::python()), "python_client.py");
        gateway.stop();
    }
}

#[tokio::test]
async fn callers_have_children_of_their_own_and_cannot_say_who_they_are() {
    let sample = json!({"type": "local-process", "command": packages::python(), "args": ["-c", PID]});
    let catalog = json!({"servers": [{"id": "it", "runtime": sample, "mode": "per_caller"}]});
    let conf = "drain: 5s\nauth:\n  keys:\n    - {name: a, key: Kq7vB2mX9kT4wZ6nP3cL8dR5, servers: ['*']}\n    - {name: b, key: Mq7vB2mX9kT4wZ6nP3cL8dR5, servers: ['*']}\n";
    let gateway = Gateway::with(&catalog.to_string()).conf(conf).start();
    let client = |key: &str| Caller::new(&gateway.url("it")).with("authorization", &format!("Bearer {key}"));
    let call = crate::client::request(1, "tools/call", json!({"name": "pid", "arguments": {}}));
    let mut pids = Vec::new();
    let (a, b) = ("Kq7vB2mX9kT4wZ6nP3cL8dR5", "Mq7vB2mX9kT4wZ6nP3cL8dR5");
    // The number of a caller is the gateway's own: what a client says of it goes nowhere.
    for (key, forged) in [(a, ""), (a, "1"), (b, ""), (b, "1")] {
        let client =
            if forged.is_empty() { client(key) } else { client(key).with("x-tollgate-caller", forged) };
        let (session, _) = client.initialize().await;
        pids.push(session.post(&call).await.result()["content"][0]["text"].clone());
    }
    assert!(pids[0] == pids[1] && pids[2] == pids[3] && pids[1] != pids[2], "{pids:?}");
    gateway.stop();
}

/// A legacy server that tells its process id.
const PID: &str = r#"
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("id") is None:
        continue
    result = {"content": [{"type": "text", "text": str(os.getpid())}]}
    if message["method"] == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "pid", "version": "1"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;

/// A legacy server of which every third ignores SIGTERM and starts another that does.
const CHURNED: &str = r#"
import json, os, signal, subprocess, sys, time
if os.getpid() % 3 == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], stdin=subprocess.DEVNULL)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("id") is None or (message.get("params") or {}).get("name") == "hold":
        continue
    result = {"content": [{"type": "text", "text": str(os.getpid())}]}
    if message["method"] == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "churned", "version": "1"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
if os.getpid() % 3 == 0:
    time.sleep(600)
"#;

/// Clients that come and go in each mode.
const CYCLES: usize = 150;
const AT_ONCE: usize = 12;
/// When the last client is gone, nothing is left after this time; the children's rest is a part of it.
const GONE: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_secs(1);

fn churn_key(cycle: usize) -> String {
    format!("Kq7vB2mX9kT4wZ6nP3cL8dR5{cycle:03}")
}

fn churned(mode: &str) -> Gateway {
    let runtime =
        json!({"type": "local-process", "command": packages::python(), "args": ["-I", "-S", "-c", CHURNED]});
    let server = json!({"id": "it", "runtime": runtime, "mode": mode, "idle_timeout": "1s", "timeouts": {"total": "2s"}});
    let keys: Vec<Value> = (0..CYCLES)
        .map(|cycle| json!({"name": format!("c{cycle}"), "key": churn_key(cycle), "servers": ["*"]}))
        .collect();
    let conf = json!({"drain": "5s", "auth": {"keys": keys}, "log": {"audit": "off"}});
    Gateway::with(&json!({"servers": [server]}).to_string()).conf(&conf.to_string()).start()
}

/// One client comes, calls, and goes: with a goodbye, without one, or in the middle of a call.
async fn come_and_go(client: Caller, cycle: usize) {
    let deadline = Instant::now() + 3 * SOON;
    let params = json!({"protocolVersion": crate::client::LEGACY, "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    let hello = crate::client::request(0, "initialize", params);
    let call = |name: &str| crate::client::request(1, "tools/call", json!({"name": name, "arguments": {}}));
    let session = loop {
        assert!(Instant::now() < deadline, "a client got no session that lasts for a call");
        let answer = client.post(&hello).await;
        if answer.status == 503 {
            // Where all places are taken by those that are ending, clients are told to come again.
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        }
        assert!(answer.status == 200 && answer.json().get("result").is_some(), "{answer:?}");
        let session = client.clone().with("mcp-session-id", answer.header("mcp-session-id").unwrap());
        session.post(&crate::client::notification("notifications/initialized")).await;
        let answer = session.post(&call("pid")).await;
        if answer.status == 404 {
            // It rested for too long: the machine is busy. Clients begin again.
            continue;
        }
        assert!(answer.status == 200 && answer.json().get("result").is_some(), "{answer:?}");
        break session;
    };
    match cycle % 6 {
        // It vanishes.
        0 => {}
        // It vanishes in the middle of a call.
        1 => {
            let held = session.open(reqwest::Method::POST, call("hold").to_string().into_bytes());
            drop(tokio::time::timeout(Duration::from_millis(50), held).await);
        }
        _ => {
            let ended = session.send(reqwest::Method::DELETE, Vec::new()).await;
            assert!(ended.status < 300 || ended.status == 404, "{ended:?}");
        }
    }
}

async fn churn(gateway: &Gateway, cycles: usize) -> Duration {
    let mut clients = tokio::task::JoinSet::new();
    for cycle in 0..cycles {
        while clients.len() >= AT_ONCE {
            clients.join_next().await.unwrap().unwrap();
        }
        let bearer = format!("Bearer {}", churn_key(cycle));
        clients.spawn(come_and_go(Caller::new(&gateway.url("it")).with("authorization", &bearer), cycle));
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let since = Instant::now();
    while !gateway.descendants().is_empty() {
        assert!(since.elapsed() < GONE + REST + SOON, "left: {:?}", gateway.descendants());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    since.elapsed()
}

/// A round to warm up and one that counts: how long the last processes took, and what grew.
async fn rounds(mode: &'static str) -> (&'static str, Duration, f64, (usize, usize)) {
    let gateway = churned(mode);
    // What is allocated once is there after the first round.
    churn(&gateway, CYCLES).await;
    let meter = Meter(gateway.pid());
    let (before, open) = (meter.resident_kib(), descriptors(&gateway));
    let gone = churn(&gateway, CYCLES).await;
    let grown = meter.resident_kib() as f64 / before as f64 - 1.0;
    (mode, gone, grown, (open, descriptors(&gateway)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_come_and_go_and_leave_neither_processes_nor_memory() {
    let mut card = Card::new("F06");
    let mut figures = Vec::new();
    let mut modes = tokio::task::JoinSet::new();
    for mode in ["shared", "per_caller", "per_session"] {
        modes.spawn(rounds(mode));
    }
    while let Some(done) = modes.join_next().await {
        let (mode, gone, grown, (before, after)) = done.unwrap();
        card.check(&format!("{mode}: processes"), gone < GONE + REST, &gone);
        // The full form (`benches/soak`) asks for a twentieth, of which a short one is noise.
        card.check(&format!("{mode}: memory"), grown < 0.10, &grown);
        // Connections to the bridge are kept for a while; each child that was not let go would be three more.
        card.check(&format!("{mode}: descriptors"), after < before + CYCLES, &(before, after));
        figures.push(format!("{mode} {:.1} s, {:+.1} %", gone.as_secs_f64(), grown * 100.0));
    }
    card.pass(&format!(
        "2 x {CYCLES} clients in each mode, a third vanishing, a third of the children deaf to SIGTERM and forking; all gone after, and memory: {}",
        figures.join("; ")
    ));
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}
