//! Loads of the configuration while the gateway runs: who may come in and how often is taken over at once.
//! Not here: the catalog's loads (`reload`); what the configuration says (`conf`).
//!
//! Listeners, bounds and directories are what the process was built with: a change of those waits for a restart, and
//! the log says so. A file with mistakes changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::auth::Entrance;
use crate::catalog::Seen;
use crate::conf::{self, Conf, Sources};
use crate::document::{Code, Mistake, Mistakes};
use crate::telemetry::{Audit, Meters};

/// Loads the configuration and puts what it says about access in force.
pub struct Settings {
    sources: Sources,
    file: Option<(PathBuf, Seen)>,
    running: Conf,
    entrance: Arc<Entrance>,
    meters: Arc<Meters>,
    audit: Audit,
    /// One load at a time.
    loading: Mutex<()>,
}

impl Settings {
    /// Loads from `sources` what a gateway takes over that runs with `running`, which was read from `file`.
    pub fn new(
        sources: Sources,
        file: Option<PathBuf>,
        running: Conf,
        entrance: Arc<Entrance>,
        (meters, audit): (Arc<Meters>, Audit),
    ) -> Self {
        let file = file.map(|path| {
            let seen = Seen::look(&path);
            (path, seen)
        });
        Self { sources, file, running, entrance, meters, audit, loading: Mutex::default() }
    }

    /// The configuration's file and what it held at the latest load, if there is one to watch.
    pub fn file(&self) -> Option<&(PathBuf, Seen)> {
        self.file.as_ref()
    }

    /// Loads the configuration. What keeps it from being taken over is logged and counted.
    pub fn run(&self) -> Result<(), Mistakes> {
        let _one_at_a_time = self.loading.lock();
        if let Some((_, seen)) = &self.file {
            seen.again();
        }
        let loaded = conf::load(self.sources.clone()).inspect_err(|mistakes| {
            self.meters.reload_failed();
            self.tell("failed");
            tracing::error!(
                "the configuration was not reloaded; the previous one stays in force\n{mistakes}"
            );
        })?;
        for warning in &loaded.warnings.list {
            tracing::warn!("{}", warning.one_line());
        }
        for setting in waiting(&self.running, &loaded.conf) {
            tracing::warn!(setting, "a change of this setting waits for a restart");
        }
        if self.running.access.auth.is_configured() && !loaded.conf.access.auth.is_configured() {
            // Without any credential everybody may call, which is why such a gateway listens on loopback only; this
            // one may be open to the world.
            let words =
                "the configuration has no credential left: the previous one stays in force until a restart";
            return Err(self.refused(Code::Missing, words.to_owned()));
        }
        if let Err(error) = self.entrance.replace(loaded.conf.access) {
            let words =
                format!("the configuration was not reloaded; the previous one stays in force: {error}");
            return Err(self.refused(Code::InvalidValue, words));
        }
        self.tell("ok");
        tracing::info!("configuration reloaded");
        Ok(())
    }

    /// A configuration that is right by itself, and that a running gateway does not take over.
    fn refused(&self, code: Code, words: String) -> Mistakes {
        self.meters.reload_failed();
        self.tell("failed");
        tracing::error!("{words}");
        let file = self.file.as_ref().map_or_else(String::new, |(path, _)| path.display().to_string());
        Mistakes::one(Mistake::whole(file, code, words))
    }

    fn tell(&self, result: &str) {
        self.audit.write("reload", |line| line.text("what", "configuration").text("result", result));
    }
}

/// Settings that differ and that a running gateway cannot take over.
fn waiting<'n>(running: &Conf, new: &Conf) -> impl Iterator<Item = &'n str> {
    [
        ("listeners", running.listeners != new.listeners),
        ("catalog", running.catalog != new.catalog),
        ("state_dir", running.state_dir != new.state_dir),
        ("bridge", running.bridge != new.bridge),
        ("threads", running.threads != new.threads),
        ("drain", running.drain != new.drain),
        ("limits", running.limits != new.limits),
        ("log", running.log != new.log),
        ("session", running.session != new.session),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
}
