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

use super::{AccessLog, Line, Meters};

/// Where audit lines go.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Sink>>);

#[derive(Debug)]
struct Sink {
    log: AccessLog,
    number: AtomicU64,
    meters: Arc<Meters>,
}

impl Audit {
    /// Lines go to `log`, whoever writes that. Those that find no room in it are counted in `meters`.
    pub fn to(log: AccessLog, meters: Arc<Meters>) -> Self {
        Self(Some(Arc::new(Sink { log, number: AtomicU64::new(1), meters })))
    }

    /// Lines go nowhere.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens a file to which lines are appended; only its owner can read it.
    pub fn open(path: &Path) -> std::io::Result<std::fs::File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    /// Writes a line about `event`; `fill` adds what is known.
    pub fn write(&self, event: &str, fill: impl FnOnce(Line) -> Line) {
        let Some(sink) = &self.0 else { return };
        let line = Line::new()
            .plain("time", humantime::format_rfc3339_millis(SystemTime::now()))
            .text("type", "audit")
            .number("number", sink.number.fetch_add(1, Ordering::Relaxed))
            .text("event", event);
        if !sink.log.write(fill(line)) {
            sink.meters.dropped("audit", 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_room_is_counted() {
        let (log, meters) = (AccessLog::default(), Arc::new(Meters::new(10).unwrap()));
        let audit = Audit::to(log, Arc::clone(&meters));
        let filler = "x".repeat(1 << 20);
        for _ in 0..6 {
            audit.write("refused", |line| line.text("path", &filler));
        }
        let shown = String::from_utf8(meters.render()).unwrap();
        assert!(shown.contains("events_dropped_total{queue=\"audit\"} 3\n"), "{shown}");
    }
}
