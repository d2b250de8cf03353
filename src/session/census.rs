//! How many sessions are remembered: in all, of each caller and with each server, and how many there may be.
//! Not here: the sessions (`table`).

use std::collections::HashMap;

use parking_lot::Mutex;

/// Room for sessions that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub all: usize,
    /// Of one caller.
    pub each_caller: usize,
    /// With one server.
    pub each_server: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { all: 100_000, each_caller: 100_000, each_server: 100_000 }
    }
}

/// Which room is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// That for all.
    #[error("there are as many sessions as there may be")]
    All,
    /// The caller's.
    #[error("the caller has as many sessions as it may have")]
    Caller,
    /// The server's.
    #[error("the server has as many sessions as it may have")]
    Server,
}

/// The count. It is asked when sessions begin and end, not at their messages.
#[derive(Debug, Default)]
pub(super) struct Census {
    room: Room,
    counts: Mutex<Counts>,
}

/// One entry for each caller and server that has a session, so no more than there are sessions.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    callers: HashMap<u128, usize>,
    servers: HashMap<Box<str>, usize>,
}

impl Census {
    pub(super) fn new(room: Room) -> Self {
        Self { room, counts: Mutex::default() }
    }

    /// Whether there is room for one more.
    pub(super) fn check(&self, caller: u128, server: &str) -> Result<(), Crowded> {
        let counts = self.counts.lock();
        let count = |count: Option<&usize>| count.copied().unwrap_or_default();
        if counts.all >= self.room.all {
            Err(Crowded::All)
        } else if count(counts.callers.get(&caller)) >= self.room.each_caller {
            Err(Crowded::Caller)
        } else if count(counts.servers.get(server)) >= self.room.each_server {
            Err(Crowded::Server)
        } else {
            Ok(())
        }
    }

    /// One more, unless there is no room for more in all.
    pub(super) fn enter(&self, caller: u128, server: &str) -> bool {
        let mut counts = self.counts.lock();
        if counts.all >= self.room.all {
            return false;
        }
        counts.all += 1;
        *counts.callers.entry(caller).or_default() += 1;
        match counts.servers.get_mut(server) {
            Some(count) => *count += 1,
            None => drop(counts.servers.insert(server.into(), 1)),
        }
        true
    }

    /// One less.
    pub(super) fn leave(&self, caller: u128, server: &str) {
        let mut counts = self.counts.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(count) = counts.callers.get_mut(&caller) {
            *count -= 1;
            if *count == 0 {
                counts.callers.remove(&caller);
            }
        }
        if let Some(count) = counts.servers.get_mut(server) {
            *count -= 1;
            if *count == 0 {
                counts.servers.remove(server);
            }
        }
    }

    pub(super) fn all(&self) -> usize {
        self.counts.lock().all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_room_and_leaves_nothing_behind() {
        let census = Census::new(Room { all: 4, each_caller: 2, each_server: 3 });
        assert!(census.enter(1, "a") && census.enter(1, "a"));
        assert_eq!(census.check(1, "b"), Err(Crowded::Caller));
        assert!(census.enter(2, "a"));
        assert_eq!(census.check(3, "a"), Err(Crowded::Server));
        assert!(census.check(3, "b").is_ok() && census.enter(3, "b"));
        assert_eq!(census.check(4, "c"), Err(Crowded::All));
        assert!(!census.enter(4, "c"));
        for (caller, server) in [(1, "a"), (1, "a"), (2, "a"), (3, "b")] {
            census.leave(caller, server);
        }
        let counts = census.counts.lock();
        assert_eq!((counts.all, counts.callers.len(), counts.servers.len()), (0, 0, 0));
    }
}
