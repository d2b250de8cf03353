//! Whether a caller with something open may still have it: a revoked key, an expired token or another rule ends it.
//! Not here: whether it might in the first place (`admit`, `hub`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

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
    /// Whether it ends with the server. A call of a server that has left the catalog may finish.
    is_open_ended: bool,
    /// Whether it is told when the server offers something else.
    hears: bool,
    looked: Instant,
}

/// What a reload has to say to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The caller may not have it any longer.
    Lost,
    /// The server offers the caller something else.
    News,
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
            is_open_ended: false,
            hears: false,
            looked: Instant::now(),
        }
    }

    /// The same for a stream that was opened for `demand`, such as the resources of a subscription, or to listen.
    pub(super) fn of(self, demand: Option<Demand>, is_open_ended: bool) -> Self {
        Self { demand, is_open_ended, ..self }
    }

    /// The same for a stream that is told when the server offers something else.
    pub(super) fn hearing(self) -> Self {
        Self { hears: true, ..self }
    }

    /// Whether the server offers the caller something else than when this was asked last.
    pub(super) fn is_news(&mut self) -> bool {
        if !self.hears {
            return false;
        }
        let view = self.fleet.view();
        let Some(now) = view.upstream(self.upstream.server.id.as_str()) else { return false };
        if Arc::ptr_eq(now, &self.upstream) {
            return false;
        }
        let same = now.server.runtime == self.upstream.server.runtime
            && now.policy.is_same_for(&self.upstream.policy, &self.caller);
        self.upstream = Arc::clone(now);
        !same
    }

    /// Whether the caller may still use the server: asked for each piece of what nobody here waits for, and looked at
    /// when something has changed or the last look is old.
    pub(super) fn still_holds(&mut self) -> bool {
        let changed = self.changes.has_changed().unwrap_or(false);
        if !changed && self.looked.elapsed() < LOOK {
            return true;
        }
        self.changes.mark_unchanged();
        self.looked = Instant::now();
        self.holds()
    }

    /// Waits until there is something to say. `may_tell` says whether news can be told now; they are kept until then.
    pub(super) async fn word(&mut self, may_tell: bool) -> Word {
        while self.holds() {
            if may_tell && self.is_news() {
                return Word::News;
            }
            let left = self.caller.expires.and_then(|at| at.duration_since(SystemTime::now()).ok());
            let look = left.map_or(LOOK, |left| left.min(LOOK));
            tokio::select! {
                // Without a sender nothing changes any more, and the look remains.
                Ok(()) = self.changes.changed() => {}
                () = sleep(look) => {}
            }
        }
        Word::Lost
    }

    /// Waits until the caller may not have it any longer.
    pub(super) async fn lost(&mut self) {
        self.word(false).await;
    }

    /// Whether the credential is good and the server, as the catalog now has it, is there for the caller.
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
            None => !self.is_open_ended,
        }
    }
}
