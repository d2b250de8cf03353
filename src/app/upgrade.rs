//! The old process in an upgrade: it starts the new binary, gives it the listening sockets and waits for its word.
//! Not here: the new process (`inherit`), how the old one ends (`drain`).
//!
//! Pingora's own hand-over expects both processes to meet at a socket, sleeps for fixed times and knows only listeners of
//! its own. Here the new process is a child that inherits the sockets, so nothing has to be found, and everything it does
//! wrong (a wrong configuration, a crash, silence) shows as what happens to a child. Nothing changes for clients before it
//! says that it accepts connections.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::inherit::{LINE, NAMES, PREDECESSOR, READY, encode};
use crate::listener::{Bound, Inherited};

/// A new process that is not ready by then is given up: it had to load a configuration and a catalog.
const READY_MAX: Duration = Duration::from_secs(30);
/// What a process that is given up gets to end by itself.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// Why a new process failed, in its own words: as many as a log line bears.
const WORDS_BYTES_MAX: usize = 8 * 1024;
/// The first descriptor that is handed over (sd_listen_fds(3)).
const FIRST: i32 = 3;

/// Variables that were meant for this process alone.
const OURS_ALONE: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS_FIRST_FD", "WATCHDOG_PID"];

/// Everything that a new process needs.
pub(super) struct Succession {
    program: PathBuf,
    args: Vec<OsString>,
    sockets: Vec<Inherited>,
}

/// Why no new process took over.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    /// The process cannot be replaced.
    #[error("process 1 ends its container when it ends: replace the container instead")]
    First,
    /// The new process could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended, or said why it will.
    #[error("the new process {0}")]
    Ended(String),
    /// This process was told to end meanwhile.
    #[error("{0} came before the new process was ready")]
    Interrupted(&'static str),
    /// It said nothing.
    #[error("the new process was not ready within {READY_MAX:?}")]
    Silent,
}

impl Succession {
    /// Remembers how this process was started. The name of the program is kept as it was given, so that a link that
    /// leads to a new binary meanwhile is followed.
    pub(super) fn new(bound: &[Bound]) -> std::io::Result<Self> {
        let mut args = std::env::args_os();
        let given = args.next().map(PathBuf::from).filter(|given| !given.as_os_str().is_empty());
        let program = match given {
            // A bare name is looked for along PATH, as the shell did.
            Some(name) if name.parent() == Some(Path::new("")) => name,
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        let sockets = bound.iter().map(Bound::share).collect::<Result<_, _>>()?;
        Ok(Self { program, args: args.collect(), sockets })
    }

    /// Starts a new process and waits until it accepts connections, unless this one has to `end` before. Gives its
    /// process id.
    pub(super) async fn hand_over(
        &self,
        end: impl Future<Output = &'static str>,
    ) -> Result<u32, UpgradeError> {
        if std::process::id() == 1 {
            return Err(UpgradeError::First);
        }
        let (mut child, line) = self.start().map_err(|source| {
            let program = self.program.clone();
            UpgradeError::Start { program, source }
        })?;
        let mut words = vec![0; WORDS_BYTES_MAX];
        let mut heard = None;
        tokio::select! {
            biased;
            said = line.recv(&mut words) => heard = Some(said?),
            status = child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                heard = line.try_recv(&mut words).ok();
                if heard.is_none() {
                    return Err(UpgradeError::Ended(format!("ended ({status}) before it was ready")));
                }
            }
            signal = end => {
                give_up(child).await;
                return Err(UpgradeError::Interrupted(signal));
            }
            () = sleep(READY_MAX) => {}
        }
        let said = words.get(..heard.unwrap_or_default()).unwrap_or_default();
        match child.id() {
            Some(pid) if said == READY => Ok(pid),
            _ => {
                give_up(child).await;
                if said.is_empty() { Err(UpgradeError::Silent) } else { Err(UpgradeError::said(said)) }
            }
        }
    }

    /// The new process, and the line on which it speaks.
    #[expect(clippy::disallowed_methods, reason = "a new gateway is no child of the bridge: it outlives us")]
    fn start(&self) -> std::io::Result<(Child, UnixDatagram)> {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair()?;
        ours.set_nonblocking(true)?;
        let mut handed: Vec<(String, OwnedFd)> = Vec::with_capacity(self.sockets.len() + 1);
        for Inherited { listener, socket } in &self.sockets {
            handed.push((encode(listener), socket.try_clone()?.into()));
        }
        handed.push((LINE.to_owned(), theirs.into()));
        let names: Vec<&str> = handed.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null());
        command.env("LISTEN_FDS", names.len().to_string()).env(NAMES, names.join(":"));
        command.env(PREDECESSOR, std::process::id().to_string());
        for name in OURS_ALONE {
            command.env_remove(name);
        }
        let mappings = handed.into_iter().zip(FIRST..);
        let mappings = mappings.map(|((_, parent_fd), child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).map_err(std::io::Error::other)?;
        let child = command.spawn()?;
        Ok((child, UnixDatagram::from_std(ours)?))
    }
}

impl UpgradeError {
    fn said(words: &[u8]) -> Self {
        Self::Ended(format!("said: {}", String::from_utf8_lossy(words).trim()))
    }
}

impl From<std::io::Error> for UpgradeError {
    fn from(error: std::io::Error) -> Self {
        Self::Ended(format!("cannot be heard: {error}"))
    }
}

/// Ends a process that will not take over. It has children only if it was nearly ready, so it is asked first.
async fn give_up(mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended by itself.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
    if timeout(GIVEN_UP, child.wait()).await.is_err() {
        // What it started is swept by whoever uses its folder next.
        let _ = child.kill().await;
    }
}
