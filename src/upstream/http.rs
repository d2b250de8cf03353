//! The upstream client: HTTP/1.1 over TCP, TLS, or the bridge's unix socket, with the idle connections of an endpoint.
//! Not here: which endpoint is called (`select`) and what is done with the answer (`hub`).
//!
//! hyper's connection is polled by the request that uses it. Measured against Pingora's connector and hyper's pooled
//! client it costs the least CPU for each call, since no task is woken; and dropping a request or its answer closes
//! the connection at once, which is how a modern client's leaving cancels its call.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderMap, Request, Response, Uri};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use crate::bridge;
use crate::catalog::Remote;
use crate::egress::tls_config;

/// Idle connections are closed before the usual 5 s of Node and uvicorn, so that a call rarely meets a dying one.
const IDLE: Duration = Duration::from_secs(4);

/// What is read ahead of a client that takes its answer slowly. hyper's own bound is seven times that, and a thousand
/// slow readers of large answers would hold all of it. The head of an answer has to fit.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Makes connectors.
#[derive(Debug, Default)]
pub(super) struct Connectors {
    /// Read from the system at the first `https` endpoint: most fleets on loopback need none of it.
    tls: OnceLock<ClientConfig>,
}

impl Connectors {
    /// A connector for the endpoints of a remote server.
    pub(super) fn net(&self, remote: &Remote, connect: Duration) -> Connector {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect));
        // A stream may be silent for as long as it likes, but its other end has to be there: within 40 s one that is not
        // is found out.
        tcp.set_keepalive(Some(Duration::from_secs(20)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(10)));
        tcp.set_keepalive_retries(Some(2));
        let secure = remote.endpoints.iter().any(|endpoint| endpoint.url.scheme_str() == Some("https"));
        let tls = if secure { self.tls.get_or_init(|| tls_config(true)).clone() } else { tls_config(false) };
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        Connector::Net(https.wrap_connector(tcp), connect)
    }

    /// A connector for the bridge.
    pub(super) fn unix(&self, socket: &Path) -> Connector {
        Connector::Unix(socket.into())
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum SendError {
    /// No connection: nothing was sent, and these headers were to be.
    Connect(Box<HeaderMap>),
    /// The connection broke after the request was given to it.
    Broken(hyper::Error),
}

/// Why a connection could not be opened.
enum OpenError {
    Connect(Failure),
    Broken(hyper::Error),
}

/// One connection: hyper's two halves, kept together.
struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
    connection: Pin<Box<http1::Connection<Io, Full<Bytes>>>>,
    /// How many others had broken when it was opened.
    generation: u64,
}

impl Line {
    async fn open(connector: &Connector, to: &Uri, generation: u64) -> Result<Self, OpenError> {
        let io = connector.clone().call(to.clone()).await.map_err(OpenError::Connect)?;
        let shaken = http1::Builder::new().max_buf_size(READ_BYTES_MAX).handshake(io).await;
        let (sender, connection) = shaken.map_err(OpenError::Broken)?;
        Ok(Self { sender, connection: Box::pin(connection), generation })
    }

    /// Whether the connection is still there and free. Polling it once takes in what came since the last answer.
    async fn is_free(&mut self) -> bool {
        let open = poll_fn(|cx| Poll::Ready(self.connection.as_mut().poll(cx).is_pending())).await;
        open && self.sender.is_ready()
    }

