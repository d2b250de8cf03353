//! B03: JSON that costs more to read than to write.
//! Not here: JSON that is wrong (`json`), bodies that are too long (`bodies`).

use std::time::Duration;

use serde_json::json;

use super::Card;
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::naive::NaiveProcess;
use crate::recorder::Recorder;
use crate::wire::{PATIENCE, Wire, once};

/// Memory for each byte of a body. The line is 100; we hold a body once, and twice while it grows.
const BYTES_PER_BYTE_MAX: u64 = 8;
/// How often each is sent: processor time is counted in ticks of 10 ms.
const TIMES: u32 = 2;

/// A bomb of about that many bytes.
type Bomb = (&'static str, fn(usize) -> String);

fn call(inside: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{inside}}}}}"#
    )
}

const BOMBS: [Bomb; 15] = [
    ("an ordinary string", |n| call(&format!(r#"{{"n":"{}"}}"#, "x".repeat(n)))),
    ("open brackets", |n| "[".repeat(n)),
    ("brackets in brackets", |n| call(&format!("{}{}", "[".repeat(n / 2), "]".repeat(n / 2)))),
    ("objects in objects", |n| call(&format!("{}1{}", "{\"a\":".repeat(n / 6), "}".repeat(n / 6)))),
    ("as deep as may be, again and again", |n| {
        call(&format!("[{}1]", format!("{}{},", "[".repeat(55), "]".repeat(55)).repeat(n / 111)))
    }),
    ("keys", |n| {
        call(&format!("{{{}\"z\":1}}", (0..n / 12).map(|n| format!("\"k{n:06}\":1,")).collect::<String>()))
    }),
    ("equal keys", |n| call(&format!("{{{}\"z\":1}}", "\"k\":1,".repeat(n / 6)))),
    ("equal keys of the envelope", |n| format!("{{{}\"jsonrpc\":\"2.0\"}}", "\"id\":1,".repeat(n / 7))),
    ("unknown keys of the envelope", |n| {
        format!(
            "{{{}\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}}",
            (0..n / 12).map(|n| format!("\"k{n:06}\":1,")).collect::<String>()
        )
    }),
    ("a number", |n| call(&format!("{{\"n\":{}}}", "1".repeat(n)))),
    ("an id", |n| format!(r#"{{"jsonrpc":"2.0","id":{},"method":"ping"}}"#, "1".repeat(n))),
    ("escapes", |n| call(&format!(r#"{{"n":"{}"}}"#, r"\u0000".repeat(n / 6)))),
    ("a name of escapes", |n| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{}"}}}}"#,
            r"\u0041".repeat(n / 6)
        )
    }),
    ("noughts", |n| call(&format!("[{}0]", "0,".repeat(n / 2)))),
    ("spaces", |n| call(&format!("{{{}}}", " \n".repeat(n / 2)))),
];

fn request(body: &str) -> String {
    format!(
        "POST /servers/it/mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn b03_json_costs_what_its_length_costs() {
    let mut card = Card::new("B03");
    let recorder = Recorder::start();
    let server = json!({"id": "it", "runtime": {"type": "remote-http", "url": recorder.url("/mcp")}, "health": {"type": "off"}});
    let conf = "limits: {body: 16MiB}\ndrain: 5s\nthreads: 1\n";
    let gateway = Gateway::with(&json!({"servers": [server]}).to_string()).conf(conf).start();
    let meter = Meter(gateway.pid());
    assert_eq!(once(gateway.address(), &request(&call("{}"))).status, 200);
    let (mut worst_memory, mut worst_cpu) = (0, Duration::ZERO);
    for (name, bomb) in BOMBS {
        let mut spent = Vec::new();
        for size in [1 << 20, 4 << 20] {
            let request = request(&bomb(size));
            let (rise, before) = (meter.rise(), meter.cpu());
            for _ in 0..TIMES {
                let heard = once(gateway.address(), &request);
                card.check(name, matches!(heard.status, 200 | 400), &heard.head);
            }
            spent.push((meter.cpu() - before) / TIMES);
            let held = (rise.kib() << 10) / size as u64;
            worst_memory = worst_memory.max(held);
            card.check(&format!("memory of {name}"), held <= BYTES_PER_BYTE_MAX, &held);
            recorder.clear();
        }
        // Four times the length, at most about four times the work: nothing grows with its square.
        worst_cpu = worst_cpu.max(spent[1]);
        card.check(&format!("work for {name}"), spent[1] <= spent[0] * 8 + Duration::from_millis(60), &spent);
    }
    let answered = once(gateway.address(), &request(&call("{}"))).status;
    card.check(
        "alive",
        answered == 200 && !gateway.log().contains("panicked"),
        &gateway.log().lines().last().map(str::to_owned),
    );
    card.pass(&format!("bombs of 4 MiB: {worst_memory} bytes of memory for each of theirs, at most {worst_cpu:?} of work in this build"));
}

/// The positive control: a naive proxy that reads JSON the way one writes it first.
#[test]
fn b03_a_naive_proxy_bursts() {
    let recorder = Recorder::start();
    let bomb = |name: &str, size| request(&BOMBS.iter().find(|bomb| bomb.0 == name).unwrap().1(size));
    let naive = NaiveProcess::before(recorder.address());
    let rise = naive.meter().rise();
    once(naive.address(), &bomb("noughts", 4 << 20));
    let held = (rise.kib() << 10) / (4 << 20);
    assert!(held > BYTES_PER_BYTE_MAX, "noughts take {held} bytes each");
    let mut spent = Vec::new();
    for size in [40_000, 160_000] {
        let before = naive.meter().cpu();
        once(naive.address(), &bomb("keys", size));
        spent.push(naive.meter().cpu() - before);
    }
    assert!(spent[1] > spent[0] * 8 + Duration::from_millis(60), "keys take {spent:?}");
    let mut wire = Wire::to(naive.address());
    wire.say(bomb("brackets in brackets", 1 << 20));
    wire.hear(PATIENCE);
    naive.wait_for_death();
}
