//! Proxies that read the body and answer from `request_filter`, one for each upstream client worth comparing.
//! Not here: the pass-through proxy (`bare`). `--only terminate` runs these; the default report leaves them out.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{ProxyHttp, Session};
use tokio::net::TcpStream;

use crate::bare::{POOL, peer, serve};
use crate::{Failure, UpstreamClient};

/// What a gateway would copy from the client's head; the rest stays behind.
const FORWARDED: [HeaderName; 5] = [
    CONTENT_TYPE,
    ACCEPT,
    HeaderName::from_static("mcp-session-id"),
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("mcp-method"),
];

/// Serves until killed.
pub(crate) fn run(listen: SocketAddr, upstream: SocketAddr, client: UpstreamClient) -> Result<(), Failure> {
    let way = match client {
        UpstreamClient::Pingora => Way::Pingora {
            connector: Box::new(Connector::new(Some(ConnectorOptions::new(POOL)))),
            peer: Box::new(peer(upstream)),
        },
        UpstreamClient::Legacy => Way::Legacy(legacy()),
        UpstreamClient::Spawned => Way::Spawned(Pool::default()),
        UpstreamClient::Inline => Way::Inline(Pool::default()),
    };
    serve(listen, Terminate { upstream, uri: format!("http://{upstream}/mcp").parse()?, way })
}

struct Terminate {
    upstream: SocketAddr,
    uri: Uri,
    way: Way,
}

enum Way {
    /// Pingora's own connector and pool.
    Pingora { connector: Box<Connector>, peer: Box<HttpPeer> },
    /// hyper-util's pooled client.
    Legacy(Client<HttpConnector, Full<Bytes>>),
    /// hyper's connection, its driver in a task of its own, our pool.
    Spawned(Pool<SendRequest<Full<Bytes>>>),
    /// hyper's connection, driven by the request that uses it, our pool: no task, dropping the request closes it.
    Inline(Pool<Inline>),
}

fn legacy() -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(POOL).build(connector)
}

#[async_trait]
impl ProxyHttp for Terminate {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn request_filter(&self, session: &mut Session, _ctx: &mut Self::CTX) -> Result<bool> {
        session.set_keepalive(Some(60));
        let Some(first) = session.as_mut().read_request_body().await? else { return Err(bad("no body")) };
        let mut body = first;
        while let Some(more) = session.as_mut().read_request_body().await? {
            body = [body, more].concat().into();
        }
        match &self.way {
            Way::Pingora { connector, peer } => self.pingora(session, connector, peer, body).await?,
            Way::Legacy(client) => {
                let answer = client.request(self.request(session, body)).await.or_err(FAILED, "legacy")?;
                let (head, mut body) = answer.into_parts();
                write_head(session, &head).await?;
                while let Some(frame) = body.frame().await {
                    write_chunk(session, frame).await?;
                }
                session.write_response_body(None, true).await?;
            }
            Way::Spawned(pool) => self.spawned(session, pool, body).await?,
            Way::Inline(pool) => self.inline(session, pool, body).await?,
        }
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Err(bad("answered in request_filter"))
    }
}

const FAILED: ErrorType = ErrorType::ConnectError;

fn bad(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InternalError, what)
}

impl Terminate {
    async fn pingora(
        &self,
        session: &mut Session,
        via: &Connector,
        peer: &HttpPeer,
        body: Bytes,
    ) -> Result<()> {
        let (mut up, _reused) = via.get_http_session(peer).await?;
        let mut head = RequestHeader::build(Method::POST, b"/mcp", Some(8))?;
        for name in &FORWARDED {
            if let Some(value) = session.req_header().headers.get(name) {
                head.insert_header(name.clone(), value.clone())?;
            }
        }
        head.insert_header(HOST, self.uri.authority().map_or("", |authority| authority.as_str()))?;
        head.insert_header(CONTENT_LENGTH, body.len())?;
        up.set_read_timeout(Some(Duration::from_secs(60)));
        up.write_request_header(Box::new(head)).await?;
        up.write_request_body(body, true).await?;
        up.finish_request_body().await?;
        up.read_response_header().await?;
        let Some(head) = up.response_header() else { return Err(bad("no head")) };
        let mut head = head.clone();
        head.remove_header(&CONNECTION);
        session.write_response_header(Box::new(head), false).await?;
        while let Some(chunk) = up.read_response_body().await? {
            session.write_response_body(Some(chunk), false).await?;
        }
        session.write_response_body(None, true).await?;
        via.release_http_session(up, peer, Some(Duration::from_secs(60))).await;
        Ok(())
    }

