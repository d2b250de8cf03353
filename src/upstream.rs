//! Upstreams: the live side of the catalog's servers, and the one way to call them.
//! Not here: what a call says (`hub`), children behind the bridge's socket (`bridge`), who may call (`auth`).
//!
//! [`Fleet`] holds ONE [`View`] behind one `ArcSwap`: the catalog's snapshot with the live handle of each server. A
//! request takes it once. A reload reconciles: a server whose reach did not change keeps its pool, its endpoints'
//! health and its counters; the rest is made anew, and what is gone ends with its last call.

mod activity;
mod attempt;
mod breaker;
mod credential;
mod endpoint;
mod health;
mod http;
mod legacy_sse;
mod probe;
mod retry;
mod select;
mod state;
mod treatment;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::auth::{Allowed, Caller, Policy, Rulebook};
use crate::catalog::{Remote, RemoteKind, Runtime, Server, ServerId, Snapshot, Timeouts};
use crate::telemetry::{Meters, ServerMeters};
use crate::{bridge, egress};
pub use activity::Activity;
pub use attempt::Attempt;
pub use breaker::Fault;
use credential::Proof;
pub use credential::Shown;
pub use http::Answer;
use http::{Connector, Connectors, SendError};
use probe::Probe;
use retry::Budget;
use select::{Pool, Want};
use smallvec::SmallVec;
pub use state::{EndpointState, EndpointStatus};
pub use treatment::{Deadline, Treatment};

/// Why an upstream gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// No endpoint is in rotation. Nothing was sent; safe to try again later.
    #[error("no healthy endpoint")]
    NoneHealthy,
    /// Every endpoint refused the connection. Nothing was sent; safe to try again.
    #[error("cannot connect")]
    Unreachable,
    /// The session's endpoint is no longer in the catalog.
    #[error("the session's endpoint is gone")]
    EndpointGone,
    /// The connection broke after bytes were sent: whether the call ran is unknown, so it is never sent again.
    #[error("the connection broke before an answer came")]
    Broken,
    /// The gateway's own credential for the server cannot be had. Nothing was sent; safe to try again later.
    #[error("no credential for the server")]
    Credential,
    /// Every endpoint has failed too often, and nothing is sent for a while. Safe to try again after that time.
    #[error("the circuit is open for {0:?}")]
    CircuitOpen(Duration),
    /// A deadline passed. The call may be running.
    #[error("{0} deadline of {1:?} passed")]
    Late(Deadline, Duration),
}

/// What is sent upstream.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// POST, GET or DELETE.
    pub method: Method,
    /// Headers, without `Host` and framing; the server's own are added.
    pub headers: HeaderMap,
    /// The body; empty for GET and DELETE.
    pub body: Bytes,
    /// How it is treated.
    pub treatment: Treatment,
}

/// Tells a local server's side who calls; a remote server is not told.
pub fn introduce(server: &Server, caller: &Caller, headers: &mut HeaderMap) {
    if matches!(server.runtime, Runtime::Local(_))
        && let Ok(number) = HeaderValue::try_from(format!("{:032x}", caller.id))
    {
        headers.insert(bridge::CALLER, number);
    }
}

/// Where a call goes: a server, and the endpoint if its session is pinned to one.
#[derive(Debug)]
pub struct Route {
    /// The server.
    pub upstream: Arc<Upstream>,
    /// The endpoint's key.
    pub pin: Option<u64>,
    /// The caller, for hashes.
    pub caller: u64,
    /// The session, for hashes.
    pub session: Option<u64>,
}

/// The head of an upstream's answer, with its body to come.
#[derive(Debug)]
pub struct Arrived {
    /// The answer.
    pub response: Response<Answer>,
    /// Time from sending to the head.
    pub took: Duration,
    /// Endpoints that refused or failed before.
    pub attempts: u32,
    /// The call on its endpoint: running until dropped.
    pub attempt: Attempt,
}

impl Arrived {
    /// The key of the endpoint that gave it.
    pub fn endpoint(&self) -> u64 {
        self.attempt.endpoint().key()
    }
}

