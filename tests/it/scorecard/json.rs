//! B01: a table of JSON-RPC bodies, and what other readers make of those that are forwarded.
//! Not here: headers against bodies (`mirrored`), bodies that cost too much (`bombs`).
//!
//! What is refused gets its code and leaves the connection usable; what is taken means to every reader what it meant to
//! the gateway.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Card;
use crate::client::SOON;
use crate::gateway::Gateway;
use crate::naive::Naive;
use crate::recorder::{Believes, Recorder};
use crate::wire::{PATIENCE, Wire};

/// What has to come of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// It reaches the upstream.
    Pass,
    /// HTTP 400 with this code.
    Code(i64),
}

const PARSE: Want = Want::Code(-32700);
const INVALID: Want = Want::Code(-32600);
const PARAMS: Want = Want::Code(-32602);

/// An ordinary call.
const CALL: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"n":"x"}}}"#;

type Cases = Vec<(String, Vec<u8>, Want)>;

fn cases() -> Cases {
    let mut cases = Cases::new();
    not_json(&mut cases);
    encodings(&mut cases);
    not_rpc(&mut cases);
    ids(&mut cases);
    twice(&mut cases);
    parameters(&mut cases);
    good(&mut cases);
    cases
}

fn add(cases: &mut Cases, want: Want, bodies: &[&str]) {
    cases.extend(bodies.iter().map(|body| ((*body).to_owned(), body.as_bytes().to_vec(), want)));
}

