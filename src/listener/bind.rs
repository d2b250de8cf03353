//! Sockets that are bound before anything starts, so that a taken port is a clear error and port 0 a known one.
//! Not here: what comes in on them (`accept`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{self, Backlog, setsockopt, sockopt};

use super::ListenError;
use super::tls::Secured;
use crate::conf::{Conf, Limits, Listener};

/// Connections that the kernel holds for us while all workers are busy.
const BACKLOG: i32 = 4096;
/// How long a silent connection is left alone before its other end is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(60);

/// A listening socket of the process that this one takes over from.
#[derive(Debug)]
pub struct Inherited {
    /// The listener that it belonged to.
    pub listener: String,
    /// The socket. Connections that wait in it are ours now as well.
    pub socket: TcpListener,
}

/// The inherited socket for a listener: the one at its address, or, where any port is good, its own.
fn take(inherited: &mut Vec<Inherited>, name: &str, address: SocketAddr) -> Option<TcpListener> {
    let fits = |one: &Inherited| {
        one.socket.local_addr().is_ok_and(|known| match address.port() {
            0 => known.ip() == address.ip() && one.listener == name,
            _ => known == address,
        })
    };
    let at = inherited.iter().position(fits)?;
    Some(inherited.swap_remove(at).socket)
}

/// A bound socket that does not accept yet.
pub struct Bound {
    /// What it belongs to.
    pub listener: Arc<Listener>,
    /// Where it listens; the port is never 0.
    pub address: SocketAddr,
    /// The address that was asked for, if it was refused for want of credentials.
    pub instead_of: Option<SocketAddr>,
    pub(super) socket: TcpListener,
    pub(super) secured: Option<Arc<Secured>>,
}

impl Bound {
    /// Binds a listener's address; the loopback address of the same port if nobody has to authenticate. What is
    /// `inherited` is bound already.
    pub(super) fn bind(
        conf: &Conf,
        listener: &Listener,
        inherited: &mut Vec<Inherited>,
    ) -> Result<Self, ListenError> {
        let secured = listener.tls.as_ref().map(|tls| Secured::load(&listener.name, tls)).transpose()?;
        let instead = conf.loopback_instead(listener);
        let address = instead.unwrap_or(listener.address);
        let failed = |source| ListenError::Bind { address, source };
        let socket = match take(inherited, &listener.name, address) {
            Some(socket) => socket,
            None => TcpListener::bind(address).map_err(failed)?,
        };
        prepare(&socket, &conf.limits).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let instead_of = instead.map(|_| listener.address);
        Ok(Self {
            // Who may call depends on where it really listens.
            listener: Arc::new(Listener { address, ..listener.clone() }),
            address,
            instead_of,
            socket,
            secured: secured.map(Arc::new),
        })
    }
}

impl Bound {
    /// The same socket once more, for a successor.
    pub fn share(&self) -> io::Result<Inherited> {
        Ok(Inherited { listener: self.listener.name.clone(), socket: self.socket.try_clone()? })
    }
}

/// Options that accepted sockets inherit, so that a connection costs no system call for them.
fn prepare(socket: &TcpListener, limits: &Limits) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // A longer queue than the standard library asks for; the call may be repeated on a listening socket.
    socket::listen(socket, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    #[cfg(target_os = "linux")]
    {
        setsockopt(socket, sockopt::TcpKeepIdle, &u32::try_from(SILENCE.as_secs()).unwrap_or(u32::MAX))?;
        // What lies in the kernel's buffer and is not taken by the other end ends the connection like a write that
        // waits: this is the deadline of small answers, which never wait here. Twice as long, so that a write that does
        // wait is ended, and counted, by us.
        let patience = u32::try_from(limits.write_timeout.as_millis() * 2).unwrap_or(u32::MAX);
        setsockopt(socket, sockopt::TcpUserTimeout, &patience)?;
    }
    Ok(())
}
