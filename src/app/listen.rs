//! The one socket that listens to the world.
//! Not here: what happens on a connection (`proxy`).
//!
//! It is bound before anything starts, so that a taken port is a clear error and port 0 becomes a known one.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{Backlog, listen};
use parking_lot::Mutex;
use pingora_core::listeners::ListenerConfig;
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::server::{Fds, ListenFds, ShutdownWatch};
use pingora_core::services::Service as PingoraService;
use pingora_core::services::listening::Service;
use pingora_proxy::HttpProxy;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::StartError;
use super::announce::Announcement;
use crate::conf::Conf;
use crate::proxy::Proxy;

/// Connections that the kernel holds for us while all workers are busy.
const BACKLOG: i32 = 4096;
/// Read and write buffers of a connection. Pingora's default of 64 KiB would cost twice the memory for each
/// connection at the same CPU time; a body larger than this comes in more pieces.
const READ_BUFFER_BYTES: usize = 4 * 1024;
const WRITE_BUFFER_BYTES: usize = 1460;
/// The private services are there long before this, or never.
const START_MAX: Duration = Duration::from_secs(10);

/// A bound socket that does not accept yet.
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    /// The address that was asked for, if it was refused for want of credentials.
    pub(super) instead_of: Option<SocketAddr>,
    listener: TcpListener,
}

impl Bound {
    /// Binds the configured address; the loopback address of the same port if nobody has to authenticate.
    pub(super) fn bind(conf: &Conf) -> Result<Self, StartError> {
        let Some(first) = conf.listeners.first() else {
            return Err(StartError::Internal("no listener".into()));
        };
        let instead = conf.loopback_instead(first);
        let address = instead.unwrap_or(first.address);
        let failed = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        // A longer queue than the standard library asks for; the call may be repeated on a listening socket.
        let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
        listen(&listener, backlog).map_err(|errno| failed(errno.into()))?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, instead_of: instead.map(|_| first.address), listener })
    }
}

/// Every call holds descriptors; the soft limit of many systems is 1024.
pub(super) fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, "cannot raise the limit of open files");
    }
}

/// Pingora's proxy service on a socket that is bound already.
pub(super) struct Listening {
    proxy: Service<HttpProxy<Proxy, ()>>,
    fds: ListenFds,
    draining: watch::Receiver<bool>,
    private: Vec<PathBuf>,
    announcement: Announcement,
}

impl Listening {
    /// Accepts once every socket in `private` answers, and until `draining` turns true.
    pub(super) fn new(
        mut proxy: Service<HttpProxy<Proxy, ()>>,
        bound: Bound,
        draining: watch::Receiver<bool>,
        private: Vec<PathBuf>,
        announcement: Announcement,
    ) -> Self {
        // Pingora finds an inherited socket by the text of its address.
        let name = bound.address.to_string();
        let mut fds = Fds::new();
        fds.add(name.clone(), bound.listener.into_raw_fd());
        let buffers = L4BufferSettings::new(READ_BUFFER_BYTES, WRITE_BUFFER_BYTES);
        proxy.add_listener(ListenerConfig::tcp(name).l4_buffer(buffers));
        Self { proxy, fds: Arc::new(Mutex::new(fds)), draining, private, announcement }
    }
}

#[async_trait]
impl PingoraService for Listening {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        let until = Instant::now() + START_MAX;
        for socket in &self.private {
            while UnixStream::connect(socket).await.is_err() {
                if Instant::now() > until {
                    tracing::error!(socket = %socket.display(), "a private service did not start");
                    return;
                }
                sleep(Duration::from_millis(1)).await;
            }
        }
        self.announcement.make();
        // Our own signal: accepting stops when draining begins, while calls in flight go on.
        let fds = Some(Arc::clone(&self.fds));
        PingoraService::start_service(&mut self.proxy, fds, self.draining.clone(), listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        "proxy"
    }
}
