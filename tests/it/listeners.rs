//! Listeners: their doors and names, who may connect, and how long a connection may take for what.
//! Not here: TLS (`tls`), pages in browsers (`cors`), attacks that are counted (`scorecard`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake::{self, Act, Fake};
use crate::gateway::Gateway;
use crate::wire::{PATIENCE, Wire, once};

const DRIP: Duration = Duration::from_millis(100);

fn catalog(fake: &Fake) -> String {
    let server =
        json!({"id": "it", "runtime": {"type": "remote-http", "url": fake.url()}, "health": {"type": "off"}});
    json!({"servers": [server]}).to_string()
}

/// A gateway with these settings, before a server that is hardly asked anything.
fn with(conf: &str) -> (Gateway, Fake) {
    let fake = Fake::start(fake::modern);
    let gateway = Gateway::with(&catalog(&fake)).conf(&format!("drain: 5s\n{conf}")).start();
    (gateway, fake)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn post(path: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn ping() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})
}

/// The value of a metric.
fn metric(gateway: &Gateway, series: &str) -> f64 {
    let metrics = once(gateway.address(), &get("/metrics")).body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[track_caller]
fn wait_for_metric(gateway: &Gateway, series: &str, wanted: impl Fn(f64) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = metric(gateway, series);
        if wanted(value) {
            return;
        }
        assert!(Instant::now() < deadline, "{series} {value}");
        std::thread::sleep(DRIP);
    }
}

#[test]
fn each_listener_has_its_own_doors_and_names() {
    let fake = Fake::start(fake::legacy);
    let conf = r#"
drain: 5s
listeners:
  - {name: public, listen: "127.0.0.1:0", doors: [mcp], hosts: [mcp.example.com]}
  - {name: inside, listen: "127.0.0.1:0", doors: [admin, metrics, health], hosts: [gw.internal]}
"#;
    let gateway = Gateway::with(&catalog(&fake)).listeners(conf).start();
    let (public, inside) = (gateway.listener("public"), gateway.listener("inside"));
    assert_ne!(public, inside);
    let status = |address, request: &str| once(address, request).status;
    let call = post("/servers/it/mcp", "", &ping());
    assert_eq!(status(public, &call), 200);
    let refused = once(inside, &call);
    let reason = serde_json::from_str::<Value>(&refused.body).unwrap()["reason"].clone();
    assert_eq!((refused.status, reason), (404, json!("no_door")));
    for path in ["/stats", "/servers", "/metrics", "/readyz"] {
        assert_eq!((status(public, &get(path)), status(inside, &get(path))), (404, 200), "{path}");
    }
    let named = |host: &str| get("/readyz").replace("localhost", host);
    assert_eq!(status(inside, &named("gw.internal")), 200);
    assert_eq!(status(inside, &named("mcp.example.com")), 403);
    // What is listed at one is not at the other, even where there is no such door.
    assert_eq!(
        (status(public, &named("mcp.example.com")), status(public, &named("gw.internal"))),
        (404, 403)
    );
    let metrics = once(inside, &get("/metrics")).body;
    for name in ["public", "inside"] {
        assert!(metrics.contains(&format!("tollgate_connections{{listener=\"{name}\"}} ")), "{metrics}");
    }
}

#[test]
fn a_taken_address_is_told_before_anything_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = tempfile::TempDir::new().unwrap();
    let address = taken.local_addr().unwrap();
    let conf = format!(
        "listeners: [{{name: a, listen: '127.0.0.1:0'}}, {{name: b, listen: '{address}'}}]\nstate_dir: state\n"
    );
    std::fs::write(home.path().join("tollgate.yaml"), conf).unwrap();
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["run", "-c", "tollgate.yaml"])
        .current_dir(home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains(&format!("cannot listen on {address}")), "{said}");
    assert!(!said.contains("listening\""), "{said}");
}

#[test]
fn a_head_has_a_deadline_in_all_however_often_a_byte_comes() {
    let (gateway, _fake) = with("limits: {header_timeout: 1s}\n");
    for first in [true, false] {
        let mut wire = Wire::to(gateway.address());
        if !first {
            wire.say(get("/livez"));
            assert_eq!(wire.hear(PATIENCE).unwrap().status, 200);
            // Between requests nobody is in a hurry.
            assert!(!wire.ends(Duration::from_millis(1500)), "an idle connection was closed");
        }
        let begun = Instant::now();
        let mut head = get("/livez").into_bytes().into_iter().cycle();
        let cut = loop {
            // A head that never ends: `\r` and `\n` would end it.
            let byte = head.find(u8::is_ascii_alphanumeric).unwrap();
            if !wire.say([byte]) || wire.ends(DRIP) {
                break begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "still open");
        };
        assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&cut), "{cut:?}");
        let left = String::from_utf8_lossy(wire.left()).into_owned();
        assert!(left.starts_with("HTTP/1.1 408 "), "{left:?}");
    }
    // Control: in three pieces within its time it is answered.
    let mut wire = Wire::to(gateway.address());
    let request = get("/livez");
    for piece in request.as_bytes().chunks(request.len() / 2) {
        wire.say(piece);
        assert!(!wire.ends(DRIP));
    }
    assert_eq!(wire.hear(PATIENCE).unwrap().status, 200);
    // Whoever says nothing at all is told nothing.
    let mut silent = Wire::to(gateway.address());
    assert!(silent.ends(PATIENCE) && silent.left().is_empty());
    assert_eq!(
        metric(&gateway, "tollgate_connections_cut_total{listener=\"main\",reason=\"head_timeout\"}"),
        3.0
    );
}

