//! Clients that behave: each calls a tool again and again and wants its own answer in time.
//! Not here: clients that do not (`slow`).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;

/// A call that took longer is no good answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between the calls of one client.
const PAUSE: Duration = Duration::from_millis(20);
/// After so many calls a client connects anew.
const CALLS_PER_CONNECTION: usize = 20;

/// How the calls of good clients went.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) good: usize,
    pub(crate) bad: usize,
    took: Vec<Duration>,
    /// Why the first call that failed did.
    pub(crate) first: Option<String>,
}

impl Tally {
    pub(crate) fn share(&self) -> f64 {
        self.good as f64 / (self.good + self.bad).max(1) as f64
    }

    /// The time that 99 % of the good calls stayed below.
    pub(crate) fn p99(&mut self) -> Duration {
        self.took.sort_unstable();
        self.took.get(self.took.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// `clients` of them, for `time`.
pub(crate) async fn call(address: SocketAddr, clients: usize, time: Duration) -> Tally {
    let until = Instant::now() + time;
    let running: Vec<_> = (0..clients).map(|number| tokio::spawn(client(address, number, until))).collect();
    let mut all = Tally::default();
    for one in running {
        let Ok(mut one) = one.await else { continue };
        all.good += one.good;
        all.bad += one.bad;
        all.took.append(&mut one.took);
        all.first = all.first.or(one.first);
    }
    all
}

async fn client(address: SocketAddr, number: usize, until: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut stream = None;
    let mut id = number * 1_000_000;
    while Instant::now() < until {
        id += 1;
        let begun = Instant::now();
        let done = timeout(PATIENCE, once(&mut stream, address, id)).await;
        match done.map_err(Failure::from).flatten() {
            Ok(()) => {
                tally.good += 1;
                tally.took.push(begun.elapsed());
            }
            Err(error) => {
                tally.bad += 1;
                tally.first.get_or_insert(error.to_string());
                stream = None;
            }
        }
        if id.is_multiple_of(CALLS_PER_CONNECTION) {
            stream = None;
        }
        sleep(PAUSE).await;
    }
    tally
}

async fn once(stream: &mut Option<TcpStream>, address: SocketAddr, id: usize) -> Result<(), Failure> {
    let stream = match stream {
        Some(stream) => stream,
        None => stream.insert(TcpStream::connect(address).await?),
    };
    stream.write_all(request("small", id).as_bytes()).await?;
    let mut got = Vec::new();
    loop {
        if stream.read_buf(&mut got).await? == 0 {
            return Err(format!("hung up after {:?}", String::from_utf8_lossy(&got)).into());
        }
        let Some((body, _)) = whole(&got) else { continue };
        let answer: serde_json::Value = serde_json::from_slice(body)?;
        let ours = answer.get("id").and_then(serde_json::Value::as_u64) == Some(id as u64);
        return match answer.get("result") {
            Some(_) if ours => Ok(()),
            _ => Err(format!("{answer}").into()),
        };
    }
}

/// A modern `tools/call`, with its head.
pub(crate) fn request(tool: &str, id: usize) -> String {
    let meta = serde_json::json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "soak", "version": "1"},
    });
    let params = serde_json::json!({"name": tool, "arguments": {}, "_meta": meta});
    let body = serde_json::json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
    let body = body.to_string();
    format!(
        "POST /servers/soak/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n\
         Mcp-Method: tools/call\r\nMcp-Name: {tool}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The body of a whole message at the beginning of `bytes`, and where the message ends.
pub(crate) fn whole(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(bytes.get(..head)?).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse::<usize>();
    let end = head + length.ok()?;
    Some((bytes.get(head..end)?, end))
}
