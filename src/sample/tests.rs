//! Tests of the sample servers: the core message by message, lines through a pipe, and HTTP over real sockets.
//! Not here: official clients, which call them through the gateway.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::answer::{Turn, answer, check_revision};
use super::peer::Peer;
use super::{MESSAGE_BYTES_MAX, PARSE, offer, serve_http, stdio};
use crate::mcp::{Era, Id, Revision, parse};

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
const DEADLINE: Duration = Duration::from_secs(10);

fn request(id: u32, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}}}}}"#)
}

fn modern(method: &str, params: &str) -> String {
    let comma = if params.is_empty() { "" } else { "," };
    request(7, method, &format!("{params}{comma}{META}"))
}

fn turn(body: &str, peer: &Peer) -> Result<Turn, Value> {
    let message = parse(body.as_bytes(), PARSE).unwrap();
    let era = if message.params.meta.protocol_version().is_some() { Era::Modern } else { Era::Legacy };
    check_revision(&message, era, &offer::REVISIONS)
        .and_then(|()| answer(body.as_bytes(), &message, era, Some(peer)))
        .map_err(|refusal| serde_json::from_slice(&refusal.to_message(message.id, era)).unwrap())
}

/// What is answered at once.
#[track_caller]
fn say(body: &str) -> Value {
    match turn(body, &Peer::default()) {
        Ok(Turn::Whole(answer)) => serde_json::from_slice(&answer).unwrap(),
        Ok(other) => panic!("no answer at once: {other:?}"),
        Err(error) => error,
    }
}

#[track_caller]
fn check_code(body: &str, code: i64) {
    assert_eq!(say(body)["error"]["code"], code, "{body}");
}

