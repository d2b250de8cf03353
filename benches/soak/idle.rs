//! L04 and L06: what thousands of sessions and streams cost that nobody uses, and that it is given back when they go.
//! Not here: clients that are slow while they call (`slow`).

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::gateway::Gateway;
use crate::{Failure, Options, Verdict, good, upstream};

/// Sessions, opened over a few connections, and what each may cost.
const SESSIONS: usize = 50_000;
const OPENERS: usize = 16;
const SESSION_BYTES_MAX: f64 = 2.0 * 1024.0;
/// Streams, one of so many of which is never read, and what each may cost.
const STREAMS: usize = 5_000;
const DEAF: usize = 10;
const STREAM_KIB_MAX: f64 = 45.0;
/// So long they are open.
const OPEN_FOR: Duration = Duration::from_secs(20);
/// What may be left afterwards, of what they cost and in any case.
const LEFT_MAX: f64 = 0.1;
const LEFT_KIB_MAX: u64 = 2 * 1024;
/// A session that was not used for five minutes is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(330);
/// Nothing else here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is behind the gateway.
#[derive(Debug, Clone, Copy)]
enum Behind {
    /// A server that talks on every stream.
    Remote,
    /// A process on stdio, which all share and which says nothing unasked.
    Local,
}

async fn gateway(options: &Options, behind: Behind) -> Result<Gateway, Failure> {
    let runtime = match behind {
        Behind::Remote => {
            let url = format!("http://{}/mcp", upstream::start().await?);
            json!({"type": "remote-http", "url": url})
        }
        Behind::Local => {
            let program = std::fs::canonicalize(&options.tollgate)?;
            json!({"type": "local-process", "command": program, "args": ["sample", "stdio"]})
        }
    };
    let mut server = json!({"id": "soak", "runtime": runtime});
    if let (Behind::Remote, Some(server)) = (behind, server.as_object_mut()) {
        server.insert("health".into(), json!({"type": "off"}));
    }
    let catalog = json!({"servers": [server]});
    let limits =
        "limits: {sessions: 100000, sessions_per_caller: 100000, streams: 10000, streams_per_caller: 10000}";
    Gateway::start(&options.tollgate, &format!("log: {{level: warn}}\n{limits}"), &catalog.to_string())
}

/// Many sessions that are opened and left alone.
pub(crate) async fn sessions(options: &Options) -> Result<Verdict, Failure> {
    let (mut pass, mut figures) = (true, Vec::new());
    for behind in [Behind::Remote, Behind::Local] {
        let gateway = gateway(options, behind).await?;
        let address = gateway.address;
        // What a gateway takes at its first calls is not the price of a session.
        open_sessions(address, 200).await?;
        good::call(address, OPENERS, Duration::from_secs(2)).await;
        let before = gateway.resident_kib()?;
        let opened = open_sessions(address, SESSIONS).await?;
        let during = settled(&gateway, PATIENCE, |_| false).await?;
        let each = (during.saturating_sub(before) * 1024) as f64 / SESSIONS as f64;
        // Those of whom nothing is heard are forgotten.
        let left_max = left_max(before, during);
        let after = settled(&gateway, FORGOTTEN, |now| now <= left_max).await?;
        pass &= opened.len() == SESSIONS && each <= SESSION_BYTES_MAX && after <= left_max;
        figures.push(format!(
            "{} idle sessions with a {behind:?} server cost {each:.0} B each ({before} to {during} KiB), and {after} KiB are \
             left when they are forgotten",
            opened.len()
        ));
    }
    Ok(Verdict { id: "L06", pass, figure: figures.join("; ") })
}

