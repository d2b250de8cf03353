//! What happened to the children of a bridge on its own, counted there and told to the gateway, which has the metrics.
//! Not here: the metrics (`telemetry`), who asks (`outside`).

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Observer;
use super::berths::Cap;
use crate::catalog::ServerId;

/// More of one kind between two looks is no use to anybody, and takes time to count.
const EVENTS_MAX: u64 = 10_000;

/// What happened to the children of one server since the bridge started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    /// Not counted, but how many there are.
    living: usize,
    started: u64,
    exited_clean: u64,
    exited: u64,
    restarted: u64,
    rubbish: u64,
    /// By bound, in the order of `Cap::WORDS`.
    refused: [u64; Cap::WORDS.len()],
}

/// An observer that keeps count.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<HashMap<ServerId, Counts>>);

impl Tally {
    /// What was counted, by server. Servers that left the catalog stay: their last children ended after that.
    pub(super) fn counts(&self) -> HashMap<String, Counts> {
        self.0.lock().iter().map(|(id, counts)| (id.to_string(), *counts)).collect()
    }

    fn count(&self, server: &ServerId, count: impl FnOnce(&mut Counts) -> &mut u64) {
        *count(self.0.lock().entry(server.clone()).or_default()) += 1;
    }
}

impl Observer for Tally {
    fn started(&self, server: &ServerId) {
        self.count(server, |counts| &mut counts.started);
    }

    fn exited(&self, server: &ServerId, clean: bool) {
        self.count(server, |counts| if clean { &mut counts.exited_clean } else { &mut counts.exited });
    }

    fn restarted(&self, server: &ServerId) {
        self.count(server, |counts| &mut counts.restarted);
    }

    fn living(&self, server: &ServerId, count: usize) {
        self.0.lock().entry(server.clone()).or_default().living = count;
    }

    fn refused(&self, server: &ServerId, bound: &'static str) {
        let mut counts = self.0.lock();
        let refused = &mut counts.entry(server.clone()).or_default().refused;
        for (count, _) in refused.iter_mut().zip(Cap::WORDS).filter(|(_, word)| *word == bound) {
            *count += 1;
        }
    }

    fn rubbish(&self, server: &ServerId) {
        self.count(server, |counts| &mut counts.rubbish);
    }
}

/// Tells an observer what happened since the last time. Without a last time only from now on counts: a gateway that was
/// started again has not seen the rest.
pub(super) fn pass_on(
    before: Option<&HashMap<String, Counts>>,
    now: &HashMap<String, Counts>,
    to: &dyn Observer,
) {
    for (id, now) in now {
        let Some(server) = ServerId::new(id) else { continue };
        to.living(&server, now.living);
        let Some(before) = before else { continue };
        let old = before.get(id).copied().unwrap_or_default();
        let grown = |field: fn(&Counts) -> u64| {
            let (old, now) = (field(&old), field(now));
            0..now.saturating_sub(old).min(EVENTS_MAX)
        };
        grown(|counts| counts.started).for_each(|_| to.started(&server));
        grown(|counts| counts.exited_clean).for_each(|_| to.exited(&server, true));
        grown(|counts| counts.exited).for_each(|_| to.exited(&server, false));
        grown(|counts| counts.restarted).for_each(|_| to.restarted(&server));
        grown(|counts| counts.rubbish).for_each(|_| to.rubbish(&server));
        for ((old, now), word) in old.refused.iter().zip(now.refused).zip(Cap::WORDS) {
            (0..now.saturating_sub(*old).min(EVENTS_MAX)).for_each(|_| to.refused(&server, word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_passed_on_once() {
        let (there, here) = (Tally::default(), Tally::default());
        let (a, b) = (ServerId::new("a").unwrap(), ServerId::new("b").unwrap());
        there.started(&a);
        let first = there.counts();
        pass_on(None, &first, &here);
        assert_eq!(here.counts()["a"], Counts::default(), "what came before is not ours");
        there.exited(&a, false);
        there.started(&a);
        there.restarted(&a);
        there.started(&b);
        there.rubbish(&b);
        there.refused(&b, Cap::WORDS[1]);
        there.living(&b, 3);
        there.exited(&b, true);
        let second = there.counts();
        pass_on(Some(&first), &second, &here);
        pass_on(Some(&second), &second, &here);
        let wanted = Counts { started: 1, exited: 1, restarted: 1, ..Counts::default() };
        assert_eq!(here.counts()["a"], wanted);
        assert_eq!(here.counts()["b"], second["b"]);
        // All of what a new bridge counted.
        pass_on(Some(&HashMap::new()), &first, &here);
        assert_eq!(here.counts()["a"].started, 2);
    }
}
