//! F03: a gateway that is replaced by a new process, again and again, while clients call.
//! Not here: the end without a successor (`leaving`).

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::Card;
use crate::client::{Caller, SOON, request};
use crate::fake::{self, Act, Fake, Seen, Step};
use crate::gateway::{self, Gateway};

const UPGRADES: usize = 10;
/// An old process waits five seconds for clients that keep a connection without using it.
const OLD_ENDS: Duration = Duration::from_secs(30);

fn listening(seen: &Seen) -> Act {
    let tick =
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}});
    match seen.method.as_str() {
        "GET" => Act::Stream(vec![Step::Send(tick), Step::Hang]),
        _ => fake::legacy(seen),
    }
}

fn sample() -> Value {
    json!({"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]})
}

fn catalog(fake: &Fake) -> String {
    let remote = json!({"type": "remote-http", "url": fake.url()});
    json!({"servers": [{"id": "local", "runtime": sample()}, {"id": "fake", "runtime": remote}]}).to_string()
}

/// Something that is done again and again until it is told to stop; gives how often, and what went wrong.
struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Load {
    fn start<F: Future<Output = Result<(), String>> + Send>(
        pace: Duration,
        act: impl Fn() -> F + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut count, mut failures) = (0, Vec::new());
            let mut pace = interval(pace);
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                count += 1;
                failures.extend(act().await.err());
            }
            (count, failures)
        });
        Self { stop, task }
    }

    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Calls of a session over connections that are kept.
fn calls(session: &Caller) -> Load {
    let call = request(1, "tools/call", json!({"name": "echo", "arguments": {"text": "hello"}}));
    let session = session.clone();
    Load::start(Duration::from_millis(10), move || {
        let (session, body) = (session.clone(), call.to_string());
        async move {
            let sent = session.try_post(body).await.map_err(|error| format!("{error:?}"))?;
            if sent.contains("\"result\"") { Ok(()) } else { Err(sent) }
        }
    })
}