/// Many streams, some of which are never read.
pub(crate) async fn streams(options: &Options) -> Result<Verdict, Failure> {
    let (mut pass, mut figures) = (true, Vec::new());
    for behind in [Behind::Remote, Behind::Local] {
        let gateway = gateway(options, behind).await?;
        let address = gateway.address;
        let sessions = open_sessions(address, STREAMS).await?;
        good::call(address, OPENERS, Duration::from_secs(2)).await;
        let before = settled(&gateway, Duration::from_secs(5), |_| false).await?;
        let mut open = Vec::new();
        for (number, session) in sessions.iter().enumerate() {
            open.push(listen(address, session, number.is_multiple_of(DEAF)).await?);
        }
        sleep(OPEN_FOR).await;
        let counted = gateway.metric("tollgate_bound_used{", "streams").await?;
        let during = gateway.resident_kib()?;
        let each = during.saturating_sub(before) as f64 / STREAMS as f64;
        for stream in open {
            stream.abort();
        }
        let left_max = left_max(before, during);
        let after = settled(&gateway, PATIENCE, |now| now <= left_max).await?;
        pass &= each <= STREAM_KIB_MAX && after <= left_max;
        figures.push(format!(
            "{counted} streams of a {behind:?} server, {} of them never read, cost {each:.1} KiB each ({before} to {during} \
             KiB), and {after} KiB are left when they are gone",
            STREAMS / DEAF
        ));
    }
    Ok(Verdict { id: "L04", pass, figure: figures.join("; ") })
}

fn left_max(before: u64, during: u64) -> u64 {
    before + LEFT_KIB_MAX + (during.saturating_sub(before) as f64 * LEFT_MAX) as u64
}

/// Resident memory when it is as wanted, or `within` is over.
async fn settled(gateway: &Gateway, within: Duration, wanted: impl Fn(u64) -> bool) -> Result<u64, Failure> {
    let until = Instant::now() + within;
    loop {
        // To be asked is when it forgets the sessions of those who left without a word.
        gateway.metric("tollgate_sessions_active", "").await?;
        let now = gateway.resident_kib()?;
        if wanted(now) || Instant::now() > until {
            return Ok(now);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Opens sessions and tells their ids.
async fn open_sessions(address: SocketAddr, count: usize) -> Result<Vec<String>, Failure> {
    let mut openers = JoinSet::new();
    for opener in 0..OPENERS {
        let share = count / OPENERS + usize::from(opener < count % OPENERS);
        openers.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            let mut ids = Vec::new();
            for _ in 0..share {
                let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"soak","version":"1"}}}"#;
                let head = exchange(&mut stream, &post(hello, "")).await?;
                let id = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).ok_or("no session")?;
                let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
                exchange(&mut stream, &post(ready, id)).await?;
                ids.push(id.to_owned());
            }
            Ok::<_, Failure>(ids)
        });
    }
    let mut all = Vec::new();
    while let Some(ids) = openers.join_next().await {
        all.extend(ids??);
    }
    Ok(all)
}

fn post(body: &str, session: &str) -> String {
    let session = if session.is_empty() { String::new() } else { format!("Mcp-Session-Id: {session}\r\n") };
    format!(
        "POST /servers/soak/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\n{session}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One exchange; the head of the answer, with names in lower case.
async fn exchange(stream: &mut TcpStream, request: &str) -> Result<String, Failure> {
    stream.write_all(request.as_bytes()).await?;
    let mut got = Vec::new();
    loop {
        if timeout(PATIENCE, stream.read_buf(&mut got)).await?? == 0 {
            return Err(format!("hung up after {:?}", String::from_utf8_lossy(&got)).into());
        }
        let text = String::from_utf8_lossy(&got);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let names = |line: &str| match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}\n", name.to_ascii_lowercase()),
            None => format!("{line}\n"),
        };
        let head: String = head.lines().map(names).collect();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length.is_none_or(|length| length.parse() == Ok(body.len())) {
            return Ok(head);
        }
    }
}

/// Opens a session's stream, and reads it or never does.
async fn listen(address: SocketAddr, session: &str, deaf: bool) -> Result<JoinHandle<()>, Failure> {
    let socket = TcpSocket::new_v4()?;
    if deaf {
        // Little is taken without being read.
        socket.set_recv_buffer_size(4096)?;
    }
    let mut stream = socket.connect(address).await?;
    let request = format!(
        "GET /servers/soak/mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\
         MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: {session}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut said = vec![0; 4096];
    let first = timeout(PATIENCE, stream.read(&mut said)).await??;
    if !said.starts_with(b"HTTP/1.1 200") {
        return Err(String::from_utf8_lossy(said.get(..first).unwrap_or_default()).into());
    }
    Ok(tokio::spawn(async move {
        if deaf {
            std::future::pending::<()>().await;
        }
        while stream.read(&mut said).await.is_ok_and(|read| read > 0) {}
    }))
}
