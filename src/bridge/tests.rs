//! Tests of the bridge with real processes over its real socket.
//! Not here: the pure parts, which are tested where they stand.

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::catalog::{Children, Local, Rules, Server, Throttle, Timeouts};

mod calls;
mod lives;
mod modes;

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn limits() -> Limits {
    Limits {
        body_bytes_max: 4 << 20,
        header_bytes_max: 64 << 10,
        header_count_max: 100,
        uri_bytes_max: 8 << 10,
        json_depth_max: 64,
        body_timeout: PATIENCE,
        body_bytes_per_second_min: 1,
        header_timeout: PATIENCE,
        connections_max: 4096,
        connections_per_address_max: 4096,
        requests_per_connection_max: 4096,
        h2_streams_max: 100,
        tokens_max: 1000,
        keepalive: PATIENCE,
        write_timeout: PATIENCE,
        comment_every: PATIENCE,
        in_flight_max: 4096,
        streams_max: 4096,
        streams_per_caller_max: 4096,
        buckets_max: 1000,
        line_bytes_max: 4 << 20,
        children_max: 512,
        child_pending_max: 512,
        child_queue_max: 64,
        stderr_bytes_max: 64 << 10,
        idle_connections_max: 64,
        answer_bytes_max: 4 << 20,
        tool_labels_max: 100,
    }
}

/// A server that runs `fake.py` in one of its modes.
fn fake(id: &str, mode: &str) -> Server {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bridge/tests/fake.py");
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"].map(PathBuf::from);
    let program = python.into_iter().find(|path| path.exists()).expect("python3");
    Server {
        id: ServerId::new(id).unwrap(),
        display_name: id.to_owned(),
        description: None,
        enabled: true,
        tags: Vec::new(),
        metadata: serde_json::Map::new(),
        runtime: Runtime::Local(Local {
            command: "python3".to_owned(),
            program,
            args: vec!["-u".to_owned(), script.to_owned(), mode.to_owned()],
            env: BTreeMap::from([("FAKE".to_owned(), "yes".to_owned())]),
            working_dir: PathBuf::from("/tmp"),
            instances: NonZeroU16::MIN,
            children: Children::default(),
            idle_timeout: None,
            sandbox: None,
        }),
        required: false,
        balance: crate::catalog::Balance::RoundRobin,
        breaker: None,
        retry: crate::catalog::Retry { max: 0, budget: 0, pause: Duration::from_millis(1) },
        tools: Default::default(),
        timeouts: Timeouts {
            initialize: Duration::from_secs(30),
            connect: PATIENCE,
            response: PATIENCE,
            idle: PATIENCE,
            total: PATIENCE,
            start: PATIENCE,
        },
        throttle: Throttle::default(),
    }
}

fn local(server: &mut Server) -> &mut Local {
    match &mut server.runtime {
        Runtime::Local(local) => local,
        Runtime::Remote(_) => unreachable!("fakes are local"),
    }
}

#[derive(Default)]
struct Counts {
    started: AtomicUsize,
    clean: AtomicUsize,
    unclean: AtomicUsize,
    restarted: AtomicUsize,
    rubbish: AtomicUsize,
    living: AtomicUsize,
    refused: AtomicUsize,
}

