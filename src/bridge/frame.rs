//! Lines: what a child writes, cut at line ends under a cap; what it reads, one message on one line.
//! Not here: what the lines say (`desk`).

use std::collections::VecDeque;

use bytes::{Buf as _, BytesMut};
use serde_json::value::RawValue;

/// Cuts a stream into lines. A line over the cap is thrown away but for its ends; it is reported when it grows
/// over the cap, and once more when it is over.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: BytesMut,
    scanned: usize,
    /// What is kept of the overlong line that is being thrown away.
    discarding: Option<Ends>,
    /// An overlong line that is over and was not told yet.
    dropped: Option<Ends>,
    grown: bool,
    line_bytes_max: usize,
}

/// One step of [`Lines`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A line, without its end.
    Line(BytesMut),
    /// A line grew over the cap. It may go on for long.
    TooLong,
    /// That line is over, and this is all that was kept of it.
    Dropped(Ends),
}

/// How a line that was thrown away began and ended: enough to tell whom it was for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Its first bytes, at most [`END_BYTES`].
    pub(super) head: Vec<u8>,
    /// Its last bytes, at most [`END_BYTES`]; in a short line they overlap the first ones.
    pub(super) tail: Vec<u8>,
}

/// Kept of each end of a line that is thrown away: an envelope without its result fits many times.
const END_BYTES: usize = 256;

impl Ends {
    fn of(piece: &[u8]) -> Self {
        let mut ends = Self::default();
        ends.add(piece);
        ends
    }

    /// Takes the next bytes of the line.
    fn add(&mut self, piece: &[u8]) {
        let missing = END_BYTES - self.head.len();
        self.head.extend_from_slice(piece.get(..missing).unwrap_or(piece));
        let last = piece.get(piece.len().saturating_sub(END_BYTES)..).unwrap_or_default();
        self.tail.drain(..(self.tail.len() + last.len()).saturating_sub(END_BYTES));
        self.tail.extend_from_slice(last);
    }
}

/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;
/// A buffer that held more than this is not kept.
const GROWN_BYTES: usize = 256 * 1024;

impl Lines {
    /// Lines of at most `line_bytes_max` bytes.
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            discarding: None,
            dropped: None,
            grown: false,
            line_bytes_max,
        }
    }

    /// Where the next bytes are to be read to; there is always room.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        if self.buffer.is_empty() && std::mem::take(&mut self.grown) {
            // The memory of a long line is given back.
            self.buffer = BytesMut::new();
        }
        self.grown |= self.buffer.len() > GROWN_BYTES;
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// The next whole line in the buffer.
    pub(super) fn cut(&mut self) -> Option<Cut> {
        loop {
            if let Some(ends) = self.dropped.take() {
                return Some(Cut::Dropped(ends));
            }
            let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
            let Some(at) = memchr::memchr(b'\n', fresh) else {
                self.scanned = self.buffer.len();
                if let Some(ends) = &mut self.discarding {
                    ends.add(&self.buffer);
                    self.buffer.clear();
                    self.scanned = 0;
                } else if self.buffer.len() > self.line_bytes_max {
                    self.discarding = Some(Ends::of(&self.buffer));
                    self.scanned = 0;
                    // A new buffer, so that the memory of the long line is given back.
                    self.buffer = BytesMut::new();
                    return Some(Cut::TooLong);
                }
                return None;
            };
            let end = self.scanned + at;
            self.scanned = 0;
            let mut line = self.buffer.split_to(end);
            self.buffer.advance(1);
            if let Some(mut ends) = self.discarding.take() {
                ends.add(&line);
                return Some(Cut::Dropped(ends));
            }
            if line.len() > self.line_bytes_max {
                self.dropped = Some(Ends::of(&line));
                return Some(Cut::TooLong);
            }
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if !line.is_empty() {
                return Some(Cut::Line(line));
            }
        }
    }

    /// What stands in the buffer after the last line end, when nothing more will come.
    pub(super) fn rest(&mut self) -> Option<BytesMut> {
        let rest = std::mem::take(&mut self.buffer);
        (!rest.is_empty() && self.discarding.is_none()).then_some(rest)
    }
}

/// The last lines of a stream, within a number of bytes.
#[derive(Debug)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    bytes_max: usize,
}

/// A line of stderr is cut to this many bytes: enough for a stack frame, not for a dump.
pub(super) const STDERR_LINE_BYTES_MAX: usize = 8 * 1024;
/// An error tells at most this many lines and bytes of stderr: enough for a traceback's end.
const TOLD_LINES_MAX: usize = 20;
const TOLD_BYTES_MAX: usize = 4 * 1024;

