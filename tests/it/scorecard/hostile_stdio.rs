//! B08: local servers that do on stdio whatever can be done there: each call ends in time, and nobody else notices.
//! Not here: servers that die (`crash_loop`) or leave processes behind (`process_trees`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Card;
use crate::client::{Caller, SOON, request};
use crate::gateway::{self, Gateway};
use crate::meter::Meter;
use crate::packages;

/// The gateway may grow by this much: a few lines of 4 MiB and the ends of all others.
const RISE_KIB_MAX: u64 = 96 << 10;
/// A call of somebody else may take this long while all of it goes on: the machine is busy with it, too.
const BESIDE_MAX: Duration = Duration::from_secs(5);

/// What a server does when it is called, and what its caller is told: its answer, or one of these reasons.
const WAYS: [(&str, &[&str]); 14] = [
    ("banners", &[]),
    ("binary", &[]),
    ("deep", &[]),
    ("line", &[]),
    ("answer", &["line_too_long"]),
    ("stderr", &[]),
    ("asks", &[]),
    ("wrong_ids", &["timeout"]),
    ("late", &["timeout"]),
    ("silent", &["child_hung"]),
    ("deaf", &["child_hung", "timeout"]),
    ("closed", &["child_mute"]),
    ("half", &["child_exited"]),
    ("forks", &["child_exited"]),
];

const CHILD: &str = r#"
import json, os, subprocess, sys, threading, time
way = sys.argv[1]
out = sys.stdout.buffer
def write(data):
    out.write(data)
    out.flush()
def send(message):
    write(json.dumps(message).encode() + b"\n")
def answer(id, text):
    send({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}})
def misbehave(id):
    MIB = 1 << 20
    if way == "banners":
        write(b"\x1b[32mWelcome!\x1b[0m\n\n   \r\nListening on stdio...\n{\"half\": \n[]\nnull\n17\n\"text\"\n{}\n{\"jsonrpc\": \"2.0\"}\n")
    elif way == "binary":
        for _ in range(16):
            write(os.urandom(MIB))
        write(b"\x00\xff\xfe\n")
    elif way == "deep":
        write(b"[" * MIB + b"\n" + b'{"a":' * 100000 + b"\n")
    elif way == "line":
        for _ in range(100):
            write(b"x" * MIB)
        write(b"\n")
    elif way == "answer":
        write(b'{"jsonrpc": "2.0", "id": %d, "result": "' % id)
        for _ in range(100):
            write(b"x" * MIB)
        write(b'"}\n')
        return False
    elif way == "stderr":
        # Half of it in lines, half of it in one.
        line = b"e" * 1023 + b"\n"
        for _ in range(512):
            os.write(2, line * 1024)
        for _ in range(512):
            os.write(2, b"e" * MIB)
    elif way == "asks":
        for number in range(20000):
            send({"jsonrpc": "2.0", "id": "q%d" % number, "method": "sampling/createMessage", "params": {}})
    elif way == "wrong_ids":
        for wrong in (id + 1000, str(id), -id, None, [id], {"id": id}, id + 0.5, 10 ** 40, "x" * 100000):
            answer(wrong, "for nobody")
        return False
    elif way == "late":
        threading.Timer(3, answer, (id, "too late")).start()
        return False
    elif way == "silent":
        time.sleep(600)
    elif way == "closed":
        os.close(1)
        time.sleep(600)
    elif way == "half":
        write(b'{"jsonrpc": "2.0", "id": %d, "resu' % id)
        os._exit(0)
    elif way == "forks":
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
        os._exit(0)
    return True
called = False
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if id is None or method is None:
        continue
    if method == "initialize":
        send({"jsonrpc": "2.0", "id": id, "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": way, "version": "1"}}})
        if way == "deaf":
            time.sleep(600)
    elif method == "tools/call" and message["params"]["name"] == "misbehave":
        if misbehave(id):
            answer(id, "as usual")
    else:
        answer(id, "well")
"#;

