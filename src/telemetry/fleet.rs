//! Metrics of a server's endpoints: their states, what was tried again, and sessions that were opened anew.
//! Not here: calls (`metrics`).

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::metrics::ServerMeters;

/// States of an endpoint, as labels (`upstream::EndpointState`).
const STATES: [&str; 6] = ["starting", "healthy", "degraded", "ejected", "down", "draining"];
/// What an endpoint did wrong, as labels (`upstream::Fault`).
const FAULTS: [&str; 5] = ["connect", "broken", "late", "status", "answer"];
/// What came of opening a session anew.
const RESULTS: [&str; 2] = ["success", "failure"];

/// The families.
#[derive(Debug)]
pub(super) struct FleetFamilies {
    up: IntGaugeVec,
    state: IntGaugeVec,
    circuit: IntGaugeVec,
    ejections: IntCounterVec,
    retries: IntCounterVec,
    restored: IntCounterVec,
}

impl FleetFamilies {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone())).map(|()| vec)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone())).map(|()| vec)
        };
        Ok(Self {
            up: gauge(
                "tollgate_endpoint_up",
                "Whether an endpoint takes calls; endpoints are numbered in file order.",
                &["server", "endpoint"],
            )?,
            state: gauge(
                "tollgate_endpoint_state",
                "1 for the state that an endpoint is in.",
                &["server", "endpoint", "state"],
            )?,
            circuit: gauge(
                "tollgate_circuit_state",
                "Whether calls to a server pass: 0 they do, 1 a few do, 2 none does.",
                &["server"],
            )?,
            ejections: counter(
                "tollgate_ejections_total",
                "Endpoints that left because they failed, by what they did.",
                &["server", "reason"],
            )?,
            retries: counter(
                "tollgate_retries_total",
                "Calls sent again, by what the endpoint before did.",
                &["server", "reason"],
            )?,
            restored: counter(
                "tollgate_sessions_restored_total",
                "Sessions opened anew because their server had lost them.",
                &["server", "result"],
            )?,
        })
    }
}

impl ServerMeters {
    /// The state of endpoint number `at`, and whether it takes calls.
    pub fn endpoint_state(&self, at: usize, state: &'static str, takes_calls: bool) {
        let (fleet, id, number) = (&self.families.fleet, self.id.as_str(), at.to_string());
        let mut known = self.endpoints.lock();
        if !known.contains(&at) {
            known.push(at);
        }
        fleet.up.with_label_values(&[id, &number]).set(i64::from(takes_calls));
        for name in STATES {
            fleet.state.with_label_values(&[id, &number, name]).set(i64::from(name == state));
        }
    }

    /// Whether calls to the server pass: 0 they do, 1 a few do, 2 none does.
    pub fn circuit(&self, state: i64) {
        self.families.fleet.circuit.with_label_values(&[&self.id]).set(state);
    }

    /// An endpoint left because it failed.
    pub fn ejected(&self, reason: &'static str) {
        self.families.fleet.ejections.with_label_values(&[self.id.as_str(), reason]).inc();
    }

    /// A call was sent again.
    pub fn retried(&self, reason: &'static str) {
        self.families.fleet.retries.with_label_values(&[self.id.as_str(), reason]).inc();
    }

    /// A session was opened anew, or could not be.
    pub fn session_restored(&self, ok: bool) {
        let result = if ok { "success" } else { "failure" };
        self.families.fleet.restored.with_label_values(&[self.id.as_str(), result]).inc();
    }

    /// Removes the series of the server's endpoints.
    pub(super) fn remove_endpoints(&self) {
        let (fleet, id) = (&self.families.fleet, self.id.as_str());
        // A series that was never made cannot be removed, which is what we want anyway.
        for at in self.endpoints.lock().iter().map(ToString::to_string) {
            let _ = fleet.up.remove_label_values(&[id, &at]);
            for state in STATES {
                let _ = fleet.state.remove_label_values(&[id, &at, state]);
            }
        }
        for fault in FAULTS {
            let _ = fleet.ejections.remove_label_values(&[id, fault]);
            let _ = fleet.retries.remove_label_values(&[id, fault]);
        }
        for result in RESULTS {
            let _ = fleet.restored.remove_label_values(&[id, result]);
        }
        let _ = fleet.circuit.remove_label_values(&[id]);
    }
}
