//! The checked configuration: real types, nothing of serde, no `Option` that means "default".
//! Not here: the file's form and the defaults (`raw`), or how one becomes the other (`check`).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Access, Bounds, Listener};

/// The checked configuration. Every field has a value; nothing in it means "default".
#[derive(Debug, Clone)]
pub struct Conf {
    /// Where the proxy listens; at least one. Without any credential a non-loopback address is replaced by loopback.
    pub listeners: Vec<Listener>,
    /// The catalog to serve; `None` serves the built-in samples.
    pub catalog: Option<PathBuf>,
    /// Where the session key, the bridge's sockets and the child table live.
    pub state_dir: PathBuf,
    /// The socket of the bridge that runs local servers; `None` runs them here.
    pub bridge: Option<PathBuf>,
    /// Worker threads of the proxy.
    pub threads: usize,
    /// How long calls in flight may take to finish after SIGTERM.
    pub drain: Duration,
    /// How long it goes on accepting after SIGTERM, before `drain` begins.
    pub drain_delay: Duration,
    /// Who may come in and how often. A running gateway takes over a changed one.
    pub access: Access,
    /// Sessions of legacy clients.
    pub session: SessionConf,
    /// Log form and level.
    pub log: LogConf,
    /// Every bound of the gateway, each with its reason.
    pub limits: Limits,
    /// What one caller or server may have of it at once.
    pub bounds: Bounds,
}

impl Conf {
    /// The address to listen on instead of the listener's own, when nobody could authenticate and that one can be
    /// reached from other machines.
    pub fn loopback_instead(&self, listener: &Listener) -> Option<SocketAddr> {
        listener.loopback().filter(|_| !self.access.auth.is_configured())
    }
}

/// Sessions of legacy clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConf {
    /// 32 bytes in base64 or hex that seal session ids; `None` means the key file in the state directory.
    pub key: Option<Secret>,
    /// Age at which a session ends.
    pub ttl: Duration,
    /// Whether streams of servers that offer no resumption can be resumed.
    pub resume: Resume,
}

/// Where streams are kept to be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Nowhere.
    Off,
    /// In this process.
    Memory,
}

/// Log form and level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConf {
    /// Human text or JSON lines.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `tollgate=debug`.
    pub level: String,
    /// Where the audit lines go.
    pub audit: AuditSink,
}

/// Where the audit lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Among the lines of the access log, told apart by `"type":"audit"`.
    Stdout,
    /// Appended to a file of their own.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// Every bound of the gateway. Defaults and reasons stand with the raw form in `conf/raw/limit.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A request body, in bytes.
    pub body_bytes_max: usize,
    /// All request headers together, in bytes.
    pub header_bytes_max: usize,
    /// Number of request headers.
    pub header_count_max: usize,
    /// Path and query, in bytes.
    pub uri_bytes_max: usize,
    /// Depth of JSON nesting in a request.
    pub json_depth_max: usize,
    /// Time a client may take to send its body.
    pub body_timeout: Duration,
    /// Bytes of a body in each second, below which it is cut; counted from its sixth second on.
    pub body_bytes_per_second_min: usize,
    /// Time a client may take for the TLS handshake and the head of a request.
    pub header_timeout: Duration,
    /// Connections of clients, in all.
    pub connections_max: usize,
    /// Connections of one client address (IPv6: /64).
    pub connections_per_address_max: usize,
    /// Requests on one connection before it is closed.
    pub requests_per_connection_max: u32,
    /// Streams at once on one HTTP/2 connection.
    pub h2_streams_max: u32,
    /// Time a client may leave a connection idle between requests.
    pub keepalive: Duration,
    /// Time a write to a client may block.
    pub write_timeout: Duration,
    /// How often a comment is written into an event stream that says nothing.
    pub comment_every: Duration,
    /// Calls in flight in the whole process.
    pub in_flight_max: usize,
    /// Streams that clients hold open to listen, in the whole process.
    pub streams_max: usize,
    /// The same of one caller.
    pub streams_per_caller_max: u32,
    /// Callers a limiter remembers at once.
    pub buckets_max: usize,
    /// One line of a child's stdout, in bytes.
    pub line_bytes_max: usize,
    /// Processes of all local servers together.
    pub children_max: usize,
    /// Calls in flight on one child.
    pub child_pending_max: usize,
    /// Messages that wait for one slow reader of a child's output.
    pub child_queue_max: usize,
    /// Bytes of stderr kept for each child.
    pub stderr_bytes_max: usize,
    /// Upstream connections kept idle for each endpoint.
    pub idle_connections_max: usize,
    /// An upstream answer that has to be read whole (not streamed), in bytes.
    pub answer_bytes_max: usize,
    /// Verified tokens that are remembered, so that a signature is checked once.
    pub tokens_max: usize,
    /// Distinct tool names used as a metric label for each server; the rest is `_other`.
    pub tool_labels_max: usize,
}

/// A value that must never be seen: no `Debug`, no `Display`, no `Serialize` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
