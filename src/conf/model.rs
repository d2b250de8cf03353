//! The checked configuration: real types, nothing of serde, no `Option` that means "default".
//! Not here: the file's form and the defaults (`raw`), or how one becomes the other (`check`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The checked configuration. Every field has a value; nothing in it means "default".
#[derive(Debug, Clone)]
pub struct Conf {
    /// Where the proxy listens. Without any credential a non-loopback address is replaced by loopback.
    pub listen: SocketAddr,
    /// The catalog to serve; `None` serves the built-in samples.
    pub catalog: Option<PathBuf>,
    /// Where the session key, the bridge's sockets and the child table live.
    pub state_dir: PathBuf,
    /// `Host` values accepted besides the listener's own address and loopback names.
    pub hosts: Vec<String>,
    /// `Origin` values accepted besides loopback ones.
    pub origins: Vec<String>,
    /// Worker threads of the proxy.
    pub threads: usize,
    /// How long calls in flight may take to finish after SIGTERM.
    pub drain: Duration,
    /// Who may call.
    pub auth: Auth,
    /// The token bucket of every caller that has none of its own; `None` means no limit.
    pub limit: Option<Rate>,
    /// Sessions of legacy clients.
    pub session: SessionConf,
    /// Log form and level.
    pub log: LogConf,
    /// Every bound of the gateway, each with its reason.
    pub limits: Limits,
}

impl Conf {
    /// The address to listen on instead of [`Conf::listen`], when nobody could authenticate and that one can be
    /// reached from other machines.
    pub fn loopback_instead(&self) -> Option<SocketAddr> {
        let is_open = !self.auth.is_configured() && !self.listen.ip().is_loopback();
        let loopback = match self.listen.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        is_open.then(|| SocketAddr::new(loopback, self.listen.port()))
    }
}

/// Who may call: static keys and JSON Web Tokens.
#[derive(Debug, Clone, Default)]
pub struct Auth {
    /// Static API keys.
    pub keys: Vec<ApiKey>,
    /// HS256 tokens.
    pub jwt: Option<Jwt>,
}

impl Auth {
    /// Whether anybody could authenticate at all.
    pub fn is_configured(&self) -> bool {
        !self.keys.is_empty() || self.jwt.is_some()
    }
}

/// A static API key.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Who the holder is, in logs and buckets.
    pub name: String,
    /// The key itself.
    pub key: Secret,
    /// Servers the holder may use: ids, or `*` for all. An empty list allows none.
    pub servers: Vec<String>,
    /// The holder's own bucket, instead of `Conf::limit`.
    pub limit: Option<Rate>,
}

/// HS256 tokens signed with a shared secret.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// The shared secret, at least 32 bytes.
    pub secret: Secret,
    /// `iss` that must be present, when set.
    pub issuer: Option<String>,
    /// `aud` that must be present, when set.
    pub audience: Option<String>,
    /// Servers a token may use when it carries no `servers` claim; `*` for all.
    pub servers: Vec<String>,
}

/// A token bucket: `requests` per `per`, with `burst` saved up at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that flow in during `per`.
    pub requests: u32,
    /// The period.
    pub per: Duration,
    /// The bucket's size.
    pub burst: u32,
}

/// Sessions of legacy clients.
#[derive(Debug, Clone)]
pub struct SessionConf {
    /// 32 bytes in base64 or hex that seal session ids (see [`Self::key_bytes`]); `None` means the key file in the state directory.
    pub key: Option<Secret>,
    /// Age at which a session ends.
    pub ttl: Duration,
}

impl SessionConf {
    /// The configured key as bytes. `check` saw to it that it is one.
    pub fn key_bytes(&self) -> Option<[u8; 32]> {
        super::check::session_key(self.key.as_ref()?.expose())
    }
}

/// Log form and level.
#[derive(Debug, Clone)]
pub struct LogConf {
    /// Human text or JSON lines.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `tollgate=debug`.
    pub level: String,
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

/// Every bound of the gateway. Defaults and reasons stand with the raw form in `conf/raw.rs`.
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
    /// Time a client may leave a connection idle between requests.
    pub keepalive: Duration,
    /// Time a write to a client may block.
    pub write_timeout: Duration,
    /// Calls in flight in the whole process.
    pub in_flight_max: usize,
    /// Callers a limiter remembers at once.
    pub buckets_max: usize,
    /// One line of a child's stdout, in bytes.
    pub line_bytes_max: usize,
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
