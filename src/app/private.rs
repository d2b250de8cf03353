//! A gateway for nobody but its own process: one server, one loopback port that only this process is told.
//! Not here: who runs one (`command/stdio`), what differs in each room (the composition says it).

use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;

use tokio::sync::watch;

/// What a private gateway is for. Nothing of it goes to standard output, which is its client's.
#[derive(Debug)]
pub struct Private {
    /// The one server of the catalog that is served.
    pub server: String,
    /// Gets the address once calls are taken.
    pub ready: SyncSender<SocketAddr>,
    /// Ends the gateway when it turns true.
    pub stop: watch::Receiver<bool>,
}
