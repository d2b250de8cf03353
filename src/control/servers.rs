//! Servers as contract 001 shows them, and their start and stop.
//! Not here: supervision itself (`bridge`) or calls (`upstream`).

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::ControlError;
use super::stats::rfc3339;
use super::{Admitted, Control, Shared, redact};
use crate::auth::Caller;
use crate::bridge::{Look, Started, State as ChildState, Stopped};
use crate::catalog::{Runtime, Server};
use crate::upstream::Upstream;

/// The id in the path; axum's own refusals are no JSON.
type Id = Result<Path<String>, PathRejection>;

/// A server's live figures.
pub(super) struct Shown {
    pub(super) running: bool,
    pub(super) started_at: Option<SystemTime>,
    pub(super) last_activity: Option<SystemTime>,
    pub(super) request_count: u64,
    pub(super) error_count: u64,
    connection_count: usize,
}

impl Shown {
    pub(super) fn of(look: &Look, upstream: &Upstream) -> Self {
        let id = upstream.server.id.as_str();
        let activity = &upstream.activity;
        let (running, started_at) = match (&upstream.server.runtime, look.status(id)) {
            (Runtime::Local(_), Some(status)) => {
                (matches!(status.state, ChildState::Running | ChildState::Stopping), status.started_at)
            }
            (Runtime::Local(_), None) => (false, None),
            // A remote server is not ours to run: it counts as running from its first use until it is stopped here.
            (Runtime::Remote(_), _) => (activity.started_at().is_some(), activity.started_at()),
        };
        Self {
            running,
            started_at: started_at.filter(|_| running),
            last_activity: activity.last(),
            request_count: activity.requests(),
            error_count: activity.errors(),
            connection_count: upstream.endpoints().iter().map(|endpoint| endpoint.in_flight).sum(),
        }
    }

    pub(super) fn status(&self) -> &'static str {
        if self.running { "running" } else { "stopped" }
    }

    pub(super) fn uptime_seconds(&self) -> Option<u64> {
        self.started_at.map(|at| at.elapsed().unwrap_or_default().as_secs())
    }
}

#[derive(Deserialize)]
pub(super) struct Filter {
    tag: Option<String>,
}

/// A row of `GET /servers`; what has no value is left out.
#[derive(Serialize)]
struct Row {
    id: String,
    display_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    status: &'static str,
    tags: Vec<String>,
    runtime_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_activity: Option<String>,
    request_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_seconds: Option<u64>,
}

/// `GET /servers[?tag=]`.
pub(super) async fn list(
    State(control): Shared,
    Extension(caller): Admitted,
    query: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Vec<impl Serialize>>, ControlError> {
    let Query(filter) = query.map_err(|_| ControlError::BadRequest("the query is `?tag=` and one tag"))?;
    let look = control.children.look().await;
    let view = control.hub.fleet().view().clone();
    let tagged = |server: &Server| filter.tag.as_ref().is_none_or(|tag| server.tags.contains(tag));
    let visible = view.upstreams().filter(|upstream| upstream.policy.sees(&caller));
    let rows = visible.filter(|upstream| tagged(&upstream.server)).map(|upstream| {
        let (server, shown) = (&upstream.server, Shown::of(&look, upstream));
        Row {
            id: server.id.to_string(),
            display_name: server.display_name.clone(),
            description: server.description.clone(),
            status: shown.status(),
            tags: server.tags.clone(),
            runtime_type: runtime_type(server),
            started_at: shown.started_at.map(rfc3339),
            last_activity: shown.last_activity.map(rfc3339),
            request_count: shown.request_count,
            uptime_seconds: shown.uptime_seconds(),
        }
    });
    Ok(Json(rows.collect()))
}

/// `GET /servers/{id}`. How the server is run is shown to whom nothing of it is withheld.
pub(super) async fn detail(
    State(control): Shared,
    Extension(caller): Admitted,
    id: Id,
) -> Result<Json<Value>, ControlError> {
    let (id, upstream) = find(&control, &caller, id)?;
    let look = control.children.look().await;
    let (server, shown) = (&upstream.server, Shown::of(&look, &upstream));
    let whole = upstream.policy.gives_all(&caller);
    let mut detail = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            detail.insert(key.to_owned(), value);
        }
    };
    put("id", Some(server.id.as_str().into()));
    put("display_name", Some(server.display_name.as_str().into()));
    put("description", server.description.as_deref().map(Value::from));
    put("status", Some(shown.status().into()));
    let kind = runtime_type(server);
    put("runtime", Some(if whole { redact::runtime(&server.runtime, kind) } else { json!({"type": kind}) }));
    if let (Runtime::Local(local), true) = (&server.runtime, whole) {
        put(
            "env",
            Some(redact::environment(&local.env))
                .filter(|env| env.as_object().is_some_and(|e| !e.is_empty())),
        );
    }
    put("tags", Some(json!(server.tags)));
    put("metadata", (whole && !server.metadata.is_empty()).then(|| server.metadata.clone().into()));
    put("started_at", shown.started_at.map(|at| rfc3339(at).into()));
    put("last_activity", shown.last_activity.map(|at| rfc3339(at).into()));
    put("request_count", Some(shown.request_count.into()));
    put("uptime_seconds", shown.uptime_seconds().map(Value::from));
    put("connection_count", Some(shown.connection_count.into()));
    match &server.runtime {
        _ if !whole => {}
        Runtime::Local(_) => put("process", look.status(&id).map(|status| redact::process(&status))),
        Runtime::Remote(_) => put("endpoints", Some(redact::endpoints(&upstream.endpoints()))),
    }
    Ok(Json(detail.into()))
}

