//! The composition: every room made, joined and started, and ended again in the right order.
//! Not here: any decision about a request. This room knows all others and is known by none.
//!
//! Building is synchronous and starts nothing; tasks begin inside Pingora's services, each of which has a runtime of
//! its own: the proxy with one thread for each core, the bridge with one, and the rest with one.

mod alone;
mod announce;
mod clock;
mod demo;
mod drain;
mod inherit;
mod keep;
mod listen;
mod observe;
mod overload;
mod private;
mod running;
mod sidecar;
mod systemd;
mod upgrade;

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::GenBackgroundService;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::{self, Entrance};
use crate::bridge::{Bridge, BridgeError, Children, Observer, Outside};
use crate::catalog::{self, Snapshot};
use crate::conf::{AuditSink, Conf, Loaded, Sources};
use crate::control::{Control, Reload, Settings};
use crate::document::Mistakes;
use crate::hub::Hub;
use crate::limit::{Buckets, Gate, Pressure, Scale};
use crate::listener::{self, ListenError, Listening};
use crate::proxy::{Admission, Ending, Forwarding, Load, Proxy, Recorder};
use crate::session::{self, Sealer};
use crate::telemetry::{self, AccessLog, Audit, Meters};
use crate::upstream::Fleet;
pub use alone::bridge;
use demo::Demo;
use drain::Drain;
pub use inherit::Inheritance;
use listen::ProxyService;
use overload::Overload;
pub use private::Private;
use running::PidFile;
pub use running::{Attempt, running_pid};
use sidecar::{BridgeService, Sidecar};
use upgrade::Succession;

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
    /// What a new binary would be given cannot be had.
    #[error("cannot prepare for upgrades: {0}")]
    Succession(std::io::Error),
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
/// `${NAME}` in the catalog. What it has `inherited` it takes over from a process that then ends.
pub fn run(loaded: Loaded, sources: Sources, inherited: &mut Inheritance) -> Result<(), StartError> {
    run_as(loaded, sources, inherited, None)
}

/// The same, for nobody but this process: with `private` saying which server, and when to end.
pub fn run_privately(loaded: Loaded, sources: Sources, private: Private) -> Result<(), StartError> {
    run_as(loaded, sources, &mut Inheritance::default(), Some(private))
}

fn run_as(
    loaded: Loaded,
    sources: Sources,
    inherited: &mut Inheritance,
    private: Option<Private>,
) -> Result<(), StartError> {
    let Loaded { mut conf, warnings, file, .. } = loaded;
    telemetry::init_log(&conf.log);
    telemetry::watch_panics();
    warn_of(&warnings);
    let started = (Instant::now(), SystemTime::now());
    conf.limits.connections_max = listen::connections_max(conf.limits.connections_max);
    let conf = &conf;
    make_state_dir(conf)?;
    let listening = Listening::bind(conf, std::mem::take(&mut inherited.sockets))?;
    let succession = Succession::new(listening.bound()).map_err(StartError::Succession)?;
    let mut demo = Demo::prepare(conf, sources.env.clone())?;
    demo.only = private.as_ref().map(|private| private.server.clone());
    let built = build(conf, &demo, (sources, file), started)?;
    if inherited.is_any() {
        built.meters.life().upgraded("ok");
    }
    let life = Life { succession, inheritance: std::mem::take(inherited), private };
    serve(conf, demo, (listening, life), built)
}

/// What comes before and after this process, and whose it is alone.
struct Life {
    succession: Succession,
    inheritance: Inheritance,
    private: Option<Private>,
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
    children: Children,
    control: Arc<Control>,
    access_log: AccessLog,
    /// The audit log and its file, if it has one of its own.
    audit_log: Option<(AccessLog, File)>,
    meters: Arc<Meters>,
    proxy: Proxy,
    load: Load,
    phases: Phases,
    control_socket: PathBuf,
}