/// A call with something put after `"id":1`.
fn with(extra: &str) -> String {
    CALL.replacen(r#""id":1"#, &format!(r#""id":1,{extra}"#), 1)
}

fn not_json(cases: &mut Cases) {
    for cut in (1..CALL.len()).step_by(6) {
        cases.push((format!("cut after {cut}"), CALL.as_bytes()[..cut].to_vec(), PARSE));
    }
    add(
        cases,
        PARSE,
        &[
            "", " ", "\r\n", "{", "[", "]", "\"", "{]", "[}", "{\"a\"}", "{\"a\":}", "{,}", "nul", "-",
            "'a'", "hello",
        ],
    );
    for tail in ["x", "}", "{}", "\0", ",", "null", "//", CALL] {
        cases.push((format!("trailing {tail:?}"), format!("{CALL}{tail}").into_bytes(), PARSE));
    }
    for value in [
        "NaN",
        "Infinity",
        "-Infinity",
        "undefined",
        "True",
        "'x'",
        "01",
        "+1",
        ".5",
        "1.",
        "0x1",
        "1e",
        "--1",
        "1_000",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\u{41}\"",
        "\"a\nb\"",
        "\"a\tb\"",
        "\"a\0b\"",
        "\"a",
        "[1,]",
        "{\"a\":1,}",
        "[1 2]",
        "/* */1",
        "// \n1",
        "\"a\" \"b\"",
        "[1",
        "{\"a\":1",
        "{a:1}",
        "\u{a0}1",
        "\"\u{1}\"",
    ] {
        cases.push((format!("value {value:?}"), with(&format!(r#""x":{value}"#)).into_bytes(), PARSE));
    }
    for depth in [65, 100, 128, 129, 1000, 20_000] {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        cases.push((format!("depth {depth}"), with(&format!(r#""x":{deep}"#)).into_bytes(), PARSE));
        cases.push((format!("open depth {depth}"), "[".repeat(depth).into_bytes(), PARSE));
        let arguments = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{deep}}}}}"#
        );
        cases.push((format!("arguments of depth {depth}"), arguments.into_bytes(), PARSE));
    }
}

fn encodings(cases: &mut Cases) {
    let utf16 = |big: bool| -> Vec<u8> {
        CALL.encode_utf16()
            .flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
            .collect()
    };
    let bom = |bytes: &[u8], rest: Vec<u8>| [bytes, &rest].concat();
    let utf32: Vec<u8> = CALL.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    for (name, body) in [
        ("a byte order mark", bom(b"\xef\xbb\xbf", CALL.into())),
        ("UTF-16LE", utf16(false)),
        ("UTF-16BE", utf16(true)),
        ("UTF-16LE with its mark", bom(b"\xff\xfe", utf16(false))),
        ("UTF-16BE with its mark", bom(b"\xfe\xff", utf16(true))),
        ("UTF-32LE", utf32),
        ("UTF-7", CALL.replace('"', "+ACI-").into_bytes()),
    ] {
        cases.push((name.to_owned(), body, PARSE));
    }
    for (name, bytes) in [
        ("a byte that is none", &b"\xff"[..]),
        ("a lone continuation", b"\x80"),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong NUL", b"\xc0\x80"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("beyond Unicode", b"\xf4\x90\x80\x80"),
        ("a cut sequence", b"\xe2\x82"),
        ("Latin-1", b"\xe9"),
    ] {
        for (place, body) in [
            ("name", CALL.replace("echo", "\u{1}")),
            ("key", with("\"\u{1}\":1")),
            ("nowhere", format!("{CALL}\u{1}")),
        ] {
            let parts: Vec<&[u8]> = body.as_bytes().split(|byte| *byte == 1).collect();
            cases.push((format!("{name} in {place}"), parts.join(bytes), PARSE));
        }
    }
}

fn not_rpc(cases: &mut Cases) {
    add(
        cases,
        INVALID,
        &[
            "[]",
            "[1]",
            "\"tools/call\"",
            "1",
            "true",
            "false",
            "null",
            "1.5",
            "-1e300",
            "{}",
            "{\"a\":1}",
            r#"{"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0 ","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":null,"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":["2.0"],"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":true}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":["tools/call"]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":{"tools/call":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","error":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","error":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
        ],
    );
    add(cases, INVALID, &[&format!("[{CALL}]"), &format!("[{CALL},{CALL}]"), &format!(" \n[{CALL}]")]);
}

fn ids(cases: &mut Cases) {
    let id = |id: &str| CALL.replacen(r#""id":1"#, &format!(r#""id":{id}"#), 1);
    let long = format!("\"{}\"", "x".repeat(255));
    let huge = format!("\"{}\"", "x".repeat(256 << 10));
    for bad in [
        "null",
        "true",
        "false",
        "1.5",
        "1.0",
        "-0.0",
        "1e3",
        "1e999",
        "1E1",
        "{}",
        "{\"a\":1}",
        "[]",
        "[1]",
        "\"\\ud800\"",
        &*long,
        &*huge,
    ] {
        let name: String = bad.chars().take(20).collect();
        cases.push((format!("id {name}"), id(bad).into_bytes(), INVALID));
    }
    let fits = format!("\"{}\"", "x".repeat(254));
    for good in [
        "0",
        "-1",
        "9007199254740993",
        "9223372036854775808",
        "18446744073709551616",
        "1000000000000000000000000000000",
        "\"\"",
        "\"1\"",
        "\"a\\u0062\"",
        "\"\u{1f600}\"",
        "\"'; drop table\"",
        "\"\\r\\nx: y\"",
        &*fits,
    ] {
        let name: String = good.chars().take(20).collect();
        cases.push((format!("id {name}"), id(good).into_bytes(), Want::Pass));
    }
}

/// Members that stand twice, or in a spelling that some reader takes for the same.
fn twice(cases: &mut Cases) {
    for (member, other) in [
        ("jsonrpc", r#""2.0""#),
        ("id", "2"),
        ("method", r#""tools/list""#),
        ("params", r#"{"name":"evil"}"#),
        ("result", "1"),
        ("error", "1"),
    ] {
        let again = if matches!(member, "result" | "error") {
            format!(r#""{member}":1,"{member}":2"#)
        } else {
            format!(r#""{member}":{other}"#)
        };
        let before = CALL.replacen('{', &format!("{{{again},"), 1);
        let after = format!("{},{again}}}", &CALL[..CALL.len() - 1]);
        cases.push((format!("{member} again, first"), before.into_bytes(), INVALID));
        cases.push((format!("{member} again, last"), after.into_bytes(), INVALID));
    }
    for spelling in [
        "Method",
        "METHOD",
        "methOd",
        "Params",
        "PARAMS",
        "Id",
        "ID",
        "JSONRPC",
        "JsonRpc",
        "Result",
        "ERROR",
        "param\u{17f}",
        "j\u{17f}onrpc",
        "re\u{17f}ult",
        "\\u004dethod",
        "m\\u0065thod",
        "para\\u006ds",
        "param\\u017f",
    ] {
        let value = if spelling.to_lowercase().starts_with("para") {
            r#"{"name":"evil"}"#
        } else {
            r#""tools/list""#
        };
        let text = format!("{},\"{spelling}\":{value}}}", &CALL[..CALL.len() - 1]);
        cases.push((format!("besides, {spelling}"), text.into_bytes(), INVALID));
    }
    for alone in [
        CALL.replace("method", "Method"),
        CALL.replace("params", "PARAMS"),
        CALL.replace("jsonrpc", "JSONRPC"),
        CALL.replace("\"id\"", "\"Id\""),
    ] {
        cases.push((format!("only {alone}"), alone.into_bytes(), INVALID));
    }
    for again in [
        r#""name":"evil""#,
        r#""NAME":"evil""#,
        r#""Name":"evil""#,
        r#""n\u0061me":"evil""#,
        r#""arguments":{}"#,
        r#""Arguments":{}"#,
        r#""uri":"a","uri":"b""#,
        r#""uri":"a","URI":"b""#,
        r#""_meta":{},"_meta":{}"#,
        r#""_meta":{},"_Meta":{}"#,
        r#""taskId":"a","taskid":"b""#,
        r#""taskId":"a","tas\u212aId":"b""#,
        r#""requestId":1,"requestId":2"#,
        r#""progressToken":1,"ProgressToken":2"#,
        r#""protocolVersion":"a","protocolVersion":"b""#,
        r#""_meta":{"progressToken":1,"progressToken":2}"#,
        r#""_meta":{"progressToken":1,"PROGRESSTOKEN":2}"#,
    ] {
        let text = CALL.replacen(r#""arguments""#, &format!(r#"{again},"arguments""#), 1);
        cases.push((format!("in params, {again}"), text.into_bytes(), INVALID));
    }
}

fn parameters(cases: &mut Cases) {
    for bad in ["[]", "[1]", "[\"echo\"]", "\"echo\"", "1", "true", "null"] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{bad}}}"#);
        cases.push((format!("params {bad}"), text.into_bytes(), PARAMS));
    }
    for bad in ["1", "null", "true", "[\"echo\"]", "{\"echo\":1}", "\"\\ud800\"", "\"\\udc00\\ud800\""] {
        for (method, member) in [("tools/call", "name"), ("prompts/get", "name"), ("resources/read", "uri")] {
            let text =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"{member}":{bad}}}}}"#);
            cases.push((format!("{method} with {member} {bad}"), text.into_bytes(), PARAMS));
        }
    }
}

fn good(cases: &mut Cases) {
    let deep = format!("{}{}", "[".repeat(60), "]".repeat(60));
    for body in [
        CALL.to_owned(),
        format!(" \r\n\t{CALL}\n "),
        CALL.replace(':', " : ").replace(',', " ,\n"),
        CALL.replace("echo", "e\\u0063ho"),
        CALL.replace("echo", "\u{e9}cho"),
        CALL.replace("echo", "\\ud83d\\ude00"),
        CALL.replace("\"method\"", "\"m\\u0065thod\""),
        CALL.replace("\"name\"", "\"n\\u0061me\""),
        with(r#""unknown":{"method":"x","method":"y"}"#),
        with(r#""methods":1,"nameless":2,"":3"#),
        with(&format!(r#""x":{deep}"#)),
        CALL.replace(r#"{"n":"x"}"#, r#"{"n":"x","n":"y","name":"evil","method":"evil"}"#),
        CALL.replace(r#"{"n":"x"}"#, r#"{"n":"\ud800"}"#),
        CALL.replace(r#"{"n":"x"}"#, r#"{"n":1e999,"m":-0,"o":1e-999,"p":123456789012345678901234567890}"#),
        CALL.replace(r#"{"n":"x"}"#, r#"{"n":"\u0000\u2028\u2029\u202e"}"#),
        CALL.replace(r#","arguments":{"n":"x"}"#, ""),
        r#"{"params":{"arguments":{},"name":"echo"},"method":"tools/call","id":1,"jsonrpc":"2.0"}"#
            .to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#.to_owned(),
    ] {
        cases.push((body.clone(), body.into_bytes(), Want::Pass));
    }
}

/// What three readers take a body for: the first of equal members, the last, and the last in any case.
const READERS: &str = r#"
import base64, json, sys
def first(pairs):
    found = {}
    for name, value in pairs: found.setdefault(name, value)
    return found
def folded(pairs): return {name.casefold(): value for name, value in pairs}
def shown(value):
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else repr(value) if value else None
for line in sys.stdin:
    body, told = base64.b64decode(line), []
    for reader in (first, dict, folded):
        message = json.loads(body, object_pairs_hook=reader)
        params = message.get("params") or {}
        told.append([shown(message.get("method")), shown(params.get("name")), shown(params.get("uri")), repr(message.get("id"))])
    print(json.dumps(told))
"#;

/// Asks Python what it takes each body for.
fn readings(bodies: &[Vec<u8>]) -> Vec<Value> {
    use base64::Engine as _;
    let mut python = Command::new("python3")
        .args(["-c", READERS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String =
        bodies.iter().map(|body| base64::engine::general_purpose::STANDARD.encode(body) + "\n").collect();
    let mut stdin = python.stdin.take().unwrap();
    let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let told = python.wait_with_output().unwrap();
    writing.join().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), bodies.len(), "Python could not read a body that was forwarded");
    told
}

fn head(target: &str, number: usize, length: usize) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\nx-request-id: b01-{number}\r\ncontent-length: {length}\r\n\r\n"
    )
}

fn gateway(recorder: &Recorder) -> Gateway {
    let server = json!({"id": "it", "runtime": {"type": "remote-http", "url": recorder.url("/mcp")}, "health": {"type": "off"}});
    Gateway::with(&json!({"servers": [server]}).to_string()).conf("drain: 5s\n").start()
}

#[test]
fn b01_bodies_mean_to_everybody_what_they_mean_here() {
    let cases = cases();
    assert!(cases.len() >= 150, "{}", cases.len());
    let mut card = Card::new("B01");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    // One connection for all of them: a refusal must leave it usable.
    let mut wire = Wire::to(gateway.address());
    for (number, (name, body, want)) in cases.iter().enumerate() {
        wire.say([head("/servers/it/mcp", number, body.len()).as_bytes(), body].concat());
        let heard = wire.hear(PATIENCE);
        let got = heard.as_ref().map(|heard| {
            let code = serde_json::from_str::<Value>(&heard.body)
                .ok()
                .and_then(|body| body["error"]["code"].as_i64());
            (heard.status, code)
        });
        let holds = match want {
            Want::Pass => matches!(got, Some((200 | 202, None))),
            Want::Code(code) => got == Some((400, Some(*code))),
        };
        card.check(name, holds && !wire.ended(), &(want, heard));
        if wire.ended() {
            wire = Wire::to(gateway.address());
        }
    }
    let passed = agree(&mut card, &cases, &gateway, &recorder);
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    card.pass(&format!(
        "bodies and readings, {passed} forwarded: three readers agree with the gateway on each"
    ));
}

/// Compares what was forwarded with what the gateway says it let through, as three other readers see it.
fn agree(card: &mut Card, cases: &Cases, gateway: &Gateway, recorder: &Recorder) -> usize {
    let seen: BTreeMap<usize, Vec<u8>> = recorder
        .requests()
        .into_iter()
        .filter_map(|seen| {
            Some((seen.values("x-request-id").first()?.strip_prefix("b01-")?.parse().ok()?, seen.body))
        })
        .collect();
    let bodies: Vec<Vec<u8>> = seen.values().cloned().collect();
    for ((number, _), readings) in seen.iter().zip(readings(&bodies)) {
        let id = format!("b01-{number}");
        let authorised = gateway.wait_for_log("access", SOON, |line| {
            (line["request_id"] == *id && line["method"].is_string()).then(|| line.clone())
        });
        let holds = cases[*number].2 == Want::Pass
            && readings[0] == readings[1]
            && readings[1] == readings[2]
            && readings[0][0] == authorised["method"]
            && (authorised["tool"].is_null() || authorised["tool"] == readings[0][1]);
        card.check(
            &format!("readings of {}", cases[*number].0),
            holds,
            &(readings, authorised["tool"].clone()),
        );
    }
    let refused = cases.iter().filter(|case| case.2 != Want::Pass).count();
    card.check("nothing refused was forwarded", seen.len() == cases.len() - refused, &seen.len());
    seen.len()
}

/// The positive control: through a naive proxy the readers of what arrives disagree.
#[test]
fn b01_readers_disagree_about_what_a_naive_proxy_forwards() {
    let recorder = Recorder::start();
    let naive = Naive::before(recorder.address(), Believes::Length);
    let mut ambiguous = Cases::new();
    twice(&mut ambiguous);
    let mut wire = Wire::to(naive.address());
    for (number, (_, body, _)) in ambiguous.iter().enumerate() {
        wire.say([head("/mcp", number, body.len()).as_bytes(), body].concat());
        wire.hear(PATIENCE).unwrap();
    }
    let bodies: Vec<Vec<u8>> = recorder.requests().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies.len(), ambiguous.len());
    let disagree = readings(&bodies).iter().filter(|told| told[0] != told[1] || told[1] != told[2]).count();
    assert!(disagree >= 20, "only {disagree} of {} bodies are ambiguous", bodies.len());
}

/// The doors of the Open MCP Gateway read the server from the message, so that two of it are two decisions.
#[test]
fn b01_the_open_doors_take_no_message_that_names_two_servers() {
    let mut card = Card::new("B01");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    let mut wire = Wire::to(gateway.address());
    let call = CALL.replacen('{', r#"{"server_id":"it","#, 1);
    for (number, (name, body, want)) in [
        ("one".to_owned(), call.clone(), 200),
        ("two".into(), call.replacen('{', r#"{"server_id":"other","#, 1), 400),
        ("two, the other way".into(), call.replacen(r#""id":1"#, r#""id":1,"server_id":"other""#, 1), 400),
        ("another spelling".into(), call.replacen('{', r#"{"Server_Id":"other","#, 1), 400),
        ("an escaped spelling".into(), call.replacen('{', r#"{"server\u005fid":"other","#, 1), 400),
        ("a number".into(), call.replacen("\"it\"", "1", 1), 400),
        ("null".into(), call.replacen("\"it\"", "null", 1), 400),
        ("a lone surrogate".into(), call.replacen("\"it\"", "\"it\\ud800\"", 1), 400),
        ("none".into(), CALL.to_owned(), 400),
        ("two methods".into(), call.replacen(r#""id":1"#, r#""id":1,"method":"tools/list""#, 1), 400),
        ("a batch".into(), format!("[{call}]"), 400),
        ("no JSON".into(), call[..40].to_owned(), 400),
    ]
    .into_iter()
    .enumerate()
    {
        wire.say(head("/mcp", number, body.len()) + &body);
        let heard = wire.hear(PATIENCE);
        card.check(&name, heard.as_ref().is_some_and(|heard| heard.status == want) && !wire.ended(), &heard);
    }
    let calls = recorder.requests().iter().filter(|seen| seen.json()["method"] == "tools/call").count();
    card.check("only one was forwarded", calls == 1, &calls);
    card.pass("messages at the door that reads the server's name from them");
}
