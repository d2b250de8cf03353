//! One JSON line for every exchange, formatted by the request and written by one thread.
//! Not here: what stands in a line (`proxy/record`).
//!
//! A request only appends to a buffer; it never waits for the disk, a pipe or a terminal. The buffer is bounded:
//! when its reader is too slow, lines are dropped and counted instead of holding calls up.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Lines that may wait: about 10,000 of them.
const BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A batch this large is written at once.
const BATCH_BYTES: usize = 64 * 1024;
/// A line waits this long at most.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// The access log of the process.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    closed: bool,
    written: bool,
    dropped: u64,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), wake: Condvar::new() }))
    }
}

impl AccessLog {
    /// Adds a line. Returns whether there was room for it.
    pub fn write(&self, line: Line) -> bool {
        let mut state = self.0.state.lock();
        if state.buffer.len() + line.0.len() > BUFFER_BYTES_MAX {
            state.dropped += 1;
            return false;
        }
        let was_small = state.buffer.len() < BATCH_BYTES;
        state.buffer.extend_from_slice(line.finish().as_bytes());
        if was_small && state.buffer.len() >= BATCH_BYTES {
            self.0.wake.notify_one();
        }
        true
    }

    /// Writes lines to `out` until [`AccessLog::close`]; runs on a thread of its own.
    pub fn run(&self, mut out: impl Write) {
        loop {
            let (batch, closed) = {
                let mut state = self.0.state.lock();
                if state.buffer.len() < BATCH_BYTES && !state.closed {
                    self.0.wake.wait_for(&mut state, BATCH_TIME);
                }
                (std::mem::take(&mut state.buffer), state.closed)
            };
            // A log whose reader has gone is no reason to stop serving.
            let _ = out.write_all(&batch).and_then(|()| out.flush());
            if closed && batch.is_empty() {
                self.0.state.lock().written = true;
                self.0.wake.notify_all();
                return;
            }
        }
    }

    /// Ends [`AccessLog::run`] and waits, for a bounded time, until every line is written.
    pub fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        self.0.wake.notify_all();
        if !state.written {
            self.0.wake.wait_for(&mut state, Duration::from_secs(1));
        }
    }

    /// Lines that found no room.
    pub fn dropped(&self) -> u64 {
        self.0.state.lock().dropped
    }
}

/// A JSON object under construction.
#[derive(Debug)]
pub struct Line(String);

impl Line {
    /// An empty object.
    pub fn new() -> Self {
        let mut text = String::with_capacity(448);
        text.push('{');
        Self(text)
    }

    /// Adds a text.
    pub fn text(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        self.0.push('"');
        let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        if value.bytes().all(plain) {
            // Nearly every value, and copied at once.
            self.0.push_str(value);
            self.0.push('"');
            return self;
        }
        for part in value.chars() {
            match part {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                // Line breaks and terminal controls, so that no input forges a line or moves a cursor.
                c if c.is_control() => drop(write!(self.0, "\\u{:04x}", u32::from(c))),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
        self
    }

    /// Adds a text, if there is one.
    pub fn maybe(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    /// Adds what prints as plain text without quotes, such as an address or a time.
    pub fn plain(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.key(key);
        let _ = write!(self.0, "\"{value}\"");
        self
    }

    /// Adds a whole number.
    pub fn number(mut self, key: &str, value: u64) -> Self {
        self.key(key);
        let _ = write!(self.0, "{value}");
        self
    }

    /// Adds a duration in milliseconds with microseconds.
    pub fn millis(mut self, key: &str, value: Duration) -> Self {
        self.key(key);
        let micros = value.as_micros();
        let _ = write!(self.0, "{}.{:03}", micros / 1000, micros % 1000);
        self
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    fn finish(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_line_is_one_json_object_whatever_is_in_it(text in "\\PC*|[\u{0}-\u{9f}\"\\\\]*", number: u64) {
            let line = Line::new().text("a", &text).number("n", number).millis("ms", Duration::from_micros(1500));
            let line = line.finish();
            prop_assert_eq!(line.matches('\n').count(), 1);
            let value: serde_json::Value = serde_json::from_str(&line)?;
            prop_assert_eq!(value["a"].as_str(), Some(text.as_str()));
            prop_assert_eq!(value["ms"].as_f64(), Some(1.5));
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_not_memory() {
        let log = AccessLog::default();
        let wrote = (0..40_000).filter(|_| log.write(Line::new().text("x", &"y".repeat(200)))).count();
        assert!(wrote < 40_000 && log.dropped() > 0);
        assert!(log.0.state.lock().buffer.len() <= BUFFER_BYTES_MAX + 2);
    }
}
