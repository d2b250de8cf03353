//! How a child process comes to be and how its whole group ends. The only place that creates processes.
//! Not here: what is said to it (`child`), or processes that an earlier gateway left (`sweep`).

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use super::sweep;
use crate::catalog::Local;

/// The environment variable that marks our children and what they start in turn.
pub(super) const MARKER: &str = "TOLLGATE_CHILD";
/// What a child inherits of our own environment: enough to find programs, its home and its language.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];
/// This program, even when its file was replaced meanwhile.
const OURSELVES: &str = "/proc/self/exe";
/// A child whose stdin was closed gets this long to leave by itself.
const EOF_GRACE: Duration = Duration::from_secs(2);
/// And this long after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// SIGKILL cannot be refused; what is not gone after this long hangs in the kernel.
const KILL_GRACE: Duration = Duration::from_secs(5);
pub(super) const POLL: Duration = Duration::from_millis(10);

/// A running child and its pipes.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
    /// Its process id, which is also its group's.
    pub(super) pid: u32,
    marker: String,
}

/// Starts a child: no shell, a process group of its own, only the environment that is said, no new privileges and no
/// core dumps. Only a server with a sandbox pays for the launcher.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that creates processes, with PATH, HOME and LANG"
)]
pub(super) fn spawn(local: &Local, marker: String) -> io::Result<Process> {
    let mut command = match &local.sandbox {
        None => Command::new(&local.program),
        Some(profile) => {
            let mut command = Command::new(OURSELVES);
            command.arg0("tollgate").args(profile.command_line(std::process::id(), &local.program)?);
            command
        }
    };
    command.args(&local.args).env_clear();
    // The parent of a bare file name is an empty path, which means here.
    if !local.working_dir.as_os_str().is_empty() {
        command.current_dir(&local.working_dir);
    }
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if let Some(home) = local.sandbox.as_ref().and_then(|profile| profile.user.as_ref()?.home.as_ref()) {
        command.env("HOME", home);
    }
    command.envs(&local.env).env(MARKER, &marker);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    // It holds for this thread and is inherited by what it forks, and by nothing else of ours.
    prctl::set_no_new_privs()?;
    let mut child = command.spawn().map_err(|error| blame(local, error))?;
    let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
    forbid_core(pid);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    Ok(Process { child, stdin, stdout, stderr, pid, marker })
}

/// A core dump of a child holds the secrets in its environment. The gateway's own limit is its operator's business, so
/// the child's is set from outside.
fn forbid_core(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // One that ended at once needs none.
    let _ = rustix::process::prlimit(pid, rustix::process::Resource::Core, none);
}

/// The system says "not found" of a missing directory and of a missing program alike.
fn blame(local: &Local, error: io::Error) -> io::Error {
    let dir = &local.working_dir;
    if error.kind() == io::ErrorKind::NotFound && !dir.as_os_str().is_empty() && !dir.is_dir() {
        return io::Error::new(
            error.kind(),
            format!("its working directory {} does not exist", dir.display()),
        );
    }
    error
}

impl Process {
    /// Ends the child and everything it started: closed stdin, SIGTERM, SIGKILL, each with its time. Returns
    /// when no process of the group is left and the child was reaped.
    pub(super) async fn end(mut self) -> Option<ExitStatus> {
        self.stdin = None;
        let mut status = self.leave(EOF_GRACE).await;
        if group_lives(self.pid) {
            signal_group(self.pid, Signal::SIGTERM);
            let since = Instant::now();
            status = status.or(self.leave(TERM_GRACE).await);
            group_gone(self.pid, TERM_GRACE.saturating_sub(since.elapsed())).await;
        }
        if group_lives(self.pid) {
            signal_group(self.pid, Signal::SIGKILL);
            status = status.or(self.leave(KILL_GRACE).await);
            group_gone(self.pid, KILL_GRACE).await;
        }
        // A descendant in a session of its own is not in the group, but still carries the mark.
        let marker = std::mem::take(&mut self.marker);
        let swept = tokio::task::spawn_blocking(move || sweep::kill_marked(&marker)).await.unwrap_or(0);
        if swept > 0 {
            tracing::debug!(pid = self.pid, swept, "killed descendants that had left the process group");
        }
        status
    }

    /// Waits for the child to leave, and meanwhile throws away what it still writes, so that it cannot block.
    async fn leave(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        let mut waste = BytesMut::new();
        loop {
            waste.clear();
            waste.reserve(4096);
            tokio::select! {
                status = self.child.wait() => return status.ok(),
                () = tokio::time::sleep_until(deadline) => return None,
                open = read(&mut self.stdout, &mut waste), if self.stdout.is_some() => {
                    if !open { self.stdout = None }
                }
                // The buffer is shared by turns, never by both.
                open = read_away(&mut self.stderr), if self.stderr.is_some() => {
                    if !open { self.stderr = None }
                }
            }
        }
    }
}

async fn read_away(pipe: &mut Option<ChildStderr>) -> bool {
    let mut waste = BytesMut::with_capacity(4096);
    read(pipe, &mut waste).await
}

/// Reads into `buffer`; `false` when the pipe is at its end.
pub(super) async fn read<R: AsyncRead + Unpin>(pipe: &mut Option<R>, buffer: &mut BytesMut) -> bool {
    match pipe {
        Some(pipe) => pipe.read_buf(buffer).await.is_ok_and(|read| read > 0),
        None => false,
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 1).map(Pid::from_raw)
}

/// Sends a signal to a process group.
pub(super) fn signal_group(pid: u32, signal: Signal) {
    if let Some(group) = pid_of(pid) {
        // The group may have ended by itself.
        let _ = killpg(group, signal);
    }
}

/// Whether a process group has members.
pub(super) fn group_lives(pid: u32) -> bool {
    pid_of(pid).is_some_and(|group| killpg(group, None) != Err(Errno::ESRCH))
}

/// Waits until a process group has no members.
async fn group_gone(pid: u32, within: Duration) {
    let wait = async {
        while group_lives(pid) {
            // When we are the first process of a container, grandchildren become ours to reap.
            sweep::reap_group(pid);
            sleep(POLL).await;
        }
    };
    drop(timeout(within, wait).await);
}
