//! An audit line for everything that the control plane refuses, and for every act that changes something.
//! Not here: refusals at MCP doors (`proxy/record`), how lines are written (`telemetry`).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, Method};

use super::{Needs, Shared};
use crate::auth::Caller;

/// The request's id, as the proxy in front gave it.
const REQUEST_ID: &str = "x-request-id";
/// The client's address, which the proxy in front wrote.
const CLIENT: &str = "x-forwarded-for";

/// Who made a request, told by the part that found out.
#[derive(Clone)]
pub(super) struct Actor(pub(super) Arc<Caller>);

/// Whether everybody is answered there: what load balancers are told, such as "draining", refuses nobody anything.
fn is_public(path: &str) -> bool {
    super::ROUTES.iter().any(|route| route.needs == Needs::Nothing && route.path == path)
}

/// Tells of refusals (`refused`) and of requests that change something (`admin`), whatever came of them.
pub(super) async fn record(State(control): Shared, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let text = |headers: &HeaderMap, name| headers.get(name).and_then(|v| v.to_str().ok().map(str::to_owned));
    let request_id = text(request.headers(), REQUEST_ID);
    let client = text(request.headers(), CLIENT);
    let response = next.run(request).await;
    let status = response.status();
    // What is no answer to a reader is a refusal; an act that failed is an act all the same.
    let reads = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    let refused = status.is_client_error() || status.as_u16() == 503 || reads && status.is_server_error();
    if reads && (!refused || is_public(&path)) {
        return response;
    }
    let actor = response.extensions().get::<Actor>().map(|actor| &actor.0);
    control.audit.write(if refused { "refused" } else { "admin" }, |line| {
        line.maybe("request_id", request_id.as_deref())
            .text("door", "control")
            .text("verb", method.as_str())
            .text("path", &path)
            .number("status", status.as_u16().into())
            .maybe("caller", actor.map(|caller| &*caller.subject))
            .maybe("caller_kind", actor.map(|caller| caller.kind.as_str()))
            .maybe("client", client.as_deref())
    });
    response
}
