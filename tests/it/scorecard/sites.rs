//! S07: other sites' pages and names that lead here. Host and Origin on every door, types of bodies, preflights.
//! Not here: who may call once the name is right (`auth`).

use serde_json::json;

use super::Card;
use crate::gateway::Gateway;
use crate::naive::Naive;
use crate::recorder::{Believes, Recorder};
use crate::wire::{Heard, PATIENCE, Wire, once};

const CONF: &str = "hosts: [gw.example.com]\norigins: [\"https://app.example.com\"]\npublic_url: \"https://mcp.example.com:8443\"\ndrain: 5s\n";
const CALL: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"n":"x"}}}"#;
const ACCEPT: &str = "accept: application/json, text/event-stream\r\n";

/// Every door, and those that a transport not offered here would have; method, path, headers of its own, body.
const DOORS: [(&str, &str, &str, &str); 19] = [
    ("POST", "/servers/mcp/mcp", "content-type: application/json\r\n", CALL),
    ("GET", "/servers/mcp/mcp", "", ""),
    ("DELETE", "/servers/mcp/mcp", "mcp-session-id: x\r\n", ""),
    (
        "POST",
        "/mcp",
        "content-type: application/json\r\n",
        r#"{"server_id":"mcp","id":1,"method":"tools/list"}"#,
    ),
    (
        "POST",
        "/rpc",
        "content-type: application/json\r\nx-server-id: mcp\r\n",
        r#"{"id":1,"method":"tools/list"}"#,
    ),
    ("GET", "/servers/raw/raw/x", "", ""),
    ("POST", "/servers/raw/raw/x", "content-type: text/plain\r\n", "x"),
    ("GET", "/health", "", ""),
    ("GET", "/metrics", "", ""),
    ("GET", "/servers", "", ""),
    ("POST", "/admin/reload", "", ""),
    ("POST", "/servers/mcp/stop", "", ""),
    ("GET", "/.well-known/oauth-protected-resource/servers/mcp/mcp", "", ""),
    ("GET", "/servers/mcp/sse", "", ""),
    ("POST", "/servers/mcp/message", "content-type: application/json\r\n", CALL),
    ("GET", "/sse", "", ""),
    ("POST", "/messages", "content-type: application/json\r\n", CALL),
    ("OPTIONS", "/servers/mcp/mcp", "access-control-request-method: POST\r\n", ""),
    ("GET", "/", "", ""),
];

const EVIL_HOSTS: [&str; 17] = [
    "evil.example",
    "evil.example:80",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.localhost",
    "gw.example.com.evil.example",
    "xgw.example.com",
    "gw.example.com.",
    "example.com",
    "app.example.com",
    "localhost:80@evil.example",
    "evil.example:80:80",
    "127.0.0.1:x",
    "[::1].evil.example",
    "2130706433",
    "0x7f.1",
    "",
];

const EVIL_ORIGINS: [&str; 29] = [
    "http://evil.example",
    "https://evil.example",
    "null",
    "NULL",
    "https://app.example.com.evil.example",
    "https://evil-app.example.com",
    "https://xapp.example.com",
    "http://app.example.com",
    "https://app.example.com:8443",
    "https://gw.example.com",
    "http://gw.example.com",
    "https://gw.example.com:8443",
    "https://mcp.example.com",
    "http://mcp.example.com:8443",
    "https://mcp.example.com:9443",
    "https://app.example.com.",
    "https://app.example.com@evil.example",
    "https://app.example.com/",
    "https://app.example.com#x",
    "HTTP://EVIL.EXAMPLE",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://localhost@evil.example",
    "file://",
    "chrome-extension://abc",
    "https://example.com",
    "https://app.example.com https://evil.example",
    "https://app.ex\u{430}mple.com",
    "",
];

const GOOD_ORIGINS: [&str; 6] = [
    "https://app.example.com",
    "HTTPS://APP.EXAMPLE.COM",
    "https://mcp.example.com:8443",
    "http://localhost:3000",
    "http://127.0.0.1",
    "http://[::1]:8080",
];

fn catalog(recorder: &Recorder) -> String {
    json!({"servers": [
        {"id": "raw", "runtime": {"type": "raw-http", "url": recorder.url("/base/")}, "health": {"type": "off"}},
        {"id": "mcp", "runtime": {"type": "remote-http", "url": recorder.url("/mcp")}, "health": {"type": "off"}},
    ]})
    .to_string()
}

fn gateway(recorder: &Recorder) -> Gateway {
    Gateway::with(&catalog(recorder)).conf(CONF).start()
}

