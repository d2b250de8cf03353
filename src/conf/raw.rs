//! The form of `tollgate.yaml`, as serde and editors see it.
//! Not here: what is accepted (`check`), other places of values (`layer`).
//!
//! Every field's comment is its documentation, and every default stands here with its reason.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::{At, Period, Size};

/// Settings of the gateway itself. What is behind it stands in the catalog.
///
/// A value is taken from the first of: a flag, an environment variable, this file, the default. The variable of
/// `listen` is `TOLLGATE_LISTEN`, that of `log.level` is `TOLLGATE_LOG__LEVEL`, and so on. A secret can also be
/// read from a file named by a variable that ends in `_FILE`. `${NAME}` and `${NAME:-default}` are replaced by
/// environment variables in every value.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Tollgate configuration", extend("patternProperties" = {"^x-": true}))]
pub(super) struct RawConf {
    /// Where the gateway listens. Port 4444 is what clients of an Open MCP Gateway expect, and loopback is safe
    /// without credentials: as long as `auth` is empty, any other address is replaced by loopback.
    #[schemars(extend("default" = "127.0.0.1:4444"))]
    pub(super) listen: Option<At<String>>,
    /// The catalog to serve; relative to this file. Default: the first of `./catalog.yaml`,
    /// `$XDG_CONFIG_HOME/tollgate/catalog.yaml` and `/etc/tollgate/catalog.yaml` that exists, else the built-in
    /// samples.
    #[schemars(extend("x-example" = "catalog.yaml"))]
    pub(super) catalog: Option<At<String>>,
    /// Where the session key, the sockets of local servers and the table of their processes live; relative to
    /// this file. Default: `$XDG_STATE_HOME/tollgate`, for root `/var/lib/tollgate` if it can be used, else
    /// `~/.local/state/tollgate`.
    #[schemars(extend("x-example" = "/var/lib/tollgate"))]
    pub(super) state_dir: Option<At<String>>,
    /// Values of the `Host` header to accept besides the address listened on and loopback names. Others are
    /// refused, because a web page could rebind its name to the gateway.
    #[schemars(extend("x-example" = ["mcp.example.com"]))]
    pub(super) hosts: Option<Vec<At<String>>>,
    /// Values of the `Origin` header to accept besides loopback ones; exact, such as `https://app.example.com`.
    #[schemars(extend("x-example" = ["https://app.example.com"]))]
    pub(super) origins: Option<Vec<At<String>>>,
    /// Worker threads. Default: the number of processor cores that the gateway may use.
    #[schemars(extend("x-example" = 4))]
    pub(super) threads: Option<At<usize>>,
    /// How long calls in flight may take to finish after SIGTERM. Kubernetes kills after 30s; this leaves time to
    /// stop local servers.
    #[schemars(extend("default" = "25s"))]
    pub(super) drain: Option<At<Period>>,
    /// Who may call. Without any credential everybody on this machine may, and nobody else.
    pub(super) auth: Option<RawAuth>,
    /// The token bucket of every caller that has none of its own. Default: no limit.
    #[schemars(extend("x-example" = {"requests": 600, "per": "1m", "burst": 100}))]
    pub(super) limit: Option<At<RawRate>>,
    /// Sessions of clients that use protocol revisions before 2026-07-28.
    pub(super) session: Option<RawSession>,
    /// The log, on stderr.
    pub(super) log: Option<RawLog>,
    /// Bounds. Whatever can grow has one; these are for machines with other proportions.
    pub(super) limits: Option<RawLimits>,
}

/// Who may call.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAuth {
    /// API keys, sent as `Authorization: Bearer …` or `X-API-Key: …`.
    #[schemars(extend("x-example" = [{"name": "alice", "key": "${ALICE_KEY}", "servers": ["*"]}]))]
    pub(super) keys: Option<Vec<At<RawKey>>>,
    /// JSON Web Tokens signed with a shared secret (HS256).
    #[schemars(extend("x-example" = {"secret": "${JWT_SECRET}", "issuer": "https://login.example.com", "servers": ["*"]}))]
    pub(super) jwt: Option<At<RawJwt>>,
}

/// An API key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "key", "servers"]))]
pub(super) struct RawKey {
    /// Who holds it, in logs. Unique.
    pub(super) name: Option<At<String>>,
    /// The key: at least 16 bytes without spaces. `openssl rand -hex 32` makes a good one.
    #[schemars(extend("writeOnly" = true))]
    pub(super) key: Option<At<String>>,
    /// Servers it may use: ids, or `*` for all.
    pub(super) servers: Option<At<Vec<At<String>>>>,
    /// Its own token bucket.
    pub(super) limit: Option<At<RawRate>>,
}

/// Tokens signed with a shared secret.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["secret", "servers"]))]
pub(super) struct RawJwt {
    /// The shared secret: at least 32 bytes, as HS256 demands.
    #[schemars(extend("writeOnly" = true))]
    pub(super) secret: Option<At<String>>,
    /// The `iss` that a token must carry. Default: any.
    pub(super) issuer: Option<String>,
    /// The `aud` that a token must carry. Default: any.
    pub(super) audience: Option<String>,
    /// Servers a token may use if it has no claim `servers` of its own: ids, or `*` for all.
    pub(super) servers: Option<At<Vec<At<String>>>>,
}

