//! How the processes of a local server are divided among its callers, and how many there may be.
//! Not here: what a process is started with (`model`), or how it is kept to this (`bridge`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who shares a process of a local server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everybody: each instance serves all callers.
    #[default]
    Shared,
    /// Nobody: each legacy session has a process of its own, with traffic both ways.
    PerSession,
    /// The sessions and requests of one caller.
    PerCaller,
}

impl Mode {
    /// Its name in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerSession => "per_session",
            Self::PerCaller => "per_caller",
        }
    }
}

/// The processes of a local server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Children {
    /// Who shares one.
    pub mode: Mode,
    /// How many there may be, warm ones included; not for shared ones, which are counted by instances.
    pub max_processes: usize,
    /// How many of them one caller may have.
    pub max_per_caller: usize,
    /// How many are kept started for sessions or callers to come.
    pub warm: usize,
    /// A process of this age takes no new calls, and stops after its last; `None` lets it live.
    pub max_age: Option<Duration>,
    /// Silence, with calls waiting, after which a process is pinged, and then killed; `None` never does.
    pub hang_timeout: Option<Duration>,
}

impl Default for Children {
    /// What a server gets whose catalog says nothing. Sixty-four interpreters are a few GiB; one person's clients
    /// hold a handful of sessions; and a minute without a word is longer than a server thinks at a stretch.
    fn default() -> Self {
        Self {
            mode: Mode::Shared,
            max_processes: 64,
            max_per_caller: 16,
            warm: 0,
            max_age: None,
            hang_timeout: Some(Duration::from_secs(60)),
        }
    }
}
