//! The form of `breaker` and `retry` in `catalog.yaml`, and how calls are spread.
//! Not here: what they may say, and the defaults (`check/endpoint.rs`).

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::{At, Period};

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::catalog) enum RawBalance {
    #[default]
    RoundRobin,
    LeastInFlight,
    Hash,
    Random,
}

/// What a hash is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::catalog) enum RawHashBy {
    #[default]
    Caller,
    Session,
}

/// When an endpoint is left alone, for how long, and how it comes back. Failures are refused and broken connections,
/// missed deadlines, statuses of 500 and above, and answers that are none; a JSON-RPC error or a tool's own failure
/// is an answer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::catalog) struct RawBreaker {
    /// Whether there is one. Default: true.
    pub(in crate::catalog) enabled: Option<At<bool>>,
    /// Failures in a row after which the endpoint is left alone. Default: 5.
    pub(in crate::catalog) failures: Option<At<u16>>,
    /// Percentage of failing calls after which the endpoint is left alone. Default: 50.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::catalog) error_rate: Option<At<u16>>,
    /// Calls within `window` below which the percentage says nothing. Default: 20.
    pub(in crate::catalog) calls: Option<At<u16>>,
    /// The time that the percentage is counted in. Default: 10s.
    pub(in crate::catalog) window: Option<At<Period>>,
    /// How long nothing is sent while no endpoint is left: callers get 503 with `Retry-After`. Default: 60s.
    pub(in crate::catalog) open_for: Option<At<Period>>,
    /// Calls let through at once when that time is over; the first that succeeds closes the breaker. Default: 3.
    pub(in crate::catalog) probes: Option<At<u16>>,
    /// How long an endpoint is out at first while others are left; doubled each time it fails again. Default: 5s.
    pub(in crate::catalog) eject_for: Option<At<Period>>,
    /// The longest of these times. Default: 30s.
    pub(in crate::catalog) eject_for_max: Option<At<Period>>,
    /// Percentage of the endpoints that may be out while others are left; one always may. Default: 50.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::catalog) ejected_max: Option<At<u16>>,
    /// How long an endpoint that is back, or new among others, gets less than its share. `0` for not at all.
    /// Default: 10s.
    pub(in crate::catalog) slow_start: Option<At<Period>>,
}

/// What is tried again. A connection that was refused is always tried at the next endpoint; once something was sent,
/// only lists, reads, pings and tools marked `idempotent` are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::catalog) struct RawRetry {
    /// How often one call is tried again, at most. `0` for never. Default: 3.
    pub(in crate::catalog) max: Option<At<u16>>,
    /// Percentage of the calls that retries may add once something was sent. Default: 20.
    #[schemars(range(max = 100))]
    pub(in crate::catalog) budget: Option<At<u16>>,
    /// The pause before the first retry; doubled each time, with jitter. Default: 100ms.
    pub(in crate::catalog) pause: Option<At<Period>>,
}

/// Deadlines of a tool's calls, instead of the server's.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::catalog) struct RawToolTimeouts {
    /// Until the head of the answer.
    pub(in crate::catalog) response: Option<At<Period>>,
    /// Between two pieces of an answer.
    pub(in crate::catalog) idle: Option<At<Period>>,
    /// For a whole call.
    pub(in crate::catalog) total: Option<At<Period>>,
}
