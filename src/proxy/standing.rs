//! Whether a caller with something open may still have it: a revoked key, an expired token or another rule ends it.
//! Not here: whether it might in the first place (`admit`, `hub`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::auth::{Caller, Demand, Entrance, Verdict};
use crate::upstream::{Fleet, Upstream};

/// How often it is looked at without any change: keys that an issuer has withdrawn make none.
const LOOK: Duration = Duration::from_secs(1);

/// What a stream asks while it passes.
pub(super) struct Standing {
    entrance: Arc<Entrance>,
    changes: watch::Receiver<u64>,
    fleet: Arc<Fleet>,
    caller: Arc<Caller>,
    upstream: Arc<Upstream>,
    /// What an open-ended stream was opened for; otherwise that the server is there is enough.
    demand: Option<Demand>,
}

impl Standing {
    pub(super) fn new(
        entrance: &Arc<Entrance>,
        fleet: &Arc<Fleet>,
        caller: &Arc<Caller>,
        upstream: &Arc<Upstream>,
    ) -> Self {
        Self {
            entrance: Arc::clone(entrance),
            changes: entrance.changes(),
            fleet: Arc::clone(fleet),
            caller: Arc::clone(caller),
            upstream: Arc::clone(upstream),
            demand: None,
        }
    }

    /// The same for a stream that was opened for `demand`, such as the resources of a subscription.
    pub(super) fn of(self, demand: Option<Demand>) -> Self {
        Self { demand, ..self }
    }

    /// Waits until the caller may no longer use the server.
    pub(super) async fn lost(&mut self) {
        while self.holds() {
            let left = self.caller.expires.and_then(|at| at.duration_since(SystemTime::now()).ok());
            let look = left.map_or(LOOK, |left| left.min(LOOK));
            tokio::select! {
                // Without a sender nothing changes any more, and the look remains.
                Ok(()) = self.changes.changed() => {}
                () = sleep(look) => {}
            }
        }
    }

    /// Whether the credential is good and the server, as the catalog now has it, is there for the caller. A server that
    /// is gone from the catalog ends its streams by itself.
    fn holds(&self) -> bool {
        if !self.entrance.in_force().authenticator.stands(&self.caller) {
            return false;
        }
        let view = self.fleet.view();
        match view.upstream(self.upstream.server.id.as_str()) {
            Some(upstream) => {
                let demand = self.demand.as_ref().unwrap_or(&Demand::Session);
                matches!(upstream.policy.decide(&self.caller, demand), Verdict::Allowed { .. })
            }
            None => true,
        }
    }
}
