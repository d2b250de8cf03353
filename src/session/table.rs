//! Sessions seen lately: opened once, counted, and forgotten when idle.
//! Not here: what a session is (`seal`). Losing this table costs nothing but the opening of ids again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::seal::{Pin, Sealer, SessionError};
use crate::failpoint;

/// A session counts as active this long after its last message.
const ACTIVE_FOR: Duration = Duration::from_secs(300);
/// Sessions remembered at most in each shard; above that ids are opened at every message.
const SHARD_MAX: usize = 4096;
const SHARDS: usize = 16;

/// Opens sealed ids, and remembers those it has opened: the cryptography is paid once for a session, not per message.
///
/// Invariant: what is remembered answers only for the same id, caller and server, and only while it is not expired.
#[derive(Debug)]
pub struct Sessions {
    sealer: Sealer,
    shards: [Mutex<HashMap<u64, Seen>>; SHARDS],
}

#[derive(Debug)]
struct Seen {
    id: Box<str>,
    caller: u128,
    server: Box<str>,
    pin: Arc<Pin>,
    expires: SystemTime,
    last: Instant,
}

impl Sessions {
    /// Sessions sealed by `sealer`.
    pub fn new(sealer: Sealer) -> Self {
        Self { sealer, shards: Default::default() }
    }

    /// The id of a new session that `caller` has with `server`.
    pub fn seal(&self, caller: u128, server: &str, pin: Pin) -> Result<String, SessionError> {
        let id = self.sealer.seal(caller, server, &pin)?;
        self.remember(&id, (caller, server), &Arc::new(pin), self.sealer.expiry());
        Ok(id)
    }

    /// What the id is pinned to, if `caller` has it with `server` and it is not too old.
    pub fn open(&self, id: &str, caller: u128, server: &str) -> Result<Arc<Pin>, SessionError> {
        let key = key(id);
        if let Some(seen) = self.shard(key).lock().get_mut(&key)
            && *seen.id == *id
            && seen.caller == caller
            && *seen.server == *server
        {
            if seen.expires <= SystemTime::now() {
                return Err(SessionError::Expired);
            }
            seen.last = Instant::now();
            return Ok(Arc::clone(&seen.pin));
        }
        let (pin, expires) = self.sealer.open_until(id, caller, server)?;
        let pin = Arc::new(pin);
        self.remember(id, (caller, server), &pin, expires);
        Ok(pin)
    }

    /// The session ended.
    pub fn end(&self, id: &str) {
        let key = key(id);
        self.shard(key).lock().remove(&key);
    }

    /// How many are active; forgets the others.
    pub fn active(&self) -> usize {
        let count = |shard: &Mutex<HashMap<u64, Seen>>| {
            let mut shard = shard.lock();
            shard.retain(|_, seen| seen.last.elapsed() < ACTIVE_FOR);
            shard.len()
        };
        self.shards.iter().map(count).sum()
    }

    fn remember(&self, id: &str, (caller, server): (u128, &str), pin: &Arc<Pin>, expires: SystemTime) {
        let key = key(id);
        let mut shard = self.shard(key).lock();
        failpoint::pass("lock");
        if shard.len() >= SHARD_MAX {
            shard.retain(|_, seen| seen.last.elapsed() < ACTIVE_FOR);
        }
        if shard.len() >= SHARD_MAX {
            return;
        }
        let (id, server, pin) = (id.into(), server.into(), Arc::clone(pin));
        shard.insert(key, Seen { id, caller, server, pin, expires, last: Instant::now() });
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Seen>> {
        let [first, ..] = &self.shards;
        usize::try_from(key).ok().and_then(|key| self.shards.get(key % SHARDS)).unwrap_or(first)
    }
}

/// The end of a sealed id is its authentication tag: random enough to be a key by itself. Eight characters of it are
/// 48 bits; two ids that share them are told apart by the whole id.
fn key(id: &str) -> u64 {
    id.as_bytes().last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(session: &str) -> Pin {
        Pin { endpoint: 7, upstream_session: session.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn remembers_without_loosening_anything() {
        let sessions = || Sessions::new(Sealer::new(&[1; 32], Duration::from_secs(60)));
        let here = sessions();
        let id = here.seal(1, "a", pin("x")).unwrap();
        for table in [&here, &sessions()] {
            assert_eq!(*table.open(&id, 1, "a").unwrap(), pin("x"));
            assert_eq!(table.open(&id, 2, "a"), Err(SessionError::Foreign));
            assert_eq!(table.open(&id, 1, "b"), Err(SessionError::Foreign));
            assert_eq!(*table.open(&id, 1, "a").unwrap(), pin("x"));
            let mut forged = id.clone();
            forged.replace_range(10..11, if id.as_bytes()[10] == b'A' { "B" } else { "A" });
            assert_eq!(table.open(&forged, 1, "a"), Err(SessionError::Forged), "the same tail, another id");
        }
        let expired = Sessions::new(Sealer::new(&[1; 32], Duration::ZERO));
        assert_eq!(expired.open(&id, 1, "a"), Err(SessionError::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn counts_what_was_used_lately() {
        let sessions = Sessions::new(Sealer::new(&[1; 32], Duration::from_secs(6000)));
        let ids: Vec<String> = ["x", "y", "z"].map(|s| sessions.seal(1, "a", pin(s)).unwrap()).into();
        sessions.end(&ids[2]);
        assert_eq!(sessions.active(), 2);
        tokio::time::advance(Duration::from_secs(200)).await;
        sessions.open(&ids[1], 1, "a").unwrap();
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(sessions.active(), 1);
    }
}
