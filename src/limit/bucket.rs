//! Token buckets by the generic cell rate algorithm (ITU-T I.371): one number for each bucket.
//! Not here: the number of calls at once (`in_flight`); one part of the table and its bound (`shard`).
//!
//! A bucket's state is the time at which it will be full again. The rate is given at each call, so a changed limit
//! applies at once; a full bucket needs no memory. A call passes several buckets (client address, caller, server,
//! tool): either it takes its tokens from all of them or from none.
//!
//! # Sharing limits between gateways
//!
//! Every decision is [`Buckets::take`]'s, from memory: a call never waits for another machine. Gateways that share
//! limits share the secret of [`Buckets::sharing`], so that keys mean the same in each. Every now and then each writes
//! what [`Buckets::spent`] says to the store that they share, and gives what the others wrote to [`Buckets::charge`].
//! Between two such rounds each gateway may give out at most one bucket more than the limit says. That is all a store
//! needs, and more would put its latency, or its absence, into every call.

use std::hash::{Hash, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::decision::{Decision, Draw, Key, Layer};
use super::shard::Shard;
use crate::conf::Rate;

/// Enough that two cores rarely meet, few enough that a sweep is short.
const SHARDS: usize = 64;
/// Takes from a shard after which some shard is swept: together about one look at each entry in a thousand takes.
const SWEEP_EVERY: u32 = 4096;
/// Keys fall into shards by chance; with this share of room more in each, a million keys overfill none.
const SLACK: usize = 16;
/// Buckets whose spending is noted by name between two reports.
const SPENT_MAX: usize = 64 * 1024;

/// The buckets of everybody. There is one of these in a process, and it outlives reloads.
#[derive(Debug)]
pub struct Buckets {
    start: Instant,
    secret: [u8; 16],
    shards: Box<[Mutex<Shard>]>,
    entries_max: usize,
    /// The shard that is swept next.
    sweep: AtomicUsize,
    /// Whether what is spent is noted for other gateways.
    shared: bool,
}

/// What was spent of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Which bucket.
    pub key: Key,
    /// Tokens.
    pub tokens: u64,
    /// How the bucket fills, for those who have never seen it.
    pub rate: Rate,
}

/// What was spent since the last report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spending {
    /// By bucket, in no order.
    pub buckets: Vec<Spent>,
    /// Tokens of buckets beyond the bound of a report; they stay local.
    pub unnamed: u64,
}

/// Parts of the table that one decision concerns, locked in ascending order.
type Locked<'b> = SmallVec<[(usize, MutexGuard<'b, Shard>); 4]>;

impl Buckets {
    /// Room for `entries_max` buckets that are not full.
    pub fn new(entries_max: usize) -> Self {
        let mut secret = [0; 16];
        // Without randomness a client could guess which keys collide, and share a stranger's bucket at worst.
        let _ = getrandom::fill(&mut secret);
        Self::with(entries_max, secret, false)
    }

    /// The same for one of several gateways that share `secret` and their limits.
    pub fn sharing(entries_max: usize, secret: [u8; 16]) -> Self {
        Self::with(entries_max, secret, true)
    }

