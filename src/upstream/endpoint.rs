//! One endpoint: its address, prepared for requests, and its live state.
//! Not here: which endpoint a call takes (`select`); how its health is asked (`health`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use bytes::Bytes;
use http_body_util::Full;
use tokio::time::Instant;

use super::http::{Answer, Connector, Lines, SendError};
use super::legacy_sse::{Asked, LegacySse};
use super::{EndpointStatus, Outgoing, RawTarget};

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
    /// What the health checks say; true until one says otherwise.
    up: AtomicBool,
    /// Milliseconds since `epoch` of the last refused connection, plus one; 0 when it has answered since.
    refused_ms: AtomicU64,
    in_flight: Arc<AtomicUsize>,
    epoch: Instant,
}

/// A call running on an endpoint, until dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Endpoint {
    /// Endpoint `number` at `url`, which gets `headers` with every request.
    pub(super) fn new(number: usize, url: Uri, headers: &HeaderMap, lines: Lines) -> Self {
        let mut headers = headers.clone();
        let host = url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        headers.insert(header::HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
        let target = url.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        let digest = ring::digest::digest(&ring::digest::SHA256, url.to_string().as_bytes());
        let key = digest.as_ref().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Self {
            number,
            key,
            url,
            target,
            headers,
            lines,
            legacy_sse: None,
            up: AtomicBool::new(true),
            refused_ms: AtomicU64::new(0),
            in_flight: Arc::default(),
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
        let Outgoing { method, headers, body } = outgoing;
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

    pub(super) fn enter(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// Whether the health checks have it in rotation.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Records what the health checks say; returns whether that is news.
    pub(super) fn set_up(&self, up: bool) -> bool {
        if up {
            self.refused_ms.store(0, Ordering::Release);
        }
        self.up.swap(up, Ordering::AcqRel) != up
    }

    /// It refused a connection.
    pub(super) fn refused(&self) {
        self.refused_ms.store(self.now_ms() + 1, Ordering::Release);
    }

    /// It answered.
    pub(super) fn answered(&self) {
        if self.refused_ms.load(Ordering::Relaxed) != 0 {
            self.refused_ms.store(0, Ordering::Release);
        }
    }

    /// Whether it refused a connection less than `within` ago and has not answered since.
    pub(super) fn refused_within(&self, within: Duration) -> bool {
        let at = self.refused_ms.load(Ordering::Acquire);
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        at != 0 && self.now_ms().saturating_sub(at - 1) < within
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

    pub(super) fn status(&self) -> EndpointStatus {
        let url = format!(
            "{}://{}{}",
            self.url.scheme_str().unwrap_or("http"),
            self.url.authority().map_or("", |authority| authority.as_str()),
            self.url.path()
        );
        let in_flight = self.in_flight.load(Ordering::Acquire);
        EndpointStatus { number: self.number, url, healthy: self.is_up(), in_flight }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
