//! Where clients come in: the sockets, their connections, and the deadlines and bounds that need no request.
//! Not here: what is asked on a connection (`proxy`), which listeners there are (`conf`).
//!
//! Pingora could accept by itself, but it has no deadline for a whole head, no bound on connections, no PROXY protocol
//! and one set of rules for every address. So the loop is ours, and Pingora gets each connection as a stream of bytes
//! (`io`) that keeps its own deadlines and carries a [`Connection`] to every request on it.

mod accept;
mod bind;
mod certificate;
mod connection;
mod deadline;
mod io;
mod places;
mod proxy_protocol;
mod refusals;
mod tls;
mod transport;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use pingora_core::apps::{HttpServerOptions, ServerApp};
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use tokio::net::TcpListener;

pub use bind::{Bound, Inherited};
pub use connection::{ClientCertificate, Connection};

use crate::conf::{Conf, Limits};
use crate::telemetry::{Audit, Meters};
use accept::Reception;
use places::Places;
use refusals::Refusals;

/// Why the gateway cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A TLS file cannot be used.
    #[error("listener `{listener}`: {}: {fault}", path.display())]
    Tls {
        /// The listener's name.
        listener: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it; nothing of its content.
        fault: String,
    },
}

/// Every listener of the gateway, bound and not yet accepting.
pub struct Listening {
    bound: Vec<Bound>,
    limits: Limits,
    places: Arc<Places>,
}

/// How many connections there are.
#[derive(Debug, Clone)]
pub struct Occupancy(Arc<Places>);

impl Occupancy {
    /// Those that are open now.
    pub fn open(&self) -> usize {
        self.0.taken()
    }
}

impl Listening {
    /// Binds every listener of `conf` that has not `inherited` its socket; what nobody inherits is closed. Nothing is
    /// accepted before [`serve`](Self::serve).
    pub fn bind(conf: &Conf, mut inherited: Vec<Inherited>) -> Result<Self, ListenError> {
        let bound = conf.listeners.iter().map(|listener| Bound::bind(conf, listener, &mut inherited));
        let bound = bound.collect::<Result<_, _>>()?;
        let places = Places::new(conf.limits.connections_max, conf.limits.connections_per_address_max);
        Ok(Self { bound, limits: conf.limits, places })
    }

    /// How many connections there are, for as long as anybody wants to know.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy(Arc::clone(&self.places))
    }

    /// What is bound, in the order of the configuration.
    pub fn bound(&self) -> &[Bound] {
        &self.bound
    }

    /// Accepts connections for `app` until `draining` turns true. Connections go on by themselves after that; those
    /// that wait for a request end when `hanging_up` turns true. While `paused` is true none are taken; they wait in the
    /// kernel. `audit` is told of those that are refused.
    pub async fn serve<A>(
        self,
        app: Arc<A>,
        (meters, audit): (&Arc<Meters>, &Audit),
        (draining, mut hanging_up, paused): (ShutdownWatch, ShutdownWatch, ShutdownWatch),
    ) where
        A: ServerApp + Send + Sync + 'static,
    {
        let places = self.places;
        let serving = self.bound.into_iter().map(|bound| {
            let reception = Arc::new(Reception {
                meters: meters.listener(&bound.listener.name),
                refusals: Refusals::new(&bound.listener.name, audit.clone()),
                listener: bound.listener,
                limits: self.limits,
                places: Arc::clone(&places),
                secured: bound.secured,
            });
            serve_one(reception, bound.socket, Arc::clone(&app), (draining.clone(), paused.clone()))
        });
        join_all(serving).await;
        // A sender that is gone means the same.
        let _ = hanging_up.wait_for(|hanging_up| *hanging_up).await;
        app.cleanup().await;
    }
}

/// One listener: it accepts, and takes over changed TLS files meanwhile.
async fn serve_one<A>(
    reception: Arc<Reception>,
    socket: std::net::TcpListener,
    app: Arc<A>,
    phases: (ShutdownWatch, ShutdownWatch),
) where
    A: ServerApp + Send + Sync + 'static,
{
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "a bound socket cannot be used"),
    };
    let (secured, meters) = (reception.secured.clone(), Arc::clone(&reception.meters));
    let accepting = reception.accept(socket, app, phases);
    match secured {
        None => accepting.await,
        Some(secured) => tokio::select! {
            () = accepting => {}
            () = secured.watch(&meters) => {}
        },
    }
}

/// Pingora's own settings for connections.
pub fn http_options(limits: &Limits) -> (HttpServerOptions, H2Options) {
    let mut server = HttpServerOptions::default();
    server.keepalive_request_limit = Some(limits.requests_per_connection_max);
    server.h2_idle_timeout = Some(limits.keepalive);
    let mut h2 = default_h2_options();
    h2.max_concurrent_streams(limits.h2_streams_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        // What one connection can make us hold of its bodies.
        .initial_window_size(H2_STREAM_BYTES)
        .initial_connection_window_size(H2_CONNECTION_BYTES)
        .max_send_buffer_size(H2_SEND_BYTES)
        // Streams that a client opens and resets (CVE-2023-44487), or makes us reset (CVE-2025-8671).
        .max_pending_accept_reset_streams(H2_RESETS_MAX)
        .max_concurrent_reset_streams(H2_RESETS_MAX)
        .max_local_error_reset_streams(Some(H2_LOCAL_RESETS_MAX));
    (server, h2)
}

const H2_STREAM_BYTES: u32 = 64 * 1024;
const H2_CONNECTION_BYTES: u32 = 256 * 1024;
const H2_SEND_BYTES: usize = 64 * 1024;
const H2_RESETS_MAX: usize = 20;
const H2_LOCAL_RESETS_MAX: usize = 64;
