//! S09: headers that claim to be somebody, and headers that are one hop's own.
//! Not here: credentials that are checked (`auth`), framing (`smuggling`).

use std::collections::BTreeSet;

use serde_json::json;

use super::Card;
use crate::client::SOON;
use crate::fake::{Act, Fake};
use crate::gateway::Gateway;
use crate::naive::Naive;
use crate::recorder::{Believes, Recorder};
use crate::wire::once;

/// Headers that services behind proxies believe, and the spellings that some take for the same.
const CLAIMS: [&str; 48] = [
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Client-Cert",
    "X-Forwarded",
    "Forwarded",
    "X-Real-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "Fastly-Client-IP",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Original-Forwarded-For",
    "Proxy",
    "Remote-User",
    "X-Remote-User",
    "X-User",
    "X-WebAuth-User",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Authenticated-User",
    "X-Goog-Authenticated-User-Email",
    "X-GW-User",
    "X_Gw_User",
    "X.Gw.User",
    "x_forwarded_for",
    "X.Forwarded.For",
    "X_Forwarded-For",
    "x-forwarded_for",
    "X_Real_IP",
    "x_user",
    "Remote_User",
    "REMOTE.USER",
    "X_Api_Key",
    "X_Auth_Request_User",
    "x_team",
    "X.Team",
    "Cookie",
    "Proxy-Authorization",
    "X-Original_URL",
    "x-webauth.user",
];

fn catalog(raw: &str, mcp: &str) -> String {
    json!({"servers": [
        {"id": "raw", "runtime": {"type": "raw-http", "url": raw}, "health": {"type": "off"}, "headers": {"Authorization": "Bearer of-the-server", "X-Team": "tollgate"}},
        {"id": "mcp", "runtime": {"type": "remote-http", "url": mcp}, "health": {"type": "off"}, "headers": {"Authorization": "Bearer of-the-server", "X-Team": "tollgate"}},
    ]})
    .to_string()
}

fn gateway(recorder: &Recorder, conf: &str) -> Gateway {
    Gateway::with(&catalog(&recorder.url("/base/"), &recorder.url("/mcp")))
        .conf(&format!("drain: 5s\n{conf}"))
        .start()
}

fn get(headers: &str) -> String {
    format!("GET /servers/raw/raw/x HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")
}

fn call(headers: &str) -> String {
    let body =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"n":"x"}}}"#;
    format!(
        "POST /servers/mcp/mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn s09_nobody_is_who_a_header_says() {
    let mut card = Card::new("S09");
    let recorder = Recorder::start();
    for conf in ["", "trusted_proxies: [127.0.0.1/32]\n"] {
        let gateway = gateway(&recorder, conf);
        for claim in CLAIMS {
            for request in
                [get(&format!("{claim}: spoof\r\nx-custom: kept\r\n")), call(&format!("{claim}: spoof\r\n"))]
            {
                recorder.clear();
                let heard = once(gateway.address(), &request);
                let seen = recorder.requests();
                let clean = seen.iter().all(|seen| {
                    !seen.headers.iter().any(|(_, value)| value.contains("spoof"))
                        && seen.values("authorization") == ["Bearer of-the-server"]
                        && seen.values("x-team") == ["tollgate"]
                        && (seen.method == "POST" || seen.values("x-custom") == ["kept"])
                        && seen.violations.is_empty()
                });
                card.check(
                    &format!("{claim} {conf:?}"),
                    heard.status == 200 && seen.len() == 1 && clean,
                    &(heard, seen),
                );
            }
        }
    }
    card.pass("claims of identity: none arrives, the server's own headers do");
}

