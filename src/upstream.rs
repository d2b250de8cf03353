//! Upstreams: the live side of the catalog's servers, and the one way to call them.
//! Not here: what a call says (`hub`), children behind the bridge's socket (`bridge`), who may call (`auth`).
//!
//! [`Fleet`] holds ONE [`View`] behind one `ArcSwap`: the catalog's snapshot with the live handle of each server. A
//! request takes it once. A reload reconciles: a server whose reach did not change keeps its pool, its endpoints'
//! health and its counters; the rest is made anew, and what is gone ends with its last call.

mod activity;
mod credential;
mod endpoint;
mod health;
mod http;
mod legacy_sse;
mod select;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, Response};
use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::auth::{Allowed, Caller, Policy, Rulebook};
use crate::catalog::{Remote, RemoteKind, Runtime, Server, ServerId, Snapshot, Timeouts};
use crate::egress;
use crate::telemetry::{Meters, ServerMeters};
pub use activity::Activity;
use credential::Proof;
pub use credential::Shown;
pub use endpoint::InFlight;
pub use http::Answer;
use http::{Connector, Connectors, SendError};
use select::Pool;

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
    /// No answer began in time. The call may be running.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What is sent upstream.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// POST, GET or DELETE.
    pub method: Method,
    /// Headers, without `Host` and framing; the server's own are added.
    pub headers: HeaderMap,
    /// The body; empty for GET and DELETE.
    pub body: Bytes,
}

/// Where a call goes: a server, and the endpoint if its session is pinned to one.
#[derive(Debug)]
pub struct Route {
    /// The server.
    pub upstream: Arc<Upstream>,
    /// The endpoint's key.
    pub pin: Option<u64>,
}

/// The head of an upstream's answer, with its body to come.
#[derive(Debug)]
pub struct Arrived {
    /// The answer.
    pub response: Response<Answer>,
    /// The key of the endpoint that gave it.
    pub endpoint: u64,
    /// Time from sending to the head.
    pub took: Duration,
    /// Connections that were refused before one was taken.
    pub attempts: u32,
    /// Counts the call as running until dropped.
    pub in_flight: InFlight,
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

/// The state of one endpoint, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Its number, in file order.
    pub number: usize,
    /// Its address without query.
    pub url: String,
    /// Whether it is in rotation.
    pub healthy: bool,
    /// Calls running on it.
    pub in_flight: usize,
}

impl Upstream {
    /// The state of each endpoint.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.reach.pool.endpoints().iter().map(|endpoint| endpoint.status()).collect()
    }

    /// Whether any endpoint is in rotation.
    pub fn is_up(&self) -> bool {
        self.reach.pool.endpoints().iter().any(|endpoint| endpoint.is_up())
    }

    /// Whether the server is forwarded unread, and so has no MCP door.
    pub fn is_raw(&self) -> bool {
        matches!(&self.server.runtime, Runtime::Remote(Remote { kind: RemoteKind::Raw, .. }))
    }

    /// Where a raw upstream is; `None` if the server speaks MCP. Names are resolved here, without blocking.
    pub async fn raw_target(&self) -> Result<Option<RawTarget>, UpstreamError> {
        let Runtime::Remote(Remote { kind: RemoteKind::Raw, .. }) = &self.server.runtime else {
            return Ok(None);
        };
        let endpoint = self.reach.pool.pick(None, &[])?.ok_or(UpstreamError::NoneHealthy)?;
        let target = timeout(self.timeouts().connect, endpoint.resolve()).await;
        let mut target = target.ok().flatten().ok_or(UpstreamError::Unreachable)?;
        target.shown = self.show(&mut target.headers).await?;
        Ok(Some(target))
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
            known.server.runtime == server.runtime && known.server.timeouts.connect == server.timeouts.connect
        };
        let meters = self.meters.server(server.id.as_str());
        let reach = match known.filter(same_reach) {
            Some(known) => Arc::clone(&known.reach),
            None => Arc::new(self.reach(server, known)),
        };
        let upstream = Upstream {
            server: Arc::clone(server),
            activity: known.map(|known| Arc::clone(&known.activity)).unwrap_or_default(),
            policy,
            reach,
            meters,
        };
        health::publish(&upstream);
        Arc::new(upstream)
    }

    fn reach(&self, server: &Server, known: Option<&Arc<Upstream>>) -> Reach {
        let before = known.map(|known| known.reach.pool.endpoints()).unwrap_or_default();
        let shown_before = known.and_then(|known| known.reach.proof.as_ref());
        let proof = Proof::of(&server.runtime, shown_before, &self.egress);
        let pool = Pool::new(server, before, self.idle_connections_max, proof.as_ref());
        let connector = match &server.runtime {
            Runtime::Local(_) => self.connectors.unix(&self.bridge_socket),
            Runtime::Remote(remote) => self.connectors.net(remote, server.timeouts.connect),
        };
        Reach { pool, connector, proof }
    }

    /// Checks the health of endpoints until `shutdown` turns true.
    pub async fn watch_health(self: &Arc<Self>, shutdown: tokio::sync::watch::Receiver<bool>) {
        health::watch(self, shutdown).await;
    }

    /// Hop 5: sends a call that was allowed, and only such a one, to an endpoint; the answer streams back.
    ///
    /// An endpoint that refuses the connection is passed over for the next one, since nothing was sent. After the
    /// first byte nothing is ever sent twice.
    pub async fn call(
        &self,
        route: &Allowed<Route>,
        mut outgoing: Outgoing,
    ) -> Result<Arrived, UpstreamError> {
        let Route { upstream, pin } = route.get();
        let shown = upstream.show(&mut outgoing.headers).await?;
        let mut tried = Vec::new();
        loop {
            let Some(endpoint) = upstream.reach.pool.pick(*pin, &tried)? else {
                let refused =
                    if tried.is_empty() { UpstreamError::NoneHealthy } else { UpstreamError::Unreachable };
                return Err(refused);
            };
            let in_flight = endpoint.enter();
            let sent_at = Instant::now();
            // Only a server with several endpoints may need headers and body again.
            let last = upstream.reach.pool.endpoints().len() <= tried.len() + 1;
            let Outgoing { method, headers, body } =
                if last { std::mem::take(&mut outgoing) } else { outgoing.clone() };
            let answer = endpoint.send(&upstream.reach.connector, method, headers, body);
            match timeout(upstream.timeouts().response, answer).await {
                Ok(Ok(response)) => {
                    endpoint.answered();
                    if let Some(shown) = &shown {
                        shown.answered(response.status());
                    }
                    let took = sent_at.elapsed();
                    let attempts = u32::try_from(tried.len()).unwrap_or(u32::MAX);
                    return Ok(Arrived { response, endpoint: endpoint.key(), took, attempts, in_flight });
                }
                Ok(Err(SendError::Connect)) => {
                    tracing::debug!(server = %upstream.server.id, endpoint = endpoint.number(), "connection refused");
                    endpoint.refused();
                    tried.push(endpoint.number());
                }
                Ok(Err(SendError::Broken(error))) => {
                    tracing::debug!(server = %upstream.server.id, %error, "connection broke");
                    return Err(UpstreamError::Broken);
                }
                Err(_) => return Err(UpstreamError::Timeout(upstream.timeouts().response)),
            }
        }
    }
}