/// A call over a connection of its own.
async fn alone(address: SocketAddr) -> Result<(), String> {
    let said = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mut socket = TcpStream::connect(address).await.map_err(said("connect"))?;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;
    let head = format!(
        "POST /servers/fake/mcp HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.map_err(said("write"))?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.map_err(said("read"))?;
    if answer.starts_with("HTTP/1.1 200") && answer.contains("\"result\"") { Ok(()) } else { Err(answer) }
}

/// A stream that is opened again whenever it has ended; each end must be a proper one.
async fn listen(session: &Caller) -> Result<(), String> {
    let mut stream = session.open(reqwest::Method::GET, Vec::new()).await;
    let mut text = String::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(500), stream.chunk()).await {
            // Long enough: the next one may be of the next process.
            Err(_) if text.contains("notifications/message") => return Ok(()),
            Err(_) => return Err(format!("nothing came: {text}")),
            Ok(Ok(Some(piece))) => text.push_str(&String::from_utf8_lossy(&piece)),
            Ok(Ok(None)) if text.ends_with("retry: 1000\n\n") => return Ok(()),
            Ok(other) => return Err(format!("{other:?} after {text}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_ten_upgrades_turn_nobody_away() {
    let mut card = Card::new("F03");
    let fake = Fake::start(listening);
    let mut gateway = Gateway::with(&catalog(&fake)).conf("drain: 10s\n").start();
    let address = gateway.address();
    let (session, _) = Caller::new(&gateway.url("fake")).initialize().await;
    let (local, _) = Caller::new(&gateway.url("local")).initialize().await;
    let listener = session.clone();
    let loads = [
        ("calls of a session", calls(&session)),
        ("calls of a session with a local server", calls(&local)),
        ("calls over new connections", Load::start(Duration::from_millis(5), move || alone(address))),
        (
            "streams",
            Load::start(Duration::from_millis(50), move || {
                let listener = listener.clone();
                async move { listen(&listener).await }
            }),
        ),
    ];
    let mut old = Vec::new();
    for round in 0..UPGRADES {
        // Reloads go on meanwhile, in whichever process it is.
        let mut edited: Value = serde_json::from_str(&catalog(&fake)).unwrap();
        edited["servers"][1]["description"] = json!(format!("round {round}"));
        gateway.edit_catalog(&edited.to_string());
        let upgraded = tokio::task::block_in_place(|| gateway.upgrade());
        card.check("an upgrade", upgraded.is_ok(), &(round, &upgraded));
        old.extend(upgraded);
        // The session goes on at once, whoever answers.
        let answer = session.post(&request(2, "ping", json!({}))).await;
        card.check("the session goes on", answer.status == 200, &answer);
    }
    for pid in &old {
        tokio::task::block_in_place(|| gateway.wait_for_end_of(*pid, OLD_ENDS));
    }
    let mut figures = Vec::new();
    for (what, load) in loads {
        let (count, failures) = load.end().await;
        card.check(what, failures.is_empty() && count > 5, &(count, failures.len(), failures.first()));
        figures.push(format!("{count} {what}"));
    }
    let counted = Caller::new(&gateway.path("/metrics")).send(reqwest::Method::GET, Vec::new()).await.body;
    card.check(
        "it is counted",
        counted.contains(r#"tollgate_upgrades_total{result="ok"} 1"#),
        &counted.len(),
    );
    gateway.stop();
    card.pass(&format!("{UPGRADES} upgrades, 0 failures in {}", figures.join(", ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_without_a_hand_over_clients_are_turned_away() {
    let mut card = Card::new("F03");
    let fake = Fake::start(listening);
    let port = gateway::free_port();
    let start = || Gateway::with(&catalog(&fake)).port(port).start();
    let gateway = start();
    let address = gateway.address();
    let load = Load::start(Duration::from_millis(5), move || alone(address));
    let gateway = tokio::task::block_in_place(|| {
        gateway.stop();
        start()
    });
    let (count, failures) = load.end().await;
    card.check("a restart is noticed", !failures.is_empty(), &count);
    gateway.stop();
    card.pass(&format!("{} of {count} calls failed over a restart", failures.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_listeners_change_with_the_new_process() {
    let mut card = Card::new("F03");
    let fake = Fake::start(listening);
    let ports: Vec<u16> = (0..3).map(|_| gateway::free_port()).collect();
    let with = |names: &[(&str, u16)]| {
        let listeners: Vec<Value> = names
            .iter()
            .map(|(name, port)| json!({"name": name, "listen": format!("127.0.0.1:{port}")}))
            .collect();
        format!("drain: 2s\nlisteners: {}\n", json!(listeners))
    };
    let (stays, goes, comes) = (("stays: here", ports[0]), ("goes", ports[1]), ("comes", ports[2]));
    let mut gateway = Gateway::with(&catalog(&fake)).listeners(&with(&[goes, stays])).start();
    let alone = |port: u16| async move { alone(SocketAddr::from(([127, 0, 0, 1], port))).await };
    card.check("before", alone(stays.1).await.is_ok() && alone(goes.1).await.is_ok(), &ports);
    let load = Load::start(Duration::from_millis(5), move || alone(stays.1));
    // In another order, so that sockets are told apart by more than their place.
    gateway.edit_conf(&with(&[comes, stays]));
    let old = tokio::task::block_in_place(|| gateway.upgrade()).unwrap();
    card.check("one that was added", alone(comes.1).await.is_ok(), &comes);
    tokio::task::block_in_place(|| gateway.wait_for_end_of(old, OLD_ENDS));
    let gone = alone(goes.1).await;
    card.check("one that was removed", gone.as_ref().is_err_and(|error| error.starts_with("connect")), &gone);
    let (count, failures) = load.end().await;
    card.check("one that stays", failures.is_empty() && count > 2, &(count, failures.first()));
    gateway.stop();
    card.pass("a listener stays, one comes, one goes");
}

/// A gateway whose program can be replaced on disk.
fn replaceable(catalog: &str) -> (Gateway, PathBuf) {
    let home = tempfile::TempDir::with_prefix("tollgate-it-").unwrap();
    let program = home.path().join("tollgate");
    fs::copy(env!("CARGO_BIN_EXE_tollgate"), &program).unwrap();
    (Gateway::with(catalog).home(home).program(&program).start(), program)
}

/// Puts a script where the program was, as an installation does.
fn install(program: &PathBuf, script: &str) {
    let new = program.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, program).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_new_binary_that_does_not_start_changes_nothing() {
    let mut card = Card::new("F03");
    let fake = Fake::start(listening);
    let (mut gateway, program) = replaceable(&catalog(&fake));
    let (session, _) = Caller::new(&gateway.url("local")).initialize().await;
    session.post(&request(1, "ping", json!({}))).await.result();
    let (pid, children) = (gateway.pid(), gateway.descendants());
    let before = fs::read(gateway.home().join("tollgate.yaml")).unwrap();

    let mut failed = |gateway: &mut Gateway, name: &str, wanted: &str| {
        let said = tokio::task::block_in_place(|| gateway.upgrade());
        let told = said.as_ref().err().is_some_and(|why| why.contains(wanted));
        card.check(name, told && gateway.pid() == pid, &said);
        gateway.wait_for_log("why", SOON, |line| {
            line["error"].as_str().filter(|error| error.contains(wanted)).map(|_| ())
        });
    };
    install(&program, "exit 7");
    failed(&mut gateway, "a program that ends", "ended (exit status: 7) before it was ready");
    install(&program, "kill -9 $$");
    failed(&mut gateway, "a program that is killed", "signal: 9");
    fs::remove_file(&program).unwrap();
    failed(&mut gateway, "no program", "cannot start");
    fs::copy(env!("CARGO_BIN_EXE_tollgate"), &program).unwrap();
    gateway.edit_catalog("servers: [{id: 7}]");
    failed(&mut gateway, "a wrong catalog", "catalog.yaml:1");
    gateway.edit_catalog(&catalog(&fake));
    fs::write(gateway.home().join("other.yaml"), &before).unwrap();
    gateway.edit_conf("drain: soon");
    let said = gateway.ask_upgrade(&["-c", "other.yaml"]);
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    card.check(
        "a wrong configuration",
        said.status.code() == Some(1) && words.contains("tollgate.yaml:1:8"),
        &words,
    );
    fs::write(gateway.home().join("tollgate.yaml"), &before).unwrap();

    session.post(&request(2, "ping", json!({}))).await.result();
    card.check("children are the same", gateway.descendants() == children, &children);
    let counted = Caller::new(&gateway.path("/metrics")).send(reqwest::Method::GET, Vec::new()).await.body;
    card.check(
        "it is counted",
        counted.contains(r#"tollgate_upgrades_total{result="failed"} 5"#),
        &counted.len(),
    );
    let old = tokio::task::block_in_place(|| gateway.upgrade());
    card.check("and then it goes", old == Ok(pid), &old);
    tokio::task::block_in_place(|| gateway.wait_for_end_of(pid, OLD_ENDS));
    session.post(&request(3, "ping", json!({}))).await.result();
    gateway.stop();
    card.pass("5 new binaries that do not start, and one that does");
}
