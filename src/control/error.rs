//! Refusals of the control plane, in the Open MCP Gateway's form: `{"error", "message"}`.
//! Not here: refusals at MCP doors (`proxy/rejection`).

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::auth::AuthError;
use crate::limit::Decision;

/// Why a request of the control plane is refused.
#[derive(Debug)]
pub(super) enum ControlError {
    /// Nobody is authenticated: 401 without a key and 403 for a wrong one, by contract 001, and 401 for a bad token.
    Unauthenticated {
        /// Why.
        error: AuthError,
        /// Whether what came looks like a token, and no key.
        token: bool,
        /// What tells the client where to get a credential that helps.
        challenge: Option<HeaderValue>,
    },
    /// The request itself is wrong.
    BadRequest(&'static str),
    /// The key is good, but not for this.
    Forbidden(&'static str),
    /// No such server or path.
    NotFound(String),
    /// The path takes other methods.
    WrongMethod,
    /// The caller's bucket is empty.
    RateLimited(Decision),
    /// A server could not be started or stopped.
    BadGateway(String),
    /// The catalog is wrong.
    Internal(String),
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        let (status, message) = match self {
            Self::Unauthenticated { error, token, challenge } => {
                headers.extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
                unauthenticated(error, token)
            }
            Self::BadRequest(message) => (StatusCode::BAD_REQUEST, message.into()),
            Self::Forbidden(message) => (StatusCode::FORBIDDEN, message.into()),
            Self::NotFound(message) => (StatusCode::NOT_FOUND, message),
            Self::WrongMethod => {
                (StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method".into())
            }
            Self::RateLimited(decision) => {
                rate_headers(&mut headers, &decision);
                if let Some(seconds) = decision.retry_after_seconds() {
                    headers.insert(header::RETRY_AFTER, seconds.into());
                }
                (StatusCode::TOO_MANY_REQUESTS, "too many requests: wait and try again".into())
            }
            Self::BadGateway(message) => (StatusCode::BAD_GATEWAY, message),
            Self::Internal(message) => (StatusCode::INTERNAL_SERVER_ERROR, message),
        };
        let name = status.canonical_reason().unwrap_or("Error");
        (status, headers, Json(json!({"error": name, "message": message}))).into_response()
    }
}

fn unauthenticated(error: AuthError, token: bool) -> (StatusCode, String) {
    // The contract knows no tokens; RFC 6750 section 3.1 has 401 for bad ones.
    let bad = if token { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
    let (status, words) = match error {
        AuthError::Missing => (StatusCode::UNAUTHORIZED, "API key required"),
        AuthError::Invalid => (bad, "Invalid API key"),
        AuthError::Expired => (bad, "the credential has expired"),
        AuthError::Kind => (StatusCode::FORBIDDEN, "credentials of this kind are not taken here"),
        AuthError::Unavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, "the keys of the token's issuer cannot be read: try again")
        }
    };
    (status, words.into())
}

/// What a caller's bucket said, as headers.
pub(super) fn rate_headers(headers: &mut HeaderMap, decision: &Decision) {
    headers.extend(decision.headers());
}
