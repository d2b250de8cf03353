//! The sessions of the legacy era over HTTP.
//! Not here: what a session remembers (`peer`).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::peer::Peer;

/// Sessions that are remembered. Clients seldom end theirs, so the one unused for longest makes room.
const SESSIONS_MAX: usize = 4096;

/// The sessions, by id.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

#[derive(Debug)]
struct Session {
    peer: Arc<Peer>,
    used: Instant,
}

impl Sessions {
    /// Opens a session and returns its id, of 128 random bits; `None` if the system has no randomness to give.
    pub(super) fn open(&self) -> Option<String> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).ok()?;
        let id = format!("{:032x}", u128::from_be_bytes(random));
        let mut sessions = self.0.lock();
        if sessions.len() >= SESSIONS_MAX
            && let Some(oldest) =
                sessions.iter().min_by_key(|(_, session)| session.used).map(|(id, _)| id.clone())
            && let Some(session) = sessions.remove(&oldest)
        {
            session.peer.cancel_all();
        }
        sessions.insert(id.clone(), Session { peer: Arc::default(), used: Instant::now() });
        Some(id)
    }

    /// The client of that session.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Peer>> {
        let mut sessions = self.0.lock();
        let session = sessions.get_mut(id)?;
        session.used = Instant::now();
        Some(Arc::clone(&session.peer))
    }

    /// Ends the session and all that runs in it; false if there is none.
    pub(super) fn end(&self, id: &str) -> bool {
        let session = self.0.lock().remove(id);
        session.is_some_and(|session| {
            session.peer.cancel_all();
            true
        })
    }
}