    fn request(&self, session: &Session, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        for name in &FORWARDED {
            if let Some(value) = session.req_header().headers.get(name) {
                request.headers_mut().insert(name.clone(), value.clone());
            }
        }
        request
    }

    fn request_with_host(&self, session: &Session, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = self.request(session, body);
        *request.uri_mut() = Uri::from_static("/mcp");
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(HOST, host);
        }
        request
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>> {
        let stream = TcpStream::connect(self.upstream).await.or_err(FAILED, "connect")?;
        stream.set_nodelay(true).or_err(FAILED, "nodelay")?;
        Ok(TokioIo::new(stream))
    }

    async fn spawned(
        &self,
        session: &mut Session,
        pool: &Pool<SendRequest<Full<Bytes>>>,
        body: Bytes,
    ) -> Result<()> {
        let mut sender = match pool.take() {
            Some(sender) if sender.is_ready() => sender,
            _ => {
                let (sender, connection) =
                    http1::handshake(self.connect().await?).await.or_err(FAILED, "handshake")?;
                tokio::spawn(connection);
                sender
            }
        };
        let request = self.request_with_host(session, body);
        let (head, mut body) = sender.send_request(request).await.or_err(FAILED, "send")?.into_parts();
        write_head(session, &head).await?;
        while let Some(frame) = body.frame().await {
            write_chunk(session, frame).await?;
        }
        session.write_response_body(None, true).await?;
        pool.put(sender);
        Ok(())
    }

    async fn inline(&self, session: &mut Session, pool: &Pool<Inline>, body: Bytes) -> Result<()> {
        let mut line = match pool.take() {
            Some(line) => line,
            None => {
                let (sender, connection) =
                    http1::handshake(self.connect().await?).await.or_err(FAILED, "handshake")?;
                Inline { sender, connection: Box::pin(connection) }
            }
        };
        let request = self.request_with_host(session, body);
        let answer = line.sender.send_request(request);
        let (head, mut body) = drive(&mut line.connection, answer).await.or_err(FAILED, "send")?.into_parts();
        write_head(session, &head).await?;
        while let Some(frame) = drive(&mut line.connection, body.frame()).await {
            write_chunk(session, frame).await?;
        }
        session.write_response_body(None, true).await?;
        pool.put(line);
        Ok(())
    }
}

async fn write_head(session: &mut Session, head: &http::response::Parts) -> Result<()> {
    let mut ours = ResponseHeader::build(head.status, Some(head.headers.len() + 2))?;
    for (name, value) in &head.headers {
        if name != CONNECTION {
            ours.append_header(name.clone(), value.clone())?;
        }
    }
    if !head.headers.contains_key(CONTENT_LENGTH) && session.req_header().version == Version::HTTP_11 {
        ours.insert_header(TRANSFER_ENCODING, "chunked")?;
    }
    session.write_response_header(Box::new(ours), false).await
}

async fn write_chunk(
    session: &mut Session,
    frame: std::result::Result<hyper::body::Frame<Bytes>, hyper::Error>,
) -> Result<()> {
    if let Ok(chunk) = frame.or_err(ErrorType::ReadError, "body")?.into_data() {
        session.write_response_body(Some(chunk), false).await?;
    }
    Ok(())
}

type Connection = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

struct Inline {
    sender: SendRequest<Full<Bytes>>,
    connection: Pin<Box<Connection>>,
}

/// Polls the connection whenever `work` waits: one task does what otherwise takes two and a wake-up.
async fn drive<W: Future>(connection: &mut Pin<Box<Connection>>, work: W) -> W::Output {
    let mut work = std::pin::pin!(work);
    let mut open = true;
    std::future::poll_fn(move |cx: &mut Context<'_>| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if open && connection.as_mut().poll(cx).is_ready() {
            open = false;
        }
        work.as_mut().poll(cx)
    })
    .await
}

/// Idle connections, the last one used first.
struct Pool<T>(Mutex<Vec<T>>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::with_capacity(POOL)))
    }
}

impl<T> Pool<T> {
    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, idle: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }
}