/// One server's live side.
#[derive(Debug)]
pub struct Upstream {
    /// The server as the catalog has it.
    pub server: Arc<Server>,
    /// Its metrics.
    pub meters: Arc<ServerMeters>,
    /// Its counters for the native API.
    pub activity: Arc<Activity>,
    /// Who may do what on it.
    pub policy: Policy,
    reach: Arc<Reach>,
}

/// What a server's live state depends on: equal reach, same live state.
#[derive(Debug)]
struct Reach {
    pool: Pool,
    budget: Budget,
    connector: Connector,
    proof: Option<Arc<Proof>>,
}

/// A raw upstream's address, resolved.
#[derive(Debug, Clone)]
pub struct RawTarget {
    /// Where to connect.
    pub address: std::net::SocketAddr,
    /// Whether by TLS.
    pub secure: bool,
    /// The name its certificate has to carry.
    pub host: String,
    /// What `Host` says.
    pub authority: String,
    /// The path that requests are put under.
    pub path: String,
    /// Headers added to every request: the upstream's own credentials.
    pub headers: HeaderMap,
    /// What of them was fetched or read for this request.
    pub shown: Option<Shown>,
}

impl Upstream {
    /// The state of each endpoint.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.reach.pool.status()
    }

    /// Whether any endpoint takes calls.
    pub fn is_up(&self) -> bool {
        self.reach.pool.is_up()
    }

    /// Whether a session that is pinned to an endpoint that cannot be called could be opened at another.
    pub fn has_other(&self, pin: u64) -> bool {
        self.reach.pool.has_other(pin)
    }

    /// Whether the server is forwarded unread, and so has no MCP door.
    pub fn is_raw(&self) -> bool {
        matches!(&self.server.runtime, Runtime::Remote(Remote { kind: RemoteKind::Raw, .. }))
    }

    /// Where a raw upstream is; `None` if the server speaks MCP. Names are resolved here, without blocking.
    pub async fn raw_target(&self) -> Result<Option<(RawTarget, Attempt)>, UpstreamError> {
        let Runtime::Remote(Remote { kind: RemoteKind::Raw, .. }) = &self.server.runtime else {
            return Ok(None);
        };
        let attempt = Attempt::begin(&self.reach, self.reach.pool.pick(Want::default())?);
        let target = timeout(self.timeouts().connect, attempt.endpoint().resolve()).await;
        let mut target = target.ok().flatten().ok_or(UpstreamError::Unreachable)?;
        target.shown = self.show(&mut target.headers).await?;
        Ok(Some((target, attempt)))
    }

    /// Puts the gateway's own credential into `headers`, if the server wants one.
    async fn show(&self, headers: &mut HeaderMap) -> Result<Option<Shown>, UpstreamError> {
        match &self.reach.proof {
            Some(proof) => proof.show(headers).await.map(Some),
            None => Ok(None),
        }
    }

    fn timeouts(&self) -> &Timeouts {
        &self.server.timeouts
    }
}

/// The catalog as requests see it.
#[derive(Debug)]
pub struct View {
    /// The snapshot.
    pub catalog: Arc<Snapshot>,
    upstreams: HashMap<ServerId, Arc<Upstream>>,
}

impl View {
    /// The live side of an enabled server.
    pub fn upstream(&self, id: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.get(id)
    }

    /// The live side of an enabled server, if it is there for the caller: one that is not looks like none.
    pub fn upstream_for(&self, caller: &Caller, id: &str) -> Option<&Arc<Upstream>> {
        self.upstream(id).filter(|upstream| upstream.policy.sees(caller))
    }

    /// All of them, in file order.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.catalog.servers.iter().filter_map(|server| self.upstreams.get(&server.id))
    }
}

/// All upstreams.
#[derive(Debug)]
pub struct Fleet {
    view: ArcSwap<View>,
    connectors: Connectors,
    /// Fetches tokens of the gateway's own.
    egress: Arc<egress::Client>,
    idle_connections_max: usize,
    bridge_socket: PathBuf,
    meters: Arc<Meters>,
}

