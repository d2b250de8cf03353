//! Where an endpoint event leads.
//! Not here: what is sent there (`legacy_sse`).

use ::http::Uri;
use ::http::uri::PathAndQuery;

/// The request target that `place` means at a stream opened at `stream`; `None` if that is another origin, or no place.
///
/// Servers write paths, relative ones, queries alone and whole URLs (RFC 3986 section 5.2).
pub(super) fn resolve(stream: &Uri, place: &str) -> Option<Uri> {
    let place = place.trim();
    let place = place.split('#').next().unwrap_or_default();
    if place.is_empty() || place.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return None;
    }
    if let Some(rest) = place.strip_prefix("//") {
        return same_origin(stream, &format!("{}://{rest}", stream.scheme_str()?));
    }
    let before_path = place.split(['/', '?']).next().unwrap_or_default();
    if before_path.contains(':') {
        return same_origin(stream, place);
    }
    let path = match place.as_bytes() {
        [b'/', ..] => place.to_owned(),
        [b'?', ..] => format!("{}{place}", stream.path()),
        _ => {
            let folder = stream.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{place}")
        }
    };
    target(&path)
}

fn same_origin(stream: &Uri, place: &str) -> Option<Uri> {
    let there: Uri = place.parse().ok()?;
    let port =
        |uri: &Uri| uri.port_u16().or(if uri.scheme_str() == Some("https") { Some(443) } else { Some(80) });
    let has_user = there.authority()?.as_str().contains('@');
    let same = there.scheme() == stream.scheme()
        && there.host()?.eq_ignore_ascii_case(stream.host()?)
        && port(&there) == port(stream)
        && !has_user;
    if same { target(there.path_and_query().map_or("/", PathAndQuery::as_str)) } else { None }
}

/// A path and query without steps up.
fn target(path: &str) -> Option<Uri> {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let path = format!("/{}", segments.join("/"));
    let whole = query.map_or(path.clone(), |query| format!("{path}?{query}"));
    whole.parse::<PathAndQuery>().ok().map(Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(place: &str, want: Option<&str>) {
        let stream: Uri = "http://h.example:8080/base/sse?x=1".parse().unwrap();
        assert_eq!(resolve(&stream, place).map(|uri| uri.to_string()).as_deref(), want, "{place}");
    }

    #[test]
    fn every_way_of_writing_it_leads_to_the_same_origin() {
        check("/message?sessionId=1", Some("/message?sessionId=1"));
        check("message?sessionId=1", Some("/base/message?sessionId=1"));
        check("./message", Some("/base/message"));
        check("../message", Some("/message"));
        check("?sessionId=1", Some("/base/sse?sessionId=1"));
        check("/a?url=http://x/", Some("/a?url=http://x/"));
        check("http://h.example:8080/message?s=1", Some("/message?s=1"));
        check("http://H.EXAMPLE:8080/message", Some("/message"));
        check("//h.example:8080/m", Some("/m"));
        check("http://h.example:8080/m#part", Some("/m"));
    }

    #[test]
    fn another_origin_is_refused() {
        for place in [
            "http://evil.example/message",
            "http://h.example/message",
            "https://h.example:8080/message",
            "http://h.example:8081/message",
            "http://me@h.example:8080/message",
            "http://h.example:8080@evil.example/message",
            "//evil.example/message",
            "/\\evil.example/message",
            "ftp://h.example:8080/message",
            "file:///etc/passwd",
            "javascript:1",
            "",
            "   ",
            "/a b",
        ] {
            check(place, None);
        }
    }
}