/// The gateway's end, in steps; each turns true once.
struct Phases {
    /// Answers ask for another connection, and `/readyz` fails.
    leaving: watch::Sender<bool>,
    /// No sessions are begun.
    closed: watch::Sender<bool>,
    /// Nothing is accepted, and streams that are held open to listen end.
    draining: watch::Sender<bool>,
    /// Connections on which nothing is asked end.
    hanging_up: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    children_gone: watch::Sender<bool>,
    /// Sessions that were opened to ask for health are closed.
    probes_closed: watch::Sender<bool>,
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
    let (children, control_socket) = open_children(conf, observer)?;
    let catalog = Arc::new(demo.load(conf)?);
    warn_of(&catalog.warnings);
    warn_of(&auth::review(conf, &catalog));
    drop(children.reconcile(&catalog));
    meters.reloaded(catalog.generation, started.0.elapsed());
    let idle = conf.limits.idle_connections_max;
    let fleet = Arc::new(Fleet::new(catalog, children.socket(), idle, Arc::clone(&meters)));
    let hub = Arc::new(Hub::new(Arc::clone(&fleet), sealer, conf.limits).bounded(conf.bounds));
    let entrance = Arc::new(Entrance::new(conf.access.clone(), conf.limits.tokens_max)?);
    let buckets = Arc::new(Buckets::new(conf.limits.buckets_max));
    let gate = Gate::new(conf.limits.in_flight_max, conf.limits.streams_max);
    let phases = Phases::new();
    let access_log = AccessLog::default();
    let (audit, audit_log) = audit(conf, &access_log, &meters)?;
    let shown = || (Arc::clone(&meters), audit.clone());
    let places = (fleet, children.clone());
    let reload = Arc::new(Reload::new(demo.source(conf), places, Arc::clone(&entrance), shown()));
    let settings = Settings::new(sources, file, conf.clone(), Arc::clone(&entrance), shown());
    let forwarding = Forwarding::new(&control_socket).map_err(|e| internal(&e))?;
    let control = Arc::new(Control {
        listeners: conf.listeners.clone(),
        entrance: Arc::clone(&entrance),
        buckets: Arc::clone(&buckets),
        hub: Arc::clone(&hub),
        children: children.clone(),
        meters: Arc::clone(&meters),
        audit: audit.clone(),
        reload,
        settings,
        draining: phases.leaving.subscribe(),
        started,
    });
    let load = Load { gate, scale: Scale::default(), pressure: Pressure::default() };
    let admission = Admission::new(conf, entrance, buckets, load.clone(), Arc::clone(&meters));
    let recorder = Recorder::new(access_log.clone(), audit, Arc::clone(&meters));
    let proxy = Proxy::new(Arc::clone(&hub), admission, forwarding, recorder, conf.limits);
    let proxy = proxy.ending_with(phases.ending()).resume(conf.session.resume);
    Ok(Built { hub, children, control, access_log, audit_log, meters, proxy, load, phases, control_socket })
}

/// Where children are, and the control plane's socket.
fn open_children(conf: &Conf, observer: Arc<observe::Counted>) -> Result<(Children, PathBuf), StartError> {
    const CONTROL: &str = "control.sock";
    match &conf.bridge {
        Some(socket) => {
            let outside = Arc::new(Outside::at(socket, observer));
            Ok((Children::There(outside), open_folder(conf)?.join(CONTROL)))
        }
        None => {
            let bridge = open_bridge(conf, observer)?;
            let control_socket = bridge.socket().with_file_name(CONTROL);
            Ok((Children::Here(bridge), control_socket))
        }
    }
}

