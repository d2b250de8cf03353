//! Word to systemd, when it started us: ready, reloading, stopping, who goes on, and how it goes.
//! Not here: what it is told of (`listen`, `sidecar`, `drain`). Without `NOTIFY_SOCKET` nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::upstream::Fleet;

/// How often the status line is looked at. It is said only when it has changed.
const LOOK: Duration = Duration::from_secs(2);

/// Connections are accepted.
pub(super) fn ready() {
    say(&[NotifyState::Ready]);
}

/// The files are loaded again; `ready` ends it (sd_notify(3): with the time, so that systemd knows which reload it was).
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd cannot be told of a reload"),
    }
}

/// The end has begun.
pub(super) fn stopping(in_flight: usize) {
    let status = format!("ending, {in_flight} calls in flight");
    say(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// That process goes on.
pub(super) fn succeeded_by(pid: u32) {
    say(&[NotifyState::MainPid(pid), NotifyState::Status("a new process has taken over")]);
}

/// Says at half the time that systemd wants it (`WatchdogSec`) that the workers of this runtime run.
pub(super) async fn keep_awake() {
    let Some(within) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut pace = interval((within / 2).max(Duration::from_millis(1)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        say(&[NotifyState::Watchdog]);
    }
}

/// Keeps the line that `systemctl status` shows.
pub(super) async fn tell_status(fleet: &Fleet) {
    let mut pace = interval(LOOK);
    let mut said = String::new();
    loop {
        pace.tick().await;
        let status = status(fleet);
        if status != said {
            say(&[NotifyState::Status(&status)]);
            said = status;
        }
    }
}

fn status(fleet: &Fleet) -> String {
    let view = fleet.view();
    let (mut up, mut all) = (0, 0);
    for upstream in view.upstreams() {
        all += 1;
        up += usize::from(upstream.is_up());
    }
    format!("{up}/{all} servers healthy, generation {}", view.catalog.generation)
}

fn say(states: &[NotifyState<'_>]) {
    // Whether anybody listens is not ours to judge, and nothing depends on it.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