/// A token bucket.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["requests", "per"]))]
pub(super) struct RawRate {
    /// Calls that are allowed in each period.
    #[schemars(range(min = 1))]
    pub(super) requests: Option<At<u32>>,
    /// The period.
    pub(super) per: Option<At<Period>>,
    /// Calls that may come at once. Default: `requests`.
    #[schemars(range(min = 1))]
    pub(super) burst: Option<At<u32>>,
}

/// Sessions.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSession {
    /// 32 bytes, as base64 or hex, that seal session ids; the same on every replica. Variable:
    /// `TOLLGATE_SESSION_KEY`. Default: a key file made in `state_dir`.
    #[schemars(extend("x-example" = "${SESSION_KEY}", "writeOnly" = true))]
    pub(super) key: Option<At<String>>,
    /// Age at which a session ends. A day covers a working day; the client then begins a new one by itself.
    #[schemars(extend("default" = "24h"))]
    pub(super) ttl: Option<At<Period>>,
}

/// The log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLog {
    /// `text` for people, `json` for machines, `auto` for text on a terminal and JSON elsewhere. Variable:
    /// `TOLLGATE_LOG_FORMAT`.
    #[schemars(extend("default" = "auto"))]
    pub(super) format: Option<RawLogFormat>,
    /// `error`, `warn`, `info`, `debug`, `trace`, `off`, or a filter such as `info,tollgate::bridge=debug`.
    /// Variable: `TOLLGATE_LOG_LEVEL`.
    #[schemars(extend("default" = "info"))]
    pub(super) level: Option<At<String>>,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawLogFormat {
    #[default]
    Auto,
    Text,
    Json,
}

/// Bounds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimits {
    /// A request body. Tool arguments with an image or a document inside fit; a body is held in memory.
    #[schemars(extend("default" = "4MiB"))]
    pub(super) body: Option<At<Size>>,
    /// All request headers together. Tokens with many claims fit, header floods do not.
    #[schemars(extend("default" = "32KiB"))]
    pub(super) headers: Option<At<Size>>,
    /// Number of request headers. Browsers behind several proxies send about forty.
    #[schemars(extend("default" = 100))]
    pub(super) header_count: Option<At<usize>>,
    /// Path and query of a request; MCP needs a hundred bytes.
    #[schemars(extend("default" = "8KiB"))]
    pub(super) uri: Option<At<Size>>,
    /// Nesting of JSON in a request. Deeper than any sane arguments, and safe for every parser behind us.
    #[schemars(extend("default" = 64))]
    pub(super) json_depth: Option<At<usize>>,
    /// Time a client may take to send its body; slower ones hold a connection for nothing.
    #[schemars(extend("default" = "30s"))]
    pub(super) body_timeout: Option<At<Period>>,
    /// Time a client may leave a connection idle between requests. Longer than the minute that load balancers in
    /// front usually keep theirs, so that these never send into a connection being closed.
    #[schemars(extend("default" = "75s"))]
    pub(super) keepalive: Option<At<Period>>,
    /// Time a write to a client may block; a reader that slow is gone.
    #[schemars(extend("default" = "30s"))]
    pub(super) write_timeout: Option<At<Period>>,
    /// Calls in flight in the whole process; more are answered with 503 at once. At some tens of KiB each this
    /// stays below a GiB.
    #[schemars(extend("default" = 10000))]
    pub(super) in_flight: Option<At<usize>>,
    /// Callers whose token bucket is remembered; about 100 bytes each.
    #[schemars(extend("default" = 1000000))]
    pub(super) buckets: Option<At<usize>>,
    /// One line of a local server's stdout, which is one message; as much as a request body.
    #[schemars(extend("default" = "4MiB"))]
    pub(super) line: Option<At<Size>>,
    /// Calls in flight on one local process. Most of them work on one call at a time.
    #[schemars(extend("default" = 256))]
    pub(super) child_pending: Option<At<usize>>,
    /// Messages of a local process that wait for one slow reader.
    #[schemars(extend("default" = 256))]
    pub(super) child_queue: Option<At<usize>>,
    /// What is kept of a local server's stderr: the last thousand lines or so, for error messages.
    #[schemars(extend("default" = "256KiB"))]
    pub(super) stderr: Option<At<Size>>,
    /// Idle connections kept to each endpoint of a remote server. As many as clients call at once on a busy day; each
    /// costs a file descriptor, and opening one costs a handshake.
    #[schemars(extend("default" = 512))]
    pub(super) idle_connections: Option<At<usize>>,
    /// An answer of a server that has to be read whole, such as a list of tools. Other answers are streamed and have
    /// no bound.
    #[schemars(extend("default" = "16MiB"))]
    pub(super) answer: Option<At<Size>>,
    /// Names of tools that metrics tell apart for each server; the rest is `_other`. Keeps `/metrics` small.
    #[schemars(extend("default" = 200))]
    pub(super) tool_labels: Option<At<usize>>,
}
