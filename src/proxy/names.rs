//! Names under which a listener may be spoken to, and pages that may speak to it.
//! Not here: what such a page's browser is told (`cors`), and where the names are configured (`conf`).
//!
//! A page of another site can make a browser send requests here under a name that it controls (DNS rebinding), and
//! cannot do so under an IP address, a loopback name or a name that the operator listed.

use http::{HeaderMap, Uri, header};

use super::rejection::{EdgeFault, Rejection};
use crate::conf::{Listener, is_loopback};

/// Refuses a request that names no host or one that is not the listener's, and one of a page that may not call.
pub(super) fn check(listener: &Listener, uri: &Uri, headers: &HeaderMap) -> Result<(), Rejection> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next(), uri.authority()) {
        (Some(host), None, _) => host.to_str().map_err(|_| Rejection::Edge(EdgeFault::Host))?,
        (None, _, Some(authority)) => authority.as_str(),
        _ => return Err(Rejection::Edge(EdgeFault::NoHost)),
    };
    if !host_is_ours(listener, host) {
        return Err(Rejection::Edge(EdgeFault::Host));
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        // Programs that are no browsers send none.
        (None, _) => Ok(()),
        (Some(origin), None) if origin.to_str().is_ok_and(|origin| origin_is_ours(listener, origin)) => {
            Ok(())
        }
        _ => Err(Rejection::Edge(EdgeFault::Origin)),
    }
}

fn host_is_ours(listener: &Listener, host: &str) -> bool {
    let name = without_port(host);
    is_local_or_address(name) || host_is_listed(listener, host) || host_is_listed(listener, name)
}

fn host_is_listed(listener: &Listener, host: &str) -> bool {
    let public = listener.public_url.as_ref().and_then(Uri::authority);
    listener.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
        || public.is_some_and(|public| {
            public.as_str().eq_ignore_ascii_case(host) || public.host().eq_ignore_ascii_case(host)
        })
}

/// An origin counts as a whole: what another port of a host of ours serves, or the same port without TLS, may be
/// somebody else's. Pages of the listener's own machine may call a listener that only this machine reaches.
fn origin_is_ours(listener: &Listener, origin: &str) -> bool {
    let Some((scheme, host)) = parts(origin) else { return false };
    let is = |(known_scheme, known_host): (&str, &str)| {
        known_scheme.eq_ignore_ascii_case(scheme) && known_host.eq_ignore_ascii_case(host)
    };
    let public = listener.public_url.as_ref();
    let public = public.and_then(|url| Some((url.scheme_str()?, url.authority()?.as_str())));
    if public.is_some_and(is) || listener.origins.iter().filter_map(|known| parts(known)).any(is) {
        return true;
    }
    listener.address.ip().to_canonical().is_loopback()
        && ["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme))
        && !host.contains(['/', '?', '#', '@'])
        && is_loopback(without_port(host))
}

/// Scheme and authority of an origin, without the port that goes without saying.
fn parts(origin: &str) -> Option<(&str, &str)> {
    let (scheme, host) = origin.split_once("://")?;
    let port = match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => ":443",
        _ if scheme.eq_ignore_ascii_case("http") => ":80",
        _ => "",
    };
    Some((scheme, host.strip_suffix(port).unwrap_or(host)))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

fn is_local_or_address(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_one(host: &str, origin: Option<&str>, want: bool) {
        check_at([127, 0, 0, 1], host, origin, want);
    }

    #[track_caller]
    fn check_at(address: [u8; 4], host: &str, origin: Option<&str>, want: bool) {
        let listener = Listener {
            hosts: vec!["gw.example.com".into()],
            origins: vec!["https://app.example.com".into()],
            public_url: Some(Uri::from_static("https://mcp.example.com:8443")),
            ..Listener::plain("main", (address, 0).into())
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        assert_eq!(check(&listener, &Uri::from_static("/"), &headers).is_ok(), want, "{host} {origin:?}");
    }

    #[test]
    fn names_that_are_ours() {
        for host in [
            "localhost",
            "LOCALHOST:4444",
            "127.0.0.1:80",
            "[::1]:4444",
            "10.1.2.3",
            "gw.example.com:443",
            "mcp.example.com",
            "mcp.example.com:8443",
        ] {
            check_one(host, None, true);
        }
        for host in
            ["evil.example", "localhost.evil.example", "gw.example.com.evil.example", "xgw.example.com", ""]
        {
            check_one(host, None, false);
        }
        for origin in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "https://app.example.com",
            "HTTPS://APP.example.com:443",
            "https://MCP.example.com:8443",
        ] {
            check_one("localhost", Some(origin), true);
        }
        for origin in [
            "null",
            "http://evil.example",
            "http://localhost.evil.example",
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://mcp.example.com",
            "http://mcp.example.com:8443",
            "https://mcp.example.com:443",
            "https://mcp.example.com:8443/",
            // A name to be called under makes no page of that name ours.
            "https://gw.example.com",
            "http://gw.example.com",
            "http://localhost@evil.example",
            "file://localhost",
            "http://10.1.2.3",
        ] {
            check_one("localhost", Some(origin), false);
        }
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]"] {
            check_at([0, 0, 0, 0], "localhost", Some(origin), false);
            check_at([192, 0, 2, 1], "localhost", Some(origin), false);
        }
        check_at([192, 0, 2, 1], "localhost", Some("https://app.example.com"), true);
    }
}
