//! What state an endpoint is in, why and since when, as people see it.
//! Not here: what puts it there (`endpoint`, `breaker`, `health`).

use std::time::SystemTime;

/// The state of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointState {
    /// No health check has passed yet: it is called only while there is no other.
    Starting,
    /// It takes its share.
    Healthy,
    /// It takes calls, though something is wrong.
    Degraded(String),
    /// It failed too often and takes no calls for a while.
    Ejected {
        /// Until then; afterwards a few calls see whether it is well.
        until: SystemTime,
        /// What it did.
        why: String,
    },
    /// Its health checks fail.
    Down(String),
    /// It takes nothing but what belongs to sessions that it has.
    Draining,
}

impl EndpointState {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Degraded(_) => "degraded",
            Self::Ejected { .. } => "ejected",
            Self::Down(_) => "down",
            Self::Draining => "draining",
        }
    }

    /// Why it is in it, if that needs a reason.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Degraded(why) | Self::Down(why) | Self::Ejected { why, .. } => Some(why),
            Self::Starting | Self::Healthy | Self::Draining => None,
        }
    }

    /// Whether it takes calls of its own accord.
    pub fn takes_calls(&self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded(_) | Self::Starting)
    }
}

/// The state of one endpoint, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Its number, in file order.
    pub number: usize,
    /// Its address without query.
    pub url: String,
    /// Its state.
    pub state: EndpointState,
    /// When it came into it.
    pub since: SystemTime,
    /// When it was last asked for its health, and what came of it.
    pub checked: Option<(SystemTime, Result<(), &'static str>)>,
    /// Failures in a row that counted.
    pub failures: u32,
    /// Calls running on it.
    pub in_flight: usize,
}
