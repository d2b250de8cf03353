//! One endpoint: its address, prepared for requests, and its live state.
//! Not here: which endpoint a call takes and when one leaves (`select`); how its health is asked (`health`).

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use bytes::Bytes;
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::breaker::{Breaker, Circuit, Fault};
use super::http::{Answer, Connector, Lines, SendError};
use super::legacy_sse::{Asked, LegacySse};
use super::state::{EndpointState, EndpointStatus};
use super::{Outgoing, RawTarget};
use crate::catalog;

/// An endpoint of a server. Equal address and headers across a reload mean the same endpoint, with its state.
#[derive(Debug)]
pub(super) struct Endpoint {
    number: usize,
    key: u64,
    url: Uri,
    /// The request target: path and query alone.
    target: Uri,
    /// What every request carries: `Host`, and the upstream's own credentials.
    headers: HeaderMap,
    lines: Lines,
    /// What it has open if it may be a server of 2024-11-05.
    legacy_sse: Option<LegacySse>,
    /// What `state` says about taking calls, to be read without a lock.
    ready: AtomicU8,
    state: Mutex<State>,
    /// Milliseconds since `epoch` of the last refused connection, plus one; 0 when it has answered since.
    refused_ms: AtomicU64,
    /// The same of the last success.
    succeeded_ms: AtomicU64,
    /// The same of its return, for the slow start.
    back_ms: AtomicU64,
    /// Successes since the last failure.
    successes: AtomicU32,
    failing: AtomicU8,
    in_flight: AtomicUsize,
    /// Of those, calls let through a half-open circuit.
    probing: AtomicUsize,
    epoch: Instant,
}

/// Whether an endpoint takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ready {
    /// It does.
    Yes,
    /// No health check has passed yet.
    Starting,
    /// A few at once, to see.
    HalfOpen,
    /// It does not.
    No,
}

impl Ready {
    const ALL: [Self; 4] = [Self::Yes, Self::Starting, Self::HalfOpen, Self::No];
}

