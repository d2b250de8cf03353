//! A fake MCP server over HTTP, written on plain sockets: it records every request and does what the test's script says.
//! Not here: honest servers (`packages`, and `tollgate sample`), the fake on stdio (`stdio`).
//!
//! It panics loudly (on its own thread) at anything that is not HTTP or not scripted, and the panic becomes the test's
//! when the fake is joined, which dropping it does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// No test sends more; a gateway that does is broken.
const BODY_BYTES_MAX: usize = 16 << 20;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Counts requests, from 0.
    pub(crate) number: usize,
    /// Counts connections, from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case. A repeated header has its values joined by a comma.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The JSON-RPC message in it; null when it has none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The method of the JSON-RPC message in it; empty when it has none.
    pub(crate) fn rpc(&self) -> String {
        self.json()["method"].as_str().unwrap_or_default().to_owned()
    }

    /// A JSON-RPC result for this request.
    pub(crate) fn result(&self, result: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": self.json()["id"], "result": result})
    }

    /// A result of `tools/call` with one text.
    pub(crate) fn text(&self, text: &str) -> Value {
        self.result(json!({"resultType": "complete", "content": [{"type": "text", "text": text}]}))
    }
}

/// What the fake does with one request.
pub(crate) enum Act {
    /// Answers with JSON.
    Json(u16, Value),
    /// Answers with JSON and more headers.
    JsonWith(u16, Vec<(&'static str, String)>, Value),
    /// Answers with a status and no body.
    Status(u16),
    /// Answers with a stream, step by step, then ends it.
    Stream(Vec<Step>),
    /// Never answers. `Fake::wait_for_gone` tells when the other side closed.
    Hang,
    /// Writes these bytes instead of an HTTP answer and closes.
    Raw(Vec<u8>),
    /// Answers 200 with this content type and a body that never ends.
    Endless(&'static str),
    /// Closes the connection without a word.
    Close,
}

/// One step of a stream.
pub(crate) enum Step {
    /// An event with this message.
    Send(Value),
    /// This text as it is.
    Raw(String),
    /// These lines as they are, and an empty line.
    Lines(String),
    /// Goes on when the test says so: `Fake::release`.
    Gate,
    /// Goes on when the client has answered the request with this id, by another POST.
    Answer(Value),
    /// Stays open until the other side closes.
    Hang,
}

type Script = dyn Fn(&Seen) -> Act + Send + Sync;

/// What the fake and the test share.
struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<Seen>>,
    gone: Mutex<Vec<(usize, Instant)>>,
    /// Counts changes of the two above and releases, so that both sides can wait.
    turn: watch::Sender<usize>,
    gates: Mutex<usize>,
    forbidden: Mutex<Vec<String>>,
}

/// A fake server that runs until it is dropped.
pub(crate) struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// A fake that does what the script says.
    pub(crate) fn start(script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::start_on(listener, script)
    }

    /// The same on a socket that the test bound: for a server that comes back at its address.
    pub(crate) fn start_on(
        listener: std::net::TcpListener,
        script: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            gone: Mutex::default(),
            turn: watch::Sender::new(0),
            gates: Mutex::default(),
            forbidden: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, serving, stopped));
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Its endpoint.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// From now on a request that contains this text in a header is a failure: what must not reach an upstream.
    pub(crate) fn forbid(&self, text: &str) {
        self.shared.forbidden.lock().unwrap().push(text.to_owned());
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Requests so far with that JSON-RPC method.
    pub(crate) fn seen_rpc(&self, method: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.rpc() == method).collect()
    }

    /// Lets one waiting `Step::Gate`, or the next one, go on.
    pub(crate) fn release(&self) {
        *self.shared.gates.lock().unwrap() += 1;
        self.shared.bump();
    }

    /// Waits for a request with that JSON-RPC method (or, for GET and DELETE, that HTTP method).
    pub(crate) async fn wait_for(&self, what: &str, within: Duration) -> Seen {
        self.wait(&format!("no {what}"), within, |shared| {
            shared
                .seen
                .lock()
                .unwrap()
                .iter()
                .find(|seen| seen.rpc() == what || (seen.method == what && what != "POST"))
                .cloned()
        })
        .await
    }

