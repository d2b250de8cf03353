//! B07: servers over HTTP that say what no server should. Each caller is told in time, memory stays, others notice nothing.
//! Not here: bytes that stop coming (`once`, `toxics`), hostile children (`stdio`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Card;
use crate::client::{Caller, request};
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::naive::NaiveProcess;
use crate::sim::{Asked, End, Kind, Manner, Sim};

/// The bad server's deadlines: `response`, `idle`, `total`.
const DEADLINES: [u64; 3] = [1, 1, 2];
/// Past the last of them, and room for a busy machine.
const IN_TIME: Duration = Duration::from_secs(12);
/// What all of it together may take: two of the doors read what they are told whole, up to 16 MiB.
const MEMORY_KIB_MAX: u64 = 96 * 1024;

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// What a caller may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// An error of the gateway for the request, by status or in the stream.
    Error,
    /// The connection broke within the answer.
    Cut,
    /// The result.
    Result,
    /// Anything else.
    Nonsense,
}
use Told::{Cut, Error, Result as Fine};

struct Case {
    name: &'static str,
    manner: Manner,
    /// What callers who speak MCP, and those who do not, may be told.
    told: &'static [Told],
}

fn case(name: &'static str, manner: Manner, told: &'static [Told]) -> Case {
    Case { name, manner, told }
}

/// An answer with that status, these headers and that body, with a right length.
fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

const JSON: &str = "content-type: application/json\r\n";

fn result(asked: &Asked) -> String {
    let said =
        json!({"resultType": "complete", "content": [{"type": "text", "text": asked.n()}], "tools": []});
    json!({"jsonrpc": "2.0", "id": asked.message["id"], "result": said}).to_string()
}

