//! How a refusal looks when nobody is authenticated.
//! Not here: whether a credential is good (`auth`); the challenge that goes with it (`oauth`).

use http::StatusCode;

use super::Row;
use crate::auth::AuthError;
use crate::mcp::Code;
use crate::telemetry::Outcome;

/// The row of a credential that is none.
pub(super) fn row(error: AuthError) -> Row {
    let row = |status, code, reason, words: &str| Row {
        status,
        code,
        reason,
        words: words.into(),
        outcome: Outcome::Denied,
    };
    let unauthenticated = |reason, words| row(StatusCode::UNAUTHORIZED, Code::UNAUTHENTICATED, reason, words);
    match error {
        AuthError::Missing => unauthenticated("no_credential", "API key required"),
        AuthError::Invalid => unauthenticated("bad_credential", "Invalid API key"),
        AuthError::Expired => unauthenticated("expired_credential", "the credential has expired"),
        AuthError::Kind => row(
            StatusCode::FORBIDDEN,
            Code::FORBIDDEN,
            "credential_kind",
            "credentials of this kind are not taken here",
        ),
        AuthError::Unavailable => row(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::UNAVAILABLE,
            "issuer_unavailable",
            "the keys of the token's issuer cannot be read: try again",
        ),
    }
}
