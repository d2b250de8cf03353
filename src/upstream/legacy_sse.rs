//! Servers of 2024-11-05 (HTTP+SSE): to the rest of the program they are endpoints of Streamable HTTP with sessions.
//! Not here: clients of that revision (`proxy/sse`); connections (`http`).
//!
//! `remote-sse` is the Open MCP Gateway's name for JSON-RPC over POST, and everybody else's for this transport. What a
//! server speaks is found out as clients do (2026-07-28/basic/transports, "Backward Compatibility"): `initialize` is
//! posted first, and where that is answered with 400, 404 or 405 a stream is opened and its endpoint event waited for.
//! The verdict is kept until it fails. A stream is a session: `initialize` opens one, a POST is answered when its response has come on
//! it, and what the server says unasked goes to the session's GET stream. When the stream ends the session is unknown.

mod place;
mod session;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::endpoint::Endpoint;
use super::http::{Answer, Connector, SendError};
use crate::mcp::{Code, EventReader, Id, Kind, Message, ParseLimits, RpcError, parse};
use place::resolve;
use session::Session;

/// The session header of the legacy era.
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// Sessions with one endpoint at once: each is a connection there.
const SESSIONS_MAX: usize = 10_000;
/// One event of a server: what else is read whole of an answer is as long.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The endpoint event is the first thing that a server says, at once.
const ENDPOINT: Duration = Duration::from_secs(10);
/// What a server answers to a message is a word at most.
const ACCEPTED_BYTES_MAX: usize = 64 * 1024;
/// The body was read by the proxy, which has bounds of its own for it.
const LIMITS: ParseLimits = ParseLimits { depth_max: 4096 };

type Sessions = Arc<Mutex<HashMap<Box<str>, Arc<Session>>>>;

/// What an endpoint that may be a server of 2024-11-05 has open.
#[derive(Debug, Default)]
pub(super) struct LegacySse {
    /// Whether it has turned out to be one.
    known: AtomicBool,
    sessions: Sessions,
}

impl Drop for LegacySse {
    fn drop(&mut self) {
        // The server has left the catalog.
        self.sessions.lock().values().for_each(|session| session.end());
    }
}

