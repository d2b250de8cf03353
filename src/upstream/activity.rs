//! What a server has been asked so far: counters for the native API, kept across reloads.
//! Not here: metrics (`telemetry`), which have labels.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Counters of one server.
#[derive(Debug, Default)]
pub struct Activity {
    requests: AtomicU64,
    errors: AtomicU64,
    last_ms: AtomicU64,
}

impl Activity {
    /// A request for the server arrived.
    pub fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        self.last_ms.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// It ended in a failure of transport or time.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Failures so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// When the last request arrived.
    pub fn last(&self) -> Option<SystemTime> {
        let ms = self.last_ms.load(Ordering::Relaxed);
        (ms > 0).then(|| UNIX_EPOCH + Duration::from_millis(ms))
    }
}
