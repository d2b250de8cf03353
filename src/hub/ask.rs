//! Calls of clients that know neither sessions nor streams: `POST /mcp` and `POST /rpc` of the Open MCP Gateway.
//! Not here: clients that speak MCP themselves (`relay`).
//!
//! The session with the server is ours: opened at a caller's first call, kept, and opened again when the server has
//! lost it. A server's refusal of a lost session says that the call did not run, so it is safe to send it again.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, header};
use http_body_util::BodyExt as _;
use tokio::time::timeout_at;

use super::answer::{self, Expected};
use super::link::Link;
use super::open::{open, within};
use super::relay::{route_to, tool_of};
use super::sift::Sift;
use super::{Asked, Hub, HubError, Lie, Relayed, whole};
use crate::auth::{Allowed, Caller};
use crate::catalog::Runtime;
use crate::mcp::{Answer, Decoder, Id, Method, Revision};
use crate::reply::{Body, Stream};
use crate::session::{Hello, SessionError};
use crate::upstream::{self, Deadline, Outgoing, Upstream, UpstreamError};

pub(super) async fn ask(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    asked: Asked,
) -> Result<Relayed, HubError> {
    let upstream = permitted.get();
    // The bridge has its own session with a child, and `initialize` is the opening of one.
    if matches!(upstream.server.runtime, Runtime::Local(_)) || asked.method == Method::Initialize {
        let none = Link { endpoint: None, session: None };
        return send(hub, caller, permitted, &asked, &none).await;
    }
    let server = &upstream.server.id;
    if let Some(link) = hub.links.find(caller.id, server) {
        match send(hub, caller, permitted, &asked, &link).await {
            Err(
                HubError::Session(SessionError::Lost)
                | HubError::Upstream(
                    UpstreamError::EndpointGone | UpstreamError::NoneHealthy | UpstreamError::CircuitOpen(_),
                ),
            ) => {}
            sent => return sent,
        }
        hub.links.forget(caller.id, server);
    }
    let link = open(hub, (caller, None), permitted, (&Hello::ours(), &asked.headers)).await?;
    // A server without `initialize` may still answer plain calls; it will say so itself if not.
    let link = link.unwrap_or(Link { endpoint: None, session: None });
    let link = hub.links.keep(caller.id, server, link);
    send(hub, caller, permitted, &asked, &link).await
}

async fn send(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    asked: &Asked,
    link: &Link,
) -> Result<Relayed, HubError> {
    let upstream = permitted.get();
    let pin = link.endpoint.filter(|_| link.session.is_some());
    let route = route_to(permitted, caller, None, || Ok(pin))?;
    let treatment = upstream.treatment(asked.method, tool_of(&asked.demand));
    let mut headers = within(asked.headers.clone(), link, Revision::LATEST_LEGACY);
    upstream::introduce(&upstream.server, caller, &mut headers);
    let outgoing = Outgoing { method: Verb::POST, headers, body: asked.body.clone(), treatment };
    let arrived = hub.fleet.call(&route, outgoing).await?;
    upstream.meters.upstream(asked.method, arrived.took);
    let sift = Sift::of(&upstream.policy, caller, asked.method, asked.era);
    let expected = Expected {
        method: asked.method,
        response: asked.wants_response,
        id: asked.id.as_ref(),
        sift,
        treatment,
        session: link.session.is_some(),
    };
    let relayed = answer::read(&hub.limits, arrived, expected).await?;
    settle(hub, relayed, asked.id.as_ref()).await
}

/// An answer as one JSON message: of a stream, only the response remains.
pub(super) async fn settle(hub: &Hub, mut relayed: Relayed, id: Option<&Id>) -> Result<Relayed, HubError> {
    let body = std::mem::replace(&mut relayed.reply.body, Body::Whole(Bytes::new()));
    let stream = match body {
        Body::Stream(stream) if stream.events => stream,
        other => {
            relayed.reply.body = other;
            return Ok(relayed);
        }
    };
    let (message, verdict) = response_of(*stream, id, hub.limits.answer_bytes_max).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    relayed.reply = whole(relayed.reply.status, headers, message);
    relayed.outcome = Some(verdict);
    Ok(relayed)
}

async fn response_of(
    mut stream: Stream,
    id: Option<&Id>,
    bytes_max: usize,
) -> Result<(Bytes, crate::telemetry::Outcome), HubError> {
    let mut decoder = Decoder::new(bytes_max);
    let mut found = None;
    while found.is_none() {
        let idle = tokio::time::Instant::now() + stream.idle.unwrap_or(std::time::Duration::from_secs(120));
        let (until, late) = match stream.deadline.filter(|deadline| *deadline < idle) {
            Some(deadline) => (deadline, UpstreamError::Late(Deadline::Total, stream.total)),
            None => (idle, UpstreamError::Late(Deadline::Idle, stream.idle.unwrap_or_default())),
        };
        let frame = timeout_at(until, stream.rest.frame()).await.map_err(|_| late)?;
        let frame =
            frame.ok_or(HubError::Lie(Lie::NoResponse))?.map_err(|_| HubError::Lie(Lie::Truncated))?;
        let Ok(data) = frame.into_data() else { continue };
        let mut too_long = false;
        decoder.feed(&data, |event| match event {
            None => too_long = true,
            Some(message) => {
                let answer = id.map_or_else(|| Answer::read(message), |id| Answer::read_to(message, id));
                if let (None, Some(Answer::Response(verdict))) = (&found, answer) {
                    found = Some((Bytes::copy_from_slice(message), answer::outcome_of(verdict)));
                }
            }
        });
        if (too_long || decoder.is_overlong()) && found.is_none() {
            return Err(HubError::Lie(Lie::TooLong));
        }
        if found.is_none() {
            // A server that always has more is not waited for, and so would outlast what ends a wait, and let nobody
            // else have a turn.
            tokio::task::yield_now().await;
            if stream.deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now()) {
                return Err(UpstreamError::Late(Deadline::Total, stream.total).into());
            }
        }
    }
    found.ok_or(HubError::Lie(Lie::NoResponse))
}
