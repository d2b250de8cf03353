//! What a caller is told when a server gave no answer, or none that could be handed on.
//! Not here: what was denied (`denied`); the other refusals (`rejection`).

use std::time::Duration;

use http::StatusCode;

use super::{Row, denied};
use crate::hub::{HubError, Lie};
use crate::mcp::{Code, Era};
use crate::telemetry::Outcome;
use crate::upstream::UpstreamError;

/// The row of the table.
pub(super) fn row(error: &HubError, server: &str) -> Row {
    use StatusCode as S;
    let says = |status, code, reason, words, outcome| Row { status, code, reason, words, outcome };
    match error {
        // The exchange makes it a rejection of its own, which knows the era.
        HubError::Denied(denied) => denied::row(denied, server, Era::Legacy, true),
        // 404 is what makes a client open a new session (2025-11-25/basic/transports, "Session Management").
        HubError::Session(_) => says(
            S::NOT_FOUND,
            Code::NOT_FOUND,
            "session_not_found",
            "Session not found".into(),
            Outcome::Denied,
        ),
        HubError::Upstream(UpstreamError::EndpointGone) => says(
            S::NOT_FOUND,
            Code::NOT_FOUND,
            "session_not_found",
            "Session not found".into(),
            Outcome::TransportError,
        ),
        HubError::Upstream(UpstreamError::NoneHealthy | UpstreamError::Unreachable) => says(
            S::SERVICE_UNAVAILABLE,
            Code::UNAVAILABLE,
            "no_healthy_endpoint",
            format!("server '{server}' has no healthy endpoint: try again"),
            Outcome::TransportError,
        ),
        HubError::Upstream(UpstreamError::Credential) => says(
            S::BAD_GATEWAY,
            Code::BAD_UPSTREAM,
            "upstream_credential",
            format!("the gateway has no credential for server '{server}' at the moment: try again"),
            Outcome::TransportError,
        ),
        HubError::Upstream(UpstreamError::Broken) => says(
            S::BAD_GATEWAY,
            Code::BAD_UPSTREAM,
            "connection_broke",
            format!(
                "server '{server}' closed the connection before it answered: whether the call ran is unknown"
            ),
            Outcome::TransportError,
        ),
        HubError::Upstream(UpstreamError::CircuitOpen(left)) => says(
            S::SERVICE_UNAVAILABLE,
            Code::UNAVAILABLE,
            "circuit_open",
            format!("server '{server}' failed too often: try again in {} s", whole_seconds(*left)),
            Outcome::TransportError,
        ),
        HubError::Upstream(UpstreamError::Late(deadline, after)) => says(
            S::GATEWAY_TIMEOUT,
            Code::TIMEOUT,
            "timeout",
            format!(
                "server '{server}' did not answer in time (deadline `{deadline}`, {after:?}): whether the call ran is unknown"
            ),
            Outcome::Timeout,
        ),
        HubError::Lie(lie) => says(
            S::BAD_GATEWAY,
            Code::BAD_UPSTREAM,
            lie_reason(*lie),
            format!("server '{server}' broke the protocol: {lie}"),
            Outcome::TransportError,
        ),
    }
}

fn lie_reason(lie: Lie) -> &'static str {
    match lie {
        Lie::Redirect => "upstream_redirect",
        Lie::Credentials => "upstream_credentials",
        Lie::Type => "upstream_type",
        Lie::Content => "upstream_content",
        Lie::Truncated => "upstream_truncated",
        Lie::TooLong => "upstream_too_long",
        Lie::NoResponse => "upstream_no_response",
        Lie::Status(_) => "upstream_status",
    }
}

/// A time as `Retry-After` says it: whole seconds, at least one.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0 || time.is_zero())
}
