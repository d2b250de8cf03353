//! The load generator: raw sockets, a closed loop for each connection, every body checked, a latency histogram.
//! Not here: who is called and how long (`main`), or what the callee spent (`measure`).

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::Failure;

/// Time for one connection and its session; a stdio server is started meanwhile.
const OPENING: Duration = Duration::from_secs(10);

/// What one client sends, and to whom.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub addr: SocketAddr,
    pub path: String,
    /// `Authorization` and the like.
    pub headers: Vec<(String, String)>,
    pub era: Era,
    /// The tool that is called; its one argument is `text`.
    pub tool: String,
}

/// How the calls look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// `initialize` once for each connection, then calls with the session id it gave, if any.
    Legacy,
    /// Every call on its own, with `_meta` and the headers that mirror it.
    Modern,
}

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub connections: usize,
    /// Body of a call in bytes, or the length of its argument when it does not fit.
    pub size: Size,
    pub warm_up: Duration,
    pub time: Duration,
}

/// What a call carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// A body of 300 bytes in all (the modern form's `_meta` does not fit: its argument is empty then).
    Small,
    /// An argument of 16 KiB.
    Large,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub calls: u64,
    /// Answers that were not a `result` with our id.
    pub wrong: u64,
    /// The first of those, or why a connection broke.
    pub complaint: Option<String>,
    /// From the end of warming up to the last answer counted.
    pub elapsed: Duration,
    pub latency: Histogram,
}

/// Runs `load` against `target`. `counting` is called when warming up ends, to take the first CPU reading.
pub(crate) fn run(target: &Target, load: Load, counting: impl FnOnce() + 'static) -> Result<Tally, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let set = LocalSet::new();
    runtime.block_on(set.run_until(async {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let mut lines = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            let opening = tokio::time::timeout(OPENING, Line::open(target, load.size, number));
            lines.push(opening.await.map_err(|_| "no answer to `initialize` in time")??);
        }
        let started = Instant::now() + load.warm_up;
        let until = started + load.time;
        let tasks: Vec<_> = lines
            .into_iter()
            .map(|line| tokio::task::spawn_local(line.run(Rc::clone(&tally), started, until)))
            .collect();
        tokio::time::sleep_until(started.into()).await;
        counting();
        for task in tasks {
            task.await?;
        }
        let mut tally = tally.take();
        tally.elapsed = started.elapsed();
        Ok(tally)
    }))
}

/// One connection with its prepared request.
struct Line {
    stream: TcpStream,
    request: Vec<u8>,
    /// Where the ten digits of the id stand in `request`.
    id_at: usize,
    next_id: u64,
    buffer: Vec<u8>,
}

/// Ids have ten digits, so that patching one in does not move anything.
const FIRST_ID: u64 = 1_000_000_000;

impl Line {
    async fn open(target: &Target, size: Size, number: usize) -> Result<Self, Failure> {
        let stream = TcpStream::connect(target.addr).await?;
        stream.set_nodelay(true)?;
        let first = FIRST_ID + number as u64 * 10_000_000;
        let mut line = Self {
            stream,
            request: Vec::new(),
            id_at: 0,
            next_id: first,
            buffer: Vec::with_capacity(32 << 10),
        };
        let mut headers = target.headers.clone();
        match target.era {
            Era::Legacy => {
                if let Some(session) = line.initialize(target).await? {
                    headers.push(("Mcp-Session-Id".into(), session));
                }
                headers.push(("MCP-Protocol-Version".into(), "2025-11-25".into()));
            }
            Era::Modern => {
                headers.push(("MCP-Protocol-Version".into(), "2026-07-28".into()));
                headers.push(("Mcp-Method".into(), "tools/call".into()));
                headers.push(("Mcp-Name".into(), target.tool.clone()));
            }
        }
        line.request = post(target, &headers, &call(target, size));
        line.id_at =
            memmem::find(&line.request, FIRST_ID.to_string().as_bytes()).ok_or("no id in the request")?;
        Ok(line)
    }

    async fn initialize(&mut self, target: &Target) -> Result<Option<String>, Failure> {
        let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
        self.stream.write_all(&post(target, &target.headers, body)).await?;
        let answer = self.read().await?;
        let (head, body) = answer.parts(&self.buffer);
        if answer.status != 200 || memmem::find(&body, b"\"result\"").is_none() {
            let body = String::from_utf8_lossy(&body).into_owned();
            return Err(
                format!("initialize on {}{}: {} {body}", target.addr, target.path, answer.status).into()
            );
        }
        let session = header(head, "mcp-session-id").map(str::to_owned);
        let mut headers = target.headers.clone();
        headers.extend(session.iter().map(|id| ("Mcp-Session-Id".to_owned(), id.clone())));
        headers.push(("MCP-Protocol-Version".into(), "2025-11-25".into()));
        let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        self.stream.write_all(&post(target, &headers, body)).await?;
        let answer = self.read().await?;
        if answer.status != 202 {
            return Err(format!("notifications/initialized: status {}", answer.status).into());
        }
        Ok(session)
    }

