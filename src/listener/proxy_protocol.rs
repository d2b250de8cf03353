//! The PROXY protocol, versions 1 and 2: who is behind a proxy that forwards whole connections.
//! Not here: who may speak it (`accept`), and `X-Forwarded-For` (`proxy/client`).
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::io;
use std::net::SocketAddr;

use ppp::{HeaderResult, v1, v2};

use super::transport::Wire;

/// Addresses and extensions of version 2 that are skipped: more than any proxy writes.
const HEADER_BYTES_MAX: usize = 4096;
/// A line of version 1 (section 2.1), with its end.
const LINE_BYTES_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Whom a header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// A client.
    Client(SocketAddr),
    /// Nobody: the proxy speaks for itself, to see whether we are there.
    Nobody,
}

/// Reads the header that a connection begins with, and nothing behind it.
pub(super) async fn read(wire: &mut Wire) -> io::Result<Named> {
    if !wire.look_ahead(HEADER_BYTES_MAX, is_whole).await? {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (named, bytes) = parse(wire.ahead()).ok_or(io::ErrorKind::InvalidData)?;
    wire.skip(bytes);
    Ok(named)
}

/// Whether these bytes hold a whole header, or show that there is none.
fn is_whole(bytes: &[u8]) -> bool {
    if let Some(rest) = bytes.strip_prefix(SIGNATURE) {
        return match rest {
            [_, _, high, low, rest @ ..] => rest.len() >= usize::from(u16::from_be_bytes([*high, *low])),
            _ => false,
        };
    }
    if bytes.starts_with(LINE_START) {
        return bytes.len() >= LINE_BYTES_MAX || bytes.windows(2).any(|two| two == b"\r\n");
    }
    !SIGNATURE.starts_with(bytes) && !LINE_START.starts_with(bytes)
}

fn parse(bytes: &[u8]) -> Option<(Named, usize)> {
    match HeaderResult::parse(bytes) {
        HeaderResult::V1(header) => {
            let header = header.ok()?;
            let named = match header.addresses {
                v1::Addresses::Unknown => Named::Nobody,
                v1::Addresses::Tcp4(ip) => {
                    Named::Client(SocketAddr::new(ip.source_address.into(), ip.source_port))
                }
                v1::Addresses::Tcp6(ip) => {
                    Named::Client(SocketAddr::new(ip.source_address.into(), ip.source_port))
                }
            };
            Some((named, header.header.len()))
        }
        HeaderResult::V2(header) => {
            let header = header.ok()?;
            let named = match (header.command, header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => {
                    Named::Client(SocketAddr::new(ip.source_address.into(), ip.source_port))
                }
                (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => {
                    Named::Client(SocketAddr::new(ip.source_address.into(), ip.source_port))
                }
                (v2::Command::Local, _) | (_, v2::Addresses::Unspecified) => Named::Nobody,
                // A socket of the proxy's own machine is no client's address.
                (_, v2::Addresses::Unix(_)) => return None,
            };
            Some((named, header.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &[u8], want: Option<Named>) {
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let found = is_whole(&bytes).then(|| parse(&bytes)).flatten();
        assert_eq!(found, want.map(|named| (named, header.len())), "{}", header.escape_ascii());
        // No part of a header is one, and none of them is taken for something else.
        for end in 0..header.len() {
            if want.is_some() {
                assert!(!is_whole(&header[..end]), "{end} bytes of {}", header.escape_ascii());
            }
        }
    }

    fn second(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0x20 | command, family]);
        bytes.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn both_versions_name_a_client() {
        let client = |text: &str| Some(Named::Client(text.parse().unwrap()));
        check(b"PROXY TCP4 192.0.2.7 127.0.0.1 5678 443\r\n", client("192.0.2.7:5678"));
        check(b"PROXY TCP6 2001:db8::7 ::1 5678 443\r\n", client("[2001:db8::7]:5678"));
        check(b"PROXY UNKNOWN\r\n", Some(Named::Nobody));
        let four = [192, 0, 2, 7, 127, 0, 0, 1, 0x16, 0x2e, 1, 0xbb];
        check(&second(1, 0x11, &four), client("192.0.2.7:5678"));
        let with_extension = [four.as_slice(), &[4, 0, 1, 9]].concat();
        check(&second(1, 0x11, &with_extension), client("192.0.2.7:5678"));
        check(&second(0, 0x11, &four), Some(Named::Nobody));
        check(&second(0, 0, &[]), Some(Named::Nobody));
    }

    #[test]
    fn anything_else_is_no_header() {
        check(b"", None);
        check(b"PROXY TCP4 192.0.2.7 127.0.0.1 5678\r\n", None);
        check(b"PROXY TCP4 nobody 127.0.0.1 5678 443\r\n", None);
        check(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(), None);
        check(&second(1, 0x11, &[1, 2, 3]), None);
        check(&second(1, 0x31, &[0; 216]), None);
        check(&second(7, 0x11, &[0; 12]), None);
    }
}
