//! The streams that are open, by the numbers in their endpoints' paths.
//! Not here: what goes through them (`stream`, `post`).

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// Random bytes in a stream's number: as many as in a key that seals.
const NUMBER_BYTES: usize = 32;
/// Events between the messages' answers and the client. When there are more, servers wait.
const EVENTS_MAX: usize = 16;

/// Open streams. As many as there may be streams: each holds a place.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Table(Arc<Mutex<HashMap<Box<str>, Arc<Open>>>>);

/// One stream, as messages for it see it.
#[derive(Debug)]
pub(super) struct Open {
    caller: u128,
    server: Box<str>,
    /// Events for the client; closed when it is gone.
    pub(super) events: mpsc::Sender<Bytes>,
    /// The session with the server.
    pub(super) link: watch::Sender<Link>,
}

/// The session with the server.
#[derive(Debug, Clone, Default)]
pub(super) struct Link {
    /// Our id of it, if the server gave one.
    pub(super) session: Option<String>,
    /// The revision that was agreed on.
    pub(super) revision: Option<HeaderValue>,
    /// Whether the client has said that it is ready, so that the server may speak.
    pub(super) ready: bool,
}

/// A stream's own side, until dropped.
#[derive(Debug)]
pub(super) struct Registered {
    table: Arc<Mutex<HashMap<Box<str>, Arc<Open>>>>,
    /// Its number.
    pub(super) number: Box<str>,
    pub(super) events: mpsc::Receiver<Bytes>,
    pub(super) link: watch::Receiver<Link>,
}

impl Table {
    /// Opens a stream of `caller` to `server`; `None` if the system has no random bytes.
    pub(super) fn open(&self, caller: u128, server: &str) -> Option<Registered> {
        let mut number = [0u8; NUMBER_BYTES];
        getrandom::fill(&mut number).ok()?;
        let number: Box<str> = BASE64.encode(number).into();
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let (link, seen) = watch::channel(Link::default());
        let open = Open { caller, server: server.into(), events, link };
        self.0.lock().insert(number.clone(), Arc::new(open));
        Some(Registered { table: Arc::clone(&self.0), number, events: received, link: seen })
    }

    /// The stream of that number, if it is this caller's and leads to this server.
    pub(super) fn find(&self, number: &str, caller: u128, server: &str) -> Option<Arc<Open>> {
        let open = Arc::clone(self.0.lock().get(number)?);
        (open.caller == caller && *open.server == *server && !open.events.is_closed()).then_some(open)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.table.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_its_callers_and_its_servers_until_it_ends() {
        let table = Table::default();
        let one = table.open(1, "a").unwrap();
        let other = table.open(1, "a").unwrap();
        assert_ne!(one.number, other.number);
        assert_eq!(one.number.len(), 43);
        assert!(table.find(&one.number, 1, "a").is_some());
        assert!(table.find(&one.number, 2, "a").is_none());
        assert!(table.find(&one.number, 1, "b").is_none());
        assert!(table.find("", 1, "a").is_none());
        let number = one.number.clone();
        drop(one);
        assert!(table.find(&number, 1, "a").is_none());
        assert!(table.find(&other.number, 1, "a").is_some());
    }
}
