//! Sessions that their server has lost: opened anew where they can be, without the client's doing.
//! Not here: sessions that the gateway holds for others (`ask`).
//!
//! A server that was started again, a child that died, an endpoint that left: the client's session goes on. It is
//! opened anew with what the client had said of itself, its level of log messages and its subscriptions are asked for
//! again, and then the message that found it lost is sent: the server refused it or never got it, so it did not run.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::link::Link;
use super::open::{open, tell};
use super::relay::{self, SESSION};
use super::{Asked, Hub, HubError, Relayed, whole};
use crate::auth::{Allowed, Caller, Demand};
use crate::mcp::{Era, Id, Method};
use crate::session::{Pin, SessionError};
use crate::upstream::{Upstream, UpstreamError};

/// Whether a session cannot be used where it was.
pub(super) fn is_lost(sent: &Result<Relayed, HubError>, upstream: &Upstream, pin: &Pin) -> bool {
    match sent {
        Err(HubError::Session(SessionError::Lost) | HubError::Upstream(UpstreamError::EndpointGone)) => true,
        Err(HubError::Upstream(
            UpstreamError::NoneHealthy | UpstreamError::Unreachable | UpstreamError::CircuitOpen(_),
        )) => upstream.has_other(pin.endpoint),
        _ => false,
    }
}

/// Does what can be done about a message that found its session lost.
pub(super) async fn again(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    (asked, headers): (&Asked, HeaderMap),
    (id, pin): (&str, &Arc<Pin>),
) -> Result<Relayed, HubError> {
    let nothing = |status| Ok(Relayed::of(whole(status, HeaderMap::new(), Bytes::new())));
    match asked.method {
        // It is as the client wants it.
        Method::EndSession => return nothing(StatusCode::NO_CONTENT),
        // They are about calls and questions that went with the session.
        Method::Response | Method::Cancelled | Method::Progress => return nothing(StatusCode::ACCEPTED),
        // Servers without a stream say so in many ways: whether the session is lost, a ping tells.
        Method::Stream if is_alive(hub, caller, permitted, (id, pin), &headers).await => {
            return nothing(StatusCode::METHOD_NOT_ALLOWED);
        }
        _ => {}
    }
    let restored = restore(hub, caller, permitted, (id, pin), &headers).await;
    permitted.get().meters.session_restored(restored.is_ok());
    let pin = restored?;
    relay::once(hub, caller, permitted, (asked, headers), Some((id, &pin))).await
}

async fn is_alive(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    session: (&str, &Arc<Pin>),
    headers: &HeaderMap,
) -> bool {
    let ping = Asked {
        verb: http::Method::POST,
        method: Method::Ping,
        demand: Demand::Session,
        wants_response: true,
        id: Some(Id::number(0)),
        era: Era::Legacy,
        headers: HeaderMap::new(),
        session: None,
        body: Bytes::from_static(br#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#),
    };
    let headers = super::open::within(
        headers.clone(),
        &Link { endpoint: None, session: None },
        session.1.hello.revision(),
    );
    relay::once(hub, caller, permitted, (&ping, headers), Some(session)).await.is_ok()
}

/// Opens the session anew, unless another message of it has done so meanwhile.
async fn restore(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    (id, lost): (&str, &Arc<Pin>),
    headers: &HeaderMap,
) -> Result<Arc<Pin>, HubError> {
    let upstream = permitted.get();
    let server = upstream.server.id.as_str();
    let gate = hub.sessions.gate(id);
    let _turn = gate.lock().await;
    let now = hub.sessions.open(id, caller.id, server)?;
    if *now != **lost {
        return Ok(now);
    }
    let mut plain = headers.clone();
    plain.remove(&SESSION);
    plain.remove("last-event-id");
    let opened = open(hub, (caller, Some(id)), permitted, (&lost.hello, &plain)).await?;
    let link = opened.ok_or(SessionError::Lost)?;
    let wishes = hub.sessions.wishes(id);
    let level =
        wishes.level.iter().map(|level| (Method::SetLevel, "logging/setLevel", json!({"level": level})));
    let uris = wishes.subscriptions.iter();
    let uris = uris.map(|uri| (Method::ResourcesSubscribe, "resources/subscribe", json!({"uri": uri})));
    for (number, (method, name, params)) in (1..).zip(level.chain(uris)) {
        let message: serde_json::Value =
            json!({"jsonrpc": "2.0", "id": format!("tollgate-{number}"), "method": name, "params": params});
        let body = Bytes::from(message.to_string());
        // A wish that is refused now is no reason to lose the session.
        let told = tell(hub, caller, permitted, &link, (method, lost.hello.revision(), &plain, body)).await;
        if let Err(error) = told {
            tracing::debug!(server, %error, name, "a wish was not granted again");
        }
    }
    let pin = Pin {
        endpoint: link.endpoint.unwrap_or(lost.endpoint),
        upstream_session: link.session.unwrap_or_default(),
        hello: lost.hello.clone(),
    };
    tracing::info!(server, "a session that its server had lost was opened anew");
    Ok(hub.sessions.restored(id, caller.id, server, pin))
}
