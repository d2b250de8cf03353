//! The sample server over HTTP: `/http`, `/modern`, `/mcp` and `/sse` on one listener.
//! Not here: what it answers (`react`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::body::Payload;
use super::react::{Reaction, react, refuse_modern};
use crate::mcp::{
    Code, Era, HeaderFault, Id, Kind, Message, Method, ParseLimits, RpcError, check_mirrored, encode_event,
    parse,
};

const LIMITS: ParseLimits = ParseLimits { depth_max: 128 };
const BODY_BYTES_MAX: usize = 4 << 20;
const CONNECTIONS_MAX: usize = 4096;
/// Sessions at once; the oldest unused one is not told from the others, so new ones are refused.
const SESSIONS_MAX: usize = 65_536;
const SESSION: &str = "mcp-session-id";
/// Answers that are on their way at shutdown get this long.
const FAREWELL: Duration = Duration::from_secs(5);

type Answer = Response<Payload>;

struct Sample {
    /// Live sessions; the signal turns true at the end of one.
    sessions: Mutex<HashMap<String, watch::Sender<bool>>>,
    shutdown: watch::Receiver<bool>,
}

/// Which eras a path speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Legacy,
    Modern,
    Both,
    /// No sessions, and every answer is an event stream.
    Sse,
}

