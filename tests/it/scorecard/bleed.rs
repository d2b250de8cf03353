//! S06: two hundred callers with equal ids and equal progress tokens: nobody gets what is another's.
//! Not here: whose a session is (`callers`), what an honest client is asked back (`children`).
//!
//! The child takes what has come, and answers in the opposite order. A naive relay, which trusts ids as its clients
//! chose them, hands most answers to the wrong one: that is the control.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Card, as_much_as};
use crate::client::{Answer, Caller, request};
use crate::gateway::Gateway;
use crate::packages;

const CALLERS: usize = 200;
const CALLS: [usize; 2] = [100, 500];
/// Of sessions and callers with a process each, so many at once: two hundred interpreters are a few GB.
const AT_ONCE: usize = 40;

const CHILD: &str = r#"
import json, os, sys
rest = b""
while True:
    piece = os.read(0, 1 << 16)
    if not piece:
        break
    *lines, rest = (rest + piece).split(b"\n")
    for line in reversed(lines):
        message = json.loads(line)
        if message.get("id") is None:
            continue
        answers = []
        if message["method"] == "initialize":
            result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "nonce", "version": "1"}}
        else:
            nonce = message["params"]["arguments"]["nonce"]
            token = (message["params"].get("_meta") or {}).get("progressToken")
            if token is not None:
                answers.append({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1, "message": nonce}})
            result = {"content": [{"type": "text", "text": nonce}]}
        answers.append({"jsonrpc": "2.0", "id": message["id"], "result": result})
        sys.stdout.write("".join(json.dumps(answer) + "\n" for answer in answers))
        sys.stdout.flush()
"#;

fn key(caller: usize) -> String {
    format!("Kq7vB2mX9kT4wZ6nP3cL8dR5{caller:03}")
}

fn gateway(mode: &str) -> Gateway {
    let python = packages::python();
    let runtime = json!({"type": "local-process", "command": python, "args": ["-I", "-S", "-c", CHILD]});
    let mut server = json!({"id": "it", "runtime": runtime, "mode": mode});
    if mode != "shared" {
        server["max_processes"] = json!(3 * AT_ONCE);
    }
    if mode == "per_caller" {
        // Nobody says goodbye to a caller's child.
        server["idle_timeout"] = json!("1s");
    }
    let keys: Vec<Value> = (0..CALLERS)
        .map(|caller| json!({"name": format!("c{caller}"), "key": key(caller), "servers": ["*"]}))
        .collect();
    let conf = json!({"drain": "5s", "auth": {"keys": keys}, "log": {"audit": "off"}, "limits": {"child_pending": 1000}});
    Gateway::with(&json!({"servers": [server]}).to_string()).conf(&conf.to_string()).start()
}

/// What one caller got that was not its own, and how many of its calls it left.
async fn calls(client: Caller, caller: usize) -> (Vec<String>, usize) {
    let (session, _) = client.initialize().await;
    let (mut wrong, mut left) = (Vec::new(), 0);
    for call in 0..as_much_as(CALLS[0], CALLS[1]) {
        let nonce = format!("{caller}-{call}");
        let mut params = json!({"name": "nonce", "arguments": {"nonce": nonce}});
        if call % 4 == 0 {
            params["_meta"] = json!({"progressToken": 7});
        }
        let body = request(7, "tools/call", params);
        if call % 10 == 9 {
            // It leaves in the middle; its answer comes to nobody.
            let body = body.to_string().into_bytes();
            let asked = session.open(reqwest::Method::POST, body);
            left +=
                usize::from(tokio::time::timeout(std::time::Duration::from_millis(1), asked).await.is_err());
            continue;
        }
        let answer = session.post(&body).await;
        if let Some(seen) = foreign(&answer, &nonce) {
            wrong.push(format!("{nonce} got {seen}"));
        }
    }
    let ended = session.send(reqwest::Method::DELETE, Vec::new()).await;
    if ended.status >= 300 {
        wrong.push(format!("{caller} could not end: {ended:?}"));
    }
    (wrong, left)
}

/// What in an answer is not its caller's.
fn foreign(answer: &Answer, nonce: &str) -> Option<String> {
    if answer.status != 200 {
        return Some(format!("{answer:?}"));
    }
    let message = answer.json();
    let is_own = message["id"] == 7 && message["result"]["content"][0]["text"] == nonce;
    let notes = answer
        .body
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok());
    let strange = notes
        .filter(|note| note["method"] == "notifications/progress")
        .find(|note| note["params"]["message"] != nonce || note["params"]["progressToken"] != 7);
    if is_own { strange.map(|note| note.to_string()) } else { Some(answer.body.clone()) }
}

async fn check(mode: &str, at_once: usize) {
    let gateway = Arc::new(gateway(mode));
    let mut card = Card::new("S06");
    let mut running = JoinSet::new();
    let (mut next, mut left, mut wrong) = (0, 0, 0);
    while next < CALLERS || !running.is_empty() {
        while next < CALLERS && running.len() < at_once {
            let client =
                Caller::new(&gateway.url("it")).with("authorization", &format!("Bearer {}", key(next)));
            let caller = next;
            running.spawn(async move { (caller, calls(client, caller).await) });
            next += 1;
        }
        let (caller, (strange, gone)) = running.join_next().await.unwrap().unwrap();
        left += gone;
        wrong += strange.len();
        card.case(&format!("{mode} caller {caller}"), &strange);
    }
    assert!(left > 0, "nobody left in the middle");
    card.pass(&format!(
        "{mode}: {CALLERS} callers x {} calls with one id and one progress token: {wrong} answers or notes of another; {left} left in the middle",
        as_much_as(CALLS[0], CALLS[1])
    ));
    drop(gateway);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s06_nobody_gets_anothers_answer_from_a_shared_child() {
    check("shared", CALLERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s06_nobody_gets_anothers_answer_from_a_callers_child() {
    check("per_caller", AT_ONCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s06_nobody_gets_anothers_answer_from_a_sessions_child() {
    check("per_session", AT_ONCE).await;
}

/// The control: ids as clients chose them, the first who waits for one gets the answer.
#[test]
fn s06_a_naive_relay_mixes_answers_up() {
    let mut child = Command::new(packages::python())
        .args(["-I", "-S", "-c", CHILD])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut batch = String::new();
    let mut waiting: HashMap<u64, Vec<String>> = HashMap::new();
    for caller in 0..CALLERS {
        let nonce = format!("{caller}-0");
        let params = json!({"name": "nonce", "arguments": {"nonce": nonce}});
        batch.push_str(&format!("{}\n", request(7, "tools/call", params)));
        waiting.entry(7).or_default().push(nonce);
    }
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(batch.as_bytes()).unwrap();
    drop(stdin);
    let mut wrong = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().take(CALLERS) {
        let message: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let nonce = waiting.get_mut(&message["id"].as_u64().unwrap()).unwrap().remove(0);
        wrong += usize::from(message["result"]["content"][0]["text"] != nonce);
    }
    child.wait().unwrap();
    assert!(wrong > CALLERS / 2, "only {wrong} of {CALLERS} went to the wrong one");
}
