//! What is recorded of a request: one access-log line, and its place in the metrics.
//! Not here: how lines are written or metrics kept (`telemetry`).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use pingora_proxy::Session;
use prometheus::IntGauge;
use tokio::time::Instant;

use super::headers::REQUEST_ID;
use crate::auth::Caller;
use crate::mcp::{Era, Method};
use crate::telemetry::{AccessLog, Audit, Line, Meters, Outcome, ServerMeters};
use crate::upstream::Upstream;

/// Longest tool name or request id that a line repeats.
const SHOWN_BYTES_MAX: usize = 128;

/// Records requests.
pub struct Recorder {
    log: AccessLog,
    audit: Audit,
    meters: Arc<Meters>,
    /// Requests that reached no server, under labels that no server id can have.
    nowhere: Arc<ServerMeters>,
    control: Arc<ServerMeters>,
    prefix: u32,
    counter: AtomicU64,
}

/// What the access log prints of one request. Written only in this room.
pub(super) struct Record {
    request_id: HeaderValue,
    _running: Running,
    started: Instant,
    /// The client's address, behind the proxies that are trusted.
    pub(super) client: Option<IpAddr>,
    pub(super) door: &'static str,
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) upstream: Option<Arc<Upstream>>,
    pub(super) method: Option<Method>,
    pub(super) method_name: Option<String>,
    pub(super) tool: Option<String>,
    pub(super) era: Option<Era>,
    pub(super) outcome: Option<Outcome>,
    pub(super) reason: Option<&'static str>,
    pub(super) upstream_time: Option<Duration>,
    pub(super) attempts: u32,
}

/// Counts a request as running, however it ends.
struct Running(IntGauge);

impl Running {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Recorder {
    /// A recorder that writes to `log`, tells refusals to `audit` and counts in `meters`.
    pub fn new(log: AccessLog, audit: Audit, meters: Arc<Meters>) -> Self {
        let mut prefix = [0u8; 4];
        // Without randomness ids are still unique within the process.
        let _ = getrandom::fill(&mut prefix);
        Self {
            log,
            audit,
            nowhere: meters.server("_none"),
            control: meters.server("_control"),
            meters,
            prefix: u32::from_be_bytes(prefix),
            counter: AtomicU64::new(1),
        }
    }

    pub(super) fn begin(&self) -> Record {
        let mut request_id = String::with_capacity(20);
        let _ = write!(request_id, "{:08x}{:08x}", self.prefix, self.counter.fetch_add(1, Ordering::Relaxed));
        // Hexadecimal digits are always a header's value.
        let request_id = HeaderValue::try_from(request_id).unwrap_or(HeaderValue::from_static("-"));
        Record {
            request_id,
            _running: Running::new(self.meters.in_flight()),
            started: Instant::now(),
            client: None,
            door: "none",
            caller: None,
            upstream: None,
            method: None,
            method_name: None,
            tool: None,
            era: None,
            outcome: None,
            reason: None,
            upstream_time: None,
            attempts: 0,
        }
    }

    /// The request is over: counts it and writes its line.
    pub(super) fn finish(&self, record: &Record, session: &Session, broken: bool) {
        let took = record.started.elapsed();
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        let outcome = record.outcome.unwrap_or(if broken || status == 0 {
            Outcome::ClientGone
        } else if status >= 500 {
            Outcome::TransportError
        } else {
            Outcome::Ok
        });
        self.count(record, outcome, took);
        let line = line(record, session, Ended { status, outcome, took });
        if !self.log.write(line) {
            self.meters.dropped("access_log", 1);
        }
        if let (Some(reason), Outcome::Denied | Outcome::RateLimited) = (record.reason, outcome) {
            self.tell(record, session, (reason, status));
        }
    }

