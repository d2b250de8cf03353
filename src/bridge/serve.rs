//! The socket: accepts connections, finds the instance a path names, ends at shutdown.
//! Not here: what a POST does (`post`).

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::failure::Failure;
use super::payload::Payload;
use super::slot::Slot;
use super::supervisor::{Absent, Entry, Guest};
use super::{Bridge, orders, post, socket};
use crate::catalog::ServerId;
use crate::mcp::{Code, RpcError};

/// The header of a session.
pub(super) const SESSION: &str = "mcp-session-id";
/// Connections at once. The gateway bounds its calls; each takes one, and each GET stream too.
const CONNECTIONS_MAX: usize = 16_384;
/// After an accept that failed, for instance for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Answers that are on their way at shutdown get this long.
const FAREWELL: Duration = Duration::from_secs(1);

/// An answer of the bridge.
pub(super) type Answer = Response<Payload>;

/// Serves the socket until `shutdown` turns true.
pub(super) async fn serve(bridge: &Arc<Bridge>, shutdown: watch::Receiver<bool>) -> io::Result<()> {
    let early = bridge.alone.as_ref().and_then(|alone| alone.bound.lock().take());
    let listener = UnixListener::from_std(early.map_or_else(|| socket::bind(bridge.socket()), Ok)?)?;
    if bridge.alone.is_some() {
        tracing::info!(socket = %bridge.socket().display(), "bridge listening");
    }
    let mut connections = JoinSet::new();
    let mut down = shutdown.clone();
    loop {
        tokio::select! {
            () = turned(&mut down) => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) if !socket::is_ours(&stream) => {
                    tracing::warn!("another user knocked at the bridge's socket, and was turned away");
                }
                Ok((stream, _)) => {
                    connections.spawn(converse(Arc::clone(bridge), stream, shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the bridge cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    socket::remove(bridge.socket(), bridge.alone.is_none());
    // Children stop first: what waits for them is answered by that, and then the connections end.
    bridge.stop_all().await;
    let farewell = async { while connections.join_next().await.is_some() {} };
    drop(tokio::time::timeout(FAREWELL, farewell).await);
    Ok(())
}

/// Waits until the shutdown signal turns true, or nobody can give it any more.
async fn turned(down: &mut watch::Receiver<bool>) {
    drop(down.wait_for(|down| *down).await);
}

/// Serves one connection.
async fn converse(bridge: Arc<Bridge>, stream: UnixStream, mut shutdown: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let bridge = Arc::clone(&bridge);
        async move { Ok::<_, Infallible>(answer(&bridge, request).await) }
    });
    // The gateway keeps idle connections for its next call; closing one could hit that call.
    let connection =
        http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // What breaks a connection is the gateway's to tell.
        _ = connection.as_mut() => return,
        () = turned(&mut shutdown) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(connection.await);
}

async fn answer(bridge: &Arc<Bridge>, request: Request<Incoming>) -> Answer {
    if let Some(order) = orders::Order::of(request.method(), request.uri().path()) {
        return order.carry_out(bridge).await;
    }
    let Some(place) = Place::of(request.uri().path()) else { return unknown_path() };
    let headers = request.headers();
    let guest = Guest { caller: caller(headers), session: session(headers) };
    match *request.method() {
        Method::POST => {
            let limit = bridge.shared.limits.body_bytes_max;
            let (head, body) = request.into_parts();
            let body = match Limited::new(body, limit).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) if error.is::<LengthLimitError>() => {
                    return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is over the limit");
                }
                Err(_) => return refuse(StatusCode::BAD_REQUEST, "the body broke off"),
            };
            post::answer(bridge, &place, &head.headers, &body).await
        }
        Method::GET => match (guest.session, place.slot(bridge, guest)) {
            (Some(session), Ok(slot)) => listen(&slot, session, bridge.shared.limits.child_queue_max),
            (None, _) => refuse(StatusCode::BAD_REQUEST, "a GET needs the session it is for"),
            (_, Err(absent)) => nobody(absent),
        },
        Method::DELETE => match (guest.session, place.slot(bridge, guest)) {
            (Some(session), Ok(slot)) => {
                if slot.is_session() {
                    slot.end_session();
                } else {
                    slot.audience.forget(session);
                }
                empty(StatusCode::NO_CONTENT)
            }
            (None, _) => nobody(Absent::Session),
            (_, Err(absent)) => nobody(absent),
        },
        _ => {
            let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "use POST, GET or DELETE");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
            answer
        }
    }
}

