//! Which endpoint a call takes, and which of them leave when they fail.
//! Not here: counting failures (`breaker`), asking for health (`health`), how many calls are tried again (`retry`).
//!
//! A session stays where it is. All else is spread as the catalog says over the endpoints in rotation; those that
//! wait for their first health check are called only while there is no other. An endpoint that failed enough leaves if
//! others are left and not too many are out; if none is left, all that failed leave, and callers are told at once.

use std::sync::Arc;
use std::time::Duration;

use ::http::Uri;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::UpstreamError;
use super::breaker::Fault;
use super::endpoint::{Endpoint, Ready, Turn};
use super::http::Lines;
use super::probe::Probe;
use super::state::EndpointStatus;
use crate::bridge::Bridge;
use crate::catalog::{
    Balance, Breaker, HashBy, Health, HealthKind, Remote, RemoteKind, Runtime, Server, ServerId,
};
use crate::telemetry::ServerMeters;

/// How long a refused connection is remembered where nothing checks health.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// With `hash`, an endpoint takes at most this many hundredths of the average load, then the next in line does
/// (consistent hashing with bounded loads, Mirrokni et al. 2016).
const LOAD_HUNDREDTHS_MAX: usize = 125;

/// A server's endpoints and how calls are spread over them.
#[derive(Debug)]
pub(super) struct Pool {
    server: ServerId,
    places: Vec<Place>,
    endpoints: Vec<Arc<Endpoint>>,
    balance: Balance,
    breaker: Option<Breaker>,
    health: Option<(Health, Probe)>,
    meters: Arc<ServerMeters>,
    /// For the weighted round: what each place is owed.
    owed: Mutex<Vec<i64>>,
}

#[derive(Debug)]
struct Place {
    weight: u16,
    drain: bool,
}

/// What a call wants of the choice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Want<'t> {
    /// The endpoint of its session.
    pub(super) pin: Option<u64>,
    /// The caller, for hashes.
    pub(super) caller: u64,
    /// The session, for hashes.
    pub(super) session: Option<u64>,
    /// Endpoints that refused it already.
    pub(super) tried: &'t [usize],
}

/// An endpoint taken for a call.
#[derive(Debug)]
pub(super) struct Picked {
    pub(super) endpoint: Arc<Endpoint>,
    /// Whether it is one of the few that a half-open circuit lets through.
    pub(super) probing: bool,
}

type Candidates = SmallVec<[(usize, u64); 8]>;

impl Pool {
    /// The endpoints of `server`; those that stand in `before` as well keep their state.
    pub(super) fn new(
        server: &Server,
        before: &[Arc<Endpoint>],
        idle_max: usize,
        probe: Option<Probe>,
        meters: Arc<ServerMeters>,
    ) -> Self {
        let addresses: Vec<(Uri, Place)> = match &server.runtime {
            Runtime::Local(local) => (0..local.instances.get())
                .map(|at| (bridge_uri(&Bridge::path(&server.id, at)), Place { weight: 1, drain: false }))
                .collect(),
            Runtime::Remote(remote) => {
                let place = |e: &crate::catalog::Endpoint| Place { weight: e.weight, drain: e.drain };
                remote.endpoints.iter().map(|e| (e.url.clone(), place(e))).collect()
            }
        };
        let (headers, health) = match &server.runtime {
            Runtime::Local(_) => (Default::default(), None),
            Runtime::Remote(remote) => (remote.headers.clone(), Some(remote.health.clone())),
        };
        let health = health.zip(probe);
        let checked = health.as_ref().is_some_and(|(health, _)| health.kind != HealthKind::Off);
        let old = matches!(&server.runtime, Runtime::Remote(Remote { kind: RemoteKind::Sse, .. }));
        let mut endpoints = Vec::with_capacity(addresses.len());
        let mut places = Vec::with_capacity(addresses.len());
        for (number, (url, place)) in addresses.into_iter().enumerate() {
            let same = |e: &Endpoint| e.is(number, &url, &headers) && e.may_be_legacy_sse() == old;
            let kept = before.iter().find(|e| same(e)).cloned();
            let endpoint = kept.unwrap_or_else(|| {
                let endpoint = Endpoint::new(number, url, &headers, Lines::new(idle_max), checked);
                if !before.is_empty() {
                    endpoint.start_slowly();
                }
                Arc::new(endpoint.with_legacy_sse(old))
            });
            endpoints.push(endpoint);
            places.push(place);
        }
        Self {
            server: server.id.clone(),
            owed: Mutex::new(vec![0; places.len()]),
            places,
            endpoints,
            balance: server.balance,
            breaker: server.breaker,
            health,
            meters,
        }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// How health is checked, unless nothing is to be asked.
    pub(super) fn health(&self) -> Option<&(Health, Probe)> {
        self.health.as_ref().filter(|(health, _)| health.kind != HealthKind::Off)
    }

    /// The state of each endpoint.
    pub(super) fn status(&self) -> Vec<EndpointStatus> {
        let places = self.endpoints.iter().zip(&self.places);
        places.map(|(endpoint, place)| endpoint.status(place.drain)).collect()
    }

    /// Whether any endpoint takes calls.
    pub(super) fn is_up(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.ready() != Ready::No)
    }

