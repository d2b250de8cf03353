//! B06 over HTTP/1.1: heads that are too large, too many or not text.
//! Not here: HTTP/2 (`h2`), ambiguous heads (`payloads`).

use serde_json::json;

use super::Card;
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::naive::Naive;
use crate::recorder::{Believes, Recorder};
use crate::wire::{PATIENCE, Wire, once};

/// What is said of memory: this much more at most, whatever comes.
const GROWTH_KIB_MAX: u64 = 20 << 10;

fn gateway(recorder: &Recorder) -> Gateway {
    let catalog = json!({"servers": [
        {"id": "raw", "runtime": {"type": "raw-http", "url": recorder.url("/base/")}, "health": {"type": "off"}},
        {"id": "mcp", "runtime": {"type": "remote-http", "url": recorder.url("/mcp")}, "health": {"type": "off"}},
    ]});
    Gateway::with(&catalog.to_string()).conf("drain: 5s\nthreads: 1\n").start()
}

/// A head, and the statuses that may answer it; a closed connection without an answer is refusal enough.
fn cases() -> Vec<(String, Vec<u8>, Vec<u16>)> {
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").into_bytes()
    };
    let raw = "/servers/raw/raw/x";
    let lines = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let mut cases = Vec::new();
    for path in [raw, "/servers/mcp/mcp", "/mcp", "/rpc", "/health", "/nowhere"] {
        let mut add = |name: &str, bytes: Vec<u8>, statuses: &[u16]| {
            cases.push((format!("{name} at {path}"), bytes, statuses.to_vec()))
        };
        add("120 headers", get(path, &lines(120)), &[431]);
        // More than 256 are Pingora's to refuse.
        add("300 headers", get(path, &lines(300)), &[431, 400]);
        add("10,000 headers", get(path, &lines(10_000)), &[431, 400]);
        add("a header of 40 KiB", get(path, &format!("x: {}\r\n", "y".repeat(40 << 10))), &[431]);
        add("a header of 900 KiB", get(path, &format!("x: {}\r\n", "y".repeat(900 << 10))), &[431, 400]);
        add("a header of 2 MiB", get(path, &format!("x: {}\r\n", "y".repeat(2 << 20))), &[431, 400]);
        add("a name of 40 KiB", get(path, &format!("{}: y\r\n", "x".repeat(40 << 10))), &[431, 400]);
        add("a name of 100 KiB", get(path, &format!("{}: y\r\n", "x".repeat(100 << 10))), &[431, 400]);
        add("a cookie of 64 KiB", get(path, &format!("cookie: {}\r\n", "a=b; ".repeat(13_000))), &[431]);
        add(
            "a line of 1 MiB without an end",
            [b"GET /".to_vec(), vec![b'x'; 1 << 20]].concat(),
            &[414, 431, 400],
        );
        add("a URL of 9 KiB", get(&format!("{path}?{}", "x".repeat(9 << 10)), ""), &[414]);
        add("a URL of 64 KiB", get(&format!("{path}?{}", "x".repeat(64 << 10)), ""), &[414, 400]);
        add("a URL of 900 KiB", get(&format!("{path}?{}", "x".repeat(900 << 10)), ""), &[414, 431, 400]);
        for bad in [
            "x: a\0b",
            "x\0: a",
            "x: a\rb",
            "x: a\r\n b",
            "\tx: a",
            "x : a",
            "x: \u{1b}[31m",
            "x: \u{7f}",
            ": a",
            "x",
            "\u{e9}: a",
        ] {
            add(&format!("{bad:?}"), get(path, &format!("{bad}\r\n")), &[400]);
        }
        add(
            "a method of 100 KiB",
            format!("{} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n", "G".repeat(100 << 10)).into_bytes(),
            &[400, 405, 404, 431],
        );
        add("bytes of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]);
        add("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[400]);
    }
    cases
}

#[test]
fn b06_heads_without_bound_are_refused() {
    let mut card = Card::new("B06");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    let ordinary = "GET /servers/raw/raw/good HTTP/1.1\r\nhost: localhost\r\n\r\n";
    assert_eq!(once(gateway.address(), ordinary).status, 200);
    recorder.clear();
    let meter = Meter(gateway.pid());
    let rise = meter.rise();
    for (name, bytes, statuses) in cases() {
        let mut wire = Wire::to(gateway.address());
        wire.say(bytes);
        let heard = wire.hear(PATIENCE);
        let refused = heard.as_ref().map_or(wire.ended(), |heard| statuses.contains(&heard.status));
        card.check(&name, refused, &(heard, wire.ended()));
    }
    card.check("nothing arrived", recorder.requests().is_empty(), &recorder.requests());
    card.check("ordinary requests pass", once(gateway.address(), ordinary).status == 200, &());
    let growth = rise.kib();
    card.check("memory", growth <= GROWTH_KIB_MAX, &growth);
    card.pass(&format!("heads on six doors refused, memory + {growth} KiB at its peak"));
}

/// Heads that never end, on many connections at once.
#[test]
fn b06_unfinished_heads_take_little_memory() {
    let mut card = Card::new("B06");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    let meter = Meter(gateway.pid());
    let ordinary = "GET /servers/raw/raw/good HTTP/1.1\r\nhost: localhost\r\n\r\n";
    assert_eq!(once(gateway.address(), ordinary).status, 200);
    let rise = meter.rise();
    let head = format!("GET /servers/raw/raw/x HTTP/1.1\r\nhost: localhost\r\nx: {}", "y".repeat(900 << 10));
    let mut wires: Vec<Wire> = (0..100).map(|_| Wire::to(gateway.address())).collect();
    for wire in &mut wires {
        wire.say(&head);
    }
    card.check("another connection goes on", once(gateway.address(), ordinary).status == 200, &());
    let growth = rise.kib();
    card.check("memory of 100 heads of 900 KiB", growth <= GROWTH_KIB_MAX, &growth);
    drop(wires);
    card.pass(&format!("100 heads that do not end: memory + {growth} KiB"));
}

/// The positive control: a naive proxy forwards what is far too large.
#[test]
fn b06_a_naive_proxy_forwards_large_heads() {
    let recorder = Recorder::start();
    let naive = Naive::before(recorder.address(), Believes::Length);
    for path in ["/x", &format!("/{}", "x".repeat(64 << 10))] {
        let headers: String = (0..300).map(|n| format!("x-{n}: {}\r\n", "y".repeat(1000))).collect();
        once(naive.address(), &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"));
    }
    let seen = recorder.requests();
    let sizes: Vec<(usize, usize)> =
        seen.iter().map(|seen| (seen.headers.len(), seen.target.len())).collect();
    assert_eq!(sizes, [(301, 2), (301, (64 << 10) + 1)]);
}
