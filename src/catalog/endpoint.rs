//! How calls are spread over a server's endpoints, when one of them is left alone, and what is tried again.
//! Not here: the endpoints themselves and their health checks (`model`); doing it (`upstream`).

use std::time::Duration;

/// How an endpoint is chosen for a call that no session is pinned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// One after another, by weight.
    #[default]
    RoundRobin,
    /// Of two drawn by weight, the one with fewer calls in flight for its weight.
    LeastInFlight,
    /// The same endpoint for the same key, as long as it has no more than its share of the load.
    Hash(HashBy),
    /// Drawn by weight.
    Random,
}

/// What a hash is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashBy {
    /// The caller.
    Caller,
    /// The session, where there is one; the caller otherwise.
    Session,
}

/// When an endpoint is left alone, for how long, and how it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row.
    pub failures: u16,
    /// Percentage of calls that fail, of at least `calls` within `window`.
    pub error_rate: u8,
    /// Calls below which a rate says nothing.
    pub calls: u16,
    /// The time that the rate is counted in.
    pub window: Duration,
    /// How long nothing is sent while no endpoint is left.
    pub open_for: Duration,
    /// Calls let through at once when that time is over.
    pub probes: u16,
    /// How long an endpoint is out at first while others are left; doubled each time it fails again.
    pub eject_for: Duration,
    /// The longest of these times.
    pub eject_for_max: Duration,
    /// Percentage of the endpoints that may be out while others are left. One always may.
    pub ejected_max: u8,
    /// How long an endpoint that is back, or new among others, gets less than its share.
    pub slow_start: Duration,
}

/// What is tried again after an endpoint failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often one call is tried again, at most.
    pub max: u16,
    /// Percentage of the calls that retries may add, after something was sent.
    pub budget: u8,
    /// The pause before the first; doubled each time, with jitter.
    pub pause: Duration,
}
