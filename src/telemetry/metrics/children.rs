//! What is counted of the children of local servers.
//! Not here: the children (`bridge`), the families of metrics (`metrics`).

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::ServerMeters;

/// The bounds that a child may meet, as `bridge` names them.
const BOUNDS: [&str; 3] = ["max_per_caller", "max_processes", "limits.children"];

/// The families of metrics of children.
#[derive(Debug)]
pub(super) struct ChildFamilies {
    living: IntGaugeVec,
    refused: IntCounterVec,
    starts: IntCounterVec,
    restarts: IntCounterVec,
    exits: IntCounterVec,
    rubbish: IntCounterVec,
}

impl ChildFamilies {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone())).map(|()| vec)
        };
        let living =
            IntGaugeVec::new(Opts::new("tollgate_server_children", "Children that there are."), &["server"])?;
        registry.register(Box::new(living.clone()))?;
        Ok(Self {
            living,
            refused: counter(
                "tollgate_server_children_refused_total",
                "Children that were not started because of a bound.",
                &["server", "bound"],
            )?,
            starts: counter("tollgate_server_starts_total", "Children started.", &["server"])?,
            restarts: counter(
                "tollgate_server_restarts_total",
                "Children started again after a death.",
                &["server"],
            )?,
            exits: counter(
                "tollgate_server_exits_total",
                "Children that ended, by result.",
                &["server", "result"],
            )?,
            rubbish: counter("tollgate_server_rubbish_lines_total", "Unreadable lines.", &["server"])?,
        })
    }
}

impl ServerMeters {
    /// A child was started.
    pub fn child_started(&self) {
        self.families.children.starts.with_label_values(&[&self.id]).inc();
    }

    /// A child was started again after a death.
    pub fn child_restarted(&self) {
        self.families.children.restarts.with_label_values(&[&self.id]).inc();
    }

    /// A child ended; not clean means by a signal or with a failure.
    pub fn child_exited(&self, clean: bool) {
        let result = if clean { "clean" } else { "failed" };
        self.families.children.exits.with_label_values(&[self.id.as_str(), result]).inc();
    }

    /// How many children there are.
    pub fn children(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.families.children.living.with_label_values(&[&self.id]).set(count);
    }

    /// A child was not started because of a bound.
    pub fn child_refused(&self, bound: &'static str) {
        self.families.children.refused.with_label_values(&[self.id.as_str(), bound]).inc();
    }

    /// A line of a child that is no message.
    pub fn rubbish_line(&self) {
        self.families.children.rubbish.with_label_values(&[&self.id]).inc();
    }

    /// Removes the series of a server that is gone.
    pub(super) fn forget_children(&self) {
        let (id, families) = (self.id.as_str(), &self.families);
        // A series that was never made cannot be removed, which is what we want anyway.
        for result in ["clean", "failed"] {
            let _ = families.children.exits.remove_label_values(&[id, result]);
        }
        for bound in BOUNDS {
            let _ = families.children.refused.remove_label_values(&[id, bound]);
        }
        let _ = families.children.living.remove_label_values(&[id]);
        for vec in [&families.children.starts, &families.children.restarts, &families.children.rubbish] {
            let _ = vec.remove_label_values(&[id]);
        }
    }
}
