//! How many calls run at once: in the whole process, and of one caller, server or tool.
//! Not here: how often calls may start (`bucket`).

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora_limits::inflight::{Guard, Inflight};

use super::decision::Layer;

/// Counts calls in flight against a bound, and streams that are held open to listen against another: whoever listens
/// takes no call's place.
#[derive(Debug, Clone)]
pub struct Gate {
    in_flight: Arc<AtomicUsize>,
    max: usize,
    streams: Arc<AtomicUsize>,
    streams_max: usize,
}

/// A place among the calls in flight, given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Gate {
    /// A gate for `max` calls and `streams_max` streams at once.
    pub fn new(max: usize, streams_max: usize) -> Self {
        Self { in_flight: Arc::default(), max, streams: Arc::default(), streams_max }
    }

    /// A call's place, unless all are taken.
    pub fn enter(&self) -> Option<Permit> {
        Self::take(&self.in_flight, self.max)
    }

    /// A stream's place, unless all are taken.
    pub fn listen(&self) -> Option<Permit> {
        Self::take(&self.streams, self.streams_max)
    }

    fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Permit> {
        let permit = Permit(Arc::clone(taken));
        // The permit is made first, so that a refused entry is undone by the same drop.
        (taken.fetch_add(1, Ordering::AcqRel) < max).then_some(permit)
    }

    /// How many places are taken, those of streams included.
    pub fn in_flight(&self) -> usize {
        self.calls() + self.streams()
    }

    /// Those of calls.
    pub fn calls(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Those of streams.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Places of single callers, servers and tools, in constant memory.
///
/// They are counted in a sketch (count-min, 4 rows of 8,192), which may count others' calls as one's own but never
/// the other way: nobody gets more places than the limit says. Somebody is refused one place too early when foreign
/// calls stand in all four of its cells: with 1,000 calls in flight that happens to 2 in 10,000 callers, with 4,000 to
/// 2 in 100, and only to those who are at their limit.
pub struct Places(Inflight);

/// One place, given back when dropped.
pub struct Place(#[expect(dead_code, reason = "held for its drop")] Guard);

impl Places {
    /// Nobody holds a place.
    pub fn new() -> Self {
        Self(Inflight::new())
    }

    /// One of the `max` places that `whose` has in `layer`, unless all are taken.
    pub fn enter(&self, layer: Layer, whose: &impl Hash, max: u32) -> Option<Place> {
        let (guard, taken) = self.0.incr((layer, whose), 1);
        let place = Place(guard);
        // Made first, as above. A count that has overflowed into the negative is a count.
        (0..=i64::from(max)).contains(&(taken as i64)).then_some(place)
    }
}

/// Bytes that are held, of all together and of each; given back when dropped.
#[derive(Debug)]
pub struct Weight {
    all: Arc<AtomicUsize>,
    bytes: usize,
    each: Vec<Place>,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Counts bytes that are held. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Scale {
    all: Arc<AtomicUsize>,
    each: Arc<Places>,
}

impl Scale {
    /// Puts `bytes` on the scale for all, who may have `max` together, and for each of `whose`, who may have as much as
    /// is said there. `Err` is the place in `whose` of the first who would have too much; `None` in it means all.
    pub fn put(
        &self,
        bytes: usize,
        max: usize,
        whose: &[(Layer, (u128, &str), usize)],
    ) -> Result<Weight, Option<usize>> {
        let before = self.all.fetch_add(bytes, Ordering::AcqRel);
        // Made first, so that a refused one is undone by the same drop.
        let mut weight = Weight { all: Arc::clone(&self.all), bytes, each: Vec::with_capacity(whose.len()) };
        if before.saturating_add(bytes) > max {
            return Err(None);
        }
        for (at, (layer, key, max)) in whose.iter().enumerate() {
            let (guard, taken) =
                self.each.0.incr((*layer, key), isize::try_from(bytes).unwrap_or(isize::MAX));
            weight.each.push(Place(guard));
            if usize::try_from(taken).is_ok_and(|taken| taken > *max) {
                return Err(Some(at));
            }
        }
        Ok(weight)
    }

    /// What all hold together.
    pub fn all(&self) -> usize {
        self.all.load(Ordering::Acquire)
    }
}

impl Default for Places {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_weighed_for_all_and_for_each() {
        let scale = Scale::default();
        let put = |bytes, who| {
            scale.put(bytes, 100, &[(Layer::Caller, (who, ""), 60), (Layer::Server, (0, "a"), 80)])
        };
        let first = put(50, 1).unwrap();
        assert_eq!(put(20, 1).unwrap_err(), Some(0), "too much for the caller");
        assert_eq!(put(40, 2).unwrap_err(), Some(1), "too much for the server");
        assert_eq!(put(60, 2).unwrap_err(), None, "too much for all");
        assert_eq!(scale.all(), 50, "the refused left no trace");
        let second = put(30, 2).unwrap();
        drop(first);
        assert_eq!(scale.all(), 30);
        drop(second);
        assert!(put(60, 1).is_ok());
    }

    #[test]
    fn gives_places_back() {
        let gate = Gate::new(1, 1);
        let stream = gate.listen();
        assert!(stream.is_some() && gate.listen().is_none(), "streams have places of their own");
        drop(stream);
        let permit = gate.enter();
        assert!(permit.is_some());
        assert!(gate.enter().is_none());
        assert_eq!(gate.in_flight(), 1);
        drop(permit);
        assert!(gate.enter().is_some());
    }

    #[test]
    fn each_has_places_of_its_own() {
        let places = Places::new();
        let one = places.enter(Layer::Caller, &1, 2);
        let two = places.enter(Layer::Caller, &1, 2);
        assert!(one.is_some() && two.is_some());
        assert!(places.enter(Layer::Caller, &1, 2).is_none(), "a third");
        assert!(places.enter(Layer::Caller, &1, 3).is_some(), "the refused one left no trace");
        assert!(places.enter(Layer::Caller, &2, 2).is_some(), "another caller");
        assert!(places.enter(Layer::Tool, &1, 2).is_some(), "another layer");
        drop(one);
        assert!(places.enter(Layer::Caller, &1, 2).is_some());
        assert!(places.enter(Layer::Server, &1, 0).is_none(), "no places at all");
    }

    #[test]
    fn never_more_than_the_limit_at_any_concurrency() {
        let places = Places::new();
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let Some(place) = places.enter(Layer::Tool, &"search", 3) else { continue };
                        let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
        assert!(places.enter(Layer::Tool, &"search", 1).is_some(), "all places came back");
    }
}
