//! The form of `catalog.yaml`, as serde and editors see it. Every field's comment is its documentation.
//! Not here: what is accepted in the end, and the defaults (`check`); rules and limits (`raw/`).

mod children;
mod credential;
mod endpoint;
mod rule;
mod sandbox;
mod throttle;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::{At, Entries, Period};
pub(super) use children::RawMode;
pub(super) use credential::{RawBasic, RawClientCredentials, RawCredential};
pub(super) use endpoint::{RawBalance, RawBreaker, RawHashBy, RawRetry, RawToolTimeouts};
pub(super) use rule::{RawActions, RawRule, RawWho};
pub(super) use sandbox::{RawMissing, RawSandbox};
pub(super) use throttle::{RawShared, RawTool};

/// The MCP servers behind the gateway. Editing this file is enough to change them: it is read again when it
/// changes, and a file with mistakes changes nothing. `${NAME}` and `${NAME:-default}` are replaced by the
/// gateway's environment variables in every value. Keys at the top that begin with `x-` are ignored.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Tollgate catalog", extend("patternProperties" = {"^x-": true}))]
pub(super) struct RawCatalog {
    /// The servers, as a list.
    pub(super) servers: Option<Vec<At<RawServer>>>,
    /// Servers in the form of MCP clients, by id. May stand beside `servers`.
    #[serde(rename = "mcpServers")]
    pub(super) mcp_servers: Option<Entries<At<RawClientServer>>>,
    /// Who may do what on which servers, tools, prompts and resources. Without any rule, the `servers` of a caller's
    /// credential decide alone.
    pub(super) rules: At<Option<Vec<At<RawRule>>>>,
}

/// An MCP server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["id", "runtime"]))]
pub(super) struct RawServer {
    /// Its id in URLs: 1 to 64 of `A-Z a-z 0-9 . _ ~ -`, beginning with a letter or digit. Unique in the file.
    pub(super) id: Option<At<String>>,
    /// Its name for people. Default: the id.
    pub(super) display_name: Option<String>,
    /// What it is for.
    pub(super) description: Option<String>,
    /// Whether it is offered. Default: true.
    pub(super) enabled: Option<bool>,
    /// Whether `/readyz` fails while it cannot be called. Default: false, no server is the gateway's own health.
    pub(super) required: Option<bool>,
    /// Words to filter by.
    pub(super) tags: Option<Vec<String>>,
    /// Your own data, passed through.
    pub(super) metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// How it is reached.
    pub(super) runtime: Option<At<RawRuntime>>,
    /// Environment variables of a local process. It gets these, `PATH` and `HOME`, and nothing else.
    pub(super) env: Option<At<Entries<At<String>>>>,
    /// Headers added to every request to a remote server, such as its credentials.
    pub(super) headers: Option<At<Entries<At<String>>>>,
    /// What the gateway shows of itself to a remote server, instead of a header `Authorization`.
    pub(super) auth: Option<At<RawCredential>>,
    /// Deadlines of its calls.
    pub(super) timeouts: Option<RawTimeouts>,
    /// How the health of a remote server's endpoints is checked.
    pub(super) health: Option<At<RawHealth>>,
    /// Who shares a process of a local server: everybody (`shared`), the sessions of one caller (`per_caller`), or
    /// nobody (`per_session`: each session has its own, which may ask its client back). Default: shared.
    pub(super) mode: Option<At<RawMode>>,
    /// How many processes share the calls of a local server with `mode: shared`. Default: 1.
    pub(super) instances: Option<At<u16>>,
    /// How many processes there may be of a local server that is not shared, warm ones included. Default: 64.
    pub(super) max_processes: Option<At<u32>>,
    /// How many processes one caller may have with `mode: per_session`. Default: 16.
    pub(super) max_per_caller: Option<At<u32>>,
    /// How many processes are kept started for sessions or callers to come, for servers that start slowly. Default: 0.
    pub(super) warm: Option<At<u32>>,
    /// A local process of this age takes no new calls and stops after its last one. Default: no such age.
    pub(super) max_age: Option<At<Period>>,
    /// A local process that says nothing for this long while calls wait for it is pinged, and killed if it says nothing
    /// for as long again. `0` never does. Default: 60s.
    pub(super) hang_timeout: Option<At<Period>>,
    /// A local process without calls for this long is stopped, and started again by the next call; with
    /// `mode: per_session` the session ends with it, unless a stream is open. `0` keeps it. Default: 300s.
    pub(super) idle_timeout: Option<At<Period>>,
    /// How an endpoint is chosen for a call without a session: `round_robin` by weight, `least_in_flight` of two drawn
    /// ones, `hash` for the same endpoint each time, or `random`. A session stays where it is. Default: round_robin.
    pub(super) balance: Option<At<RawBalance>>,
    /// What the hash is made of. Default: caller.
    pub(super) hash_by: Option<At<RawHashBy>>,
    /// When an endpoint of a remote server is left alone, and how it comes back.
    pub(super) breaker: Option<At<RawBreaker>>,
    /// What is tried again when an endpoint fails.
    pub(super) retry: Option<At<RawRetry>>,
    /// What a local process may use. Default: what the gateway's user may, without new privileges.
    pub(super) sandbox: Option<At<RawSandbox>>,
    /// How often it may be called, by all callers together or by each.
    pub(super) limit: Option<At<RawShared>>,
    /// What single tools cost, how often they may be called, and how their calls are treated, by exact name.
    pub(super) tools: Option<At<Entries<At<RawTool>>>>,
}

