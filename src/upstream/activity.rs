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
    /// When the server came into use; 0 while it is stopped.
    started_ms: AtomicU64,
}

impl Activity {
    /// A request for the server arrived.
    pub fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let now = now_ms();
        self.last_ms.store(now, Ordering::Relaxed);
        if self.started_ms.load(Ordering::Relaxed) == 0 {
            self.started_ms.store(now, Ordering::Relaxed);
        }
    }

    /// The server comes into use; returns whether that is news.
    pub fn start(&self) -> bool {
        self.started_ms.compare_exchange(0, now_ms(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The server goes out of use until the next request; returns whether that is news.
    pub fn stop(&self) -> bool {
        self.started_ms.swap(0, Ordering::Relaxed) != 0
    }

    /// When the server came into use.
    pub fn started_at(&self) -> Option<SystemTime> {
        time(self.started_ms.load(Ordering::Relaxed))
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
        time(self.last_ms.load(Ordering::Relaxed))
    }
}

fn now_ms() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn time(ms: u64) -> Option<SystemTime> {
    (ms > 0).then(|| UNIX_EPOCH + Duration::from_millis(ms))
}