    async fn run(mut self, tally: Rc<RefCell<Tally>>, started: Instant, until: Instant) {
        loop {
            let before = Instant::now();
            if before >= until {
                return;
            }
            let verdict = self.call().await;
            let took = before.elapsed();
            let mut tally = tally.borrow_mut();
            if let Err(complaint) = &verdict {
                tally.wrong += 1;
                tally.complaint.get_or_insert_with(|| complaint.to_string());
            }
            if before >= started {
                tally.calls += 1;
                tally.latency.record(took);
            }
            // A connection that broke cannot say more; one wrong answer is already enough to fail the run.
            if verdict.is_err() {
                return;
            }
        }
    }

    async fn call(&mut self) -> Result<(), Failure> {
        self.next_id += 1;
        let digits = self.next_id.to_string();
        if let Some(place) = self.request.get_mut(self.id_at..self.id_at + digits.len()) {
            place.copy_from_slice(digits.as_bytes());
        }
        self.stream.write_all(&self.request).await?;
        let answer = self.read().await?;
        let (_, body) = answer.parts(&self.buffer);
        let ours = memmem::find(&body, digits.as_bytes()).is_some();
        if answer.status == 200 && ours && memmem::find(&body, b"\"result\":").is_some() {
            return Ok(());
        }
        let body: String = String::from_utf8_lossy(&body).chars().take(300).collect();
        Err(format!("status {}, wanted a result for id {digits}: {body}", answer.status).into())
    }

    /// Reads one whole answer into the buffer.
    async fn read(&mut self) -> Result<Answer, Failure> {
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("connection closed in the middle of an answer".into());
            }
            if let Some(answer) = Answer::parse(&self.buffer)? {
                return Ok(answer);
            }
        }
    }
}

fn post(target: &Target, headers: &[(String, String)], body: &str) -> Vec<u8> {
    let mut text = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n",
        target.path, target.addr
    );
    text.push_str("Accept: application/json, text/event-stream\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

fn call(target: &Target, size: Size) -> String {
    let meta = match target.era {
        Era::Legacy => "",
        Era::Modern => {
            r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#
        }
    };
    let (head, tail) = (
        format!(
            r#"{{"jsonrpc":"2.0","id":{FIRST_ID},"method":"tools/call","params":{{"name":"{}","arguments":{{"text":""#,
            target.tool
        ),
        format!(r#""}}{meta}}}}}"#),
    );
    let fill = match size {
        Size::Small => 300_usize.saturating_sub(head.len() + tail.len()),
        Size::Large => 16 << 10,
    };
    format!("{head}{}{tail}", "abcdefghijklmnop".repeat(fill / 16 + 1).get(..fill).unwrap_or_default())
}

/// One complete answer: where its parts are.
struct Answer {
    status: u16,
    head_end: usize,
    framing: Framing,
}

enum Framing {
    Length,
    Chunked,
}

impl Answer {
    /// `None` until the whole answer is there.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Failure> {
        let Some(head_end) = memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
        let (head, body) = bytes.split_at(head_end);
        let head = std::str::from_utf8(head)?;
        let status = head.get(9..12).ok_or("no status line")?.parse()?;
        let chunked =
            header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let framing = if chunked { Framing::Chunked } else { Framing::Length };
        let whole = match framing {
            Framing::Chunked => body.ends_with(b"0\r\n\r\n"),
            Framing::Length => body.len() >= header(head, "content-length").unwrap_or("0").parse()?,
        };
        Ok(whole.then_some(Self { status, head_end, framing }))
    }

    fn parts<'a>(&self, bytes: &'a [u8]) -> (&'a str, std::borrow::Cow<'a, [u8]>) {
        let (head, body) = bytes.split_at(self.head_end);
        let body = match self.framing {
            Framing::Length => body.into(),
            Framing::Chunked => unchunk(body).into(),
        };
        (std::str::from_utf8(head).unwrap_or_default(), body)
    }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(rest.len());
    while let Some(end) = memmem::find(rest, b"\r\n") {
        let (size, after) = rest.split_at(end);
        let size = std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let (Some(size @ 1..), Some(after)) = (size, after.get(2..)) else { break };
        whole.extend_from_slice(after.get(..size).unwrap_or_default());
        rest = after.get(size + 2..).unwrap_or_default();
    }
    whole
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Counts by duration, 32 steps for each doubling: within about 3 % of the truth, in 2 kB.
#[derive(Debug)]
pub(crate) struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; 64 * Self::STEPS as usize])
    }
}

impl Histogram {
    const STEPS: u64 = 32;

    fn record(&mut self, took: Duration) {
        let nanos = (took.as_nanos() as u64).max(Self::STEPS);
        let power = u64::from(nanos.ilog2());
        let step = (nanos >> (power - 5)) - Self::STEPS;
        if let Some(count) = self.0.get_mut((power * Self::STEPS + step) as usize) {
            *count += 1;
        }
    }

    /// The duration below which `share` (0–1) of the calls stayed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let total: u64 = self.0.iter().sum();
        let mut left = (total as f64 * share).ceil() as u64;
        for (bucket, count) in (0_u64..).zip(&self.0) {
            if *count >= left && *count > 0 {
                let (power, step) = (bucket / Self::STEPS, bucket % Self::STEPS);
                return Duration::from_nanos((Self::STEPS + step) << power.saturating_sub(5));
            }
            left -= count;
        }
        Duration::ZERO
    }
}
