//! What we do not read: the control plane, and raw upstreams that the catalog names. Pingora proxies it.
//! Not here: MCP exchanges (`exchange`); the control plane's own routes and authentication (`control`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::admit::{Admission, Admitted};
use super::headers::REQUEST_ID;
use super::record::Record;
use super::rejection::{RawFault, Rejection};
use super::standing::Standing;
use super::{Ctx, admit, client};
use crate::auth::{self, Allowed, Demand, Introduction};
use crate::hub::HubError;
use crate::listener::Connection;
use crate::mcp::Era;
use crate::upstream::{Attempt, Fault, Fleet, RawTarget, View};

/// Where opaque forwards go.
pub struct Forwarding {
    control: HttpPeer,
}

/// One opaque forward.
pub(super) struct Forward {
    peer: HttpPeer,
    raw: Option<Raw>,
}

/// What a raw upstream needs besides a peer.
struct Raw {
    target: RawTarget,
    attempt: Attempt,
    path: String,
    standing: Standing,
    _permitted: Allowed<()>,
    _admitted: Admitted,
}

impl Forwarding {
    /// Forwards to the control plane's private socket.
    pub fn new(control_socket: &Path) -> Result<Self> {
        let path = control_socket.to_str().ok_or_else(|| Error::new(ErrorType::SocketError))?;
        let mut control = HttpPeer::new_uds(path, false, String::new())?;
        deadlines(&mut control, Duration::from_secs(2), Duration::from_secs(60));
        Ok(Self { control })
    }

    pub(super) fn to_control(&self) -> Forward {
        Forward { peer: self.control.clone(), raw: None }
    }
}

/// Pingora waits for ever unless told otherwise.
fn deadlines(peer: &mut HttpPeer, connect: Duration, read: Duration) {
    peer.options.connection_timeout = Some(connect);
    peer.options.total_connection_timeout = Some(connect * 2);
    peer.options.read_timeout = Some(read);
    peer.options.write_timeout = Some(Duration::from_secs(30));
    peer.options.idle_timeout = Some(Duration::from_secs(4));
}

/// Lets a caller through to a raw upstream; its credential stays here, the upstream's own goes with it.
pub(super) async fn to_server(
    admission: &Admission,
    session: &Session,
    ctx: &mut Ctx,
    (fleet, view): (&Arc<Fleet>, &View),
    (id, rest): (&str, &str),
) -> std::result::Result<Forward, Rejection> {
    let request = session.req_header();
    let path = request.uri.path();
    let path = path.strip_suffix(rest).unwrap_or(path);
    let mut admitted = admission.admit(session, (path, true), ctx).await?;
    if climbs(rest) {
        return Err(Rejection::Raw(RawFault::Climbs));
    }
    let unknown = || Rejection::UnknownServer { server: id.chars().take(64).collect(), id: None };
    let upstream = view.upstream(id).ok_or_else(unknown)?;
    let permitted = auth::allow(&upstream.policy, &admitted.caller, &Demand::Raw, ()).map_err(|denied| {
        upstream.meters.denied(denied.reason());
        let server = id.to_owned();
        Rejection::Denied { denied, server, era: Era::Legacy, wanted: true, id: None }
    })?;
    ctx.record.upstream = Some(upstream.clone());
    upstream.activity.asked();
    let failed = |error: HubError| Rejection::Hub { error, server: id.to_owned(), id: None };
    admission.pay(&mut admitted, (&upstream.server, None), true, &mut ctx.tally)?;
    let (target, attempt) = upstream
        .raw_target()
        .await
        .map_err(|error| failed(error.into()))?
        .ok_or(Rejection::Raw(RawFault::NotRaw))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the address is resolved, so nothing blocks and nothing can fail"
    )]
    let mut peer = HttpPeer::new(target.address, target.secure, target.host.clone());
    deadlines(&mut peer, upstream.server.timeouts.connect, upstream.server.timeouts.response);
    let query = request.uri.query().map(auth::without_credentials).filter(|query| !query.is_empty());
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("{}{rest}{query}", target.path.trim_end_matches('/'));
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let standing = admission.standing(fleet, &admitted, upstream).of(Some(Demand::Raw), true);
    let raw = Raw { target, attempt, path, standing, _permitted: permitted, _admitted: admitted };
    Ok(Forward { peer, raw: Some(raw) })
}

