//! The control plane: the native API of the Open MCP Gateway's contract, health for orchestrators, and metrics.
//! Not here: MCP itself (`proxy`, `hub`). Pingora forwards to this room's private socket like to any upstream, so it
//! authenticates by itself, through the same `auth` room.

mod audit;
mod error;
mod health;
mod redact;
mod reload;
mod servers;
mod settings;
mod stats;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use futures_util::FutureExt as _;
use http::{HeaderMap, Uri};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::{self, Caller, Entrance, InForce, Introduction, Presented, Resource};
use crate::bridge::Children;
use crate::conf::{Limit, Listener};
use crate::failpoint;
use crate::hub::Hub;
use crate::limit::{Buckets, Decision, Draw, Layer};
use crate::telemetry::{Audit, Meters};
use error::ControlError;
pub use reload::{CatalogSource, Reload};
pub use settings::Settings;

/// What the routes work on.
pub struct Control {
    /// Where requests come in, before the proxy hands them on.
    pub listeners: Vec<Listener>,
    /// Who may call, and how often.
    pub entrance: Arc<Entrance>,
    /// Their buckets, the same ones as the proxy's.
    pub buckets: Arc<Buckets>,
    /// Servers and sessions.
    pub hub: Arc<Hub>,
    /// Children.
    pub children: Children,
    /// Metrics.
    pub meters: Arc<Meters>,
    /// Where refusals and administrative acts are told.
    pub audit: Audit,
    /// Loads of the catalog.
    pub reload: Arc<Reload>,
    /// Loads of the configuration.
    pub settings: Settings,
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

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Anybody: load balancers and orchestrators ask without a key.
    Nothing,
    /// A caller, who sees what it may use. Starting and stopping a server takes all of that server.
    Caller,
    /// A caller who may use every server.
    EveryServer,
}

/// One route: what a request has to be, and who may make it.
pub struct Route {
    /// Its method.
    pub verb: &'static str,
    /// Its path; `{id}` stands for a server's id.
    pub path: &'static str,
    /// Who may use it.
    pub needs: Needs,
    handler: fn() -> MethodRouter<Arc<Control>>,
}

const fn route(
    verb: &'static str,
    path: &'static str,
    needs: Needs,
    handler: fn() -> MethodRouter<Arc<Control>>,
) -> Route {
    Route { verb, path, needs, handler }
}

/// Every route there is: the router is made of this table, so that none is without a word on who may use it.
pub const ROUTES: [Route; 10] = [
    route("GET", "/health", Needs::Nothing, || get(health::health)),
    route("GET", "/livez", Needs::Nothing, || get(health::livez)),
    route("GET", "/readyz", Needs::Nothing, || get(health::readyz)),
    route("GET", "/metrics", Needs::Caller, || get(stats::metrics)),
    route("GET", "/stats", Needs::Caller, || get(stats::stats)),
    route("GET", "/servers", Needs::Caller, || get(servers::list)),
    route("GET", "/servers/{id}", Needs::Caller, || get(servers::detail)),
    route("POST", "/servers/{id}/start", Needs::Caller, || post(servers::start)),
    route("POST", "/servers/{id}/stop", Needs::Caller, || post(servers::stop)),
    route("POST", "/admin/reload", Needs::EveryServer, || post(reload::by_hand)),
];

fn router(control: Arc<Control>) -> Router {
    let mut router = Router::new();
    for route in &ROUTES {
        let handler = (route.handler)();
        let handler = match route.needs {
            Needs::Nothing => handler,
            Needs::Caller => handler
                .layer(middleware::from_fn(whole))
                .layer(middleware::from_fn_with_state(Arc::clone(&control), admit)),
            Needs::EveryServer => handler
                .layer(middleware::from_fn(whole))
                .layer(middleware::from_fn(every_server))
                .layer(middleware::from_fn_with_state(Arc::clone(&control), admit)),
        };
        router = router.route(route.path, handler);
    }
    router
        .fallback(|| async { ControlError::NotFound("nothing is here".into()) })
        .method_not_allowed_fallback(|| async { ControlError::WrongMethod })
        .layer(middleware::from_fn(survive))
        // Around all of it: what is not there is refused as well.
        .layer(middleware::from_fn_with_state(Arc::clone(&control), audit::record))
        .with_state(control)
}