/// `POST /servers/{id}/start`.
pub(super) async fn start(
    State(control): Shared,
    Extension(caller): Admitted,
    id: Id,
) -> Result<Json<Value>, ControlError> {
    let (id, upstream) = find_whole(&control, &caller, id)?;
    let message = match &upstream.server.runtime {
        Runtime::Local(_) => match control.children.start(&id).await {
            Ok(Started::Now) => "Server started successfully",
            Ok(Started::Already) => "Server already running",
            Err(error) => return Err(ControlError::BadGateway(format!("Failed to start server: {error}"))),
        },
        Runtime::Remote(_) if upstream.activity.start() => "Server started successfully",
        Runtime::Remote(_) => "Server already running",
    };
    Ok(Json(json!({"id": id, "status": "running", "message": message})))
}

/// `POST /servers/{id}/stop`. The next call starts the server again.
pub(super) async fn stop(
    State(control): Shared,
    Extension(caller): Admitted,
    id: Id,
) -> Result<Json<Value>, ControlError> {
    let (id, upstream) = find_whole(&control, &caller, id)?;
    let message = match &upstream.server.runtime {
        Runtime::Local(_) => match control.children.stop(&id).await {
            Ok(Stopped::Now) => "Server stopped successfully",
            Ok(Stopped::Already) => "Server already stopped",
            Err(error) => return Err(ControlError::BadGateway(format!("Failed to stop server: {error}"))),
        },
        Runtime::Remote(_) if upstream.activity.stop() => "Server stopped successfully",
        Runtime::Remote(_) => "Server already stopped",
    };
    Ok(Json(json!({"id": id, "status": "stopped", "message": message})))
}

/// A server that is there for the caller; one that is not looks like one that is not there.
fn find(control: &Control, caller: &Caller, id: Id) -> Result<(String, Arc<Upstream>), ControlError> {
    let Path(id) = id.map_err(|_| ControlError::BadRequest("the server's id is no text"))?;
    let found = control.hub.fleet().view().upstream_for(caller, &id).cloned();
    match found {
        Some(upstream) => Ok((id, upstream)),
        None => Err(ControlError::NotFound(format!("Server '{id}' not found"))),
    }
}

/// A server of which nothing is withheld from the caller: its process serves everything of it, and other callers.
fn find_whole(control: &Control, caller: &Caller, id: Id) -> Result<(String, Arc<Upstream>), ControlError> {
    let (id, upstream) = find(control, caller, id)?;
    if upstream.policy.gives_all(caller) {
        Ok((id, upstream))
    } else {
        Err(ControlError::Forbidden("starting and stopping needs every permission on the server"))
    }
}

fn runtime_type(server: &Server) -> &'static str {
    use crate::catalog::RemoteKind;
    match &server.runtime {
        Runtime::Local(_) => "local-process",
        Runtime::Remote(remote) => match remote.kind {
            RemoteKind::Http => "remote-http",
            RemoteKind::Sse => "remote-sse",
            RemoteKind::Raw => "raw-http",
        },
    }
}
