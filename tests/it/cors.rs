//! Pages in browsers: what they may ask and read, and what others may not.
//! Not here: the whole matrix of hosts and origins (`scorecard`).

use serde_json::json;

use crate::fake::{self, Fake};
use crate::gateway::Gateway;
use crate::wire::{Heard, once};

const PAGE: &str = "https://app.example.com";
const DOORS: [&str; 3] = ["/servers/it/mcp", "/mcp", "/rpc"];

fn gateway(fake: &Fake) -> Gateway {
    let server =
        json!({"id": "it", "runtime": {"type": "remote-http", "url": fake.url()}, "health": {"type": "off"}});
    let conf = format!(
        "drain: 5s\norigins: ['{PAGE}']\nauth: {{keys: [{{name: a, key: Rq7vB2mX9kT4wZ6n-alice, servers: ['*']}}]}}\n"
    );
    Gateway::with(&json!({"servers": [server]}).to_string()).conf(&conf).start()
}

fn ask(gateway: &Gateway, verb: &str, path: &str, headers: &[(&str, &str)]) -> Heard {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    once(
        gateway.address(),
        &format!("{verb} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: 0\r\n\r\n"),
    )
}

/// Whether an answer says anything to pages.
fn is_for_pages(heard: &Heard) -> bool {
    heard.head.contains("access-control-")
}

#[test]
fn a_preflight_of_a_listed_page_is_answered_at_every_mcp_door() {
    let fake = Fake::start(fake::modern);
    let gateway = gateway(&fake);
    for path in DOORS {
        for page in [PAGE, "http://localhost:6274"] {
            let asked = [
                ("Origin", page),
                ("Access-Control-Request-Method", "POST"),
                ("Access-Control-Request-Headers", "authorization,content-type,mcp-param-region"),
            ];
            let heard = ask(&gateway, "OPTIONS", path, &asked);
            assert_eq!(heard.status, 204, "{path} {heard:?}");
            assert_eq!(heard.header("access-control-allow-origin"), Some(page));
            assert!(heard.header("vary").unwrap().contains("origin"), "{heard:?}");
            assert!(heard.header("access-control-allow-methods").unwrap().contains("post"));
            let allowed = heard.header("access-control-allow-headers").unwrap();
            for name in [
                "authorization",
                "mcp-session-id",
                "mcp-protocol-version",
                "last-event-id",
                "mcp-param-region",
            ] {
                assert!(allowed.split(", ").any(|listed| listed == name), "{name} in {allowed}");
            }
            assert_eq!(heard.header("access-control-allow-credentials"), None);
        }
    }
    assert!(fake.seen().is_empty());
}

#[test]
fn every_answer_to_a_listed_page_can_be_read_refusals_too() {
    let fake = Fake::start(fake::modern);
    let gateway = gateway(&fake);
    for (verb, path, status) in
        [("POST", DOORS[0], 401), ("POST", DOORS[1], 401), ("PUT", DOORS[0], 405), ("POST", DOORS[2], 401)]
    {
        let heard = ask(&gateway, verb, path, &[("Origin", PAGE)]);
        assert_eq!(heard.status, status, "{verb} {path} {heard:?}");
        assert_eq!(heard.header("access-control-allow-origin"), Some(PAGE), "{verb} {path} {heard:?}");
        let exposed = heard.header("access-control-expose-headers").unwrap();
        for name in ["mcp-session-id", "www-authenticate", "x-request-id", "retry-after"] {
            assert!(exposed.split(", ").any(|listed| listed == name), "{name} in {exposed}");
        }
        // Programs that are no browsers are not bothered with it.
        assert!(!is_for_pages(&ask(&gateway, verb, path, &[])));
    }
}

#[test]
fn other_pages_are_refused_and_told_nothing() {
    let fake = Fake::start(fake::modern);
    let gateway = gateway(&fake);
    for path in DOORS {
        for page in ["https://evil.example", "null", "https://app.example.com.evil.example"] {
            for verb in ["OPTIONS", "POST"] {
                let asked = [("Origin", page), ("Access-Control-Request-Method", "POST")];
                let heard = ask(&gateway, verb, path, &asked);
                assert_eq!(
                    (heard.status, is_for_pages(&heard)),
                    (403, false),
                    "{verb} {path} {page} {heard:?}"
                );
            }
        }
        // A question that no browser asks is a method like any other.
        assert_eq!(ask(&gateway, "OPTIONS", path, &[]).status, 405);
    }
    assert!(fake.seen().is_empty());
}
