//! Metrics of the process's own life: upgrades, and bounds with what is taken of them.
//! Not here: loads of the catalog (`metrics`), connections (`connections`).

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// What is counted of the process's life.
#[derive(Debug)]
pub struct LifeMeters {
    upgrades: IntCounterVec,
    used: IntGaugeVec,
    limit: IntGaugeVec,
    shed: IntCounterVec,
}

impl LifeMeters {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let upgrades = IntCounterVec::new(
            Opts::new("tollgate_upgrades_total", "Hand-overs to a new binary by result."),
            &["result"],
        )?;
        let used = IntGaugeVec::new(
            Opts::new("tollgate_bound_used", "What is taken of a bound of the process."),
            &["bound"],
        )?;
        let limit = IntGaugeVec::new(
            Opts::new("tollgate_bound_limit", "How much a bound of the process allows."),
            &["bound"],
        )?;
        let shed = IntCounterVec::new(
            Opts::new("tollgate_shed_total", "Calls refused for want of memory."),
            &["what"],
        )?;
        registry.register(Box::new(upgrades.clone()))?;
        registry.register(Box::new(used.clone()))?;
        registry.register(Box::new(limit.clone()))?;
        registry.register(Box::new(shed.clone()))?;
        Ok(Self { upgrades, used, limit, shed })
    }

    /// A new binary took over (`ok`, counted by the new process), or did not (`failed`, by the old).
    pub fn upgraded(&self, result: &str) {
        self.upgrades.with_label_values(&[result]).inc();
    }

    /// What is taken of a bound.
    pub fn bound(&self, bound: &str, used: usize, limit: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.used.with_label_values(&[bound]).set(number(used));
        self.limit.with_label_values(&[bound]).set(number(limit));
    }

    /// Something was refused for want of memory: a `call`.
    pub fn shed(&self, what: &str) {
        self.shed.with_label_values(&[what]).inc();
    }
}