/// A folder in the state directory for the sockets of a gateway whose bridge is elsewhere; several gateways have several.
fn open_folder(conf: &Conf) -> Result<PathBuf, StartError> {
    let failed = |source| StartError::State { path: conf.state_dir.clone(), source };
    for number in 1..=GATEWAYS_MAX {
        let folder = conf.state_dir.join(format!("run-{number}"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock"));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {
                // Held until the process ends, however it ends.
                std::mem::forget(lock);
                return Ok(folder);
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
    Err(StartError::Bridge(BridgeError::Locked(conf.state_dir.clone())))
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
        Self {
            leaving: phase(),
            closed: phase(),
            draining: phase(),
            hanging_up: phase(),
            stopping: phase(),
            children_gone: phase(),
            probes_closed: phase(),
        }
    }

    /// What requests notice of it.
    fn ending(&self) -> Ending {
        Ending {
            leaving: self.leaving.subscribe(),
            closed: self.closed.subscribe(),
            draining: self.draining.subscribe(),
        }
    }
}

/// Starts the services and stays until they have ended.
fn serve(
    conf: &Conf,
    demo: Demo,
    (listening, life): (Listening, Life),
    built: Built,
) -> Result<(), StartError> {
    let Built { hub, children, control, access_log, audit_log, meters, proxy, load, phases, control_socket } =
        built;
    let mut announcement = announce::Announcement::new(conf, &demo, listening.bound(), &hub);
    // Its standard output is its client's.
    let access_lines: Box<dyn std::io::Write + Send> =
        if life.private.is_some() { Box::new(std::io::sink()) } else { Box::new(std::io::stdout()) };
    let stop = life.private.map(|private| {
        announcement.tell(private.ready);
        private.stop
    });
    let mut server = Server::new_with_opt_and_conf(None, pingora_conf(conf));
    let bridge_service = BridgeService {
        children: children.clone(),
        stopping: phases.stopping.subscribe(),
        gone: phases.children_gone.clone(),
    };
    let audit = control.audit.clone();
    let occupancy = listening.occupancy();
    let sidecar = Sidecar {
        control,
        control_socket: control_socket.clone(),
        catalog: conf.catalog.clone(),
        samples: demo.into_listener(),
        overload: Overload::new(conf, load.clone(), occupancy.clone(), (hub, Arc::clone(&meters))),
        leaving: phases.leaving.subscribe(),
        stopping: phases.stopping.subscribe(),
        probes_closed: phases.probes_closed.clone(),
    };
    let proxy = ProxyService {
        proxy: on_pingora(&server, proxy, conf),
        listening: Some(listening),
        meters: Arc::clone(&meters),
        audit: audit.clone(),
        inheritance: life.inheritance,
        pid_file: PidFile::of(&conf.state_dir),
        draining: phases.draining.subscribe(),
        hanging_up: phases.hanging_up.subscribe(),
        pressure: load.pressure,
        private: private_sockets(&children, control_socket),
        announcement,
    };
    server.add_service(GenBackgroundService::new("bridge".into(), Arc::new(bridge_service)));
    server.add_service(GenBackgroundService::new("sidecar".into(), Arc::new(sidecar)));
    server.add_service(proxy);
    let logs = write_logs(access_log, access_lines, audit_log);
    let drain = Drain {
        phases,
        gate: load.gate.clone(),
        children,
        delay: conf.drain_delay,
        patience: conf.drain,
        logs,
        occupancy,
        succession: Mutex::new(Some(Arc::new(life.succession))),
        state_dir: conf.state_dir.clone(),
        meters,
        audit,
        stop,
    };
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    Ok(())
}

/// Sockets of services that have to answer before clients are let in. A bridge elsewhere may come later, and go and
/// come again.
fn private_sockets(children: &Children, control_socket: PathBuf) -> Vec<PathBuf> {
    match children {
        Children::Here(bridge) => vec![bridge.socket().to_owned(), control_socket],
        Children::There(_) => vec![control_socket],
    }
}

/// The proxy as Pingora serves it.
fn on_pingora(server: &Server, proxy: Proxy, conf: &Conf) -> Arc<HttpProxy<Proxy>> {
    let mut proxy = http_proxy(&server.configuration, proxy);
    let (server_options, h2_options) = listener::http_options(&conf.limits);
    (proxy.server_options, proxy.h2_options) = (Some(server_options), Some(h2_options));
    Arc::new(proxy)
}

/// Where audit lines go, and the log and file that want a thread of their own.
fn audit(
    conf: &Conf,
    access_log: &AccessLog,
    meters: &Arc<Meters>,
) -> Result<(Audit, Option<(AccessLog, File)>), StartError> {
    match &conf.log.audit {
        AuditSink::Off => Ok((Audit::off(), None)),
        AuditSink::Stdout => Ok((Audit::to(access_log.clone(), Arc::clone(meters)), None)),
        AuditSink::File(path) => {
            let file =
                Audit::open(path).map_err(|source| StartError::Audit { path: path.clone(), source })?;
            let log = AccessLog::default();
            Ok((Audit::to(log.clone(), Arc::clone(meters)), Some((log, file))))
        }
    }
}

/// Begins to write the access log, and the audit log if it is another.
fn write_logs(
    access_log: AccessLog,
    access_lines: Box<dyn std::io::Write + Send>,
    audit_log: Option<(AccessLog, File)>,
) -> Vec<AccessLog> {
    write_log(&access_log, access_lines);
    let mut logs = vec![access_log];
    if let Some((log, file)) = audit_log {
        write_log(&log, file);
        logs.push(log);
    }
    logs
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