#[test]
fn connections_are_bounded_for_each_address() {
    let (gateway, _fake) = with("limits: {connections_per_address: 3}\n");
    let mut held: Vec<Wire> = (0..3)
        .map(|_| {
            let mut wire = Wire::to(gateway.address());
            wire.say(get("/livez"));
            assert_eq!(wire.hear(PATIENCE).unwrap().status, 200);
            wire
        })
        .collect();
    let mut refused = Wire::to(gateway.address());
    assert!(refused.ends(PATIENCE), "a fourth connection is open");
    held.pop();
    // The place is free as soon as the gateway has seen the end.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut wire = Wire::to(gateway.address());
        if wire.say(get("/livez")) && wire.hear(PATIENCE).is_some_and(|heard| heard.status == 200) {
            break;
        }
        assert!(Instant::now() < deadline, "the place was not given back");
    }
}

#[test]
fn only_listed_networks_may_connect_and_an_empty_list_is_nobody() {
    let fake = Fake::start(fake::legacy);
    let conf = r#"
drain: 5s
listeners:
  - {name: all, listen: "127.0.0.1:0"}
  - {name: here, listen: "127.0.0.1:0", networks: ["127.0.0.0/8"]}
  - {name: elsewhere, listen: "127.0.0.1:0", networks: ["10.0.0.0/8"]}
  - {name: nobody, listen: "127.0.0.1:0", networks: []}
"#;
    let gateway = Gateway::with(&catalog(&fake)).listeners(conf).start();
    for name in ["all", "here"] {
        assert_eq!(once(gateway.listener(name), &get("/livez")).status, 200, "{name}");
    }
    for name in ["elsewhere", "nobody"] {
        let mut wire = Wire::to(gateway.listener(name));
        wire.say(get("/livez"));
        assert!(wire.ends(PATIENCE) && wire.left().is_empty(), "{name}");
        told(&gateway, "network", name, "127.0.0.1");
    }
}

/// Waits for the audit line of a connection that was refused.
#[track_caller]
fn told(gateway: &Gateway, reason: &str, listener: &str, client: &str) {
    gateway.wait_for_log("an audit line", PATIENCE, |line| {
        let refused = line["type"] == "audit" && line["event"] == "refused" && line["reason"] == reason;
        (refused && line["listener"] == listener && line["client"] == client).then_some(())
    });
}

/// The client's address in the access log, of the request with that id.
#[track_caller]
fn logged(gateway: &Gateway, id: &str) -> String {
    gateway.wait_for_log("an access line", PATIENCE, |line| {
        (line["type"] == "access" && line["request_id"] == id)
            .then(|| line["client"].as_str().unwrap().to_owned())
    })
}

#[test]
fn the_proxy_protocol_is_read_from_trusted_proxies_alone() {
    let fake = Fake::start(fake::legacy);
    let conf = r#"
drain: 5s
listeners:
  - {name: behind, listen: "127.0.0.1:0", proxy_protocol: true, trusted_proxies: ["127.0.0.1"], networks: ["192.0.2.0/24"]}
  - {name: stranger, listen: "127.0.0.1:0", proxy_protocol: true, trusted_proxies: ["10.0.0.0/8"]}
"#;
    let gateway = Gateway::with(&catalog(&fake)).listeners(conf).start();
    let (behind, stranger) = (gateway.listener("behind"), gateway.listener("stranger"));
    let first = "PROXY TCP4 192.0.2.7 127.0.0.1 5678 443\r\n".as_bytes().to_vec();
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend([192, 0, 2, 8, 127, 0, 0, 1, 0x16, 0x2e, 1, 0xbb]);
    for (header, client) in [(&first, "192.0.2.7"), (&second, "192.0.2.8")] {
        let request = get("/livez").replace("\r\n\r\n", &format!("\r\nX-Request-Id: {client}\r\n\r\n"));
        let mut wire = Wire::to(behind);
        // In pieces, as a network may cut it.
        let (one, other) = header.split_at(7);
        wire.say(one);
        assert!(!wire.ends(DRIP));
        wire.say([other, request.as_bytes()].concat());
        assert_eq!(wire.hear(PATIENCE).unwrap().status, 200);
        assert_eq!(logged(&gateway, client), client);
        let mut wire = Wire::to(stranger);
        wire.say([header, request.as_bytes()].concat());
        assert!(wire.ends(PATIENCE) && wire.left().is_empty());
    }
    // Without a header, with a wrong one, and for a client that may not connect.
    for begin in ["", "PROXY TCP4 somebody\r\n", "PROXY TCP4 203.0.113.9 127.0.0.1 5678 443\r\n"] {
        let mut wire = Wire::to(behind);
        wire.say(format!("{begin}{}", get("/livez")));
        assert!(wire.ends(PATIENCE) && wire.left().is_empty(), "{begin:?}");
    }
    told(&gateway, "proxy_protocol", "stranger", "127.0.0.1");
    told(&gateway, "proxy_protocol", "behind", "127.0.0.1");
    told(&gateway, "network", "behind", "203.0.113.9");
}

