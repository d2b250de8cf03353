//! Refusals by limits and bounds: whose it was, what the client is told, and when it may come back.
//! Not here: the limits themselves (`limit`), what is asked of whom (`toll`).

use http::StatusCode;

use super::Row;
use crate::limit::{Decision, Layer};
use crate::mcp::Code;
use crate::telemetry::Outcome;

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Limited {
    /// A bucket has not enough tokens.
    Tokens(Decision),
    /// All places of a caller, a server or a tool are taken.
    InFlight(Layer),
    /// The address sends more than is worth a look.
    Flood,
    /// All places of the process are taken.
    Busy,
    /// All places for streams are taken, the caller's or the process's.
    Streams(Bound),
    /// Something else of which there is only so much.
    Bound(Bound),
}

/// A bound of the process, or of what one caller or server may have of it. Each is a key of `limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Bound {
    InFlight,
    InFlightPerCaller,
    InFlightPerServer,
    Streams,
    StreamsPerCaller,
    StreamsPerServer,
    Sessions,
    SessionsPerCaller,
    SessionsPerServer,
    RequestBytes,
    RequestBytesPerCaller,
    RequestBytesPerServer,
    Memory,
    Connections,
}

impl Bound {
    /// Its name: the key of `limits` that says how much there is.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::InFlightPerCaller => "in_flight_per_caller",
            Self::InFlightPerServer => "in_flight_per_server",
            Self::Streams => "streams",
            Self::StreamsPerCaller => "streams_per_caller",
            Self::StreamsPerServer => "streams_per_server",
            Self::Sessions => "sessions",
            Self::SessionsPerCaller => "sessions_per_caller",
            Self::SessionsPerServer => "sessions_per_server",
            Self::RequestBytes => "request_bytes",
            Self::RequestBytesPerCaller => "request_bytes_per_caller",
            Self::RequestBytesPerServer => "request_bytes_per_server",
            Self::Memory => "memory",
            Self::Connections => "connections",
        }
    }
}

impl Limited {
    /// Whose limit it is, in metrics.
    pub(in crate::proxy) fn scope(self) -> &'static str {
        match self {
            Self::Tokens(decision) => decision.layer.as_str(),
            Self::InFlight(Layer::Address) => "address_in_flight",
            Self::InFlight(Layer::Caller) => "caller_in_flight",
            Self::InFlight(Layer::Server) => "server_in_flight",
            Self::InFlight(Layer::Tool) => "tool_in_flight",
            Self::Flood => "flood",
            Self::Busy => "all_in_flight",
            Self::Streams(_) => "streams",
            Self::Bound(bound) => bound.as_str(),
        }
    }

    /// The bound that was reached, if it was one.
    pub(super) fn bound(self) -> Option<&'static str> {
        match self {
            Self::Busy => Some(Bound::InFlight.as_str()),
            Self::Streams(bound) | Self::Bound(bound) => Some(bound.as_str()),
            Self::Tokens(_) | Self::InFlight(_) | Self::Flood => None,
        }
    }

    /// Whose limit it is, for clients.
    pub(super) fn layer(self) -> &'static str {
        match self {
            Self::Tokens(Decision { layer, .. }) | Self::InFlight(layer) => layer.as_str(),
            Self::Flood => "flood",
            Self::Busy | Self::Bound(_) => "gateway",
            Self::Streams(_) => "streams",
        }
    }

    /// Whole seconds to wait; `None` if waiting does not help. Nobody knows when a place gets free: soon.
    pub(super) fn retry_after_seconds(self) -> Option<u64> {
        match self {
            Self::Tokens(decision) => decision.retry_after_seconds(),
            Self::InFlight(_) | Self::Flood | Self::Busy | Self::Streams(_) | Self::Bound(_) => Some(1),
        }
    }

    pub(super) fn row(self) -> Row {
        let (status, code) = match self {
            Self::Busy | Self::Streams(_) | Self::Bound(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::UNAVAILABLE)
            }
            _ => (StatusCode::TOO_MANY_REQUESTS, Code::RATE_LIMITED),
        };
        let (reason, words) = match self {
            Self::Tokens(Decision { retry_after: None, .. }) => {
                ("rate_limited", "this costs more than its limit ever allows: waiting does not help")
            }
            Self::Tokens(_) | Self::Flood => ("rate_limited", "too many requests: wait and try again"),
            Self::InFlight(_) => ("too_many_in_flight", "too many calls at once: wait for one to end"),
            Self::Streams(_) => ("too_many_streams", "too many open streams: close one"),
            Self::Busy => ("busy", "the gateway has all the calls it may have in flight"),
            Self::Bound(bound) => {
                let words = format!("the bound `{}` of the gateway is reached: try again", bound.as_str());
                return Row { status, code, reason: "bound_reached", words, outcome: Outcome::RateLimited };
            }
        };
        Row { status, code, reason, words: words.into(), outcome: Outcome::RateLimited }
    }
}
