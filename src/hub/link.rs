//! Sessions that we hold with servers for callers who know of none.
//! Not here: sessions of clients, which are sealed and not stored (`session`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::catalog::ServerId;

/// Links kept at most; the longest unused goes first.
const LINKS_MAX: usize = 10_000;
/// A link that nobody used for this long is forgotten.
const IDLE: Duration = Duration::from_secs(600);

/// An open session with a server: where it is, and its id if the server gave one.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// The endpoint that holds it.
    pub(super) endpoint: Option<u64>,
    /// The server's session id.
    pub(super) session: Option<String>,
}

/// Links by caller and server.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<Key, (Arc<Link>, Instant)>>);

type Key = (u128, ServerId);

impl Links {
    pub(super) fn find(&self, caller: u128, server: &ServerId) -> Option<Arc<Link>> {
        let mut links = self.0.lock();
        let (link, used) = links.get_mut(&(caller, server.clone()))?;
        *used = Instant::now();
        Some(Arc::clone(link))
    }

    pub(super) fn keep(&self, caller: u128, server: &ServerId, link: Link) -> Arc<Link> {
        let mut links = self.0.lock();
        if links.len() >= LINKS_MAX {
            links.retain(|_, (_, used)| used.elapsed() < IDLE);
        }
        if links.len() >= LINKS_MAX
            && let Some(oldest) = links.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            links.remove(&oldest);
        }
        let link = Arc::new(link);
        links.insert((caller, server.clone()), (Arc::clone(&link), Instant::now()));
        link
    }

    pub(super) fn forget(&self, caller: u128, server: &ServerId) {
        self.0.lock().remove(&(caller, server.clone()));
    }
}