/// A panic costs one request.
async fn survive(request: Request, next: Next) -> Response {
    let answering = async {
        failpoint::pass("control");
        next.run(request).await
    };
    let answered = AssertUnwindSafe(answering).catch_unwind().await;
    answered.unwrap_or_else(|_| ControlError::Internal("a fault of the gateway".into()).into_response())
}

/// Lets only those pass who may use every server, and so act on the catalog as a whole.
async fn every_server(Extension(caller): Admitted, request: Request, next: Next) -> Response {
    if caller.may_use_all() {
        next.run(request).await
    } else {
        ControlError::Forbidden("this needs a key for all servers").into_response()
    }
}

/// A body of the native API: a few settings. It is held in memory.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Reads a request's body before anything is done, so that nothing is done for one that breaks off.
async fn whole(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match axum::body::to_bytes(body, BODY_BYTES_MAX).await {
        Ok(body) => next.run(Request::from_parts(head, body.into())).await,
        Err(_) => ControlError::BadRequest("the body is too long or did not come whole").into_response(),
    }
}

impl Control {
    /// Takes a token from the caller's bucket, which is the same one that its calls draw on.
    fn take(&self, caller: &Caller, everybody: Option<Limit>) -> Result<Option<Decision>, Decision> {
        let rate = caller.limit.or(everybody).and_then(|limit| limit.rate);
        let key = self.buckets.key(Layer::Caller, &caller.id);
        let draw = rate.map(|rate| Draw { key, rate, cost: 1, layer: Layer::Caller });
        self.buckets.take(draw.as_slice())
    }
}

/// Authenticates a request and takes a token from its caller's bucket.
async fn admit(State(control): Shared, mut request: Request, next: Next) -> Response {
    let in_force = Arc::clone(&control.entrance.in_force());
    let caller = match authenticate(&control, &in_force, request.headers(), request.uri()).await {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    let decision = match control.take(&caller, in_force.access.limit) {
        Ok(decision) => decision,
        Err(decision) => {
            control.meters.rate_limited(decision.layer.as_str());
            return ControlError::RateLimited(decision).into_response();
        }
    };
    request.extensions_mut().insert(Arc::clone(&caller));
    let mut response = next.run(request).await;
    response.extensions_mut().insert(audit::Actor(caller));
    if let Some(decision) = &decision {
        error::rate_headers(response.headers_mut(), decision);
    }
    response
}

async fn authenticate(
    control: &Control,
    in_force: &InForce,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<Arc<Caller>, ControlError> {
    // The proxy introduces every request. Without that nobody knows which kinds of callers may come.
    let stranger = || ControlError::Forbidden("this request came by no listener");
    let introduction = Introduction::find(headers).ok_or_else(stranger)?;
    let listener = control.listeners.iter().find(|listener| listener.name == introduction.listener);
    let listener = listener.ok_or_else(stranger)?;
    let public_url = listener.public_url.as_ref();
    // The control plane is no resource of its own: its tokens are the whole gateway's.
    let resource = public_url.map(|public_url| Resource { public_url, path: "" });
    let presented = Presented {
        headers,
        query: uri.query(),
        certificate: introduction.certificate(),
        resource,
        kinds: listener.kinds,
    };
    let result = in_force.authenticator.authenticate(&presented).await;
    let (method, result_name) = auth::labels(result.as_deref().map_err(|error| *error));
    control.meters.authentications(method, result_name).inc();
    result.map_err(|error| {
        let server = in_force.authenticator.resource_server();
        let challenge = error.challenge().map(|why| server.challenge(resource, why));
        ControlError::Unauthenticated { error, token: auth::shows_token(headers), challenge }
    })
}

/// The caller that `admit` found.
type Admitted = Extension<Arc<Caller>>;
