//! Loads of the catalog while the gateway runs: by the watch, by signal and by hand, one at a time.
//! Not here: reading and checking the file (`catalog`); what the bridge and the fleet do with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Shared;
use super::error::ControlError;
use crate::auth::Entrance;
use crate::bridge::Children;
use crate::catalog::{self, Changes, Seen, Snapshot};
use crate::document::Mistakes;
use crate::telemetry::{Audit, Meters};
use crate::upstream::Fleet;

/// Where a catalog comes from.
pub enum CatalogSource {
    /// A file, read at each load with the variables given here.
    File {
        /// Its path.
        path: PathBuf,
        /// Variables for `${NAME}`.
        variables: Vec<(String, String)>,
        /// What it held at the latest load.
        seen: Seen,
        /// The one server that is taken from it, if not all are.
        only: Option<String>,
    },
    /// The built-in one, which never changes.
    BuiltIn,
}

impl CatalogSource {
    fn load(&self, generation: u64) -> Option<Result<Snapshot, Mistakes>> {
        match self {
            Self::File { path, variables, seen, only } => {
                seen.again();
                let lookup =
                    |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, v)| v.clone());
                let loaded = catalog::load(path, generation, &lookup);
                Some(match only {
                    Some(server) => loaded.and_then(|snapshot| snapshot.only(server, path)),
                    None => loaded,
                })
            }
            Self::BuiltIn => None,
        }
    }
}

/// A load that changed nothing because the file is wrong.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) at: SystemTime,
    /// Where the first mistake is, and of what kind; nothing that the file says.
    pub(super) place: String,
    /// The first mistake in full.
    pub(super) message: String,
}

/// Loads the catalog and makes it what the gateway works with.
pub struct Reload {
    source: CatalogSource,
    fleet: Arc<Fleet>,
    children: Children,
    entrance: Arc<Entrance>,
    meters: Arc<Meters>,
    audit: Audit,
    failure: Mutex<Option<Failure>>,
    /// One load at a time: the lock is held from reading to the swap, which never waits.
    loading: Mutex<()>,
}

impl Reload {
    /// Loads from `source` into `fleet` and `children`.
    pub fn new(
        source: CatalogSource,
        (fleet, children): (Arc<Fleet>, Children),
        entrance: Arc<Entrance>,
        (meters, audit): (Arc<Meters>, Audit),
    ) -> Self {
        let (failure, loading) = (Mutex::default(), Mutex::default());
        Self { source, fleet, children, entrance, meters, audit, failure, loading }
    }

    /// Loads the catalog. A file with mistakes changes nothing; the mistakes are logged, counted and remembered.
    pub fn run(&self) -> Result<Changes, Mistakes> {
        let _one_at_a_time = self.loading.lock();
        let started = Instant::now();
        let old = Arc::clone(&self.fleet.view().catalog);
        let loaded = match self.source.load(old.generation + 1) {
            None => return Ok(old.changes_since(&old)),
            Some(loaded) => loaded,
        };
        let snapshot = match loaded {
            Ok(snapshot) => Arc::new(snapshot),
            Err(mistakes) => {
                self.failed(&mistakes);
                return Err(mistakes);
            }
        };
        let changes = snapshot.changes_since(&old);
        // The bridge first: a call that the new view sends must find its child's place.
        let leaving = self.children.reconcile(&snapshot);
        self.fleet.reconcile(Arc::clone(&snapshot));
        self.failure.lock().take();
        // Rules may be others: whoever has a stream open may have lost the right to it, or be offered something else.
        self.entrance.tell();
        // Now that no new call comes to them, and streams that end with them know why.
        drop(leaving);
        self.meters.reloaded(snapshot.generation, started.elapsed());
        self.tell("ok");
        tracing::info!(generation = snapshot.generation, "{changes}");
        for warning in &snapshot.warnings.list {
            tracing::warn!("{}", warning.one_line());
        }
        Ok(changes)
    }

    fn tell(&self, result: &str) {
        self.audit.write("reload", |line| line.text("what", "catalog").text("result", result));
    }

    fn failed(&self, mistakes: &Mistakes) {
        self.meters.reload_failed();
        self.tell("failed");
        tracing::error!("the catalog was not reloaded; the previous one stays in force\n{mistakes}");
        let first = mistakes.first();
        let place = first.map_or_else(String::new, |m| {
            format!("{}:{}:{} {} ({} in all)", m.file, m.line, m.column, m.code.as_str(), mistakes.list.len())
        });
        let message = mistakes.brief();
        *self.failure.lock() = Some(Failure { at: SystemTime::now(), place, message });
    }

    /// What the catalog's file held at the latest load; the built-in one has no file.
    pub fn seen(&self) -> Option<&Seen> {
        match &self.source {
            CatalogSource::File { seen, .. } => Some(seen),
            CatalogSource::BuiltIn => None,
        }
    }

    pub(super) fn last_failure(&self) -> Option<Failure> {
        self.failure.lock().clone()
    }
}

/// `POST /admin/reload`.
pub(super) async fn by_hand(State(control): Shared) -> Result<Json<Value>, ControlError> {
    control.settings.run().map_err(|mistakes| {
        ControlError::Internal(format!("Failed to reload configuration: {}", mistakes.brief()))
    })?;
    let changes = control.reload.run().map_err(|mistakes| {
        ControlError::Internal(format!("Failed to reload catalog: {}", mistakes.brief()))
    })?;
    Ok(Json(json!({
        "status": "ok",
        "message": "Catalog reloaded",
        "servers_loaded": control.hub.fleet().view().catalog.servers.len(),
        "servers_added": changes.added.len(),
        "servers_removed": changes.removed.len(),
    })))
}
