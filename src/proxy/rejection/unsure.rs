//! Errors after which nobody knows whether a call ran: programs find them by `data.outcome`.
//! Not here: what else an error says (`rejection`), in a stream that has begun (`write`).

use super::Rejection;
use crate::hub::HubError;
use crate::upstream::UpstreamError;

/// The member of an error's `data` that says what became of the call.
pub(in crate::proxy) const OUTCOME: &str = "outcome";
/// It may have run: repeating it is the caller's own risk, and the gateway does not.
pub(in crate::proxy) const UNKNOWN: &str = "unknown";

/// Whether the server may have done what was asked, though it did not say so.
pub(super) fn may_have_run(rejection: &Rejection) -> bool {
    let Rejection::Hub { error, .. } = rejection else { return false };
    matches!(error, HubError::Lie(_) | HubError::Upstream(UpstreamError::Broken | UpstreamError::Late(..)))
}