/// A request as it would be sent.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl LegacySse {
    /// Sends a request as the server speaks.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        connector: &Connector,
        asked: Asked,
    ) -> Result<Response<Answer>, SendError> {
        let session = asked.headers.get(&SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
        if let Some(id) = session {
            let open = self.sessions.lock().get(id.as_str()).cloned();
            match open {
                Some(open) => return self.in_session(endpoint, connector, (&id, &open), asked).await,
                None if self.known.load(Ordering::Relaxed) => {
                    return Ok(refuse(StatusCode::NOT_FOUND, Code::NOT_FOUND, "Session not found", None));
                }
                // The server may have sessions of its own, as Streamable HTTP has them.
                None => return endpoint.post_as_is(connector, asked).await,
            }
        }
        let body = asked.body.clone();
        let message = parse(&body, LIMITS).ok();
        let opens = message.as_ref().is_some_and(|message| &*message.method_name == "initialize");
        let known = self.known.load(Ordering::Relaxed);
        if known && !opens {
            let id = message.as_ref().and_then(id_of);
            let words = "the server speaks 2024-11-05: initialize first";
            return Ok(refuse(StatusCode::NOT_FOUND, Code::METHOD_NOT_FOUND, words, id.as_ref()));
        }
        let (Some(message), true) = (message, opens) else {
            return endpoint.post_as_is(connector, asked).await;
        };
        let first = match known {
            true => None,
            false => {
                let again = Asked {
                    method: asked.method.clone(),
                    headers: asked.headers.clone(),
                    body: body.clone(),
                };
                let first = endpoint.post_as_is(connector, again).await?;
                if !matches!(first.status().as_u16(), 400 | 404 | 405) {
                    return Ok(first);
                }
                Some(first)
            }
        };
        match self.open(endpoint, connector, &asked, &message).await? {
            Some(opened) => Ok(opened),
            None => {
                // A server that has become another is asked as one that is not known.
                self.known.store(false, Ordering::Relaxed);
                match first {
                    // What it said to the POST is what there is to say.
                    Some(first) => Ok(first),
                    None => endpoint.post_as_is(connector, asked).await,
                }
            }
        }
    }

    /// Opens a stream and posts `initialize` for it. `None` if there is no such stream.
    async fn open(
        &self,
        endpoint: &Endpoint,
        connector: &Connector,
        asked: &Asked,
        hello: &Message<'_>,
    ) -> Result<Option<Response<Answer>>, SendError> {
        if self.sessions.lock().len() >= SESSIONS_MAX {
            let words = "the server has all the sessions it may have";
            return Ok(Some(refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::UNAVAILABLE,
                words,
                id_of(hello).as_ref(),
            )));
        }
        let mut headers = asked.headers.clone();
        headers.remove(header::CONTENT_TYPE);
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        let opening = endpoint.get_as_is(connector, headers);
        let Ok(answer) = timeout(ENDPOINT, opening).await else { return Ok(None) };
        let answer = answer?;
        if answer.status() != StatusCode::OK || !is_events(&answer) {
            return Ok(None);
        }
        let mut stream = answer.into_body();
        let mut reader = EventReader::new(EVENT_BYTES_MAX);
        let found = timeout(ENDPOINT, first_event(&mut stream, &mut reader)).await.ok().flatten();
        let Some((place, rest)) = found else { return Ok(None) };
        self.known.store(true, Ordering::Relaxed);
        let Some(target) = resolve(endpoint.url(), &place) else {
            tracing::warn!("the endpoint event of a server leads to another origin, or nowhere");
            // It would send messages, and the gateway's credential with them, where nobody configured.
            return Ok(Some(redirect()));
        };
        let Some((id, session)) = self.register(target) else { return Ok(None) };
        session.take_all(rest);
        session::read(Arc::clone(&session), (stream, reader), (Arc::clone(&self.sessions), id.clone()));
        let again = Asked { method: Method::POST, headers: asked.headers.clone(), body: asked.body.clone() };
        let mut answered = self.in_session(endpoint, connector, (&id, &session), again).await;
        match &mut answered {
            Ok(answer) if answer.status().is_success() => {
                if let Ok(id) = HeaderValue::from_str(&id) {
                    answer.headers_mut().insert(SESSION, id);
                }
            }
            _ => session.end(),
        }
        answered.map(Some)
    }

    fn register(&self, target: Uri) -> Option<(Box<str>, Arc<Session>)> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).ok()?;
        let id: Box<str> = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
        let session = Arc::new(Session::new(target));
        self.sessions.lock().insert(id.clone(), Arc::clone(&session));
        Some((id, session))
    }

    /// A request in an open session.
    async fn in_session(
        &self,
        endpoint: &Endpoint,
        connector: &Connector,
        (id, session): (&str, &Arc<Session>),
        asked: Asked,
    ) -> Result<Response<Answer>, SendError> {
        session.used();
        match asked.method {
            Method::GET => return Ok(events(session.listen())),
            Method::DELETE => {
                self.sessions.lock().remove(id);
                session.end();
                return Ok(empty(StatusCode::OK));
            }
            _ => {}
        }
        let message = parse(&asked.body, LIMITS).ok();
        let request = message.as_ref().filter(|message| message.kind == Kind::Request).and_then(id_of);
        let waiting = match &request {
            None => None,
            Some(id) => match session.expect(id) {
                Some(waiting) => Some(waiting),
                None => {
                    let words = "too many requests at once, or two of one id";
                    return Ok(refuse(StatusCode::CONFLICT, Code::INVALID_REQUEST, words, Some(id)));
                }
            },
        };
        let mut headers = asked.headers.clone();
        // A server of that revision knows neither.
        headers.remove(&SESSION);
        headers.remove("mcp-protocol-version");
        let accepted = endpoint.post_to(connector, &session.target, (headers, asked.body.clone())).await?;
        let status = accepted.status();
        if !status.is_success() {
            return Ok(if status == StatusCode::NOT_FOUND {
                session.end();
                refuse(StatusCode::NOT_FOUND, Code::NOT_FOUND, "Session not found", request.as_ref())
            } else {
                accepted
            });
        }
        // Read, so that the connection can be used again.
        let _ = http_body_util::Limited::new(accepted.into_body(), ACCEPTED_BYTES_MAX).collect().await;
        let (Some(waiting), Some(id)) = (waiting, request) else { return Ok(empty(StatusCode::ACCEPTED)) };
        match waiting.response().await {
            Some(response) => Ok(json(StatusCode::OK, response)),
            None => {
                let words = "the server's stream ended before the response; whether the call ran is unknown";
                Ok(refuse(StatusCode::BAD_GATEWAY, Code::BAD_UPSTREAM, words, Some(&id)))
            }
        }
    }
}

/// The data of the first event if that is `endpoint`, and the events that came with it.
async fn first_event(stream: &mut Answer, reader: &mut EventReader) -> Option<(String, Vec<Bytes>)> {
    loop {
        let data = stream.frame().await?.ok()?.into_data().ok()?;
        let mut events = reader.feed(&data).ok()?.into_iter();
        let Some(first) = events.next() else { continue };
        let place = (first.name == "endpoint").then(|| String::from_utf8(first.data).ok()).flatten()?;
        return Some((place, events.map(|event| event.data.into()).collect()));
    }
}

fn id_of(message: &Message<'_>) -> Option<Id> {
    message.id.and_then(|id| Id::from_json(id.get()))
}

fn is_events(answer: &Response<Answer>) -> bool {
    let value = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("text/event-stream")
}

fn answer(status: StatusCode, kind: Option<&'static str>, body: Answer) -> Response<Answer> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    if let Some(kind) = kind {
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    answer
}

fn empty(status: StatusCode) -> Response<Answer> {
    answer(status, None, Answer::whole(Bytes::new()))
}

fn json(status: StatusCode, body: Bytes) -> Response<Answer> {
    answer(status, Some("application/json"), Answer::whole(body))
}

fn events(body: Answer) -> Response<Answer> {
    answer(StatusCode::OK, Some("text/event-stream"), body)
}

/// What the rest of the program knows as an answer that leads out of the catalog.
fn redirect() -> Response<Answer> {
    empty(StatusCode::TEMPORARY_REDIRECT)
}

fn refuse(status: StatusCode, code: Code, words: &str, id: Option<&Id>) -> Response<Answer> {
    json(status, RpcError { code, message: words.to_owned(), data: None }.to_message(id))
}
