//! What we answer, as a value, before anything is written.
//! Not here: who decides it (`hub`, `proxy`) or how it is written (`proxy/write`).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;

/// An answer to the client.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without those of framing.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Body,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// What has come so far, and the rest as it comes.
    Stream(Box<Stream>),
}

/// A body that is still coming from an upstream.
#[derive(Debug)]
pub struct Stream {
    /// What was read already.
    pub first: Bytes,
    /// The rest.
    pub rest: UnsyncBoxBody<Bytes, hyper::Error>,
    /// Longest silence between two pieces; `None` for streams that may be silent for long.
    pub idle: Option<Duration>,
    /// Deadline of the whole answer; `None` for streams that are open-ended.
    pub deadline: Option<tokio::time::Instant>,
    /// How long that was from the start.
    pub total: Duration,
    /// Whether the bytes are server-sent events.
    pub events: bool,
    /// What is said to the upstream if a deadline passes.
    pub farewell: Option<Farewell>,
}

/// Something to be said when nobody waits any longer.
pub struct Farewell(Box<dyn FnOnce() + Send + Sync>);

impl Farewell {
    /// `say` must not block.
    pub fn new(say: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Box::new(say))
    }

    /// Says it.
    pub fn say(self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Farewell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Farewell")
    }
}
