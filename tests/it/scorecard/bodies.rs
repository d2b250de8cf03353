//! B04 and B05: bodies that are too long, too slow, in too many pieces, or compressed.
//! Not here: what is in a body (`json`, `bombs`).

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::Card;
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::naive::{Naive, NaiveProcess};
use crate::recorder::{Believes, Recorder};
use crate::wire::{Heard, PATIENCE, Wire, once};

/// The limit of a body in these tests.
const LIMIT: usize = 256 << 10;
const CONF: &str = "limits: {body: 256KiB, body_timeout: 1s}\ndrain: 5s\nthreads: 1\n";
const CALL: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"n":"good"}}}"#;

fn gateway(recorder: &Recorder, conf: &str) -> Gateway {
    let catalog = json!({"servers": [
        {"id": "raw", "runtime": {"type": "raw-http", "url": recorder.url("/base/")}, "health": {"type": "off"}},
        {"id": "mcp", "runtime": {"type": "remote-http", "url": recorder.url("/mcp")}, "health": {"type": "off"}},
    ]});
    Gateway::with(&catalog.to_string()).conf(conf).start()
}

fn head(headers: &str) -> String {
    format!(
        "POST /servers/mcp/mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n{headers}\r\n"
    )
}

fn whole() -> String {
    head(&format!("content-length: {}\r\n", CALL.len())) + CALL
}

/// Writes the same piece again and again until the other side has had enough. Gives the answer and how much was taken.
fn pour(wire: &mut Wire, piece: &[u8], pieces: usize) -> (Option<Heard>, usize) {
    let mut taken = 0;
    for _ in 0..pieces {
        if !wire.say(piece) {
            break;
        }
        taken += piece.len();
    }
    (wire.hear(PATIENCE), taken)
}

