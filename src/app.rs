//! The composition: every room made, joined and started, and ended again in the right order.
//! Not here: any decision about a request. This room knows all others and is known by none.
//!
//! Building is synchronous and starts nothing; tasks begin inside Pingora's services, each of which has a runtime of
//! its own: the proxy with one thread for each core, the bridge with one, and the rest with one.

mod announce;
mod demo;
mod drain;
mod listen;
mod observe;
mod sidecar;

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::GenBackgroundService;
use pingora_proxy::http_proxy_service;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::Authenticator;
use crate::bridge::{Bridge, BridgeError, Observer};
use crate::catalog::{self, Snapshot};
use crate::conf::Conf;
use crate::control::{Control, Reload};
use crate::document::Mistakes;
use crate::hub::Hub;
use crate::limit::{Buckets, Gate};
use crate::proxy::{Admission, Forwarding, Proxy, Recorder};
use crate::session::{self, Sealer};
use crate::telemetry::{self, AccessLog, Meters};
use crate::upstream::Fleet;
use demo::Demo;
use drain::Drain;
use listen::{Bound, Listening};
use sidecar::{BridgeService, Sidecar};

/// Gateways that may share a state directory: more are a loop that starts them.
const GATEWAYS_MAX: u8 = 32;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The catalog is wrong.
    #[error(transparent)]
    Catalog(#[from] Mistakes),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The state directory cannot be used.
    #[error("state directory {}: {source}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The session key cannot be used.
    #[error(transparent)]
    Key(#[from] session::KeyError),
    /// The bridge cannot be made.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// Something that only a mistake of ours explains.
    #[error("internal: {0}")]
    Internal(String),
}

/// Runs the gateway until a signal ends it. `variables` answer `${NAME}` in the catalog; `warnings` are what was found
/// in the configuration, for the log.
pub fn run(conf: &Conf, warnings: &Mistakes, variables: Vec<(String, String)>) -> Result<(), StartError> {
    telemetry::init_log(&conf.log);
    warn_of(warnings);
    let started = (Instant::now(), SystemTime::now());
    listen::raise_descriptor_limit();
    make_state_dir(conf)?;
    let bound = Bound::bind(conf)?;
    let demo = Demo::prepare(conf, variables)?;
    let built = build(conf, &demo, &bound, started)?;
    serve(conf, demo, bound, built)
}

fn warn_of(warnings: &Mistakes) {
    for warning in &warnings.list {
        tracing::warn!("{}", warning.one_line());
    }
}

fn make_state_dir(conf: &Conf) -> Result<(), StartError> {
    let failed = |source| StartError::State { path: conf.state_dir.clone(), source };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&conf.state_dir).map_err(failed)
}

/// The rooms, joined.
struct Built {
    hub: Arc<Hub>,
    bridge: Arc<Bridge>,
    control: Arc<Control>,
    access_log: AccessLog,
    proxy: Proxy,
    gate: Gate,
    phases: Phases,
    control_socket: PathBuf,
}

/// The gateway's end, in steps; each turns true once.
struct Phases {
    draining: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    children_gone: watch::Sender<bool>,
}

fn build(
    conf: &Conf,
    demo: &Demo,
    bound: &Bound,
    started: (Instant, SystemTime),
) -> Result<Built, StartError> {
    let internal = |error: &dyn std::fmt::Display| StartError::Internal(error.to_string());
    let meters = Arc::new(Meters::new(conf.limits.tool_labels_max).map_err(|e| internal(&e))?);
    let sealer =
        Sealer::new(&session::load_key(conf.session.key.as_ref(), &conf.state_dir)?, conf.session.ttl);
    let observer = Arc::new(observe::Counted::new(Arc::clone(&meters)));
    let bridge = open_bridge(conf, observer)?;
    let catalog = Arc::new(demo.load(conf)?);
    warn_of(&catalog.warnings);
    bridge.reconcile(&catalog);
    meters.reloaded(catalog.generation, started.0.elapsed());
    let idle = conf.limits.idle_connections_max;
    let fleet = Arc::new(Fleet::new(catalog, bridge.socket(), idle, Arc::clone(&meters)));
    let hub = Arc::new(Hub::new(Arc::clone(&fleet), sealer, conf.limits));
    let source = demo.source(conf);
    let reload = Arc::new(Reload::new(source, fleet, Arc::clone(&bridge), Arc::clone(&meters)));
    let authenticator = Arc::new(Authenticator::new(&conf.access.auth));
    let buckets = Arc::new(Buckets::new(conf.limits.buckets_max));
    let gate = Gate::new(conf.limits.in_flight_max);
    let phases = Phases::new();
    let control_socket = bridge.socket().with_file_name("control.sock");
    let forwarding = Forwarding::new(&control_socket).map_err(|e| internal(&e))?;
    let control = Arc::new(Control {
        authenticator: Arc::clone(&authenticator),
        buckets: Arc::clone(&buckets),
        rate: conf.access.limit.and_then(|limit| limit.rate),
        hub: Arc::clone(&hub),
        bridge: Arc::clone(&bridge),
        meters: Arc::clone(&meters),
        reload,
        draining: phases.draining.subscribe(),
        started,
    });
    let admission = Admission::new(conf, authenticator, buckets, gate.clone(), Arc::clone(&meters));
    let access_log = AccessLog::default();
    let recorder = Recorder::new(access_log.clone(), meters);
    let proxy = Proxy::new(Arc::clone(&hub), admission, forwarding, recorder, conf.limits);
    let proxy = proxy.drain_on(phases.draining.subscribe());
    tracing::debug!(address = %bound.address, "built");
    Ok(Built { hub, bridge, control, access_log, proxy, gate, phases, control_socket })
}

