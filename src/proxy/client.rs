//! Who the client is behind the proxies that the listener trusts, and what of that an upstream is told.
//! Not here: the PROXY protocol (`listener`), who calls (`auth`).
//!
//! Only `X-Forwarded-For` is read, and only if a trusted proxy is at the other end: every proxy appends the address
//! that it saw itself, so from the right on, the first address that is not a trusted proxy's is the client's. What
//! stands further left is the client's own word.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;
use pingora_http::RequestHeader;

use super::rejection::{EdgeFault, Rejection};
use crate::listener::Connection;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Proxies in a row that are followed, from the nearest on; the client of a longer chain is the last of them.
const HOPS_MAX: usize = 32;

/// The client's address.
pub(super) fn address(connection: &Connection, headers: &HeaderMap) -> IpAddr {
    behind(connection.peer.ip(), &connection.listener.trusted_proxies, headers)
}

fn behind(peer: IpAddr, trusted: &[IpNet], headers: &HeaderMap) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let mut last = peer;
    if !is_trusted(peer) {
        return last;
    }
    // Whatever a client sends stands first: what its proxies appended is at the end, in lines of their own or not.
    let lines = headers.get_all(&FORWARDED_FOR).iter().rev();
    let named = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for name in named.take(HOPS_MAX) {
        // Beyond what is no address nothing can be believed.
        let Some(address) = std::str::from_utf8(name).ok().and_then(parse) else { break };
        last = address;
        if !is_trusted(address) {
            break;
        }
    }
    last
}

/// An address as proxies write it: alone, with a port, or in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let alone = bare.parse().ok();
    let address: IpAddr =
        alone.or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))?;
    Some(address.to_canonical())
}

/// Refuses a client behind a trusted proxy that may not connect by itself. Others were judged as they connected.
pub(super) fn check(connection: &Connection, address: IpAddr) -> Result<(), Rejection> {
    let Some(networks) = &connection.listener.networks else { return Ok(()) };
    if networks.iter().any(|network| network.contains(&address)) {
        Ok(())
    } else {
        Err(Rejection::Edge(EdgeFault::Network))
    }
}

/// What a client may claim to be: names and addresses that services behind proxies believe.
const IDENTITIES: [&str; 22] = [
    "authorization",
    "cf-connecting-ip",
    "client-ip",
    "cookie",
    "fastly-client-ip",
    "forwarded",
    "proxy",
    "proxy-authorization",
    "remote-addr",
    "remote-user",
    "true-client-ip",
    "x-api-key",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-gw-user",
    "x-original-forwarded-for",
    "x-original-url",
    "x-real-ip",
    "x-remote-user",
    "x-rewrite-url",
    "x-user",
    "x-webauth-user",
];
const IDENTITY_FAMILIES: [&str; 4] =
    ["x-forwarded-", "x-auth-request-", "x-authenticated-", "x-goog-authenticated-"];

/// Whether a header claims an identity: under its own name, or under one that a server may take for it, since some
/// write `-`, `_` and `.` alike.
fn claims_identity(name: &str, own: &HeaderMap) -> bool {
    let listed = |name: &str| {
        IDENTITIES.contains(&name)
            || name == "x-forwarded"
            || IDENTITY_FAMILIES.iter().any(|family| name.starts_with(family))
    };
    if !name.contains(['_', '.']) {
        return listed(name);
    }
    let plain = name.replace(['_', '.'], "-");
    listed(&plain) || own.contains_key(&plain)
}

