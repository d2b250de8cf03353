//! The end: stop accepting, let calls finish, stop children, go.
//! Not here: what streams and children do when told (`proxy/write`, `bridge`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{interval, sleep, timeout};

use super::Phases;
use crate::bridge::Bridge;
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
    pub(super) bridge: Arc<Bridge>,
    /// How long connections are taken while `/readyz` already fails.
    pub(super) delay: Duration,
    /// How long calls in flight may take.
    pub(super) patience: Duration,
    /// The access log, and the audit log if it is another.
    pub(super) logs: Vec<AccessLog>,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let mut signals = Signals::listen();
        let name = signals.end().await;
        tracing::info!(signal = name, in_flight = self.gate.in_flight(), "shutting down");
        self.leave(&mut signals).await;
        self.finish(&mut signals).await;
        ShutdownSignal::FastShutdown
    }
}

impl Drain {
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
        self.phases.draining.send_replace(true);
        self.phases.hanging_up.send_replace(true);
    }

    /// Waits for what is in flight, stops children and closes the logs.
    async fn finish(&self, signals: &mut Signals) {
        // Those without a call begin to end now: a child that is slow to go holds nobody up.
        self.bridge.drain(self.patience);
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
        tracing::info!("stopped");
        self.logs.iter().for_each(AccessLog::close);
    }

    async fn idle(&self) {
        let mut looks = interval(LOOK);
        while self.gate.in_flight() > 0 {
            looks.tick().await;
        }
    }
}

/// The signals that end the gateway.
struct Signals {
    term: Option<Signal>,
    int: Option<Signal>,
}

impl Signals {
    fn listen() -> Self {
        let listen = |kind| {
            signal(kind).inspect_err(|error| tracing::error!(%error, "cannot listen for a signal")).ok()
        };
        Self { term: listen(SignalKind::terminate()), int: listen(SignalKind::interrupt()) }
    }

    async fn end(&mut self) -> &'static str {
        tokio::select! {
            () = next(&mut self.term) => "SIGTERM",
            () = next(&mut self.int) => "SIGINT",
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