impl Tail {
    /// Keeps at most `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds a line; the oldest ones leave.
    pub(super) fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > self.bytes_max || self.lines.len() > self.bytes_max / 16 {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// The last lines, few enough for an error message.
    pub(super) fn told(&self) -> Vec<String> {
        let mut bytes = 0;
        let mut lines: Vec<String> = self
            .lines
            .iter()
            .rev()
            .take(TOLD_LINES_MAX)
            .take_while(|line| {
                bytes += line.len().min(TOLD_BYTES_MAX);
                bytes <= TOLD_BYTES_MAX
            })
            .map(|line| line.chars().take(TOLD_BYTES_MAX / 4).collect())
            .collect();
        lines.reverse();
        lines
    }

    /// All lines that are kept.
    pub(super) fn all(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

/// `body` with some of the values that were borrowed from it replaced.
pub(super) fn rewrite(body: &[u8], changes: &[(Option<&RawValue>, &str)]) -> Vec<u8> {
    let mut spans: Vec<(usize, usize, &str)> = changes
        .iter()
        .filter_map(|(value, new)| {
            let text = value.as_ref()?.get();
            let start = (text.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
            (start + text.len() <= body.len()).then_some((start, start + text.len(), *new))
        })
        .collect();
    spans.sort_unstable_by_key(|(start, ..)| *start);
    let mut out = Vec::with_capacity(body.len() + 32);
    let mut from = 0;
    for (start, end, new) in spans {
        out.extend_from_slice(body.get(from..start).unwrap_or_default());
        out.extend_from_slice(new.as_bytes());
        from = end;
    }
    out.extend_from_slice(body.get(from..).unwrap_or_default());
    out
}

/// [`rewrite`], and all of it on one line, its end included. A line break in JSON can only be white space
/// between values, so it becomes a space.
pub(super) fn one_line(body: &[u8], changes: &[(Option<&RawValue>, &str)]) -> Vec<u8> {
    let mut line = rewrite(body, changes);
    if memchr::memchr2(b'\n', b'\r', &line).is_some() {
        for byte in &mut line {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(lines: &mut Lines, piece: &[u8]) -> Vec<Cut> {
        lines.buffer().extend_from_slice(piece);
        std::iter::from_fn(|| lines.cut()).collect()
    }

    fn line(text: &str) -> Cut {
        Cut::Line(BytesMut::from(text))
    }

    #[test]
    fn cuts_lines_whatever_the_pieces() {
        let mut lines = Lines::new(100);
        assert_eq!(feed(&mut lines, b"a\r\n\nb"), [line("a")]);
        assert_eq!(feed(&mut lines, b"c\nd\n"), [line("bc"), line("d")]);
        assert_eq!(lines.rest(), None);
    }

    #[test]
    fn a_long_line_is_told_once_and_costs_no_memory() {
        let mut lines = Lines::new(1000);
        let mut told = Vec::new();
        for _ in 0..1000 {
            told.extend(feed(&mut lines, &[b'x'; 1000]));
            assert!(lines.buffer.len() <= 2000);
        }
        assert_eq!(told, [Cut::TooLong], "before its end");
        told.extend(feed(&mut lines, b"end of it\nnext\n"));
        let tail = [&[b'x'; END_BYTES - 9][..], b"end of it"].concat();
        let ends = Ends { head: vec![b'x'; END_BYTES], tail };
        assert_eq!(told, [Cut::TooLong, Cut::Dropped(ends), line("next")]);
    }

    /// The ends of one long line do not depend on how it comes in, and the lines around it are whole.
    #[track_caller]
    fn check_ends(long: &[u8], piece_bytes: usize) {
        let stream = [b"before\n", long, b"\nafter\n"].concat();
        let mut lines = Lines::new(20);
        let told: Vec<Cut> = stream.chunks(piece_bytes).flat_map(|piece| feed(&mut lines, piece)).collect();
        let ends = Ends {
            head: long[..long.len().min(END_BYTES)].to_vec(),
            tail: long[long.len().saturating_sub(END_BYTES)..].to_vec(),
        };
        assert_eq!(told, [line("before"), Cut::TooLong, Cut::Dropped(ends), line("after")]);
    }

    #[test]
    fn the_ends_of_a_long_line_are_kept_whatever_the_pieces() {
        let long: Vec<u8> = (0..2000_u32).map(|n| b'a' + (n % 23) as u8).collect();
        for bytes in [21, 22, 255, 256, 257, 300, 511, 512, 513, 2000] {
            for piece_bytes in [1, 7, 255, 256, 257, 1000, 10_000] {
                check_ends(&long[..bytes], piece_bytes);
            }
        }
    }

    #[test]
    fn a_long_line_without_an_end_has_no_rest() {
        let mut lines = Lines::new(20);
        assert_eq!(feed(&mut lines, &[b'x'; 30]), [Cut::TooLong]);
        assert_eq!(feed(&mut lines, b"more"), []);
        assert_eq!(lines.rest(), None);
    }

    #[test]
    fn the_tail_keeps_the_last_lines_within_its_bytes() {
        let mut tail = Tail::new(1000);
        for n in 0..10_000 {
            tail.push(format!("line {n}"));
        }
        assert!(tail.all().iter().map(String::len).sum::<usize>() <= 1000);
        let told = tail.told();
        assert_eq!(told.len(), 20);
        assert_eq!(told.last().map(String::as_str), Some("line 9999"));
    }

    #[test]
    fn a_message_becomes_one_line_with_its_values_replaced() {
        let body = b"{\n \"id\": \"a\\nb\",\r\n \"params\":{\"t\":7}}";
        let id_end = 9 + 6;
        let text = std::str::from_utf8(body).unwrap();
        let map: std::collections::BTreeMap<&str, &RawValue> = serde_json::from_str(text).unwrap();
        assert_eq!(map["id"].get().len(), id_end - 9);
        let line = one_line(body, &[(Some(map["params"]), "{}"), (Some(map["id"]), "17"), (None, "x")]);
        assert_eq!(String::from_utf8(line).unwrap(), "{  \"id\": 17,   \"params\":{}}\n");
    }
}
