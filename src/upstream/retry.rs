//! What may be sent again, how often, and after which pause.
//! Not here: which endpoint it goes to (`select`).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::catalog;
use crate::mcp::Method;

/// Parts of a retry that the budget counts in.
const SCALE: u32 = 100;
/// Retries that are saved up at most.
const SAVED_MAX: u32 = 100;
/// Retries that are there at first and without traffic, so that a single failure of a quiet server is mended.
const RESERVE: u32 = 10;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Retries as a share of calls: each call saves up a part of one, each retry spends a whole one.
#[derive(Debug)]
pub(super) struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(RESERVE * SCALE))
    }
}

impl Budget {
    /// A call came, of which `percent` hundredths are saved.
    pub(super) fn save(&self, percent: u8) {
        let more = |saved: u32| (saved < SAVED_MAX * SCALE).then(|| saved + u32::from(percent));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Takes one, if there is one.
    pub(super) fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(SCALE)).is_ok()
    }
}

/// The pause before a call is tried again for the `nth` time, from 0: between half of it and all of it.
pub(super) fn pause(retry: &catalog::Retry, nth: u32) -> Duration {
    let whole = retry.pause.saturating_mul(1 << nth.min(16)).min(PAUSE_MAX.max(retry.pause));
    whole.mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// Whether a message does no more when it is sent twice than when it is sent once. Of tools only their catalog can say.
pub(super) fn is_safe(method: Method) -> bool {
    matches!(
        method,
        Method::Discover
            | Method::Ping
            | Method::ToolsList
            | Method::PromptsList
            | Method::PromptsGet
            | Method::ResourcesList
            | Method::ResourcesTemplatesList
            | Method::ResourcesRead
            | Method::Complete
            | Method::TasksGet
            | Method::TasksList
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_calls_beyond_the_reserve() {
        let budget = Budget::default();
        let spent = (0..1_000)
            .filter(|_| {
                budget.save(20);
                budget.spend()
            })
            .count();
        assert_eq!(spent, 1_000 / 5 + usize::try_from(RESERVE).unwrap());
        let quiet = Budget::default();
        (0..100_000).for_each(|_| quiet.save(20));
        let burst = std::iter::from_fn(|| quiet.spend().then_some(())).count();
        assert!((100..=101).contains(&burst), "{burst}");
    }

    #[test]
    fn pauses_grow_and_differ() {
        let retry = catalog::Retry { max: 3, budget: 20, pause: Duration::from_millis(100) };
        for (nth, whole) in [(0, 100), (1, 200), (2, 400), (3, 500), (60, 500)] {
            let pauses: Vec<_> = (0..100).map(|_| pause(&retry, nth).as_millis()).collect();
            assert!(pauses.iter().all(|pause| (whole / 2..=whole).contains(pause)), "{pauses:?}");
            assert!(pauses.iter().min() < pauses.iter().max());
        }
    }
}
