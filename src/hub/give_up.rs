//! Word to a server that nobody waits for a call any longer, because its deadline passed.
//! Not here: calls whose client left (`proxy`).
//!
//! In the modern era the end of the connection says so. In the legacy era a connection may end at any time, so the
//! server gets `notifications/cancelled` (2025-11-25/basic/utilities/cancellation).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method as Verb;
use serde_json::json;
use tokio::time::timeout;

use super::link::Link;
use super::open::within;
use super::relay::route_to;
use super::{Asked, Hub};
use crate::auth::{Allowed, Caller};
use crate::mcp::{Era, Method};
use crate::reply::Farewell;
use crate::session::Pin;
use crate::upstream::{Outgoing, Upstream};

/// The word is given up itself after this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be said if the deadline of this call passes; `None` if that needs no words.
pub(super) fn word(
    hub: &Hub,
    caller: &Caller,
    permitted: &Allowed<Arc<Upstream>>,
    asked: &Asked,
    session: Option<(&str, &Arc<Pin>)>,
) -> Option<Farewell> {
    let id = asked.id.as_ref().filter(|_| asked.wants_response && asked.era == Era::Legacy)?;
    let cannot = matches!(asked.method, Method::Initialize | Method::Stream | Method::EndSession);
    let (_, pin) = session.filter(|_| !cannot)?;
    let route = route_to(permitted, caller, None, || Ok(Some(pin.endpoint))).ok()?;
    let params = json!({"reason": "its deadline passed"});
    let mut body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
    let id = serde_json::from_str(id.as_json()).ok()?;
    body.get_mut("params")?.as_object_mut()?.insert("requestId".into(), id);
    let link =
        Link { endpoint: None, session: Some(pin.upstream_session.clone()).filter(|id| !id.is_empty()) };
    let headers = within(asked.headers.clone(), &link, pin.hello.revision());
    let treatment = permitted.get().treatment(Method::Cancelled, None);
    let outgoing = Outgoing { method: Verb::POST, headers, body: Bytes::from(body.to_string()), treatment };
    let fleet = Arc::clone(&hub.fleet);
    Some(Farewell::new(move || {
        let telling = async move {
            // Who does not listen is not told twice.
            drop(timeout(PATIENCE, fleet.call(&route, outgoing)).await);
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the caller does not wait for it; it ends by itself in two seconds"
        )]
        tokio::spawn(telling);
    }))
}