#[test]
fn only_a_trusted_proxy_says_for_whom_it_speaks() {
    let fake = Fake::start(fake::legacy);
    let conf = r#"
drain: 5s
listeners:
  - {name: trusting, listen: "127.0.0.1:0", trusted_proxies: ["127.0.0.0/8", "10.0.0.0/8"]}
  - {name: plain, listen: "127.0.0.1:0"}
"#;
    let gateway = Gateway::with(&catalog(&fake)).listeners(conf).start();
    let client = |name: &str, id: &str, chain: &str| {
        let more = format!("\r\nX-Request-Id: {id}\r\nX-Forwarded-For: {chain}\r\n\r\n");
        let request = get("/livez").replace("\r\n\r\n", &more);
        assert_eq!(once(gateway.listener(name), &request).status, 200);
        logged(&gateway, id)
    };
    assert_eq!(client("trusting", "a", "6.6.6.6, 203.0.113.9, 10.1.2.3"), "203.0.113.9");
    assert_eq!(client("trusting", "b", "unknown"), "127.0.0.1");
    assert_eq!(client("plain", "c", "203.0.113.9"), "127.0.0.1");
}

#[test]
fn a_connection_ends_after_its_requests() {
    let (gateway, _fake) = with("limits: {requests_per_connection: 3}\n");
    let mut wire = Wire::to(gateway.address());
    let mut answered = 0;
    while wire.say(get("/livez")) {
        let Some(heard) = wire.hear(PATIENCE) else { break };
        assert_eq!(heard.status, 200);
        answered += 1;
        if heard.closes() {
            break;
        }
        assert!(answered < 10, "no end");
    }
    assert!(wire.ends(PATIENCE) && (3..=4).contains(&answered), "{answered} answers");
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let text = "x".repeat(16 << 20);
    let fake = Fake::start(move |seen| match seen.rpc().as_str() {
        "tools/call" => Act::Json(200, seen.text(&text)),
        _ => fake::modern(seen),
    });
    let conf = "drain: 5s\nlimits: {write_timeout: 1s, answer: 32MiB}\n";
    let gateway = Gateway::with(&catalog(&fake)).conf(conf).start();
    let call = json!({"server_id": "it", "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {}}});
    let mut wire = Wire::to(gateway.address());
    wire.say(post("/mcp", "", &call));
    // Nothing is read from here on.
    wait_for_metric(
        &gateway,
        "tollgate_connections_cut_total{listener=\"main\",reason=\"slow_reader\"}",
        |cut| cut == 1.0,
    );
    // Control: whoever reads gets it all.
    let mut wire = Wire::to(gateway.address());
    wire.say(post("/mcp", "", &call));
    let heard = wire.hear(PATIENCE).unwrap();
    assert_eq!((heard.status, heard.body.len() > 16 << 20), (200, true));
}

#[test]
fn http2_by_prior_knowledge_is_a_listeners_own_choice() {
    let fake = Fake::start(fake::legacy);
    let conf = r#"
drain: 5s
listeners:
  - {name: with, listen: "127.0.0.1:0", h2c: true}
  - {name: without, listen: "127.0.0.1:0"}
"#;
    let gateway = Gateway::with(&catalog(&fake)).listeners(conf).start();
    // The preface and an empty SETTINGS frame (RFC 9113 sections 3.4 and 6.5).
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut wire = Wire::to(gateway.listener("with"));
    wire.say(preface);
    assert!(!wire.ends(Duration::from_millis(200)));
    // Theirs is the first frame.
    assert_eq!(wire.left().get(3), Some(&4), "{:?}", wire.left());
    // The other version goes on at the same address.
    assert_eq!(once(gateway.listener("with"), &get("/livez")).status, 200);
    let mut wire = Wire::to(gateway.listener("without"));
    wire.say(preface);
    assert!(wire.ends(PATIENCE));
    assert_ne!(wire.left().get(3), Some(&4), "{:?}", wire.left());
}