impl Fleet {
    /// A fleet for `catalog`; local servers are reached through the bridge's socket.
    pub fn new(
        catalog: Arc<Snapshot>,
        bridge_socket: &Path,
        idle_connections_max: usize,
        meters: Arc<Meters>,
    ) -> Self {
        let empty = Arc::new(Snapshot::new(0, Vec::new(), crate::catalog::Rules::default()));
        let fleet = Self {
            view: ArcSwap::from_pointee(View { catalog: empty, upstreams: HashMap::new() }),
            connectors: Connectors::default(),
            egress: Arc::default(),
            idle_connections_max,
            bridge_socket: bridge_socket.to_owned(),
            meters,
        };
        fleet.reconcile(catalog);
        fleet
    }

    /// What requests see now.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Makes `catalog` what requests see from now on: one swap. Only one task reloads, so there is no race.
    pub fn reconcile(&self, catalog: Arc<Snapshot>) {
        let old = self.view.load();
        let enabled = catalog.servers.iter().filter(|server| server.enabled);
        let rulebook = Rulebook::new(&catalog.rules);
        let live = |server: &Arc<Server>| self.keep_or_make(&old, server, rulebook.on(server));
        let upstreams = enabled.map(|server| (server.id.clone(), live(server))).collect();
        self.view.store(Arc::new(View { catalog: Arc::clone(&catalog), upstreams }));
        // Labels that begin with `_` are ours: no server id does.
        self.meters.retain(|id| id.starts_with('_') || catalog.server(id).is_some());
    }

    fn keep_or_make(&self, old: &View, server: &Arc<Server>, policy: Policy) -> Arc<Upstream> {
        let known = old.upstream(server.id.as_str());
        let same_reach = |known: &&Arc<Upstream>| {
            let (old, new) = (&known.server, server);
            old.runtime == new.runtime
                && old.timeouts.connect == new.timeouts.connect
                && (old.balance, old.breaker) == (new.balance, new.breaker)
        };
        let meters = self.meters.server(server.id.as_str());
        let reach = match known.filter(same_reach) {
            Some(known) => Arc::clone(&known.reach),
            None => Arc::new(self.reach(server, known, &meters)),
        };
        let upstream = Upstream {
            server: Arc::clone(server),
            activity: known.map(|known| Arc::clone(&known.activity)).unwrap_or_default(),
            policy,
            reach,
            meters,
        };
        upstream.reach.pool.publish();
        Arc::new(upstream)
    }

    fn reach(&self, server: &Server, known: Option<&Arc<Upstream>>, meters: &Arc<ServerMeters>) -> Reach {
        let before = known.map(|known| known.reach.pool.endpoints()).unwrap_or_default();
        let shown_before = known.and_then(|known| known.reach.proof.as_ref());
        let proof = Proof::of(&server.runtime, shown_before, &self.egress);
        let probe = match &server.runtime {
            Runtime::Local(_) => None,
            Runtime::Remote(remote) => Some(Probe::new(remote, server.timeouts.connect, proof.clone())),
        };
        let pool = Pool::new(server, before, self.idle_connections_max, probe, Arc::clone(meters));
        let connector = match &server.runtime {
            Runtime::Local(_) => self.connectors.unix(&self.bridge_socket),
            Runtime::Remote(remote) => self.connectors.net(remote, server.timeouts.connect),
        };
        Reach { pool, budget: Budget::default(), connector, proof }
    }

    /// Checks the health of endpoints until `shutdown` turns true.
    pub async fn watch_health(self: &Arc<Self>, shutdown: tokio::sync::watch::Receiver<bool>) {
        health::watch(self, shutdown).await;
    }

