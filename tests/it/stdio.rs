//! Children on stdio: the samples, and scripts that crash, babble, or leave processes behind.
//! Not here: real stdio servers (`interop`).

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Caller, SOON, request};
use crate::gateway::{self, Gateway};
use crate::packages;

/// A stdio server in a few lines: legacy only, and its tool does what its argument says.
const CHILD: &str = r#"
import json, os, subprocess, sys, time
def write(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
held = []
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if id is None:
        continue
    if method == "initialize":
        write({"jsonrpc": "2.0", "id": id, "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "child", "version": "1"}}})
    elif method == "ping":
        write({"jsonrpc": "2.0", "id": id, "result": {}})
    elif method == "tools/call":
        what = message["params"]["name"]
        if what == "crash":
            sys.stderr.write("about to fail: code 7\n")
            sys.stderr.flush()
            os._exit(7)
        if what == "rubbish":
            sys.stdout.write("Traceback (most recent call last):\n\x00\xff not json\n{\"half\": \n")
        if what == "huge":
            for _ in range(100):
                sys.stdout.write("x" * (1 << 20))
            sys.stdout.write("\n")
        if what in ("head", "tail", "unsaid"):
            begin = '{"jsonrpc": "2.0", "id": %d, "result": "' % id if what == "head" else '{"result": "'
            sys.stdout.write(begin)
            for _ in range(100):
                sys.stdout.write("x" * (1 << 20))
            sys.stdout.write('", "jsonrpc": "2.0", "id": %d}\n' % id if what == "tail" else '"}\n')
            sys.stdout.flush()
            continue
        if what == "hold":
            held.append(id)
            continue
        if what == "release":
            for other in held:
                write({"jsonrpc": "2.0", "id": other, "result": {"content": [{"type": "text", "text": str(os.getpid())}]}})
        if what == "grandchild":
            subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
        text = str(len(held)) if what == "held" else str(os.getpid())
        write({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}})
    else:
        write({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "Method not found"}})
"#;

fn script() -> Gateway {
    let server = json!({"id": "child", "runtime": {"type": "local-process", "command": packages::python(), "args": ["-u", "-c", CHILD]}});
    Gateway::start(&json!({ "servers": [server, sample()] }).to_string())
}

fn sample() -> Value {
    json!({"id": "sample", "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]}})
}

async fn call(session: &Caller, tool: &str) -> Value {
    session.post(&request(1, "tools/call", json!({"name": tool, "arguments": {}}))).await.json()
}

#[track_caller]
fn pid_of(answer: &Value) -> u32 {
    number_in(answer)
}

#[track_caller]
fn number_in(answer: &Value) -> u32 {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
}

#[tokio::test]
async fn the_sample_on_stdio_is_served_to_both_eras() {
    let gateway = Gateway::start(&json!({ "servers": [sample()] }).to_string());
    let (session, _) = Caller::new(&gateway.url("sample")).initialize().await;
    let echo = json!({"name": "echo", "arguments": {"text": "hello"}});
    let list = session.post(&request(1, "tools/list", json!({}))).await.result();
    assert!(list["tools"].as_array().unwrap().iter().any(|tool| tool["name"] == "echo"), "{list}");
    let modern = Caller::new(&gateway.url("sample")).modern_post(2, "tools/list", json!({})).await;
    assert_eq!(modern.result()["resultType"], "complete");
    assert_eq!(session.post(&request(3, "tools/call", echo)).await.json()["id"], 3);
}

#[tokio::test]
async fn a_crash_fails_its_call_at_once_with_the_last_words_and_the_next_call_starts_again() {
    let gateway = script();
    let (session, _) = Caller::new(&gateway.url("child")).initialize().await;
    let first = pid_of(&call(&session, "pid").await);
    let asked = Instant::now();
    let crashed = call(&session, "crash").await;
    assert!(asked.elapsed() < Duration::from_secs(2), "told after {:?}", asked.elapsed());
    assert!(crashed["error"].to_string().contains("about to fail: code 7"), "{crashed}");
    let asked = Instant::now();
    let second = pid_of(&call(&session, "pid").await);
    assert!(asked.elapsed() < Duration::from_secs(2), "started again after {:?}", asked.elapsed());
    assert_ne!(first, second);
    assert!(!gateway::alive(first), "the crashed child is still there, perhaps as a zombie");
}

#[tokio::test]
async fn rubbish_on_stdout_is_skipped() {
    let gateway = script();
    let (session, _) = Caller::new(&gateway.url("child")).initialize().await;
    let first = pid_of(&call(&session, "rubbish").await);
    assert_eq!(first, pid_of(&call(&session, "pid").await));
}

#[tokio::test]
async fn a_line_of_100_mb_is_skipped_in_bounded_memory() {
    let gateway = script();
    let (session, _) = Caller::new(&gateway.url("child")).initialize().await;
    let first = pid_of(&call(&session, "pid").await);
    assert_eq!(first, pid_of(&call(&session, "huge").await), "the child need not be restarted");
    check_peak(&gateway);
}

#[track_caller]
fn check_peak(gateway: &Gateway) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 160 * 1024, "peak memory {peak} KiB");
}

#[tokio::test]
async fn an_answer_of_100_mb_fails_its_call_at_once_and_no_other() {
    let gateway = script();
    let (session, _) = Caller::new(&gateway.url("child")).initialize().await;
    let first = pid_of(&call(&session, "pid").await);
    // The last one names no call, and while it is alone there is no doubt.
    for what in ["head", "tail", "unsaid"] {
        check_too_long(&session, what).await;
        assert_eq!(first, pid_of(&call(&session, "pid").await), "the child need not be restarted");
    }
    // Another call is in flight, stays so and gets its own answer.
    let other = tokio::spawn({
        let session = session.clone();
        async move { call(&session, "hold").await }
    });
    let deadline = Instant::now() + SOON;
    while number_in(&call(&session, "held").await) != 1 {
        assert!(Instant::now() < deadline, "the other call did not arrive");
    }
    for what in ["head", "tail"] {
        check_too_long(&session, what).await;
    }
    assert!(!other.is_finished());
    assert_eq!(first, pid_of(&call(&session, "release").await));
    assert_eq!(first, pid_of(&other.await.unwrap()));
    check_peak(&gateway);
}

async fn check_too_long(session: &Caller, what: &str) {
    let asked = Instant::now();
    let answer = session.post(&request(1, "tools/call", json!({"name": what, "arguments": {}}))).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "{what}: told after {:?}", asked.elapsed());
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(-31502)), "{what}: {answer}");
    assert_eq!(answer["error"]["data"]["reason"], "line_too_long");
    let message = "server 'child' answered in a line over the limit of 4194304 bytes";
    assert_eq!(answer["error"]["message"], message);
}