    /// An audit line for a refusal.
    fn tell(&self, record: &Record, session: &Session, (reason, status): (&'static str, u16)) {
        let request = session.req_header();
        self.audit.write("refused", |line| {
            let line = line
                .text("request_id", record.request_id())
                .text("reason", reason)
                .number("status", status.into())
                .text("door", record.door)
                .text("verb", request.method.as_str())
                .text("path", shown(request.uri.path()))
                .maybe("caller", record.caller.as_ref().map(|caller| &*caller.subject))
                .maybe("caller_kind", record.caller.as_ref().map(|caller| caller.kind.as_str()))
                .maybe("server", record.upstream.as_ref().map(|upstream| upstream.server.id.as_str()))
                .maybe(
                    "method",
                    record.method_name.as_deref().map(shown).or(record.method.and_then(Method::name)),
                )
                .maybe("tool", record.tool.as_deref().map(shown));
            match record.client {
                Some(address) => line.plain("client", address),
                None => line,
            }
        });
    }

    fn count(&self, record: &Record, outcome: Outcome, took: Duration) {
        let method = record.method.unwrap_or(Method::Other);
        match &record.upstream {
            Some(upstream) => {
                upstream.meters.exchange(method, outcome, took);
                if method == Method::ToolsCall {
                    upstream.meters.tool_call(record.tool.as_deref().unwrap_or_default(), outcome);
                }
                if matches!(outcome, Outcome::TransportError | Outcome::Timeout) {
                    upstream.activity.failed();
                }
            }
            None if record.door == "control" => self.control.exchange(Method::Other, outcome, took),
            None => self.nowhere.exchange(method, outcome, took),
        }
    }
}

/// How a request ended.
struct Ended {
    status: u16,
    outcome: Outcome,
    took: Duration,
}

fn line(record: &Record, session: &Session, ended: Ended) -> Line {
    let request = session.req_header();
    let mut line = Line::new()
        .plain("time", humantime::format_rfc3339_millis(SystemTime::now()))
        .text("type", "access")
        .text("request_id", record.request_id())
        .text("door", record.door)
        .text("verb", request.method.as_str())
        .number("status", ended.status.into())
        .text("outcome", ended.outcome.as_str());
    if let Some(caller) = &record.caller {
        line = line.text("caller", &caller.subject).text("caller_kind", caller.kind.as_str());
    }
    if let Some(upstream) = &record.upstream {
        line = line.text("server", upstream.server.id.as_str());
    }
    line = line
        .maybe("method", record.method_name.as_deref().map(shown).or(record.method.and_then(Method::name)))
        .maybe("tool", record.tool.as_deref().map(shown))
        .maybe("era", record.era.map(Era::as_str))
        .maybe("reason", record.reason);
    if record.door == "control" || record.door == "none" || record.door == "raw" {
        line = line.text("path", shown(request.uri.path()));
    }
    if let Some(address) = record.client {
        line = line.plain("client", address);
    }
    if let Some(time) = record.upstream_time {
        line = line.millis("upstream_ms", time).number("attempts", u64::from(record.attempts) + 1);
    }
    line.number("bytes_in", session.body_bytes_read() as u64)
        .number("bytes_out", session.body_bytes_sent() as u64)
        .millis("total_ms", ended.took)
}

/// The beginning of a text that a client chose.
fn shown(text: &str) -> &str {
    let mut end = text.len().min(SHOWN_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

impl Record {
    /// Takes the client's request id, if it is one that can be repeated safely.
    pub(super) fn arrived(&mut self, session: &Session) {
        let given = session.req_header().headers.get(&REQUEST_ID);
        let safe = |id: &&HeaderValue| {
            let id = id.as_bytes();
            let plain = |b: u8| {
                b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=')
            };
            !id.is_empty() && id.len() <= SHOWN_BYTES_MAX && id.iter().copied().all(plain)
        };
        if let Some(id) = given.filter(safe) {
            self.request_id = id.clone();
        }
    }

    /// The id that names this request in answers and logs.
    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// The same as a header's value.
    pub(super) fn request_id_header(&self) -> &HeaderValue {
        &self.request_id
    }

    /// The client left before it had its answer.
    pub(super) fn client_gone(&mut self) {
        self.outcome.get_or_insert(Outcome::ClientGone);
    }
}
