//! `text/event-stream`: an incremental decoder that looks on while bytes pass, and an encoder.
//! Not here: who forwards the bytes (`proxy/write`) or makes events (`bridge/serve`).
//!
//! Format: WHATWG HTML, section 9.2.6 "Interpreting an event stream".

mod event;
mod split;

use bytes::Bytes;
pub use event::{Event, EventReader, Overlong};
use memchr::memchr2;
pub use split::Splitter;

/// May stand before the first line, and means nothing.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Sees the data of each event in a stream that is handed over in arbitrary pieces.
///
/// Memory is bounded: an event whose data exceeds the cap is reported as `None`.
#[derive(Debug)]
pub struct Decoder {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    overlong: bool,
    after_cr: bool,
    saw_id: bool,
    begun: bool,
    data_bytes_max: usize,
}

impl Decoder {
    /// A decoder that keeps at most `data_bytes_max` bytes of one event.
    pub fn new(data_bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            overlong: false,
            after_cr: false,
            saw_id: false,
            begun: false,
            data_bytes_max,
        }
    }

    /// Whether an event had an id, so that a client can resume the stream after it.
    pub fn is_resumable(&self) -> bool {
        self.saw_id
    }

    /// Whether the event that the stream stands within exceeds the cap already, whether or not it ever ends.
    pub fn is_overlong(&self) -> bool {
        self.overlong
    }

    /// Whether the stream stands within an event, so that whoever adds one has to end that first.
    pub fn is_within_event(&self) -> bool {
        self.has_data || self.overlong || !self.line.is_empty()
    }

    /// Takes the next piece; calls `each` with the data of every event that ends in it.
    pub fn feed(&mut self, mut piece: &[u8], mut each: impl FnMut(Option<&[u8]>)) {
        while !piece.is_empty() {
            if std::mem::take(&mut self.after_cr)
                && let Some(rest) = piece.strip_prefix(b"\n")
            {
                piece = rest;
                continue;
            }
            match memchr2(b'\n', b'\r', piece) {
                None => {
                    self.keep(piece);
                    return;
                }
                Some(end) => {
                    let (line, rest) = piece.split_at(end);
                    self.keep(line);
                    self.after_cr = rest.first() == Some(&b'\r');
                    piece = rest.get(1..).unwrap_or_default();
                    self.end_line(&mut each);
                }
            }
        }
    }

    fn keep(&mut self, part: &[u8]) {
        // "data: " is allowed for, so that the cap speaks of data alone.
        if self.line.len() + part.len() > self.data_bytes_max + 6 {
            self.overlong = true;
        } else {
            self.line.extend_from_slice(part);
        }
    }

    fn end_line(&mut self, each: &mut impl FnMut(Option<&[u8]>)) {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.begun, true) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if (self.has_data || !self.overlong) && line.is_empty() {
            if self.overlong {
                each(None);
            } else if self.has_data {
                each(Some(&self.data));
            }
            self.data.clear();
            self.has_data = false;
            self.overlong = false;
        } else if let Some(value) = line.strip_prefix(b"data").and_then(field_value) {
            if self.data.len() + value.len() > self.data_bytes_max {
                self.overlong = true;
            } else {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            self.has_data = true;
        } else if line.starts_with(b"id:") {
            self.saw_id = true;
        } else if self.overlong {
            self.has_data = true;
        }
        self.line = line;
        self.line.clear();
    }
}

/// What follows a field's name: nothing, or a colon, an optional space and the value.
fn field_value(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [] => Some(rest),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// One `message` event that carries a JSON-RPC message without line breaks.
pub fn encode_event(message: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(message.len() + 24);
    event.extend_from_slice(b"event: message\ndata: ");
    event.extend_from_slice(message);
    event.extend_from_slice(b"\n\n");
    Bytes::from(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]], cap: usize) -> Vec<Option<String>> {
        let mut events = Vec::new();
        let mut decoder = Decoder::new(cap);
        for piece in pieces {
            decoder.feed(piece, |data| events.push(data.map(|d| String::from_utf8_lossy(d).into_owned())));
        }
        events
    }

    #[test]
    fn reads_events() {
        let text = b": hi\n\nid: 1\ndata: a\ndata: b\n\nevent: x\r\ndata:c\r\n\r\ndata\n\nretry: 3\n\n";
        let events = decode(&[text], 100);
        assert_eq!(events, [Some("a\nb".into()), Some("c".into()), Some(String::new())]);
    }

    #[test]
    fn an_event_over_the_cap_is_told_without_its_data_and_the_next_is_whole() {
        let text = b"data: 0123456789abcdef0123456789\n\ndata: ok\n\n";
        assert_eq!(decode(&[text], 8), [None, Some("ok".into())]);
    }

    /// A text in pieces, cut at those of the places that are in it.
    pub(super) fn pieces(text: &str, mut cuts: Vec<usize>) -> Vec<&[u8]> {
        cuts.retain(|cut| *cut < text.len());
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([text.len()]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        starts.zip(ends).map(|(start, end)| &text.as_bytes()[start..end]).collect()
    }

    proptest! {
        #[test]
        fn decoding_does_not_depend_on_the_pieces(
            text in "((data|id|event)?:? ?[a-c]{0,9}(\r\n|\n|\r)){0,20}",
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            prop_assert_eq!(decode(&pieces(&text, cuts), 16), decode(&[text.as_bytes()], 16));
        }
    }
}
