//! Health for load balancers and orchestrators; never behind a key, never about upstreams.
//! Not here: the health of servers (`servers`, `stats`).

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::Shared;

/// Contract 001: always `{"status":"ok"}`.
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// The process runs; says nothing of what it depends on.
pub(super) async fn livez() -> &'static str {
    "ok"
}

/// New traffic is welcome. `?verbose` tells each check in a line of its own.
pub(super) async fn readyz(State(control): Shared, RawQuery(query): RawQuery) -> Response {
    let draining = *control.draining.borrow();
    let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|q| q == "verbose" || q.starts_with("verbose=")));
    if !verbose {
        return (status, if draining { "draining" } else { "ok" }).into_response();
    }
    let mut lines = vec![if draining { "[-]listener draining" } else { "[+]listener ok" }.to_owned()];
    let generation = control.hub.fleet().view().catalog.generation;
    lines.push(format!("[+]catalog ok: generation {generation}"));
    if let Some(failure) = control.reload.last_failure() {
        // An invalid file changes nothing, so it does not make the gateway unready; it only wants attention.
        lines.push(format!("[!]catalog reload failed: {}", failure.place));
    }
    lines.push(format!("readyz check {}", if draining { "failed" } else { "passed" }));
    (status, lines.join("\n") + "\n").into_response()
}
