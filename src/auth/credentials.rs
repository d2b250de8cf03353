//! Where a request carries its credential.
//! Not here: whether it is good (`api_key`, `jwt`).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header};

use super::AuthError;

/// The header of the Open MCP Gateway's contract.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// A token longer than this is refused unread (RFC 8725 section 3 asks for bounds; ours is 8 KiB).
const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;
/// Where others take a credential from the query. Addresses are logged and passed on, so a credential in one has been
/// given away already (2025-11-25/basic/authorization, "Access Token Usage"; RFC 9700 section 4.3.2).
const IN_QUERY: [&str; 4] = ["access_token", "api_key", "apikey", "api-key"];

/// A credential as it came.
pub(super) enum Credential<'h> {
    /// `Authorization: Bearer …`.
    Bearer(&'h str),
    /// `X-API-Key: …`.
    ApiKey(&'h str),
}

/// The credential in a request's headers: the first kind that is present, and no other.
pub(super) fn find(headers: &HeaderMap) -> Result<Credential<'_>, AuthError> {
    if headers.contains_key(header::AUTHORIZATION) {
        let value = only(headers, &header::AUTHORIZATION)?;
        let (scheme, token) = value.split_once(' ').ok_or(AuthError::Invalid)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(AuthError::Invalid);
        }
        return Ok(Credential::Bearer(token.trim()));
    }
    if headers.contains_key(&X_API_KEY) {
        return only(headers, &X_API_KEY).map(|key| Credential::ApiKey(key.trim()));
    }
    Err(AuthError::Missing)
}

/// Whether the credential in these headers looks like a signed token, and no key: three parts with dots between.
pub fn shows_token(headers: &HeaderMap) -> bool {
    let Ok(Credential::Bearer(token)) = find(headers) else { return false };
    let parts = token.split('.');
    parts.clone().count() == 3 && parts.clone().all(|part| !part.is_empty())
}

/// Whether the query has what looks like a credential. It is never taken for one.
pub(super) fn is_in_query(query: &str) -> bool {
    query.split('&').any(is_credential)
}

/// The query without what looks like a credential: for an upstream, which has its own from the catalog and must not
/// see a caller's.
pub fn without_credentials(query: &str) -> Cow<'_, str> {
    if !is_in_query(query) {
        return Cow::Borrowed(query);
    }
    Cow::Owned(query.split('&').filter(|pair| !is_credential(pair)).collect::<Vec<_>>().join("&"))
}

fn is_credential(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    IN_QUERY.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The one value of a header: two are a bad credential, since readers differ in which they take.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, AuthError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().and_then(|value| value.to_str().ok()).ok_or(AuthError::Invalid)?;
    let fits = values.next().is_none() && value.len() <= CREDENTIAL_BYTES_MAX;
    fits.then_some(value).ok_or(AuthError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_goes_on_without_credentials() {
        for (query, want) in [
            ("", ""),
            ("a=1&b=api_key", "a=1&b=api_key"),
            ("api_key=x", ""),
            ("a=1&Access_Token=x&b=%20&apikey", "a=1&b=%20"),
        ] {
            assert_eq!(without_credentials(query), want, "{query}");
        }
    }
}
