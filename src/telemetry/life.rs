//! Metrics of the process's own life: upgrades.
//! Not here: loads of the catalog (`metrics`), connections (`connections`).

use prometheus::{IntCounterVec, Opts, Registry};

/// What is counted of the process's life.
#[derive(Debug)]
pub struct LifeMeters {
    upgrades: IntCounterVec,
}

impl LifeMeters {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let upgrades = IntCounterVec::new(
            Opts::new("tollgate_upgrades_total", "Hand-overs to a new binary by result."),
            &["result"],
        )?;
        registry.register(Box::new(upgrades.clone()))?;
        Ok(Self { upgrades })
    }

    /// A new binary took over (`ok`, counted by the new process), or did not (`failed`, by the old).
    pub fn upgraded(&self, result: &str) {
        self.upgrades.with_label_values(&[result]).inc();
    }
}
