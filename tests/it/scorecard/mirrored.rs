//! B02: headers that mirror the body. What differs is refused with -32020, and the body alone decides.
//! Not here: the body's own form (`json`).

use serde_json::{Value, json};

use super::Card;
use crate::gateway::Gateway;
use crate::naive::Naive;
use crate::recorder::{Believes, Recorded, Recorder};
use crate::wire::{PATIENCE, Wire};

const MISMATCH: i64 = -32020;

/// A modern call of that tool, with these headers. `None` wants it to pass.
type Case = (String, Vec<String>, String, Option<i64>);

fn body(method: &str, name: &str, version: &str) -> String {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {}});
    let member = if method == "resources/read" { "uri" } else { "name" };
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {member: name, "arguments": {"n": "x"}, "_meta": meta}}).to_string()
}

fn sentinel(text: &[u8]) -> String {
    use base64::Engine as _;
    format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text))
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let call = body("tools/call", "echo", "2026-07-28");
    let (version, method, name) =
        ("MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: echo");
    let mut add = |what: &str, headers: &[&str], body: &str, want| {
        cases.push((
            what.to_owned(),
            headers.iter().map(ToString::to_string).collect(),
            body.to_owned(),
            want,
        ));
    };
    let bad = Some(MISMATCH);
    add("all agree", &[version, method, name], &call, None);
    add(
        "other spellings of the names",
        &["mcp-protocol-version: 2026-07-28", "MCP-METHOD: tools/call", "mCP-nAME: echo"],
        &call,
        None,
    );
    add(
        "spaces around",
        &["MCP-Protocol-Version:  2026-07-28 ", "Mcp-Method:\ttools/call\t", "Mcp-Name: echo   "],
        &call,
        None,
    );
    for (what, headers) in [
        ("no version", &[method, name][..]),
        ("no method", &[version, name]),
        ("no name", &[version, method]),
        ("nothing", &[]),
        ("an older version", &["MCP-Protocol-Version: 2025-11-25", method, name]),
        ("an unknown version", &["MCP-Protocol-Version: 2027-01-01", method, name]),
        ("an empty version", &["MCP-Protocol-Version:", method, name]),
        ("two equal versions", &[version, version, method, name]),
        ("two versions", &[version, "MCP-Protocol-Version: 2025-11-25", method, name]),
        ("versions in a list", &["MCP-Protocol-Version: 2026-07-28, 2026-07-28", method, name]),
        ("another method", &[version, "Mcp-Method: tools/list", name]),
        ("a method in another case", &[version, "Mcp-Method: Tools/Call", name]),
        ("an empty method", &[version, "Mcp-Method:", name]),
        ("two equal methods", &[version, method, method, name]),
        ("two methods", &[version, "Mcp-Method: tools/list", method, name]),
        ("methods in a list", &[version, "Mcp-Method: tools/call, tools/call", name]),
        ("a method in base64", &[version, "Mcp-Method: =?base64?dG9vbHMvY2FsbA==?=", name]),
        ("another name", &[version, method, "Mcp-Name: evil"]),
        ("a name in another case", &[version, method, "Mcp-Name: Echo"]),
        ("an empty name", &[version, method, "Mcp-Name:"]),
        ("two equal names", &[version, method, name, name]),
        ("two names", &[version, method, "Mcp-Name: evil", name]),
        ("names in a list", &[version, method, "Mcp-Name: echo, evil"]),
        ("a quoted name", &[version, method, "Mcp-Name: \"echo\""]),
        ("an escaped name", &[version, method, "Mcp-Name: e%63ho"]),
        ("a name with a tail", &[version, method, "Mcp-Name: echo;x=1"]),
        ("bad base64", &[version, method, "Mcp-Name: =?base64?!?="]),
        ("base64 without its padding", &[version, method, "Mcp-Name: =?base64?ZWNobw?="]),
        ("base64 with spaces", &[version, method, "Mcp-Name: =?base64?ZWNo bw==?="]),
        ("base64url", &[version, method, "Mcp-Name: =?base64?_-A=?="]),
        ("base64 of something else", &[version, method, "Mcp-Name: =?base64?ZXZpbA==?="]),
        ("base64 of no UTF-8", &[version, method, "Mcp-Name: =?base64?/w==?="]),
        ("base64 of base64", &[version, method, "Mcp-Name: =?base64?PT9iYXNlNjQ/WldOb2J3PT0/PQ==?="]),
        ("a sentinel in another case", &[version, method, "Mcp-Name: =?BASE64?ZWNobw==?="]),
        ("half a sentinel", &[version, method, "Mcp-Name: =?base64?ZWNobw=="]),
        ("another sentinel", &[version, method, "Mcp-Name: =?utf-8?B?ZWNobw==?="]),
        ("a look-alike", &[version, method, "Mcp-Name: \u{435}cho"]),
    ] {
        add(what, headers, &call, bad);
    }
    let sentinel_name = format!("Mcp-Name: {}", sentinel(b"echo"));
    add("a name in base64", &[version, method, &sentinel_name], &call, None);
    let snow = body("tools/call", "\u{2603}", "2026-07-28");
    let snow_name = format!("Mcp-Name: {}", sentinel("\u{2603}".as_bytes()));
    add("a name that needs base64", &[version, method, &snow_name], &snow, None);
    add("the same as bytes", &[version, method, "Mcp-Name: \u{2603}"], &snow, bad);
    let literal = body("tools/call", "=?base64?ZWNobw==?=", "2026-07-28");
    let twice = format!("Mcp-Name: {}", sentinel(b"=?base64?ZWNobw==?="));
    add("a name that looks like a sentinel", &[version, method, &twice], &literal, None);
    add("the same unwrapped", &[version, method, "Mcp-Name: =?base64?ZWNobw==?="], &literal, bad);
    let read = body("resources/read", "file:///a", "2026-07-28");
    add("a resource", &[version, "Mcp-Method: resources/read", "Mcp-Name: file:///a"], &read, None);
    add("another resource", &[version, "Mcp-Method: resources/read", "Mcp-Name: file:///b"], &read, bad);
    add(
        "a resource under another scheme",
        &[version, "Mcp-Method: resources/read", "Mcp-Name: FILE:///a"],
        &read,
        bad,
    );
    let prompt = body("prompts/get", "p", "2026-07-28");
    add("a prompt", &[version, "Mcp-Method: prompts/get", "Mcp-Name: p"], &prompt, None);
    add("another prompt", &[version, "Mcp-Method: prompts/get", "Mcp-Name: q"], &prompt, bad);
    let other = body("tools/call", "echo", "2025-11-25");
    add("the body names another version", &[version, method, name], &other, bad);
    let plain = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
    add("the body names no version", &[version, method, name], plain, Some(-32602));
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    add("the body names no capabilities", &[version, "Mcp-Method: tools/list"], list, Some(-32602));
    add(
        "unknown parameters",
        &[version, method, name, "Mcp-Param-Region: eu", "Mcp-Param-X: =?base64?AA==?="],
        &call,
        None,
    );
    cases
}