fn catalog() -> Value {
    let mut servers: Vec<Value> = WAYS
        .iter()
        .map(|(way, _)| {
            let args = json!(["-I", "-S", "-u", "-c", CHILD, way]);
            let runtime = json!({"type": "local-process", "command": packages::python(), "args": args});
            let hang = if ["silent", "deaf"].contains(way) { "1s" } else { "60s" };
            let total = if ["wrong_ids", "late"].contains(way) { "2s" } else { "60s" };
            json!({"id": way, "runtime": runtime, "hang_timeout": hang, "timeouts": {"total": total}})
        })
        .collect();
    servers.push(json!({"id": "good", "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]}}));
    json!({ "servers": servers })
}

fn call(name: &str, filler: usize) -> Value {
    request(1, "tools/call", json!({"name": name, "arguments": {"text": "x", "filler": "f".repeat(filler)}}))
}

/// One way: what is wrong about what its caller is told, and about the server after it.
async fn suffer(client: Caller, way: &'static str, reasons: &'static [&'static str]) -> Vec<String> {
    let (session, _) = client.initialize().await;
    let mut wrong = Vec::new();
    // A pipe takes 64 KiB: what is longer has to be read.
    let filler = if way == "deaf" { 1 << 20 } else { 0 };
    let answer = tokio::time::timeout(3 * SOON, session_post(&session, call("misbehave", filler))).await;
    let Ok(answer) = answer else { return vec!["its call did not end".to_owned()] };
    let told = answer["error"]["data"]["reason"].as_str();
    let is_right = match (reasons, told) {
        ([], None) => answer["result"]["content"][0]["text"] == "as usual",
        (reasons, Some(told)) => reasons.contains(&told),
        _ => false,
    };
    if !is_right || answer["id"] != 1 {
        wrong.push(format!("its caller was told {answer}"));
    }
    if way == "late" {
        // What comes too late is nobody's: not even of the call that waits now.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    let next = session_post(&session, call(if way == "deaf" { "misbehave" } else { "behave" }, 0)).await;
    if way != "deaf" && next["result"]["content"][0]["text"] != "well" {
        wrong.push(format!("the next call was told {next}"));
    }
    wrong
}

/// As `Caller::post`, for answers that may take longer.
async fn session_post(session: &Caller, message: Value) -> Value {
    let body = message.to_string().into_bytes();
    let asked = session.long(reqwest::Method::POST, body, 3 * SOON).await;
    asked.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b08_whatever_a_server_does_on_stdio_its_callers_are_told_and_others_do_not_notice() {
    let mut card = Card::new("B08");
    let gateway = Arc::new(Gateway::start(&catalog().to_string()));
    let (session, _) = Caller::new(&gateway.url("good")).initialize().await;
    assert_eq!(session.post(&call("echo", 0)).await.status, 200);
    let rise = Meter(gateway.pid()).rise();
    let stop = Arc::new(AtomicBool::new(false));
    let beside = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let (mut took, mut errors) = (Vec::new(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let since = Instant::now();
                let answer = session.post(&call("echo", 0)).await;
                took.push(since.elapsed());
                if answer.status != 200 || answer.json()["result"]["content"][0]["text"] != "x" {
                    errors.push(format!("{answer:?}"));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            took.sort_unstable();
            (took, errors)
        }
    });
    let mut suffering = tokio::task::JoinSet::new();
    for (way, reasons) in WAYS {
        let client = Caller::new(&gateway.url(way));
        suffering.spawn(async move { (way, suffer(client, way, reasons).await) });
    }
    while let Some(done) = suffering.join_next().await {
        let (way, wrong) = done.unwrap();
        card.case(way, &wrong);
    }
    stop.store(true, Ordering::Relaxed);
    let (took, errors) = beside.await.unwrap();
    card.case("another server", &errors);
    let p99 = took[took.len() * 99 / 100];
    card.check("its time", *took.last().unwrap() < BESIDE_MAX, &took.last());
    let mib = rise.kib() / 1024;
    card.check("memory", rise.kib() < RISE_KIB_MAX, &mib);
    // Of the one that forked and left, nothing is left.
    let deadline = Instant::now() + SOON;
    let sleepers = || gateway.descendants().into_iter().filter(|pid| sleeps(*pid)).count();
    while sleepers() > 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    card.check("forked and left", sleepers() == 0, &sleepers());
    card.pass(&format!(
        "14 ways, 100 MiB lines, 1 GiB of stderr: every call told in time; {mib} MiB more; {} calls to another server, 0 errors, p99 {:.0} ms",
        took.len(),
        p99.as_secs_f64() * 1e3
    ));
}

/// Whether it is what the forking server left behind.
fn sleeps(pid: u32) -> bool {
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    gateway::alive(pid) && command.ends_with("import time; time.sleep(600)\0")
}

/// The control: a reader of lines takes what it is given.
#[test]
fn b08_a_naive_reader_takes_a_line_of_any_length() {
    let mut child = Command::new(packages::python())
        .args(["-I", "-S", "-u", "-c", CHILD, "line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", call("misbehave", 0)).unwrap();
    drop(stdin);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.len() > 100 << 20, "{}", line.len());
}
