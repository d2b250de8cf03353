//! The bridge as a process of its own: `tollgate bridge`.
//! Not here: the gateway (`app`), what a bridge does (`bridge`).
//!
//! It has one thread, the first one: children with a sandbox end with the thread that forked them. It reads the catalog
//! by itself, at the start, when the file changes, at `SIGHUP`, and when it is asked for a server that it does not know.
//! A gateway reads the same file by itself; neither tells the other what stands there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::SignalKind;
use tokio::sync::watch;
use tokio::time::{interval, timeout};

use super::{StartError, check, drain, listen, make_state_dir, sidecar, warn_of};
use crate::bridge::Bridge;
use crate::catalog::Seen;
use crate::conf::{Conf, Loaded, Sources};
use crate::telemetry;

/// The socket's name in the state directory, where nothing else is said.
const SOCKET: &str = "bridge.sock";
/// How often the number of calls in flight is looked at while they finish.
const LOOK: Duration = Duration::from_millis(10);

/// Runs a bridge with what was `loaded` from `sources` until a signal ends it.
///
/// # Errors
/// If the catalog is wrong, or if the state directory or the socket cannot be used.
pub fn bridge(loaded: Loaded, sources: Sources, socket: Option<PathBuf>) -> Result<(), StartError> {
    let Loaded { conf, warnings, .. } = loaded;
    telemetry::init_log(&conf.log);
    warn_of(&warnings);
    // Raised for its own sake.
    let _ = listen::descriptors();
    make_state_dir(&conf)?;
    let socket = socket.or_else(|| conf.bridge.clone()).unwrap_or_else(|| conf.state_dir.join(SOCKET));
    let bridge = Bridge::alone(&socket, &conf.state_dir, conf.limits)?;
    let source = Arc::new(Source::new(&conf, sources));
    let catalog = check(&conf, source.variables.clone())?;
    warn_of(&catalog.warnings);
    drop(bridge.reconcile(&catalog));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| StartError::Internal(error.to_string()))?;
    runtime.block_on(serve(&bridge, &source, conf.drain));
    tracing::info!("stopped");
    Ok(())
}

/// Where the catalog comes from.
struct Source {
    conf: Conf,
    variables: Vec<(String, String)>,
    seen: Option<Seen>,
    /// One load at a time.
    loading: Mutex<()>,
}

impl Source {
    fn new(conf: &Conf, sources: Sources) -> Self {
        let seen = conf.catalog.as_deref().map(Seen::look);
        Self { conf: conf.clone(), variables: sources.env, seen, loading: Mutex::default() }
    }

    /// Loads the catalog. A file with mistakes changes nothing.
    fn load(&self, bridge: &Bridge) {
        let _one_at_a_time = self.loading.lock();
        if let Some(seen) = &self.seen {
            seen.again();
        }
        match check(&self.conf, self.variables.clone()) {
            Ok(catalog) => {
                drop(bridge.reconcile(&catalog));
                tracing::info!(servers = catalog.servers.len(), "catalog loaded");
            }
            Err(mistakes) => {
                tracing::error!("the catalog was not reloaded; the previous one stays in force\n{mistakes}");
            }
        }
    }
}

async fn serve(bridge: &Arc<Bridge>, source: &Arc<Source>, patience: Duration) {
    let stopping = watch::Sender::new(false);
    // A gateway that has read the file a moment earlier sends a call for what is new in it.
    let (weak, again) = (Arc::downgrade(bridge), Arc::clone(source));
    bridge.when_unknown(move || {
        let unseen = again.seen.as_ref().is_some_and(Seen::has_changed);
        if let Some(bridge) = weak.upgrade().filter(|_| unseen) {
            again.load(&bridge);
        }
    });
    let follow = async {
        if let (Some(path), Some(seen)) = (&source.conf.catalog, &source.seen) {
            sidecar::follow(path, (seen, false), stopping.subscribe(), || source.load(bridge)).await;
        }
    };
    tokio::join!(
        bridge.serve(stopping.subscribe()),
        follow,
        reload_on_signal(bridge, source, stopping.subscribe()),
        stop_on_signal(bridge, patience, &stopping),
    );
}

/// `SIGHUP` loads the file, changed or not.
async fn reload_on_signal(bridge: &Bridge, source: &Source, mut stopping: watch::Receiver<bool>) {
    let Some(mut hangup) = drain::listen(SignalKind::hangup()) else { return };
    loop {
        tokio::select! {
            _ = hangup.recv() => source.load(bridge),
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Calls in flight may finish first. Whoever signals again has lost patience.
async fn stop_on_signal(bridge: &Bridge, patience: Duration, stopping: &watch::Sender<bool>) {
    let (mut term, mut int) =
        (drain::listen(SignalKind::terminate()), drain::listen(SignalKind::interrupt()));
    let name = drain::any(&mut term, &mut int).await;
    tracing::info!(signal = name, in_flight = bridge.in_flight(), "shutting down");
    let idle = async {
        let mut looks = interval(LOOK);
        while bridge.in_flight() > 0 {
            looks.tick().await;
        }
    };
    tokio::select! {
        drained = timeout(patience, idle) => if drained.is_err() {
            tracing::warn!(in_flight = bridge.in_flight(), "calls did not finish in time");
        },
        _ = drain::any(&mut term, &mut int) => {}
    }
    stopping.send_replace(true);
}
