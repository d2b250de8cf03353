//! F09: a call runs once at most, wherever its connection breaks, and its caller is told when nobody knows whether it ran.
//! Not here: the run itself (`breaks`), retries of what is safe to repeat.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Card;
use crate::breaks::{self, Ask, Phase, Steps, Told, break_everywhere};
use crate::client::Caller;
use crate::gateway::Gateway;
use crate::sim::{End, Manner, Sim};

fn gateway(sim: &Sim, timeouts: serde_json::Value) -> Gateway {
    let server = json!({"id": "it", "runtime": {"type": "remote-http", "url": sim.url()},
        "health": {"type": "off"}, "breaker": {"enabled": false}, "timeouts": timeouts});
    Gateway::start(&json!({"servers": [server]}).to_string())
}

/// Every answer names what happened by one of these.
const REASONS: [&str; 4] = ["connection_broke", "upstream_truncated", "upstream_no_response", "timeout"];

/// What is wrong with what the caller was told.
fn complaints(told: &Told, runs: usize, must_fail: bool) -> Vec<String> {
    let mut found = Vec::new();
    if runs > 1 {
        found.push(format!("ran {runs} times"));
    }
    match told {
        Told::Result if must_fail => found.push("a result of a call that was broken".into()),
        Told::Result => {}
        Told::Error { reason, unknown: true } if REASONS.contains(&reason.as_str()) => {}
        other => found.push(format!("the caller is told {other:?}")),
    }
    found
}

#[tokio::test]
async fn f09_a_call_broken_at_any_byte_runs_once_at_most() {
    let sim = Sim::start();
    let gateway = gateway(&sim, json!({}));
    let mut card = Card::new("F09");
    let mut told = BTreeMap::<String, usize>::new();
    let (mut ran, mut most) = (0, 0);
    break_everywhere(&sim, &gateway.url("it"), Steps { every: 2 }, |run| {
        let runs = sim.look(|facts| facts.executions(&run.n));
        ran += runs;
        most = most.max(runs);
        let said = run.told();
        *told.entry(format!("{said:?}")).or_default() += 1;
        // A request that is broken gets no answer at all; an answer may have been whole before it broke.
        let mut wrong = complaints(&said, runs, run.phase == Phase::Request);
        // One that never arrived met the connection of the call before as that was being closed.
        if run.is_late && said != Told::Result && runs > 0 {
            wrong.push("the whole answer was lost".into());
        }
        if !wrong.is_empty() {
            wrong.push(format!("{} {}", run.answer.status, run.answer.body));
        }
        card.case(&run.name, &wrong);
    })
    .await;
    let at_most_once = sim.look(|facts| facts.most());
    card.check("no call ran twice", at_most_once == 1 && most == 1, &at_most_once);
    card.check("some ran and some did not", ran > 100, &ran);
    card.pass(&format!("calls broken at a byte: {ran} ran, none twice; told {told:?}"));
}

/// A server that says nothing more, from some byte on: the caller's deadline ends it, and the call is not repeated.
#[tokio::test]
async fn f09_a_call_that_stalls_at_any_byte_runs_once_at_most() {
    let sim = Sim::start();
    let gateway = gateway(&sim, json!({"response": "300ms", "idle": "300ms", "total": "2s"}));
    let mut card = Card::new("F09");
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let mut given_up = 0;
    for modern in [false, true] {
        let ask = Ask { caller: session.clone(), modern };
        ask.call(&format!("request {modern} 000")).await.result();
        let (there, back) = sim.look(|facts| (facts.request_bytes, facts.answer_bytes));
        for at in [0, 1, there / 2, there] {
            let n = format!("request {modern} {at:03}");
            sim.cut_request(at, End::Stall);
            let answer = ask.call(&n).await;
            let runs = sim.look(|facts| facts.executions(&n));
            card.case(&n, &complaints(&breaks::told(&answer, &n), runs, true));
            given_up += usize::from(!modern);
            told_of(&sim, given_up).await;
        }
        for at in [0, 1, back / 2, back - 1] {
            let n = format!("replies {modern} {at:03}");
            sim.once_at("tools/call", Manner::Cut(at, End::Stall));
            let answer = ask.call(&n).await;
            let runs = sim.look(|facts| facts.executions(&n));
            card.case(&n, &complaints(&breaks::told(&answer, &n), runs, true));
            given_up += usize::from(!modern);
            told_of(&sim, given_up).await;
        }
    }
    card.pass("calls that stall: each ended by a deadline that says so");
}

/// The server is told of every call of the legacy era that is given up, and the next break must not meet that word. One
/// that meets a stalled connection is itself given up, after two seconds.
async fn told_of(sim: &Sim, given_up: usize) {
    let deadline = Instant::now() + Duration::from_secs(4);
    while sim.look(|facts| facts.cancelled.len()) < given_up && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The control: a proxy that tries again on a new connection, as many do, runs calls twice.
#[tokio::test]
async fn f09_a_naive_proxy_runs_calls_twice() {
    let sim = Sim::start();
    let naive = Insistent::before(sim.address());
    let ask = Ask { caller: Caller::new(&format!("http://{}/mcp", naive.address)), modern: true };
    let mut card = Card::new("F09");
    for at in [0, 20, 60] {
        let n = format!("naive {at}");
        sim.once_at("tools/call", Manner::Cut(at, End::Close));
        ask.call(&n).await.result();
        let runs = sim.look(|facts| facts.executions(&n));
        card.check(&n, runs == 2, &runs);
    }
    card.pass("calls that a naive proxy ran twice");
}

/// A proxy for one connection at a time that sends again what was not answered.
struct Insistent {
    address: SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Insistent {
    fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            while let Ok((mut client, _)) = listener.accept() {
                let request = read(&mut client);
                if request.is_empty() {
                    return;
                }
                let answer = (0..3).map(|_| forward(upstream, &request)).find(|answer| is_whole(answer));
                // The next one comes on a connection of its own.
                let answer = String::from_utf8(answer.unwrap_or_default()).unwrap();
                let answer = answer.replacen("\r\n", "\r\nconnection: close\r\n", 1);
                let _ = client.write_all(answer.as_bytes());
            }
        });
        Self { address, thread: Some(thread) }
    }
}

impl Drop for Insistent {
    fn drop(&mut self) {
        // A connection without a request ends it.
        drop(TcpStream::connect(self.address));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn forward(upstream: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(upstream).unwrap();
    stream.write_all(request).unwrap();
    read(&mut stream)
}

/// Reads one message with a length, or what there is of it.
fn read(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    while !is_whole(&got) {
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => got.extend_from_slice(&piece[..n]),
            _ => break,
        }
    }
    got
}

fn is_whole(message: &[u8]) -> bool {
    let text = String::from_utf8_lossy(message).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.is_some_and(|length| body.len() >= length.trim().parse().unwrap())
}