#[derive(Debug)]
struct State {
    health: Health,
    /// Checks in a row with the same result.
    row: u16,
    checked: Option<(SystemTime, Result<(), &'static str>)>,
    breaker: Breaker,
    /// It failed enough to go, and stays because too many others are out.
    kept: Option<Fault>,
    since: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Starting,
    Up,
    Down(&'static str),
}

/// A change of state that is news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) from: &'static str,
    pub(super) to: EndpointState,
}

impl Endpoint {
    /// Endpoint `number` at `url`, which gets `headers` with every request. One that is `checked` for its health is
    /// not trusted before the first check.
    pub(super) fn new(number: usize, url: Uri, headers: &HeaderMap, lines: Lines, checked: bool) -> Self {
        let mut headers = headers.clone();
        let host = url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        headers.insert(header::HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
        let target = url.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        let digest = ring::digest::digest(&ring::digest::SHA256, url.to_string().as_bytes());
        let key = digest.as_ref().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let (health, ready) =
            if checked { (Health::Starting, Ready::Starting) } else { (Health::Up, Ready::Yes) };
        let state = State {
            health,
            row: 0,
            checked: None,
            breaker: Breaker::new(),
            kept: None,
            since: SystemTime::now(),
        };
        Self {
            number,
            key,
            url,
            target,
            headers,
            lines,
            legacy_sse: None,
            ready: AtomicU8::new(ready as u8),
            state: Mutex::new(state),
            refused_ms: AtomicU64::new(0),
            succeeded_ms: AtomicU64::new(0),
            back_ms: AtomicU64::new(0),
            successes: AtomicU32::new(0),
            failing: AtomicU8::new(0),
            in_flight: AtomicUsize::new(0),
            probing: AtomicUsize::new(0),
            epoch: Instant::now(),
        }
    }

    /// The same, of a server that may be one of 2024-11-05.
    pub(super) fn with_legacy_sse(mut self, may_be: bool) -> Self {
        self.legacy_sse = may_be.then(LegacySse::default);
        self
    }

    /// Whether it may be a server of 2024-11-05.
    pub(super) fn may_be_legacy_sse(&self) -> bool {
        self.legacy_sse.is_some()
    }

    /// Its address.
    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    /// A number made of the address: the same after a restart, so that sealed sessions find it.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Whether a server that lists `url` and `headers` at this number means this endpoint.
    pub(super) fn is(&self, number: usize, url: &Uri, headers: &HeaderMap) -> bool {
        let same = |(name, value)| name == header::HOST || headers.get(name) == Some(value);
        self.number == number
            && self.url == *url
            && self.headers.len() == headers.len() + 1
            && self.headers.iter().all(same)
    }

    /// Sends a request.
    pub(super) async fn send(
        &self,
        connector: &Connector,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Answer>, SendError> {
        match &self.legacy_sse {
            None => self.lines.send(connector, &self.url, self.request(method, headers, body)).await,
            // Rare, and boxed: the future of a plain call stays small.
            Some(legacy) => Box::pin(legacy.send(self, connector, Asked { method, headers, body })).await,
        }
    }

    /// Sends a request as it is.
    pub(super) async fn post_as_is(
        &self,
        connector: &Connector,
        Asked { method, headers, body }: Asked,
    ) -> Result<Response<Answer>, SendError> {
        self.lines.send(connector, &self.url, self.request(method, headers, body)).await
    }

    /// Opens a stream.
    pub(super) async fn get_as_is(
        &self,
        connector: &Connector,
        headers: HeaderMap,
    ) -> Result<Response<Answer>, SendError> {
        self.lines.send(connector, &self.url, self.request(Method::GET, headers, Bytes::new())).await
    }

    /// Posts to another target of the same origin.
    pub(super) async fn post_to(
        &self,
        connector: &Connector,
        target: &Uri,
        (headers, body): (HeaderMap, Bytes),
    ) -> Result<Response<Answer>, SendError> {
        let mut request = self.request(Method::POST, headers, body);
        *request.uri_mut() = target.clone();
        self.lines.send(connector, &self.url, request).await
    }

    /// Sends a request on a connection of its own, to `target` instead of the endpoint's path if there is one.
    pub(super) async fn probe(
        &self,
        connector: &Connector,
        outgoing: Outgoing,
        target: Option<Uri>,
    ) -> Result<Response<Answer>, SendError> {
        let Outgoing { method, headers, body, treatment: _ } = outgoing;
        let mut request = self.request(method, headers, body);
        if let Some(target) = target {
            *request.uri_mut() = target;
        }
        Lines::new(0).send(connector, &self.url, request).await
    }

    fn request(&self, method: Method, mut headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.clone();
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        *request.headers_mut() = headers;
        request
    }

    /// Closes connections that were idle for too long.
    pub(super) fn trim(&self) {
        self.lines.trim();
    }

    /// A call begins on it.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// A call on it is over.
    pub(super) fn leave(&self, probing: bool) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        if probing {
            self.probing.fetch_sub(1, Ordering::AcqRel);
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Whether it takes calls.
    pub(super) fn ready(&self) -> Ready {
        let ready = self.ready.load(Ordering::Acquire);
        Ready::ALL.get(usize::from(ready)).copied().unwrap_or(Ready::No)
    }

    /// Takes one of the places in a half-open circuit.
    pub(super) fn take_probe(&self) -> bool {
        let Circuit::HalfOpen { at_once, .. } = self.state.lock().breaker.circuit() else { return false };
        let more = |running: usize| (running < usize::from(at_once)).then_some(running + 1);
        self.probing.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Whether it is out, for how much longer, and why.
    pub(super) fn open_until(&self) -> Option<(Instant, Fault)> {
        match self.state.lock().breaker.circuit() {
            Circuit::Open { until, why } => Some((until, why)),
            // All places are taken by calls that will tell soon.
            Circuit::HalfOpen { why, .. } => Some((Instant::now(), why)),
            Circuit::Closed => None,
        }
    }

    /// Records what a health check found; after so many in a row it counts.
    pub(super) fn checked(&self, found: Result<(), &'static str>, after: (u16, u16)) -> Option<Turn> {
        self.change(|state, this| {
            let same = state.checked.is_some_and(|(_, before)| before.is_ok() == found.is_ok());
            state.row = if same { state.row.saturating_add(1) } else { 1 };
            state.checked = Some((SystemTime::now(), found));
            match found {
                Ok(()) => {
                    this.refused_ms.store(0, Ordering::Release);
                    if state.health == Health::Starting || state.row >= after.0 {
                        state.health = Health::Up;
                    }
                }
                Err(why) if state.row >= after.1 => state.health = Health::Down(why),
                Err(_) => {}
            }
        })
    }

    /// A call that was sent at `sent` failed. Returns whether that is enough for it to leave.
    pub(super) fn failed(&self, rules: &catalog::Breaker, fault: Fault, sent: Instant) -> bool {
        if fault == Fault::Connect {
            self.refused_ms.store(self.now_ms() + 1, Ordering::Release);
        }
        let sent_ms = u64::try_from(sent.duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX);
        if fault == Fault::Late && self.succeeded_ms.load(Ordering::Acquire) > sent_ms {
            // It answered others meanwhile: that one call was slow.
            return false;
        }
        let successes = || self.successes.swap(0, Ordering::AcqRel);
        let enough = self.state.lock().breaker.failed(rules, fault, (sent, Instant::now()), successes);
        self.failing.store(1, Ordering::Release);
        enough
    }

    /// A call succeeded.
    pub(super) fn succeeded(&self) -> Option<Turn> {
        self.successes.fetch_add(1, Ordering::AcqRel);
        self.succeeded_ms.store(self.now_ms() + 1, Ordering::Release);
        if self.refused_ms.load(Ordering::Relaxed) != 0 {
            self.refused_ms.store(0, Ordering::Release);
        }
        if self.failing.load(Ordering::Acquire) == 0 && self.ready() == Ready::Yes {
            return None;
        }
        self.failing.store(0, Ordering::Release);
        self.change(|state, _| {
            state.breaker.succeeded();
            state.kept = None;
        })
    }

    /// Takes it out until the time that its breaker says.
    pub(super) fn open(&self, why: Fault, first: Duration, longest: Duration) -> Option<Turn> {
        self.change(|state, _| {
            state.kept = None;
            state.breaker.open(why, Instant::now(), first, longest);
        })
    }

    /// Keeps it though it failed enough to go: too many others are out.
    pub(super) fn keep(&self, why: Fault) -> Option<Turn> {
        self.change(|state, _| state.kept = Some(why))
    }

    /// Whether it is kept though it failed enough to go.
    pub(super) fn is_kept(&self) -> bool {
        self.failing.load(Ordering::Acquire) != 0 && self.state.lock().kept.is_some()
    }

    /// Lets a few calls through to it, if it is out.
    pub(super) fn half_open(&self, at_once: u16) -> Option<Turn> {
        self.change(|state, _| state.breaker.half_open(at_once))
    }

    /// Puts it out again for what a check found after its time was over.
    pub(super) fn still_bad(&self, first: Duration, longest: Duration) {
        self.change(|state, _| {
            if let Circuit::Open { why, .. } = state.breaker.circuit() {
                state.breaker.open(why, Instant::now(), first, longest);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State, &Self)) -> Option<Turn> {
        let mut state = self.state.lock();
        let before = state.shown(self.recently_refused());
        let was_ready = self.ready();
        change(&mut state, self);
        let ready = state.ready();
        self.ready.store(ready as u8, Ordering::Release);
        if ready == Ready::Yes && was_ready > Ready::Starting {
            self.back_ms.store(self.now_ms() + 1, Ordering::Release);
        }
        let after = state.shown(self.recently_refused());
        if before.name() == after.name() {
            return None;
        }
        state.since = SystemTime::now();
        Some(Turn { from: before.name(), to: after })
    }

    /// From now on it is new among others, and starts slowly.
    pub(super) fn start_slowly(&self) {
        self.back_ms.store(self.now_ms() + 1, Ordering::Release);
    }

    /// Its share in thousandths, while it starts slowly.
    pub(super) fn share(&self, slow_start: Duration) -> u64 {
        let back = self.back_ms.load(Ordering::Acquire);
        let whole = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX);
        let since = self.now_ms().saturating_sub(back.saturating_sub(1));
        if back == 0 || since >= whole { 1_000 } else { (since * 1_000 / whole.max(1)).max(100) }
    }

    /// Whether it refused a connection less than `within` ago and has not answered since.
    pub(super) fn refused_within(&self, within: Duration) -> bool {
        let at = self.refused_ms.load(Ordering::Acquire);
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        at != 0 && self.now_ms().saturating_sub(at - 1) < within
    }

    fn recently_refused(&self) -> bool {
        self.refused_ms.load(Ordering::Acquire) != 0
    }

    /// The host and port of its address.
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']);
        (host, self.url.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 }))
    }

    fn is_secure(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }

    /// Its address, with the name looked up.
    pub(super) async fn resolve(&self) -> Option<RawTarget> {
        let (host, port) = self.host_and_port();
        let address = tokio::net::lookup_host((host, port)).await.ok()?.next()?;
        Some(RawTarget {
            address,
            secure: self.is_secure(),
            host: host.to_owned(),
            authority: self.url.authority().map(ToString::to_string).unwrap_or_default(),
            path: self.url.path().to_owned(),
            headers: self.headers.clone(),
            shown: None,
        })
    }

    /// Its address without query: that may carry a secret.
    pub(super) fn address(&self) -> String {
        format!(
            "{}://{}{}",
            self.url.scheme_str().unwrap_or("http"),
            self.url.authority().map_or("", |authority| authority.as_str()),
            self.url.path()
        )
    }

    pub(super) fn status(&self, draining: bool) -> EndpointStatus {
        let state = self.state.lock();
        let shown = state.shown(self.recently_refused());
        EndpointStatus {
            number: self.number,
            url: self.address(),
            state: if draining && shown.takes_calls() { EndpointState::Draining } else { shown },
            since: state.since,
            checked: state.checked,
            failures: state.breaker.streak(),
            in_flight: self.in_flight(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl State {
    fn ready(&self) -> Ready {
        match (self.breaker.circuit(), self.health) {
            (_, Health::Down(_)) | (Circuit::Open { .. }, _) => Ready::No,
            (Circuit::HalfOpen { .. }, _) => Ready::HalfOpen,
            (Circuit::Closed, Health::Starting) => Ready::Starting,
            (Circuit::Closed, Health::Up) => Ready::Yes,
        }
    }

    fn shown(&self, refused: bool) -> EndpointState {
        let failing = self.checked.and_then(|(_, found)| found.err());
        match (self.breaker.circuit(), self.health) {
            (_, Health::Down(why)) => EndpointState::Down(why.to_owned()),
            (Circuit::Open { until, why }, _) => {
                let left = until.saturating_duration_since(Instant::now());
                EndpointState::Ejected { until: SystemTime::now() + left, why: why.to_string() }
            }
            (Circuit::HalfOpen { why, .. }, _) => EndpointState::Degraded(format!("tried again after {why}")),
            (Circuit::Closed, Health::Starting) => EndpointState::Starting,
            (Circuit::Closed, Health::Up) => match (self.kept, failing) {
                (Some(why), _) => EndpointState::Degraded(format!("{why}, and too many others are out")),
                (None, Some(why)) => EndpointState::Degraded(format!("the last health check failed: {why}")),
                (None, None) if refused => EndpointState::Degraded(Fault::Connect.to_string()),
                (None, None) => EndpointState::Healthy,
            },
        }
    }
}
