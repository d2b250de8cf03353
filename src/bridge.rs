//! The sidecar: children of `local-process` servers, each offered as Streamable HTTP on one private unix socket.
//! Not here: how the gateway calls them (`upstream`), or what a catalog says (`catalog`).
//!
//! To the rest of the program a stdio server is an HTTP server: `POST|GET|DELETE /{server}/{instance}`. Its
//! callers share a child, so ids and progress tokens are renumbered, and the child is told that its client has no
//! capabilities: what it would ask could not be attributed to one of them. A child serves one era, because
//! servers lock themselves to the era of the first message; the other era gets a child of its own when it is
//! asked for. A server that turns out to speak the legacy era only has just the one.
//!
//! Session ids are 128 random bits that are not stored: any well-formed id is good, before and after a restart.
//! The gateway seals them, and nobody else can reach the socket.
//!
//! Invariant: when `serve` returns, no process that a child started is left. One task owns one child from its
//! start to the end of its process group.
//!
//! Not done: `PR_SET_PDEATHSIG` for every child, which needs code between fork and exec, and that is unsafe. Those with
//! a sandbox get it from their launcher. The others are left with a closed stdin by a gateway that is killed, and the
//! next start sweeps those that stay.
//!
//! The bridge can also be a process of its own (`tollgate bridge`), so that children outlive the gateway. Whoever uses
//! it does so by [`Children`], which are here or there. A bridge on its own reads the catalog itself and is the only one
//! who decides what runs; the gateway asks for it by `/-/…` on the same socket, beside which no server's id can stand.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::catalog::{Mode, Runtime, ServerId, Snapshot};
use crate::conf::Limits;

mod audience;
mod berths;
mod child;
mod children;
mod desk;
mod failure;
mod frame;
mod live;
mod mailbox;
mod opening;
mod orders;
mod outlet;
mod outside;
mod payload;
mod peer;
mod post;
mod quiet;
mod record;
mod serve;
mod slot;
mod socket;
mod spawn;
mod starts;
mod supervisor;
mod sweep;
mod tally;
mod warm;

pub use children::{Children, Look};
pub use outside::Outside;
pub use socket::knock;
use supervisor::{Entry, Shared};
use tally::Tally;

/// Calls in flight on a child that left the catalog, or that is stopped by hand, get this long to finish.
const DRAIN: Duration = Duration::from_secs(30);
const STOP_DRAIN: Duration = Duration::from_secs(5);
/// A socket's path must fit into `sun_path` (unix(7): 108 bytes), and leave room.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// The header by which the gateway tells the bridge who calls: a number of the caller's. It is the gateway's own,
/// passes from no client, and goes to no remote server.
pub const CALLER: http::HeaderName = http::HeaderName::from_static("x-tollgate-caller");

/// What went wrong in the bridge.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The state directory cannot be used. The operator's.
    #[error("the state directory {} cannot be used", .0.display())]
    State(PathBuf, #[source] io::Error),
    /// Another gateway uses the state directory. The operator's.
    #[error("another tollgate uses the state directory {}", .0.display())]
    Locked(PathBuf),
    /// No such local server. The caller's.
    #[error("there is no local server '{0}'")]
    Unknown(String),
    /// The server did not start. Its own fault; safe to try again.
    #[error("server '{server}' {what}")]
    Start {
        /// Which one.
        server: ServerId,
        /// What it did, such as `exited with code 1`.
        what: String,
        /// Its last lines of stderr; they may hold the server's own secrets.
        stderr: Vec<String>,
    },
    /// The bridge is shutting down, or does not run.
    #[error("the bridge does not run")]
    Closed,
    /// The socket of a bridge on its own cannot be made. The operator's.
    #[error("the socket {} cannot be used", .0.display())]
    Socket(PathBuf, #[source] io::Error),
    /// The bridge is a process of its own, and does not answer. Safe to try again.
    #[error("the bridge at {} does not answer", .0.display())]
    Away(PathBuf, #[source] io::Error),
}

/// What became of a request to start a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Started {
    /// It runs now.
    Now,
    /// It ran before.
    Already,
}

/// What became of a request to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stopped {
    /// It is stopped now.
    Now,
    /// It did not run.
    Already,
}

