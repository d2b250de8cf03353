//! Connections as they come in: refused at once, or made ready and handed to the proxy.
//! Not here: the sockets that they come in on (`bind`), what happens on them (`proxy`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use super::certificate;
use super::connection::Connection;
use super::io::{Io, PREFACE, Parts};
use super::places::{Place, Places};
use super::proxy_protocol::{self, Named};
use super::refusals::Refusals;
use super::tls::Secured;
use super::transport::{Transport, Wire};
use crate::conf::{Limits, Listener};
use crate::telemetry::{Cut, ListenerMeters, OpenConnection};

/// Out of descriptors or memory, accepting fails without waiting; connections that end give some back.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection beyond all others may take to ask how the gateway is.
const RESERVED_HEAD: Duration = Duration::from_secs(1);

/// What all connections of one listener share.
pub(super) struct Reception {
    pub(super) listener: Arc<Listener>,
    pub(super) limits: Limits,
    pub(super) places: Arc<Places>,
    pub(super) meters: Arc<ListenerMeters>,
    pub(super) refusals: Refusals,
    pub(super) secured: Option<Arc<Secured>>,
}

/// A connection that may be made ready.
struct Arrived {
    socket: TcpStream,
    peer: SocketAddr,
    accepted: Instant,
    place: Place,
    open: OpenConnection,
}

impl Reception {
    /// Accepts until `draining` turns true, and meanwhile only while `paused` is not.
    pub(super) async fn accept<A>(
        self: Arc<Self>,
        socket: TcpListener,
        app: Arc<A>,
        (draining, mut paused): (ShutdownWatch, ShutdownWatch),
    ) where
        A: ServerApp + Send + Sync + 'static,
    {
        let mut ended = draining.clone();
        let mut exhausted = false;
        loop {
            let accept = async {
                // A sender that is gone pauses nobody.
                let _ = paused.wait_for(|paused| !*paused).await;
                socket.accept().await
            };
            let accepted = tokio::select! {
                accepted = accept => accepted,
                // A sender that is gone means the same.
                _ = ended.wait_for(|draining| *draining) => return,
            };
            match accepted {
                Ok((socket, peer)) => {
                    exhausted = false;
                    if let Some(arrived) = self.admit(socket, peer) {
                        self.begin(arrived, &app, &draining);
                    }
                }
                Err(error) if is_exhaustion(&error) => {
                    if !exhausted {
                        tracing::warn!(%error, listener = self.listener.name, "cannot accept connections");
                    }
                    exhausted = true;
                    sleep(EXHAUSTED_PAUSE).await;
                }
                // The client left before it was accepted.
                Err(_) => {}
            }
        }
    }

    /// Refuses what can be refused by the address alone. What is refused is closed at once.
    fn admit(&self, socket: TcpStream, peer: SocketAddr) -> Option<Arrived> {
        let peer = canonical(peer);
        let admitted = match self.places.enter().or_else(|| self.places.enter_reserved()) {
            None => Err(Cut::Full),
            Some(_) if self.listener.proxy_protocol && !self.trusts(peer) => Err(Cut::ProxyProtocol),
            Some(place) => self.may_connect(peer, place),
        };
        match admitted {
            Ok(place) => {
                let open = self.meters.opened();
                Some(Arrived { socket, peer, accepted: Instant::now(), place, open })
            }
            Err(cut) => {
                self.refused(cut, peer);
                None
            }
        }
    }

    fn refused(&self, cut: Cut, client: SocketAddr) {
        self.meters.cut(cut);
        self.refusals.tell(cut, client);
    }

    /// Whether that address may have one more connection. Whoever speaks for others is judged by whom it speaks for.
    fn may_connect(&self, peer: SocketAddr, mut place: Place) -> Result<Place, Cut> {
        if self.trusts(peer) {
            return Ok(place);
        }
        let networks = self.listener.networks.as_ref();
        if networks.is_some_and(|networks| !networks.iter().any(|network| network.contains(&peer.ip()))) {
            return Err(Cut::Network);
        }
        if place.take_for(peer.ip()) { Ok(place) } else { Err(Cut::Address) }
    }

