//! The control plane: the native API of the Open MCP Gateway's contract, health for orchestrators, and metrics.
//! Not here: MCP itself (`proxy`, `hub`). Pingora forwards to this room's private socket like to any upstream, so it
//! authenticates by itself, through the same `auth` room.

mod error;
mod health;
mod redact;
mod reload;
mod servers;
mod stats;

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::{AuthError, Authenticator, Caller};
use crate::bridge::Bridge;
use crate::conf::Limit;
use crate::hub::Hub;
use crate::limit::{Buckets, Decision, Draw, Layer};
use crate::telemetry::Meters;
use error::ControlError;
pub use reload::{CatalogSource, Reload};

/// What the routes work on.
pub struct Control {
    /// Who may call.
    pub authenticator: Arc<Authenticator>,
    /// Their buckets, the same ones as the proxy's.
    pub buckets: Arc<Buckets>,
    /// The limit of callers that have none of their own.
    pub limit: Option<Limit>,
    /// Servers and sessions.
    pub hub: Arc<Hub>,
    /// Children.
    pub bridge: Arc<Bridge>,
    /// Metrics.
    pub meters: Arc<Meters>,
    /// Loads of the catalog.
    pub reload: Arc<Reload>,
    /// True once the gateway shuts down.
    pub draining: watch::Receiver<bool>,
    /// When the gateway started.
    pub started: (Instant, SystemTime),
}

type Shared = State<Arc<Control>>;

/// Serves the control plane on its private socket until `stop` turns true.
pub async fn serve(control: Arc<Control>, listener: UnixListener, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        // A sender that is gone means that the process ends.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let served = axum::serve(listener, router(control)).with_graceful_shutdown(stopped).await;
    if let Err(error) = served {
        tracing::error!(%error, "the control plane stopped");
    }
}

/// Routes that need a key, and those that orchestrators ask without one.
fn router(control: Arc<Control>) -> Router {
    let keyed = Router::new()
        .route("/stats", get(stats::stats))
        .route("/metrics", get(stats::metrics))
        .route("/servers", get(servers::list))
        .route("/servers/{id}", get(servers::detail))
        .route("/servers/{id}/start", post(servers::start))
        .route("/servers/{id}/stop", post(servers::stop))
        .route("/admin/reload", post(reload::by_hand))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&control), admit));
    let open = Router::new()
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz));
    keyed
        .merge(open)
        .fallback(|| async { ControlError::NotFound("nothing is here".into()) })
        .method_not_allowed_fallback(|| async { ControlError::WrongMethod })
        .with_state(control)
}

impl Control {
    /// Takes a token from the caller's bucket, which is the same one that its calls draw on.
    fn take(&self, caller: &Caller) -> Result<Option<Decision>, Decision> {
        let rate = caller.limit.or(self.limit).and_then(|limit| limit.rate);
        let key = self.buckets.key(Layer::Caller, &caller.id);
        let draw = rate.map(|rate| Draw { key, rate, cost: 1, layer: Layer::Caller });
        self.buckets.take(draw.as_slice())
    }
}

/// Authenticates a request and takes a token from its caller's bucket.
async fn admit(State(control): Shared, mut request: Request, next: Next) -> Response {
    let caller = match control.authenticator.authenticate(request.headers()) {
        Ok(caller) => caller,
        Err(error) => {
            match error {
                AuthError::Missing => control.meters.authentications("none", "missing").inc(),
                AuthError::Invalid => control.meters.authentications("unknown", "invalid").inc(),
            }
            return ControlError::from(error).into_response();
        }
    };
    control.meters.authentications(caller.kind.as_str(), "ok").inc();
    let decision = match control.take(&caller) {
        Ok(decision) => decision,
        Err(decision) => {
            control.meters.rate_limited(decision.layer.as_str());
            return ControlError::RateLimited(decision).into_response();
        }
    };
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    if let Some(decision) = &decision {
        error::rate_headers(response.headers_mut(), decision);
    }
    response
}

/// The caller that `admit` found.
type Admitted = Extension<Arc<Caller>>;
