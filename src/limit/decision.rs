//! What is asked of a bucket and what it said, with the headers that tell a client of it.
//! Not here: the buckets themselves (`bucket`).

use std::fmt::Write as _;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderName, HeaderValue};

use crate::conf::Rate;

/// Whose bucket. In this order they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// A client address, before anybody is authenticated.
    Address,
    /// A caller.
    Caller,
    /// A server: of all callers together, or of each.
    Server,
    /// A tool: of all callers together, or of each.
    Tool,
}

impl Layer {
    /// Its name in headers, answers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Caller => "caller",
            Self::Server => "server",
            Self::Tool => "tool",
        }
    }
}

/// The name of one bucket: a keyed hash of the layer and of whose it is. Made by [`super::Buckets::key`].
///
/// Invariant: strangers' buckets (client addresses) are told apart by one bit, so that a flood of strangers never
/// pushes out what is known of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

/// Below the seven highest bits, which the hash table compares, and above those that choose shard and slot.
const STRANGER: u64 = 1 << 56;

impl Key {
    /// The key for a hash.
    pub(super) fn new(layer: Layer, hash: u64) -> Self {
        match layer {
            Layer::Address => Self(hash | STRANGER),
            Layer::Caller | Layer::Server | Layer::Tool => Self(hash & !STRANGER),
        }
    }

    /// The key of those bits, as another gateway wrote them.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits. With the same secret they name the same bucket in every gateway.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether such bits belong to a bucket of somebody unknown.
    pub(super) fn is_stranger(bits: u64) -> bool {
        bits & STRANGER != 0
    }
}

/// Tokens to be taken from one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Which bucket.
    pub key: Key,
    /// How it fills, as the configuration says now.
    pub rate: Rate,
    /// How many tokens.
    pub cost: u32,
    /// Whose bucket it is.
    pub layer: Layer,
}

/// What a bucket said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whose bucket it is.
    pub layer: Layer,
    /// How it fills.
    pub rate: Rate,
    /// Whole tokens left.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub reset: Duration,
    /// Until enough tokens are there; zero when they were. `None`: more is asked for than the bucket ever holds, so
    /// waiting does not help.
    pub retry_after: Option<Duration>,
}

impl Decision {
    /// The decision as headers, for refusals and successes alike. `Limit` is the bucket's size, `Reset` is in seconds
    /// from now, `Policy` says how the bucket fills (`60;w=60;burst=10;name=caller`: 60 tokens in 60 s, 10 saved up).
    pub fn headers(&self) -> [(HeaderName, HeaderValue); 4] {
        let burst = self.rate.burst.max(1);
        [
            (const { HeaderName::from_static("x-ratelimit-limit") }, burst.into()),
            (const { HeaderName::from_static("x-ratelimit-remaining") }, self.remaining.into()),
            (const { HeaderName::from_static("x-ratelimit-reset") }, seconds(self.reset).into()),
            (const { HeaderName::from_static("x-ratelimit-policy") }, self.policy()),
        ]
    }

    /// Whole seconds until enough tokens are there, for `Retry-After`; `None` if they never will be.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(seconds)
    }

    fn policy(&self) -> HeaderValue {
        let mut text = BytesMut::with_capacity(48);
        let Rate { requests, per, burst } = self.rate;
        let window = per.as_secs_f64();
        let name = self.layer.as_str();
        // Writing to memory does not fail, and what is written are digits and words of ours.
        let _ = write!(text, "{requests};w={window};burst={};name={name}", burst.max(1));
        HeaderValue::from_maybe_shared(text.freeze()).unwrap_or(HeaderValue::from_static("-"))
    }
}

fn seconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_of_the_bucket() {
        let decision = Decision {
            layer: Layer::Caller,
            rate: Rate { requests: 60, per: Duration::from_secs(60), burst: 10 },
            remaining: 3,
            reset: Duration::from_millis(6001),
            retry_after: Some(Duration::from_millis(1)),
        };
        let shown: Vec<String> =
            decision.headers().iter().map(|(_, value)| value.to_str().unwrap().to_owned()).collect();
        assert_eq!(shown, ["10", "3", "7", "60;w=60;burst=10;name=caller"]);
        assert_eq!(decision.retry_after_seconds(), Some(1));
        let fast = Rate { requests: 5, per: Duration::from_millis(500), burst: 5 };
        assert_eq!(Decision { rate: fast, ..decision }.policy(), "5;w=0.5;burst=5;name=caller");
    }
}