#[test]
fn s09_a_hops_own_headers_stay_with_it() {
    let mut card = Card::new("S09");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder, "");
    for (nominated, gone) in [
        ("x-custom", "x-custom"),
        ("X-CUSTOM, keep-alive", "x-custom"),
        ("close, x-custom", "x-custom"),
        ("authorization", "x-none"),
        ("x-team", "x-none"),
        ("x-request-id", "x-none"),
        ("mcp-name, mcp-method", "mcp-name"),
        ("content-type", "x-none"),
        ("traceparent", "x-none"),
        ("te", "te"),
        ("accept, cookie", "cookie"),
    ] {
        recorder.clear();
        let headers = format!(
            "connection: {nominated}\r\nx-custom: hop\r\nte: trailers\r\ncookie: a=b\r\nmcp-name: echo\r\n"
        );
        let heard = once(gateway.address(), &get(&headers));
        let seen = recorder.requests();
        let holds = seen.iter().all(|seen| {
            seen.values(gone).is_empty()
                && seen.values("connection").is_empty()
                && seen.values("authorization") == ["Bearer of-the-server"]
                && seen.values("x-team") == ["tollgate"]
                && seen.values("x-request-id").len() == 1
                && seen.violations.is_empty()
        });
        card.check(
            &format!("raw, nominated: {nominated}"),
            heard.status == 200 && seen.len() == 1 && holds,
            &(heard, seen),
        );
        recorder.clear();
        let heard = once(gateway.address(), &call(&headers));
        let seen = recorder.requests();
        let holds = seen.iter().all(|seen| {
            seen.values("connection").is_empty()
                && seen.values("content-type") == ["application/json"]
                && seen.values("authorization") == ["Bearer of-the-server"]
                && seen.violations.is_empty()
        });
        card.check(&format!("mcp, nominated: {nominated}"), heard.status == 200 && holds, &(heard, seen));
    }
    // What routes or frames a request, or says who sends it, cannot be one hop's own: refused, or kept all the same.
    for nominated in [
        "host",
        "content-length",
        "transfer-encoding",
        "x-forwarded-for",
        "x-forwarded-proto",
        ":path",
        "x-forwarded-host, x-custom",
        "x\0y",
    ] {
        recorder.clear();
        let heard = once(gateway.address(), &get(&format!("connection: {nominated}\r\n")));
        let seen = recorder.requests();
        let holds = seen
            .iter()
            .all(|seen| seen.values("x-forwarded-for") == ["127.0.0.1"] && seen.violations.is_empty());
        card.check(
            &format!("nominated: {nominated}"),
            (heard.status == 400 && seen.is_empty()) || (heard.status == 200 && holds),
            &(heard, seen),
        );
    }
    for own in [
        "te: trailers",
        "trailer: x",
        "keep-alive: timeout=5",
        "proxy-connection: keep-alive",
        "proxy-authenticate: Basic",
        "upgrade: h2c",
        "http2-settings: AAMAAABk",
    ] {
        recorder.clear();
        let name = own.split(':').next().unwrap();
        for request in [get(&format!("{own}\r\n")), call(&format!("{own}\r\n"))] {
            once(gateway.address(), &request);
        }
        let seen = recorder.requests();
        card.check(
            own,
            seen.len() == 2
                && seen.iter().all(|seen| seen.values(name).is_empty() && seen.violations.is_empty()),
            &seen,
        );
    }
    drop(gateway);
    answers(&mut card);
    card.pass("headers of one hop: none passes on, and what the gateway adds cannot be nominated away");
}

