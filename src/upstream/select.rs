//! Which endpoint a call takes: the session's, or the next of a weighted round over those in rotation.
//! Not here: how an endpoint leaves or joins the rotation (`health`).

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::Uri;
use futures_util::FutureExt as _;
use pingora_core::protocols::l4::socket::SocketAddr as BackendAddr;
use pingora_load_balancing::discovery::Static;
use pingora_load_balancing::prelude::RoundRobin;
use pingora_load_balancing::{Backend, Backends, Extensions, LoadBalancer};

use super::UpstreamError;
use super::credential::Proof;
use super::endpoint::Endpoint;
use super::health::Probe;
use super::http::Lines;
use crate::bridge::Bridge;
use crate::catalog::{Health, HealthKind, Remote, RemoteKind, Runtime, Server};

/// Pingora looks through its rotation this many times per endpoint before it gives up.
const ROUNDS_MAX: usize = 8;
/// How long a refused connection is remembered where nothing checks health.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// A server's endpoints and the rotation over them.
pub(super) struct Pool {
    endpoints: Vec<Arc<Endpoint>>,
    balancer: LoadBalancer<RoundRobin>,
    health: Option<Health>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Pool {
    /// The endpoints of `server`; those that stand in `before` as well keep their state.
    pub(super) fn new(
        server: &Server,
        before: &[Arc<Endpoint>],
        idle_max: usize,
        proof: Option<&Arc<Proof>>,
    ) -> Self {
        let addresses: Vec<(Uri, u16)> = match &server.runtime {
            Runtime::Local(local) => {
                (0..local.instances.get()).map(|at| (bridge_uri(&Bridge::path(&server.id, at)), 1)).collect()
            }
            Runtime::Remote(remote) => remote.endpoints.iter().map(|e| (e.url.clone(), e.weight)).collect(),
        };
        let (headers, health) = match &server.runtime {
            Runtime::Local(_) => (Default::default(), None),
            Runtime::Remote(remote) => (remote.headers.clone(), Some(remote.health.clone())),
        };
        let old = matches!(&server.runtime, Runtime::Remote(Remote { kind: RemoteKind::Sse, .. }));
        let same =
            |e: &Endpoint, number, url: &Uri| e.is(number, url, &headers) && e.may_be_legacy_sse() == old;
        let keep = |number, url: &Uri| before.iter().find(|e| same(e, number, url)).cloned();
        let mut endpoints = Vec::with_capacity(addresses.len());
        let mut backends = BTreeSet::new();
        for (number, (url, weight)) in addresses.into_iter().enumerate() {
            let kept = keep(number, &url);
            let make = || {
                let endpoint = Endpoint::new(number, url, &headers, Lines::new(idle_max));
                Arc::new(endpoint.with_legacy_sse(old))
            };
            let endpoint = kept.unwrap_or_else(make);
            backends.insert(backend(&endpoint, weight));
            endpoints.push(endpoint);
        }
        let mut balancer = LoadBalancer::from_backends(Backends::new(Static::new(backends)));
        if let Runtime::Remote(remote) = &server.runtime
            && remote.health.kind != HealthKind::Off
        {
            balancer.set_health_check(Box::new(Probe::new(remote, server.timeouts.connect, proof.cloned())));
        }
        // A static set is there at once, so this future never waits.
        let _ = balancer.update().now_or_never();
        Self { endpoints, balancer, health }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// How health is checked, unless nothing is to be asked.
    pub(super) fn health(&self) -> Option<&Health> {
        self.health.as_ref().filter(|health| health.kind != HealthKind::Off)
    }

    pub(super) fn balancer(&self) -> &LoadBalancer<RoundRobin> {
        &self.balancer
    }

    /// The endpoint for the next call, or none if all are down or were `tried`.
    pub(super) fn pick(
        &self,
        pin: Option<u64>,
        tried: &[usize],
    ) -> Result<Option<&Arc<Endpoint>>, UpstreamError> {
        let fresh = |endpoint: &&Arc<Endpoint>| endpoint.is_up() && !tried.contains(&endpoint.number());
        if let Some(key) = pin {
            let pinned = self.endpoints.iter().find(|endpoint| endpoint.key() == key);
            return pinned.ok_or(UpstreamError::EndpointGone).map(|endpoint| Some(endpoint).filter(fresh));
        }
        if let [only] = self.endpoints.as_slice() {
            return Ok(Some(only).filter(fresh));
        }
        let remembered = self.health().map_or(REFUSED_FOR, |health| health.interval);
        let rotation = |backend: &Backend, ready: bool| {
            let usable = |e: &Endpoint| !e.refused_within(remembered) && !tried.contains(&e.number());
            ready && backend.ext.get::<Arc<Endpoint>>().is_some_and(|endpoint| usable(endpoint))
        };
        let rounds = self.endpoints.len() * ROUNDS_MAX;
        let chosen = self.balancer.select_with(b"", rounds, rotation);
        let chosen = chosen.as_ref().and_then(|backend| backend.ext.get::<Arc<Endpoint>>());
        let chosen = chosen.and_then(|chosen| self.endpoints.get(chosen.number()));
        // Endpoints that refused a moment ago are better than none.
        Ok(chosen.or_else(|| self.endpoints.iter().find(fresh)))
    }
}

/// The address of a child behind the bridge; its host is a name for logs and is never resolved.
fn bridge_uri(path: &str) -> Uri {
    let uri = Uri::builder().scheme("http").authority("bridge.invalid").path_and_query(path).build();
    uri.unwrap_or_default()
}

/// Pingora knows a backend by an address. Ours are URLs, which it need not resolve: the number is the address, and
/// the endpoint rides along.
fn backend(endpoint: &Arc<Endpoint>, weight: u16) -> Backend {
    let number = u16::try_from(endpoint.number()).unwrap_or(u16::MAX);
    let addr = SocketAddr::from((Ipv6Addr::UNSPECIFIED, number));
    let mut ext = Extensions::new();
    ext.insert(Arc::clone(endpoint));
    Backend { addr: BackendAddr::Inet(addr), weight: usize::from(weight.max(1)), ext }
}
