//! How many calls run at once.
//! Not here: how often calls may start (`bucket`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts calls in flight against a bound.
#[derive(Debug, Clone)]
pub struct Gate {
    in_flight: Arc<AtomicUsize>,
    max: usize,
}

/// A place among the calls in flight, given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Gate {
    /// A gate for `max` calls at once.
    pub fn new(max: usize) -> Self {
        Self { in_flight: Arc::default(), max }
    }

    /// A place, unless all are taken.
    pub fn enter(&self) -> Option<Permit> {
        let permit = Permit(Arc::clone(&self.in_flight));
        // The permit is made first, so that a refused entry is undone by the same drop.
        (self.in_flight.fetch_add(1, Ordering::AcqRel) < self.max).then_some(permit)
    }

    /// How many places are taken.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_places_back() {
        let gate = Gate::new(1);
        let permit = gate.enter();
        assert!(permit.is_some());
        assert!(gate.enter().is_none());
        assert_eq!(gate.in_flight(), 1);
        drop(permit);
        assert!(gate.enter().is_some());
    }
}
