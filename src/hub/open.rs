//! Opening a session at a server: `initialize`, then `notifications/initialized`.
//! Not here: whose session it is (`ask` for callers without one, `restore` for those whose server lost it).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, header};

use super::answer::{self, Expected};
use super::ask::settle;
use super::link::Link;
use super::relay::{SESSION, route_to};
use super::{Hub, HubError};
use crate::auth::{Allowed, Caller};
use crate::mcp::{Id, Method, Revision};
use crate::session::Hello;
use crate::upstream::{Outgoing, Upstream};

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
/// The id of an `initialize` of ours.
const ID: u64 = 0;

/// Opens a session for what was permitted, saying `hello`; `None` if the server refuses. `session` is the client's, if
/// it has one.
pub(super) async fn open(
    hub: &Hub,
    (caller, session): (&Caller, Option<&str>),
    permitted: &Allowed<Arc<Upstream>>,
    (hello, headers): (&Hello, &HeaderMap),
) -> Result<Option<Link>, HubError> {
    let upstream = permitted.get();
    let treatment = upstream.treatment(Method::Initialize, None);
    let body = Bytes::from(hello.initialize(ID));
    let outgoing = Outgoing { method: Verb::POST, headers: headers.clone(), body, treatment };
    let route = route_to(permitted, caller, session, || Ok(None))?;
    let arrived = hub.fleet.call(&route, outgoing).await?;
    let endpoint = Some(arrived.endpoint());
    let given = arrived.response.headers().get(&SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
    let id = Id::number(ID);
    let expected = Expected {
        method: Method::Initialize,
        response: true,
        id: Some(&id),
        sift: None,
        treatment,
        session: false,
    };
    let relayed = answer::read(&hub.limits, arrived, expected).await?;
    let relayed = settle(hub, relayed, Some(&id)).await?;
    if !relayed.reply.status.is_success() {
        return Ok(None);
    }
    let link = Link { endpoint, session: given };
    let ready = Bytes::from_static(INITIALIZED.as_bytes());
    tell(hub, caller, permitted, &link, (Method::Initialized, hello.revision(), headers, ready)).await?;
    Ok(Some(link))
}

/// Says something on an open session that nobody waits for the answer to.
pub(super) async fn tell(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    link: &Link,
    (method, revision, headers, body): (Method, Revision, &HeaderMap, Bytes),
) -> Result<(), HubError> {
    let treatment = permitted.get().treatment(method, None);
    let headers = within(headers.clone(), link, revision);
    let outgoing = Outgoing { method: Verb::POST, headers, body, treatment };
    let route = route_to(permitted, caller, None, || Ok(link.endpoint))?;
    let arrived = hub.fleet.call(&route, outgoing).await?;
    let expected = Expected {
        method,
        response: false,
        id: None,
        sift: None,
        treatment,
        session: link.session.is_some(),
    };
    answer::read(&hub.limits, arrived, expected).await.map(drop)
}

/// Headers of a message on an open session.
pub(super) fn within(mut headers: HeaderMap, link: &Link, revision: Revision) -> HeaderMap {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    if let Some(id) = link.session.as_ref().and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(SESSION, id);
        headers.insert("mcp-protocol-version", HeaderValue::from_static(revision.as_str()));
    }
    headers
}
