//! The checked catalog: real types, no `Option` that means "default", nothing of serde.
//! Not here: the file's form (`raw`) or how one becomes the other (`check`).

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Uri};

use super::{Balance, Breaker, Children, Credential, Retry, Rules, Throttle};
use crate::document::{Code, Mistake, Mistakes, nearest};
use crate::sandbox::Profile;

/// The id of a server: URL-safe, unique in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(Arc<str>);

impl ServerId {
    /// Accepts 1–64 characters of `A-Z a-z 0-9 . _ ~ -`, first one a letter or digit (RFC 3986 section 2.3).
    pub fn new(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-');
        (first.is_ascii_alphanumeric() && text.len() <= 64 && text.bytes().all(safe))
            .then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ServerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// One catalog that was checked and indexed. Immutable; a request sees one from its first phase to its last.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts accepted loads, from 1.
    pub generation: u64,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// Enabled and disabled servers, in file order.
    pub servers: Vec<Arc<Server>>,
    /// Who may do what.
    pub rules: Rules,
    /// What was accepted and is yet hardly meant.
    pub warnings: Mistakes,
    index: HashMap<ServerId, usize>,
}

impl Snapshot {
    /// Indexes checked servers. Ids are unique: `check` saw to it.
    pub fn new(generation: u64, servers: Vec<Arc<Server>>, rules: Rules) -> Self {
        let index = servers.iter().enumerate().map(|(at, server)| (server.id.clone(), at)).collect();
        Self {
            generation,
            loaded_at: SystemTime::now(),
            servers,
            rules,
            warnings: Mistakes::default(),
            index,
        }
    }

    /// The same with one server alone; a mistake if `file` has no such one.
    pub fn only(mut self, id: &str, file: &Path) -> Result<Self, Mistakes> {
        let Some(server) = self.server(id).cloned() else {
            let known = self.servers.iter().filter(|server| server.enabled).map(|server| server.id.as_str());
            let mut mistake = Mistake::whole(
                file.display().to_string(),
                Code::Missing,
                format!("Server '{id}' not found: it is not in the catalog, or disabled"),
            );
            mistake.suggestion = nearest(id, known).map(|near| format!("did you mean `{near}`?"));
            return Err(Mistakes::one(mistake));
        };
        self.index = HashMap::from([(server.id.clone(), 0)]);
        self.servers = vec![server];
        Ok(self)
    }

    /// The server of that id, if the catalog has it and it is enabled.
    pub fn server(&self, id: &str) -> Option<&Arc<Server>> {
        self.servers.get(*self.index.get(id)?).filter(|server| server.enabled)
    }
}

/// An MCP server in the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its id.
    pub id: ServerId,
    /// Its name for people; the id when the file gives none.
    pub display_name: String,
    /// What it is for.
    pub description: Option<String>,
    /// A disabled server is as if it were absent.
    pub enabled: bool,
    /// Whether the gateway is not ready while it cannot be called.
    pub required: bool,
    /// Words to filter by.
    pub tags: Vec<String>,
    /// The operator's own data, passed through.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// How it is reached.
    pub runtime: Runtime,
    /// Deadlines of its calls.
    pub timeouts: Timeouts,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// When an endpoint is left alone.
    pub breaker: Option<Breaker>,
    /// What is tried again.
    pub retry: Retry,
    /// How often it and its tools may be called.
    pub throttle: Throttle,
    /// How calls of single tools are treated, by exact name.
    pub tools: BTreeMap<String, Tool>,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Runtime {
    /// `local-process`: a child of ours that speaks MCP on stdio.
    Local(Local),
    /// `remote-http` and `remote-sse`: HTTP endpoints.
    Remote(Remote),
}

/// A child that speaks MCP on stdio.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    /// The command as the file gives it.
    pub command: String,
    /// The executable it resolved to.
    pub program: PathBuf,
    /// Its arguments, passed literally: there is no shell.
    pub args: Vec<String>,
    /// Its environment, besides `PATH` and `HOME`.
    pub env: BTreeMap<String, String>,
    /// Its working directory; the catalog's own directory when the file gives none.
    pub working_dir: PathBuf,
    /// How many children share the calls.
    pub instances: NonZeroU16,
    /// Who shares a child, and how many there may be.
    pub children: Children,
    /// A child without calls for this long is stopped; `None` keeps it.
    pub idle_timeout: Option<Duration>,
    /// What a child may use; `None` is what the gateway's user may.
    pub sandbox: Option<Box<Profile>>,
}

/// HTTP endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// What they speak.
    pub kind: RemoteKind,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// Headers added to every upstream request: the upstream's own credentials. Values are marked sensitive.
    pub headers: HeaderMap,
    /// What the gateway shows of itself besides those headers.
    pub credential: Option<Box<Credential>>,
    /// How health is checked.
    pub health: Health,
}

/// What a remote server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// `remote-http`: Streamable HTTP.
    Http,
    /// `remote-sse`: HTTP+SSE of 2024-11-05, or JSON-RPC over HTTP POST, whichever the server speaks.
    Sse,
    /// `raw-http`: an HTTP upstream that is not read, forwarded opaquely under `/servers/{id}/raw/`.
    Raw,
}

/// One address of a remote server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `http` or `https`, without user information or fragment.
    pub url: Uri,
    /// Its share, from 1 to 100.
    pub weight: u16,
    /// Whether it takes nothing but what belongs to sessions that it has.
    pub drain: bool,
}

/// How the health of endpoints is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub kind: HealthKind,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Failures in a row before an endpoint leaves rotation.
    pub unhealthy_after: u16,
    /// Successes in a row before it returns.
    pub healthy_after: u16,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthKind {
    /// Nothing: an endpoint is healthy until a connection fails, and then again after `interval`.
    Off,
    /// That it accepts a connection.
    Tcp,
    /// That `GET` of this path answers with a status below 500.
    Http {
        /// Path and query.
        path: String,
        /// The one status that is good, instead of any below 500.
        status: Option<u16>,
    },
    /// That it answers MCP: `server/discover`, or `ping` on a session kept for it.
    Mcp {
        /// A tool that has to be listed.
        tool: Option<String>,
    },
}

/// Deadlines of a server's calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect, TLS included.
    pub connect: Duration,
    /// For a remote server to answer `initialize`.
    pub initialize: Duration,
    /// Until the head of the answer.
    pub response: Duration,
    /// Between two pieces of a call's answer; not for the GET stream, which may be silent for long.
    pub idle: Duration,
    /// For the whole call.
    pub total: Duration,
    /// For a child to answer its first message.
    pub start: Duration,
}

/// How calls of one tool are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// Whether a call may be sent again when it is unknown whether it ran.
    pub idempotent: bool,
    /// Until the head of the answer.
    pub response: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// For a whole call.
    pub total: Duration,
}