impl Forward {
    /// Whether the caller may still have what passes: nothing of it reaches one who may not.
    pub(super) fn stands(&mut self) -> bool {
        self.raw.as_mut().is_none_or(|raw| raw.standing.still_holds())
    }

    pub(super) fn peer(&self) -> Box<HttpPeer> {
        Box::new(self.peer.clone())
    }

    /// Makes the answer one of ours: a service's challenge asks for a credential that the caller cannot give, its cookie
    /// would be shared by all callers, and its name is nobody's business. The control plane's challenge is our own.
    pub(super) fn clean(&self, response: &mut ResponseHeader) {
        response.remove_header(&header::SERVER);
        strip_hops(response);
        if let Some(raw) = &self.raw {
            if let Some(shown) = &raw.target.shown {
                shown.answered(response.status);
            }
            if response.status.is_server_error() {
                raw.attempt.failed(Fault::Status(response.status.as_u16()));
            } else {
                raw.attempt.succeeded();
            }
            for name in [header::WWW_AUTHENTICATE, header::PROXY_AUTHENTICATE, header::SET_COOKIE] {
                response.remove_header(&name);
            }
        }
    }

    /// What it goes to refused the connection.
    pub(super) fn refused(&self) {
        if let Some(raw) = &self.raw {
            raw.attempt.failed(Fault::Connect);
        }
    }

    /// Whether what answers speaks of our own limits.
    pub(super) fn is_ours(&self) -> bool {
        self.raw.is_none()
    }

    /// Makes the client's request one of ours.
    pub(super) fn prepare(
        &self,
        request: &mut RequestHeader,
        connection: &Connection,
        record: &Record,
    ) -> Result<()> {
        request.insert_header(REQUEST_ID, record.request_id())?;
        let address = record.client.unwrap_or(connection.peer.ip());
        let Some(raw) = &self.raw else {
            // It checks credentials itself.
            client::rewrite(request, connection, address, &HeaderMap::new(), true)?;
            let introduction = Introduction::new(&connection.listener.name, admit::certificate(connection));
            let introduction =
                introduction.to_header().ok_or_else(|| Error::new(ErrorType::InvalidHTTPHeader))?;
            request.insert_header(Introduction::HEADER, introduction)?;
            // The control plane hangs up on who sends a body that it does not read. On a connection that is kept, the
            // next caller would notice; a new one on the same machine costs next to nothing.
            if !request.headers.contains_key(header::UPGRADE) {
                request.insert_header(header::CONNECTION, "close")?;
            }
            return Ok(());
        };
        client::rewrite(request, connection, address, &raw.target.headers, false)?;
        // Pingora lets a WebSocket handshake through; what has a body is none (RFC 6455 section 4.1).
        let bodiless = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
            .iter()
            .all(|name| !request.headers.contains_key(name));
        if request.method != http::Method::GET || !bodiless {
            request.remove_header(&header::UPGRADE);
            request.remove_header(&header::CONNECTION);
        }
        let invalid = |_| Error::new(ErrorType::InvalidHTTPHeader);
        request.set_uri(raw.path.parse().map_err(invalid)?);
        let authority = HeaderValue::from_str(&raw.target.authority)
            .map_err(|_| Error::new(ErrorType::InvalidHTTPHeader))?;
        request.insert_header(header::HOST, authority)?;
        for (name, value) in &raw.target.headers {
            request.insert_header(name.clone(), value.clone())?;
        }
        Ok(())
    }
}

/// Takes out what is between the upstream and us alone: hop-by-hop headers, and those that `Connection` names
/// (RFC 9110 section 7.6.1). Pingora does the same for requests, and sees to the framing of both.
fn strip_hops(response: &mut ResponseHeader) {
    if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let lines = response.headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let named = lines.flat_map(|line| line.split(','));
    let named: Vec<HeaderName> =
        named.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect();
    let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONTENT_TYPE];
    for name in named.iter().filter(|name| !framing.contains(name)).chain(&HOPS) {
        response.remove_header(name);
    }
}

const HOPS: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::UPGRADE,
];

/// Whether a path could lead out of the one it is put under, in any spelling that an upstream may undo.
fn climbs(path: &str) -> bool {
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    let segments =
        plain.split(['/', '\\']).map(|segment| segment.split([';', '?']).next().unwrap_or_default());
    segments.into_iter().any(|segment| matches!(segment, "." | ".."))
}
