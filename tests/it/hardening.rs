//! What a hostile or careless client or server may do to a connection, byte by byte.
//! Not here: the ordinary exchange (`exchange`), lies that show in a whole answer (`upstream`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Caller, SOON, request};
use crate::fake::{self, Act, Fake, Step};
use crate::gateway::Gateway;

/// A key for tests that need to be refused.
const KEY: &str = "hardening-key-0123456789";

fn before(fake: &Fake) -> Gateway {
    with(fake, "drain: 5s\n")
}

fn with(fake: &Fake, conf: &str) -> Gateway {
    let timeouts = json!({"response": "2s", "idle": "1s", "total": "3s"});
    let server = json!({"id": "it", "timeouts": timeouts, "runtime": {"type": "remote-http", "url": fake.url()}, "health": {"type": "off"}});
    Gateway::with(&json!({"servers": [server]}).to_string()).conf(conf).start()
}

/// A connection on which a test writes what it likes.
struct Wire {
    stream: TcpStream,
    got: Vec<u8>,
}

/// One answer as it came.
#[derive(Debug)]
struct Heard {
    status: u16,
    head: String,
    body: String,
}

impl Wire {
    async fn to(gateway: &Gateway) -> Self {
        let url = reqwest::Url::parse(&gateway.path("/")).unwrap();
        let address = (url.host_str().unwrap(), url.port().unwrap());
        Self { stream: TcpStream::connect(address).await.unwrap(), got: Vec::new() }
    }

    async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // What the gateway does not want to hear shows in what it answers.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// One answer with a known length.
    async fn hear(&mut self) -> Heard {
        tokio::time::timeout(SOON, async {
            loop {
                if let Some(heard) = self.parse() {
                    return heard;
                }
                let mut piece = vec![0; 64 << 10];
                let n = self.stream.read(&mut piece).await.unwrap_or(0);
                assert!(n > 0, "the connection ended: {:?}", String::from_utf8_lossy(&self.got));
                self.got.extend_from_slice(&piece[..n]);
            }
        })
        .await
        .expect("no answer")
    }

    fn parse(&mut self) -> Option<Heard> {
        let end = self.got.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.got[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let body = String::from_utf8_lossy(self.got.get(end..end + length)?).into_owned();
        self.got.drain(..end + length);
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Heard { status, head, body })
    }

    /// Everything up to the end of the connection.
    async fn rest(mut self) -> String {
        let read = tokio::time::timeout(SOON, self.stream.read_to_end(&mut self.got)).await;
        // A reset is an end as well.
        let _ = read.expect("the connection stays open");
        String::from_utf8_lossy(&self.got).into_owned()
    }
}

/// A POST to the server's door, with these headers besides.
fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /servers/it/mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n{headers}\r\n{body}"
    )
}

/// The same with the body's length.
fn measured(headers: &str, body: &str) -> String {
    post(&format!("content-length: {}\r\n{headers}", body.len()), body)
}

fn call(id: u64) -> String {
    request(id, "tools/call", json!({"name": "echo", "arguments": {}})).to_string()
}

#[tokio::test]
async fn a_connection_ends_after_a_body_that_nobody_can_delimit() {
    let fake = Fake::start(fake::legacy);
    let gateway = before(&fake);
    let second = measured("", &call(666));
    let chunked = format!("{:x}\r\n{}\r\n0\r\n\r\n", call(1).len(), call(1));
    for first in [
        post("transfer-encoding: chunked\r\n", "ZZZ\r\n"),
        post("content-length: 5\r\ntransfer-encoding: chunked\r\n", &chunked),
    ] {
        let mut wire = Wire::to(&gateway).await;
        wire.say(&first).await;
        let heard = wire.hear().await;
        assert!(heard.head.contains("connection: close"), "{first:?} {heard:?}");
        wire.say(&second).await;
        assert_eq!(wire.rest().await, "", "a second request was answered after {first:?}");
    }
    assert!(fake.seen().iter().all(|seen| seen.json()["id"] != 666));
}

#[tokio::test]
async fn a_client_of_http_1_0_is_hung_up_on() {
    let fake = Fake::start(fake::legacy);
    let gateway = before(&fake);
    let mut wire = Wire::to(&gateway).await;
    wire.say(measured("", &call(1)).replace("HTTP/1.1", "HTTP/1.0")).await;
    assert!(wire.rest().await.contains("\"fake\""));
}

