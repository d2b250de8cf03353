//! What a browser is told about pages that may call (Fetch, section 3.2): preflights and the headers of every answer.
//! Not here: which pages may (`names`). Nobody else sees any of these headers, but that answers vary by origin.
//!
//! The origin that is named is one of the listener's own list or a loopback one, never a wildcard; and credentials mode
//! is never allowed, because nothing here is a cookie's.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_http::RequestHeader;

use super::names;
use crate::conf::Listener;
use crate::mcp::MirroredHeaders;
use crate::reply::{Body, Reply};

/// What clients of both eras send, besides what any page may.
const REQUEST_HEADERS: &str = "Authorization, Content-Type, Accept, Mcp-Session-Id, MCP-Protocol-Version, \
     Mcp-Method, Mcp-Name, Last-Event-ID, X-API-Key, X-Request-Id, X-Server-ID";
/// What they read, besides what any page may.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, X-Request-Id, Retry-After, X-RateLimit-Limit, \
     X-RateLimit-Remaining, X-RateLimit-Reset, X-RateLimit-Policy",
);
/// How long a browser may keep a preflight's answer, in seconds: a changed list of origins is in force after that.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// Names of one request's parameters that a preflight allows.
const PARAMS_MAX: usize = 32;

/// The page that a request comes from, if it may call.
pub(super) fn origin(listener: &Listener, request: &RequestHeader) -> Option<HeaderValue> {
    let origin = request.headers.get(header::ORIGIN)?;
    names::check(listener, &request.uri, &request.headers).ok().map(|()| origin.clone())
}

/// The answer to a browser that asks whether a page may send a request. `allow` are the door's methods.
pub(super) fn preflight(request: &RequestHeader, allow: &'static str) -> Option<Reply> {
    let asks = request.method == Method::OPTIONS
        && request.headers.contains_key(header::ORIGIN)
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if !asks {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(allow));
    let allowed = HeaderValue::try_from(request_headers(&request.headers));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        allowed.unwrap_or(HeaderValue::from_static(REQUEST_HEADERS)),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    let varies = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    headers.insert(header::VARY, HeaderValue::from_static(varies));
    Some(Reply { status: StatusCode::NO_CONTENT, headers, body: Body::Whole(bytes::Bytes::new()) })
}

/// The headers that a page may send. Those of parameters have names that the server's tools choose, so they are
/// allowed as they are asked for.
fn request_headers(asked: &HeaderMap) -> String {
    let mut allowed = REQUEST_HEADERS.to_owned();
    let lines = asked.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let names = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    for name in names.filter(|name| name.as_str().starts_with(MirroredHeaders::PARAM_PREFIX)).take(PARAMS_MAX)
    {
        allowed.push_str(", ");
        allowed.push_str(name.as_str());
    }
    allowed
}

/// Lets the page of `origin` read an answer. Caches are told that it depends on the page, even where none asked: they
/// would give the answer to one that may not read it, or that could not read it any more.
pub(super) fn tell(answer: &mut HeaderMap, origin: Option<&HeaderValue>) {
    if let Some(origin) = origin {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    }
    answer.entry(header::VARY).or_insert(HeaderValue::from_static("Origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(asked: Option<&'static str>) -> RequestHeader {
        let mut request = RequestHeader::build("OPTIONS", b"/mcp", None).unwrap();
        request.insert_header(header::ORIGIN, "https://app.example.com").unwrap();
        request.insert_header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST").unwrap();
        if let Some(asked) = asked {
            request.insert_header(header::ACCESS_CONTROL_REQUEST_HEADERS, asked).unwrap();
        }
        request
    }

    #[test]
    fn a_preflight_allows_what_clients_send_and_parameters_as_asked() {
        let reply = preflight(&asking(Some("authorization,mcp-param-region, x-evil")), "POST").unwrap();
        let text = |name: HeaderName| reply.headers[name].to_str().unwrap().to_owned();
        assert_eq!(reply.status, StatusCode::NO_CONTENT);
        assert_eq!(text(header::ACCESS_CONTROL_ALLOW_METHODS), "POST");
        let allowed = text(header::ACCESS_CONTROL_ALLOW_HEADERS);
        assert_eq!(allowed, format!("{REQUEST_HEADERS}, mcp-param-region"));
        assert!(!reply.headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }

    #[test]
    fn only_a_browsers_question_is_a_preflight() {
        assert!(preflight(&asking(None), "POST").is_some());
        for name in [header::ORIGIN, header::ACCESS_CONTROL_REQUEST_METHOD] {
            let mut request = asking(None);
            request.remove_header(&name);
            assert!(preflight(&request, "POST").is_none(), "{name}");
        }
        let mut post = asking(None);
        post.set_method(Method::POST);
        assert!(preflight(&post, "POST").is_none());
    }
}
