//! Active health: what is asked of an endpoint, how often, and what follows.
//! Not here: refused connections, which `endpoint` remembers and `select` avoids.
//!
//! Pingora counts successes and failures and decides; we ask and publish. All servers are watched by one task, each
//! round of a server being a task of its own, so that a hanging server never delays another's checks.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Response, Uri, header};
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use pingora_core::{Error, ErrorType};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::HealthCheck;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::credential::Proof;
use super::endpoint::Endpoint;
use super::http::{Answer as Body, Connector, Connectors};
use super::{Fleet, Outgoing, Upstream};
use crate::catalog::{HealthKind, Remote};
use crate::mcp::Answer;

/// How often the watch looks for servers that are due.
const TICK: Duration = Duration::from_millis(250);
/// A server with an endpoint out of rotation is asked at least this often, so that it returns soon.
const RECOVERY: Duration = Duration::from_secs(1);
/// A probe's answer may be this long.
const PROBE_BYTES_MAX: usize = 256 * 1024;

const DISCOVER: &str = r#"{"jsonrpc":"2.0","id":"tollgate-health","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"tollgate","version":"health"},"io.modelcontextprotocol/clientCapabilities":{}}}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":"tollgate-health","method":"ping"}"#;

/// Asks one endpoint.
pub(super) struct Probe {
    kind: HealthKind,
    timeout: Duration,
    after: (usize, usize),
    connector: Connector,
    proof: Option<Arc<Proof>>,
}

impl Probe {
    pub(super) fn new(remote: &Remote, connect: Duration, proof: Option<Arc<Proof>>) -> Self {
        let health = &remote.health;
        Self {
            proof,
            kind: health.kind.clone(),
            timeout: health.timeout,
            after: (usize::from(health.healthy_after), usize::from(health.unhealthy_after)),
            connector: Connectors::default().net(remote, connect),
        }
    }

    async fn ask(&self, endpoint: &Endpoint) -> Result<(), &'static str> {
        match &self.kind {
            HealthKind::Off => Ok(()),
            HealthKind::Tcp => connect(endpoint).await,
            HealthKind::Http { path } => self.get(endpoint, path).await,
            HealthKind::Mcp => self.speak(endpoint).await,
        }
    }

    async fn get(&self, endpoint: &Endpoint, path: &str) -> Result<(), &'static str> {
        let get = Outgoing { method: Method::GET, headers: HeaderMap::new(), body: Bytes::new() };
        let target = path.parse().map_err(|_| "bad path")?;
        let Some(response) = self.send(endpoint, get, Some(target)).await? else { return Ok(()) };
        if response.status().is_server_error() { Err("status 5xx") } else { Ok(()) }
    }

    /// `server/discover`, which any modern server answers, and which a legacy one refuses in JSON-RPC; `ping` for
    /// those that answer neither in JSON-RPC. No session is opened, so none is left behind.
    async fn speak(&self, endpoint: &Endpoint) -> Result<(), &'static str> {
        match self.post(endpoint, DISCOVER, "server/discover").await {
            Ok(()) => Ok(()),
            Err(_) => self.post(endpoint, PING, "ping").await,
        }
    }

    async fn post(&self, endpoint: &Endpoint, body: &'static str, method: &str) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if method == "server/discover" {
            headers.insert("mcp-protocol-version", HeaderValue::from_static("2026-07-28"));
            headers.insert("mcp-method", HeaderValue::from_static("server/discover"));
        }
        let post = Outgoing { method: Method::POST, headers, body: Bytes::from_static(body.as_bytes()) };
        let Some(response) = self.send(endpoint, post, None).await? else { return Ok(()) };
        if response.status().is_server_error() {
            return Err("status 5xx");
        }
        let body =
            Limited::new(response.into_body(), PROBE_BYTES_MAX).collect().await.map_err(|_| "bad body")?;
        let body = body.to_bytes();
        let message = match memchr::memmem::find(&body, b"data: ") {
            Some(at) if !body.starts_with(b"{") => {
                body.get(at + 6..).and_then(|rest| rest.split(|b| *b == b'\n').next())
            }
            _ => Some(body.as_ref()),
        };
        message.and_then(Answer::read).map(|_| ()).ok_or("no JSON-RPC answer")
    }
}