/// Whole answers that are wrong in what they say.
fn contents() -> Vec<Case> {
    let body =
        |name, body: &'static str| case(name, Manner::raw(http("200 OK", JSON, body), End::Close), &[Error]);
    let with_id = |id: Value| {
        move |asked: &Asked| {
            let mut message: Value = serde_json::from_str(&result(asked)).unwrap();
            message["id"] = id.clone();
            http("200 OK", JSON, &message.to_string())
        }
    };
    let answer = |name, make: fn(&Asked) -> Vec<u8>, told| case(name, Manner::made(make, End::Close), told);
    vec![
        body("not JSON", "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{"),
        body("two documents", "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}} {}"),
        body("a list", "[1,2,3]"),
        body("a text", "\"fine\""),
        body("nothing of JSON-RPC", "{}"),
        body("an empty body", ""),
        body("NUL bytes", "\0\0\0\0"),
        body("no UTF-8", "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"\u{1}\"}"),
        case(
            "HTML with 200",
            Manner::raw(http("200 OK", "content-type: text/html\r\n", "<html>"), End::Close),
            &[Error],
        ),
        case("HTML with 500", Manner::Status(500), &[Error]),
        case("no type at all", Manner::raw(http("200 OK", "", "{}"), End::Close), &[Error]),
        case("an unknown id", Manner::made(with_id(json!(999)), End::Close), &[Error]),
        case("an id of another type", Manner::made(with_id(json!("7")), End::Close), &[Error]),
        case("no id", Manner::made(with_id(Value::Null), End::Close), &[Error]),
        answer(
            "unknown ids in a stream",
            |asked| stream(&[&result(asked).replace("\"id\":7", "\"id\":999")]),
            &[Error],
        ),
        answer(
            "another's answer before its own",
            |asked| stream(&[&result(asked).replace("\"id\":7", "\"id\":999"), &result(asked)]),
            &[Fine],
        ),
        answer("the same answer twice", |asked| stream(&[&result(asked), &result(asked)]), &[Fine]),
        answer(
            "a request for an answer",
            |_| http("200 OK", JSON, r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#),
            &[Error],
        ),
        answer("no events", |_| stream(&[]), &[Error]),
        answer("events that are no JSON", |_| stream(&["what?", "{"]), &[Error]),
    ]
}

fn stream(events: &[&str]) -> Vec<u8> {
    let events: String = events.iter().map(|event| format!("event: message\ndata: {event}\n\n")).collect();
    format!("{EVENTS}{:x}\r\n{events}\r\n0\r\n\r\n", events.len())
        .replace("\r\n0\r\n\r\n0\r\n\r\n", "\r\n0\r\n\r\n")
        .into_bytes()
}

/// HTTP that is wrong, or right and unusual.
fn framings() -> Vec<Case> {
    let raw = |name, text: &str, told| case(name, Manner::raw(text, End::Close), told);
    let answer = |name, make: fn(&Asked) -> Vec<u8>, told| case(name, Manner::made(make, End::Close), told);
    let many = |count: usize, length: usize| {
        let value = "v".repeat(length);
        let headers: String = (0..count).map(|n| format!("x-{n}: {value}\r\n")).collect();
        move |asked: &Asked| http("200 OK", &format!("{JSON}{headers}"), &result(asked))
    };
    vec![
        raw("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n", &[Error]),
        raw("HTTP/0.9", "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}", &[Error]),
        raw(
            "101",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello",
            &[Error],
        ),
        raw(
            "a redirect",
            "HTTP/1.1 307 Elsewhere\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
            &[Error],
        ),
        raw("304", "HTTP/1.1 304 Not Modified\r\n\r\n", &[Error]),
        raw("204", "HTTP/1.1 204 No Content\r\n\r\n", &[Error]),
        raw("999", "HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n", &[Error]),
        raw(
            "a length that is none",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ten\r\n\r\n{}",
            &[Error],
        ),
        raw(
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\ncontent-length: 40\r\n\r\n{}",
            &[Error],
        ),
        raw("a chunk that is none", &format!("{EVENTS}zz\r\nhello\r\n0\r\n\r\n"), &[Error]),
        raw("a chunk without end", &format!("{EVENTS}FFFFFFFFFFFFFFFF\r\nhello"), &[Error]),
        raw(
            "NUL in a header",
            "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
            &[Error],
        ),
        answer(
            "shorter than its length",
            |asked| {
                let body = result(asked);
                format!("HTTP/1.1 200 OK\r\n{JSON}content-length: {}\r\n\r\n{body}", body.len() + 40)
                    .into_bytes()
            },
            &[Error],
        ),
        answer(
            "longer than its length",
            |asked| [http("200 OK", JSON, &result(asked)), b"HTTP/1.1 200 OK\r\n".to_vec()].concat(),
            &[Fine],
        ),
        answer(
            "both lengths",
            |asked| {
                let body = result(asked);
                format!("HTTP/1.1 200 OK\r\n{JSON}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
            },
            &[Fine, Error],
        ),
        answer(
            "trailers",
            |asked| {
                let body = result(asked);
                let head = format!(
                    "HTTP/1.1 200 OK\r\n{JSON}trailer: x-secret\r\ntransfer-encoding: chunked\r\n\r\n"
                );
                format!(
                    "{head}{:x}\r\n{body}\r\n0\r\nx-secret: leaks\r\nmcp-session-id: stolen\r\n\r\n",
                    body.len()
                )
                .into_bytes()
            },
            &[Fine],
        ),
        answer(
            "100 interim answers",
            |asked| {
                [b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100), http("200 OK", JSON, &result(asked))]
                    .concat()
            },
            &[Fine, Error],
        ),
        case("80 headers", Manner::made(many(80, 20), End::Close), &[Fine]),
        case("1,000 headers", Manner::made(many(1_000, 20), End::Close), &[Fine, Error]),
        case("a header of 1 MiB", Manner::made(many(1, 1 << 20), End::Close), &[Error]),
        case(
            "headers without end",
            Manner::endless("HTTP/1.1 200 OK\r\n", "x-more: of the same\r\n".repeat(200)),
            &[Error],
        ),
    ]
}

/// Answers without end, and long ones.
fn floods() -> Vec<Case> {
    let piece = |what: &str| {
        let piece = what.repeat((64 << 10) / what.len());
        format!("{:x}\r\n{piece}\r\n", piece.len())
    };
    let chunked = |kind: &str| EVENTS.replace("text/event-stream", kind);
    let forever = |name, first: &str, then: &str| {
        let head = format!("{EVENTS}{:x}\r\n{first}\r\n", first.len());
        case(name, Manner::endless(head, piece(then)), &[Error, Cut])
    };
    vec![
        forever("a line of events without end", "data: {", "x"),
        forever("an event without end", "data: {", "data: x\n"),
        forever("comments without end", ": hello\n", ": still here\n"),
        forever("empty lines without end", "\n\n", "\n"),
        forever("events without end", "\n\n", "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n"),
        case("JSON without end", Manner::endless(chunked("application/json"), piece(" ")), &[Error, Cut]),
        case("a text without end", Manner::endless(chunked("application/json").as_bytes().iter().copied().chain(*b"3e\r\n{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"content\":[{\"type\":\"text\",\"\r\n").collect::<Vec<_>>(), piece("x")), &[Error, Cut]),
        case(
            "a result of 1 TiB",
            Manner::endless(format!("HTTP/1.1 200 OK\r\n{JSON}content-length: {}\r\n\r\n{{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{{\"x\":\"", 1_u64 << 40), "x".repeat(64 << 10)),
            &[Error, Cut],
        ),
        case("an error page without end", Manner::endless(chunked("text/html").replace("200 OK", "500 Oops"), piece("<p>")), &[Error]),
        case("comments, one each 200 ms", Manner::Drip(1, Duration::from_millis(200)), &[Error, Cut]),
    ]
}

/// What a caller hears, however long it is, in little memory.
struct Heard {
    told: Told,
    status: u16,
    bytes: usize,
    took: Duration,
    tail: String,
    headers: String,
}

impl Heard {
    fn complaints(&self, told: &[Told]) -> Vec<String> {
        let mut wrong = Vec::new();
        if !told.contains(&self.told) {
            wrong.push(format!("told {:?}, not {told:?}: {} {}", self.told, self.status, self.tail));
        }
        if self.took > IN_TIME {
            wrong.push(format!("after {:?}", self.took));
        }
        for leak in ["x-secret", "stolen", "169.254", "<html>", "framework"] {
            if self.headers.contains(leak) || self.told == Error && self.tail.contains(leak) {
                wrong.push(format!("{leak} leaks: {} {}", self.headers, self.tail));
            }
        }
        wrong
    }
}

async fn hear(caller: &Caller, body: &Value) -> Heard {
    let asked = Instant::now();
    let mut response = caller.open(reqwest::Method::POST, body.to_string().into_bytes()).await;
    let (status, headers) = (response.status().as_u16(), format!("{:?}", response.headers()));
    let (mut bytes, mut tail, mut cut) = (0, Vec::new(), false);
    loop {
        match tokio::time::timeout(IN_TIME, response.chunk()).await {
            Ok(Ok(Some(chunk))) if asked.elapsed() < IN_TIME => {
                bytes += chunk.len();
                tail.extend_from_slice(&chunk);
                let over = tail.len().saturating_sub(16 << 10);
                tail.drain(..over);
            }
            Ok(Ok(None)) => break,
            _ => {
                cut = true;
                break;
            }
        }
    }
    let tail = String::from_utf8_lossy(&tail).into_owned();
    let told = if cut { Cut } else { told(&tail, headers.contains("event-stream")) };
    Heard { told, status, bytes, took: asked.elapsed(), tail, headers }
}

/// The first response to request 7 counts: a client takes that one.
fn told(text: &str, events: bool) -> Told {
    let messages: Vec<Value> = if events {
        let datas = text.lines().filter_map(|line| line.strip_prefix("data:"));
        datas.filter_map(|data| serde_json::from_str(data).ok()).collect()
    } else {
        serde_json::from_str(text).into_iter().collect()
    };
    let own = messages.iter().find(|message| message["id"] == 7 && message.get("method").is_none());
    match own {
        Some(message) if message["error"]["data"]["reason"].is_string() => Error,
        Some(message) if message.get("result").is_some() => Fine,
        _ => Told::Nonsense,
    }
}

/// A caller of the good server that never stops, and how slow its slowest call was.
struct Neighbour {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(usize, Duration)>,
}

impl Neighbour {
    fn start(url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut count, mut slowest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let n = format!("good {count}");
                let arguments = json!({"name": "echo", "arguments": {"n": n}});
                let answer = Caller::new(&url).modern_post(1, "tools/call", arguments).await;
                assert_eq!(answer.result()["content"][0]["text"], n.as_str());
                slowest = slowest.max(asked.elapsed());
                count += 1;
            }
            (count, slowest)
        });
        Self { stop, task }
    }

    async fn stop(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("a call of the good server failed")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b07_a_hostile_server_is_told_of_in_time_and_hurts_nobody_else() {
    let (bad, good) = (Sim::start(), Sim::start());
    let [response, idle, total] = DEADLINES.map(|seconds| format!("{seconds}s"));
    let timeouts = json!({"response": response, "idle": idle, "total": total});
    let server = |id: &str, url: String, timeouts: Value| json!({"id": id, "timeouts": timeouts, "health": {"type": "off"}, "breaker": {"enabled": false}, "runtime": {"type": "remote-http", "url": url}});
    let rules = json!([{"allow": ["*"], "tools": ["echo"]}]);
    let catalog = json!({"servers": [server("bad", bad.url(), timeouts), server("good", good.url(), json!({}))], "rules": rules});
    let gateway = Gateway::start(&catalog.to_string());
    let mut card = Card::new("B07");
    let neighbour = Neighbour::start(gateway.url("good"));
    let rise = Meter(gateway.pid()).rise();
    let (mut slowest, mut flooded) = (Duration::ZERO, 0);
    let plain = Caller::new(&gateway.path("/mcp"));
    for Case { name, manner, told } in [contents(), framings(), floods()].into_iter().flatten() {
        bad.heal();
        bad.answers_in(if name.starts_with("comments, one") { Kind::Events } else { Kind::Json });
        let call = json!({"name": "echo", "arguments": {"n": name}});
        let caller = Caller::new(&gateway.url("bad"));
        let mut enveloped = request(7, "tools/call", call.clone());
        enveloped["server_id"] = json!("bad");
        let doors = [
            ("legacy", (caller.initialize().await.0, request(7, "tools/call", call.clone()))),
            ("modern", caller.modern(7, "tools/call", call)),
            ("list", caller.modern(7, "tools/list", json!({}))),
            ("plain", (plain.clone(), enveloped)),
        ];
        bad.be_at("tools/call", manner.clone());
        bad.be_at("tools/list", manner);
        let hearing = doors.iter().map(|(_, (caller, body))| hear(caller, body));
        for (heard, (door, _)) in futures_util::future::join_all(hearing).await.iter().zip(&doors) {
            slowest = slowest.max(heard.took);
            flooded += heard.bytes;
            card.case(&format!("{name} at {door}"), &heard.complaints(told));
        }
    }
    bad.heal();
    let after = Caller::new(&gateway.url("bad")).modern_post(1, "tools/list", json!({})).await;
    card.check("well again at once", after.status == 200, &after);
    let (calls, worst) = neighbour.stop().await;
    let kib = rise.kib();
    card.check("memory", kib < MEMORY_KIB_MAX, &kib);
    card.pass(&format!(
        "answers: the slowest caller is told after {:.1} s, {} MiB pass with {} MiB more memory; {calls} calls of another server, the slowest {} ms",
        slowest.as_secs_f64(), flooded >> 20, kib >> 10, worst.as_millis(),
    ));
}

/// The control: a proxy that reads answers whole holds whatever a server sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b07_a_naive_proxy_holds_what_never_ends() {
    let bad = Sim::start();
    let naive = NaiveProcess::before(bad.address());
    let piece = "x".repeat(64 << 10);
    bad.be(Manner::endless(format!("HTTP/1.1 200 OK\r\n{JSON}content-length: {}\r\n\r\n", 1 << 30), piece));
    let url = format!("http://{}/mcp", naive.address());
    let call = tokio::spawn(async move {
        let asking = Caller::new(&url)
            .http()
            .post(&url)
            .header("mcp-protocol-version", "2026-07-28")
            .body("{}")
            .send();
        asking.await.map(|response| response.status())
    });
    let base = naive.meter().resident_kib();
    naive
        .wait_for("more memory than the gateway takes", |meter| meter.resident_kib() > base + MEMORY_KIB_MAX);
    call.abort();
    let mut card = Card::new("B07");
    card.check("held", true, &());
    card.pass("answer without end is held by a naive proxy");
}
