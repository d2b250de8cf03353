//! How near the gateway is to the memory it may have, and what it sheds then: calls first, then connections.
//! Not here: who looks at its memory (`app/overload`), who asks before a call (`proxy/toll`) or a connection (`listener`).
//!
//! Whoever swaps is slow for everybody, and whoever is killed for want of memory loses all that was in flight: so a part
//! of what comes is refused while what is here goes on.

use std::sync::Arc;

use tokio::sync::watch;

/// Shares of the ceiling at which something is shed, in percent.
const CALLS_AT: usize = 95;
const CONNECTIONS_AT: usize = 98;

/// What is shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Nothing.
    #[default]
    Calm,
    /// New calls.
    High,
    /// New connections, too.
    Full,
}

impl Level {
    /// The level of a process that holds `bytes` and may have `ceiling`.
    fn of(bytes: usize, ceiling: usize) -> Self {
        let percent = bytes.saturating_mul(100) / ceiling.max(1);
        match percent {
            CONNECTIONS_AT.. => Self::Full,
            CALLS_AT.. => Self::High,
            _ => Self::Calm,
        }
    }
}

/// The level, as everybody sees it. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Pressure(Arc<watch::Sender<Level>>);

impl Pressure {
    /// The process holds `bytes` and may have `ceiling`. `Some` if that changes what is shed.
    pub fn note(&self, bytes: usize, ceiling: usize) -> Option<Level> {
        let level = Level::of(bytes, ceiling);
        let changed = self.0.send_if_modified(|known| std::mem::replace(known, level) != level);
        changed.then_some(level)
    }

    /// Whether calls are shed.
    pub fn sheds_calls(&self) -> bool {
        *self.0.borrow() >= Level::High
    }

    /// Waits until connections may be taken.
    pub fn connections(&self) -> watch::Receiver<Level> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_go_before_connections() {
        let pressure = Pressure::default();
        let note = |percent: usize| pressure.note(percent * 10, 1000);
        assert_eq!((note(94), pressure.sheds_calls()), (None, false));
        assert_eq!((note(95), pressure.sheds_calls()), (Some(Level::High), true));
        assert_eq!(note(97), None);
        assert_eq!((note(98), pressure.sheds_calls()), (Some(Level::Full), true));
        assert_eq!((note(10), pressure.sheds_calls()), (Some(Level::Calm), false));
    }
}