    fn trusts(&self, peer: SocketAddr) -> bool {
        self.listener.trusted_proxies.iter().any(|network| network.contains(&peer.ip()))
    }

    fn begin<A>(self: &Arc<Self>, arrived: Arrived, app: &Arc<A>, draining: &ShutdownWatch)
    where
        A: ServerApp + Send + Sync + 'static,
    {
        let (reception, app, draining) = (Arc::clone(self), Arc::clone(app), draining.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "one task for each connection, bounded by `limits.connections`"
        )]
        tokio::spawn(async move {
            let mut client = arrived.peer;
            match reception.prepare(arrived, &mut client).await {
                Ok(io) => {
                    let mut stream: Option<Stream> = Some(Box::new(io));
                    while let Some(next) = stream {
                        stream = app.process_new(next, &draining).await;
                    }
                }
                Err(cut) => reception.refused(cut, client),
            }
        });
    }

    /// Makes a connection ready to be read from, within the deadline of its first head. `peer` becomes whom a PROXY
    /// protocol header names.
    async fn prepare(&self, arrived: Arrived, peer: &mut SocketAddr) -> Result<Io, Cut> {
        let Arrived { socket, peer: _, accepted, mut place, open } = arrived;
        let is_reserved = place.is_reserved();
        // Such a place is for a short question, and soon for the next one.
        let allowed = if is_reserved { RESERVED_HEAD } else { self.limits.header_timeout };
        let until = accepted + allowed.min(self.limits.header_timeout);
        let mut wire = Wire::new(socket);
        if self.listener.proxy_protocol {
            let named = timeout_at(until, proxy_protocol::read(&mut wire)).await;
            let named = named.map_err(|_| Cut::Head)?.map_err(|_| Cut::ProxyProtocol)?;
            if let Named::Client(client) = named {
                *peer = canonical(client);
                place = self.may_connect(*peer, place)?;
            }
        }
        let mut connection = Connection::new(Arc::clone(&self.listener), *peer);
        connection.is_reserved = is_reserved;
        let (transport, multiplexed) = match &self.secured {
            Some(secured) => {
                let agreed = timeout_at(until, secured.acceptor().accept(wire)).await;
                let stream = agreed.map_err(|_| Cut::Head)?.map_err(|_| Cut::Tls)?;
                let (_, agreed) = stream.get_ref();
                connection.secure = true;
                let shown = agreed.peer_certificates().and_then(|chain| chain.first());
                connection.certificate =
                    shown.map(|leaf| certificate::read(leaf).ok_or(Cut::Tls)).transpose()?;
                let multiplexed = agreed.alpn_protocol() == Some(b"h2");
                (Transport::Secure(Box::new(stream)), multiplexed)
            }
            None if self.listener.h2c => {
                let told = timeout_at(until, speaks_h2(&mut wire)).await;
                let multiplexed = told.map_err(|_| Cut::Head)?.unwrap_or_default();
                (Transport::Plain(wire), multiplexed)
            }
            None => (Transport::Plain(wire), false),
        };
        let parts = Parts {
            connection: Arc::new(connection),
            accepted,
            place,
            open,
            meters: Arc::clone(&self.meters),
        };
        let limits = Limits { header_timeout: allowed.min(self.limits.header_timeout), ..self.limits };
        Io::new(transport, multiplexed, parts, &limits).map_err(|_| Cut::Head)
    }
}

/// An IPv4 address in IPv6's clothes is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether a client begins with HTTP/2's preface (RFC 9113 section 3.3, prior knowledge).
async fn speaks_h2(wire: &mut Wire) -> io::Result<bool> {
    let told = |ahead: &[u8]| ahead.len() >= PREFACE.len() || !PREFACE.starts_with(ahead);
    Ok(wire.look_ahead(PREFACE.len(), told).await? && wire.ahead().starts_with(PREFACE))
}

fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}
