//! The composition: every room made, joined and started, and ended again in the right order.
//! Not here: any decision about a request. This room knows all others and is known by none.
//!
//! Building is synchronous and starts nothing; tasks begin inside Pingora's services, each of which has a runtime of
//! its own: the proxy with one thread for each core, the bridge with one, and the rest with one.

mod announce;
mod clock;
mod demo;
mod drain;
mod keep;
mod listen;
mod observe;
mod sidecar;

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::GenBackgroundService;
use pingora_proxy::http_proxy;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::{self, Entrance};
use crate::bridge::{Bridge, BridgeError, Observer};
use crate::catalog::{self, Snapshot};
use crate::conf::{AuditSink, Conf, Loaded, Sources};
use crate::control::{Control, Reload, Settings};
use crate::document::Mistakes;
use crate::hub::Hub;
use crate::limit::{Buckets, Gate};
use crate::listener::{self, ListenError, Listening};
use crate::proxy::{Admission, Forwarding, Proxy, Recorder};
use crate::session::{self, Sealer};
use crate::telemetry::{self, AccessLog, Audit, Meters};
use crate::upstream::Fleet;
use demo::Demo;
use drain::Drain;
use listen::ProxyService;
use sidecar::{BridgeService, Sidecar};

/// Gateways that may share a state directory: more are a loop that starts them.
const GATEWAYS_MAX: u8 = 32;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The catalog is wrong.
    #[error(transparent)]
    Catalog(#[from] Mistakes),
    /// A listener cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The state directory cannot be used.
    #[error("state directory {}: {source}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The audit log cannot be opened.
    #[error("audit log {}: {source}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The session key cannot be used.
    #[error(transparent)]
    Key(#[from] session::KeyError),
    /// The credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] auth::SetupError),
    /// The bridge cannot be made.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// Something that only a mistake of ours explains.
    #[error("internal: {0}")]
    Internal(String),
}

/// Runs the gateway with what was `loaded` from `sources` until a signal ends it. The sources' environment answers
/// `${NAME}` in the catalog.
pub fn run(loaded: Loaded, sources: Sources) -> Result<(), StartError> {
    let Loaded { conf, warnings, file, .. } = loaded;
    let conf = &conf;
    telemetry::init_log(&conf.log);
    telemetry::watch_panics();
    warn_of(&warnings);
    let started = (Instant::now(), SystemTime::now());
    listen::raise_descriptor_limit();
    make_state_dir(conf)?;
    let listening = Listening::bind(conf)?;
    let demo = Demo::prepare(conf, sources.env.clone())?;
    let built = build(conf, &demo, (sources, file), started)?;
    serve(conf, demo, listening, built)
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
    /// The audit log and its file, if it has one of its own.
    audit_log: Option<(AccessLog, File)>,
    meters: Arc<Meters>,
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
    (sources, file): (Sources, Option<PathBuf>),
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
    warn_of(&auth::review(conf, &catalog));
    bridge.reconcile(&catalog);
    meters.reloaded(catalog.generation, started.0.elapsed());
    let idle = conf.limits.idle_connections_max;
    let fleet = Arc::new(Fleet::new(catalog, bridge.socket(), idle, Arc::clone(&meters)));
    let hub = Arc::new(Hub::new(Arc::clone(&fleet), sealer, conf.limits));
    let entrance = Arc::new(Entrance::new(conf.access.clone(), conf.limits.tokens_max)?);
    let buckets = Arc::new(Buckets::new(conf.limits.buckets_max));
    let gate = Gate::new(conf.limits.in_flight_max, conf.limits.streams_max);
    let phases = Phases::new();
    let access_log = AccessLog::default();
    let (audit, audit_log) = audit(conf, &access_log)?;
    let shown = || (Arc::clone(&meters), audit.clone());
    let places = (fleet, Arc::clone(&bridge));
    let reload = Arc::new(Reload::new(demo.source(conf), places, Arc::clone(&entrance), shown()));
    let settings = Settings::new(sources, file, conf.clone(), Arc::clone(&entrance), shown());
    let control_socket = bridge.socket().with_file_name("control.sock");
    let forwarding = Forwarding::new(&control_socket).map_err(|e| internal(&e))?;
    let control = Arc::new(Control {
        listeners: conf.listeners.clone(),
        entrance: Arc::clone(&entrance),
        buckets: Arc::clone(&buckets),
        hub: Arc::clone(&hub),
        bridge: Arc::clone(&bridge),
        meters: Arc::clone(&meters),
        audit: audit.clone(),
        reload,
        settings,
        draining: phases.draining.subscribe(),
        started,
    });
    let admission = Admission::new(conf, entrance, buckets, gate.clone(), Arc::clone(&meters));
    let recorder = Recorder::new(access_log.clone(), audit, Arc::clone(&meters));
    let proxy = Proxy::new(Arc::clone(&hub), admission, forwarding, recorder, conf.limits);
    let proxy = proxy.drain_on(phases.draining.subscribe());
    Ok(Built { hub, bridge, control, access_log, audit_log, meters, proxy, gate, phases, control_socket })
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
fn serve(conf: &Conf, demo: Demo, listening: Listening, built: Built) -> Result<(), StartError> {
    let Built { hub, bridge, control, access_log, audit_log, meters, proxy, gate, phases, control_socket } =
        built;
    let announcement = announce::Announcement::new(conf, &demo, listening.bound(), &hub);
    let mut server = Server::new_with_opt_and_conf(None, pingora_conf(conf));
    let bridge_socket = bridge.socket().to_owned();
    let bridge_service =
        BridgeService { bridge, stopping: phases.stopping.subscribe(), gone: phases.children_gone.clone() };
    let audit = control.audit.clone();
    let sidecar = Sidecar {
        control,
        control_socket: control_socket.clone(),
        catalog: conf.catalog.clone(),
        samples: demo.into_listener(),
        stopping: phases.stopping.subscribe(),
    };
    let mut proxy = http_proxy(&server.configuration, proxy);
    let (server_options, h2_options) = listener::http_options(&conf.limits);
    (proxy.server_options, proxy.h2_options) = (Some(server_options), Some(h2_options));
    let proxy = ProxyService {
        proxy: Arc::new(proxy),
        listening: Some(listening),
        meters,
        audit,
        draining: phases.draining.subscribe(),
        private: vec![bridge_socket, control_socket],
        announcement,
    };
    server.add_service(GenBackgroundService::new("bridge".into(), Arc::new(bridge_service)));
    server.add_service(GenBackgroundService::new("sidecar".into(), Arc::new(sidecar)));
    server.add_service(proxy);
    write_log(&access_log, std::io::stdout());
    let mut logs = vec![access_log];
    if let Some((log, file)) = audit_log {
        write_log(&log, file);
        logs.push(log);
    }
    let drain = Drain { phases, gate, patience: conf.drain, logs };
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    Ok(())
}

/// Where audit lines go, and the log and file that want a thread of their own.
fn audit(conf: &Conf, access_log: &AccessLog) -> Result<(Audit, Option<(AccessLog, File)>), StartError> {
    match &conf.log.audit {
        AuditSink::Off => Ok((Audit::off(), None)),
        AuditSink::Stdout => Ok((Audit::to(access_log.clone()), None)),
        AuditSink::File(path) => {
            let file =
                Audit::open(path).map_err(|source| StartError::Audit { path: path.clone(), source })?;
            let log = AccessLog::default();
            Ok((Audit::to(log.clone()), Some((log, file))))
        }
    }
}

/// A log's own thread: a slow reader of standard output must hold up nothing else.
fn write_log(log: &AccessLog, out: impl std::io::Write + Send + 'static) {
    let log = log.clone();
    #[expect(clippy::disallowed_methods, reason = "one thread that writes a log until `AccessLog::close`")]
    std::thread::spawn(move || log.run(out));
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
    match &conf.catalog {
        Some(path) => check_file(path, variables),
        None => demo::built_in(&demo::placeholders(variables)),
    }
}

/// Another catalog, as a run would load it; for `plan`.
pub fn check_file(path: &Path, variables: Vec<(String, String)>) -> Result<Snapshot, Mistakes> {
    catalog::load(path, 1, &demo::placeholders(variables))
}
