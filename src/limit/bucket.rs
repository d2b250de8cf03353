//! Token buckets by the generic cell rate algorithm (ITU-T I.371): one number for each bucket.
//! Not here: the number of calls at once (`in_flight`).
//!
//! A bucket's state is the time at which it will be full again. The rate is given at each call, so a changed limit
//! applies at once; a full bucket needs no memory and is swept away.

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderName;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::conf::Rate;

/// Enough that two cores rarely meet, few enough that a sweep is short.
const SHARDS: usize = 64;
/// Entries that one sweep step may look at: bounds the time a lock is held.
const SWEEP_EVERY: u64 = 4096;

/// What a bucket said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the call may go on; a refused one took no token.
    pub allowed: bool,
    /// The bucket's size.
    pub limit: u32,
    /// Whole tokens left.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub reset: Duration,
    /// Until a token is there; zero when one was.
    pub retry_after: Duration,
}

impl Decision {
    /// The decision as headers, for refusals and successes alike. `Reset` is in seconds from now.
    pub fn headers(&self) -> [(HeaderName, u64); 3] {
        let reset = u64::try_from(self.reset.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
        [
            (const { HeaderName::from_static("x-ratelimit-limit") }, u64::from(self.limit)),
            (const { HeaderName::from_static("x-ratelimit-remaining") }, u64::from(self.remaining)),
            (const { HeaderName::from_static("x-ratelimit-reset") }, reset),
        ]
    }

    /// Whole seconds until a token is there, for `Retry-After`.
    pub fn retry_after_seconds(&self) -> u64 {
        u64::try_from(self.retry_after.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
    }
}

/// The buckets of all callers.
#[derive(Debug)]
pub struct Buckets {
    start: Instant,
    shards: Box<[Mutex<Shard>]>,
    entries_max: usize,
}

#[derive(Debug, Default)]
struct Shard {
    /// Nanoseconds since `start` at which the bucket will be full.
    full_at: HashMap<u128, u64>,
    takes: u64,
}

impl Buckets {
    /// Room for `entries_max` callers whose buckets are not full.
    pub fn new(entries_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { start: Instant::now(), shards, entries_max: entries_max.div_ceil(SHARDS).max(1) }
    }

    /// Takes one token from the bucket of `key`.
    pub fn take(&self, key: u128, rate: Rate) -> Decision {
        let now = nanos(self.start.elapsed());
        let interval = (nanos(rate.per) / u64::from(rate.requests.max(1))).max(1);
        let size = interval.saturating_mul(u64::from(rate.burst.max(1)));
        let at = usize::try_from(key % SHARDS as u128).unwrap_or_default();
        let Some(shard) = self.shards.get(at) else { return refused(rate, Duration::ZERO, Duration::ZERO) };
        let mut shard = shard.lock();
        shard.takes += 1;
        if shard.takes.is_multiple_of(SWEEP_EVERY) {
            shard.full_at.retain(|_, full_at| *full_at > now);
        }
        let known = shard.full_at.get(&key).copied();
        let full_at = known.unwrap_or(now).max(now);
        let next = full_at.saturating_add(interval);
        let over = next.saturating_sub(now).saturating_sub(size);
        if over > 0 {
            return refused(rate, Duration::from_nanos(full_at - now), Duration::from_nanos(over));
        }
        if known.is_none() && shard.full_at.len() >= self.entries_max {
            shard.full_at.retain(|_, full_at| *full_at > now);
            if shard.full_at.len() >= self.entries_max {
                // A flood of callers must not grow the table; the newcomer waits for one token's time.
                return refused(rate, Duration::ZERO, Duration::from_nanos(interval));
            }
        }
        shard.full_at.insert(key, next);
        let remaining = size.saturating_sub(next - now) / interval;
        Decision {
            allowed: true,
            limit: rate.burst.max(1),
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset: Duration::from_nanos(next - now),
            retry_after: Duration::ZERO,
        }
    }

    /// How many buckets are not full, or were not when last looked at.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().full_at.len()).sum()
    }

    /// Whether every bucket is full.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn refused(rate: Rate, reset: Duration, retry_after: Duration) -> Decision {
    Decision { allowed: false, limit: rate.burst.max(1), remaining: 0, reset, retry_after }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(requests: u32, secs: u64, burst: u32) -> Rate {
        Rate { requests, per: Duration::from_secs(secs), burst }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate() {
        let buckets = Buckets::new(1000);
        let rate = rate(2, 1, 3);
        for remaining in [2, 1, 0] {
            let decision = buckets.take(1, rate);
            assert!(decision.allowed);
            assert_eq!(decision.remaining, remaining);
        }
        let decision = buckets.take(1, rate);
        assert!(!decision.allowed);
        assert_eq!(decision.retry_after, Duration::from_millis(500));
        assert_eq!(decision.reset, Duration::from_millis(1500));
        assert!(buckets.take(2, rate).allowed, "another caller has its own bucket");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(buckets.take(1, rate).allowed);
        assert!(!buckets.take(1, rate).allowed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_callers_is_bounded_and_passes() {
        let buckets = Buckets::new(SHARDS * 2);
        for key in 0..10_000 {
            buckets.take(key, rate(1, 1, 1));
        }
        assert!(buckets.len() <= SHARDS * 2);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(buckets.take(77_777, rate(1, 1, 1)).allowed);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_times_time(
            requests in 1u32..50, burst in 1u32..20, steps in proptest::collection::vec(0u64..300, 1..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
            runtime.block_on(async {
                let buckets = Buckets::new(10);
                let rate = rate(requests, 1, burst);
                let (mut allowed, mut passed_ms) = (0u64, 0u64);
                for step in steps {
                    tokio::time::advance(Duration::from_millis(step)).await;
                    passed_ms += step;
                    allowed += u64::from(buckets.take(1, rate).allowed);
                    let most = u64::from(burst) * 1000 + u64::from(requests) * passed_ms + 1000;
                    assert!(allowed * 1000 <= most, "{allowed} in {passed_ms} ms");
                }
            });
        }
    }
}