#[test]
fn b04_bodies_are_bounded_in_size_and_time() {
    let mut card = Card::new("B04");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder, CONF);
    let address = gateway.address();
    assert_eq!(once(address, &whole()).status, 200);
    recorder.clear();
    // Announced lengths are refused before a byte of the body is there.
    for length in ["10737418240", "9223372036854775807", "262145"] {
        let heard = once(address, &head(&format!("content-length: {length}\r\n")));
        card.check(&format!("a length of {length}"), heard.status == 413, &heard);
        let mut wire = Wire::to(address);
        wire.say(head(&format!("expect: 100-continue\r\ncontent-length: {length}\r\n")));
        let heard = wire.hear(PATIENCE);
        card.check(
            &format!("a length of {length} that waits for 100"),
            heard.as_ref().is_some_and(|heard| heard.status == 413 && heard.closes()),
            &heard,
        );
    }
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    let mut wire = Wire::to(address);
    wire.say(head("transfer-encoding: chunked\r\n"));
    let (heard, taken) = pour(&mut wire, &chunk, 200_000);
    let told = heard.as_ref().is_some_and(|heard| heard.status == 413);
    let bounded = taken < 16 << 20 && wire.ends(PATIENCE);
    card.check("chunks without end", (told || heard.is_none()) && bounded, &(heard, taken));
    for (name, headers, size) in [
        ("a short body that nobody may send", "content-encoding: gzip\r\n", 64 << 10),
        ("one that is longer than what is read away", "content-encoding: gzip\r\n", (64 << 10) + 1),
        ("one that is longer than the limit", "", LIMIT + 1),
    ] {
        let mut wire = Wire::to(address);
        wire.say(head(&format!("{headers}content-length: {size}\r\n")) + &" ".repeat(size));
        let heard = wire.hear(PATIENCE);
        let closes = heard.as_ref().is_none_or(Heard::closes);
        let ends =
            if closes { wire.ends(PATIENCE) } else { wire.say(whole()) && wire.hear(PATIENCE).is_some() };
        card.check(name, heard.is_some() && ends && closes == (size > 64 << 10), &heard);
    }
    recorder.clear();
    for (name, sent) in [
        ("less than announced", head("content-length: 100\r\n") + "{"),
        ("nothing of what is announced", head("content-length: 100\r\n")),
        ("half a chunk", head("transfer-encoding: chunked\r\n") + "64\r\n{"),
        ("no last chunk", head("transfer-encoding: chunked\r\n") + "2\r\n{}\r\n"),
    ] {
        let mut wire = Wire::to(address);
        wire.say(&sent);
        let heard = wire.hear(PATIENCE);
        card.check(
            name,
            heard.as_ref().is_some_and(|heard| heard.status == 408) && wire.ends(PATIENCE),
            &heard,
        );
        let mut wire = Wire::to(address);
        wire.say(&sent);
        wire.finish();
        let heard = wire.hear(PATIENCE);
        card.check(
            &format!("{name}, then hung up"),
            heard.is_none_or(|heard| heard.status == 400),
            &wire.ended(),
        );
    }
    card.check("nothing arrived", recorder.requests().is_empty(), &recorder.requests());
    let ones: String =
        CALL.bytes().chain(vec![b' '; 20_000]).map(|byte| format!("1\r\n{}\r\n", char::from(byte))).collect();
    let before = Meter(gateway.pid()).cpu();
    let heard = once(address, &(head("transfer-encoding: chunked\r\n") + &ones + "0\r\n\r\n"));
    let took = Meter(gateway.pid()).cpu() - before;
    card.check("chunks of one byte", heard.status == 200 && took < Duration::from_secs(2), &(heard, took));
    let mut wire = Wire::to(address);
    wire.say(head(&format!("expect: 100-continue\r\ncontent-length: {}\r\n", CALL.len())) + CALL);
    card.check(
        "a body that waited for 100",
        wire.hear(PATIENCE).is_some_and(|heard| heard.status == 200),
        &(),
    );
    let exact = format!("{CALL}{}", " ".repeat(LIMIT - CALL.len()));
    let heard = once(address, &(head(&format!("content-length: {LIMIT}\r\n")) + &exact));
    card.check("exactly the limit", heard.status == 200, &heard);
    card.check("ordinary requests pass", once(address, &whole()).status == 200, &());
    card.pass(&format!(
        "bodies; of one without end {} MiB were taken before the connection was closed",
        taken >> 20
    ));
}

#[test]
fn b04_bodies_take_the_memory_that_their_limit_says() {
    let mut card = Card::new("B04");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder, &CONF.replace("1s", "30s"));
    let meter = Meter(gateway.pid());
    assert_eq!(once(gateway.address(), &whole()).status, 200);
    let rise = meter.rise();
    let body = [head(&format!("content-length: {LIMIT}\r\n")).into_bytes(), vec![b' '; LIMIT - 1]].concat();
    let mut wires: Vec<Wire> = (0..100).map(|_| Wire::to(gateway.address())).collect();
    for wire in &mut wires {
        wire.say(&body);
    }
    card.check("another connection goes on", once(gateway.address(), &whole()).status == 200, &());
    let growth = rise.kib();
    // A connection has buffers of its own besides.
    let bound = 100 * ((LIMIT as u64 >> 10) + 128);
    card.check("100 bodies that lack a byte", growth <= bound, &growth);
    card.pass(&format!("100 bodies of 256 KiB: memory + {growth} KiB of {bound}"));
}

/// What is not read is not held.
#[test]
fn b04_what_passes_through_is_not_held() {
    let mut card = Card::new("B04");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder, &CONF.replace("1s", "30s"));
    assert_eq!(once(gateway.address(), &whole()).status, 200);
    let rise = Meter(gateway.pid()).rise();
    let mut wire = Wire::to(gateway.address());
    wire.say(format!(
        "PUT /servers/raw/raw/large HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        64 << 20
    ));
    let (heard, _) = pour(&mut wire, &vec![b'x'; 1 << 20], 64);
    let passed = rise.kib();
    card.check(
        "64 MiB to a raw upstream",
        heard.is_some_and(|heard| heard.status == 200) && passed <= 8 << 10,
        &passed,
    );
    card.pass(&format!("64 MiB passed on: memory + {passed} KiB"));
}