/// Where a local server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum State {
    /// It has no process; the next call starts it.
    #[default]
    Stopped,
    /// A child was started and did not answer its first message yet.
    Starting,
    /// At least one child is ready.
    Running,
    /// Its processes are ending.
    Stopping,
    /// It died too often and is not started for a while.
    Failed,
    /// The bridge is a process of its own and does not answer.
    Unknown,
}

/// How many children a local server has, by where they are in their lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Population {
    /// Kept started for sessions or callers to come.
    pub warm: usize,
    /// Started, and not ready yet.
    pub starting: usize,
    /// Ready.
    pub ready: usize,
    /// Taking no calls any more; their processes may be there for some seconds.
    pub ending: usize,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub at: SystemTime,
    /// Its process id; 0 if there was no process.
    pub pid: u32,
    /// A word for programs, such as `child_exited`.
    pub reason: Cow<'static, str>,
    /// What it did, such as `exited with code 1`.
    pub what: String,
    /// Whether it was told to.
    pub meant: bool,
}

/// What a local server looks like at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Where it is in its life.
    pub state: State,
    /// Who shares its children.
    pub mode: Mode,
    /// How many there are.
    pub population: Population,
    /// Process ids of its children.
    pub pids: Vec<u32>,
    /// When the oldest child was started.
    pub started_at: Option<SystemTime>,
    /// When it was last called.
    pub last_activity: Option<SystemTime>,
    /// Starts after an end that was not meant.
    pub restarts: u64,
    /// Calls in flight.
    pub in_flight: usize,
    /// How a child last ended without being told to.
    pub last_error: Option<String>,
    /// How the last children ended, the newest last.
    pub ends: Vec<End>,
    /// The last lines of stderr; they may hold the server's own secrets.
    pub stderr_tail: Vec<String>,
}

/// Who counts what happens to children. The calls come from the children's tasks and must not block.
pub trait Observer: Send + Sync {
    /// A child was started.
    fn started(&self, server: &ServerId);
    /// A child ended, and no process of it is left; `clean` if it was told to.
    fn exited(&self, server: &ServerId, clean: bool);
    /// A child is started again after an end that was not meant.
    fn restarted(&self, server: &ServerId);
    /// How many children a server has now.
    fn living(&self, server: &ServerId, count: usize);
    /// A child was not started because of that bound.
    fn refused(&self, server: &ServerId, bound: &'static str);
    /// A line of a child was dropped: too long, or no JSON-RPC message.
    fn rubbish(&self, server: &ServerId);
}

/// An observer that counts nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn started(&self, _: &ServerId) {}
    fn exited(&self, _: &ServerId, _: bool) {}
    fn restarted(&self, _: &ServerId) {}
    fn living(&self, _: &ServerId, _: usize) {}
    fn refused(&self, _: &ServerId, _: &'static str) {}
    fn rubbish(&self, _: &ServerId) {}
}

/// Reads the catalog again, if its file has changed.
type Refresh = Box<dyn Fn() + Send + Sync>;

/// All local servers of the catalog, and the socket on which they are offered.
pub struct Bridge {
    shared: Arc<Shared>,
    entries: RwLock<HashMap<ServerId, Arc<Entry>>>,
    /// Servers that left the catalog while they had processes.
    leaving: Mutex<Vec<Arc<Entry>>>,
    socket: PathBuf,
    alone: Option<Alone>,
}

/// What a bridge has that is a process of its own.
struct Alone {
    /// Its socket, bound at the start so that a mistake ends it.
    bound: Mutex<Option<UnixListener>>,
    /// The gateway has the metrics.
    tally: Arc<Tally>,
    /// It may hear of a new server before its watch does.
    refresh: OnceLock<Refresh>,
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Servers that a reload changed or removed: dropped, they finish their calls in flight and stop.
#[derive(Debug)]
pub struct Leaving<'b> {
    bridge: &'b Bridge,
    entries: Vec<Arc<Entry>>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut leaving = self.bridge.leaving.lock();
        leaving.retain(|entry| entry.has_processes());
        leaving.extend(self.entries.drain(..).filter(|entry| entry.retire(DRAIN)));
    }
}

