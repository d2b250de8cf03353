//! MCP over HTTP: connections, paths, and the rules of Streamable HTTP in both eras.
//! Not here: what the messages mean (`answer`); how a flow becomes events (`stream`).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method as Verb, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::answer::{Turn, answer, check_revision};
use super::flow::Flow;
use super::peer::Peer;
use super::refusal::Refusal;
use super::sessions::Sessions;
use super::{MESSAGE_BYTES_MAX, PARSE, offer, stream};
use crate::mcp::{
    Era, HeaderFault, Kind, Malformed, Message, Method, MirroredHeaders, Revision, check_mirrored,
    encode_event, parse,
};

const CONNECTIONS_MAX: u32 = 2048;
/// For the head and for the body of a request.
const READ_WAIT: Duration = Duration::from_secs(30);
/// What still runs when the server stops gets this long.
const GRACE: Duration = Duration::from_secs(4);
/// After a failed accept: the usual cause, no more file descriptors, lasts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// Serves until `stopping` turns true.
pub(super) async fn serve(listener: TcpListener, mut stopping: watch::Receiver<bool>) {
    let site = Arc::new(Site { sessions: Sessions::default(), stopping: stopping.clone() });
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    loop {
        let next = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let site = Arc::clone(&site);
                #[expect(
                    clippy::disallowed_methods,
                    reason = "one task a connection, at most CONNECTIONS_MAX; each ends GRACE after `stopping`"
                )]
                tokio::spawn(async move {
                    site.converse(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a sample server could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    // All places are free when all connections have ended.
    let _ = timeout(GRACE + GRACE / 4, connections.acquire_many(CONNECTIONS_MAX)).await;
}

/// What is spoken under a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Http,
    Sse,
    Modern,
    Mcp,
}

impl Path {
    fn of(uri: &Uri) -> Option<Self> {
        Some(match uri.path() {
            "/http" => Self::Http,
            "/sse" => Self::Sse,
            "/modern" => Self::Modern,
            "/mcp" => Self::Mcp,
            _ => return None,
        })
    }

    fn has_sessions(self) -> bool {
        matches!(self, Self::Http | Self::Mcp)
    }

    /// Tells the era of a message, and refuses what is not spoken here.
    fn era(self, headers: &HeaderMap, message: &Message<'_>) -> Result<Era, Refusal> {
        let told = check_mirrored(headers, message);
        if self == Self::Http && told != Ok(Era::Legacy) {
            // Clients that try the modern era first take this for a server that knows only `initialize`.
            return Err(Refusal::Method(message.method_name.clone().into_owned()));
        }
        let era = told.map_err(Refusal::Header)?;
        let version = headers.get(MirroredHeaders::VERSION).and_then(|value| value.to_str().ok());
        if self != Self::Modern {
            if era == Era::Legacy
                && message.method != Method::Initialize
                && let Some(version) = version
                && Revision::parse(version).is_none()
            {
                return Err(Refusal::Revision { requested: version.into(), supported: &offer::REVISIONS });
            }
            return check_revision(message, era, &offer::REVISIONS).map(|()| era);
        }
        let legacy = message.params.text("protocolVersion").filter(|_| message.method == Method::Initialize);
        match legacy.as_deref().or(version) {
            Some(requested) if era == Era::Legacy => {
                Err(Refusal::Revision { requested: requested.into(), supported: &offer::MODERN })
            }
            None if era == Era::Legacy => Err(Refusal::Header(HeaderFault::Mismatch("MCP-Protocol-Version"))),
            _ => check_revision(message, era, &offer::MODERN).map(|()| era),
        }
    }
}

struct Site {
    sessions: Sessions,
    stopping: watch::Receiver<bool>,
}

impl Site {
    async fn converse(self: Arc<Self>, stream: TcpStream) {
        // A failure here costs some latency and nothing else.
        let _ = stream.set_nodelay(true);
        let mut stopping = self.stopping.clone();
        let service = service_fn(move |request| {
            let site = Arc::clone(&self);
            async move { Ok::<_, Infallible>(site.respond(request).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(READ_WAIT);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            // A broken connection is the client's affair.
            _ = connection.as_mut() => return,
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(GRACE, connection).await;
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(path) = Path::of(request.uri()) else {
            return plain(StatusCode::NOT_FOUND, "the paths are /http, /sse, /modern and /mcp");
        };
        if !is_local_origin(request.headers()) {
            return plain(StatusCode::FORBIDDEN, "this origin is not local");
        }
        match *request.method() {
            Verb::POST => self.post(path, request).await,
            Verb::GET if path.has_sessions() => self.get(request.headers()),
            Verb::DELETE if path.has_sessions() => self.delete(request.headers()),
            _ => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "");
                let allow = if path.has_sessions() { "POST, GET, DELETE" } else { "POST" };
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
                response
            }
        }
    }

    async fn post(&self, path: Path, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        if !lists(&head.headers, &header::CONTENT_TYPE, &["application/json"]) {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json");
        }
        // Clients of `/sse` know JSON-RPC over POST and need not know of both.
        if path != Path::Sse
            && !lists(&head.headers, &header::ACCEPT, &["application/json", "text/event-stream"])
        {
            return plain(
                StatusCode::NOT_ACCEPTABLE,
                "accept must list application/json and text/event-stream",
            );
        }
        let body = match timeout(READ_WAIT, Limited::new(body, MESSAGE_BYTES_MAX).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return plain(StatusCode::PAYLOAD_TOO_LARGE, "the message is too long");
            }
            Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST, "the body is broken"),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        };
        let message = match parse(&body, PARSE) {
            Ok(message) => message,
            Err(Malformed { kind, id }) => {
                let id = id.and_then(|id| {
                    serde_json::from_str::<Box<serde_json::value::RawValue>>(id.as_json()).ok()
                });
                let refusal = Refusal::Malformed(kind);
                return json(refusal.status(Era::Legacy), refusal.to_message(id.as_deref(), Era::Legacy));
            }
        };
        let era = path.era(&head.headers, &message);
        // A refusal before the era is known speaks as modern servers do, whose statuses say more.
        let spoken = *era.as_ref().unwrap_or(&Era::Modern);
        let done = era.and_then(|era| self.take(path, &head.headers, (&body, &message), era));
        done.unwrap_or_else(|refusal| {
            let answer = refusal.to_message(message.id, spoken);
            match refusal.status(spoken) {
                StatusCode::OK if path == Path::Sse => event(&answer),
                status => json(status, answer),
            }
        })
    }

    /// Acts on a message that may be acted on.
    fn take(
        &self,
        path: Path,
        headers: &HeaderMap,
        (body, message): (&[u8], &Message<'_>),
        era: Era,
    ) -> Result<Response<Body>, Refusal> {
        let opens = message.method == Method::Initialize && message.kind == Kind::Request;
        let peer = if era == Era::Legacy && path.has_sessions() && !opens {
            Some(self.session(headers)?)
        } else {
            None
        };
        Ok(match answer(body, message, era, peer.as_deref())? {
            Turn::Nothing => empty(StatusCode::ACCEPTED),
            Turn::Cancel(id) => {
                // Without a session nobody knows whose request is meant; a modern client cancels by leaving.
                if let Some(peer) = &peer {
                    peer.cancel(&id);
                }
                empty(StatusCode::ACCEPTED)
            }
            Turn::Flow(mut flow) => {
                if let Some(peer) = &peer {
                    peer.admit(&mut flow)?;
                }
                self.stream(flow)
            }
            Turn::Whole(answer) if path == Path::Sse => event(&answer),
            Turn::Whole(answer) => {
                let mut response = json(StatusCode::OK, answer);
                if opens && path.has_sessions() {
                    match self.sessions.open().and_then(|id| HeaderValue::try_from(id).ok()) {
                        Some(id) => drop(response.headers_mut().insert(SESSION, id)),
                        None => return Err(Refusal::Busy),
                    }
                }
                response
            }
        })
    }

    /// The GET stream of a session.
    fn get(&self, headers: &HeaderMap) -> Response<Body> {
        if !lists(headers, &header::ACCEPT, &["text/event-stream"]) {
            return plain(StatusCode::NOT_ACCEPTABLE, "accept must list text/event-stream");
        }
        let mut flow = Flow::session();
        match self.session(headers).and_then(|peer| peer.admit(&mut flow)) {
            Ok(()) => self.stream(flow),
            Err(refusal) => json(refusal.status(Era::Legacy), refusal.to_message(None, Era::Legacy)),
        }
    }

    fn delete(&self, headers: &HeaderMap) -> Response<Body> {
        match session_id(headers)
            .and_then(|id| self.sessions.end(id).then_some(()).ok_or(Refusal::UnknownSession))
        {
            Ok(()) => empty(StatusCode::NO_CONTENT),
            Err(refusal) => json(refusal.status(Era::Legacy), refusal.to_message(None, Era::Legacy)),
        }
    }

    fn session(&self, headers: &HeaderMap) -> Result<Arc<Peer>, Refusal> {
        self.sessions.find(session_id(headers)?).ok_or(Refusal::UnknownSession)
    }

    fn stream(&self, flow: Flow) -> Response<Body> {
        events(Either::Right(stream::events(flow, self.stopping.clone())))
    }
}

fn session_id(headers: &HeaderMap) -> Result<&str, Refusal> {
    let id = headers.get(SESSION).ok_or(Refusal::NoSession)?;
    id.to_str().map_err(|_| Refusal::UnknownSession)
}

/// Whether a header lists all these media types, or ranges that they fall in.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &[&str]) -> bool {
    let listed = || {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .map(|part| part.split(';').next().unwrap_or_default().trim())
    };
    wanted.iter().all(|wanted| {
        let kind = wanted.split('/').next().unwrap_or_default();
        listed().any(|part| {
            part.eq_ignore_ascii_case(wanted) || part == "*/*" || part.strip_suffix("/*") == Some(kind)
        })
    })
}

/// Browsers say where a request comes from; only pages of this machine may ask.
fn is_local_origin(headers: &HeaderMap) -> bool {
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        let host = origin.as_ref().and_then(Uri::host);
        host.is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"))
    })
}

fn response(status: StatusCode, kind: Option<&'static str>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    response(status, None, Either::Left(Full::default()))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    response(status, Some("text/plain"), Either::Left(Full::from(text)))
}

fn json(status: StatusCode, message: Vec<u8>) -> Response<Body> {
    response(status, Some("application/json"), Either::Left(Full::from(message)))
}

fn event(message: &[u8]) -> Response<Body> {
    events(Either::Left(Full::new(encode_event(message))))
}

fn events(body: Body) -> Response<Body> {
    let mut response = response(StatusCode::OK, Some("text/event-stream"), body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