/// The same on the way back.
fn answers(card: &mut Card) {
    let fake = Fake::start(|_| {
        let headers = [
            ("connection", "x-hop, keep-alive"),
            ("x-hop", "hop"),
            ("keep-alive", "timeout=9"),
            ("proxy-authenticate", "Basic"),
            ("proxy-connection", "x"),
            ("te", "x"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("server", "inside"),
            ("set-cookie", "a=b"),
            ("www-authenticate", "Basic"),
            ("x-kept", "kept"),
        ];
        Act::JsonWith(
            200,
            headers.map(|(name, value)| (name, value.to_owned())).into(),
            json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
        )
    });
    let raw = fake.url().replace("/mcp", "/base/");
    let gateway = Gateway::start(&catalog(&raw, &fake.url()));
    for (door, request) in [("raw", get("")), ("mcp", call(""))] {
        let heard = once(gateway.address(), &request);
        for name in [
            "x-hop",
            "keep-alive",
            "proxy-authenticate",
            "proxy-connection",
            "te",
            "trailer",
            "upgrade",
            "server",
            "set-cookie",
            "www-authenticate",
        ] {
            card.check(&format!("{name} of an answer by {door}"), heard.header(name).is_none(), &heard);
        }
        let kept = door == "mcp" || heard.header("x-kept") == Some("kept");
        card.check(&format!("the rest of it by {door}"), heard.status == 200 && kept, &heard);
    }
}

/// The client's address in the access log, and in what the upstream is told.
fn addresses(gateway: &Gateway, recorder: &Recorder, id: &str, forwarded: &str) -> (String, Vec<String>) {
    recorder.clear();
    once(gateway.address(), &get(&format!("x-request-id: {id}\r\n{forwarded}")));
    let logged = gateway.wait_for_log("access", SOON, |line| {
        (line["request_id"] == *id && line["door"].is_string())
            .then(|| line["client"].as_str().unwrap_or_default().to_owned())
    });
    let seen = recorder.requests();
    let told =
        seen.first().map(|seen| seen.values("x-forwarded-for").iter().map(ToString::to_string).collect());
    (logged, told.unwrap_or_default())
}

#[test]
fn s09_the_clients_address_is_the_truth() {
    let mut card = Card::new("S09");
    let recorder = Recorder::start();
    let claims = |count: usize| "x-forwarded-for: 6.6.6.6\r\n".repeat(count);
    let (many, more) = (claims(32), claims(59));
    let own = "x-forwarded-for: 203.0.113.9\r\n";
    let one_line = format!("x-forwarded-for: {}203.0.113.9\r\n", "6.6.6.6, ".repeat(59));
    let chains = [
        (&*format!("{many}{own}"), "203.0.113.9"),
        (&*format!("{more}{own}"), "203.0.113.9"),
        (&*one_line, "203.0.113.9"),
        ("x-forwarded-for: 203.0.113.9\r\n", "203.0.113.9"),
        ("x-forwarded-for: 6.6.6.6, 203.0.113.9\r\n", "203.0.113.9"),
        ("x-forwarded-for: 6.6.6.6\r\nx-forwarded-for: 203.0.113.9\r\n", "203.0.113.9"),
        ("x-forwarded-for: 203.0.113.9, 127.0.0.1\r\n", "203.0.113.9"),
        ("x-forwarded-for: 6.6.6.6,203.0.113.9:1234,127.0.0.1\r\n", "203.0.113.9"),
        ("x-forwarded-for: 2001:db8::9\r\n", "2001:db8::9"),
        ("x-forwarded-for: [2001:db8::9]:443\r\n", "2001:db8::9"),
        ("x-forwarded-for: ::ffff:203.0.113.9\r\n", "203.0.113.9"),
        ("x-forwarded-for: 203.0.113.9, nonsense\r\n", "127.0.0.1"),
        ("x-forwarded-for: \r\n", "127.0.0.1"),
        ("x-real-ip: 6.6.6.6\r\n", "127.0.0.1"),
        ("forwarded: for=6.6.6.6\r\n", "127.0.0.1"),
        ("x_forwarded_for: 6.6.6.6\r\n", "127.0.0.1"),
        ("connection: x-custom\r\nx-forwarded-for: 203.0.113.9\r\n", "203.0.113.9"),
        ("", "127.0.0.1"),
    ];
    for trusted in [false, true] {
        let gateway = gateway(&recorder, if trusted { "trusted_proxies: [127.0.0.1/32]\n" } else { "" });
        for (number, (forwarded, behind)) in chains.iter().enumerate() {
            let want = if trusted { behind } else { "127.0.0.1" };
            let (logged, told) = addresses(&gateway, &recorder, &format!("s09-{number}"), forwarded);
            card.check(
                &format!("{forwarded:?}, trusted: {trusted}"),
                logged == want && told == [want],
                &(logged, told),
            );
        }
    }
    card.pass("chains of addresses: the right-most that no trusted proxy has, and only from a trusted one");
}

#[test]
fn s09_a_bucket_of_an_address_is_not_left_by_a_header() {
    let mut card = Card::new("S09");
    let recorder = Recorder::start();
    let limit = "address_limit: {requests: 3, per: 1h, burst: 3}\n";
    for (conf, refused) in [(limit.to_owned(), 7), (format!("{limit}trusted_proxies: [127.0.0.1/32]\n"), 0)] {
        let gateway = gateway(&recorder, &conf);
        let statuses: Vec<u16> = (0..10)
            .map(|n| {
                once(
                    gateway.address(),
                    &get(&format!("x-forwarded-for: 203.0.113.{n}\r\nx-real-ip: 203.0.113.{n}\r\n")),
                )
                .status
            })
            .collect();
        let limited = statuses.iter().filter(|status| **status == 429).count();
        card.check(&conf, limited == refused, &statuses);
    }
    card.pass("settings: an untrusted client stays in its bucket whatever it says");
}

/// The positive control: a naive proxy passes every claim on.
#[test]
fn s09_a_naive_proxy_passes_claims_on() {
    let recorder = Recorder::start();
    let naive = Naive::before(recorder.address(), Believes::Length);
    for claim in CLAIMS {
        once(
            naive.address(),
            &format!(
                "GET /x HTTP/1.1\r\nhost: localhost\r\nconnection: x-hop\r\nx-hop: hop\r\nte: x\r\n{claim}: spoof\r\n\r\n"
            ),
        );
    }
    let seen = recorder.requests();
    let believed: BTreeSet<&str> = seen
        .iter()
        .flat_map(|seen| &seen.headers)
        .filter(|(_, value)| value == "spoof")
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(believed.len(), CLAIMS.len());
    assert!(seen.iter().all(|seen| seen.values("x-hop") == ["hop"] && !seen.violations.is_empty()));
}