    /// Waits for a request of which `is_it` says so.
    pub(crate) async fn wait_for_one(&self, what: &str, is_it: impl Fn(&Seen) -> bool) -> Seen {
        self.wait(&format!("no {what}"), Duration::from_secs(20), |shared| {
            shared.seen.lock().unwrap().iter().find(|seen| is_it(seen)).cloned()
        })
        .await
    }

    /// Waits until the other side has closed the connection of that unanswered request. Gives the moment.
    pub(crate) async fn wait_for_gone(&self, number: usize, within: Duration) -> Instant {
        self.wait(&format!("request {number} was not given up"), within, |shared| {
            shared.gone.lock().unwrap().iter().find(|gone| gone.0 == number).map(|gone| gone.1)
        })
        .await
    }

    async fn wait<T>(&self, complaint: &str, within: Duration, found: impl Fn(&Shared) -> Option<T>) -> T {
        let mut turn = self.shared.turn.subscribe();
        let search = async {
            loop {
                if let Some(found) = found(&self.shared) {
                    return found;
                }
                turn.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(within, search).await {
            Ok(found) => found,
            Err(_) => panic!("{complaint} within {within:?}; requests so far: {:#?}", brief(&self.seen())),
        }
    }
}

fn brief(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(|seen| format!("{} {} {}", seen.number, seen.method, seen.rpc())).collect()
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if let (Some(Err(panic)), false) = (ended, std::thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Shared {
    fn bump(&self) {
        self.turn.send_modify(|turn| *turn += 1);
    }

    fn note_gone(&self, number: usize) {
        self.gone.lock().unwrap().push((number, Instant::now()));
        self.bump();
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    let mut count = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(connection(accepted.unwrap().0, count, Arc::clone(&shared)));
                count += 1;
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => ended.unwrap(),
            _ = &mut stopped => break,
        }
    }
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

type Reader = BufReader<tokio::net::tcp::OwnedReadHalf>;
type Writer = tokio::net::tcp::OwnedWriteHalf;

async fn connection(stream: TcpStream, number: usize, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(mut seen) = read_request(&mut reader, number).await {
        {
            let mut all = shared.seen.lock().unwrap();
            seen.number = all.len();
            for text in shared.forbidden.lock().unwrap().iter() {
                assert!(
                    !seen.headers.values().any(|value| value.contains(text)),
                    "{text:?} reached the upstream: {:?}",
                    seen.headers
                );
            }
            all.push(seen.clone());
        }
        shared.bump();
        let act = (shared.script)(&seen);
        if !perform(act, &seen, &mut reader, &mut writer, &shared).await {
            return;
        }
    }
}

/// Does one act. `false` when the connection is over.
async fn perform(act: Act, seen: &Seen, reader: &mut Reader, writer: &mut Writer, shared: &Shared) -> bool {
    match act {
        Act::Json(status, body) => write_json(writer, status, &[], &body).await,
        Act::JsonWith(status, headers, body) => write_json(writer, status, &headers, &body).await,
        Act::Status(status) => {
            let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n\r\n");
            writer.write_all(head.as_bytes()).await.is_ok()
        }
        Act::Stream(steps) => stream(steps, seen, reader, writer, shared).await,
        Act::Hang => {
            closed(reader).await;
            shared.note_gone(seen.number);
            false
        }
        Act::Raw(bytes) => {
            // A proxy that has seen enough may hang up first.
            let _ = writer.write_all(&bytes).await;
            let _ = writer.shutdown().await;
            false
        }
        Act::Endless(kind) => {
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
            let mut open = writer.write_all(head.as_bytes()).await.is_ok();
            let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
            while open {
                tokio::select! {
                    written = writer.write_all(chunk.as_bytes()) => open = written.is_ok(),
                    () = closed(reader) => open = false,
                }
            }
            shared.note_gone(seen.number);
            false
        }
        Act::Close => false,
    }
}

async fn write_json(
    writer: &mut Writer,
    status: u16,
    headers: &[(&'static str, String)],
    body: &Value,
) -> bool {
    let body = body.to_string();
    let mut head = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    writer.write_all(format!("{head}\r\n{body}").as_bytes()).await.is_ok()
}

async fn stream(
    steps: Vec<Step>,
    seen: &Seen,
    reader: &mut Reader,
    writer: &mut Writer,
    shared: &Shared,
) -> bool {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut open = writer.write_all(head.as_bytes()).await.is_ok();
    for step in steps {
        if !open {
            break;
        }
        open = match step {
            Step::Send(message) => write_chunk(writer, &format!("event: message\ndata: {message}\n\n")).await,
            Step::Raw(text) => write_chunk(writer, &text).await,
            Step::Lines(lines) => write_chunk(writer, &format!("{lines}\n\n")).await,
            Step::Gate => {
                wait_open(reader, shared, |shared| {
                    let mut gates = shared.gates.lock().unwrap();
                    let free = *gates > 0;
                    *gates -= usize::from(free);
                    free
                })
                .await
            }
            Step::Answer(id) => {
                wait_open(reader, shared, |shared| {
                    let seen = shared.seen.lock().unwrap();
                    seen.iter().any(|seen| {
                        seen.json()["id"] == id
                            && seen.json().get("method").is_none()
                            && !seen.body.is_empty()
                    })
                })
                .await
            }
            Step::Hang => {
                closed(reader).await;
                false
            }
        };
    }
    if !open {
        shared.note_gone(seen.number);
        return false;
    }
    writer.write_all(b"0\r\n\r\n").await.is_ok()
}

async fn write_chunk(writer: &mut Writer, text: &str) -> bool {
    writer.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.is_ok()
}

/// Waits until `ready`; `false` if the other side closed first.
async fn wait_open(reader: &mut Reader, shared: &Shared, ready: impl Fn(&Shared) -> bool) -> bool {
    let mut turn = shared.turn.subscribe();
    loop {
        if ready(shared) {
            return true;
        }
        tokio::select! {
            changed = turn.changed() => changed.unwrap(),
            () = closed(reader) => return false,
        }
    }
}

/// Returns when the other side has closed. Nothing may be sent while an answer is outstanding: nobody pipelines.
async fn closed(reader: &mut Reader) {
    let mut byte = [0];
    if let Ok(1) = reader.read(&mut byte).await {
        panic!("a byte arrived ({byte:?}) while an answer was outstanding");
    }
}

/// Reads one request; `None` when the connection ended between requests, or in the middle of one.
async fn read_request(reader: &mut Reader, connection: usize) -> Option<Seen> {
    let first = read_line(reader).await?;
    let mut parts = first.split(' ');
    let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    assert_eq!(parts.next(), Some("HTTP/1.1"), "not a request line: {first:?}");
    let mut headers = BTreeMap::<String, String>::new();
    loop {
        let line = read_line(reader).await?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
        headers
            .entry(name.to_ascii_lowercase())
            .and_modify(|known| *known = format!("{known},{}", value.trim()))
            .or_insert_with(|| value.trim().to_owned());
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        assert!(!headers.contains_key("transfer-encoding"), "both lengths: {headers:?}");
        body = vec![0; length.parse().unwrap()];
        assert!(body.len() <= BODY_BYTES_MAX, "a body of {length} bytes");
        reader.read_exact(&mut body).await.ok()?;
    } else if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        loop {
            let size = usize::from_str_radix(read_line(reader).await?.split(';').next()?, 16).unwrap();
            let mut chunk = vec![0; size];
            reader.read_exact(&mut chunk).await.ok()?;
            body.append(&mut chunk);
            assert!(body.len() <= BODY_BYTES_MAX, "a body over {BODY_BYTES_MAX} bytes");
            read_line(reader).await?;
            if size == 0 {
                break;
            }
        }
    }
    Some(Seen { number: 0, connection, method, path, headers, body })
}

async fn read_line(reader: &mut Reader) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let byte = reader.read_u8().await.ok()?;
        match byte {
            b'\n' => break,
            b'\r' => {}
            byte => line.push(byte),
        }
        assert!(line.len() <= 64 << 10, "a line over 64 KiB");
    }
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// What an honest legacy server answers to anything but `tools/call`: sessions, one tool, an open GET stream.
pub(crate) fn legacy(seen: &Seen) -> Act {
    match (seen.method.as_str(), seen.rpc().as_str()) {
        ("GET", _) => Act::Stream(vec![Step::Hang]),
        ("DELETE", _) => Act::Status(200),
        (_, "initialize") => Act::JsonWith(
            200,
            vec![("mcp-session-id", format!("fake-{}", seen.number))],
            seen.result(json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {"listChanged": true}, "logging": {}},
                "serverInfo": {"name": "fake", "version": "1"}
            })),
        ),
        (_, "ping") => Act::Json(200, seen.result(json!({}))),
        (_, "tools/list") => Act::Json(
            200,
            seen.result(json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]})),
        ),
        (_, "tools/call") => Act::Json(200, seen.text("fake")),
        (_, "server/discover") => Act::Json(
            404,
            json!({"jsonrpc": "2.0", "id": seen.json()["id"], "error": {"code": -32601, "message": "Method not found"}}),
        ),
        (_, method) if seen.json().get("id").is_none() || method.is_empty() => Act::Status(202),
        (_, method) => panic!("nobody scripted {method:?}"),
    }
}