    /// Whether a session that is pinned to an endpoint that cannot be called could be opened at another.
    pub(super) fn has_other(&self, pin: u64) -> bool {
        let others = self.endpoints.iter().zip(&self.places);
        others
            .filter(|(endpoint, place)| endpoint.key() != pin && !place.drain)
            .any(|(endpoint, _)| endpoint.ready() <= Ready::Starting)
    }

    /// The endpoint for the next call.
    pub(super) fn pick(&self, want: Want<'_>) -> Result<Picked, UpstreamError> {
        if let Some(key) = want.pin {
            let pinned = self.endpoints.iter().find(|endpoint| endpoint.key() == key);
            let pinned = pinned.ok_or(UpstreamError::EndpointGone)?;
            return self.take(pinned, want).ok_or_else(|| self.why_none(std::slice::from_ref(pinned), want));
        }
        if let ([only], [place]) = (self.endpoints.as_slice(), self.places.as_slice()) {
            let taken = if place.drain { None } else { self.take(only, want) };
            return taken.ok_or_else(|| self.why_none(&self.endpoints, want));
        }
        // Whoever is being tried again gets its call first: it has to show whether it is well.
        let half_open = self.open_to(want, Ready::HalfOpen).find_map(|(at, _)| {
            let endpoint = self.endpoints.get(at)?;
            endpoint.take_probe().then(|| Picked { endpoint: Arc::clone(endpoint), probing: true })
        });
        if let Some(picked) = half_open {
            return Ok(picked);
        }
        let chosen = [Ready::Yes, Ready::Starting].into_iter().find_map(|ready| {
            let remembered = self.health().map_or(REFUSED_FOR, |(health, _)| health.interval);
            let all: Candidates = self.open_to(want, ready).collect();
            let refused = |at: usize| self.endpoints.get(at).is_some_and(|e| e.refused_within(remembered));
            let calm: Candidates = all.iter().copied().filter(|(at, _)| !refused(*at)).collect();
            // Endpoints that refused a moment ago are better than none.
            self.choose(if calm.is_empty() { &all } else { &calm }, want)
        });
        let endpoint = chosen.and_then(|at| self.endpoints.get(at));
        let endpoint = endpoint.ok_or_else(|| self.why_none(&self.endpoints, want))?;
        Ok(Picked { endpoint: Arc::clone(endpoint), probing: false })
    }

    /// Takes one endpoint, if it takes calls.
    fn take(&self, endpoint: &Arc<Endpoint>, want: Want<'_>) -> Option<Picked> {
        if want.tried.contains(&endpoint.number()) {
            return None;
        }
        let probing = match endpoint.ready() {
            Ready::Yes | Ready::Starting => false,
            Ready::HalfOpen if endpoint.take_probe() => true,
            Ready::HalfOpen | Ready::No => return None,
        };
        Some(Picked { endpoint: Arc::clone(endpoint), probing })
    }

    /// The places in a state that may be chosen, with what they weigh now.
    fn open_to(&self, want: Want<'_>, ready: Ready) -> impl Iterator<Item = (usize, u64)> {
        let slow_start = self.breaker.map_or(Duration::ZERO, |breaker| breaker.slow_start);
        let places = self.endpoints.iter().zip(&self.places).enumerate();
        places.filter_map(move |(at, (endpoint, place))| {
            let open = endpoint.ready() == ready && !place.drain && !want.tried.contains(&endpoint.number());
            open.then(|| (at, u64::from(place.weight.max(1)) * endpoint.share(slow_start)))
        })
    }