fn request((_, headers, body, _): &Case, number: usize) -> String {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "POST /servers/it/mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\nx-request-id: b02-{number}\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Whether the headers of what arrived say anything that its body does not.
fn lies(seen: &Recorded) -> bool {
    let message = seen.json();
    let params = &message["params"];
    let name = params["name"].as_str().or(params["uri"].as_str()).unwrap_or_default();
    let is = |header: &str, text: &str| {
        seen.values(header).iter().all(|value| *value == text || *value == sentinel(text.as_bytes()))
            && seen.values(header).len() < 2
    };
    !is("mcp-method", message["method"].as_str().unwrap_or_default()) || !is("mcp-name", name)
}

fn gateway(recorder: &Recorder) -> Gateway {
    let server = json!({"id": "it", "runtime": {"type": "remote-http", "url": recorder.url("/mcp")}, "health": {"type": "off"}});
    Gateway::start(&json!({"servers": [server]}).to_string())
}

#[test]
fn b02_headers_say_what_the_body_says() {
    let mut card = Card::new("B02");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    let mut wire = Wire::to(gateway.address());
    for (number, case) in cases().iter().enumerate() {
        wire.say(request(case, number));
        let heard = wire.hear(PATIENCE);
        let code = heard
            .as_ref()
            .and_then(|heard| serde_json::from_str::<Value>(&heard.body).ok()?["error"]["code"].as_i64());
        let holds =
            heard.as_ref().is_some_and(|heard| heard.status == if case.3.is_none() { 200 } else { 400 })
                && code == case.3;
        let arrived =
            recorder.requests().iter().any(|seen| seen.values("x-request-id") == [format!("b02-{number}")]);
        card.check(
            &case.0,
            holds && arrived == case.3.is_none() && !wire.ended(),
            &(&case.1, heard, arrived),
        );
    }
    // Clients of older revisions send no such headers: what one of them sends says nothing, and does not travel.
    for (number, lie) in [
        (900, "Mcp-Method: tools/list"),
        (901, "Mcp-Name: evil"),
        (902, "MCP-Protocol-Version: 2025-11-25\r\nMcp-Name: evil"),
    ] {
        let plain = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"n":"x"}}}"#;
        wire.say(request(&(String::new(), vec![lie.to_owned()], plain.to_owned(), None), number));
        let heard = wire.hear(PATIENCE);
        card.check(lie, heard.as_ref().is_some_and(|heard| heard.status == 200), &heard);
    }
    for seen in recorder.requests() {
        card.check(&format!("what arrived: {:?}", seen.headers), !lies(&seen), &seen.json());
    }
    let parameters: Vec<Recorded> = recorder
        .requests()
        .into_iter()
        .filter(|seen| {
            seen.values("mcp-param-region") == ["eu"] && seen.values("mcp-param-x") == ["=?base64?AA==?="]
        })
        .collect();
    card.check("unknown parameters travel", parameters.len() == 1, &parameters);
    card.pass("requests whose headers mirror the body, or do not");
}

