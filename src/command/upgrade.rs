//! `tollgate upgrade`: asks a running gateway to let a new binary take over, and waits for how that goes.
//! Not here: the upgrade (`app`), of which `SIGUSR2` and two files in the state directory are all that is seen from here.

use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::{Done, Files, check, print};
use crate::app::{self, Attempt};

/// Longer than a gateway waits for its successor to be ready.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Asks the gateway with that process id, or the one that these settings describe.
pub(super) fn ask(pid: Option<u32>, files: Files) -> Done {
    let loaded = files.load().map_err(|mistakes| check::report(&mistakes))?;
    let state_dir = &loaded.conf.state_dir;
    let Some(pid) = pid.or_else(|| app::running_pid(state_dir)) else {
        return Err(format!(
            "error: no gateway runs on the state directory {}: name it with --pid",
            state_dir.display()
        ));
    };
    // 0 and below would be groups, and everybody.
    let process = i32::try_from(pid).ok().filter(|pid| *pid > 0).map(Pid::from_raw);
    let process = process.ok_or_else(|| format!("error: {pid} is no process id"))?;
    let ours = |attempt: &Attempt| attempt.pid == pid;
    let before = Attempt::latest(state_dir).filter(ours).map_or(0, |attempt| attempt.number);
    kill(process, Signal::SIGUSR2).map_err(|error| match error {
        Errno::ESRCH => format!("error: there is no process {pid}"),
        error => format!("error: process {pid} cannot be asked: {error}"),
    })?;
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let news = Attempt::latest(state_dir).filter(ours).filter(|attempt| attempt.number > before);
        match news {
            Some(Attempt { successor: Some(successor), .. }) => {
                return print(&format!("process {successor} has taken over from process {pid}\n"));
            }
            Some(Attempt { failure, .. }) => {
                let why = failure.unwrap_or_default();
                return Err(format!("error: not upgraded, process {pid} goes on: {why}"));
            }
            None if kill(process, None).is_err() => {
                return Err(format!("error: process {pid} has ended"));
            }
            None => sleep(LOOK),
        }
    }
    Err(format!(
        "error: process {pid} does not say how it went: is {} its state directory?",
        state_dir.display()
    ))
}
