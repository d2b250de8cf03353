//! Health for load balancers and orchestrators; never behind a key, and about no server that the catalog does not require.
//! Not here: the health of servers (`servers`, `stats`).

use std::sync::Arc;

use axum::Json;
use axum::extract::RawQuery;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Control, Shared};
use crate::bridge::State;
use crate::catalog::Runtime;
use crate::upstream::Upstream;

/// Contract 001: always `{"status":"ok"}`.
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// The process runs; says nothing of what it depends on.
pub(super) async fn livez() -> &'static str {
    "ok"
}

/// New traffic is welcome. `?verbose` tells each check in a line of its own.
pub(super) async fn readyz(axum::extract::State(control): Shared, RawQuery(query): RawQuery) -> Response {
    let draining = *control.draining.borrow();
    let (required, away) = required(&control).await;
    let ready = !draining && away == 0;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|q| q == "verbose" || q.starts_with("verbose=")));
    if !verbose {
        let word = match (draining, ready) {
            (true, _) => "draining",
            (false, true) => "ok",
            (false, false) => "a required server cannot be called",
        };
        return (status, word).into_response();
    }
    let mut lines = vec![if draining { "[-]listener draining" } else { "[+]listener ok" }.to_owned()];
    let generation = control.hub.fleet().view().catalog.generation;
    lines.push(format!("[+]catalog ok: generation {generation}"));
    if let Some(failure) = control.reload.last_failure() {
        // An invalid file changes nothing, so it does not make the gateway unready; it only wants attention.
        lines.push(format!("[!]catalog reload failed: {}", failure.place));
    }
    if required > 0 {
        // Which ones is nobody's business here.
        let sign = if away == 0 { '+' } else { '-' };
        lines.push(format!("[{sign}]required servers: {} of {required} can be called", required - away));
    }
    lines.push(format!("readyz check {}", if ready { "passed" } else { "failed" }));
    (status, lines.join("\n") + "\n").into_response()
}

/// How many servers the catalog requires, and how many of them cannot be called.
async fn required(control: &Control) -> (usize, usize) {
    let view = control.hub.fleet().view().clone();
    let required: Vec<_> = view.upstreams().filter(|upstream| upstream.server.required).collect();
    if required.is_empty() {
        return (0, 0);
    }
    let look = control.children.look().await;
    let is_away = |upstream: &&&Arc<Upstream>| match &upstream.server.runtime {
        Runtime::Remote(_) => !upstream.is_up(),
        Runtime::Local(_) => look
            .status(upstream.server.id.as_str())
            .is_none_or(|status| matches!(status.state, State::Failed | State::Unknown)),
    };
    (required.len(), required.iter().filter(is_away).count())
}
