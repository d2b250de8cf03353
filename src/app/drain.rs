//! The end: stop accepting, let calls finish, stop children, go.
//! Not here: what streams and children do when told (`proxy/write`, `bridge`).

use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{interval, timeout};

use super::Phases;
use crate::limit::Gate;
use crate::telemetry::AccessLog;

/// Children get this long to go before the process goes without them; their groups are killed by then.
const CHILDREN_MAX: Duration = Duration::from_secs(10);
/// How often the number of calls in flight is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Waits for a signal and ends the gateway in order.
pub(super) struct Drain {
    pub(super) phases: Phases,
    pub(super) gate: Gate,
    /// How long calls in flight may take.
    pub(super) patience: Duration,
    /// The access log, and the audit log if it is another.
    pub(super) logs: Vec<AccessLog>,
    /// Turns true when the gateway's own process has no more use for it.
    pub(super) stop: Option<watch::Receiver<bool>>,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let (mut term, mut int) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
        let name = tokio::select! {
            name = any(&mut term, &mut int) => name,
            () = told(self.stop.clone()) => "none",
        };
        tracing::info!(signal = name, in_flight = self.gate.in_flight(), "shutting down");
        self.phases.draining.send_replace(true);
        tokio::select! {
            drained = timeout(self.patience, self.idle()) => if drained.is_err() {
                tracing::warn!(in_flight = self.gate.in_flight(), "calls did not finish in time");
            },
            // Whoever signals again has lost patience.
            _ = any(&mut term, &mut int) => {}
        }
        let mut gone = self.phases.children_gone.subscribe();
        self.phases.stopping.send_replace(true);
        if timeout(CHILDREN_MAX, gone.wait_for(|gone| *gone)).await.is_err() {
            tracing::error!("children did not end in time");
        }
        self.logs.iter().for_each(AccessLog::close);
        tracing::info!("stopped");
        ShutdownSignal::FastShutdown
    }
}

impl Drain {
    async fn idle(&self) {
        let mut looks = interval(LOOK);
        while self.gate.in_flight() > 0 {
            looks.tick().await;
        }
    }
}

fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::error!(%error, "cannot listen for a signal")).ok()
}

async fn any(term: &mut Option<Signal>, int: &mut Option<Signal>) -> &'static str {
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
