//! Calls of clients that know neither sessions nor streams: `POST /mcp` and `POST /rpc` of the Open MCP Gateway.
//! Not here: clients that speak MCP themselves (`relay`).
//!
//! The session with the server is ours: opened at a caller's first call, kept, and opened again when the server has
//! lost it. A server's refusal of a lost session says that the call did not run, so it is safe to send it again.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::time::timeout_at;

use super::answer::{self, Expected};
use super::link::Link;
use super::relay::{SESSION, route_to};
use super::sift::Sift;
use super::{Asked, Hub, HubError, Lie, Relayed, whole};
use crate::auth::{Allowed, Caller};
use crate::catalog::Runtime;
use crate::mcp::{Answer, Decoder, Method, Revision};
use crate::reply::{Body, Stream};
use crate::upstream::{self, Outgoing, Upstream, UpstreamError};

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

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
            Ok(relayed) if !lost(relayed.reply.status, &link) => return Ok(relayed),
            Err(HubError::Upstream(UpstreamError::EndpointGone | UpstreamError::NoneHealthy)) | Ok(_) => {}
            Err(error) => return Err(error),
        }
        hub.links.forget(caller.id, server);
    }
    let link = open(hub, permitted, &asked).await?;
    let link = hub.links.keep(caller.id, server, link);
    send(hub, caller, permitted, &asked, &link).await
}

/// Whether a status says that the session is unknown: 404 by the specification, 400 in practice.
fn lost(status: StatusCode, link: &Link) -> bool {
    link.session.is_some() && matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
}

/// Opens a session for what was permitted: `initialize`, then `notifications/initialized`.
async fn open(hub: &Hub, permitted: &Allowed<Arc<Upstream>>, asked: &Asked) -> Result<Link, HubError> {
    let upstream = permitted.get();
    let headers = &asked.headers;
    let hello = serde_json::json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {
            "protocolVersion": Revision::LATEST_LEGACY.as_str(),
            "capabilities": {},
            "clientInfo": {"name": "tollgate", "version": env!("CARGO_PKG_VERSION")},
        },
    });
    let hello = Bytes::from(hello.to_string());
    let outgoing_hello = Outgoing { method: Verb::POST, headers: headers.clone(), body: hello.clone() };
    let route = route_to(permitted, || Ok(None))?;
    let arrived = hub.fleet.call(&route, outgoing_hello).await?;
    let endpoint = Some(arrived.endpoint);
    let session = arrived.response.headers().get(&SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
    let expected = Expected { method: Method::Initialize, response: true, to: &hello, sift: None };
    let relayed = answer::read(upstream, &hub.limits, arrived, expected).await?;
    let relayed = settle(hub, relayed).await?;
    if !relayed.reply.status.is_success() {
        // A server without `initialize` may still answer plain calls; it will say so itself if not.
        return Ok(Link { endpoint: None, session: None });
    }
    let link = Link { endpoint, session };
    let ready = outgoing(headers, &link, Bytes::from_static(INITIALIZED.as_bytes()));
    let route = route_to(permitted, || Ok(link.endpoint))?;
    let arrived = hub.fleet.call(&route, ready).await?;
    let expected =
        Expected { method: Method::Initialized, response: false, to: INITIALIZED.as_bytes(), sift: None };
    answer::read(upstream, &hub.limits, arrived, expected).await?;
    Ok(link)
}

fn outgoing(headers: &HeaderMap, link: &Link, body: Bytes) -> Outgoing {
    let mut headers = headers.clone();
    if let Some(id) = link.session.as_ref().and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(SESSION, id);
        headers.insert("mcp-protocol-version", HeaderValue::from_static(Revision::LATEST_LEGACY.as_str()));
    }
    Outgoing { method: Verb::POST, headers, body }
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
    let route = route_to(permitted, || Ok(pin))?;
    let mut outgoing = outgoing(&asked.headers, link, asked.body.clone());
    upstream::introduce(&upstream.server, caller, &mut outgoing.headers);
    let arrived = hub.fleet.call(&route, outgoing).await?;
    upstream.meters.upstream(asked.method, arrived.took);
    let sift = Sift::of(&upstream.policy, caller, asked.method, asked.era);
    let expected = Expected { method: asked.method, response: asked.wants_response, to: &asked.body, sift };
    let relayed = answer::read(upstream, &hub.limits, arrived, expected).await?;
    settle(hub, relayed).await
}

/// An answer as one JSON message: of a stream, only the response remains.
async fn settle(hub: &Hub, mut relayed: Relayed) -> Result<Relayed, HubError> {
    let body = std::mem::replace(&mut relayed.reply.body, Body::Whole(Bytes::new()));
    let stream = match body {
        Body::Stream(stream) if stream.events => stream,
        other => {
            relayed.reply.body = other;
            return Ok(relayed);
        }
    };
    let (message, verdict) = response_of(*stream, hub.limits.answer_bytes_max).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    relayed.reply = whole(relayed.reply.status, headers, message);
    relayed.outcome = Some(verdict);
    Ok(relayed)
}

async fn response_of(
    mut stream: Stream,
    bytes_max: usize,
) -> Result<(Bytes, crate::telemetry::Outcome), HubError> {
    let mut decoder = Decoder::new(bytes_max);
    let mut found = None;
    while found.is_none() {
        let idle = tokio::time::Instant::now() + stream.idle.unwrap_or(std::time::Duration::from_secs(120));
        let until = stream.deadline.map_or(idle, |deadline| deadline.min(idle));
        let frame = timeout_at(until, stream.rest.frame()).await;
        let frame = frame.map_err(|_| UpstreamError::Timeout(stream.idle.unwrap_or_default()))?;
        let frame =
            frame.ok_or(HubError::Lie(Lie::NoResponse))?.map_err(|_| HubError::Lie(Lie::Truncated))?;
        let Ok(data) = frame.into_data() else { continue };
        let mut too_long = false;
        decoder.feed(&data, |event| match event {
            None => too_long = true,
            Some(message) => {
                if let (None, Some(Answer::Response(verdict))) = (&found, Answer::read(message)) {
                    found = Some((Bytes::copy_from_slice(message), answer::outcome_of(verdict)));
                }
            }
        });
        if (too_long || decoder.is_overlong()) && found.is_none() {
            return Err(HubError::Lie(Lie::TooLong));
        }
    }
    found.ok_or(HubError::Lie(Lie::NoResponse))
}