/// Makes a request that goes to an upstream tell the truth about its client: claims are taken out, `own` headers of
/// the upstream's configuration cannot be doubled, and the `X-Forwarded-*` of this gateway are put in.
/// With `keep_credentials` the caller's credential stays, for those who check it themselves.
pub(super) fn rewrite(
    request: &mut RequestHeader,
    connection: &Connection,
    address: IpAddr,
    own: &HeaderMap,
    keep_credentials: bool,
) -> pingora_core::Result<()> {
    let credential = |name: &HeaderName| {
        keep_credentials && (*name == header::AUTHORIZATION || name.as_str() == "x-api-key")
    };
    let claims = |name: &&HeaderName| claims_identity(name.as_str(), own) && !credential(name);
    let claims: Vec<HeaderName> = request.headers.keys().filter(claims).cloned().collect();
    for name in &claims {
        request.remove_header(name);
    }
    let host = match request.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers.get(header::HOST).cloned(),
    };
    request.insert_header(FORWARDED_FOR, address.to_string())?;
    request.insert_header(FORWARDED_PROTO, if connection.secure { "https" } else { "http" })?;
    if let Some(host) = host {
        request.insert_header(FORWARDED_HOST, host)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conf::Listener;

    #[track_caller]
    fn check_one(peer: &str, lines: &[&str], want: &str) {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let found = behind(peer.parse().unwrap(), &trusted, &headers);
        assert_eq!(found.to_string(), want, "{peer} {lines:?}");
    }

    #[test]
    fn the_right_most_address_that_is_no_trusted_proxy_counts() {
        check_one("192.0.2.1", &["203.0.113.9"], "192.0.2.1");
        check_one("10.0.0.1", &[], "10.0.0.1");
        check_one("10.0.0.1", &["203.0.113.9"], "203.0.113.9");
        check_one("10.0.0.1", &["127.0.0.1, 203.0.113.9"], "203.0.113.9");
        check_one("10.0.0.1", &["203.0.113.9, 10.0.0.2"], "203.0.113.9");
        check_one("10.0.0.1", &["1.1.1.1", "203.0.113.9,10.0.0.2"], "203.0.113.9");
        check_one("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        check_one("10.0.0.1", &["203.0.113.9:1234"], "203.0.113.9");
        check_one("fd00::1", &["[2001:db8::1]:1234"], "2001:db8::1");
        check_one("fd00::1", &["2001:db8::1"], "2001:db8::1");
        check_one("10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9");
        check_one("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1");
        check_one("10.0.0.1", &["203.0.113.9, "], "10.0.0.1");
        check_one("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2");
    }

    #[test]
    fn the_end_of_a_long_chain_counts() {
        for claims in [31, 32, 33, 60, 200] {
            let mut lines = vec!["6.6.6.6"; claims];
            lines.push("203.0.113.9");
            check_one("10.0.0.1", &lines, "203.0.113.9");
            check_one("10.0.0.1", &[&lines.join(", ")], "203.0.113.9");
            check_one("10.0.0.1", &[&lines.join(","), "10.0.0.2"], "203.0.113.9");
        }
        // Of proxies alone, no more are followed than can stand in a row.
        let chain = ["203.0.113.9"].into_iter().chain(["10.0.0.2"; HOPS_MAX]).collect::<Vec<_>>();
        check_one("10.0.0.1", &chain, "10.0.0.2");
        check_one("10.0.0.1", &chain[..HOPS_MAX], "203.0.113.9");
    }

    #[test]
    fn a_client_behind_a_proxy_is_judged_by_its_own_address() {
        let listener = Listener {
            networks: Some(vec!["203.0.113.0/24".parse().unwrap()]),
            ..Listener::plain("main", ([127, 0, 0, 1], 0).into())
        };
        let connection = Connection::new(Arc::new(listener), ([10, 0, 0, 1], 1).into());
        assert!(check(&connection, IpAddr::from([203, 0, 113, 9])).is_ok());
        assert!(check(&connection, IpAddr::from([198, 51, 100, 9])).is_err());
    }

    #[test]
    fn claims_are_taken_out_whatever_way_they_are_spelt() {
        let listener = Arc::new(Listener::plain("main", ([127, 0, 0, 1], 0).into()));
        let connection = Connection::new(listener, ([192, 0, 2, 1], 1).into());
        let mut own = HeaderMap::new();
        own.insert("x-tenant", HeaderValue::from_static("a"));
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in [
            "host",
            "accept",
            "authorization",
            "x-forwarded-for",
            "x_forwarded_for",
            "x.forwarded.user",
            "x-forwarded-email",
            "forwarded",
            "x-real-ip",
            "proxy",
            "x-gw-user",
            "x_gw.user",
            "x_tenant",
            "x_colour",
        ] {
            request.insert_header(name, "client").unwrap();
        }
        rewrite(&mut request, &connection, connection.peer.ip(), &own, false).unwrap();
        let mut left: Vec<String> = request
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        left.sort();
        let expected = [
            "accept: client",
            "host: client",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: client",
            "x-forwarded-proto: http",
            "x_colour: client",
        ];
        assert_eq!(left, expected);
    }
}
