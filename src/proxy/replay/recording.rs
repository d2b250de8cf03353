//! The keeping of a stream while it passes.
//! Not here: how it is taken up again (`follow`).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::{KEPT, Recorded};

/// How long the server is waited for before the stream begins with an id of ours: one that offers ids does so at once.
const PRIME: Duration = Duration::from_millis(250);
/// When the client comes back after it lost its connection.
const RETRY_MS: u32 = 1000;
/// An event that is longer passes without an id.
const EVENT_BYTES_MAX: usize = super::BYTES_MAX;

/// A stream being kept. When it is dropped the stream has ended.
#[derive(Debug)]
pub(in crate::proxy) struct Recording {
    recorded: Arc<Recorded>,
    whose: Whose,
    count: u64,
    held: BytesMut,
    scanned: usize,
    begun: Instant,
}

/// Whose ids a stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// It has not begun.
    Nobodys,
    Ours,
    /// The server offers resumption itself, or says what cannot be kept.
    Theirs,
}

impl Recording {
    pub(super) fn new(recorded: Arc<Recorded>) -> Self {
        Self {
            recorded,
            whose: Whose::Nobodys,
            count: 0,
            held: BytesMut::new(),
            scanned: 0,
            begun: Instant::now(),
        }
    }

    /// When the stream begins without a word of the server.
    pub(in crate::proxy) fn prime_at(&self) -> Option<Instant> {
        (self.whose == Whose::Nobodys && self.held.is_empty()).then(|| self.begun + PRIME)
    }

    /// Whether what was sent can be had again by one of our ids.
    pub(in crate::proxy) fn is_resumable(&self) -> bool {
        self.whose != Whose::Theirs
    }

    /// Whether another connection has taken the stream up.
    pub(in crate::proxy) fn is_taken(&self) -> bool {
        self.recorded.grown.borrow().taken > 0
    }

    /// How long it is read on when its client left at `since`.
    pub(in crate::proxy) fn kept_until(since: Instant) -> Instant {
        since + KEPT
    }

    /// The beginning of a stream: an id, and when to come back.
    pub(in crate::proxy) fn prime(&mut self) -> Bytes {
        self.whose = Whose::Ours;
        let event = format!("id: {}\nretry: {RETRY_MS}\ndata: \n\n", self.recorded.id(self.count));
        self.count += 1;
        event.into()
    }

    /// The next piece of the server's stream, as it goes to the client: whole events, each with its id.
    pub(in crate::proxy) fn take(&mut self, piece: &Bytes) -> Bytes {
        if self.whose == Whose::Theirs {
            return piece.clone();
        }
        self.held.extend_from_slice(piece);
        let mut out = BytesMut::new();
        while let Some(end) = self.end_of_event() {
            let event = self.held.split_to(end).freeze();
            self.scanned = 0;
            self.event(&event, &mut out);
            if self.whose == Whose::Theirs {
                out.extend_from_slice(&self.held.split());
                return out.freeze();
            }
        }
        if self.held.len() > EVENT_BYTES_MAX {
            self.whose = Whose::Theirs;
            out.extend_from_slice(&self.held.split());
        }
        out.freeze()
    }

    /// An event of the gateway's own.
    pub(in crate::proxy) fn own(&mut self, event: &Bytes) -> Bytes {
        let mut out = BytesMut::from(self.end().as_ref());
        self.event(event, &mut out);
        out.freeze()
    }

    /// What the server left without an end.
    pub(in crate::proxy) fn end(&mut self) -> Bytes {
        self.scanned = 0;
        self.held.split().freeze()
    }

    fn event(&mut self, event: &Bytes, out: &mut BytesMut) {
        let lines = || event.split(|byte| matches!(byte, b'\n' | b'\r'));
        if self.whose != Whose::Ours && lines().any(|line| line.starts_with(b"id:")) {
            self.whose = Whose::Theirs;
        }
        let says = lines().any(|line| line.starts_with(b"data"));
        if self.whose == Whose::Theirs || !says {
            return out.extend_from_slice(event);
        }
        if self.whose == Whose::Nobodys {
            let primed = self.prime();
            out.extend_from_slice(&primed);
        }
        self.count += 1;
        let count = self.count;
        let mut kept = BytesMut::from(format!("id: {}\n", self.recorded.id(count)).as_bytes());
        // Once there are ids of ours, those of the server would be taken for them.
        for line in event.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"id:")) {
            kept.extend_from_slice(line);
        }
        let kept = kept.freeze();
        out.extend_from_slice(&kept);
        self.recorded.keep(count, kept);
    }

    /// Where the first event in what is held ends.
    fn end_of_event(&mut self) -> Option<usize> {
        let from = self.scanned.saturating_sub(3);
        let new = self.held.get(from..).unwrap_or_default();
        let ends = [&b"\n\n"[..], b"\r\n\r\n", b"\r\r"];
        let found = ends.iter().filter_map(|end| Some(memchr::memmem::find(new, end)? + end.len())).min();
        self.scanned = self.held.len();
        found.map(|at| from + at)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.recorded.grown.send_modify(|grown| grown.ended = Some(Instant::now()));
    }
}
