//! F13: a gateway that runs out of descriptors because of clients that only connect.
//! Not here: other bounds (`bounds`), connections of one address (`listeners`).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Card;
use crate::client::{Caller, SOON, request};
use crate::fake::{self, Fake};
use crate::gateway::Gateway;
use crate::meter::Meter;

/// Descriptors of the gateway.
const DESCRIPTORS: usize = 256;
/// Of these for clients: 80 %, but not the last 96.
const CLIENTS: usize = 160;
const CONNECTIONS: usize = 2000;
/// How long they stay.
const SIEGE: Duration = Duration::from_secs(4);

/// A gateway that may have few descriptors.
fn confined(catalog: &str, conf: &str) -> Gateway {
    let home = tempfile::TempDir::with_prefix("tollgate-it-").unwrap();
    let program = home.path().join("confined");
    let script =
        format!("#!/bin/sh\nulimit -n {DESCRIPTORS}\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_tollgate"));
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Gateway::with(catalog).home(home).program(&program).conf(conf).start()
}

/// What a connection of its own is answered, if it is.
async fn alone(gateway: &Gateway, path: &str) -> String {
    let ask = async {
        let mut socket = TcpStream::connect(gateway.address()).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gateway.address());
        socket.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.map(|_| answer)
    };
    match tokio::time::timeout(SOON, ask).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "nothing".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_connections_do_not_take_the_last_descriptors() {
    let mut card = Card::new("F13");
    let fake = Fake::start(fake::legacy);
    let remote = json!({"type": "remote-http", "url": fake.url()});
    let catalog = json!({"servers": [{"id": "it", "runtime": remote}]}).to_string();
    let gateway = confined(&catalog, "drain: 1s\nlimits: {header_timeout: 60s}\n");
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let echo = |id: u64| request(id, "tools/call", json!({"name": "echo", "arguments": {}}));
    let mut stream = session.get_stream().await;
    // The stream took the connection there was: now there is one for calls.
    session.post(&echo(0)).await.result();
    let before = Meter(gateway.pid()).cpu();

    let mut siege = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        siege.push(TcpStream::connect(gateway.address()).await.unwrap());
    }
    let began = Instant::now();
    let (mut calls, mut probes) = (0, 0);
    while began.elapsed() < SIEGE {
        calls += 1;
        let answer = session.post(&echo(calls)).await;
        card.check("a client that is there is answered", answer.status == 200, &answer);
        let health = alone(&gateway, "/readyz").await;
        probes += usize::from(health.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The places for them are taken by those who ask nothing, too, for a second at a time.
    card.check("health answers over new connections", probes > 3, &probes);
    let held = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    card.check("descriptors are left", held < DESCRIPTORS - 10, &held);
    let refused = alone(&gateway, "/servers").await;
    let is_told = refused.starts_with("HTTP/1.1 503") && refused.contains("\"bound\":\"connections\"");
    card.check("others are told, or turned away", is_told || !refused.starts_with("HTTP/1.1 2"), &refused);
    let metrics = Caller::new(&gateway.path("/metrics"));
    let used = Meter(gateway.pid()).cpu() - before;
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64();
    card.check("it does not spin", share < 0.2, &share);
    let open = tokio::time::timeout(Duration::from_millis(100), stream.next()).await;
    card.check("a stream stays open", open.is_err(), &open.is_ok());

    drop(siege);
    let freed = Instant::now();
    let answer = loop {
        let answer = alone(&gateway, "/servers").await;
        if answer.starts_with("HTTP/1.1 200") || freed.elapsed() > Duration::from_secs(5) {
            break answer;
        }
    };
    let after = freed.elapsed();
    card.check("it takes connections again", answer.starts_with("HTTP/1.1 200"), &answer);
    let text = metrics.send(reqwest::Method::GET, Vec::new()).await.body;
    let limit = format!("tollgate_bound_limit{{bound=\"connections\"}} {CLIENTS}");
    card.check("the bound is shown", text.contains(&limit), &limit);
    gateway.stop();
    card.pass(&format!(
        "{CONNECTIONS} connections on {DESCRIPTORS} descriptors: {calls} calls answered, {probes} probes, {:.0} % CPU, again after {} ms",
        share * 100.0,
        after.as_millis()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_without_reserved_descriptors_calls_fail() {
    let mut card = Card::new("F13");
    // A naive server takes every connection it can get, and has none left for what its work needs.
    let home = tempfile::tempdir().unwrap();
    let script = home.path().join("naive.py");
    let text = format!(
        "import resource, socket, sys\nresource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))\n\
         s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen(4096)\nprint(s.getsockname()[1], flush=True)\nheld = []\n\
         try:\n    while True: held.append(s.accept())\nexcept OSError: pass\n\
         try:\n    open('/proc/self/status')\n    print('left', flush=True)\nexcept OSError: print('none left', flush=True)\n\
         sys.stdin.read()\n"
    );
    fs::write(&script, text).unwrap();
    let mut child = std::process::Command::new("python3")
        .arg(&script)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let port: u16 = lines.next().unwrap().unwrap().parse().unwrap();
    let mut siege = Vec::new();
    for _ in 0..DESCRIPTORS + 10 {
        siege.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let said = tokio::task::block_in_place(|| lines.next().unwrap().unwrap());
    card.check("a naive server has none left", said == "none left", &said);
    drop(child.stdin.take());
    child.wait().unwrap();
    card.pass("a naive server has no descriptor left for anything else");
}