/// The positive control: a naive proxy holds whatever comes.
#[test]
fn b04_a_naive_proxy_holds_every_body() {
    let recorder = Recorder::start();
    let naive = NaiveProcess::before(recorder.address());
    let before = naive.meter().resident_kib();
    let mut wire = Wire::to(naive.address());
    wire.say("POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999\r\n\r\n");
    for _ in 0..64 {
        assert!(wire.say(vec![b'x'; 1 << 20]));
    }
    naive.wait_for("it holds 64 MiB", |meter| meter.resident_kib() > before + (60 << 10));
}

/// Codings under which a body may come; none is taken.
const CODINGS: [&str; 14] = [
    "gzip",
    "br",
    "zstd",
    "deflate",
    "compress",
    "x-gzip",
    "GZIP",
    "gzip, gzip",
    "identity, gzip",
    "gzip\r\ncontent-encoding: gzip",
    "aws-chunked",
    "",
    "unknown",
    "gzip;q=0",
];

/// A gibibyte of noughts, compressed with gzip.
fn bomb() -> Vec<u8> {
    let code = "import sys,zlib\nc=zlib.compressobj(9,zlib.DEFLATED,31)\nz=bytes(1<<20)\nw=sys.stdout.buffer.write\nfor _ in range(1024): w(c.compress(z))\nw(c.flush())";
    let made = Command::new("python3").args(["-c", code]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

#[test]
fn b05_compressed_bodies_are_refused_unread() {
    let mut card = Card::new("B05");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder, "drain: 5s\nthreads: 1\n");
    let meter = Meter(gateway.pid());
    assert_eq!(once(gateway.address(), &whole()).status, 200);
    recorder.clear();
    let bomb = bomb();
    assert!((500 << 10..4 << 20).contains(&bomb.len()), "{}", bomb.len());
    let rise = meter.rise();
    for coding in CODINGS {
        for (door, extra) in [("/servers/mcp/mcp", ""), ("/mcp", ""), ("/rpc", "x-server-id: mcp\r\n")] {
            let mut wire = Wire::to(gateway.address());
            wire.say(
                head(&format!("content-encoding: {coding}\r\n{extra}content-length: {}\r\n", bomb.len()))
                    .replacen("/servers/mcp/mcp", door, 1),
            );
            wire.say(&bomb);
            let heard = wire.hear(PATIENCE);
            card.check(
                &format!("{coding:?} at {door}"),
                heard.as_ref().is_some_and(|heard| heard.status == 415),
                &heard,
            );
        }
    }
    let growth = rise.kib();
    card.check("memory", growth <= 8 << 10, &growth);
    card.check("nothing arrived", recorder.requests().is_empty(), &());
    let heard = once(gateway.address(), &head("transfer-encoding: gzip, chunked\r\ncontent-type: x\r\n"));
    card.check("as a transfer coding", heard.status == 400, &heard);
    card.pass(&format!("compressed bodies refused with 415; a bomb of 1 GiB: memory + {growth} KiB"));
}

/// The positive control: through a naive proxy the bomb arrives, and it is one.
#[test]
fn b05_a_naive_proxy_forwards_bombs() {
    let recorder = Recorder::start();
    let naive = Naive::before(recorder.address(), Believes::Length);
    let bomb = bomb();
    let mut wire = Wire::to(naive.address());
    wire.say(head(&format!("content-encoding: gzip\r\ncontent-length: {}\r\n", bomb.len())));
    wire.say(&bomb);
    wire.hear(PATIENCE);
    let [seen] = recorder.requests().try_into().unwrap();
    assert!(seen.body == bomb && bomb.len() < (1 << 30) / 500, "{}", bomb.len());
}
