//! The gateway's side of a bridge that is a process of its own: what it asks, and whether it answers.
//! Not here: calls of clients, which take the same socket (`upstream`); what a bridge does (`orders`).

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::timeout;

use super::orders::{Order, Said};
use super::socket::knock;
use super::tally::{Counts, pass_on};
use super::{BridgeError, Observer, Started, Status, Stopped};

/// What a bridge tells is at most this long: a thousand servers with a full tail of stderr each are under it.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// It tells what it knows at once.
const STATUS_MAX: Duration = Duration::from_secs(2);
/// A start is bounded by the server's own deadline and a stop by that of its processes; this is far above both.
const ORDER_MAX: Duration = Duration::from_secs(600);
/// How often it is looked whether the bridge is there.
const LOOK: Duration = Duration::from_secs(1);

/// What a bridge tells of its servers, and what happened to their children during its run.
struct Told {
    run: String,
    servers: HashMap<String, Status>,
    counts: HashMap<String, Counts>,
}

/// A bridge elsewhere.
pub struct Outside {
    socket: PathBuf,
    observer: Arc<dyn Observer>,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Outside {
    /// The bridge at that socket, which need not be there yet. The observer hears what happens to its children.
    pub fn at(socket: &Path, observer: Arc<dyn Observer>) -> Self {
        let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
        Self { socket, observer }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Says in the log when the bridge goes and when it comes, and passes on what happens to its children, until `stop`
    /// turns true.
    pub async fn watch(&self, mut stop: watch::Receiver<bool>) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut there, mut last): (Option<bool>, Option<Told>) = (None, None);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let told = self.tell().await;
            let socket = self.socket.display();
            match &told {
                Err(error) if there != Some(false) => {
                    tracing::warn!(%error, %socket, "the bridge does not answer; local servers cannot be called");
                }
                Ok(Told { servers, .. }) if there != Some(true) => {
                    tracing::info!(%socket, servers = servers.len(), "the bridge answers");
                }
                Ok(_) | Err(_) => {}
            }
            let first = there.is_none();
            there = Some(told.is_ok());
            if let Ok(told) = told {
                let nothing = HashMap::new();
                let before = match &last {
                    Some(last) if last.run == told.run => Some(&last.counts),
                    // One that came later, or another one, has counted for us from its start.
                    Some(_) => Some(&nothing),
                    None => (!first).then_some(&nothing),
                };
                pass_on(before, &told.counts, &*self.observer);
                last = Some(told);
            }
        }
    }

    /// What every local server looks like.
    pub(super) async fn status(&self) -> io::Result<HashMap<String, Status>> {
        self.tell().await.map(|told| told.servers)
    }

    async fn tell(&self) -> io::Result<Told> {
        match self.ask(Order::Status, STATUS_MAX).await? {
            Said::Status { run, servers, counts } => Ok(Told { run, servers, counts }),
            _ => Err(strange()),
        }
    }

    pub(super) async fn start(&self, id: &str) -> Result<Started, BridgeError> {
        match self.order(Order::Start(id), id).await? {
            Said::Started(started) => Ok(started),
            other => Err(self.refused(id, other)),
        }
    }

    pub(super) async fn stop(&self, id: &str) -> Result<Stopped, BridgeError> {
        match self.order(Order::Stop(id), id).await? {
            Said::Stopped(stopped) => Ok(stopped),
            other => Err(self.refused(id, other)),
        }
    }

    async fn order(&self, order: Order<'_>, id: &str) -> Result<Said, BridgeError> {
        // It becomes a part of a path.
        if crate::catalog::ServerId::new(id).is_none() {
            return Err(BridgeError::Unknown(id.to_owned()));
        }
        self.ask(order, ORDER_MAX).await.map_err(|error| BridgeError::Away(self.socket.clone(), error))
    }

    fn refused(&self, id: &str, said: Said) -> BridgeError {
        match (said, crate::catalog::ServerId::new(id)) {
            (Said::Failed { what, stderr }, Some(server)) => BridgeError::Start { server, what, stderr },
            (Said::Unknown, _) => BridgeError::Unknown(id.to_owned()),
            (Said::Closed, _) => BridgeError::Closed,
            _ => BridgeError::Away(self.socket.clone(), strange()),
        }
    }

    async fn ask(&self, order: Order<'_>, within: Duration) -> io::Result<Said> {
        let asked = async {
            let stream = knock(&self.socket).await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            // The connection ends with its sender; what broke it, the exchange tells.
            let (said, _) = join(exchange(sender, order), connection).await;
            said
        };
        timeout(within, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

async fn exchange(mut sender: SendRequest<Empty<Bytes>>, order: Order<'_>) -> io::Result<Said> {
    let (method, path) = order.line();
    let request = Request::builder().method(method).uri(path).header(HOST, "bridge").body(Empty::new());
    let answer = sender.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
    let body =
        Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?;
    serde_json::from_slice(&body.to_bytes()).map_err(io::Error::other)
}

fn strange() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it answers something else: is it of another version?")
}