    fn with(entries_max: usize, secret: [u8; 16], shared: bool) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let each = entries_max.div_ceil(SHARDS);
        let entries_max = (each + each / SLACK).max(1);
        Self { start: Instant::now(), secret, shards, entries_max, sweep: AtomicUsize::new(0), shared }
    }

    /// The key of the bucket that `whose` has in `layer`. Two in a million keys are the same about once in ten million
    /// times.
    pub fn key(&self, layer: Layer, whose: &impl Hash) -> Key {
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        (layer as u8).hash(&mut hasher);
        whose.hash(&mut hasher);
        Key::new(layer, hasher.finish())
    }

    /// Whether [`Self::take`] would let the same draws pass now. Takes nothing.
    pub fn look(&self, draws: &[Draw]) -> Result<Option<Decision>, Decision> {
        let mut locked = self.lock(draws);
        self.examine(&mut locked, draws).map(|(decision, _)| decision)
    }

    /// Takes the tokens of all draws, or of none. What is returned is the tightest bucket: of those that let the call
    /// pass, the one that has room for the fewest calls of the same cost; of those that do not, the one that has to be
    /// waited for longest. Without draws there is none.
    pub fn take(&self, draws: &[Draw]) -> Result<Option<Decision>, Decision> {
        let mut locked = self.lock(draws);
        let (decision, now) = self.examine(&mut locked, draws)?;
        let mut due = false;
        for draw in draws {
            let Some(shard) = part(&mut locked, draw.key) else { continue };
            let Flow { interval, size } = Flow::of(draw.rate);
            let spend = interval.saturating_mul(draw.cost.into());
            let next = shard.full_at(draw.key, now, size).saturating_add(spend);
            shard.set(draw.key, next, now, self.entries_max);
            if self.shared {
                shard.spend(draw, SPENT_MAX / SHARDS);
            }
            due |= shard.counts_to(SWEEP_EVERY);
        }
        drop(locked);
        if due {
            self.sweep_one(now);
        }
        Ok(decision)
    }

    /// Takes `tokens` that other gateways have given out already, however few are there; the bucket is then empty at
    /// worst, never in debt. It is not part of [`Self::spent`].
    pub fn charge(&self, key: Key, rate: Rate, tokens: u64) {
        let Some(shard) = self.shards.get(shard_of(key)) else { return };
        let mut shard = shard.lock();
        let now = self.now();
        let Flow { interval, size } = Flow::of(rate);
        let next = shard.full_at(key, now, size).saturating_add(interval.saturating_mul(tokens));
        shard.set(key, next.min(now.saturating_add(size)), now, self.entries_max);
    }

    /// What this gateway has given out since the last time; nothing unless limits are shared.
    pub fn spent(&self) -> Spending {
        let mut all = Spending::default();
        for shard in &self.shards {
            shard.lock().report_spent(&mut all);
        }
        all
    }

    /// How many buckets are not full, or were not when last looked at.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether every bucket is full.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that the tables hold, in bytes.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes() + size_of::<Mutex<Shard>>()).sum()
    }

    /// The parts of `draws`, in ascending order: two calls that need the same ones never wait for each other.
    fn lock(&self, draws: &[Draw]) -> Locked<'_> {
        let mut parts: SmallVec<[usize; 4]> = draws.iter().map(|draw| shard_of(draw.key)).collect();
        parts.sort_unstable();
        parts.dedup();
        parts.into_iter().filter_map(|at| Some((at, self.shards.get(at)?.lock()))).collect()
    }

    /// What all draws together come to. The clock is read under the locks, so that it never goes back for a bucket.
    fn examine(&self, locked: &mut Locked<'_>, draws: &[Draw]) -> Result<(Option<Decision>, u64), Decision> {
        let now = self.now();
        let mut tightest: Option<(u64, Decision)> = None;
        let mut refused: Option<Decision> = None;
        for (at, draw) in draws.iter().enumerate() {
            let Some(shard) = part(locked, draw.key) else { continue };
            let flow = Flow::of(draw.rate);
            // Nothing is written before everything has been found good, so a bucket that is drawn on twice is added up.
            let earlier = draws.iter().take(at).filter(|earlier| earlier.key == draw.key);
            let earlier: u64 = earlier.map(|earlier| u64::from(earlier.cost)).sum();
            let full_at = shard.full_at(draw.key, now, flow.size);
            let full_at = full_at.saturating_add(flow.interval.saturating_mul(earlier));
            match flow.ask(full_at - now, draw) {
                Ok(decision) => {
                    let calls = u64::from(decision.remaining) / u64::from(draw.cost.max(1));
                    let is_tighter = |(least, known): &(u64, Decision)| {
                        (calls, std::cmp::Reverse(decision.reset)) < (*least, std::cmp::Reverse(known.reset))
                    };
                    if tightest.as_ref().is_none_or(is_tighter) {
                        tightest = Some((calls, decision));
                    }
                }
                Err(decision) => {
                    let wait = |decision: &Decision| decision.retry_after.unwrap_or(Duration::MAX);
                    if refused.is_none_or(|known| wait(&decision) > wait(&known)) {
                        refused = Some(decision);
                    }
                }
            }
        }
        match refused {
            Some(decision) => Err(decision),
            None => Ok((tightest.map(|(_, decision)| decision), now)),
        }
    }

    /// Sweeps the next shard, unless somebody works in it: then its turn comes again.
    fn sweep_one(&self, now: u64) {
        let at = self.sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
        if let Some(mut shard) = self.shards.get(at).and_then(Mutex::try_lock) {
            shard.sweep(now);
        }
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }
}

/// How a bucket fills, in nanoseconds.
#[derive(Clone, Copy)]
struct Flow {
    /// From one token to the next; rounded up, so that never more flows in than the limit says.
    interval: u64,
    /// From empty to full.
    size: u64,
}

impl Flow {
    fn of(rate: Rate) -> Self {
        let interval = nanos(rate.per).div_ceil(rate.requests.max(1).into()).max(1);
        Self { interval, size: interval.saturating_mul(rate.burst.max(1).into()) }
    }

    /// Whether a bucket that is full in `until_full` has the tokens of `draw`, and what it has left.
    fn ask(self, until_full: u64, draw: &Draw) -> Result<Decision, Decision> {
        let spend = self.interval.saturating_mul(draw.cost.into());
        let after = until_full.saturating_add(spend);
        let passes = after <= self.size;
        let until_full = if passes { after } else { until_full };
        let retry_after = match after.checked_sub(self.size) {
            _ if spend > self.size => None,
            Some(missing) if !passes => Some(Duration::from_nanos(missing)),
            _ => Some(Duration::ZERO),
        };
        let decision = Decision {
            layer: draw.layer,
            rate: draw.rate,
            remaining: u32::try_from(self.size.saturating_sub(until_full) / self.interval)
                .unwrap_or(u32::MAX),
            reset: Duration::from_nanos(until_full),
            retry_after,
        };
        if passes { Ok(decision) } else { Err(decision) }
    }
}

/// Which shard a key belongs to: by bits that its table does not use.
fn shard_of(key: Key) -> usize {
    usize::try_from((key.bits() >> 32) % SHARDS as u64).unwrap_or_default()
}

fn part<'l>(locked: &'l mut Locked<'_>, key: Key) -> Option<&'l mut Shard> {
    let wanted = shard_of(key);
    locked.iter_mut().find(|(at, _)| *at == wanted).map(|(_, shard)| &mut **shard)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