#[tokio::test]
async fn a_refusal_is_seen_by_a_client_that_is_still_writing() {
    let fake = Fake::start(fake::legacy);
    let conf =
        format!("auth: {{keys: [{{name: a, key: {KEY}, servers: [\"*\"]}}]}}\nlimits: {{body: 256KiB}}\n");
    let gateway = with(&fake, &conf);
    let good = measured(&format!("x-api-key: {KEY}\r\n"), &call(2));
    let key = format!("x-api-key: {KEY}\r\n");
    for (headers, size, status, closes) in [
        ("", 1000, 401, false),
        ("", 64 << 10, 401, false),
        ("", (64 << 10) + 1, 401, true),
        ("", 8 << 20, 401, true),
        (&key, (256 << 10) + 1, 413, true),
        (&key, 8 << 20, 413, true),
    ] {
        // It looks at the answer only when it has written all, or cannot write on.
        let mut wire = Wire::to(&gateway).await;
        wire.say(measured(headers, &" ".repeat(size))).await;
        let heard = wire.hear().await;
        let closed = heard.head.contains("connection: close");
        assert_eq!((heard.status, closed), (status, closes), "{size} {heard:?}");
        if closes {
            assert_eq!(wire.rest().await, "");
        } else {
            wire.say(&good).await;
            assert_eq!(wire.hear().await.status, 200, "the connection can be used again");
        }
    }
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_a_body_that_will_not_come() {
    let fake = Fake::start(fake::legacy);
    let gateway = with(&fake, &format!("auth: {{keys: [{{name: a, key: {KEY}, servers: [\"*\"]}}]}}\n"));
    for headers in ["expect: 100-continue\r\ncontent-length: 500\r\n", "content-length: 500\r\n"] {
        let mut wire = Wire::to(&gateway).await;
        let asked = Instant::now();
        wire.say(post(headers, "")).await;
        let heard = wire.hear().await;
        assert_eq!(heard.status, 401);
        assert!(asked.elapsed() < Duration::from_millis(800), "it took {:?}", asked.elapsed());
        assert_eq!(heard.head.contains("connection: close"), headers.starts_with("expect"), "{heard:?}");
    }
}

/// Calls a server that answers `tools/call` with these bytes and hangs up. Gives all that the client hears.
async fn told(bytes: Vec<u8>) -> String {
    let fake = Fake::start(move |seen| match seen.rpc().as_str() {
        "tools/call" => Act::Raw(bytes.clone()),
        _ => fake::legacy(seen),
    });
    let gateway = before(&fake);
    let mut wire = Wire::to(&gateway).await;
    wire.say(measured("connection: close\r\n", &call(42))).await;
    wire.rest().await
}

#[tokio::test]
async fn a_streamed_answer_that_breaks_off_gets_no_proper_end() {
    let long = "x".repeat(200_000);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    for framing in
        ["content-length: 900000\r\n\r\n".to_owned(), "transfer-encoding: chunked\r\n\r\n61a80\r\n".into()]
    {
        let heard = told(format!("{head}{framing}{{\"result\":\"{long}").into_bytes()).await;
        assert!(heard.contains("xxx") && !heard.ends_with("0\r\n\r\n"), "{}", &heard[heard.len() - 40..]);
    }
}

#[tokio::test]
async fn the_error_of_a_broken_stream_stands_apart_from_a_half_event() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let heard = told(format!("{head}data: {{\"jsonrpc\":\"2.0\",\"id\":42,\"resu").into_bytes()).await;
    let last = heard.split("\n\n").filter(|event| event.contains("-315")).last().expect("an error event");
    let data: Vec<&str> = last.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let message: Value = serde_json::from_str(&data.join("\n")).unwrap();
    assert_eq!(message["id"], 42);
}

#[tokio::test]
async fn a_byte_order_mark_hides_no_response() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let heard = told(
        format!("{head}\u{feff}data: {{\"jsonrpc\":\"2.0\",\"id\":42,\"result\":{{}}}}\n\n").into_bytes(),
    )
    .await;
    assert!(!heard.contains("-315"), "{heard}");
}

#[tokio::test]
async fn a_failure_in_json_that_is_no_json_rpc_becomes_an_error_of_the_request() {
    for (status, want) in [(404, 404), (422, 422), (500, 502)] {
        let body = r#"{"detail":"stack trace secret"}"#;
        let bytes = format!(
            "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let heard = told(bytes.into_bytes()).await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {want} ")), "{heard}");
        assert!(heard.contains(r#""id":42"#) && !heard.contains("secret"), "{heard}");
    }
}

