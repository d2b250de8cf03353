//! An upstream's answer, made into a reply or found to be a lie.
//! Not here: how it was asked for (`relay`, `ask`); how it is written to the client (`proxy/write`).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::sift::Sift;
use super::{HubError, Lie, Relayed, whole};
use crate::conf::Limits;
use crate::mcp::{Answer, Code, Id, Method, RpcError, Verdict};
use crate::reply::{Body, Reply, Stream};
use crate::session::SessionError;
use crate::telemetry::Outcome;
use crate::upstream::{self, Arrived, Deadline, Fault, Treatment, UpstreamError};

/// A JSON answer up to this size is looked at as a whole before it goes on; a longer one streams.
const LOOKED_AT_BYTES_MAX: usize = 64 * 1024;
/// Headers of an answer that travel to the client. Not among them: cookies, challenges, server names.
const PASSED: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CACHE_CONTROL,
    header::RETRY_AFTER,
    header::ALLOW,
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("x-accel-buffering"),
];
/// Set by the bridge on a JSON-RPC error that it made itself, because the child could not.
const BRIDGE_OUTCOME: HeaderName = HeaderName::from_static("x-tollgate-outcome");

/// What the answer has to be.
#[derive(Debug)]
pub(super) struct Expected<'m> {
    /// The method that was asked.
    pub(super) method: Method,
    /// Whether a JSON-RPC response is owed.
    pub(super) response: bool,
    /// The id of the request.
    pub(super) id: Option<&'m Id>,
    /// What becomes of lists in it.
    pub(super) sift: Option<Arc<Sift>>,
    /// How the call is treated.
    pub(super) treatment: Treatment,
    /// Whether it went out on a session of the server's.
    pub(super) session: bool,
}

impl Expected<'_> {
    /// The response to the request; `None` if the message is none, or one to another request.
    fn verdict(&self, message: &[u8]) -> Option<Verdict> {
        let answer = match self.id {
            Some(id) => Answer::read_to(message, id),
            None => Answer::read(message),
        };
        match answer {
            Some(Answer::Response(verdict)) => Some(verdict),
            _ => None,
        }
    }
}

/// What a body says it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Json,
    Events,
    Other,
}

/// Reads an answer as far as needed to tell what it is.
pub(super) async fn read(
    limits: &Limits,
    arrived: Arrived,
    expected: Expected<'_>,
) -> Result<Relayed, HubError> {
    let Arrived { response, took, attempts, attempt } = arrived;
    let read = read_on(limits, response, (attempt.sent(), &expected)).await;
    match &read {
        Ok((reply, _)) if reply.status.is_server_error() => {}
        Ok(_) => attempt.succeeded(),
        Err(error) => drop(fault_of(error).map(|fault| attempt.failed(fault))),
    }
    let (reply, outcome) = read?;
    Ok(Relayed { reply, outcome, upstream_time: took, attempts, attempt: Some(attempt) })
}

/// What of an answer that could not be read is the endpoint's doing. What it had no status for was told before.
fn fault_of(error: &HubError) -> Option<Fault> {
    match error {
        HubError::Lie(Lie::Credentials | Lie::Status(_)) => None,
        HubError::Lie(Lie::Truncated) => Some(Fault::Broken),
        HubError::Lie(_) => Some(Fault::Answer),
        HubError::Upstream(UpstreamError::Late(..)) => Some(Fault::Late),
        _ => None,
    }
}