    /// Why none of `among` could be taken.
    fn why_none(&self, among: &[Arc<Endpoint>], want: Want<'_>) -> UpstreamError {
        if !want.tried.is_empty() {
            return UpstreamError::Unreachable;
        }
        let now = Instant::now();
        let first = among.iter().filter_map(|endpoint| endpoint.open_until()).map(|(until, _)| until).min();
        first.map_or(UpstreamError::NoneHealthy, |until| {
            UpstreamError::CircuitOpen(until.saturating_duration_since(now))
        })
    }

    fn choose(&self, candidates: &[(usize, u64)], want: Want<'_>) -> Option<usize> {
        match (candidates, self.balance) {
            ([], _) => None,
            ([(only, _)], _) => Some(*only),
            (_, Balance::RoundRobin) => self.next_in_round(candidates),
            (_, Balance::Random) => draw(candidates, None).map(|(at, _)| at),
            (_, Balance::LeastInFlight) => self.less_busy_of_two(candidates),
            (_, Balance::Hash(by)) => {
                let key = match by {
                    HashBy::Session => want.session.unwrap_or(want.caller),
                    HashBy::Caller => want.caller,
                };
                self.first_with_room(candidates, key)
            }
        }
    }

    /// Smooth weighted round robin: each is owed its weight at every turn, and the one that is owed most pays for all.
    fn next_in_round(&self, candidates: &[(usize, u64)]) -> Option<usize> {
        let weigh = |weight: u64| i64::try_from(weight).unwrap_or(i64::MAX);
        let mut owed = self.owed.lock();
        let mut total = 0;
        let mut most: Option<(usize, i64)> = None;
        for (at, weight) in candidates {
            let Some(owed) = owed.get_mut(*at) else { continue };
            *owed += weigh(*weight);
            total += weigh(*weight);
            if most.is_none_or(|(_, amount)| *owed > amount) {
                most = Some((*at, *owed));
            }
        }
        let (chosen, _) = most?;
        if let Some(owed) = owed.get_mut(chosen) {
            *owed -= total;
        }
        Some(chosen)
    }

    /// The power of two choices (Mitzenmacher 2001).
    fn less_busy_of_two(&self, candidates: &[(usize, u64)]) -> Option<usize> {
        let first = draw(candidates, None)?;
        let second = draw(candidates, Some(first.0)).unwrap_or(first);
        let running =
            |at: usize| self.endpoints.get(at).map_or(0, |endpoint| endpoint.in_flight()) as u64 + 1;
        // Load for each unit of weight, compared without dividing.
        let first_is_busier = running(first.0) * second.1 > running(second.0) * first.1;
        Some(if first_is_busier { second.0 } else { first.0 })
    }

    /// Weighted rendezvous hashing with bounded loads: the same order of endpoints for the same key.
    fn first_with_room(&self, candidates: &[(usize, u64)], key: u64) -> Option<usize> {
        let running = |at: usize| self.endpoints.get(at).map_or(0, |endpoint| endpoint.in_flight());
        let total: usize = candidates.iter().map(|(at, _)| running(*at)).sum();
        let bound = ((total + 1) * LOAD_HUNDREDTHS_MAX).div_ceil(candidates.len() * 100);
        let mut order: SmallVec<[(f64, usize); 8]> = candidates
            .iter()
            .filter_map(|(at, weight)| {
                let endpoint = self.endpoints.get(*at)?;
                let drawn = (mix(key, endpoint.key()) >> 11) as f64 / (1u64 << 53) as f64;
                Some((-(*weight as f64) / drawn.max(f64::MIN_POSITIVE).ln(), *at))
            })
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let with_room = order.iter().find(|(_, at)| running(*at) < bound);
        with_room.or(order.first()).map(|(_, at)| *at)
    }

    /// A call on an endpoint failed.
    pub(super) fn failed(&self, endpoint: &Arc<Endpoint>, fault: Fault, sent: Instant) {
        let Some(rules) = &self.breaker else { return };
        if !endpoint.failed(rules, fault, sent) {
            return;
        }
        let others = || self.endpoints.iter().filter(|other| other.key() != endpoint.key());
        let well = others().filter(|other| other.ready() == Ready::Yes && !other.is_kept()).count();
        if well == 0 {
            // Nobody is left who could take its calls: whoever failed enough goes, and callers are told at once.
            for kept in others().filter(|other| other.is_kept()) {
                self.tell(kept, kept.open(fault, rules.open_for, rules.open_for));
            }
            self.meters.ejected(fault.label());
            return self.tell(endpoint, endpoint.open(fault, rules.open_for, rules.open_for));
        }
        let out = others().filter(|other| other.ready() > Ready::Starting).count();
        let too_many = (out + 1) * 100 > usize::from(rules.ejected_max) * self.endpoints.len();
        if out > 0 && too_many {
            return self.tell(endpoint, endpoint.keep(fault));
        }
        self.meters.ejected(fault.label());
        self.tell(endpoint, endpoint.open(fault, rules.eject_for, rules.eject_for_max));
    }

