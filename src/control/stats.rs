//! Figures: `/stats` of contract 001, and `/metrics` for Prometheus.
//! Not here: how metrics are kept (`telemetry`).

use std::time::SystemTime;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header;
use serde_json::{Map, Value, json};

use super::servers::Shown;
use super::{Admitted, Shared};

/// `GET /stats`: only servers that are there for the caller are in it. A failed reload names files and quotes from the
/// catalog, which is for callers of the whole of it.
pub(super) async fn stats(State(control): Shared, Extension(caller): Admitted) -> Json<Value> {
    let look = control.children.look().await;
    let view = control.hub.fleet().view().clone();
    let visible: Vec<_> = view.upstreams().filter(|upstream| upstream.policy.sees(&caller)).collect();
    let mut servers = Map::new();
    let (mut total_requests, mut active) = (0, 0);
    for upstream in &visible {
        let shown = Shown::of(&look, upstream);
        total_requests += shown.request_count;
        active += usize::from(shown.running);
        let mut entry = Map::new();
        entry.insert("status".into(), shown.status().into());
        entry.insert("request_count".into(), shown.request_count.into());
        if shown.error_count > 0 {
            entry.insert("error_count".into(), shown.error_count.into());
        }
        if let Some(uptime) = shown.uptime_seconds() {
            entry.insert("uptime_seconds".into(), uptime.into());
        }
        if let Some(last) = shown.last_activity {
            entry.insert("last_activity".into(), rfc3339(last).into());
        }
        servers.insert(upstream.server.id.as_str().to_owned(), entry.into());
    }
    let mut stats = json!({
        "uptime_seconds": control.started.0.elapsed().as_secs(),
        "total_requests": total_requests,
        "active_servers": active,
        "total_servers": visible.len(),
        "last_reload": rfc3339(view.catalog.loaded_at),
        "servers": servers,
    });
    let failure = control.reload.last_failure().filter(|_| caller.may_use_all());
    if let (Some(failure), Some(stats)) = (failure, stats.as_object_mut()) {
        let failure = json!({"at": rfc3339(failure.at), "place": failure.place, "message": failure.message});
        stats.insert("last_reload_failure".into(), failure);
    }
    Json(stats)
}

/// `GET /metrics`: text format 0.0.4, also for those who ask for OpenMetrics.
pub(super) async fn metrics(State(control): Shared) -> Response {
    control.meters.set_sessions_active(control.hub.sessions_active());
    let text = control.meters.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// A time as the contract writes it: RFC 3339 in whole seconds.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