    /// Runs `work` and the connection that it waits for: one task does what would otherwise take two.
    async fn drive<W: Future>(
        connection: &mut Pin<Box<http1::Connection<Io, Full<Bytes>>>>,
        work: W,
    ) -> W::Output {
        let mut work = std::pin::pin!(work);
        let mut open = true;
        poll_fn(move |cx| {
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
}

/// The idle connections of one endpoint, the last one used first.
///
/// A server that dies takes all its connections with it, so when one breaks, none as old is used for another call.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    kept: Arc<Mutex<Kept>>,
    max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    idle: VecDeque<(Line, Instant)>,
    /// How many have broken. Those that are idle were opened since the last one.
    generation: u64,
}

impl Lines {
    /// Keeps at most `max` idle connections.
    pub(super) fn new(max: usize) -> Self {
        Self { kept: Arc::default(), max }
    }

    /// Sends `request`, on an idle connection to the endpoint or on a new one to `to`. A connection that turns out to
    /// be closed before the request was written to it is replaced; nothing is written twice.
    pub(super) async fn send(
        &self,
        connector: &Connector,
        to: &Uri,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Answer>, SendError> {
        while let Some(mut line) = self.take() {
            if !line.is_free().await {
                continue;
            }
            let sending = line.sender.try_send_request(request);
            match Line::drive(&mut line.connection, sending).await {
                Ok(response) => return Ok(self.answer(response, line)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.broke(error.into_error())),
                },
            }
        }
        let generation = self.kept.lock().generation;
        let mut line = match Box::pin(Line::open(connector, to, generation)).await {
            Ok(line) => line,
            Err(OpenError::Broken(error)) => return Err(self.broke(error)),
            Err(OpenError::Connect(error)) => {
                tracing::debug!(%error, "no connection");
                return Err(SendError::Connect(Box::new(std::mem::take(request.headers_mut()))));
            }
        };
        let sending = line.sender.send_request(request);
        let sent = Line::drive(&mut line.connection, sending).await;
        sent.map(|response| self.answer(response, line)).map_err(|error| self.broke(error))
    }

    /// Closes connections that were idle for too long.
    pub(super) fn trim(&self) {
        let idle = &mut self.kept.lock().idle;
        while idle.front().is_some_and(|(_, since)| since.elapsed() >= IDLE) {
            idle.pop_front();
        }
    }

    fn take(&self) -> Option<Line> {
        let idle = &mut self.kept.lock().idle;
        let (line, since) = idle.pop_back()?;
        if since.elapsed() < IDLE {
            return Some(line);
        }
        // The others are older still.
        idle.clear();
        None
    }

    fn put(&self, line: Line) {
        let mut kept = self.kept.lock();
        if kept.idle.len() < self.max && kept.generation == line.generation {
            kept.idle.push_back((line, Instant::now()));
        }
    }

    /// A connection broke: closes all that were open with it as soon as they are idle.
    fn broke(&self, error: hyper::Error) -> SendError {
        self.end_generation();
        SendError::Broken(error)
    }

    fn end_generation(&self) {
        let mut kept = self.kept.lock();
        kept.generation += 1;
        kept.idle.clear();
    }

    fn answer(&self, response: Response<Incoming>, line: Line) -> Response<Answer> {
        response.map(|body| {
            let mut wire = Wire { body, line: Some(line), home: self.clone() };
            wire.give_back_if_whole();
            Answer(Source::Wire(wire))
        })
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Answer(Source);

#[derive(Debug)]
enum Source {
    Wire(Wire),
    /// All there is, if it was not taken yet.
    Whole(Option<Bytes>),
    /// Pieces as they come, until nobody sends any more.
    Live(mpsc::Receiver<Bytes>),
}

impl Answer {
    /// A body that no connection brings.
    pub(super) fn whole(body: Bytes) -> Self {
        Self(Source::Whole(Some(body).filter(|body| !body.is_empty())))
    }

    /// The same, in pieces.
    pub(super) fn live(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self(Source::Live(pieces))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Source::Wire(wire) => wire.poll_frame(cx),
            Source::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Source::Live(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|it| Ok(Frame::data(it)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Wire(wire) => wire.body.is_end_stream(),
            Source::Whole(body) => body.is_none(),
            Source::Live(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Wire(wire) => wire.body.size_hint(),
            Source::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Source::Live(_) => SizeHint::default(),
        }
    }
}

/// A body from a connection, which it brings home when it has been read to its end.
#[derive(Debug)]
struct Wire {
    body: Incoming,
    line: Option<Line>,
    home: Lines,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Wire {
    fn give_back_if_whole(&mut self) {
        if self.body.is_end_stream()
            && let Some(line) = self.line.take()
        {
            self.home.put(line);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some(line) = &mut self.line
        {
            // A connection that has ended says so through the body.
            let _ = line.connection.as_mut().poll(cx);
            polled = Pin::new(&mut self.body).poll_frame(cx);
        }
        match &polled {
            Poll::Ready(None) => {
                if let Some(line) = self.line.take() {
                    self.home.put(line);
                }
            }
            Poll::Ready(Some(Ok(_))) => self.give_back_if_whole(),
            Poll::Ready(Some(Err(_))) => {
                drop(self.line.take());
                self.home.end_generation();
            }
            Poll::Pending => {}
        }
        polled
    }
}

/// Opens connections.
#[derive(Debug, Clone)]
pub(super) enum Connector {
    /// TLS has to be agreed on within the time to connect as well.
    Net(HttpsConnector<HttpConnector>, Duration),
    Unix(Arc<Path>),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Io;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Io, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match self {
            Self::Net(https, _) => https.poll_ready(cx),
            Self::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Net(https, within) => {
                let connecting = timeout(*within, https.call(uri));
                Box::pin(async move { connecting.await?.map(|io| Io(Box::new(io))) })
            }
            Self::Unix(socket) => {
                let socket = Arc::clone(socket);
                Box::pin(async move {
                    let stream = bridge::knock(&socket).await?;
                    Ok(Io(Box::new(TokioIo::new(stream))))
                })
            }
        }
    }
}

/// Any connection the client can use.
trait Transport: Read + Write + Connection + Send + Unpin {}
impl<T: Read + Write + Connection + Send + Unpin> Transport for T {}

/// A connection.
pub(super) struct Io(Box<dyn Transport>);

impl Connection for Io {
    fn connected(&self) -> Connected {
        self.0.connected()
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }
}
