//! Whether a request says in one way only where its body ends.
//! Not here: how long a body may be and how it is read (`body`).
//!
//! Pingora decides how a body is framed before we see it, and forwards some heads that others read differently: equal
//! lengths said twice or in a list, codings other than `chunked` (RFC 9112 sections 6.1 and 6.3 let a server refuse
//! both). What two programs could read in two ways is no request.

use http::{HeaderMap, header};

use super::rejection::Rejection;

/// Refuses a head with more than one length, a length that is no plain number, or a coding other than `chunked`.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Rejection> {
    let is_number = |value: &[u8]| !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let is_chunked = |value: &[u8]| value.eq_ignore_ascii_case(b"chunked");
    let plain = once(headers, &header::CONTENT_LENGTH, is_number)
        && once(headers, &header::TRANSFER_ENCODING, is_chunked);
    if plain { Ok(()) } else { Err(Rejection::BodyBroken) }
}

/// Whether a header is absent, or stands once with a value that is `good`.
fn once(headers: &HeaderMap, name: &header::HeaderName, good: impl Fn(&[u8]) -> bool) -> bool {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(value), None) => good(value.as_bytes().trim_ascii()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_one(lines: &[(&'static str, &'static str)], want: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, header::HeaderValue::from_static(value));
        }
        assert_eq!(check(&headers).is_ok(), want, "{lines:?}");
    }

    #[test]
    fn one_framing_is_enough() {
        let (cl, te) = ("content-length", "transfer-encoding");
        check_one(&[], true);
        check_one(&[(cl, "0012")], true);
        check_one(&[(te, "Chunked")], true);
        for lines in [
            &[(cl, "12"), (cl, "12")][..],
            &[(cl, "12, 12")],
            &[(cl, "+12")],
            &[(cl, "")],
            &[(te, "gzip, chunked")],
            &[(te, "chunked,")],
            &[(te, "chunked"), (te, "chunked")],
            &[(te, "identity")],
        ] {
            check_one(lines, false);
        }
    }
}
