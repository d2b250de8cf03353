//! What is known of one connection of a client, for as long as it lasts.
//! Not here: how it was accepted (`accept`), or whose word about the client's address is taken (`proxy/client`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use pingora_core::protocols::http::ServerSession;

use crate::conf::Listener;

/// One connection of a client. Every request on it finds it with [`Connection::of`].
#[derive(Debug)]
pub struct Connection {
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// The other end: of the socket, or what a trusted proxy said in a PROXY protocol header.
    pub peer: SocketAddr,
    /// The certificate that the client showed, checked against the listener's authorities.
    pub certificate: Option<ClientCertificate>,
    /// Whether it is encrypted.
    pub secure: bool,
    /// Whether it is beyond those that there may be, and for questions of orchestrators alone.
    pub is_reserved: bool,
    /// Even while a head is awaited, odd from then on until the next one is; grows with each request. On a connection
    /// with several requests at once it means nothing.
    turn: AtomicU32,
}

/// A client's certificate, as far as callers are told by it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientCertificate {
    /// The subject as RFC 4514 writes it, such as `CN=ci,O=Example`.
    pub subject: String,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// DNS names, URIs and e-mail addresses among the subject alternative names.
    pub sans: Vec<String>,
    /// When it stops being good (`notAfter`, RFC 5280 section 4.1.2.5); a connection may last longer.
    pub expires: Option<SystemTime>,
}

impl Connection {
    /// A connection from `peer` that came in at `listener`, without encryption.
    pub fn new(listener: Arc<Listener>, peer: SocketAddr) -> Self {
        Self { listener, peer, certificate: None, secure: false, is_reserved: false, turn: AtomicU32::new(0) }
    }

    /// The connection that a request came on. `None` only for a session that was not accepted by this room.
    pub fn of(session: &ServerSession) -> Option<&Self> {
        let carried = session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?;
        carried.downcast_ref::<Arc<Self>>().map(AsRef::as_ref)
    }

    /// The head of a request is whole: its deadline is met.
    pub fn head_read(&self) {
        self.turn.fetch_or(1, Ordering::Relaxed);
    }

    /// The next head is awaited.
    pub(super) fn await_head(&self) {
        // Only the connection's own task comes here, one request after the other.
        self.turn.store((self.turn.load(Ordering::Relaxed) | 1).wrapping_add(1), Ordering::Relaxed);
    }

    /// The number of the head that is awaited, if one is.
    pub(super) fn awaited_head(&self) -> Option<u32> {
        Some(self.turn.load(Ordering::Relaxed)).filter(|turn| turn % 2 == 0)
    }
}
