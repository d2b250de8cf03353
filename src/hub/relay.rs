//! The straight relay of one message to one server, and of its answer back.
//! Not here: answers themselves (`answer`); clients without sessions (`ask`).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::sift::Sift;
use super::{Asked, Hub, HubError, Relayed, answer};
use crate::auth::{self, Allowed, Caller, Demand};
use crate::mcp::{Era, Method};
use crate::session::{Pin, SessionError};
use crate::upstream::{self, Outgoing, Route, Upstream};

/// The session header of the legacy era.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

pub(super) async fn relay(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    asked: Asked,
) -> Result<Relayed, HubError> {
    let upstream = permitted.get();
    let server = &upstream.server.id;
    // The modern era has no sessions: a header that looks like one is ignored (2026-07-28/basic/transports).
    let session = asked.session.filter(|_| asked.era == Era::Legacy);
    let mut pinned = None;
    // Looked at only once the rest is allowed: whether a session is known tells that there is a server.
    let route = route_to(permitted, || {
        let Some(id) = &session else { return Ok(None) };
        let pin = pinned.insert(hub.sessions.open(id, caller.id, server.as_str())?);
        Ok(Some(pin.endpoint))
    })?;
    let mut headers = asked.headers;
    upstream::introduce(&upstream.server, caller, &mut headers);
    if let Some(pin) = &pinned {
        headers.insert(SESSION, upstream_id(pin)?);
    }
    let outgoing = Outgoing { method: asked.verb, headers, body: asked.body.clone() };
    let arrived = hub.fleet.call(&route, outgoing).await?;
    upstream.meters.upstream(asked.method, arrived.took);
    let given = arrived.response.headers().get(&SESSION).cloned();
    let endpoint = arrived.endpoint;
    let sift = Sift::of(&upstream.policy, caller, asked.method, asked.era);
    let (method, response) = (asked.method, asked.wants_response);
    let expected = answer::Expected { method, response, to: &asked.body, sift };
    let mut relayed = answer::read(upstream, &hub.limits, arrived, expected).await?;
    if asked.era == Era::Legacy {
        seal(
            hub,
            caller,
            upstream,
            &mut relayed.reply.headers,
            Given { header: given, endpoint, session: session.as_deref().zip(pinned) },
        )?;
    }
    if asked.method == Method::EndSession
        && let Some(id) = &session
    {
        hub.sessions.end(id);
    }
    Ok(relayed)
}

/// Hop 4: the caller may have what it asks of the server, or the call ends here.
pub(super) fn permit(
    caller: &Caller,
    upstream: &Arc<Upstream>,
    demand: &Demand,
) -> Result<Allowed<Arc<Upstream>>, HubError> {
    let permitted = auth::allow(&upstream.policy, caller, demand, Arc::clone(upstream));
    if let Err(denied) = &permitted {
        upstream.meters.denied(denied.reason());
    }
    Ok(permitted?)
}

/// The way to a server of which a use was permitted. `pin` finds the endpoint to call.
pub(super) fn route_to(
    permitted: &Allowed<Arc<Upstream>>,
    pin: impl FnOnce() -> Result<Option<u64>, HubError>,
) -> Result<Allowed<Route>, HubError> {
    permitted.lead(|upstream| Ok(Route { upstream: Arc::clone(upstream), pin: pin()? }))
}

fn upstream_id(pin: &Pin) -> Result<HeaderValue, HubError> {
    HeaderValue::from_str(&pin.upstream_session).map_err(|_| SessionError::Forged.into())
}

/// The session id that came with an answer.
struct Given<'s> {
    header: Option<HeaderValue>,
    endpoint: u64,
    /// The session that the request was part of.
    session: Option<(&'s str, Arc<Pin>)>,
}

/// Puts our session id where the upstream put its own.
fn seal(
    hub: &Hub,
    caller: &Caller,
    upstream: &Upstream,
    headers: &mut HeaderMap,
    given: Given<'_>,
) -> Result<(), HubError> {
    let Some(header) = given.header else { return Ok(()) };
    let upstream_session = header.to_str().unwrap_or_default();
    let value = match given.session {
        // Many servers repeat the id in every answer.
        Some((id, pin)) if pin.upstream_session == upstream_session => HeaderValue::from_str(id),
        _ => {
            let pin = Pin { endpoint: given.endpoint, upstream_session: upstream_session.to_owned() };
            let id = hub.sessions.seal(caller.id, upstream.server.id.as_str(), pin)?;
            upstream.meters.session_opened();
            HeaderValue::try_from(id)
        }
    };
    headers.insert(SESSION, value.map_err(|_| SessionError::Unsealable)?);
    Ok(())
}
