//! Modes of local servers, through the gateway: real clients that are asked back, and clients of every kind of child.
//! Not here: one child's life (`stdio`), attacks and faults that are counted (`scorecard`).

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Caller, SOON};
use crate::gateway::Gateway;
use crate::packages;

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
