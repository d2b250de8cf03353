//! Looks at what the process bears: memory against its ceiling, and everything with a bound, for metrics.
//! Not here: what is refused because of it (`proxy/toll`, `listener`).

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::conf::{Bounds, Conf, Limits};
use crate::hub::Hub;
use crate::limit::Level;
use crate::listener::Occupancy;
use crate::proxy::Load;
use crate::telemetry::Meters;

/// Memory that grows by a GiB a second grows by a quarter of one between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Whoever looks.
pub(super) struct Overload {
    load: Load,
    occupancy: Occupancy,
    bounds: Bounds,
    limits: Limits,
    meters: Arc<Meters>,
    hub: Arc<Hub>,
}

impl Overload {
    pub(super) fn new(
        conf: &Conf,
        load: Load,
        occupancy: Occupancy,
        (hub, meters): (Arc<Hub>, Arc<Meters>),
    ) -> Self {
        Self { load, occupancy, bounds: conf.bounds, limits: conf.limits, meters, hub }
    }

    /// Looks until it is dropped.
    pub(super) async fn watch(&self) {
        let mut pace = interval(LOOK);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            self.look();
        }
    }

    fn look(&self) {
        self.hub.forget_some_sessions();
        let meters = self.meters.life();
        if let (Some(ceiling), Some(bytes)) = (self.bounds.memory, resident_bytes()) {
            meters.bound("memory", bytes, ceiling);
            if let Some(level) = self.load.pressure.note(bytes, ceiling) {
                let mib = bytes / (1024 * 1024);
                match level {
                    Level::Calm => {
                        tracing::info!(mib, "memory is enough again: nothing is refused for want of it")
                    }
                    Level::High => tracing::warn!(mib, "memory is nearly used up: new calls are refused"),
                    Level::Full => tracing::error!(mib, "memory is used up: no connections are taken"),
                }
            }
        }
        let gate = &self.load.gate;
        meters.bound("in_flight", gate.calls(), self.limits.in_flight_max);
        meters.bound("streams", gate.streams(), self.limits.streams_max);
        meters.bound("request_bytes", self.load.scale.all(), self.bounds.request_bytes);
        meters.bound("connections", self.occupancy.open(), self.limits.connections_max);
        meters.bound("sessions", self.hub.sessions_known(), self.bounds.sessions);
    }
}

/// What of our memory is resident (proc(5)); `None` on a system that does not say.
fn resident_bytes() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
}