async fn read_on(
    limits: &Limits,
    response: http::Response<upstream::Answer>,
    (sent, expected): (Instant, &Expected<'_>),
) -> Result<(Reply, Option<Outcome>), HubError> {
    let (head, body) = response.into_parts();
    let open_ended = matches!(expected.method, Method::Stream | Method::Listen);
    let treatment = &expected.treatment;
    let deadline = (!open_ended).then(|| sent + treatment.total);
    let idle = (!open_ended).then_some(treatment.idle);
    let reader = Reader { rest: body, idle: treatment.idle, total: treatment.total, deadline };
    let kind = type_of(&head.headers);
    let (reply, outcome) = match head.status {
        status if status.is_informational() || status.is_redirection() => {
            return Err(HubError::Lie(Lie::Redirect));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            return Err(HubError::Lie(Lie::Credentials));
        }
        status if !status.is_success() => Box::pin(failure(status, &head.headers, reader, expected)).await?,
        status if kind == Type::Events && (expected.response || expected.method == Method::Stream) => {
            let headers = streaming(passed(&head.headers));
            let rest = match &expected.sift {
                None => reader.rest.boxed_unsync(),
                Some(sift) => {
                    let events =
                        Arc::clone(sift).events(reader.rest, limits.answer_bytes_max, expected.id.cloned());
                    events.boxed_unsync()
                }
            };
            let total = treatment.total;
            let stream =
                Stream { first: Bytes::new(), rest, idle, deadline, total, events: true, farewell: None };
            (Reply { status, headers, body: Body::Stream(Box::new(stream)) }, None)
        }
        status if !expected.response => {
            // Nothing is owed: 202 for a notification, 200 or 204 for DELETE. What came in the body is dropped, so
            // that the connection can be used again.
            let _ = reader.collect(limits.answer_bytes_max.min(LOOKED_AT_BYTES_MAX)).await;
            (whole(status, HeaderMap::new(), Bytes::new()), Some(Outcome::Ok))
        }
        status if kind == Type::Json => match &expected.sift {
            None => json(status, &head.headers, reader, expected).await?,
            Some(sift) => Box::pin(list(status, &head.headers, reader, (sift, expected), limits)).await?,
        },
        _ => return Err(HubError::Lie(Lie::Type)),
    };
    let outcome = bridge_outcome(&head.headers).or(outcome);
    Ok((reply, outcome))
}

/// A whole JSON answer, or the beginning of a long one.
async fn json(
    status: StatusCode,
    headers: &HeaderMap,
    reader: Reader,
    expected: &Expected<'_>,
) -> Result<(Reply, Option<Outcome>), HubError> {
    let headers = passed(headers);
    match reader.collect(LOOKED_AT_BYTES_MAX).await? {
        Collected::All(body) => {
            let Some(verdict) = expected.verdict(&body) else {
                return Err(HubError::Lie(Lie::Content));
            };
            Ok((whole(status, headers, body), Some(outcome_of(verdict))))
        }
        Collected::More(first, reader) => {
            if first.trim_ascii_start().first() != Some(&b'{') {
                return Err(HubError::Lie(Lie::Content));
            }
            let Reader { rest, idle, deadline, total } = reader;
            let stream = Stream {
                first,
                rest: rest.boxed_unsync(),
                idle: Some(idle),
                deadline,
                total,
                events: false,
                farewell: None,
            };
            Ok((Reply { status, headers, body: Body::Stream(Box::new(stream)) }, Some(Outcome::Ok)))
        }
    }
}

/// A JSON answer with a list, which is read whole.
async fn list(
    status: StatusCode,
    headers: &HeaderMap,
    reader: Reader,
    (sift, expected): (&Sift, &Expected<'_>),
    limits: &Limits,
) -> Result<(Reply, Option<Outcome>), HubError> {
    let Collected::All(body) = reader.collect(limits.answer_bytes_max).await? else {
        return Err(HubError::Lie(Lie::TooLong));
    };
    let Some(verdict) = expected.verdict(&body) else {
        return Err(HubError::Lie(Lie::Content));
    };
    let body = sift.message(body).map_err(HubError::Lie)?;
    Ok((whole(status, passed(headers), body), Some(outcome_of(verdict))))
}

/// A status that tells of failure: a JSON-RPC message goes on, anything else becomes words of ours. An SDK server says
/// `application/json` of its own, and frameworks before it say that of stack traces.
async fn failure(
    status: StatusCode,
    headers: &HeaderMap,
    reader: Reader,
    expected: &Expected<'_>,
) -> Result<(Reply, Option<Outcome>), HubError> {
    let outcome = if status.is_server_error() { Outcome::TransportError } else { Outcome::RpcError };
    let json = type_of(headers) == Type::Json;
    let mut headers = passed(headers);
    let body = match reader.collect(LOOKED_AT_BYTES_MAX).await {
        Ok(Collected::All(body)) => body,
        _ => Bytes::new(),
    };
    if expected.session && is_about_the_session(status, &body) {
        return Err(HubError::Session(SessionError::Lost));
    }
    if json && Answer::read(&body).is_some() {
        let body = match &expected.sift {
            None => body,
            Some(sift) => sift.message(body).map_err(HubError::Lie)?,
        };
        return Ok((whole(status, headers, body), Some(outcome)));
    }
    // From 600 on a status is none of HTTP.
    let is_error = status.is_server_error() || status.as_u16() >= 600;
    if is_error && status != StatusCode::SERVICE_UNAVAILABLE {
        return Err(HubError::Lie(Lie::Status(status.as_u16())));
    }
    let error = RpcError {
        code: Code::INVALID_REQUEST,
        message: format!("the server answered HTTP {}", status.as_u16()),
        data: None,
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((whole(status, headers, error.to_message(expected.id)), Some(outcome)))
}

/// Whether a refusal says that the session is unknown: 404 by the specification (2025-11-25/basic/transports, "Session
/// Management"); 400 in practice, in words that all name it, or what it was opened by.
fn is_about_the_session(status: StatusCode, body: &[u8]) -> bool {
    let says =
        |word: &str| body.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()));
    match status {
        StatusCode::NOT_FOUND => true,
        StatusCode::BAD_REQUEST => says("session") || says("not initialized") || says("uninitialized"),
        _ => false,
    }
}

/// The outcome that a response carries.
pub(super) fn outcome_of(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Ok => Outcome::Ok,
        Verdict::ToolError => Outcome::ToolError,
        Verdict::RpcError => Outcome::RpcError,
    }
}

