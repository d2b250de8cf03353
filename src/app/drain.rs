//! Signals and the end: hand over to a new binary, or stop accepting; let calls finish, stop children, go.
//! Not here: what streams and children do when told (`proxy/write`, `bridge`), the hand-over itself (`upgrade`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

use super::Phases;
use super::running::{Attempt, PidFile};
use super::systemd;
use super::upgrade::{Succession, UpgradeError};
use crate::bridge::Children;
use crate::limit::Gate;
use crate::listener::Occupancy;
use crate::telemetry::{AccessLog, Audit, Meters};

/// Children get this long to go before the process goes without them; their groups are killed by then.
const CHILDREN_MAX: Duration = Duration::from_secs(10);
/// Sessions that were opened to ask for health get this long to be closed.
const PROBES_MAX: Duration = Duration::from_secs(2);
/// How often the number of calls in flight is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// After a hand-over, how long a connection on which nothing is asked is kept: its client may be sending right now, and
/// the answer will ask it for another connection. Whoever was silent for that long is hardly about to speak.
const LINGER: Duration = Duration::from_secs(5);

/// Waits for a signal and ends the gateway in order.
pub(super) struct Drain {
    pub(super) phases: Phases,
    pub(super) gate: Gate,
    pub(super) children: Children,
    /// How long connections are taken while `/readyz` already fails.
    pub(super) delay: Duration,
    /// How long calls in flight may take.
    pub(super) patience: Duration,
    /// The access log, and the audit log if it is another.
    pub(super) logs: Vec<AccessLog>,
    pub(super) occupancy: Occupancy,
    /// What a new process is given; `None` once nothing is accepted any more, as these are the listening sockets.
    pub(super) succession: Mutex<Option<Arc<Succession>>>,
    pub(super) state_dir: PathBuf,
    pub(super) meters: Arc<Meters>,
    pub(super) audit: Audit,
    /// Turns true when the gateway's own process has no more use for it.
    pub(super) stop: Option<watch::Receiver<bool>>,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let mut signals = Signals::listen();
        let mut attempts = 0;
        loop {
            let asked = tokio::select! {
                asked = signals.next() => asked,
                () = told(self.stop.clone()) => Asked::End("none"),
            };
            let name = match asked {
                Asked::End(name) => name,
                Asked::Upgrade => {
                    attempts += 1;
                    match self.upgrade(attempts, &mut signals).await {
                        Ok(()) => break self.hand_over(&mut signals).await,
                        Err(UpgradeError::Interrupted(name)) => name,
                        Err(_) => continue,
                    }
                }
            };
            tracing::info!(signal = name, in_flight = self.gate.in_flight(), "shutting down");
            systemd::stopping(self.gate.in_flight());
            break self.leave(&mut signals).await;
        }
        self.finish(&mut signals).await;
        ShutdownSignal::FastShutdown
    }
}

impl Drain {
    /// Lets a new process take over. If none does, everything is as before.
    async fn upgrade(&self, number: u64, signals: &mut Signals) -> Result<(), UpgradeError> {
        tracing::info!("upgrading: a new process is started");
        let Some(succession) = self.succession.lock().clone() else { return Ok(()) };
        let taken = succession.hand_over(signals.end()).await;
        let result = if taken.is_ok() { "ok" } else { "failed" };
        match &taken {
            Ok(successor) => {
                systemd::succeeded_by(*successor);
                tracing::info!(successor, "a new process has taken over");
            }
            Err(error) => {
                self.meters.life().upgraded(result);
                tracing::error!(%error, "not upgraded: this process goes on");
            }
        }
        self.audit.write("upgrade", |line| line.text("result", result));
        let failure = taken.as_ref().err().map(ToString::to_string);
        let attempt =
            Attempt { pid: std::process::id(), number, successor: taken.as_ref().ok().copied(), failure };
        if let Err(error) = attempt.note(&self.state_dir) {
            tracing::warn!(%error, "how the upgrade went cannot be noted");
        }
        taken.map(drop)
    }

