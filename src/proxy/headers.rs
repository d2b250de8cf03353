//! Which request headers travel on to an upstream.
//! Not here: which of an answer's headers travel back (`hub/answer`); mirrored headers' meaning (`mcp`).
//!
//! The list says what passes; everything else stays here. So no credential of the client, whatever header it is in,
//! reaches an upstream, and no header of ours can be forged.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::mcp::{Era, MirroredHeaders};

/// Names a request in logs and answers.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The legacy era's session.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// Open MCP Gateway: the server that `POST /rpc` is for.
pub(super) const SERVER_ID: HeaderName = HeaderName::from_static("x-server-id");

const PASSED: [HeaderName; 5] = [
    MirroredHeaders::VERSION,
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What a POST accepts: every client of Streamable HTTP takes both (2025-03-26/basic/transports).
const JSON_OR_EVENTS: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// The headers of an upstream request for a client's request `from`.
///
/// In the legacy era nothing holds a mirrored header to the body, so none travels: an upstream could believe it.
pub(super) fn forwarded(
    from: &HeaderMap,
    verb: &http::Method,
    era: Era,
    request_id: &HeaderValue,
) -> HeaderMap {
    let mut to = HeaderMap::with_capacity(12);
    if *verb == http::Method::POST {
        to.insert(header::CONTENT_TYPE, JSON);
        to.insert(header::ACCEPT, JSON_OR_EVENTS);
    } else if *verb == http::Method::GET {
        to.insert(header::ACCEPT, EVENTS);
    }
    for (name, value) in from {
        // Their first letters keep most of a request's headers from being compared at all.
        let may_pass = matches!(name.as_str().as_bytes(), [b'b' | b'l' | b'm' | b't', ..]);
        let passes = if MirroredHeaders::mirror(name) { era == Era::Modern } else { PASSED.contains(name) };
        if may_pass && passes {
            to.append(name.clone(), value.clone());
        }
    }
    to.insert(REQUEST_ID, request_id.clone());
    to
}

/// Whether `Accept` has room for all of `types`; an absent header accepts everything (RFC 9110 section 12.5.1).
pub(super) fn accepts(headers: &HeaderMap, types: &[&str]) -> bool {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    // What nearly every client says.
    if values.peek().is_some_and(|value| *value == JSON_OR_EVENTS) {
        return true;
    }
    if values.peek().is_none() {
        return true;
    }
    let ranges: Vec<&str> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .collect();
    types.iter().all(|wanted| {
        let group = wanted.split('/').next().unwrap_or_default();
        ranges.iter().any(|range| {
            range.eq_ignore_ascii_case(wanted)
                || *range == "*/*"
                || range.strip_suffix("/*").is_some_and(|r| r.eq_ignore_ascii_case(group))
        })
    })
}

/// Whether the body says it is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let value = values.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = if value == JSON { value } else { value.split(';').next().unwrap_or_default().trim() };
    values.next().is_none() && essence.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn credentials_stay_and_what_the_protocol_needs_goes() {
        let from = map(&[
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("x-api-key", "k"),
            ("proxy-authorization", "p"),
            ("mcp-session-id", "sealed"),
            ("x-forwarded-for", "1.2.3.4"),
            ("mcp-param-region", "eu"),
            ("last-event-id", "7"),
            ("traceparent", "00-1-2-01"),
        ]);
        let id = HeaderValue::from_static("req-1");
        let old = forwarded(&from, &http::Method::POST, Era::Legacy, &id);
        assert!(!old.contains_key("mcp-param-region"), "{old:?}");
        let to = forwarded(&from, &http::Method::POST, Era::Modern, &id);
        let mut names: Vec<&str> = to.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "content-type", "last-event-id", "mcp-param-region", "traceparent", "x-request-id"]
        );
    }

    #[test]
    fn accept_is_read_with_its_wildcards() {
        let both = ["application/json", "text/event-stream"];
        assert!(accepts(&map(&[]), &both));
        assert!(accepts(&map(&[("accept", "*/*")]), &both));
        assert!(accepts(&map(&[("accept", "text/*;q=0.5, Application/JSON")]), &both));
        assert!(!accepts(&map(&[("accept", "application/json")]), &both));
        assert!(!accepts(&map(&[("accept", "")]), &both));
    }
}
