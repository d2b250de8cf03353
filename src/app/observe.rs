//! What happens to children, counted.
//! Not here: the children (`bridge`), the metrics (`telemetry`).

use std::sync::Arc;

use crate::bridge::Observer;
use crate::catalog::ServerId;
use crate::telemetry::Meters;

/// Counts what the bridge tells.
pub(super) struct Counted(Arc<Meters>);

impl Counted {
    pub(super) fn new(meters: Arc<Meters>) -> Self {
        Self(meters)
    }
}

impl Observer for Counted {
    fn started(&self, server: &ServerId) {
        self.0.server(server.as_str()).child_started();
    }

    fn exited(&self, server: &ServerId, clean: bool) {
        self.0.server(server.as_str()).child_exited(clean);
    }

    fn restarted(&self, server: &ServerId) {
        self.0.server(server.as_str()).child_restarted();
    }

    fn living(&self, server: &ServerId, count: usize) {
        self.0.server(server.as_str()).children(count);
    }

    fn refused(&self, server: &ServerId, bound: &'static str) {
        self.0.server(server.as_str()).child_refused(bound);
    }

    fn rubbish(&self, server: &ServerId) {
        self.0.server(server.as_str()).rubbish_line();
    }
}
