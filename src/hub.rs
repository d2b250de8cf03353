//! One client message in, one [`Reply`] out: what is asked of which upstream, and what its answer may be.
//! Not here: Pingora and the client's connection (`proxy`), endpoints and pools (`upstream`).
//!
//! A server's own door is a straight relay: the same era on both sides, the body's bytes untouched in both
//! directions. Streams are handed on as they come. Only a whole JSON answer that is small is looked at before it
//! goes on, because then a lie can still become an honest status.

mod answer;
mod ask;
mod demand;
mod give_up;
mod link;
mod open;
mod relay;
mod restore;
mod sift;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::auth::{Allowed, Caller, Demand, Denied};
use crate::conf::{Bounds, Limits};
use crate::mcp::{Era, Id, Method};
use crate::reply::Reply;
pub use crate::session::Crowded;
use crate::session::{Room, Sealer, SessionError, Sessions};
use crate::telemetry::Outcome;
use crate::upstream::{Attempt, Fleet, Upstream, UpstreamError};
pub use demand::demand;
use link::Links;

/// What a client asks of one server.
#[derive(Debug)]
pub struct Asked {
    /// POST, GET or DELETE.
    pub verb: http::Method,
    /// The message's method; `Stream` for GET, `EndSession` for DELETE.
    pub method: Method,
    /// What it wants, as rules tell wants apart.
    pub demand: Demand,
    /// Whether the client waits for a response to a request.
    pub wants_response: bool,
    /// The request's id: only a response with it is the answer.
    pub id: Option<Id>,
    /// The era the client speaks.
    pub era: Era,
    /// Headers that travel on, chosen by the proxy; no credential is among them.
    pub headers: HeaderMap,
    /// The client's session id, as it came.
    pub session: Option<String>,
    /// The message, byte for byte.
    pub body: Bytes,
}

/// An answer, and what is to be recorded of it.
#[derive(Debug)]
pub struct Relayed {
    /// The answer.
    pub reply: Reply,
    /// How the exchange ended, if that is known before the body has passed.
    pub outcome: Option<Outcome>,
    /// Time until the head of the upstream's answer.
    pub upstream_time: Duration,
    /// Connections that were refused before one was taken.
    pub attempts: u32,
    /// The call on its endpoint: running until dropped.
    pub attempt: Option<Attempt>,
}

impl Relayed {
    /// An answer that no upstream gave.
    fn of(reply: Reply) -> Self {
        Self { reply, outcome: Some(Outcome::Ok), upstream_time: Duration::ZERO, attempts: 0, attempt: None }
    }
}

/// Why there is no answer to hand on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// The caller may not have what it asks for. The client's fault.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The session id is not one of this caller on this server. The client's fault.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The upstream gave no answer; its own words say whether a retry is safe.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream gave an answer that is none. Its fault; the call may have run.
    #[error("the upstream broke its word: {0}")]
    Lie(Lie),
}

/// How an upstream broke its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// A redirect or an upgrade: followed, it could leave the catalog.
    #[error("it redirects")]
    Redirect,
    /// 401, 403 or 407: our credential, not the client's, was refused.
    #[error("it refuses the gateway's credentials")]
    Credentials,
    /// A success that is neither JSON nor an event stream.
    #[error("its answer is neither JSON nor an event stream")]
    Type,
    /// JSON that is no JSON-RPC message, or no JSON at all.
    #[error("its answer is not a JSON-RPC message")]
    Content,
    /// A body that ended too early.
    #[error("its answer ended too early")]
    Truncated,
    /// A body that is longer than may be read whole.
    #[error("its answer is too long")]
    TooLong,
    /// A stream that ended without the response.
    #[error("its stream ended without a response")]
    NoResponse,
    /// A failure without a JSON-RPC body.
    #[error("it answered HTTP {0}")]
    Status(u16),
}

/// Relays messages.
#[derive(Debug)]
pub struct Hub {
    fleet: Arc<Fleet>,
    sessions: Sessions,
    links: Links,
    limits: Limits,
}

impl Hub {
    /// A hub over `fleet` that seals sessions with `sealer`.
    pub fn new(fleet: Arc<Fleet>, sealer: Sealer, limits: Limits) -> Self {
        Self { fleet, sessions: Sessions::new(sealer), links: Links::default(), limits }
    }

    /// The same with that much room for sessions.
    pub fn bounded(self, bounds: Bounds) -> Self {
        let room = Room {
            all: bounds.sessions,
            each_caller: bounds.sessions_per_caller,
            each_server: bounds.sessions_per_server,
        };
        Self { sessions: self.sessions.with_room(room), ..self }
    }

    /// Whether the caller may begin a session with that server.
    pub fn admit_session(&self, caller: &Caller, server: &str) -> Result<(), Crowded> {
        self.sessions.admit(caller.id, server)
    }

    /// Sessions that are remembered.
    pub fn sessions_known(&self) -> usize {
        self.sessions.known()
    }

    /// The fleet behind it.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Sessions used in the last minutes.
    pub fn sessions_active(&self) -> usize {
        self.sessions.active()
    }

    /// Forgets some of the sessions that nobody uses; to be called again and again.
    pub fn forget_some_sessions(&self) {
        self.sessions.forget_some();
    }

    /// Permits what `demand` says, or says why not. It is decided here once for each message.
    pub fn permit(
        &self,
        caller: &Caller,
        upstream: &Arc<Upstream>,
        demand: &Demand,
    ) -> Result<Allowed<Arc<Upstream>>, HubError> {
        relay::permit(caller, upstream, demand)
    }

    /// Hands a permitted message of a client that speaks MCP to its server, and the answer back.
    pub fn relay<'a>(
        &'a self,
        caller: &'a Caller,
        permitted: &'a Allowed<Arc<Upstream>>,
        asked: Asked,
    ) -> impl Future<Output = Result<Relayed, HubError>> + Send + 'a {
        relay::relay(self, caller, permitted, asked)
    }

    /// Asks on behalf of a client that knows neither sessions nor streams (Open MCP Gateway's contract): the session
    /// with the server is ours, and the answer is one JSON message.
    pub async fn ask(
        &self,
        caller: &Caller,
        permitted: &Allowed<Arc<Upstream>>,
        asked: Asked,
    ) -> Result<Relayed, HubError> {
        ask::ask(self, caller, permitted, asked).await
    }
}

/// A reply that is all there.
fn whole(status: StatusCode, headers: HeaderMap, body: Bytes) -> Reply {
    Reply { status, headers, body: crate::reply::Body::Whole(body) }
}
