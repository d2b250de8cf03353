//! The upstream client: pooled HTTP/1.1 over TCP, TLS, or the bridge's unix socket.
//! Not here: which endpoint is called (`select`) and what is done with the answer (`hub`).
//!
//! hyper's pooled client was chosen over Pingora's connector by measurement: it costs less CPU for each call (one
//! system call for head and body, and no task woken for each return to the pool).

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Uri;
use bytes::Bytes;
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::UnixStream;
use tower_service::Service;

use crate::catalog::Remote;

/// A client with its own pool: credentials and connections of one server are never another's.
pub(super) type Client = Pooled<Connector, Full<Bytes>>;

/// Idle connections are closed before the usual 5 s of Node and uvicorn, so that a call rarely meets a dying one.
const IDLE: Duration = Duration::from_secs(4);
/// Stands for the bridge in a URI; never resolved.
const BRIDGE_HOST: &str = "bridge.invalid";

/// Makes clients.
#[derive(Debug)]
pub(super) struct Clients {
    /// Read from the system at the first `https` endpoint: most fleets on loopback need none of it.
    tls: OnceLock<ClientConfig>,
    idle_max: usize,
}

impl Clients {
    pub(super) fn new(idle_max: usize) -> Self {
        Self { tls: OnceLock::new(), idle_max }
    }

    /// A client for the endpoints of a remote server.
    pub(super) fn net(&self, remote: &Remote, connect: Duration) -> Client {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect));
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        let secure = remote.endpoints.iter().any(|endpoint| endpoint.url.scheme_str() == Some("https"));
        let tls = if secure { self.tls.get_or_init(|| tls_config(true)).clone() } else { tls_config(false) };
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        self.build(Connector::Net(https))
    }

    /// A client for the bridge.
    pub(super) fn unix(&self, socket: &Path) -> Client {
        self.build(Connector::Unix(socket.into()))
    }

    fn build(&self, connector: Connector) -> Client {
        Pooled::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(self.idle_max)
            .pool_timer(TokioTimer::new())
            .build(connector)
    }
}

/// TLS by rustls on ring, with the system's root certificates or none.
fn tls_config(with_roots: bool) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    if with_roots {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate of the system cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    match ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions() {
        Ok(builder) => builder.with_root_certificates(roots).with_no_client_auth(),
        Err(error) => unreachable!("ring has the suites of TLS 1.2 and 1.3: {error}"),
    }
}

/// The URI of a path on the bridge.
pub(super) fn bridge_uri(path: &str) -> Uri {
    let uri = Uri::builder().scheme("http").authority(BRIDGE_HOST).path_and_query(path).build();
    uri.unwrap_or_default()
}

/// Opens connections.
#[derive(Debug, Clone)]
pub(super) enum Connector {
    Net(HttpsConnector<HttpConnector>),
    Unix(Arc<Path>),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Io;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Io, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match self {
            Self::Net(https) => https.poll_ready(cx),
            Self::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Net(https) => {
                let connecting = https.call(uri);
                Box::pin(async move { connecting.await.map(|io| Io(Box::new(io))) })
            }
            Self::Unix(socket) => {
                let socket = Arc::clone(socket);
                Box::pin(async move {
                    let stream = UnixStream::connect(&socket).await?;
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