    /// The successor accepts: turns away nobody who is still here, but asks everybody to go over.
    async fn hand_over(&self, signals: &mut Signals) {
        self.succession.lock().take();
        self.phases.leaving.send_replace(true);
        self.phases.draining.send_replace(true);
        tokio::select! {
            _ = timeout(LINGER, self.empty()) => {}
            _ = signals.end() => {}
        }
        self.phases.hanging_up.send_replace(true);
    }

    /// Lets load balancers notice, then turns everybody away who has nothing in flight.
    async fn leave(&self, signals: &mut Signals) {
        self.phases.leaving.send_replace(true);
        self.phases.closed.send_replace(true);
        if !self.delay.is_zero() {
            tokio::select! {
                () = sleep(self.delay) => {}
                // Whoever signals again has lost patience.
                _ = signals.end() => {}
            }
        }
        // Without this the sockets would stay open, and take connections that nobody accepts.
        self.succession.lock().take();
        self.phases.draining.send_replace(true);
        self.phases.hanging_up.send_replace(true);
    }

    /// Waits for what is in flight, stops children and closes the logs.
    async fn finish(&self, signals: &mut Signals) {
        // Those without a call begin to end now: a child that is slow to go holds nobody up.
        self.children.drain(self.patience);
        tokio::select! {
            drained = timeout(self.patience, self.idle()) => if drained.is_err() {
                tracing::warn!(in_flight = self.gate.in_flight(), "calls did not finish in time");
            },
            _ = signals.end() => {}
        }
        let mut gone = self.phases.children_gone.subscribe();
        self.phases.stopping.send_replace(true);
        if timeout(CHILDREN_MAX, gone.wait_for(|gone| *gone)).await.is_err() {
            tracing::error!("children did not end in time");
        }
        let mut closed = self.phases.probes_closed.subscribe();
        // Servers that do not answer keep their sessions.
        drop(timeout(PROBES_MAX, closed.wait_for(|closed| *closed)).await);
        PidFile::of(&self.state_dir).remove();
        tracing::info!("stopped");
        self.logs.iter().for_each(AccessLog::close);
    }

    async fn idle(&self) {
        let mut looks = interval(LOOK);
        while self.gate.in_flight() > 0 {
            looks.tick().await;
        }
    }

    async fn empty(&self) {
        let mut looks = interval(LOOK);
        while self.occupancy.open() > 0 {
            looks.tick().await;
        }
    }
}

/// What a signal asks for.
enum Asked {
    /// The end.
    End(&'static str),
    /// A new binary.
    Upgrade,
}

/// The signals that end the gateway or let it be replaced.
struct Signals {
    term: Option<Signal>,
    int: Option<Signal>,
    upgrade: Option<Signal>,
}

impl Signals {
    fn listen() -> Self {
        Self {
            term: listen(SignalKind::terminate()),
            int: listen(SignalKind::interrupt()),
            upgrade: listen(SignalKind::user_defined2()),
        }
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            name = any(&mut self.term, &mut self.int) => Asked::End(name),
            () = next(&mut self.upgrade) => Asked::Upgrade,
        }
    }

    async fn end(&mut self) -> &'static str {
        any(&mut self.term, &mut self.int).await
    }
}

pub(super) fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::error!(%error, "cannot listen for a signal")).ok()
}

pub(super) async fn any(term: &mut Option<Signal>, int: &mut Option<Signal>) -> &'static str {
    tokio::select! {
        () = next(term) => "SIGTERM",
        () = next(int) => "SIGINT",
    }
}

async fn told(stop: Option<watch::Receiver<bool>>) {
    match stop {
        // A sender that is gone has no use for it either.
        Some(mut stop) => drop(stop.wait_for(|stop| *stop).await),
        None => std::future::pending().await,
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