/// What an honest modern server answers.
pub(crate) fn modern(seen: &Seen) -> Act {
    let cached = |mut result: Value| {
        result["resultType"] = json!("complete");
        result["ttlMs"] = json!(0);
        result["cacheScope"] = json!("private");
        Act::Json(200, seen.result(result))
    };
    match (seen.method.as_str(), seen.rpc().as_str()) {
        ("GET" | "DELETE", _) => Act::Status(405),
        (_, "server/discover") => cached(json!({
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "fake", "version": "1"}}
        })),
        (_, "tools/list") => cached(json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]})),
        (_, "tools/call") => Act::Json(200, seen.text("fake")),
        (_, method) => {
            let error = json!({"code": -32601, "message": format!("Method not found: {method}")});
            Act::Json(404, json!({"jsonrpc": "2.0", "id": seen.json()["id"], "error": error}))
        }
    }
}

mod tests {
    use super::*;
    use crate::client::{Caller, SOON, request};

    #[tokio::test]
    async fn the_fake_answers_and_records() {
        let fake = Fake::start(legacy);
        let (session, server) = Caller::new(&fake.url()).initialize().await;
        assert_eq!(server["serverInfo"]["name"], "fake");
        let called = session.post(&request(1, "tools/call", json!({"name": "echo"}))).await.result();
        assert_eq!(called["content"][0]["text"], "fake");
        let seen = fake.wait_for("tools/call", SOON).await;
        assert_eq!(seen.headers["mcp-session-id"], "fake-0");
        assert_eq!(fake.seen().len(), 3, "{:?}", brief(&fake.seen()));
    }

