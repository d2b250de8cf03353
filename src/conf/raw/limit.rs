//! The form of limits: of callers, and the bounds of the gateway itself.
//! Not here: what is accepted (`check/limit.rs`).

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::{At, Period, Size};

/// How often, and how many at once.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend(
    "minProperties" = 1,
    "dependencies" = {"requests": ["per"], "per": ["requests"], "burst": ["requests", "per"]}
))]
pub(in crate::conf) struct RawLimit {
    /// Calls that are allowed in each period.
    #[schemars(range(min = 1))]
    pub(in crate::conf) requests: Option<At<u32>>,
    /// The period.
    pub(in crate::conf) per: Option<At<Period>>,
    /// Calls that may come at once. Default: `requests`.
    #[schemars(range(min = 1))]
    pub(in crate::conf) burst: Option<At<u32>>,
    /// Calls that may be under way at once. Default: no limit but that of the process.
    #[schemars(range(min = 1))]
    pub(in crate::conf) in_flight: Option<At<u32>>,
}

/// A token bucket.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["requests", "per"]))]
pub(in crate::conf) struct RawRate {
    /// Requests that are allowed in each period.
    #[schemars(range(min = 1))]
    pub(in crate::conf) requests: Option<At<u32>>,
    /// The period.
    pub(in crate::conf) per: Option<At<Period>>,
    /// Requests that may come at once. Default: `requests`.
    #[schemars(range(min = 1))]
    pub(in crate::conf) burst: Option<At<u32>>,
}

