//! The form of `tollgate.yaml`, as serde and editors see it.
//! Not here: what is accepted (`check`), other places of values (`layer`); its longer sections (`raw/`).
//!
//! Every field's comment is its documentation, and every default stands here with its reason.

mod auth;
mod limit;
mod listener;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use auth::{RawAlgorithm, RawAuth, RawCertificate, RawClaims, RawIssuer, RawJwt, RawKey};
pub(super) use limit::{RawLimit, RawLimits, RawRate};
pub(super) use listener::{RawClientCertificates, RawDoor, RawKind, RawListener, RawTls, RawTlsVersion};

use crate::document::{At, Entries, Period};

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
    /// What can be reached there: `mcp` (`/servers/{id}/mcp` and the metadata for OAuth), `open-mcp` (`POST /mcp` and
    /// `/rpc` of an Open MCP Gateway), `raw` (`/servers/{id}/raw/…`), `admin` (the native API), `metrics`, `health`.
    /// Default: all of them, as one address is all there is.
    #[schemars(extend("x-example" = ["mcp", "health"]))]
    pub(super) doors: Option<At<Vec<At<RawDoor>>>>,
    /// Kinds of callers that are let in: `anonymous`, `api_key`, `jwt`, `certificate`. Default: all of them; `auth` says
    /// who these are.
    #[schemars(extend("x-example" = ["api_key", "jwt"]))]
    pub(super) kinds: Option<At<Vec<At<RawKind>>>>,
    /// Addresses that may connect, as networks or single addresses. Default: any; an empty list means nobody.
    #[schemars(extend("x-example" = ["10.0.0.0/8", "192.0.2.7"]))]
    pub(super) networks: Option<At<Vec<At<String>>>>,
    /// Values of the `Host` header to accept besides the address listened on and loopback names. Others are
    /// refused, because a web page could rebind its name to the gateway. What pages of these names may do, `origins` says.
    #[schemars(extend("x-example" = ["mcp.example.com"]))]
    pub(super) hosts: Option<Vec<At<String>>>,
    /// Origins of web pages that may call: scheme, host and port, such as `https://app.example.com`. The origin of
    /// `public_url` is accepted besides, and loopback ones where the gateway listens on a loopback address.
    #[schemars(extend("x-example" = ["https://app.example.com"]))]
    pub(super) origins: Option<Vec<At<String>>>,
    /// Scheme and authority under which clients reach the gateway, without a path. Its host is accepted in `Host`, and
    /// OAuth clients are told of it: an issuer without an `audience` signs for the addresses below it. Default: none.
    #[schemars(extend("x-example" = "https://mcp.example.com"))]
    pub(super) public_url: Option<At<String>>,
    /// Proxies in front, as networks or single addresses: `X-Forwarded-For` from them tells the client's address. From
    /// all others it is ignored, because anybody can send it. Default: none.
    #[schemars(extend("x-example" = ["10.0.0.0/8"]))]
    pub(super) trusted_proxies: Option<Vec<At<String>>>,
    /// Whether every connection begins with a PROXY protocol header (version 1 or 2), as load balancers of layer 4 send
    /// it. Only `trusted_proxies` may connect then.
    #[schemars(extend("default" = false))]
    pub(super) proxy_protocol: Option<At<bool>>,
    /// TLS. The files are read again when they change. Default: plain text, as behind a proxy and on loopback.
    #[schemars(extend("x-example" = {"certificate": "cert.pem", "key": "key.pem"}))]
    pub(super) tls: Option<At<RawTls>>,
    /// Whether HTTP/2 without TLS is taken, by prior knowledge. Only some proxies speak it, so it is off.
    #[schemars(extend("default" = false))]
    pub(super) h2c: Option<At<bool>>,
    /// Several addresses instead of `listen`, each with its own doors and rules of admission. What one of them does not
    /// say is taken from the keys above.
    #[schemars(extend("x-example" = [
        {"name": "public", "listen": "[::]:443", "doors": ["mcp"], "tls": {"certificate": "cert.pem", "key": "key.pem"}},
        {"name": "inside", "listen": "127.0.0.1:4444"}
    ]))]
    pub(super) listeners: Option<At<Vec<At<RawListener>>>>,
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
    /// The socket of a `tollgate bridge`, which then runs the local servers: they outlive the gateway. Relative to this
    /// file. Default: none, the gateway runs them itself.
    #[schemars(extend("x-example" = "/run/tollgate/bridge.sock"))]
    pub(super) bridge: Option<At<String>>,
    /// Worker threads. Default: the number of processor cores that the gateway may use.
    #[schemars(extend("x-example" = 4))]
    pub(super) threads: Option<At<usize>>,
    /// How long calls in flight may take to finish after SIGTERM. Kubernetes kills after 30s; this leaves time to
    /// stop local servers.
    #[schemars(extend("default" = "25s"))]
    pub(super) drain: Option<At<Period>>,
    /// How long it goes on taking connections after SIGTERM while `/readyz` already fails, so that load balancers notice
    /// before anybody is turned away; `drain` begins after it. A load balancer that asks every 2s and believes the third
    /// failure needs `6s`; where nothing asks `/readyz`, it is only lost time.
    #[schemars(extend("default" = "0s"))]
    pub(super) drain_delay: Option<At<Period>>,
    /// Who may call. Without any credential everybody on this machine may, and nobody else.
    pub(super) auth: Option<RawAuth>,
    /// The limit of every caller that has none of its own, which replaces the whole of it. Default: no limit.
    #[schemars(extend("x-example" = {"requests": 600, "per": "1m", "burst": 100, "in_flight": 20}))]
    pub(super) limit: Option<At<RawLimit>>,
    /// Named limits, for `limit_class` of a credential and for a claim of tokens.
    #[schemars(extend("x-example" = {"gold": {"requests": 6000, "per": "1m"}}))]
    pub(super) limit_classes: Option<Entries<At<RawLimit>>>,
    /// The token bucket of every client address, looked at before authentication; an IPv6 address counts with its /64,
    /// which is what one customer gets. Default: none, because behind a proxy all clients have one address.
    #[schemars(extend("x-example" = {"requests": 3000, "per": "1m", "burst": 300}))]
    pub(super) address_limit: Option<At<RawRate>>,
    /// Requests of one address in a second beyond which nothing of them is looked at: a coarse guard against floods, far
    /// above what a client does. Default: none, for the reason of `address_limit`.
    #[schemars(extend("x-example" = 500), range(min = 1))]
    pub(super) flood: Option<At<u32>>,
    /// Sessions of clients that use protocol revisions before 2026-07-28.
    pub(super) session: Option<RawSession>,
    /// The log, on stderr, and the audit.
    pub(super) log: Option<RawLog>,
    /// Bounds. Whatever can grow has one; these are for machines with other proportions.
    pub(super) limits: Option<RawLimits>,
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
    /// Whether a client that lost its connection may take a stream up where it was, when the server does not offer that
    /// itself: `off`, or `memory`, where up to 256 events and 1 MiB of each stream are kept for 5 minutes after its end.
    /// Off, because every stream is then read event by event and copied, and kept going when its client has left.
    /// `store` will keep them where several gateways find them, and is refused until there is a store.
    #[schemars(extend("default" = "off"))]
    pub(super) resume: Option<At<RawResume>>,
}

/// Where streams are kept to be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawResume {
    #[default]
    Off,
    Memory,
    Store,
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
    /// Where a line for every refusal and every administrative act goes: `stdout` (among the access log, told apart by
    /// its type), `off`, or a file to append to, relative to this one. On stdout, so that nobody has to know of it to
    /// have it.
    #[schemars(extend("default" = "stdout"))]
    pub(super) audit: Option<At<String>>,
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
