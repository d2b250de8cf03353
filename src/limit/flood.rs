//! A coarse guard against floods from one address: looked at before anything else costs time.
//! Not here: exact limits (`bucket`).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::Duration;

use pingora_limits::rate::Rate;

use super::address::Address;

/// Shorter intervals make Pingora's counter underflow in its first moments.
const INTERVAL: Duration = Duration::from_secs(1);
/// Rows and columns of the sketch, 4 MiB in all. It counts others' requests as one's own, never the other way: with a
/// million addresses in one second a newcomer already seems to have made about 15 requests.
const ROWS: usize = 4;
const COLUMNS: usize = 1 << 16;

/// Counts requests by address in windows of one second.
#[derive(Default)]
pub struct Flood {
    /// Made at the first request that is counted: without a guard there is no sketch.
    seen: OnceLock<Rate>,
}

impl Flood {
    /// A guard that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a request; whether its address has made more than `max` in this second.
    pub fn is_flooded(&self, address: Address, max: u32) -> bool {
        let seen = self.seen.get_or_init(|| Rate::new_with_estimator_config(INTERVAL, ROWS, COLUMNS));
        // It checks its clock with an assertion that fails when a thread was held up for a whole interval in the wrong
        // place. Its state is made of atomics, so nothing is left half done; what it did not count does not count.
        let count = catch_unwind(AssertUnwindSafe(|| seen.observe(&address, 1))).unwrap_or(0);
        count > isize::try_from(max).unwrap_or(isize::MAX)
    }
}

impl fmt::Debug for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flood").field("counts", &self.seen.get().is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_drown_another() {
        let flood = Flood::new();
        let of = |text: &str| Address::of(text.parse().unwrap());
        // A window may end in between, which can only let more pass: more than two windows' worth are sent.
        let passed = (0..1000).filter(|_| !flood.is_flooded(of("10.0.0.1"), 100)).count();
        assert!((100..1000).contains(&passed), "{passed}");
        assert!(!flood.is_flooded(of("10.0.0.2"), 100));
    }
}
