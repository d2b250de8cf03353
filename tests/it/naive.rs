//! A naive proxy: the positive control. What the gateway stops has to succeed here, or the test that says so is dead.
//! Not here: what is attacked with (`scorecard`), what is behind it (`recorder`).
//!
//! It forwards bytes after the crudest parse, pools one upstream connection, believes every header, reflects every
//! `Origin` and holds every body in memory.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::recorder::Believes;

/// How long it waits for an answer of the upstream: on loopback, what has not come by then will not.
const PATIENCE: Duration = Duration::from_millis(150);

struct Shared {
    upstream: SocketAddr,
    belief: Believes,
    pool: Mutex<Option<TcpStream>>,
    clients: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

/// A naive proxy that runs until it is dropped.
pub(crate) struct Naive {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Naive {
    /// A proxy before that upstream, with that belief about bodies that are framed in two ways.
    pub(crate) fn before(upstream: SocketAddr, belief: Believes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            belief,
            pool: Mutex::default(),
            clients: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(&listener, &serving));
        Self { address, shared, thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Naive {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for client in self.shared.clients.lock().unwrap().iter() {
            let _ = client.shutdown(Shutdown::Both);
        }
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while let Ok((client, _)) = listener.accept() {
        if shared.stopped.load(Ordering::SeqCst) {
            break;
        }
        shared.clients.lock().unwrap().push(client.try_clone().unwrap());
        let shared = Arc::clone(shared);
        threads.push(std::thread::spawn(move || converse(client, &shared)));
    }
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

fn converse(mut client: TcpStream, shared: &Shared) {
    let mut got = Vec::new();
    while let Some(request) = request(&mut client, &mut got, shared.belief) {
        let head = String::from_utf8_lossy(&request).into_owned();
        let origin = value(&head, "origin").unwrap_or("*").to_owned();
        let answered = forward(shared, &request);
        let answer = answered.unwrap_or_else(|| b"HTTP/1.1 504 Late\r\ncontent-length: 0\r\n\r\n".to_vec());
        let cors =
            format!("\r\naccess-control-allow-origin: {origin}\r\naccess-control-allow-credentials: true");
        let line = find(&answer, b"\r\n").unwrap_or(0);
        let answer = [&answer[..line], cors.as_bytes(), &answer[line..]].concat();
        if client.write_all(&answer).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

/// Writes a request on the one pooled connection and reads one answer, whosever it is.
fn forward(shared: &Shared, request: &[u8]) -> Option<Vec<u8>> {
    let mut pool = shared.pool.lock().unwrap();
    let mut upstream = match pool.take() {
        Some(upstream) => upstream,
        None => TcpStream::connect(shared.upstream).ok()?,
    };
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    upstream.write_all(request).ok()?;
    let mut got = Vec::new();
    loop {
        if let Some(end) = find(&got, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..end]).into_owned();
            let length: usize =
                value(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if got.len() >= end + 4 + length {
                got.truncate(end + 4 + length);
                *pool = Some(upstream);
                return Some(got);
            }
        }
        let mut piece = [0; 4096];
        match upstream.read(&mut piece) {
            Ok(n) if n > 0 => got.extend_from_slice(&piece[..n]),
            // No answer yet: the connection is kept all the same, for whoever comes next.
            Err(_) if got.is_empty() => {
                *pool = Some(upstream);
                return None;
            }
            _ => return None,
        }
    }
}

/// One request: the head up to an empty line, and as much body as the first thing that looks like a length says.
fn request(client: &mut TcpStream, got: &mut Vec<u8>, belief: Believes) -> Option<Vec<u8>> {
    loop {
        let head_end = find(got, b"\r\n\r\n").map(|at| at + 4).or(find(got, b"\n\n").map(|at| at + 2));
        if let Some(end) = head_end {
            let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
            let length = value(&head, "content-length").map(|value| {
                value
                    .chars()
                    .filter(char::is_ascii_digit)
                    .take(9)
                    .collect::<String>()
                    .parse::<usize>()
                    .unwrap_or(0)
            });
            let last_chunk = || find(&got[end..], b"\n0\r\n\r\n").map(|at| at + 6);
            let whole = match (belief, head.contains("chunked"), length) {
                (Believes::Chunks, true, _) | (_, true, None) => {
                    last_chunk().or(got[end..].starts_with(b"0\r\n\r\n").then_some(5)).map(|body| end + body)
                }
                (_, _, length) => Some(end + length.unwrap_or(0)),
            };
            if let Some(whole) = whole.filter(|whole| *whole <= got.len()) {
                return Some(got.drain(..whole).collect());
            }
        }
        let mut piece = [0; 16 << 10];
        let n = client.read(&mut piece).ok().filter(|n| *n > 0)?;
        got.extend_from_slice(&piece[..n]);
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let named = |line: &&str| line.split(':').next().is_some_and(|n| n.trim().eq_ignore_ascii_case(name));
    Some(head.lines().find(named)?.split_once(':')?.1.trim())
}
