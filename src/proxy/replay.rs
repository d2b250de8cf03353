//! Streams that a client may take up again where it lost them, when the server does not offer that itself.
//! Not here: what a stream is made of (`write`); servers that do offer it, whose ids pass untouched.
//!
//! Only where `session.resume` says so. Each event gets an id of ours, and is kept for a while: 256 events and 1 MiB of
//! each stream, until 5 minutes after its end. A stream begins with an event that has nothing but an id, so that there
//! is one to resume after from the first moment, and with `retry:` (2025-11-25/basic/transports, "Resumability and
//! Redelivery"). A stream whose client has left is read on; whoever comes with one of its ids gets what followed.
//!
//! An id is a random number of 128 bits and a count. It is good for the caller and the session that the stream was for,
//! and for nobody else: so it need not be sealed, and cannot be guessed.

mod follow;
mod recording;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::conf::Resume;
use crate::reply::Stream;
pub(super) use recording::Recording;

/// How our ids begin: no server's do.
const PREFIX: &str = "tollgate-";
/// Random bytes in a stream's number.
const NUMBER_BYTES: usize = 16;
/// Events kept of one stream.
const EVENTS_MAX: usize = 256;
/// Bytes kept of one stream.
const BYTES_MAX: usize = 1024 * 1024;
/// How long a stream is kept after its end, and read on without its client.
const KEPT: Duration = Duration::from_secs(5 * 60);
/// Bytes kept of all streams; beyond that, new ones are not kept.
const ALL_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Streams kept; beyond that, new ones are not.
const STREAMS_MAX: usize = 20_000;

/// Whom a stream is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The caller.
    pub(super) caller: u128,
    /// The server's id.
    pub(super) server: Box<str>,
    /// The session, as the client has it.
    pub(super) session: Option<Box<str>>,
}

impl Owner {
    /// The owner of a stream of that session, or of one that has no session.
    pub(super) fn of(caller: u128, server: &str, session: Option<&str>) -> Self {
        Self { caller, server: server.into(), session: session.map(Into::into) }
    }
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Replays {
    is_on: bool,
    streams: Mutex<HashMap<Box<str>, Arc<Recorded>>>,
    /// Bytes of all of them.
    bytes: Arc<AtomicUsize>,
}

/// One stream that is kept.
#[derive(Debug)]
pub(super) struct Recorded {
    owner: Owner,
    number: Box<str>,
    kept: Mutex<Kept>,
    /// Bytes of all streams, these among them.
    all_bytes: Arc<AtomicUsize>,
    /// Counts events, and is told its end.
    grown: watch::Sender<Grown>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Events with their counts, the oldest first.
    events: std::collections::VecDeque<(u64, Bytes)>,
    bytes: usize,
}

/// How far a stream has come.
#[derive(Debug, Clone, Copy, Default)]
struct Grown {
    /// The count of the last event.
    last: u64,
    /// When it ended.
    ended: Option<Instant>,
    /// How often it was taken up again: who wrote before does so no longer.
    taken: u32,
}

impl Replays {
    /// What is kept as `resume` says.
    pub(super) fn new(resume: Resume) -> Self {
        Self { is_on: resume == Resume::Memory, ..Self::default() }
    }

    /// Begins to keep a stream; `None` if it is not to be kept, or there is no room.
    pub(super) fn begin(&self, owner: &Owner) -> Option<Recording> {
        if !self.is_on {
            return None;
        }
        let mut number = [0u8; NUMBER_BYTES];
        getrandom::fill(&mut number).ok()?;
        let number: Box<str> = BASE64.encode(number).into();
        let recorded = Arc::new(Recorded {
            owner: owner.clone(),
            number: number.clone(),
            kept: Mutex::default(),
            all_bytes: Arc::clone(&self.bytes),
            grown: watch::channel(Grown::default()).0,
        });
        let mut streams = self.streams.lock();
        // Now and then, so that it costs each stream next to nothing.
        let is_full = || self.bytes.load(Ordering::Relaxed) >= ALL_BYTES_MAX;
        if streams.len() == streams.capacity() || streams.len() >= STREAMS_MAX || is_full() {
            streams.retain(|_, recorded| !recorded.is_stale());
        }
        if streams.len() >= STREAMS_MAX || is_full() {
            return None;
        }
        streams.insert(number, Arc::clone(&recorded));
        Some(Recording::new(recorded))
    }

    /// What follows the event of that id, if that is one of ours: `Some(None)` if its stream is not kept, or not for this
    /// owner.
    pub(super) fn after(&self, id: &str, owner: &Owner) -> Option<Option<Stream>> {
        let (number, count) = id.strip_prefix(PREFIX)?.split_once('.')?;
        let count: u64 = count.parse().ok()?;
        let recorded = self.streams.lock().get(number).cloned();
        let recorded = recorded.filter(|recorded| recorded.owner == *owner && !recorded.is_stale());
        Some(recorded.map(|recorded| follow::follow(&recorded, count)))
    }

    /// A session has ended: nothing of it is kept.
    pub(super) fn forget(&self, owner: &Owner) {
        self.streams.lock().retain(|_, recorded| recorded.owner != *owner);
    }
}

impl Recorded {
    fn is_stale(&self) -> bool {
        self.grown.borrow().ended.is_some_and(|at| at.elapsed() > KEPT)
    }

    fn id(&self, count: u64) -> String {
        format!("{PREFIX}{}.{count}", self.number)
    }

    /// Keeps an event, whose text begins with its id.
    fn keep(&self, count: u64, event: Bytes) {
        let mut kept = self.kept.lock();
        let before = kept.bytes;
        kept.bytes += event.len();
        kept.events.push_back((count, event));
        while kept.events.len() > EVENTS_MAX || kept.bytes > BYTES_MAX {
            let Some((_, oldest)) = kept.events.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
        self.all_bytes.fetch_add(kept.bytes, Ordering::Relaxed);
        self.all_bytes.fetch_sub(before, Ordering::Relaxed);
        drop(kept);
        self.grown.send_modify(|grown| grown.last = count);
    }

    /// The first kept event after `count`.
    fn next(&self, count: u64) -> Option<(u64, Bytes)> {
        let kept = self.kept.lock();
        kept.events.iter().find(|(at, _)| *at > count).cloned()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.kept.get_mut().bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