    /// Hop 5: sends a call that was allowed, and only such a one, to an endpoint; the answer streams back.
    ///
    /// An endpoint that refuses the connection is passed over for the next one, since nothing was sent. After the
    /// first byte only what is safe to repeat is sent again, within the server's budget; nothing else is ever sent
    /// twice.
    pub async fn call(
        &self,
        route: &Allowed<Route>,
        mut outgoing: Outgoing,
    ) -> Result<Arrived, UpstreamError> {
        let Route { upstream, pin, caller, session } = route.get();
        let shown = upstream.show(&mut outgoing.headers).await?;
        let (reach, retry) = (&upstream.reach, &upstream.server.retry);
        reach.budget.save(retry.budget);
        let mut tried = SmallVec::<[usize; 4]>::new();
        let (mut attempts, mut again) = (0, 0);
        let began = Instant::now();
        loop {
            let want = Want { pin: *pin, caller: *caller, session: *session, tried: &tried };
            let picked = match reach.pool.pick(want) {
                // All refuse. Nothing was sent, so it is safe to wait until one is back.
                Err(UpstreamError::Unreachable)
                    if retry.max > 0 && began.elapsed() < upstream.timeouts().connect =>
                {
                    tokio::time::sleep(retry::pause(retry, again)).await;
                    again += 1;
                    tried.clear();
                    continue;
                }
                picked => picked?,
            };
            let attempt = Attempt::begin(reach, picked);
            let may_repeat = outgoing.treatment.repeatable && again < u32::from(retry.max);
            match upstream.attempt(&attempt, &mut outgoing, may_repeat).await? {
                Tried::Answered(response) => {
                    if let Some(shown) = &shown {
                        shown.answered(response.status());
                    }
                    let took = attempt.sent().elapsed();
                    return Ok(Arrived { response, took, attempts, attempt });
                }
                Tried::Refused => tried.push(attempt.endpoint().number()),
                Tried::Again(fault) => {
                    upstream.meters.retried(fault.label());
                    drop(attempt);
                    tokio::time::sleep(retry::pause(retry, again)).await;
                    again += 1;
                }
            }
            attempts += 1;
        }
    }
}

/// What came of an attempt.
enum Tried {
    /// There is an answer, whatever it says.
    Answered(Response<Answer>),
    /// No connection: nothing was sent.
    Refused,
    /// It failed, and may be sent again.
    Again(Fault),
}

impl Upstream {
    /// Sends a call to one endpoint. What may be sent again is left in `outgoing`.
    async fn attempt(
        &self,
        attempt: &Attempt,
        outgoing: &mut Outgoing,
        may_repeat: bool,
    ) -> Result<Tried, UpstreamError> {
        let Treatment { deadline, head, .. } = outgoing.treatment;
        let kept = may_repeat.then(|| outgoing.headers.clone());
        let headers = std::mem::take(&mut outgoing.headers);
        let (method, body) = (outgoing.method.clone(), outgoing.body.clone());
        let answer = attempt.endpoint().send(&self.reach.connector, method, headers, body);
        let (fault, response) = match timeout(head, answer).await {
            Ok(Ok(response)) => match fault_of(response.status()) {
                None => return Ok(Tried::Answered(response)),
                Some(fault) => (fault, Some(response)),
            },
            Ok(Err(SendError::Connect(unsent))) => {
                attempt.failed(Fault::Connect);
                outgoing.headers = *unsent;
                return Ok(Tried::Refused);
            }
            Ok(Err(SendError::Broken(error))) => {
                tracing::debug!(server = %self.server.id, %error, "connection broke");
                (Fault::Broken, None)
            }
            Err(_) => {
                attempt.failed(Fault::Late);
                return Err(UpstreamError::Late(deadline, head));
            }
        };
        attempt.failed(fault);
        let may_pass = response.as_ref().is_none_or(|response| may_pass(response.status()));
        match (kept, response) {
            (Some(kept), _) if may_pass && self.reach.budget.spend() => {
                outgoing.headers = kept;
                Ok(Tried::Again(fault))
            }
            (_, Some(response)) => Ok(Tried::Answered(response)),
            (_, None) => Err(UpstreamError::Broken),
        }
    }
}

/// What a status says of the endpoint that answered with it.
fn fault_of(status: StatusCode) -> Option<Fault> {
    status.is_server_error().then_some(Fault::Status(status.as_u16()))
}

/// Whether another try may be answered better: something before the server could not reach it, or it is too busy.
fn may_pass(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}
