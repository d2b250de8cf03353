//! `mcp-sim` misbehaves as it is told, and counts what is true.
//! Not here: the server (`sim`), what a gateway makes of it (`scorecard`).

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{Caller, SOON, request};
use crate::sim::{Asked, Door, End, Kind, Manner, Sim};

fn call(n: &str) -> serde_json::Value {
    request(1, "tools/call", json!({"name": "echo", "arguments": {"n": n}}))
}

#[tokio::test]
async fn the_sim_is_honest_in_both_eras_and_counts() {
    let sim = Sim::start();
    let (session, server) = Caller::new(&sim.url()).initialize().await;
    assert_eq!(server["serverInfo"]["name"], "mcp-sim");
    let called = session.post(&call("a")).await.result();
    assert_eq!(called["content"][0]["text"], "a");
    sim.answers_in(Kind::Events);
    let arguments = json!({"name": "echo", "arguments": {"n": "b", "progress": 2, "ms": 3}});
    let called = Caller::new(&sim.url()).modern_post(2, "tools/call", arguments).await;
    assert_eq!(
        (called.result()["content"][0]["text"].as_str(), called.body.matches("data:").count()),
        (Some("b"), 3)
    );
    let facts = sim.facts();
    assert_eq!((facts.executions("a"), facts.executions("b"), facts.most()), (1, 1, 1));
    assert_eq!((facts.opened, facts.initialized, facts.live.len()), (1, 1, 1));
    sim.forget();
    assert_eq!(session.post(&call("c")).await.status, 404);
    assert_eq!(sim.look(|facts| facts.strangers), 1);
}

/// What comes back for a request, on a connection of its own, up to the end of it.
async fn raw(sim: &Sim, request: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(sim.address()).await.ok()?;
    // A server that breaks off may do so before all is written.
    let _ = stream.write_all(request).await;
    let mut got = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut got)).await.expect("it does not end");
    read.ok().map(|_| got)
}

fn bytes_of(n: &str) -> Vec<u8> {
    let body = call(n).to_string();
    let length = body.len();
    format!("POST /mcp HTTP/1.1\r\nhost: x\r\nmcp-protocol-version: 2026-07-28\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

#[tokio::test]
async fn the_sim_breaks_at_the_byte_that_it_is_told() {
    let sim = Sim::start();
    let request = bytes_of("cut");
    for (after, runs) in [(0, 0), (1, 0), (request.len() - 1, 0), (request.len(), 1)] {
        sim.cut_request(after, End::Close);
        let got = raw(&sim, &request).await;
        assert!(got.is_none_or(|got| got.is_empty()), "after {after} bytes");
        assert_eq!(sim.facts().executions("cut"), runs, "after {after} bytes");
    }
    sim.once_at("tools/call", Manner::Cut(40, End::Close));
    assert_eq!(raw(&sim, &bytes_of("half")).await.unwrap().len(), 40);
    sim.once_at("tools/call", Manner::Cut(40, End::Reset));
    assert_eq!(raw(&sim, &bytes_of("reset")).await, None);
    sim.once_at("tools/call", Manner::made(|asked: &Asked| asked.n().unwrap().into(), End::Close));
    assert_eq!(raw(&sim, &bytes_of("made")).await.unwrap(), b"made");
    let facts = sim.facts();
    assert_eq!((facts.executions("half"), facts.executions("reset"), facts.executions("made")), (1, 1, 1));
}

#[tokio::test]
async fn the_sim_refuses_holes_and_resets_and_comes_back() {
    let sim = Sim::start();
    sim.door(Door::Shut);
    assert!(TcpStream::connect(sim.address()).await.is_err());
    sim.door(Door::Open);
    let (session, _) = Caller::new(&sim.url()).initialize().await;
    sim.once_at("tools/call", Manner::Silent);
    let hung = session.http().post(sim.url()).body(call("never").to_string());
    let hung = hung.header("mcp-session-id", session.session().unwrap()).timeout(Duration::from_millis(300));
    assert!(hung.send().await.is_err());
    sim.until("the call given up", SOON, |facts| facts.abandoned.get("never").copied()).await;
    sim.crash();
    assert!(TcpStream::connect(sim.address()).await.is_err());
    assert_eq!(sim.look(|facts| facts.live.len()), 0);
    sim.heal();
    assert_eq!(Caller::new(&sim.url()).with("mcp-session-id", "old").post(&call("x")).await.status, 404);
    sim.door(Door::Blackhole);
    let mut stream = TcpStream::connect(sim.address()).await.unwrap();
    sim.until("the connection taken", SOON, |facts| (facts.open > 0).then_some(())).await;
    sim.door(Door::Reset);
    assert!(stream.read_u8().await.is_err(), "the hole ends with the door's next change");
}