/// A rule allows one tool. Whatever a header says, the tool in the body is what the rule is asked about.
#[test]
fn b02_rules_read_the_body() {
    let mut card = Card::new("B02");
    let recorder = Recorder::start();
    let catalog = json!({
        "rules": [{"allow": ["list", "call"], "servers": ["it"], "tools": ["echo"]}],
        "servers": [{"id": "it", "runtime": {"type": "remote-http", "url": recorder.url("/mcp")}, "health": {"type": "off"}}]
    });
    let gateway = Gateway::start(&catalog.to_string());
    let mut wire = Wire::to(gateway.address());
    let modern = |tool| body("tools/call", tool, "2026-07-28");
    let plain = |tool| {
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {"n": "x"}}}).to_string()
    };
    let headers = |name: &str| {
        vec![
            "MCP-Protocol-Version: 2026-07-28".to_owned(),
            "Mcp-Method: tools/call".to_owned(),
            format!("Mcp-Name: {name}"),
        ]
    };
    let old = |name: &str| vec!["MCP-Protocol-Version: 2025-11-25".to_owned(), format!("Mcp-Name: {name}")];
    for (number, (name, headers, body, want)) in [
        ("modern, allowed", headers("echo"), modern("echo"), None),
        ("modern, forbidden", headers("evil"), modern("evil"), Some(-32602)),
        ("modern, forbidden under an allowed header", headers("echo"), modern("evil"), Some(MISMATCH)),
        ("modern, allowed under a forbidden header", headers("evil"), modern("echo"), Some(MISMATCH)),
        ("old, allowed under a forbidden header", old("evil"), plain("echo"), None),
        ("old, forbidden under an allowed header", old("echo"), plain("evil"), Some(-32602)),
        ("old, forbidden without a header", Vec::new(), plain("evil"), Some(-32602)),
        ("a forbidden name in another case", old("echo"), plain("Echo"), Some(-32602)),
        ("a forbidden name with a space", old("echo"), plain("echo "), Some(-32602)),
        ("a forbidden name with a NUL", old("echo"), plain("echo\0"), Some(-32602)),
        ("a look-alike", old("echo"), plain("\u{435}cho"), Some(-32602)),
    ]
    .into_iter()
    .enumerate()
    {
        recorder.clear();
        wire.say(request(&(name.to_owned(), headers, body, want), number));
        let heard = wire.hear(PATIENCE);
        let code = heard
            .as_ref()
            .and_then(|heard| serde_json::from_str::<Value>(&heard.body).ok()?["error"]["code"].as_i64());
        let called = recorder.requests().iter().filter(|seen| seen.json()["method"] == "tools/call").count();
        card.check(name, code == want && called == usize::from(want.is_none()), &(heard, called));
    }
    card.pass("calls under a rule for one tool: the body decides");
}

/// The positive control: a naive proxy passes every lie on.
#[test]
fn b02_a_naive_proxy_passes_lies_on() {
    let recorder = Recorder::start();
    let naive = Naive::before(recorder.address(), Believes::Length);
    let mut wire = Wire::to(naive.address());
    for (number, case) in cases().iter().enumerate() {
        wire.say(request(case, number));
        wire.hear(PATIENCE).unwrap();
    }
    let lying = recorder.requests().iter().filter(|seen| lies(seen)).count();
    assert!(lying >= 25, "{lying}");
}