#[tokio::test]
async fn the_rpc_door_takes_no_envelope_that_says_two_things() {
    let fake = Fake::start(fake::legacy);
    let gateway = before(&fake);
    let caller = Caller::new(&gateway.path("/rpc")).with("x-server-id", "it");
    let sent = |body: &str| caller.send(reqwest::Method::POST, body.as_bytes().to_vec());
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
        r#"{"id":1,"method":"ping","method":"tools/call"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
    ] {
        let answer = sent(body).await;
        assert_eq!((answer.status, answer.code()), (400, -32600), "{answer:?}");
    }
    assert_eq!(fake.seen().len(), 0);
    assert_eq!(sent(r#"{"id":1,"method":"ping"}"#).await.status, 200);
    let nameless = Caller::new(&gateway.path("/mcp"));
    let answer = nameless.send(reqwest::Method::POST, br#"{"id":1,"method":"ping"}"#.to_vec()).await;
    assert!(answer.status == 400 && answer.body.contains("server_id required"), "{answer:?}");
}

#[tokio::test]
async fn every_answer_after_admission_tells_what_is_left() {
    let fake = Fake::start(fake::legacy);
    let gateway = with(&fake, "limit: {requests: 100, per: 1h}\n");
    let good = Caller::new(&gateway.url("it"));
    let mut left = 100;
    let answers = [
        good.post(&request(1, "ping", json!({}))).await,
        good.send(reqwest::Method::POST, b"{".to_vec()).await,
        good.clone().with("content-type", "text/plain").post(&json!({})).await,
        good.clone().with("mcp-session-id", "none").post(&request(1, "ping", json!({}))).await,
        Caller::new(&gateway.url("nobody")).post(&request(1, "ping", json!({}))).await,
    ];
    for answer in answers {
        left -= 1;
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(&*left.to_string()), "{answer:?}");
        assert_eq!(answer.header("x-ratelimit-limit"), Some("100"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_without_host_is_malformed() {
    let fake = Fake::start(fake::legacy);
    let gateway = before(&fake);
    let mut wire = Wire::to(&gateway).await;
    wire.say(measured("", &call(1)).replace("host: localhost\r\n", "")).await;
    assert_eq!(wire.hear().await.status, 400);
}

#[tokio::test]
async fn no_path_climbs_out_of_a_raw_upstream_and_no_challenge_comes_back() {
    let fake = Fake::start(|seen| {
        let headers = vec![("www-authenticate", "Bearer up".to_owned()), ("set-cookie", "a=b".to_owned())];
        Act::JsonWith(200, headers, json!({"path": seen.path}))
    });
    let url = fake.url().replace("/mcp", "/base");
    let catalog = json!({"servers": [{"id": "it", "runtime": {"type": "raw-http", "url": url}, "health": {"type": "off"}}]});
    let gateway = Gateway::start(&catalog.to_string());
    let mut wire = Wire::to(&gateway).await;
    for path in ["/..", "/../x", "/a/%2E./x", "/a/..%2fx", "/..;a=b/x", "/..%5Cx", "/./x"] {
        wire.say(format!("GET /servers/it/raw{path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        assert_eq!(wire.hear().await.status, 400, "{path}");
    }
    assert_eq!(fake.seen().len(), 0);
    wire.say("GET /servers/it/raw/a/..b/.c?d=../e HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let heard = wire.hear().await;
    assert_eq!(heard.body, r#"{"path":"/base/a/..b/.c?d=../e"}"#);
    assert!(!heard.head.contains("www-authenticate") && !heard.head.contains("set-cookie"), "{heard:?}");
}

#[tokio::test]
async fn lines_that_never_end_take_no_memory_and_a_long_response_is_one() {
    let fake = Fake::start(|seen| match seen.json()["params"]["name"].as_str() {
        Some("endless") => Act::Endless("text/event-stream"),
        _ => Act::Stream(vec![Step::Send(seen.text(&"x".repeat(1 << 20)))]),
    });
    let gateway = before(&fake);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = resident();
    let mut streams = Vec::new();
    for id in 0..8 {
        let body = request(id, "tools/call", json!({"name": "endless", "arguments": {}}));
        let caller = Caller::new(&gateway.url("it"));
        streams.push(caller.open(reqwest::Method::POST, body.to_string().into_bytes()).await);
    }
    let mut bytes = 0;
    for turn in 0..1_000_000 {
        if bytes > 96 << 20 {
            break;
        }
        let chunk = tokio::time::timeout(SOON, streams[turn % 8].chunk()).await.unwrap();
        bytes += chunk.ok().flatten().map_or(0, |chunk| chunk.len());
    }
    assert!(bytes > 96 << 20, "only {bytes} bytes came");
    let after = resident();
    assert!(after < before + 64 * 1024, "memory went from {before} KiB to {after} KiB");
    drop(streams);
    let answer =
        Caller::new(&gateway.url("it")).post(&request(9, "tools/call", json!({"name": "long"}))).await;
    assert!(!answer.body.contains("-315") && answer.result().is_object());
}

#[tokio::test]
async fn an_endless_line_for_a_client_without_streams_is_given_up_at_its_bound() {
    let fake = Fake::start(|seen| match seen.rpc().as_str() {
        "tools/call" => Act::Endless("text/event-stream"),
        _ => fake::legacy(seen),
    });
    let gateway = with(&fake, "limits: {answer: 1MiB}\n");
    let body = json!({"server_id": "it", "jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": {"name": "echo"}});
    let answer = Caller::new(&gateway.path("/mcp")).post(&body).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(answer.json()["error"]["data"]["reason"], "upstream_too_long", "{answer:?}");
}
