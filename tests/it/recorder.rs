//! An upstream that records every byte and takes whatever comes, as the most careless of servers would.
//! Not here: a server that plays a script (`fake`).
//!
//! It is lenient where servers are, so that what could be smuggled is executed, and it notes as a violation every byte
//! that two servers could read in two ways. What is canonical can be smuggled past nobody.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// Which of two contradicting framings a careless program believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Believes {
    Length,
    Chunks,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) method: String,
    pub(crate) target: String,
    /// As they were written, in their order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its end; otherwise nothing was executed.
    pub(crate) whole: bool,
    /// What two readers could take in two ways.
    pub(crate) violations: Vec<String>,
}

impl Recorded {
    /// All values of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The JSON in its body; null when it has none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Recorded>>,
    streams: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

/// A recorder that runs until it is dropped.
pub(crate) struct Recorder {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// A recorder that believes chunks where it is told two things, as most servers do.
    pub(crate) fn start() -> Self {
        Self::believing(Believes::Chunks)
    }

    /// A recorder with that belief.
    pub(crate) fn believing(belief: Believes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(&listener, &serving, belief));
        Self { address, shared, thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path on it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far, the unfinished ones included.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Forgets what was recorded.
    pub(crate) fn clear(&self) {
        self.shared.requests.lock().unwrap().clear();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let ended = self.thread.take().map(JoinHandle::join);
        if let (Some(Err(panic)), false) = (ended, std::thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>, belief: Believes) {
    let mut threads = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.stopped.load(Ordering::SeqCst) {
            break;
        }
        stream.set_nodelay(true).unwrap();
        shared.streams.lock().unwrap().push(stream.try_clone().unwrap());
        let shared = Arc::clone(shared);
        threads.push(std::thread::spawn(move || {
            let mut reader = Reader { stream, got: Vec::new(), violations: Vec::new() };
            while exchange(&mut reader, &shared, belief).is_some() {}
            let _ = reader.stream.shutdown(Shutdown::Both);
        }));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// What has been read of a connection and not yet used.
struct Reader {
    stream: TcpStream,
    got: Vec<u8>,
    violations: Vec<String>,
}

/// One request and its answer; `None` at the end of the connection.
fn exchange(reader: &mut Reader, shared: &Shared, belief: Believes) -> Option<()> {
    let head = reader.head()?;
    let mut recorded = parse(&head);
    let at = {
        let mut requests = shared.requests.lock().unwrap();
        requests.push(recorded.clone());
        requests.len() - 1
    };
    let note = |recorded: &Recorded| {
        if let Some(place) = shared.requests.lock().unwrap().get_mut(at) {
            *place = recorded.clone();
        }
    };
    if recorded.target.contains("/early") {
        // Some servers answer before they have read what they were sent.
        answer(reader, &recorded)?;
    }
    let read = reader.body(framing(&recorded, belief), &mut recorded.body);
    recorded.violations.append(&mut reader.violations);
    recorded.whole = read.is_some();
    note(&recorded);
    read?;
    if recorded.target.contains("/early") { Some(()) } else { answer(reader, &recorded) }
}

/// How a careless server finds the end of a body.
fn framing(recorded: &Recorded, belief: Believes) -> Framing {
    let chunked =
        recorded.values("transfer-encoding").iter().any(|value| value.to_lowercase().contains("chunked"));
    let length = recorded.values("content-length").last().map(|value| {
        let digits: String = value.chars().filter(char::is_ascii_digit).take(9).collect();
        digits.parse().unwrap_or(0)
    });
    match (belief, chunked, length) {
        (Believes::Chunks, true, _) | (_, true, None) => Framing::Chunks,
        (_, _, length) => Framing::Length(length.unwrap_or(0)),
    }
}

enum Framing {
    Length(usize),
    Chunks,
}

impl Reader {
    fn more(&mut self) -> Option<()> {
        let mut piece = [0; 16 << 10];
        let n = self.stream.read(&mut piece).ok().filter(|n| *n > 0)?;
        self.got.extend_from_slice(&piece[..n]);
        Some(())
    }

    /// Everything up to an empty line, however lines end.
    fn head(&mut self) -> Option<Vec<u8>> {
        let mut looked = 0;
        loop {
            let got = &self.got;
            let end = (looked..got.len()).find_map(|at| {
                let rest = got[at..].strip_prefix(b"\n")?;
                let tail = rest.strip_prefix(b"\r").unwrap_or(rest);
                tail.starts_with(b"\n").then_some(at + 1 + (rest.len() - tail.len()) + 1)
            });
            match end {
                Some(end) => return Some(self.got.drain(..end).collect()),
                None => {
                    looked = got.len().saturating_sub(3);
                    self.more()?;
                }
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        while !self.got.contains(&b'\n') {
            self.more()?;
        }
        let end = self.got.iter().position(|byte| *byte == b'\n')? + 1;
        let line: Vec<u8> = self.got.drain(..end).collect();
        let bare = line.strip_suffix(b"\r\n");
        if bare.is_none() {
            self.violations.push("a chunk's line ends with a bare line feed".into());
        }
        Some(bare.map_or_else(|| line[..line.len() - 1].to_vec(), <[u8]>::to_vec))
    }

    fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> Option<()> {
        while self.got.len() < length {
            self.more()?;
        }
        into.extend(self.got.drain(..length));
        Some(())
    }

    fn body(&mut self, framing: Framing, into: &mut Vec<u8>) -> Option<()> {
        let Framing::Chunks = framing else {
            let Framing::Length(length) = framing else { return None };
            return self.exactly(length, into);
        };
        loop {
            let line = String::from_utf8_lossy(&self.line()?).into_owned();
            if line.is_empty() || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                self.violations.push(format!("a chunk's size is {line:?}"));
            }
            let digits: String = line
                .trim()
                .trim_start_matches("0x")
                .chars()
                .filter(|c| !matches!(c, '_' | '+'))
                .take_while(char::is_ascii_hexdigit)
                .collect();
            let size = usize::from_str_radix(&digits, 16).unwrap_or(0).min(1 << 24);
            if size == 0 {
                loop {
                    let trailer = self.line()?;
                    if trailer.is_empty() {
                        return Some(());
                    }
                    self.violations.push(format!("a trailer: {:?}", String::from_utf8_lossy(&trailer)));
                }
            }
            self.exactly(size, into)?;
            if !self.line()?.is_empty() {
                self.violations.push("a chunk is longer than its size".into());
            }
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Reads a head as leniently as servers do, and notes what is not canonical.
fn parse(head: &[u8]) -> Recorded {
    let text = String::from_utf8_lossy(head).into_owned();
    let mut violations = Vec::new();
    if text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        violations.push("a bare CR, LF or NUL in the head".to_owned());
    }
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let first = lines.by_ref().find(|line| !line.is_empty()).unwrap_or_default();
    let parts: Vec<&str> = first.split(' ').collect();
    if parts.len() != 3 || !is_token(parts[0]) || parts[1].is_empty() || parts[2] != "HTTP/1.1" {
        violations.push(format!("the request line is {first:?}"));
    }
    let mut headers = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if !is_token(name)
            || !line.contains(':')
            || value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f)
        {
            violations.push(format!("a header is {line:?}"));
        }
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    let text_of = |at: usize| parts.get(at).copied().unwrap_or_default().to_owned();
    let mut recorded = Recorded {
        method: text_of(0),
        target: text_of(1),
        headers,
        body: Vec::new(),
        whole: false,
        violations,
    };
    recorded.violations.append(&mut framing_violations(&recorded));
    recorded
}

fn framing_violations(recorded: &Recorded) -> Vec<String> {
    let mut found = Vec::new();
    let (lengths, encodings) = (recorded.values("content-length"), recorded.values("transfer-encoding"));
    if lengths.len() > 1 || lengths.iter().any(|v| v.is_empty() || !v.bytes().all(|b| b.is_ascii_digit())) {
        found.push(format!("Content-Length {lengths:?}"));
    }
    if encodings.len() > 1 || encodings.iter().any(|value| *value != "chunked") {
        found.push(format!("Transfer-Encoding {encodings:?}"));
    }
    if !lengths.is_empty() && !encodings.is_empty() {
        found.push("both Content-Length and Transfer-Encoding".into());
    }
    if recorded.values("host").len() != 1 {
        found.push(format!("Host {:?}", recorded.values("host")));
    }
    // A normalised WebSocket handshake is the one upgrade that may pass.
    let handshake = recorded.method == "GET" && lengths.is_empty() && encodings.is_empty();
    if recorded.values("upgrade").iter().any(|value| !handshake || *value != "websocket") {
        found.push(format!("Upgrade {:?}", recorded.values("upgrade")));
    }
    for name in ["te", "trailer", "keep-alive", "proxy-connection", "expect"] {
        if !recorded.values(name).is_empty() {
            found.push(format!("the hop's own header {name:?}"));
        }
    }
    found
}

/// Answers in JSON: what was asked for, or in JSON-RPC if that was asked.
fn answer(reader: &mut Reader, recorded: &Recorded) -> Option<()> {
    let mut message = recorded.json();
    if message.is_null() && recorded.body.starts_with(b"{\"jsonrpc\"") {
        // JSON that this program's own reader does not take, such as half a surrogate pair.
        message = json!({"id": 1, "method": "?"});
    }
    let status = if message["method"].is_string() && message.get("id").is_none() { 202 } else { 200 };
    let body = match (status, message["method"].as_str()) {
        (202, _) => String::new(),
        (_, Some(method)) => {
            json!({"jsonrpc": "2.0", "id": message["id"], "result": result(method, &message)}).to_string()
        }
        (_, None) => json!({"method": recorded.method, "target": recorded.target}).to_string(),
    };
    let head = format!(
        "HTTP/1.1 {status} Recorded\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    reader.stream.write_all((head + &body).as_bytes()).ok()
}

fn result(method: &str, message: &Value) -> Value {
    match method {
        "initialize" => {
            json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "recorder", "version": "1"}})
        }
        "server/discover" => json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}),
        "tools/list" => json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}),
        _ => {
            let said = message["params"]["arguments"]["n"].as_str().unwrap_or_default();
            json!({"resultType": "complete", "content": [{"type": "text", "text": said}]})
        }
    }
}
