//! The proxy as one of Pingora's services: it accepts once everything behind it answers.
//! Not here: sockets and connections (`listener`), what happens on them (`proxy`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use pingora_proxy::HttpProxy;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::announce::Announcement;
use super::inherit::Inheritance;
use super::running::PidFile;
use super::systemd;
use crate::limit::{Level, Pressure};
use crate::listener::Listening;
use crate::proxy::Proxy;
use crate::telemetry::{Audit, Meters};

/// The private services are there long before this, or never.
const START_MAX: Duration = Duration::from_secs(10);

/// Of the descriptors that the process may have, clients get this share: calls, children and files need the rest.
const CLIENTS_PERCENT: u64 = 80;
/// And at least so many are left: runtimes, logs and sockets take some forty, places for probes sixteen, each with two
/// more to the control plane.
const OTHERS_MIN: u64 = 96;

/// How many descriptors the process may have: as many as the system lets it. Every call holds some, and the soft limit of
/// many systems is 1024.
pub(super) fn descriptors() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft < hard {
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => return Some(hard),
            Err(error) => tracing::warn!(%error, soft, "cannot raise the limit of open files"),
        }
    }
    Some(soft)
}

/// How many connections there may be: as many as are configured, unless there are not enough descriptors for them.
pub(super) fn connections_max(configured: usize) -> usize {
    let Some(descriptors) = descriptors() else { return configured };
    let share = descriptors.saturating_mul(CLIENTS_PERCENT) / 100;
    let most = share.min(descriptors.saturating_sub(OTHERS_MIN)).max(1);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if most < configured {
        tracing::info!(
            descriptors,
            connections = most,
            configured,
            "fewer connections, for want of descriptors"
        );
    }
    configured.min(most)
}

/// The proxy's service.
pub(super) struct ProxyService {
    pub(super) proxy: Arc<HttpProxy<Proxy>>,
    /// `None` once it has started.
    pub(super) listening: Option<Listening>,
    pub(super) meters: Arc<Meters>,
    pub(super) audit: Audit,
    /// Our own signal: accepting stops when draining begins, while calls in flight go on.
    pub(super) draining: watch::Receiver<bool>,
    /// Connections on which nothing is asked end.
    pub(super) hanging_up: watch::Receiver<bool>,
    /// What was taken over, and whom to tell that it is in use.
    pub(super) inheritance: Inheritance,
    pub(super) pid_file: PidFile,
    /// What is shed for want of memory.
    pub(super) pressure: Pressure,
    /// Sockets of the services behind it.
    pub(super) private: Vec<PathBuf>,
    pub(super) announcement: Announcement,
}

/// Lets no connections in while there is no memory for them.
async fn pause(pressure: Pressure, paused: &watch::Sender<bool>) {
    let mut levels = pressure.connections();
    loop {
        let is_full = *levels.borrow_and_update() == Level::Full;
        paused.send_replace(is_full);
        if levels.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[async_trait]
impl Service for ProxyService {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        let until = Instant::now() + START_MAX;
        for socket in &self.private {
            while UnixStream::connect(socket).await.is_err() {
                if Instant::now() > until {
                    tracing::error!(socket = %socket.display(), "a private service did not start");
                    return;
                }
                sleep(Duration::from_millis(1)).await;
            }
        }
        let Some(listening) = self.listening.take() else { return };
        if self.inheritance.is_any() {
            self.announcement.without_guide();
        }
        self.announcement.make();
        self.pid_file.write();
        self.inheritance.ready();
        systemd::ready();
        let shown = (&self.meters, &self.audit);
        let (paused, pauses) = watch::channel(false);
        let phases = (self.draining.clone(), self.hanging_up.clone(), pauses);
        tokio::select! {
            () = listening.serve(Arc::clone(&self.proxy), shown, phases) => {}
            // On this runtime, because it is the one that has to run.
            () = systemd::keep_awake() => {}
            () = pause(self.pressure.clone(), &paused) => {}
        }
    }

    fn name(&self) -> &str {
        "proxy"
    }
}