impl Probe {
    /// Sends a question with the gateway's own credential; `None` if that cannot be had, which is not the endpoint's
    /// fault and says nothing about it.
    async fn send(
        &self,
        endpoint: &Endpoint,
        mut outgoing: Outgoing,
        target: Option<Uri>,
    ) -> Result<Option<Response<Body>>, &'static str> {
        let shown = match &self.proof {
            Some(proof) => match proof.show(&mut outgoing.headers).await {
                Ok(shown) => Some(shown),
                Err(_) => return Ok(None),
            },
            None => None,
        };
        let probed = endpoint.probe(&self.connector, outgoing, target).await;
        let response = probed.map_err(|_| "no answer")?;
        if let Some(shown) = shown {
            shown.answered(response.status());
        }
        Ok(Some(response))
    }
}

async fn connect(endpoint: &Endpoint) -> Result<(), &'static str> {
    TcpStream::connect(endpoint.host_and_port()).await.map(|_| ()).map_err(|_| "connection refused")
}

#[async_trait]
impl HealthCheck for Probe {
    async fn check(&self, target: &Backend) -> pingora_core::Result<()> {
        let Some(endpoint) = target.ext.get::<Arc<Endpoint>>() else { return Ok(()) };
        let asked = timeout(self.timeout, self.ask(endpoint)).await.unwrap_or(Err("no answer in time"));
        asked.map_err(|why| Error::explain(ErrorType::ConnectError, why))
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success { self.after.0 } else { self.after.1 }
    }

    fn backend_summary(&self, target: &Backend) -> String {
        // Addresses of backends are numbers of ours; the URL may carry a secret in its query.
        target.ext.get::<Arc<Endpoint>>().map_or_else(String::new, |endpoint| endpoint.status().url)
    }
}

/// Watches the health of every server until `shutdown` turns true.
pub(super) async fn watch(fleet: &Arc<Fleet>, mut shutdown: watch::Receiver<bool>) {
    let mut rounds: JoinSet<(String, Instant)> = JoinSet::new();
    let mut next: std::collections::HashMap<String, Option<Instant>> = std::collections::HashMap::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = shutdown.changed() => return,
            Some(done) = rounds.join_next() => {
                if let Ok((id, due)) = done {
                    next.insert(id, Some(due));
                }
            }
            _ = ticks.tick() => {
                let view = fleet.view().clone();
                for upstream in view.upstreams() {
                    upstream.reach.pool.endpoints().iter().for_each(|endpoint| endpoint.trim());
                }
                let now = Instant::now();
                next.retain(|id, _| view.upstream(id).is_some());
                for upstream in view.upstreams().filter(|upstream| upstream.reach.pool.health().is_some()) {
                    let id = upstream.server.id.as_str();
                    // `None` means that a round is running.
                    if next.get(id).is_none_or(|due| due.is_some_and(|due| due <= now)) {
                        next.insert(id.to_owned(), None);
                        rounds.spawn(round(Arc::clone(upstream)));
                    }
                }
            }
        }
    }
}

/// One round of checks of one server; says when the next is due.
async fn round(upstream: Arc<Upstream>) -> (String, Instant) {
    let pool = &upstream.reach.pool;
    pool.balancer().backends().run_health_check(true).await;
    for backend in pool.balancer().backends().get_backend().iter() {
        let Some(endpoint) = backend.ext.get::<Arc<Endpoint>>() else { continue };
        let up = pool.balancer().backends().ready(backend);
        upstream.meters.health_check(up);
        if endpoint.set_up(up) {
            let (server, number) = (&upstream.server.id, endpoint.number());
            if up {
                tracing::info!(%server, endpoint = number, "endpoint is back in rotation");
            } else {
                tracing::warn!(%server, endpoint = number, "endpoint leaves rotation: health checks fail");
            }
        }
    }
    publish(&upstream);
    let every = pool.health().map_or(RECOVERY, |health| health.interval);
    let all_up = pool.endpoints().iter().all(|endpoint| endpoint.is_up());
    let due = Instant::now() + if all_up { every } else { every.min(RECOVERY) };
    (upstream.server.id.as_str().to_owned(), due)
}

/// Shows the state of a server's endpoints in the metrics.
pub(super) fn publish(upstream: &Upstream) {
    for endpoint in upstream.reach.pool.endpoints() {
        upstream.meters.endpoint_up(endpoint.number(), endpoint.is_up());
    }
    upstream.meters.up(upstream.is_up());
}