fn listen(slot: &Arc<Slot>, session: &str, queue_max: usize) -> Answer {
    let reader = match &slot.outlet {
        Some(outlet) => match outlet.open() {
            Some(reader) => Some(reader),
            None => return nobody(Absent::Session),
        },
        None => slot.audience.open(session, queue_max),
    };
    match reader {
        Some(reader) => events(Payload::events(None, reader, slot.id.clone(), None)),
        None => failed(&Failure::Busy, &slot.id, None),
    }
}

/// The server and the instance a path names.
#[derive(Debug)]
pub(super) struct Place {
    server: String,
    instance: u16,
}

impl Place {
    fn of(path: &str) -> Option<Self> {
        let (server, instance) = path.strip_prefix('/')?.split_once('/')?;
        let plain = instance.bytes().all(|b| b.is_ascii_digit());
        let instance = instance.parse().ok().filter(|_| plain)?;
        Some(Self { server: server.to_owned(), instance })
    }

    /// The instance as the newest catalog has it.
    pub(super) fn slot(&self, bridge: &Bridge, guest: Guest<'_>) -> Result<Arc<Slot>, Absent> {
        self.entry(bridge).ok_or(Absent::Instance)?.slot(self.instance, guest)
    }

    /// The server as the newest catalog has it.
    pub(super) fn entry(&self, bridge: &Bridge) -> Option<Arc<Entry>> {
        bridge.find(&self.server)
    }
}

/// Who calls, as the gateway says it: nobody else reaches the socket. Without it all are one.
pub(super) fn caller(headers: &http::HeaderMap) -> &str {
    headers.get(super::CALLER).and_then(|caller| caller.to_str().ok()).unwrap_or_default()
}

/// The session of a request, if it names a well-formed one.
pub(super) fn session(headers: &http::HeaderMap) -> Option<&str> {
    let id = headers.get(SESSION)?.to_str().ok()?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Payload::whole(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// A JSON-RPC message.
pub(super) fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Payload::whole(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// A stream of events.
pub(super) fn events(payload: Payload) -> Answer {
    let mut answer = Response::new(payload);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

/// A refusal of a request that is no call, or that could not be read.
pub(super) fn refuse(status: StatusCode, message: &str) -> Answer {
    let code = match status {
        StatusCode::NOT_FOUND => Code::NOT_FOUND,
        _ => Code::INVALID_REQUEST,
    };
    json(status, RpcError { code, message: message.to_owned(), data: None }.to_message(None))
}

fn unknown_path() -> Answer {
    nobody(Absent::Instance)
}

/// There is nobody to take a request.
pub(super) fn nobody(absent: Absent) -> Answer {
    match absent {
        Absent::Instance => refuse(StatusCode::NOT_FOUND, "there is no such server or instance"),
        Absent::Session => refuse(StatusCode::NOT_FOUND, "Session not found"),
    }
}

/// The answer to a call that failed.
pub(super) fn failed(failure: &Failure, server: &ServerId, id: Option<&crate::mcp::Id>) -> Answer {
    let told = failure.tell(server, id);
    let mut answer = json(told.status, told.body);
    let headers = answer.headers_mut();
    headers.insert(super::failure::OUTCOME, HeaderValue::from_static(told.outcome));
    if let Some(after) = told.retry_after {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    answer
}
