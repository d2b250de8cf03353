//! One part of the buckets: those that are not full, and what was spent of them.
//! Not here: which part a bucket belongs to, and whether a call may go on (`bucket`).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::bucket::{Spending, Spent};
use super::decision::{Draw, Key};
use crate::conf::Rate;

/// When a part is full of buckets that are not, this share of it is forgotten at once, so that making room is rare.
const ROOM: usize = 16;
/// Bytes that a hash table needs for each slot: key, value and one control byte.
const SLOT_BYTES: usize = 8 + 8 + 1;

/// Keys are hashes already.
#[derive(Debug, Default, Clone)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

type Table<V> = HashMap<u64, V, BuildHasherDefault<Identity>>;

/// One part of the buckets.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Nanoseconds since the beginning at which the bucket will be full; absent ones are full.
    full_at: Table<u64>,
    /// Tokens taken since somebody last asked, and how the bucket fills.
    spent: Table<(u64, Rate)>,
    /// The same of buckets for which there was no room.
    spent_unnamed: u64,
    takes: u32,
}

impl Shard {
    /// When the bucket will be full. A time beyond what `size` allows is of an older limit, and is cut to the new one
    /// for good: otherwise it would stay out of reach while the clock runs after it.
    pub(super) fn full_at(&mut self, key: Key, now: u64, size: u64) -> u64 {
        let latest = now.saturating_add(size);
        match self.full_at.get_mut(&key.bits()) {
            Some(full_at) => {
                *full_at = (*full_at).min(latest);
                (*full_at).max(now)
            }
            None => now,
        }
    }

    /// Sets when the bucket will be full, among at most `entries_max` that are not.
    pub(super) fn set(&mut self, key: Key, full_at: u64, now: u64, entries_max: usize) {
        if let Some(known) = self.full_at.get_mut(&key.bits()) {
            *known = full_at;
            return;
        }
        if self.full_at.len() >= entries_max {
            self.make_room(now, entries_max);
        }
        self.full_at.insert(key.bits(), full_at);
    }

    /// Counts a take; whether it is time to sweep again.
    pub(super) fn counts_to(&mut self, every: u32) -> bool {
        self.takes += 1;
        let due = self.takes >= every;
        if due {
            self.takes = 0;
        }
        due
    }

    /// Forgets full buckets, and gives back memory that a flood has left.
    pub(super) fn sweep(&mut self, now: u64) {
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.capacity() > 4 * self.full_at.len() + 64 {
            self.full_at.shrink_to(2 * self.full_at.len());
        }
    }

    /// Forgets what is nearest to full: whoever waits longest for a token stays known. Of strangers and the known the
    /// more numerous give way, so a flood of the one kind never costs the other its half.
    fn make_room(&mut self, now: u64, entries_max: usize) {
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() < entries_max {
            return;
        }
        let strangers = self.full_at.keys().filter(|key| Key::is_stranger(**key)).count();
        let give_way = strangers * 2 > self.full_at.len();
        let goes = |key: u64| Key::is_stranger(key) == give_way;
        let mut times: Vec<u64> =
            self.full_at.iter().filter(|(key, _)| goes(**key)).map(|(_, full_at)| *full_at).collect();
        let mut batch = (entries_max / ROOM).clamp(1, times.len().max(1));
        let Some(nearest) = batch.checked_sub(1).filter(|at| *at < times.len()) else { return };
        let latest = *times.select_nth_unstable(nearest).1;
        self.full_at.retain(|key, full_at| {
            let stays = batch == 0 || !goes(*key) || *full_at > latest;
            batch -= usize::from(!stays);
            stays
        });
    }

    /// Notes what was taken, of at most `entries_max` buckets by name.
    pub(super) fn spend(&mut self, draw: &Draw, entries_max: usize) {
        let tokens = u64::from(draw.cost);
        let known = self.spent.contains_key(&draw.key.bits());
        if !known && self.spent.len() >= entries_max {
            self.spent_unnamed = self.spent_unnamed.saturating_add(tokens);
            return;
        }
        let spent = self.spent.entry(draw.key.bits()).or_insert((0, draw.rate));
        *spent = (spent.0.saturating_add(tokens), draw.rate);
    }

    /// What was noted since the last time is added to `all`.
    pub(super) fn report_spent(&mut self, all: &mut Spending) {
        let spent = self.spent.drain();
        all.buckets.extend(spent.map(|(key, (tokens, rate))| Spent {
            key: Key::from_bits(key),
            tokens,
            rate,
        }));
        all.unnamed = all.unnamed.saturating_add(std::mem::take(&mut self.spent_unnamed));
    }

    /// How many buckets are known.
    pub(super) fn len(&self) -> usize {
        self.full_at.len()
    }

    /// Bytes of its tables, by their capacity.
    pub(super) fn bytes(&self) -> usize {
        // A table's slots are a power of two of which seven eighths may be used.
        let slots = |capacity: usize| {
            if capacity == 0 { 0 } else { (capacity * 8 / 7).max(capacity + 1).next_power_of_two() }
        };
        slots(self.full_at.capacity()) * SLOT_BYTES
            + slots(self.spent.capacity()) * (SLOT_BYTES + size_of::<Rate>())
    }
}
