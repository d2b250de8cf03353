//! What runs beside the proxy, in services of its own.
//! Not here: the bridge, the control plane and the rest themselves (their rooms); this file lets them run and end.
//!
//! The bridge has one service, and the control plane, the catalog's watch, health checks and the demo's servers another.

use std::fs;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::clock;
use super::keep::keep;
use super::overload::Overload;
use super::systemd;
use crate::bridge::Children;
use crate::catalog::{Seen, Watch};
use crate::control::{self, Control};
use crate::failpoint;
use crate::sample;

/// The bridge, and word of its end.
pub(super) struct BridgeService {
    pub(super) children: Children,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) gone: watch::Sender<bool>,
}

#[async_trait]
impl BackgroundService for BridgeService {
    async fn start(&self, _shutdown: ShutdownWatch) {
        match &self.children {
            Children::Here(bridge) => keep("bridge", |_| bridge.serve(self.stopping.clone())).await,
            Children::There(outside) => keep("bridge", |_| outside.watch(self.stopping.clone())).await,
        }
        self.gone.send_replace(true);
    }
}

/// The rest.
pub(super) struct Sidecar {
    pub(super) control: Arc<Control>,
    pub(super) control_socket: PathBuf,
    pub(super) catalog: Option<PathBuf>,
    pub(super) samples: Mutex<Option<std::net::TcpListener>>,
    pub(super) overload: Overload,
    /// Files that change from then on are a successor's.
    pub(super) leaving: watch::Receiver<bool>,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) probes_closed: watch::Sender<bool>,
}

#[async_trait]
impl BackgroundService for Sidecar {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let mut samples = self.samples.lock().take();
        tokio::join!(
            keep("control", |_| self.serve_control()),
            keep("catalog", |again| self.watch_catalog(again)),
            keep("settings", |again| self.watch_settings(again)),
            keep("reload", |_| self.reload_on_signal()),
            keep("health", |_| self.watch_health()),
            keep("load", |_| self.look_around()),
            keep("keys", |_| self.control.entrance.keep_keys(self.stopping.clone())),
            keep("clock", |_| clock::watch(&self.control.audit, self.stopping.clone())),
            // The demo's: its listener is gone with it.
            keep("samples", |_| serve_samples(samples.take(), self.stopping.clone())),
        );
    }
}

impl Sidecar {
    async fn watch_health(&self) {
        self.control.hub.fleet().watch_health(self.stopping.clone()).await;
        self.probes_closed.send_replace(true);
    }

    /// Looks at what the process bears, and tells systemd how it goes.
    async fn look_around(&self) {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            () = systemd::tell_status(self.control.hub.fleet()) => {}
            () = self.overload.watch() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    async fn serve_control(&self) {
        match bind(&self.control_socket) {
            Ok(listener) => control::serve(Arc::clone(&self.control), listener, self.stopping.clone()).await,
            Err(error) => tracing::error!(%error, "the control plane cannot bind its socket"),
        }
    }

    /// Loads the catalog anew whenever its content changes. What was found in it is reported where it was found.
    async fn watch_catalog(&self, again: bool) {
        let (Some(path), Some(seen)) = (&self.catalog, self.control.reload.seen()) else { return };
        follow(path, (seen, again), self.leaving.clone(), || drop(self.control.reload.run())).await;
    }

    /// Loads the configuration anew whenever its content changes.
    async fn watch_settings(&self, again: bool) {
        let Some((path, seen)) = self.control.settings.file() else { return };
        follow(path, (seen, again), self.leaving.clone(), || drop(self.control.settings.run())).await;
    }

    /// `SIGHUP` loads both files, changed or not.
    async fn reload_on_signal(&self) {
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut leaving = self.leaving.clone();
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => pending().await,
                }
            };
            tokio::select! {
                () = asked => {
                    systemd::reloading();
                    let _ = self.control.settings.run();
                    let _ = self.control.reload.run();
                    // What is wrong stays out of force and in the log: the gateway itself is as ready as before.
                    systemd::ready();
                }
                _ = leaving.wait_for(|leaving| *leaving) => return,
            }
        }
    }
}

/// Calls `reload` whenever a file has other content than was seen, until `stopping` turns true; at once if it is watched
/// `again`.
pub(super) async fn follow(
    path: &Path,
    (seen, again): (&Seen, bool),
    mut stopping: watch::Receiver<bool>,
    reload: impl Fn(),
) {
    let file = path.display();
    let mut watch = match Watch::start(path, seen.clone()) {
        Ok(watch) => watch,
        Err(error) => return tracing::error!(%error, %file, "a file is not watched"),
    };
    if let Some(trouble) = watch.trouble() {
        tracing::warn!(%trouble, %file, "a file's directory cannot be watched: its content is polled");
    }
    if again {
        // What was seen last may not have been loaded.
        reload();
    }
    loop {
        tokio::select! {
            () = watch.changed() => {
                failpoint::pass("watch");
                reload();
            }
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// A private socket in place of one that an earlier run left behind.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

async fn serve_samples(listener: Option<std::net::TcpListener>, stopping: watch::Receiver<bool>) {
    let Some(listener) = listener else { return };
    match TcpListener::from_std(listener) {
        Ok(listener) => sample::serve_http(listener, stopping).await,
        Err(error) => tracing::error!(%error, "the sample servers cannot listen"),
    }
}
