//! Audit lines: one JSON object for every refusal and every administrative act.
//! Not here: what stands in a line (`proxy/record`, `control/audit`), the writing itself (`access`).
//!
//! Lines are numbered from 1, so that a line which found no room, or was lost with the process, leaves a gap that
//! can be seen. What a line repeats of a request is escaped by [`Line`]: no input makes a second line.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::{AccessLog, Line};

/// Where audit lines go.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Sink>>);

#[derive(Debug)]
struct Sink {
    log: AccessLog,
    number: AtomicU64,
}

impl Audit {
    /// Lines go to `log`, whoever writes that.
    pub fn to(log: AccessLog) -> Self {
        Self(Some(Arc::new(Sink { log, number: AtomicU64::new(1) })))
    }

    /// Lines go nowhere.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens a file to which lines are appended; only its owner can read it.
    pub fn open(path: &Path) -> std::io::Result<std::fs::File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    /// Writes a line about `event`; `fill` adds what is known. Returns whether there was room for it.
    pub fn write(&self, event: &str, fill: impl FnOnce(Line) -> Line) -> bool {
        let Some(sink) = &self.0 else { return true };
        let line = Line::new()
            .plain("time", humantime::format_rfc3339_millis(SystemTime::now()))
            .text("type", "audit")
            .number("number", sink.number.fetch_add(1, Ordering::Relaxed))
            .text("event", event);
        sink.log.write(fill(line))
    }
}