fn request((method, path, headers, body): (&str, &str, &str, &str), host: &str, more: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{ACCEPT}{headers}{more}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Doors that pages are meant to call.
fn is_for_pages(path: &str) -> bool {
    ["/servers/mcp/mcp", "/servers/mcp/sse", "/servers/mcp/message", "/mcp", "/rpc"].contains(&path)
}

/// Whether caches are told that the answer depends on the page.
fn varies(heard: &Heard) -> bool {
    heard.header("vary").is_some_and(|vary| vary.contains("origin"))
}

/// What a page must not see.
fn shared(heard: &Heard) -> bool {
    heard.head.contains("access-control-") || heard.head.contains(": *")
}

#[test]
fn s07_other_names_and_other_pages_are_refused_at_every_door() {
    let mut card = Card::new("S07");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    let address = gateway.address();
    for door in DOORS {
        let name = format!("{} {}", door.0, door.1);
        for host in EVIL_HOSTS {
            let heard = once(address, &request(door, host, ""));
            card.check(
                &format!("{name} as {host:?}"),
                matches!(heard.status, 400 | 403) && !shared(&heard),
                &heard,
            );
        }
        for target in
            ["http://evil.example", "https://gw.example.com.evil.example", "http://evil.example@localhost"]
        {
            let absolute = (door.0, &*format!("{target}{}", door.1), door.2, door.3);
            let heard = once(address, &request(absolute, "localhost", ""));
            card.check(
                &format!("{name} as {target}"),
                matches!(heard.status, 400 | 403) && !shared(&heard),
                &heard,
            );
        }
        for origin in EVIL_ORIGINS {
            let heard = once(address, &request(door, "localhost", &format!("origin: {origin}\r\n")));
            card.check(&format!("{name} from {origin:?}"), heard.status == 403 && !shared(&heard), &heard);
        }
        for pair in [
            "origin: https://app.example.com\r\norigin: http://evil.example\r\n",
            "origin: https://app.example.com\r\nOrigin: https://app.example.com\r\n",
        ] {
            let heard = once(address, &request(door, "localhost", pair));
            card.check(&format!("{name} from {pair:?}"), heard.status == 403 && !shared(&heard), &heard);
        }
    }
    card.check("nothing arrived", recorder.requests().is_empty(), &recorder.requests());
    card.pass("names and origins refused at 19 doors");
}

/// Doors whose answer comes at once.
fn answering() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static str)> {
    let streams = |path: &str| matches!(path, "/servers/mcp/mcp" | "/servers/mcp/sse");
    DOORS.into_iter().filter(move |door| !(door.0 == "GET" && streams(door.1)))
}

#[test]
fn s07_listed_pages_may_call_and_read_and_nobody_else_is_told() {
    let mut card = Card::new("S07");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    let address = gateway.address();
    for door in answering() {
        let name = format!("{} {}", door.0, door.1);
        let plain = once(address, &request(door, "GW.example.com:4444", ""));
        let holds = plain.status != 403 && !shared(&plain) && (varies(&plain) || !is_for_pages(door.1));
        card.check(&format!("{name} without an origin"), holds, &plain);
        let other = once(address, &request(door, "localhost", "origin: http://evil.example\r\n"));
        let holds = other.status == 403 && (varies(&other) || !is_for_pages(door.1));
        card.check(&format!("{name} from another page"), holds, &other);
        for origin in GOOD_ORIGINS {
            let mut wire = Wire::to(address);
            wire.say(request(door, "127.0.0.1", &format!("origin: {origin}\r\n")));
            let heard = wire.hear(PATIENCE).unwrap();
            let lower = origin.to_lowercase();
            let named = heard.header("access-control-allow-origin").is_none_or(|named| named == lower);
            // Pages are told at the doors that they are meant to call.
            let meant = is_for_pages(door.1);
            let told = heard.header("access-control-allow-origin").is_some();
            let never = !heard.head.contains("allow-credentials") && !heard.head.contains("allow-origin: *");
            let holds =
                heard.status != 403 && named && never && (told || !meant) && (varies(&heard) || !told);
            card.check(&format!("{name} from {origin}"), holds, &heard);
        }
    }
    for (origin, want) in [("https://app.example.com", 204), ("http://evil.example", 403), ("null", 403)] {
        for path in ["/servers/mcp/mcp", "/mcp", "/rpc"] {
            let asked = format!(
                "OPTIONS {path} HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\naccess-control-request-method: POST\r\naccess-control-request-headers: authorization, content-type, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, mcp-param-region\r\n\r\n"
            );
            let heard = once(address, &asked);
            let allowed = heard.header("access-control-allow-headers").unwrap_or_default().to_owned();
            let all = [
                "authorization",
                "content-type",
                "mcp-session-id",
                "mcp-protocol-version",
                "mcp-method",
                "mcp-name",
                "mcp-param-region",
                "last-event-id",
            ];
            let complete = all.iter().all(|name| allowed.contains(name))
                && heard
                    .header("access-control-allow-methods")
                    .is_some_and(|methods| methods.contains("post"));
            card.check(
                &format!("preflight of {path} from {origin}"),
                heard.status == want && complete == (want == 204) && shared(&heard) == (want == 204),
                &heard,
            );
        }
    }
    card.pass("answers to pages: the page itself is named, never a wildcard, never with credentials");
}