#[track_caller]
fn call(tool: &str, arguments: &str) -> Value {
    say(&request(1, "tools/call", &format!(r#""name":"{tool}","arguments":{arguments}"#)))["result"].clone()
}

#[test]
fn initialize_takes_the_clients_legacy_revision_or_offers_its_last() {
    let spoken = |wanted: &str| {
        let hello = format!(r#""protocolVersion":"{wanted}","capabilities":{{}}"#);
        say(&request(1, "initialize", &hello))["result"]["protocolVersion"].clone()
    };
    assert_eq!(spoken("2024-11-05"), "2024-11-05");
    assert_eq!(spoken("2025-06-18"), "2025-06-18");
    assert_eq!(spoken("2099-01-01"), "2025-11-25");
    assert_eq!(spoken("2026-07-28"), "2025-11-25");
    check_code(&request(1, "initialize", ""), -32602);
}

#[test]
fn every_revision_that_is_named_is_a_published_one() {
    assert!(offer::REVISIONS.iter().all(|name| Revision::parse(name).is_some()));
    assert!(offer::MODERN.iter().all(|name| Revision::parse(name).unwrap().era() == Era::Modern));
}

#[test]
fn the_modern_era_adds_its_members_and_the_legacy_era_has_none_of_them() {
    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
        let legacy = say(&request(7, method, ""));
        let modern = say(&modern(method, ""));
        assert_eq!(legacy["result"].as_object().unwrap().len(), 1, "{legacy}");
        let mut result = modern["result"].as_object().unwrap().clone();
        assert_eq!(result.shift_remove("resultType").unwrap(), "complete");
        assert!(result.shift_remove("ttlMs").unwrap().is_u64());
        assert_eq!(result.shift_remove("cacheScope").unwrap(), "public");
        let meta = result.shift_remove("_meta").unwrap();
        assert_eq!(meta["io.modelcontextprotocol/serverInfo"]["name"], "tollgate-sample");
        assert_eq!(Value::from(result), legacy["result"]);
    }
    let discovered = say(&modern("server/discover", ""));
    assert_eq!(discovered["result"]["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(discovered["result"]["cacheScope"], "public");
    let called = say(&modern("tools/call", r#""name":"echo","arguments":{"text":"x"}"#));
    assert_eq!(called["result"]["resultType"], "complete");
    assert!(called["result"].get("ttlMs").is_none());
    assert_eq!(say(&request(3, "ping", "")), json!({"jsonrpc": "2.0", "id": 3, "result": {}}));
}

#[test]
fn methods_of_the_other_era_are_unknown() {
    for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "no/such"] {
        check_code(&modern(method, r#""protocolVersion":"2025-11-25","level":"info""#), -32601);
    }
    for method in ["server/discover", "subscriptions/listen", "resources/subscribe", "no/such"] {
        check_code(&request(1, method, ""), -32601);
    }
}

#[test]
fn a_modern_request_carries_its_meta() {
    let version = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
    check_code(&request(1, "tools/list", version), -32602);
    let future = META.replace("2026-07-28", "2027-01-01");
    let refused = say(&request(1, "tools/list", &future));
    assert_eq!(refused["error"]["code"], -32022);
    assert_eq!(refused["error"]["data"], json!({"supported": offer::REVISIONS, "requested": "2027-01-01"}));
}

#[test]
fn tools_do_what_they_say() {
    let text = |result: &Value| result["content"][0]["text"].as_str().unwrap().to_owned();
    let echoed = call("echo", r#"{"text":"a \"b\" \u00e9\n"}"#);
    assert_eq!(text(&echoed), "a \"b\" é\n");
    assert_eq!(call("add", r#"{"a":1,"b":2}"#)["structuredContent"].to_string(), r#"{"sum":3}"#);
    assert_eq!(call("add", r#"{"a":0.5,"b":2}"#)["structuredContent"]["sum"], 2.5);
    assert_eq!(call("add", r#"{"a":1e308,"b":1e308}"#)["isError"], true);
    assert_eq!(text(&call("big", r#"{"bytes":70000}"#)).len(), 70_000);
    assert_eq!(call("big", r#"{"bytes":4194305}"#)["isError"], true);
    let failed = call("fail", r#"{"message":"no \"luck\""}"#);
    assert_eq!((text(&failed).as_str(), &failed["isError"]), ("no \"luck\"", &Value::Bool(true)));
    let now = humantime::parse_rfc3339(&text(&call("time", "{}"))).unwrap();
    assert!(now.elapsed().unwrap() < Duration::from_secs(60));
    for wrong in ["{}", r#"{"text":1}"#] {
        let result = call("echo", wrong);
        assert_eq!(result["isError"], true, "{result}");
        assert!(text(&result).contains("text"), "{result}");
    }
    assert_eq!(call("slow", r#"{"milliseconds":600001}"#)["isError"], true);
    check_code(&request(1, "tools/call", r#""name":"none""#), -32602);
    check_code(&request(1, "tools/call", ""), -32602);
}

#[test]
fn the_tools_that_are_listed_are_those_that_can_be_called() {
    let listed = say(&request(1, "tools/list", ""));
    let tools = listed["result"]["tools"].as_array().unwrap();
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["add", "big", "echo", "fail", "slow", "time"]);
    for (tool, name) in tools.iter().zip(names) {
        assert_eq!(tool["inputSchema"]["type"], "object");
        let called = turn(&request(1, "tools/call", &format!(r#""name":"{name}""#)), &Peer::default());
        assert!(called.is_ok(), "{name}: {called:?}");
    }
}

#[test]
fn there_is_one_page() {
    check_code(&request(1, "tools/list", r#""cursor":"x""#), -32602);
    assert!(say(&request(1, "tools/list", r#""cursor":null"#))["result"]["tools"].is_array());
}

#[test]
fn resources_are_read() {
    let read = |uri: &str| say(&request(1, "resources/read", &format!(r#""uri":"{uri}""#)));
    let content = |uri: &str| read(uri)["result"]["contents"][0].clone();
    assert_eq!(content("sample://count/3")["text"], "1\n2\n3");
    assert!(content("sample://readme")["text"].as_str().unwrap().starts_with("# Tollgate"));
    let logo = content("sample://logo");
    let logo = base64::engine::general_purpose::STANDARD.decode(logo["blob"].as_str().unwrap()).unwrap();
    assert!(logo.starts_with(b"\x89PNG"));
    for uri in
        ["sample://none", "sample://count/0", "sample://count/1001", "sample://count/+5", "sample://count/05"]
    {
        assert_eq!(read(uri)["error"]["code"], -32002, "{uri}");
        check_code(&modern("resources/read", &format!(r#""uri":"{uri}""#)), -32602);
    }
    assert_eq!(say(&modern("resources/read", r#""uri":"sample://logo""#))["result"]["cacheScope"], "public");
}

#[test]
fn prompts_and_completions() {
    let got = say(&request(1, "prompts/get", r#""name":"greeting","arguments":{"name":"A\"b"}"#));
    let text = got["result"]["messages"][0]["content"]["text"].as_str().unwrap();
    assert!(text.contains("A\"b"), "{text}");
    check_code(&request(1, "prompts/get", r#""name":"greeting""#), -32602);
    check_code(&request(1, "prompts/get", r#""name":"none""#), -32602);

    let complete = |reference: &str, argument: &str, value: &str| {
        let params = format!(r#""ref":{reference},"argument":{{"name":"{argument}","value":"{value}"}}"#);
        say(&request(1, "completion/complete", &params))
    };
    let prompt = r#"{"type":"ref/prompt","name":"greeting"}"#;
    assert_eq!(complete(prompt, "name", "A")["result"]["completion"]["values"], json!(["Ada", "Alan"]));
    assert_eq!(complete(prompt, "other", "A")["result"]["completion"]["total"], 0);
    let template = r#"{"type":"ref/resource","uri":"sample://count/{n}"}"#;
    assert_eq!(complete(template, "n", "10")["result"]["completion"]["total"], 3);
    assert_eq!(complete(r#"{"type":"ref/prompt","name":"no"}"#, "name", "")["error"]["code"], -32602);
}

/// All messages of what takes time, with when they came.
async fn flow(body: &str, peer: &Peer) -> Vec<(u128, Value)> {
    let Ok(Turn::Flow(mut flow)) = turn(body, peer) else { panic!("no flow") };
    let start = Instant::now();
    let mut messages = Vec::new();
    while let Some(message) = flow.next().await {
        messages.push((start.elapsed().as_millis(), serde_json::from_slice(&message).unwrap()));
    }
    messages
}

#[tokio::test(start_paused = true)]
async fn slow_tells_progress_to_those_who_ask() {
    let peer = Peer::default();
    let slow = r#""name":"slow","arguments":{"milliseconds":1000}"#;
    let silent = flow(&request(5, "tools/call", slow), &peer).await;
    assert_eq!(silent.len(), 1);
    assert_eq!((silent[0].0 / 10, &silent[0].1["id"]), (100, &json!(5)));

    let told =
        flow(&request(5, "tools/call", &format!(r#"{slow},"_meta":{{"progressToken":"t"}}"#)), &peer).await;
    assert_eq!(told.len(), 11);
    assert_eq!(told[1].0 / 10, 20);
    assert_eq!(told[1].1["params"], json!({"progressToken": "t", "progress": 200, "total": 1000}));
    assert_eq!(told[9].1["params"]["progress"], 1000);
    assert_eq!(told[10].1["result"]["content"][0]["text"], "waited 1000 ms");
}

#[tokio::test(start_paused = true)]
async fn slow_logs_at_the_level_that_was_set() {
    let peer = Peer::default();
    let slow = r#""name":"slow","arguments":{"milliseconds":0}"#;
    for (level, logged) in [("info", true), ("error", false)] {
        turn(&request(1, "logging/setLevel", &format!(r#""level":"{level}""#)), &peer).unwrap();
        let messages = flow(&request(5, "tools/call", slow), &peer).await;
        let log = messages.iter().find(|(_, message)| message["method"] == "notifications/message");
        assert_eq!(log.is_some(), logged, "{level}: {messages:?}");
    }
    check_code(&request(1, "logging/setLevel", r#""level":"loud""#), -32602);
    let meta = META.replace("{}", r#"{},"io.modelcontextprotocol/logLevel":"debug""#);
    assert_eq!(flow(&request(5, "tools/call", &format!("{slow},{meta}")), &Peer::default()).await.len(), 2);
}

#[tokio::test]
async fn a_subscription_is_acknowledged_first_and_closed_with_a_result() {
    let body = modern("subscriptions/listen", r#""notifications":{"toolsListChanged":true}"#);
    let Ok(Turn::Flow(mut flow)) = turn(&body, &Peer::default()) else { panic!("no flow") };
    let first: Value = serde_json::from_slice(&flow.next().await.unwrap()).unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], json!({}));
    assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
    let last: Value = serde_json::from_slice(&flow.close().unwrap()).unwrap();
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(7), &json!("complete")));
    assert!(flow.next().await.is_none());
    check_code(&modern("subscriptions/listen", ""), -32602);
}

#[tokio::test]
async fn what_runs_is_forgotten_when_it_ends_or_is_cancelled() {
    let peer = Arc::new(Peer::default());
    let start = |id| {
        let slow = request(id, "tools/call", r#""name":"slow","arguments":{"milliseconds":600000}"#);
        let Ok(Turn::Flow(mut flow)) = turn(&slow, &peer) else { panic!("no flow") };
        peer.admit(&mut flow).map(|()| flow)
    };
    let (mut one, two) = (start(1).unwrap(), start(2).unwrap());
    peer.cancel(&Id::number(1));
    assert!(one.next().await.is_none());
    assert_eq!(peer.running(), 1);
    drop(two);
    assert_eq!(peer.running(), 0);
    let all: Vec<_> = (0..1024).map(|id| start(id).unwrap()).collect();
    assert!(start(5000).is_err());
    drop(all);
    assert!(start(5000).is_ok());
}

/// A client on the other end of the lines.
struct Lines {
    to: tokio::io::DuplexStream,
    from: BufReader<tokio::io::DuplexStream>,
}

impl Lines {
    /// The client, and the server to be run beside it.
    fn new() -> (Self, impl Future<Output = std::io::Result<()>>) {
        let (to, input) = tokio::io::duplex(64 * 1024);
        let (output, from) = tokio::io::duplex(64 * 1024);
        (Self { to, from: BufReader::new(from) }, stdio::converse(input, output))
    }

    async fn write(&mut self, line: &str) {
        timeout(DEADLINE, self.to.write_all(line.as_bytes())).await.unwrap().unwrap();
    }

    async fn read(&mut self) -> Value {
        let mut line = String::new();
        timeout(DEADLINE, self.from.read_line(&mut line)).await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

#[tokio::test]
async fn lines_are_answered_while_slow_calls_run_and_these_can_be_cancelled() {
    let (mut client, server) = Lines::new();
    let talk = async {
        let slow = |id, ms| {
            request(id, "tools/call", &format!(r#""name":"slow","arguments":{{"milliseconds":{ms}}}"#))
        };
        client.write(&format!("{}\n{}\n\r\n", slow(1, 600_000), slow(2, 30))).await;
        client.write(&format!("{}\r\n{{\n[]\n", request(3, "ping", ""))).await;
        assert_eq!(client.read().await["id"], 3);
        assert_eq!(client.read().await["error"]["code"], -32700);
        assert_eq!(client.read().await["error"]["code"], -32600);
        assert_eq!(client.read().await["id"], 2);
        client
            .write(
                "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":1}}\n",
            )
            .await;
        // The same id again shows that the first is gone: only this one answers.
        client.write(&slow(1, 0)).await;
        client.write("\n").await;
        assert_eq!(client.read().await["result"]["content"][0]["text"], "waited 0 ms");
        // The last line needs no end.
        client.write(&request(4, "ping", "")).await;
        client.to.shutdown().await.unwrap();
        assert_eq!(client.read().await["id"], 4);
    };
    let (served, ()) = timeout(DEADLINE, async { tokio::join!(server, talk) }).await.unwrap();
    served.unwrap();
}

#[tokio::test]
async fn a_line_without_end_is_passed_over_in_bounded_memory() {
    let (mut client, server) = Lines::new();
    let talk = async {
        let piece = "x".repeat(64 * 1024);
        for _ in 0..(3 * MESSAGE_BYTES_MAX / piece.len()) {
            client.write(&piece).await;
        }
        client.write(&format!("\n{}\n", request(1, "ping", ""))).await;
        assert_eq!(client.read().await["error"]["code"], -32600);
        assert_eq!(client.read().await["id"], 1);
        drop(client);
    };
    let (served, ()) = tokio::join!(server, talk);
    served.unwrap();
}

mod over_http;