/// Serves a listener until `shutdown` turns true.
pub async fn serve_http(listener: TcpListener, shutdown: watch::Receiver<bool>) {
    let sample = Arc::new(Sample { sessions: Mutex::default(), shutdown: shutdown.clone() });
    let mut connections = JoinSet::new();
    let mut down = shutdown.clone();
    loop {
        tokio::select! {
            () = turned(&mut down) => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => { connections.spawn(converse(Arc::clone(&sample), stream)); }
                // For want of descriptors, or a peer that was too quick to leave.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    drop(timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await);
}

async fn turned(down: &mut watch::Receiver<bool>) {
    drop(down.wait_for(|down| *down).await);
}

async fn converse(sample: Arc<Sample>, stream: TcpStream) {
    // Answers are small; waiting for more would only delay them.
    drop(stream.set_nodelay(true));
    let mut shutdown = sample.shutdown.clone();
    let service = service_fn(move |request| {
        let sample = Arc::clone(&sample);
        async move { Ok::<_, Infallible>(sample.answer(request).await) }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A peer that leaves is no matter of ours.
        _ = connection.as_mut() => return,
        () = turned(&mut shutdown) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(connection.await);
}

impl Sample {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = match request.uri().path() {
            "/http" => Path::Legacy,
            "/modern" => Path::Modern,
            "/mcp" => Path::Both,
            "/sse" => Path::Sse,
            _ => {
                return refuse(
                    StatusCode::NOT_FOUND,
                    Code::NOT_FOUND,
                    "try /http, /modern, /mcp or /sse",
                    None,
                );
            }
        };
        if !request.headers().get(ORIGIN).is_none_or(is_loopback) {
            return refuse(StatusCode::FORBIDDEN, Code::INVALID_REQUEST, "this origin is not allowed", None);
        }
        let sessions = matches!(path, Path::Legacy | Path::Both);
        match *request.method() {
            Verb::POST => self.post(path, request).await,
            Verb::GET if sessions => match self.session(request.headers()) {
                Ok(ended) => {
                    let first = Bytes::from_static(b":\n\n");
                    events(Payload::open(first, self.shutdown.clone(), Some(ended)))
                }
                Err(answer) => *answer,
            },
            Verb::DELETE if sessions => {
                let id = request.headers().get(SESSION).and_then(|id| id.to_str().ok()).unwrap_or_default();
                match self.sessions.lock().remove(id) {
                    Some(ended) => {
                        ended.send_replace(true);
                        empty(StatusCode::NO_CONTENT)
                    }
                    None => no_session(),
                }
            }
            _ => {
                let mut answer = empty(StatusCode::METHOD_NOT_ALLOWED);
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                answer
            }
        }
    }

    async fn post(&self, path: Path, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                Code::INVALID_REQUEST,
                "the body is too long",
                None,
            );
        };
        let body = body.to_bytes();
        let message = match parse(&body, LIMITS) {
            Ok(message) => message,
            Err(malformed) => {
                let said = malformed.kind.to_string();
                return refuse(StatusCode::BAD_REQUEST, Code::INVALID_REQUEST, &said, malformed.id.as_ref());
            }
        };
        let id = message.id.and_then(|raw| Id::from_json(raw.get()));
        let era = match check_mirrored(&head.headers, &message) {
            // A path for one era takes the other's requests for its own, and refuses them in its own words.
            Ok(Era::Legacy) if path == Path::Modern => {
                return refuse_era(id.as_ref(), "this path speaks 2026-07-28 only");
            }
            Ok(era) => era,
            Err(_) if matches!(path, Path::Legacy | Path::Sse) => Era::Legacy,
            Err(fault) => {
                let code = match fault {
                    HeaderFault::Mismatch(_) => Code::HEADER_MISMATCH,
                    HeaderFault::MissingMeta(_) => Code::INVALID_PARAMS,
                };
                return refuse(StatusCode::BAD_REQUEST, code, &fault.to_string(), id.as_ref());
            }
        };
        match era {
            Era::Modern if matches!(path, Path::Modern | Path::Both) => self.modern(&message),
            Era::Modern | Era::Legacy => self.legacy(path, &head.headers, &message),
        }
    }

    fn modern(&self, message: &Message<'_>) -> Answer {
        let mut out = Vec::new();
        if message.kind == Kind::Request && refuse_modern(message, &mut out).is_some() {
            return json(StatusCode::BAD_REQUEST, out);
        }
        match react(message, true, &mut out) {
            Reaction::Answered(Some(Code::METHOD_NOT_FOUND)) => json(StatusCode::NOT_FOUND, out),
            reaction => self.react(reaction, out, false),
        }
    }

    fn legacy(&self, path: Path, headers: &HeaderMap, message: &Message<'_>) -> Answer {
        let begins = message.method == Method::Initialize && message.kind == Kind::Request;
        if path != Path::Sse
            && !begins
            && let Err(answer) = self.session(headers)
        {
            return *answer;
        }
        let mut out = Vec::new();
        let reaction = react(message, false, &mut out);
        let mut answer = self.react(reaction, out, path == Path::Sse);
        if begins && path != Path::Sse {
            match self.begin() {
                Some(session) => drop(answer.headers_mut().insert(SESSION, session)),
                None => {
                    let said = "too many sessions";
                    return refuse(StatusCode::SERVICE_UNAVAILABLE, Code::UNAVAILABLE, said, None);
                }
            }
        }
        answer
    }

    fn react(&self, reaction: Reaction, out: Vec<u8>, as_events: bool) -> Answer {
        match reaction {
            // Not done: cancelling a legacy `slow` by notification. It ends by itself, within ten minutes.
            Reaction::Silent | Reaction::Cancelled(_) => empty(StatusCode::ACCEPTED),
            Reaction::Answered(_) if as_events => events(Payload::whole(encode_event(&out))),
            Reaction::Answered(_) => json(StatusCode::OK, out),
            Reaction::Slow(slow) => events(Payload::slow(slow)),
            Reaction::Listening => events(Payload::open(encode_event(&out), self.shutdown.clone(), None)),
        }
    }

    fn begin(&self) -> Option<HeaderValue> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes).ok()?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = self.sessions.lock();
        if sessions.len() >= SESSIONS_MAX {
            return None;
        }
        let header = HeaderValue::from_str(&id).ok()?;
        sessions.insert(id, watch::Sender::new(false));
        Some(header)
    }

    fn session(&self, headers: &HeaderMap) -> Result<watch::Receiver<bool>, Box<Answer>> {
        let Some(id) = headers.get(SESSION).and_then(|id| id.to_str().ok()) else {
            let said = "a session is required: send `initialize` first";
            return Err(Box::new(refuse(StatusCode::BAD_REQUEST, Code::SERVER_ERROR, said, None)));
        };
        self.sessions.lock().get(id).map(watch::Sender::subscribe).ok_or_else(|| Box::new(no_session()))
    }
}

fn is_loopback(origin: &HeaderValue) -> bool {
    let host = origin.to_str().ok().and_then(|text| text.parse::<http::Uri>().ok());
    host.and_then(|uri| uri.host().map(|h| matches!(h, "localhost" | "127.0.0.1" | "[::1]"))).unwrap_or(false)
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Payload::whole(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

fn json(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Payload::whole(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn events(payload: Payload) -> Answer {
    let mut answer = Response::new(payload);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

fn refuse(status: StatusCode, code: Code, message: &str, id: Option<&Id>) -> Answer {
    let error = RpcError { code, message: message.to_owned(), data: None };
    json(status, error.to_message(id).to_vec())
}

fn refuse_era(id: Option<&Id>, message: &str) -> Answer {
    let data = serde_json::json!({"supported": ["2026-07-28"], "requested": "initialize"});
    let error = RpcError { code: Code(-32022), message: message.to_owned(), data: Some(data) };
    json(StatusCode::BAD_REQUEST, error.to_message(id).to_vec())
}

fn no_session() -> Answer {
    refuse(StatusCode::NOT_FOUND, Code::NOT_FOUND, "Session not found", None)
}