impl Bridge {
    /// Locks the state directory and prepares a private directory for the socket; binds nothing yet.
    pub fn new(
        state_dir: &Path,
        limits: Limits,
        observer: Arc<dyn Observer>,
    ) -> Result<Arc<Self>, BridgeError> {
        let (state_dir, shared) = settle_in(state_dir, limits, observer)?;
        let socket = private_dir(&state_dir).map_err(|e| BridgeError::State(state_dir, e))?.join("bridge");
        Ok(Self::made(shared, socket, None))
    }

    /// As [`Self::new`], for a process of its own with its socket at that path.
    pub fn alone(socket: &Path, state_dir: &Path, limits: Limits) -> Result<Arc<Self>, BridgeError> {
        let wrong = |e| BridgeError::Socket(socket.to_owned(), e);
        let path = std::path::absolute(socket).map_err(wrong)?;
        socket::vacant(&path).map_err(wrong)?;
        let tally = Arc::new(Tally::default());
        let (_, shared) = settle_in(state_dir, limits, Arc::clone(&tally) as Arc<dyn Observer>)?;
        let alone = Alone {
            bound: Mutex::new(Some(socket::bind(&path).map_err(wrong)?)),
            tally,
            refresh: OnceLock::new(),
        };
        Ok(Self::made(shared, path, Some(alone)))
    }

    fn made(shared: Arc<Shared>, socket: PathBuf, alone: Option<Alone>) -> Arc<Self> {
        Arc::new(Self { shared, entries: RwLock::default(), leaving: Mutex::default(), socket, alone })
    }

    /// What to do when a server is asked for that is not there: it may stand in the catalog since a moment ago.
    pub fn when_unknown(&self, refresh: impl Fn() + Send + Sync + 'static) {
        if let Some(alone) = &self.alone {
            // Only the first one counts.
            drop(alone.refresh.set(Box::new(refresh)));
        }
    }

    /// Calls in flight on all children.
    pub fn in_flight(&self) -> usize {
        self.entries.read().values().map(|entry| entry.status().in_flight).sum()
    }

    fn counts(&self) -> HashMap<String, tally::Counts> {
        self.alone.as_ref().map(|alone| alone.tally.counts()).unwrap_or_default()
    }

    fn statuses(&self) -> HashMap<String, Status> {
        let entries = self.entries.read();
        entries.iter().map(|(id, entry)| (id.to_string(), entry.status())).collect()
    }

    /// Path of the unix socket, shorter than 100 bytes.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The HTTP path of one instance.
    pub fn path(id: &ServerId, instance: u16) -> String {
        format!("/{id}/{instance}")
    }

