//! What OAuth clients are told at the edge: the metadata of every door, and the challenge beside a refusal.
//! Not here: the words themselves (`auth`); the control plane's own challenge (`control`).
//!
//! A door's metadata is the same whether there is a server behind the door or not, and needs no credential: it is how
//! clients learn where to get one.

use std::borrow::Cow;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use pingora_http::RequestHeader;

use super::door::Door;
use super::rejection::Rejection;
use crate::auth::{Resource, ResourceServer, WELL_KNOWN};
use crate::catalog::ServerId;
use crate::conf::Doors;
use crate::listener::Connection;
use crate::reply::{Body, Reply};

/// The door of a request for metadata, if it is one: at the root for the gateway as a whole, and below it for each door
/// by its path (RFC 9728 section 3.1).
pub(super) fn find(request: &RequestHeader) -> Option<Door> {
    let of = request.uri.path().strip_prefix(WELL_KNOWN)?;
    if !(of.is_empty() || of.starts_with('/')) {
        return None;
    }
    let known = match of {
        "" | "/" | "/mcp" | "/rpc" => true,
        _ => server_of(of).is_some_and(|(id, _)| ServerId::new(id).is_some()),
    };
    Some(match request.method {
        Method::GET if known => Door::Metadata,
        _ if known => Door::Wrong { allow: "GET" },
        _ => Door::None,
    })
}

/// Whether the listener has the door that the metadata at `path` is about.
pub(super) fn is_open(path: &str, doors: &Doors) -> bool {
    match path.strip_prefix(WELL_KNOWN).unwrap_or_default() {
        "" | "/" => doors.mcp || doors.open_mcp || doors.raw || doors.admin,
        "/mcp" | "/rpc" => doors.open_mcp,
        of => match server_of(of) {
            Some((_, "mcp" | "sse")) => doors.mcp,
            Some((_, "raw")) => doors.raw,
            _ => false,
        },
    }
}

/// The server and the kind of door in the path of a door with a server.
fn server_of(path: &str) -> Option<(&str, &str)> {
    let (id, kind) = path.strip_prefix("/servers/")?.split_once('/')?;
    matches!(kind, "mcp" | "sse" | "raw").then_some((id, kind))
}

/// The path that names a door to OAuth: messages for a stream go by the name of the stream's door, which is the one
/// that clients know.
pub(super) fn resource_path(path: &str) -> Cow<'_, str> {
    let of = path.strip_prefix("/servers/").and_then(|rest| rest.strip_suffix("/message"));
    match of.filter(|id| !id.contains('/')) {
        Some(id) => Cow::Owned(format!("/servers/{id}/sse")),
        None => Cow::Borrowed(path),
    }
}

/// The path of the door that a request's path leads through: what follows at a raw upstream is the upstream's.
fn door_path(path: &str) -> &str {
    let rest = path.strip_prefix("/servers/").and_then(|path| path.split_once("/raw")).map(|(_, rest)| rest);
    match rest {
        Some(rest) => path.strip_suffix(rest).unwrap_or(path),
        None => path,
    }
}

/// The metadata that a request asks for.
pub(super) fn metadata(
    server: &ResourceServer,
    connection: &Connection,
    request: &RequestHeader,
) -> Result<Reply, Rejection> {
    let path = request.uri.path().strip_prefix(WELL_KNOWN).unwrap_or_default();
    let public_url = public_url(connection, request).ok_or(Rejection::NoDoor)?;
    let resource = Resource { public_url: &public_url, path: path.trim_end_matches('/') };
    let document = server.document(resource).ok_or(Rejection::NoDoor)?;
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // A changed configuration is in force at once; clients that ask again an hour later see it in time.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    Ok(Reply { status: StatusCode::OK, headers, body: Body::Whole(document.to_string().into()) })
}

/// The value of `WWW-Authenticate` beside a refusal that another credential would help against.
pub(super) fn challenge(
    server: &ResourceServer,
    connection: &Connection,
    request: &RequestHeader,
    rejection: &Rejection,
) -> Option<HeaderValue> {
    let why = rejection.challenge()?;
    let public_url = public_url(connection, request);
    let path = resource_path(door_path(request.uri.path()));
    let resource = public_url.as_ref().map(|public_url| Resource { public_url, path: &path });
    Some(server.challenge(resource, why))
}

/// The address under which clients reach the listener: what is configured, else what this client has used, which is a
/// name that the listener accepts. Audiences are never compared with the latter.
fn public_url(connection: &Connection, request: &RequestHeader) -> Option<Uri> {
    if let Some(configured) = &connection.listener.public_url {
        return Some(configured.clone());
    }
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority: Authority = match (request.uri.authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, host) => host?.parse().ok()?,
    };
    let scheme = if connection.secure { Scheme::HTTPS } else { Scheme::HTTP };
    let parts = Uri::builder().scheme(scheme).authority(authority);
    parts.path_and_query(PathAndQuery::from_static("/")).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_below_one_path() {
        let server = Door::Metadata;
        for (method, path, want) in [
            ("GET", "", Some(server.clone())),
            ("GET", "/", Some(server.clone())),
            ("GET", "/mcp", Some(server.clone())),
            ("GET", "/servers/docs/mcp", Some(server.clone())),
            ("GET", "/servers/nobody-has-this/raw?x", Some(server)),
            ("POST", "/servers/docs/mcp", Some(Door::Wrong { allow: "GET" })),
            ("GET", "/servers/docs", Some(Door::None)),
            ("GET", "/servers/a%2Fb/mcp", Some(Door::None)),
            ("GET", "/servers//mcp", Some(Door::None)),
            ("GET", "/admin/reload", Some(Door::None)),
            ("GET", "x", None),
        ] {
            let path = format!("{WELL_KNOWN}{path}");
            let request = RequestHeader::build(method, path.as_bytes(), None).unwrap();
            assert_eq!(find(&request), want, "{method} {path}");
        }
    }

    #[test]
    fn a_raw_door_ends_where_the_upstream_begins() {
        for (path, want) in [
            ("/servers/a/raw/x/raw", "/servers/a/raw"),
            ("/servers/a/raw", "/servers/a/raw"),
            ("/servers/a/mcp", "/servers/a/mcp"),
            ("/mcp", "/mcp"),
        ] {
            assert_eq!(door_path(path), want);
        }
    }
}