/// How a server is reached.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["type"]))]
pub(super) struct RawRuntime {
    /// `local-process` runs a command that speaks MCP on stdio; `remote-http` is Streamable HTTP; `remote-sse` is
    /// HTTP+SSE of 2024-11-05, or JSON-RPC over HTTP POST, whichever the server speaks; `raw-http` is an HTTP upstream that is forwarded unread under `/servers/{id}/raw/`.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["local-process", "remote-http", "remote-sse", "raw-http"]))]
    pub(super) kind: Option<At<String>>,
    /// The command of a local process: a name to be found in `PATH`, or a path (relative to this file).
    pub(super) command: Option<At<String>>,
    /// Its arguments. There is no shell: they are passed as they are.
    pub(super) args: Option<At<Vec<At<String>>>>,
    /// Its working directory, relative to this file. Default: the directory of this file.
    pub(super) working_dir: Option<At<String>>,
    /// Its environment; the same as `env` of the server.
    pub(super) env: Option<At<Entries<At<String>>>>,
    /// The address of a remote server: `http` or `https`.
    pub(super) url: Option<At<String>>,
    /// Several addresses that share its calls, instead of `url`.
    pub(super) endpoints: Option<At<Vec<At<RawEndpoint>>>>,
    /// Headers added to every request; the same as `headers` of the server.
    pub(super) headers: Option<At<Entries<At<String>>>>,
}

/// One address of a remote server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url"]))]
pub(super) struct RawEndpoint {
    /// The address: `http` or `https`.
    pub(super) url: Option<At<String>>,
    /// Its share of the calls, from 1 to 100. Default: 1.
    #[schemars(range(min = 1, max = 100))]
    pub(super) weight: Option<At<u16>>,
    /// Whether it takes no new sessions and no calls outside of one: sessions that it has stay. Default: false.
    pub(super) drain: Option<bool>,
}

/// Deadlines of a server's calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTimeouts {
    /// To connect to a remote server, TLS included. Default: 5s.
    pub(super) connect: Option<At<Period>>,
    /// For a remote server to answer `initialize`. Default: 30s.
    pub(super) initialize: Option<At<Period>>,
    /// Until the head of the answer. Default: 120s.
    pub(super) response: Option<At<Period>>,
    /// Between two pieces of an answer. Default: 120s.
    pub(super) idle: Option<At<Period>>,
    /// For a whole call. Default: 600s.
    pub(super) total: Option<At<Period>>,
    /// For a local process to answer its first message. Default: 30s.
    pub(super) start: Option<At<Period>>,
}

/// How the health of endpoints is checked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHealth {
    /// `tcp` connects, `http` gets `path` and wants a status below 500, `mcp` asks in MCP on a session that it keeps,
    /// `off` asks nothing. Default: tcp.
    #[serde(rename = "type")]
    pub(super) kind: Option<At<RawHealthKind>>,
    /// Path and query that `http` gets.
    pub(super) path: Option<At<String>>,
    /// The status that `http` wants, instead of any below 500.
    pub(super) status: Option<At<u16>>,
    /// A tool that `mcp` wants to be listed.
    pub(super) tool: Option<At<String>>,
    /// Time between two checks; with `off`, time until a failed endpoint is tried again. Default: 5s.
    pub(super) interval: Option<At<Period>>,
    /// How long an answer may take. Default: 2s.
    pub(super) timeout: Option<At<Period>>,
    /// Failures in a row before an endpoint leaves rotation. Default: 2.
    pub(super) unhealthy_after: Option<At<u16>>,
    /// Successes in a row before it returns. Default: 1.
    pub(super) healthy_after: Option<At<u16>>,
}