impl Observer for Counts {
    fn started(&self, _: &ServerId) {
        self.started.fetch_add(1, Ordering::SeqCst);
    }
    fn exited(&self, _: &ServerId, clean: bool) {
        let count = if clean { &self.clean } else { &self.unclean };
        count.fetch_add(1, Ordering::SeqCst);
    }
    fn restarted(&self, _: &ServerId) {
        self.restarted.fetch_add(1, Ordering::SeqCst);
    }
    fn living(&self, _: &ServerId, count: usize) {
        self.living.store(count, Ordering::SeqCst);
    }
    fn refused(&self, _: &ServerId, bound: &'static str) {
        assert!(["max_per_caller", "max_processes", "limits.children"].contains(&bound));
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
    fn rubbish(&self, _: &ServerId) {
        self.rubbish.fetch_add(1, Ordering::SeqCst);
    }
}

/// A bridge that serves, and ends with its test.
struct Rig {
    dir: tempfile::TempDir,
    bridge: Arc<Bridge>,
    counts: Arc<Counts>,
    down: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Said {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The text of a tool's result.
    fn text(&self) -> String {
        let json = self.json();
        json["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("no result: {json}"))
            .to_owned()
    }

    fn session(&self) -> String {
        self.headers["mcp-session-id"].to_str().unwrap().to_owned()
    }

    /// The data of each event.
    fn events(&self) -> Vec<Value> {
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let mut events = Vec::new();
        crate::mcp::Decoder::new(1 << 20).feed(&self.body, |data| {
            events.push(serde_json::from_slice(data.unwrap()).unwrap());
        });
        events
    }
}

impl Rig {
    async fn new(servers: Vec<Server>) -> Self {
        Self::with(limits(), servers).await
    }

    async fn with(limits: Limits, servers: Vec<Server>) -> Self {
        Self::at(tempfile::tempdir().unwrap(), limits, servers).await
    }

    async fn at(dir: tempfile::TempDir, limits: Limits, servers: Vec<Server>) -> Self {
        let counts = Arc::new(Counts::default());
        let bridge = Bridge::new(dir.path(), limits, Arc::clone(&counts) as Arc<dyn Observer>).unwrap();
        let (down, watch) = watch::channel(false);
        let serving = tokio::spawn({
            let bridge = Arc::clone(&bridge);
            async move { bridge.serve(watch).await }
        });
        let rig = Self { dir, bridge, counts, down, serving };
        rig.catalog(servers);
        rig.until("the socket", || rig.bridge.socket().exists()).await;
        rig
    }

    fn catalog(&self, servers: Vec<Server>) {
        self.bridge.reconcile(&Snapshot::new(
            1,
            servers.into_iter().map(Arc::new).collect(),
            Rules::default(),
        ));
    }

    /// Shuts down, and checks that nothing is left.
    async fn end(self) -> tempfile::TempDir {
        let pids: Vec<u32> = self
            .bridge
            .entries
            .read()
            .keys()
            .filter_map(|id| self.bridge.status(id.as_str()))
            .flat_map(|s| s.pids)
            .collect();
        self.down.send_replace(true);
        timeout(PATIENCE, self.serving).await.expect("shutdown takes too long").unwrap();
        for pid in pids {
            assert!(!alive(pid), "child {pid} is left");
        }
        self.dir
    }

    async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "waited too long for {what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Opens a request; the answer's body is still to be read.
    async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> http::Response<Incoming> {
        let stream = UnixStream::connect(self.bridge.socket()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        // Ends with the connection.
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        timeout(PATIENCE, sender.send_request(request)).await.expect("no answer").unwrap()
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Said {
        let (head, body) = self.open(method, path, headers, body).await.into_parts();
        let body = timeout(PATIENCE, body.collect()).await.expect("no end of the answer").unwrap().to_bytes();
        Said { status: head.status, headers: head.headers, body }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Said {
        self.send(Method::POST, path, headers, body.to_string()).await
    }

    async fn tool(&self, path: &str, name: &str, arguments: Value) -> Said {
        self.post(path, &[], tool(1, name, arguments)).await
    }
}

/// A `tools/call`.
fn tool(id: u64, name: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name, "arguments": arguments}})
}

/// A request of the modern era.
fn modern(id: u64, method: &str, mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn initialize(version: &str) -> Value {
    let params =
        json!({"protocolVersion": version, "capabilities": {"sampling": {}}, "clientInfo": {"name": "t"}});
    json!({"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": params})
}

/// Whether a process exists and is no zombie.
fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

async fn next_event(body: &mut Incoming) -> Option<String> {
    loop {
        let frame = timeout(PATIENCE, body.frame()).await.expect("no event")?.unwrap();
        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        if !text.starts_with(':') {
            return Some(text);
        }
    }
}

fn assert_send<T: Future + Send>(future: T) -> T {
    future
}
