//! The straight relay of one message to one server, and of its answer back.
//! Not here: answers themselves (`answer`); clients without sessions (`ask`).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::sift::Sift;
use super::{Asked, Hub, HubError, Relayed, answer, give_up, restore};
use crate::auth::{self, Allowed, Caller, Demand, ItemKind};
use crate::mcp::{self, Era, Method, ParseLimits};
use crate::reply::Body;
use crate::session::{self, Hello, Pin, SessionError};
use crate::upstream::{self, Outgoing, Route, Upstream, UpstreamError};

/// The session header of the legacy era.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

pub(super) async fn relay(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    mut asked: Asked,
) -> Result<Relayed, HubError> {
    let upstream = permitted.get();
    // The modern era has no sessions: a header that looks like one is ignored (2026-07-28/basic/transports).
    let session = asked.session.take().filter(|_| asked.era == Era::Legacy);
    let Some(id) = &session else {
        let headers = std::mem::take(&mut asked.headers);
        return once(hub, caller, permitted, (&asked, headers), None).await;
    };
    // Looked at only once the rest is allowed: whether a session is known tells that there is a server.
    let pin = hub.sessions.open(id, caller.id, upstream.server.id.as_str())?;
    let mut sent = once(hub, caller, permitted, (&asked, asked.headers.clone()), Some((id, &pin))).await;
    if restore::is_lost(&sent, upstream, &pin) {
        // What is rare is boxed, so that the future of a call stays small.
        let headers = asked.headers.clone();
        sent = Box::pin(restore::again(hub, caller, permitted, (&asked, headers), (id, &pin))).await;
    }
    if sent.is_ok() {
        match asked.method {
            Method::EndSession => hub.sessions.end(id),
            Method::SetLevel | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => {
                remember(hub, id, &asked);
            }
            _ => {}
        }
    }
    sent
}

/// Sends a message once, and gives the answer.
pub(super) async fn once(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    (asked, mut headers): (&Asked, HeaderMap),
    session: Option<(&str, &Arc<Pin>)>,
) -> Result<Relayed, HubError> {
    let upstream = permitted.get();
    let route =
        route_to(permitted, caller, session.map(|(id, _)| id), || Ok(session.map(|(_, pin)| pin.endpoint)))?;
    upstream::introduce(&upstream.server, caller, &mut headers);
    if let Some((_, pin)) = session.filter(|(_, pin)| !pin.upstream_session.is_empty()) {
        headers.insert(SESSION, upstream_id(pin)?);
    }
    let treatment = upstream.treatment(asked.method, tool_of(&asked.demand));
    let outgoing = Outgoing { method: asked.verb.clone(), headers, body: asked.body.clone(), treatment };
    let farewell = || give_up::word(hub, caller, permitted, asked, session);
    let late = |error: HubError| {
        if let (HubError::Upstream(UpstreamError::Late(..)), Some(word)) = (&error, farewell()) {
            word.say();
        }
        error
    };
    let arrived = hub.fleet.call(&route, outgoing).await.map_err(|error| late(error.into()))?;
    upstream.meters.upstream(asked.method, arrived.took);
    let given = arrived.response.headers().get(&SESSION).cloned();
    let endpoint = arrived.endpoint();
    let sift = Sift::of(&upstream.policy, caller, asked.method, asked.era);
    let expected = answer::Expected {
        method: asked.method,
        response: asked.wants_response,
        id: asked.id.as_ref(),
        sift,
        treatment,
        session: session.is_some(),
    };
    let mut relayed = answer::read(&hub.limits, arrived, expected).await.map_err(late)?;
    if asked.era == Era::Legacy {
        let given = Given { header: given, endpoint, session };
        seal(hub, (caller, asked), upstream, &mut relayed.reply.headers, given)?;
        if let Body::Stream(stream) = &mut relayed.reply.body {
            stream.farewell = farewell();
        }
    }
    Ok(relayed)
}

/// Keeps what the client asked of its session, for when it has to be opened anew.
fn remember(hub: &Hub, id: &str, asked: &Asked) {
    let limits = ParseLimits { depth_max: hub.limits.json_depth_max };
    let Ok(message) = mcp::parse(&asked.body, limits) else { return };
    let text = |key: &str| message.params.text(key);
    match asked.method {
        Method::SetLevel => drop(text("level").map(|level| hub.sessions.set_level(id, &level))),
        Method::ResourcesSubscribe => drop(text("uri").map(|uri| hub.sessions.subscribed(id, &uri))),
        _ => drop(text("uri").map(|uri| hub.sessions.unsubscribed(id, &uri))),
    }
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
    caller: &Caller,
    session: Option<&str>,
    pin: impl FnOnce() -> Result<Option<u64>, HubError>,
) -> Result<Allowed<Route>, HubError> {
    permitted.lead(|upstream| {
        let [low, high] = [caller.id as u64, (caller.id >> 64) as u64];
        let session = session.map(session::number);
        Ok(Route { upstream: Arc::clone(upstream), pin: pin()?, caller: low ^ high, session })
    })
}

/// The tool that is called, if one is.
pub(super) fn tool_of(demand: &Demand) -> Option<&str> {
    match demand {
        Demand::Item(ItemKind::Tool, name) => Some(name),
        _ => None,
    }
}

fn upstream_id(pin: &Pin) -> Result<HeaderValue, HubError> {
    HeaderValue::from_str(&pin.upstream_session).map_err(|_| SessionError::Forged.into())
}

/// The session id that came with an answer.
struct Given<'s> {
    header: Option<HeaderValue>,
    endpoint: u64,
    /// The session that the request was part of.
    session: Option<(&'s str, &'s Arc<Pin>)>,
}

/// Puts our session id where the upstream put its own.
fn seal(
    hub: &Hub,
    (caller, asked): (&Caller, &Asked),
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
            let hello = match (asked.method, given.session) {
                (Method::Initialize, _) => Hello::of(&asked.body),
                (_, Some((_, pin))) => pin.hello.clone(),
                (_, None) => Hello::ours(),
            };
            let upstream_session = upstream_session.to_owned();
            let pin = Pin { endpoint: given.endpoint, upstream_session, hello };
            let id = hub.sessions.seal(caller.id, upstream.server.id.as_str(), pin)?;
            upstream.meters.session_opened();
            HeaderValue::try_from(id)
        }
    };
    headers.insert(SESSION, value.map_err(|_| SessionError::Unsealable)?);
    Ok(())
}
