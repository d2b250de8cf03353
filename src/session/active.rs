//! How many sessions are in use: the one thing that sealed sessions cannot tell by themselves.
//! Not here: what a session is (`seal`). Nothing depends on this table; it only feeds a gauge.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A session counts as active this long after its last message.
const ACTIVE_FOR: Duration = Duration::from_secs(300);
/// Sessions counted at most; above it the gauge stays there.
const SESSIONS_MAX: usize = 100_000;

/// Sessions by a digest of their id, with the time of the last message.
#[derive(Debug, Default)]
pub struct Active(Mutex<HashMap<u64, Instant>>);

impl Active {
    /// A message of a session passed.
    pub fn touch(&self, id: &str) {
        let mut sessions = self.0.lock();
        let key = key(id);
        if sessions.len() < SESSIONS_MAX || sessions.contains_key(&key) {
            sessions.insert(key, Instant::now());
        }
    }

    /// The session ended.
    pub fn end(&self, id: &str) {
        self.0.lock().remove(&key(id));
    }

    /// How many are active; forgets the others.
    pub fn count(&self) -> usize {
        let mut sessions = self.0.lock();
        sessions.retain(|_, last| last.elapsed() < ACTIVE_FOR);
        sessions.len()
    }
}

/// The end of a sealed id is its authentication tag: random enough to be a key by itself.
fn key(id: &str) -> u64 {
    id.as_bytes().last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_what_was_used_lately() {
        let active = Active::default();
        for id in ["aaaaaaaa", "bbbbbbbb", "cccccccc", "aaaaaaaa"] {
            active.touch(id);
        }
        active.end("cccccccc");
        assert_eq!(active.count(), 2);
        tokio::time::advance(Duration::from_secs(200)).await;
        active.touch("bbbbbbbb");
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(active.count(), 1);
    }
}