/// Where other machines call, a page of some machine's own is nobody in particular.
#[test]
fn s07_loopback_pages_call_only_loopback_listeners() {
    let mut card = Card::new("S07");
    let recorder = Recorder::start();
    let key = "Wz3kP8vN5qL1xT7c-scorecard";
    let conf = CONF.replace("origins", "trusted_proxies: [192.0.2.7]\norigins");
    let conf = format!(
        "{conf}auth: {{keys: [{{name: a, key: {key}, servers: ['*']}}]}}\nlisteners: [{{name: near, listen: '127.0.0.1:0'}}, {{name: far, listen: '0.0.0.0:0'}}]\n"
    );
    let gateway = Gateway::with(&catalog(&recorder)).listeners(&conf).start();
    for (listener, want) in [("near", 401), ("far", 403)] {
        let address = ([127, 0, 0, 1], gateway.listener(listener).port()).into();
        for origin in ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:8080"] {
            let heard = once(address, &request(DOORS[0], "localhost", &format!("origin: {origin}\r\n")));
            card.check(&format!("{origin} at {listener}"), heard.status == want, &heard);
        }
        let page = "origin: https://app.example.com\r\n";
        let heard = once(address, &request(DOORS[0], "localhost", page));
        card.check(&format!("a listed page at {listener}"), heard.status == 401, &heard);
    }
    card.pass("loopback pages at a loopback address and at any");
}

#[test]
fn s07_a_form_is_no_message() {
    let mut card = Card::new("S07");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    for (path, headers, body) in [
        ("/servers/mcp/mcp", "", CALL),
        ("/mcp", "", DOORS[3].3),
        ("/rpc", "x-server-id: mcp\r\n", DOORS[4].3),
    ] {
        for kind in [
            "content-type: text/plain\r\n",
            "content-type: text/plain;charset=UTF-8\r\n",
            "content-type: application/x-www-form-urlencoded\r\n",
            "content-type: multipart/form-data; boundary=x\r\n",
            "content-type: text/html\r\n",
            "content-type: text/json\r\n",
            "content-type: application/jsonp\r\n",
            "content-type: application/json, text/plain\r\n",
            "content-type: text/plain, application/json\r\n",
            "content-type: text/plain; x=application/json\r\n",
            "content-type: application/json\r\ncontent-type: text/plain\r\n",
            "content-type: application/octet-stream\r\n",
            "content-type:\r\n",
            "",
        ] {
            let heard = once(gateway.address(), &request(("POST", path, headers, body), "localhost", kind));
            card.check(&format!("{path} with {kind:?}"), heard.status == 415, &heard);
        }
        recorder.clear();
        for kind in
            ["content-type: application/json; charset=utf-8\r\n", "Content-Type: Application/JSON\r\n"]
        {
            let heard = once(gateway.address(), &request(("POST", path, headers, body), "localhost", kind));
            card.check(&format!("{path} with {kind:?}"), heard.status == 200, &heard);
        }
        let seen = recorder.requests();
        let forwarded = seen
            .iter()
            .filter(|seen| seen.json()["method"].as_str().is_some_and(|method| method.starts_with("tools/")));
        card.check(&format!("{path} forwarded both"), forwarded.count() == 2, &seen);
        recorder.clear();
    }
    card.pass("types of bodies: what a page can send without asking is 415");
}

/// The positive control: a naive proxy lets every page and every name in, and tells the page so.
#[test]
fn s07_a_naive_proxy_lets_everybody_in() {
    let recorder = Recorder::start();
    let naive = Naive::before(recorder.address(), Believes::Length);
    for host in EVIL_HOSTS {
        assert_eq!(once(naive.address(), &request(DOORS[0], host, "")).status, 200, "{host}");
    }
    for origin in EVIL_ORIGINS.iter().filter(|origin| origin.is_ascii()) {
        let heard = once(naive.address(), &request(DOORS[0], "localhost", &format!("origin: {origin}\r\n")));
        assert!(heard.status == 200 && shared(&heard), "{heard:?}");
        assert_eq!(heard.header("access-control-allow-origin"), Some(&*origin.to_lowercase()));
    }
    assert_eq!(recorder.requests().len(), EVIL_HOSTS.len() + EVIL_ORIGINS.len() - 1);
}