    #[tokio::test]
    async fn the_fake_notices_a_client_that_leaves() {
        let fake = Fake::start(|_| Act::Stream(vec![Step::Send(json!({"tick": 1})), Step::Hang]));
        let mut events = Caller::new(&fake.url()).post_stream(&request(1, "tools/call", json!({}))).await;
        assert_eq!(events.message().await["tick"], 1);
        drop(events);
        fake.wait_for_gone(0, SOON).await;
    }

    #[tokio::test]
    async fn the_fake_streams_step_by_step() {
        let fake = Fake::start(|seen| {
            if seen.rpc().is_empty() {
                return Act::Status(202);
            }
            let ask = json!({"jsonrpc": "2.0", "id": "s1", "method": "roots/list"});
            Act::Stream(vec![
                Step::Gate,
                Step::Send(ask),
                Step::Answer(json!("s1")),
                Step::Send(seen.text("done")),
            ])
        });
        let caller = Caller::new(&fake.url());
        let mut events = caller.post_stream(&request(1, "tools/call", json!({}))).await;
        fake.release();
        assert_eq!(events.message().await["id"], "s1");
        assert_eq!(
            caller.post(&json!({"jsonrpc": "2.0", "id": "s1", "result": {"roots": []}})).await.status,
            202
        );
        assert_eq!(events.message().await["result"]["content"][0]["text"], "done");
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    #[should_panic(expected = "reached the upstream")]
    async fn the_fake_panics_in_the_test_that_sends_what_is_forbidden() {
        let fake = Fake::start(modern);
        fake.forbid("sesame");
        let caller = Caller::new(&fake.url()).with("authorization", "Bearer open-sesame");
        let sent = caller
            .http()
            .post(fake.url())
            .header("authorization", "Bearer open-sesame")
            .body("{}")
            .send()
            .await;
        assert!(sent.is_err(), "the fake should have hung up");
        drop(fake);
    }
}