#[tokio::test]
async fn a_grandchild_that_ignores_sigterm_dies_with_the_gateway() {
    let gateway = script();
    let (session, _) = Caller::new(&gateway.url("child")).initialize().await;
    pid_of(&call(&session, "grandchild").await);
    assert!(gateway.descendants().len() >= 2, "{:?}", gateway.descendants());
    gateway.stop();
}

#[tokio::test]
async fn what_a_killed_gateway_left_is_swept_by_the_next() {
    let gateway = script();
    let (session, _) = Caller::new(&gateway.url("child")).initialize().await;
    let child = pid_of(&call(&session, "grandchild").await);
    let left = gateway.descendants();
    assert!(left.contains(&child), "{left:?}");
    let catalog = std::fs::read_to_string(gateway.home().join("catalog.yaml")).unwrap();
    let home = gateway.kill();
    let gateway = Gateway::with(&catalog).home(home).start();
    let deadline = Instant::now() + SOON;
    while left.iter().any(|&pid| gateway::alive(pid)) {
        assert!(Instant::now() < deadline, "not swept: {left:?}. It wrote:\n{}", gateway.log());
        tokio::task::yield_now().await;
    }
    // And the next gateway works.
    let (session, _) = Caller::new(&gateway.url("child")).initialize().await;
    pid_of(&call(&session, "pid").await);
}

#[tokio::test]
async fn two_callers_with_the_same_ids_get_their_own_answers() {
    let gateway = script();
    let (one, _) = Caller::new(&gateway.url("child")).initialize().await;
    let (two, _) = Caller::new(&gateway.url("child")).initialize().await;
    let sessions = [one, two];
    let mut calls = tokio::task::JoinSet::new();
    for round in 0..40 {
        let session = sessions[round % 2].clone();
        calls.spawn(async move { call(&session, "pid").await });
    }
    let answers = calls.join_all().await;
    let pids: std::collections::BTreeSet<u32> = answers.iter().map(pid_of).collect();
    assert_eq!((answers.len(), pids.len()), (40, 1), "{answers:?}");
    assert!(answers.iter().all(|answer| answer["id"] == 1), "{answers:?}");
}

#[tokio::test]
async fn a_removed_server_loses_its_child_and_an_equal_one_keeps_it() {
    let gateway = script();
    let (kept, _) = Caller::new(&gateway.url("child")).initialize().await;
    let pid = pid_of(&call(&kept, "pid").await);
    let (sample, _) = Caller::new(&gateway.url("sample")).initialize().await;
    sample.post(&request(1, "tools/list", json!({}))).await.result();
    let children = gateway.descendants();
    let mut catalog: Value = serde_json::from_str(&read(&gateway.home().join("catalog.yaml"))).unwrap();
    catalog["servers"].as_array_mut().unwrap().pop();
    gateway.edit_catalog(&catalog.to_string());
    let deadline = Instant::now() + SOON;
    loop {
        let answer = sample.post(&request(2, "tools/list", json!({}))).await;
        let left: Vec<u32> = children.iter().copied().filter(|&child| gateway::alive(child)).collect();
        if answer.status == 404 && left == [pid] {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{answer:?}, children {left:?}, kept {pid}. It wrote:\n{}",
            gateway.log()
        );
    }
    assert_eq!(pid_of(&call(&kept, "pid").await), pid);
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn gateways_on_one_state_directory_share_its_key_and_have_children_of_their_own() {
    let state = tempfile::tempdir().unwrap();
    let flags = ["run", "--catalog", "catalog.yaml", "--state-dir", state.path().to_str().unwrap()];
    let catalog = json!({"mcpServers": {"sample": {"command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]}}});
    let start = || Gateway::with(&catalog.to_string()).args(&flags).start();
    let (one, two) = (start(), start());
    let (session, _) = Caller::new(&one.url("sample")).initialize().await;
    let id = session.session().unwrap();
    let call = request(1, "tools/call", json!({"name": "echo", "arguments": {"text": "x"}}));
    for gateway in [&one, &two] {
        let said = Caller::new(&gateway.url("sample")).with("mcp-session-id", &id).post(&call).await;
        assert_eq!(said.result()["content"][0]["text"], "x");
    }
    assert!(one.descendants().is_disjoint(&two.descendants()));
}