fn bridge_outcome(headers: &HeaderMap) -> Option<Outcome> {
    match headers.get(&BRIDGE_OUTCOME)?.as_bytes() {
        b"timeout" => Some(Outcome::Timeout),
        _ => Some(Outcome::TransportError),
    }
}

fn type_of(headers: &HeaderMap) -> Type {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if value == "application/json" {
        return Type::Json;
    }
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Type::Json
    } else if essence.eq_ignore_ascii_case("text/event-stream") {
        Type::Events
    } else {
        Type::Other
    }
}

fn passed(headers: &HeaderMap) -> HeaderMap {
    // Room for what the proxy adds, so that the map does not grow under it.
    let mut kept = HeaderMap::with_capacity(12);
    for (name, value) in headers {
        if PASSED.contains(name) {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
}

/// What keeps proxies on the way from holding events back (2026-07-28/basic/transports/streamable-http).
fn streaming(mut headers: HeaderMap) -> HeaderMap {
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.entry("x-accel-buffering").or_insert(HeaderValue::from_static("no"));
    headers
}

/// A body with its deadlines.
pub(super) struct Reader {
    rest: upstream::Answer,
    idle: Duration,
    total: Duration,
    deadline: Option<Instant>,
}

/// A body that was read to its end, or so far that it is too long to be looked at.
enum Collected {
    All(Bytes),
    More(Bytes, Reader),
}

impl Reader {
    /// The next piece; `None` at a proper end.
    async fn next(&mut self) -> Result<Option<Bytes>, HubError> {
        // What has come with the head is there at once, and needs neither clock nor timer. An end or a break that is
        // there at once is told once only, so it counts here.
        match poll_fn(|cx| Poll::Ready(Pin::new(&mut self.rest).poll_frame(cx))).await {
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Poll::Ready(Some(Err(_))) => return Err(HubError::Lie(Lie::Truncated)),
            Poll::Ready(None) => return Ok(None),
            Poll::Pending => {}
        }
        let idle = Instant::now() + self.idle;
        let (until, which) = match self.deadline.filter(|deadline| *deadline < idle) {
            Some(deadline) => (deadline, UpstreamError::Late(Deadline::Total, self.total)),
            None => (idle, UpstreamError::Late(Deadline::Idle, self.idle)),
        };
        loop {
            match timeout_at(until, self.rest.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(_))) => return Err(HubError::Lie(Lie::Truncated)),
                Ok(None) => return Ok(None),
                Err(_) => return Err(which.into()),
            }
        }
    }

    async fn collect(mut self, bytes_max: usize) -> Result<Collected, HubError> {
        let Some(first) = self.next().await? else { return Ok(Collected::All(Bytes::new())) };
        if self.rest.is_end_stream() {
            return Ok(Collected::All(first));
        }
        let mut whole: Option<BytesMut> = None;
        loop {
            let so_far = whole.as_ref().map_or(first.len(), BytesMut::len);
            if so_far > bytes_max {
                return Ok(Collected::More(whole.map_or(first, BytesMut::freeze), self));
            }
            match self.next().await? {
                Some(piece) => {
                    whole.get_or_insert_with(|| BytesMut::from(first.as_ref())).extend_from_slice(&piece)
                }
                None => return Ok(Collected::All(whole.map_or(first, BytesMut::freeze))),
            }
        }
    }
}