/// What a health check asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawHealthKind {
    Off,
    #[default]
    Tcp,
    Http,
    Mcp,
}

/// A server in the form of MCP clients, with the options of the other form.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawClientServer {
    /// Default: `stdio` if there is a command, `sse` if the path of the url ends in `/sse`, else `http`.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["stdio", "http", "streamable-http", "streamableHttp", "sse"]))]
    pub(super) kind: Option<At<String>>,
    /// The command of a local process.
    pub(super) command: Option<At<String>>,
    /// Its arguments. There is no shell: they are passed as they are.
    pub(super) args: Option<At<Vec<At<String>>>>,
    /// Environment variables of a local process.
    pub(super) env: Option<At<Entries<At<String>>>>,
    /// Its working directory, relative to this file. Default: the directory of this file.
    pub(super) cwd: Option<At<String>>,
    /// The address of a remote server.
    pub(super) url: Option<At<String>>,
    /// Several addresses that share its calls, instead of `url`.
    pub(super) endpoints: Option<At<Vec<At<RawEndpoint>>>>,
    /// Headers added to every request to a remote server.
    pub(super) headers: Option<At<Entries<At<String>>>>,
    /// What the gateway shows of itself to a remote server, instead of a header `Authorization`.
    pub(super) auth: Option<At<RawCredential>>,
    /// Its name for people. Default: the id.
    pub(super) display_name: Option<String>,
    /// What it is for.
    pub(super) description: Option<String>,
    /// Whether it is offered. Default: true.
    pub(super) enabled: Option<bool>,
    /// Whether `/readyz` fails while it cannot be called. Default: false, no server is the gateway's own health.
    pub(super) required: Option<bool>,
    /// The opposite of `enabled`, as some clients write it.
    pub(super) disabled: Option<At<bool>>,
    /// Words to filter by.
    pub(super) tags: Option<Vec<String>>,
    /// Your own data, passed through.
    pub(super) metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// Deadlines of its calls.
    pub(super) timeouts: Option<RawTimeouts>,
    /// How the health of a remote server's endpoints is checked.
    pub(super) health: Option<At<RawHealth>>,
    /// Who shares a process of a local server: everybody (`shared`), the sessions of one caller (`per_caller`), or
    /// nobody (`per_session`: each session has its own, which may ask its client back). Default: shared.
    pub(super) mode: Option<At<RawMode>>,
    /// How many processes share the calls of a local server with `mode: shared`. Default: 1.
    pub(super) instances: Option<At<u16>>,
    /// How many processes there may be of a local server that is not shared, warm ones included. Default: 64.
    pub(super) max_processes: Option<At<u32>>,
    /// How many processes one caller may have with `mode: per_session`. Default: 16.
    pub(super) max_per_caller: Option<At<u32>>,
    /// How many processes are kept started for sessions or callers to come, for servers that start slowly. Default: 0.
    pub(super) warm: Option<At<u32>>,
    /// A local process of this age takes no new calls and stops after its last one. Default: no such age.
    pub(super) max_age: Option<At<Period>>,
    /// A local process that says nothing for this long while calls wait for it is pinged, and killed if it says nothing
    /// for as long again. `0` never does. Default: 60s.
    pub(super) hang_timeout: Option<At<Period>>,
    /// A local process without calls for this long is stopped, and with `mode: per_session` its session with it. `0`
    /// keeps it. Default: 300s.
    pub(super) idle_timeout: Option<At<Period>>,
    /// How an endpoint is chosen for a call without a session: `round_robin` by weight, `least_in_flight` of two drawn
    /// ones, `hash` for the same endpoint each time, or `random`. A session stays where it is. Default: round_robin.
    pub(super) balance: Option<At<RawBalance>>,
    /// What the hash is made of. Default: caller.
    pub(super) hash_by: Option<At<RawHashBy>>,
    /// When an endpoint of a remote server is left alone, and how it comes back.
    pub(super) breaker: Option<At<RawBreaker>>,
    /// What is tried again when an endpoint fails.
    pub(super) retry: Option<At<RawRetry>>,
    /// What a local process may use. Default: what the gateway's user may, without new privileges.
    pub(super) sandbox: Option<At<RawSandbox>>,
    /// How often it may be called, by all callers together or by each.
    pub(super) limit: Option<At<RawShared>>,
    /// What single tools cost, how often they may be called, and how their calls are treated, by exact name.
    pub(super) tools: Option<At<Entries<At<RawTool>>>>,
}