    /// A call on an endpoint succeeded.
    pub(super) fn succeeded(&self, endpoint: &Arc<Endpoint>) {
        let turn = endpoint.succeeded();
        if turn.is_some() {
            self.tell(endpoint, turn);
        }
    }

    /// A health check of an endpoint that takes calls, or would if its checks passed.
    pub(super) fn checked(&self, endpoint: &Arc<Endpoint>, found: Result<(), &'static str>) {
        let Some((health, _)) = self.health() else { return };
        self.meters.health_check(found.is_ok());
        self.tell(endpoint, endpoint.checked(found, (health.healthy_after, health.unhealthy_after)));
    }

    /// What is to be known of an endpoint that is out: whether its time is over, and what it did.
    pub(super) fn is_over(&self, endpoint: &Endpoint) -> Option<(bool, Fault)> {
        let (until, why) = endpoint.open_until()?;
        (endpoint.ready() == Ready::No).then(|| (until <= Instant::now(), why))
    }

    /// An endpoint that was out is tried again: with all its probes if there is no other, else with one call at a time.
    pub(super) fn try_again(&self, endpoint: &Arc<Endpoint>) {
        let Some(rules) = &self.breaker else { return };
        let alone = !self.endpoints.iter().any(|other| other.ready() == Ready::Yes);
        self.tell(endpoint, endpoint.half_open(if alone { rules.probes } else { 1 }));
    }

    /// An endpoint whose time is over was asked, and is not well yet.
    pub(super) fn still_bad(&self, endpoint: &Arc<Endpoint>) {
        if let Some(rules) = &self.breaker {
            endpoint.still_bad(rules.eject_for, rules.eject_for_max);
        }
    }

    /// Says that an endpoint's state changed.
    fn tell(&self, endpoint: &Endpoint, turn: Option<Turn>) {
        let Some(Turn { from, to }) = turn else { return };
        let (server, number, url) = (&self.server, endpoint.number(), endpoint.address());
        let why = to.why().unwrap_or("");
        if to.takes_calls() {
            tracing::info!(%server, endpoint = number, url, from, to = to.name(), why, "endpoint changed");
        } else {
            tracing::warn!(%server, endpoint = number, url, from, to = to.name(), why, "endpoint changed");
        }
        self.publish();
    }

    /// Shows the state of the endpoints in the metrics.
    pub(super) fn publish(&self) {
        for status in self.status() {
            self.meters.endpoint_state(status.number, status.state.name(), status.state.takes_calls());
        }
        let ready = |wanted: Ready| self.endpoints.iter().any(|endpoint| endpoint.ready() == wanted);
        let circuit = match () {
            () if ready(Ready::Yes) || ready(Ready::Starting) => 0,
            () if ready(Ready::HalfOpen) => 1,
            () if self.endpoints.iter().any(|endpoint| endpoint.open_until().is_some()) => 2,
            () => 0,
        };
        self.meters.circuit(circuit);
        self.meters.up(self.is_up());
    }
}

/// Draws one by weight.
fn draw(candidates: &[(usize, u64)], but: Option<usize>) -> Option<(usize, u64)> {
    let open = || candidates.iter().filter(|(at, _)| Some(*at) != but);
    let total: u64 = open().map(|(_, weight)| weight).sum();
    let mut left = fastrand::u64(0..total.max(1));
    open()
        .find(|(_, weight)| {
            let found = left < *weight;
            left = left.saturating_sub(*weight);
            found
        })
        .copied()
}

/// Two numbers made one in which each bit of both counts (the finalizer of SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The address of a child behind the bridge; its host is a name for logs and is never resolved.
fn bridge_uri(path: &str) -> Uri {
    let uri = Uri::builder().scheme("http").authority("bridge.invalid").path_and_query(path).build();
    uri.unwrap_or_default()
}

#[cfg(test)]
mod tests;
