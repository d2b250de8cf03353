//! A naive proxy: the positive control. What the gateway stops has to succeed here, or the test that says so is dead.
//! Not here: what is attacked with (`scorecard`), what is behind it (`recorder`).
//!
//! It forwards bytes after the crudest parse, pools one upstream connection, believes every header, reflects every
//! `Origin` and holds every body in memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::meter::Meter;
use crate::recorder::Believes;

/// How long it waits for an answer of the upstream: on loopback, what has not come by then will not.
const PATIENCE: Duration = Duration::from_millis(400);

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
        if let Some(body) = find(&request, b"\r\n\r\n{") {
            // It looks into what it forwards, as gateways do.
            drop(Tree::read(&mut request[body + 4..].iter().copied().peekable()));
        }
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
        let head_end =
            find(got, b"\r\n\r\n").map(|at| at + 4).or_else(|| find(got, b"\n\n").map(|at| at + 2));
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

/// JSON read the way one writes it first: by recursion, every value in a node of its own, every key compared with
/// all before it.
#[expect(dead_code, reason = "it is held, not used")]
enum Tree {
    Leaf(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    fn read(bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Self {
        while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
        match bytes.next() {
            Some(b'[') => {
                let mut list = Vec::new();
                while bytes.peek().is_some_and(|byte| *byte != b']') {
                    list.push(Self::read(bytes));
                    bytes.next_if_eq(&b',');
                }
                bytes.next();
                Self::List(list)
            }
            Some(b'{') => {
                let mut members: Vec<(String, Self)> = Vec::new();
                while bytes.peek().is_some_and(|byte| *byte != b'}') {
                    let Self::Leaf(name) = Self::read(bytes) else { break };
                    bytes.next_if_eq(&b':');
                    let value = Self::read(bytes);
                    match members.iter_mut().find(|(known, _)| *known == name) {
                        Some(member) => member.1 = value,
                        None => members.push((name, value)),
                    }
                    bytes.next_if_eq(&b',');
                }
                bytes.next();
                Self::Object(members)
            }
            Some(b'"') => {
                let mut text = Vec::new();
                while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
                    text.push(byte);
                }
                Self::Leaf(String::from_utf8_lossy(&text).into_owned())
            }
            Some(first) => {
                let mut text = vec![first];
                while let Some(byte) = bytes.next_if(|byte| !b",:]}\"".contains(byte)) {
                    text.push(byte);
                }
                Self::Leaf(String::from_utf8_lossy(&text).into_owned())
            }
            None => Self::Leaf(String::new()),
        }
    }
}

/// A naive proxy in a process of its own, for what is measured or does not survive.
pub(crate) struct NaiveProcess {
    child: Child,
    address: SocketAddr,
}

/// Says to a copy of this program that it is the naive proxy before that upstream.
const UPSTREAM: &str = "TOLLGATE_TEST_NAIVE_UPSTREAM";

impl NaiveProcess {
    /// A proxy before that upstream.
    pub(crate) fn before(upstream: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "naive::as_a_process", "--nocapture"])
            .env(UPSTREAM, upstream.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.filter_map(|line| line.rsplit("naive at ").next()?.trim().parse().ok()).next();
        Self { child, address: address.expect("the naive proxy does not start") }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it costs.
    pub(crate) fn meter(&self) -> Meter {
        Meter(self.child.id())
    }

    /// Waits for something that it does.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(Meter) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(self.meter()) {
            assert!(Instant::now() < deadline, "not seen: {what}");
            std::thread::yield_now();
        }
    }

    /// Waits until it has crashed.
    #[track_caller]
    pub(crate) fn wait_for_death(mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none_or(|status| status.success()) {
            assert!(Instant::now() < deadline, "it lives on");
            std::thread::yield_now();
        }
    }
}

impl Drop for NaiveProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what `NaiveProcess` starts. It serves until its standard input ends.
#[test]
fn as_a_process() {
    let Some(upstream) = std::env::var_os(UPSTREAM) else { return };
    let naive = Naive::before(upstream.to_str().unwrap().parse().unwrap(), Believes::Length);
    let line = format!("\nnaive at {}\n", naive.address());
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}