    /// Takes over a catalog. Servers that are equal in what matters to a child keep their children; those of changed ones
    /// are started anew; new ones are known at once and start when called. What was changed or removed leaves once the
    /// answer is dropped: when whoever calls knows of the new ones.
    pub fn reconcile(&self, snapshot: &Snapshot) -> Leaving<'_> {
        let mut entries = self.entries.write();
        let mut before = std::mem::take(&mut *entries);
        for server in snapshot.servers.iter().filter(|server| server.enabled) {
            let Runtime::Local(local) = &server.runtime else { continue };
            let entry = match before.remove(&server.id) {
                Some(entry) if entry.fits(local) => {
                    entry.server.store(Arc::clone(server));
                    entry
                }
                other => {
                    let entry = Entry::new(&self.shared, server, local);
                    if let Some(other) = other {
                        entry.follow(&other);
                        // It is put back, to be drained with the others.
                        before.insert(server.id.clone(), other);
                    }
                    entry
                }
            };
            entries.insert(server.id.clone(), entry);
        }
        drop(entries);
        self.fill();
        Leaving { bridge: self, entries: before.into_values().collect() }
    }

    /// Starts what is to be kept warm, once there is a runtime to start it on.
    fn fill(&self) {
        if self.shared.is_settled() {
            for entry in self.entries.read().values() {
                entry.fill();
            }
        }
    }

    /// Sweeps what a killed predecessor left, then serves until `shutdown` turns true, and returns when every
    /// process of every child is gone.
    pub async fn serve(self: &Arc<Self>, shutdown: watch::Receiver<bool>) {
        self.shared.settle();
        let swept = self.shared.table.sweep().await;
        if swept > 0 {
            tracing::warn!(swept, "killed processes that an earlier gateway had left");
        }
        self.fill();
        if let Err(error) = serve::serve(self, shutdown.clone()).await {
            tracing::error!(%error, socket = %self.socket.display(), "the bridge cannot serve its socket");
            let mut shutdown = shutdown;
            // Children could still be started by hand, so that the end is the same.
            drop(shutdown.wait_for(|down| *down).await);
        }
        self.stop_all().await;
    }

    /// Starts a server and waits until every instance is ready.
    pub async fn start(&self, id: &str) -> Result<Started, BridgeError> {
        self.entry(id)?.start().await
    }

    /// Stops a server and waits until no process of it is left. The next call starts it again.
    pub async fn stop(&self, id: &str) -> Result<Stopped, BridgeError> {
        Ok(self.entry(id)?.stop(STOP_DRAIN, false).await)
    }

    /// What a local server looks like; `None` if there is none of that id.
    pub fn status(&self, id: &str) -> Option<Status> {
        let entry = self.entries.read().get(id).cloned();
        entry.map(|entry| entry.status())
    }

    fn entry(&self, id: &str) -> Result<Arc<Entry>, BridgeError> {
        self.find(id).ok_or_else(|| BridgeError::Unknown(id.to_owned()))
    }

    fn find(&self, id: &str) -> Option<Arc<Entry>> {
        let known = self.entries.read().get(id).cloned();
        if known.is_none()
            && let Some(refresh) = self.alone.as_ref().and_then(|alone| alone.refresh.get())
        {
            refresh();
            return self.entries.read().get(id).cloned();
        }
        known
    }

    /// The gateway is about to end: children stop once their calls in flight ended, or after `within`, and none is started.
    pub fn drain(&self, within: Duration) {
        for entry in self.entries.read().values() {
            entry.retire(within);
        }
    }

    async fn stop_all(&self) {
        self.shared.close();
        let mut all: Vec<Arc<Entry>> = self.entries.read().values().cloned().collect();
        all.append(&mut self.leaving.lock());
        // First every order, then every wait: they end side by side.
        for entry in &all {
            entry.retire(Duration::ZERO);
        }
        for entry in all {
            entry.stop(Duration::ZERO, true).await;
        }
    }
}

/// Makes the state directory ours.
fn settle_in(
    state_dir: &Path,
    limits: Limits,
    observer: Arc<dyn Observer>,
) -> Result<(PathBuf, Arc<Shared>), BridgeError> {
    let wrong = |e| BridgeError::State(state_dir.to_owned(), e);
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(wrong)?;
    let state_dir = state_dir.canonicalize().map_err(wrong)?;
    let table = sweep::Table::open(&state_dir)?;
    Ok((state_dir, Shared::new(limits, observer, table)))
}

/// A directory for the socket that only we can enter: in the state directory, or where a long path forbids it,
/// in the system's directory for temporary files.
fn private_dir(state_dir: &Path) -> io::Result<PathBuf> {
    let near = state_dir.join("run-bridge");
    let fits = near.as_os_str().as_bytes().len() + "/bridge".len() < SOCKET_PATH_BYTES_MAX;
    let dir = if fits { near } else { Path::new("/tmp").join(format!("tollgate-{}", random_hex::<8>()?)) };
    if fits && dir.exists() {
        // What an earlier gateway left; the lock says that it is gone.
        fs::remove_dir_all(&dir)?;
    }
    DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}

/// `N` random bytes in hexadecimal.
fn random_hex<const N: usize>() -> io::Result<String> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests drive the bridge from tasks of their own")]
mod tests;
