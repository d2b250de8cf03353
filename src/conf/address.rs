//! Addresses that the gateway asks in matters of trust, and names of this machine.
//! Not here: asking them (`egress`).

use std::net::IpAddr;

use http::Uri;

/// What is said of an address that is none of these.
pub const SERVER_URL_WANTED: &str =
    "expected an `https` address, or an `http` one on loopback, without user and fragment";

/// Whether a host, without its port, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Whether nobody in between can listen or answer: `https`, or `http` on loopback.
pub fn is_private(url: &Uri) -> bool {
    match (url.scheme_str(), url.host()) {
        (Some("https"), Some(host)) => !host.is_empty(),
        (Some("http"), Some(host)) => is_loopback(host),
        _ => false,
    }
}

/// The address of a server that is asked in such matters, or named to others who do: without user information, which
/// would be a secret in the wrong place, and without a fragment.
pub fn server_url(text: &str) -> Option<Uri> {
    let is_plain = |uri: &Uri| uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    let found = text.parse::<Uri>().ok();
    found.filter(|uri| is_plain(uri) && is_private(uri) && !text.contains('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_loopback() {
        for (url, want) in [
            ("https://login.example.com/jwks", true),
            ("http://127.0.0.1:8080/jwks", true),
            ("http://[::1]/jwks", true),
            ("http://LOCALHOST/jwks", true),
            ("http://login.example.com/jwks", false),
            ("http://169.254.169.254/latest", false),
            ("http://localhost.example.com/", false),
            ("/jwks", false),
        ] {
            assert_eq!(is_private(&url.parse().unwrap()), want, "{url}");
        }
    }
}