/// The bridge in the state directory. A gateway that runs beside another one on the same directory shares its session
/// key, and gets a folder of its own there for its children.
fn open_bridge(conf: &Conf, observer: Arc<observe::Counted>) -> Result<Arc<Bridge>, BridgeError> {
    let mut folder = conf.state_dir.clone();
    for number in 2..=GATEWAYS_MAX {
        match Bridge::new(&folder, conf.limits, Arc::clone(&observer) as Arc<dyn Observer>) {
            Err(BridgeError::Locked(_)) => folder = conf.state_dir.join(format!("gateway-{number}")),
            done => return done,
        }
    }
    Bridge::new(&folder, conf.limits, observer)
}

impl Phases {
    fn new() -> Self {
        let phase = || watch::channel(false).0;
        Self { draining: phase(), stopping: phase(), children_gone: phase() }
    }
}

/// Starts the services and stays until they have ended.
fn serve(conf: &Conf, demo: Demo, bound: Bound, built: Built) -> Result<(), StartError> {
    let Built { hub, bridge, control, access_log, proxy, gate, phases, control_socket } = built;
    let announcement = announce::Announcement::new(conf, &demo, &bound, &hub);
    let mut server = Server::new_with_opt_and_conf(None, pingora_conf(conf));
    let bridge_socket = bridge.socket().to_owned();
    let bridge_service =
        BridgeService { bridge, stopping: phases.stopping.subscribe(), gone: phases.children_gone.clone() };
    let sidecar = Sidecar {
        control,
        control_socket: control_socket.clone(),
        catalog: conf.catalog.clone(),
        samples: demo.into_listener(),
        stopping: phases.stopping.subscribe(),
    };
    let proxy = http_proxy_service(&server.configuration, proxy);
    let draining = phases.draining.subscribe();
    let listening = Listening::new(proxy, bound, draining, vec![bridge_socket, control_socket], announcement);
    server.add_service(GenBackgroundService::new("bridge".into(), Arc::new(bridge_service)));
    server.add_service(GenBackgroundService::new("sidecar".into(), Arc::new(sidecar)));
    server.add_service(listening);
    write_access_log(&access_log);
    let drain = Drain { phases, gate, patience: conf.drain, access_log };
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    Ok(())
}

/// The access log's own thread: a slow reader of standard output must hold up nothing else.
fn write_access_log(log: &AccessLog) {
    let log = log.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "one thread that writes the access log until `AccessLog::close`"
    )]
    std::thread::spawn(move || log.run(std::io::stdout()));
}

fn pingora_conf(conf: &Conf) -> ServerConf {
    let state = |name: &str| conf.state_dir.join(name).display().to_string();
    ServerConf {
        threads: conf.threads,
        work_stealing: true,
        // Draining is ours (`drain`); Pingora's own is a sleep.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        max_retries: 1,
        pid_file: state("tollgate.pid"),
        upgrade_sock: state("upgrade.sock"),
        ..ServerConf::default()
    }
}

/// The catalog that a run of these settings would start with; for `validate`.
pub fn check(conf: &Conf, variables: Vec<(String, String)>) -> Result<Snapshot, Mistakes> {
    let lookup = demo::placeholders(variables);
    match &conf.catalog {
        Some(path) => catalog::load(path, 1, &lookup),
        None => demo::built_in(&lookup),
    }
}