/// Bounds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::conf) struct RawLimits {
    /// A request body. Tool arguments with an image or a document inside fit; a body is held in memory.
    #[schemars(extend("default" = "4MiB"))]
    pub(in crate::conf) body: Option<At<Size>>,
    /// All request headers together. Tokens with many claims fit, header floods do not.
    #[schemars(extend("default" = "32KiB"))]
    pub(in crate::conf) headers: Option<At<Size>>,
    /// Number of request headers. Browsers behind several proxies send about forty.
    #[schemars(extend("default" = 100))]
    pub(in crate::conf) header_count: Option<At<usize>>,
    /// Path and query of a request; MCP needs a hundred bytes.
    #[schemars(extend("default" = "8KiB"))]
    pub(in crate::conf) uri: Option<At<Size>>,
    /// Nesting of JSON in a request. Deeper than any sane arguments, and safe for every parser behind us.
    #[schemars(extend("default" = 64))]
    pub(in crate::conf) json_depth: Option<At<usize>>,
    /// Time a client may take to send its body; slower ones hold a connection for nothing.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::conf) body_timeout: Option<At<Period>>,
    /// Bytes of a body in each second, below which it is cut; counted from its sixth second on. A telephone at the edge
    /// of its net is faster, a client that holds connections on purpose is slower.
    #[schemars(extend("default" = 256))]
    pub(in crate::conf) body_rate: Option<At<Size>>,
    /// Time a client may take for the TLS handshake and the head of a request, in all. A handshake over a slow line
    /// takes two seconds.
    #[schemars(extend("default" = "10s"))]
    pub(in crate::conf) header_timeout: Option<At<Period>>,
    /// Connections of clients, in all. An idle one costs about 10 KiB and a file descriptor.
    #[schemars(extend("default" = 50000))]
    pub(in crate::conf) connections: Option<At<usize>>,
    /// Connections of one client address; an IPv6 address counts with its /64. A proxy in front with ten thousand
    /// streams fits, and a single address cannot take all.
    #[schemars(extend("default" = 10000))]
    pub(in crate::conf) connections_per_address: Option<At<usize>>,
    /// Requests on one connection before it is closed, so that load balancers spread clients anew now and then.
    #[schemars(extend("default" = 100000), range(min = 1))]
    pub(in crate::conf) requests_per_connection: Option<At<u32>>,
    /// Streams at once on one HTTP/2 connection: what RFC 9113 section 6.5.2 recommends as the least.
    #[schemars(extend("default" = 100), range(min = 1))]
    pub(in crate::conf) h2_streams: Option<At<u32>>,
    /// Time a client may leave a connection idle between requests. Longer than the minute that load balancers in
    /// front usually keep theirs, so that these never send into a connection being closed.
    #[schemars(extend("default" = "75s"))]
    pub(in crate::conf) keepalive: Option<At<Period>>,
    /// Time a write to a client may block; a reader that slow is gone.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::conf) write_timeout: Option<At<Period>>,
    /// How often a comment is written into an event stream that says nothing, so that nobody on the way, nor the client,
    /// takes it for dead: proxies in front give up after 60 s or sooner, and a client that left unseen is noticed.
    #[schemars(extend("default" = "20s"))]
    pub(in crate::conf) comment_every: Option<At<Period>>,
    /// Calls in flight in the whole process; more are answered with 503 at once. At some tens of KiB each this
    /// stays below a GiB.
    #[schemars(extend("default" = 10000))]
    pub(in crate::conf) in_flight: Option<At<usize>>,
    /// Streams that clients hold open to listen, in the whole process: they take no call's place. At some 45 KiB each
    /// this stays below a GiB.
    #[schemars(extend("default" = 20000))]
    pub(in crate::conf) streams: Option<At<usize>>,
    /// The same of one caller: so that one key, shared by many clients, still leaves room for others.
    #[schemars(extend("default" = 6000))]
    pub(in crate::conf) streams_per_caller: Option<At<u32>>,
    /// Calls in flight of one caller, whatever limit of its own it has: a client in a loop leaves half for others.
    #[schemars(extend("default" = 5000))]
    pub(in crate::conf) in_flight_per_caller: Option<At<u32>>,
    /// Calls in flight to one server: one that hangs leaves half for the others.
    #[schemars(extend("default" = 5000))]
    pub(in crate::conf) in_flight_per_server: Option<At<u32>>,
    /// Streams held open to listen to one server. Most of them on a busy day are at the same one.
    #[schemars(extend("default" = 15000))]
    pub(in crate::conf) streams_per_server: Option<At<u32>>,
    /// Sessions of the legacy era that were used in the last five minutes; more are not begun. At some hundred bytes
    /// each this stays below 100 MiB. Those that were idle for longer cost nothing and are not counted.
    #[schemars(extend("default" = 100000))]
    pub(in crate::conf) sessions: Option<At<usize>>,
    /// The same of one caller.
    #[schemars(extend("default" = 75000))]
    pub(in crate::conf) sessions_per_caller: Option<At<usize>>,
    /// The same with one server.
    #[schemars(extend("default" = 75000))]
    pub(in crate::conf) sessions_per_server: Option<At<usize>>,
    /// Bodies of requests that are held in memory at once; those below 16 KiB do not count.
    #[schemars(extend("default" = "512MiB"))]
    pub(in crate::conf) request_bytes: Option<At<Size>>,
    /// The same of one caller.
    #[schemars(extend("default" = "256MiB"))]
    pub(in crate::conf) request_bytes_per_caller: Option<At<Size>>,
    /// The same to one server.
    #[schemars(extend("default" = "256MiB"))]
    pub(in crate::conf) request_bytes_per_server: Option<At<Size>>,
    /// Resident memory that the gateway itself may have: at 95 % of it new calls are refused, at 98 % no connections are
    /// taken, so that it sheds load before the machine swaps or kills it. Children do not count. Default: no bound.
    #[schemars(extend("x-example" = "1GiB"))]
    pub(in crate::conf) memory: Option<At<Size>>,
    /// Callers whose token bucket is remembered; about 100 bytes each.
    #[schemars(extend("default" = 1000000))]
    pub(in crate::conf) buckets: Option<At<usize>>,
    /// One line of a local server's stdout, which is one message; as much as a request body.
    #[schemars(extend("default" = "4MiB"))]
    pub(in crate::conf) line: Option<At<Size>>,
    /// Processes of all local servers together, until the last of each has ended. An interpreter takes some 40 MB.
    #[schemars(extend("default" = 512))]
    pub(in crate::conf) children: Option<At<usize>>,
    /// Calls in flight on one local process. Most of them work on one call at a time.
    #[schemars(extend("default" = 256))]
    pub(in crate::conf) child_pending: Option<At<usize>>,
    /// Messages of a local process that wait for one slow reader.
    #[schemars(extend("default" = 256))]
    pub(in crate::conf) child_queue: Option<At<usize>>,
    /// What is kept of a local server's stderr: the last thousand lines or so, for error messages.
    #[schemars(extend("default" = "256KiB"))]
    pub(in crate::conf) stderr: Option<At<Size>>,
    /// Idle connections kept to each endpoint of a remote server. As many as clients call at once on a busy day; each
    /// costs a file descriptor, and opening one costs a handshake.
    #[schemars(extend("default" = 512))]
    pub(in crate::conf) idle_connections: Option<At<usize>>,
    /// An answer of a server that has to be read whole, such as a list of tools. Other answers are streamed and have
    /// no bound.
    #[schemars(extend("default" = "16MiB"))]
    pub(in crate::conf) answer: Option<At<Size>>,
    /// Verified tokens that are remembered until they expire, so that a signature is checked once; about 500 bytes each.
    #[schemars(extend("default" = 100000))]
    pub(in crate::conf) tokens: Option<At<usize>>,
    /// Names of tools that metrics tell apart for each server; the rest is `_other`. Keeps `/metrics` small.
    #[schemars(extend("default" = 200))]
    pub(in crate::conf) tool_labels: Option<At<usize>>,
}
