//! How a refusal looks when nobody is authenticated.
//! Not here: whether a credential is good (`auth`); the challenge that goes with it (`oauth`).

use http::StatusCode;

use super::Row;
use crate::auth::AuthError;
use crate::mcp::Code;
use crate::telemetry::Outcome;

/// Why nobody is authenticated.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Unauthenticated {
    pub(in crate::proxy) error: AuthError,
    /// Whether what came looks like a token, and no key.
    pub(in crate::proxy) token: bool,
}

impl Unauthenticated {
    /// Contract 001 has 403 for a wrong key. It knows no tokens; RFC 6750 section 3.1 has 401 for those.
    pub(super) fn as_the_contract_says(self, row: &mut Row) {
        if !self.token && matches!(self.error, AuthError::Invalid | AuthError::Expired) {
            row.status = StatusCode::FORBIDDEN;
        }
    }

    pub(super) fn row(self) -> Row {
        row(self.error)
    }
}

fn row(error: AuthError) -> Row {
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
