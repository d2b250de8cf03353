//! Events with all that is said of them: name, data, and the stream's last id and `retry`.
//! Not here: looking on while bytes pass (`Decoder`), which is cheaper and tells data alone.

use std::time::Duration;

use memchr::memchr2;

/// An id that is longer is none that a client could send back in a header.
const ID_BYTES_MAX: usize = 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name; `message` unless the stream says otherwise.
    pub name: String,
    /// Its data, lines joined by line ends.
    pub data: Vec<u8>,
}

/// An event that is longer than the reader keeps. The stream is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is too long")]
pub struct Overlong;

/// Reads a stream that is handed over in arbitrary pieces. Memory is bounded by the cap.
#[derive(Debug)]
pub struct EventReader {
    line: Vec<u8>,
    name: String,
    data: Option<Vec<u8>>,
    id: Option<String>,
    last_id: Option<String>,
    retry: Option<Duration>,
    after_cr: bool,
    begun: bool,
    event_bytes_max: usize,
}

impl EventReader {
    /// A reader that keeps at most `event_bytes_max` bytes of one event.
    pub fn new(event_bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            name: String::new(),
            data: None,
            id: None,
            last_id: None,
            retry: None,
            after_cr: false,
            begun: false,
            event_bytes_max,
        }
    }

    /// A reader of the stream that goes on where the one of `before` ended.
    pub fn resuming(before: &Self, event_bytes_max: usize) -> Self {
        Self { last_id: before.last_id.clone(), retry: before.retry, ..Self::new(event_bytes_max) }
    }

    /// The id of the last whole event that had one: where the stream can be taken up again.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref().filter(|id| !id.is_empty())
    }

    /// How long the server asks to wait before the stream is opened again.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Takes the next piece; gives every event that ends in it.
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<Vec<Event>, Overlong> {
        let mut events = Vec::new();
        while !piece.is_empty() {
            if std::mem::take(&mut self.after_cr)
                && let Some(rest) = piece.strip_prefix(b"\n")
            {
                piece = rest;
                continue;
            }
            let end = memchr2(b'\n', b'\r', piece);
            let (part, rest) = piece.split_at(end.unwrap_or(piece.len()));
            if self.line.len() + self.data.as_ref().map_or(0, Vec::len) + part.len() > self.event_bytes_max {
                return Err(Overlong);
            }
            self.line.extend_from_slice(part);
            let Some(ending) = rest.first() else { break };
            self.after_cr = *ending == b'\r';
            piece = rest.get(1..).unwrap_or_default();
            let line = std::mem::take(&mut self.line);
            events.extend(self.end_line(&line));
            self.line = line;
            self.line.clear();
        }
        Ok(events)
    }

    fn end_line(&mut self, mut line: &[u8]) -> Option<Event> {
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(super::BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            if let Some(id) = self.id.take() {
                self.last_id = Some(id);
            }
            let name = std::mem::take(&mut self.name);
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return self.data.take().map(|data| Event { name, data });
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            },
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"id" if value.len() <= ID_BYTES_MAX && !value.contains(&0) => {
                self.id = Some(String::from_utf8_lossy(value).into_owned());
            }
            b"retry" => {
                let digits = std::str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
                if let Some(millis) = digits.and_then(|text| text.parse().ok()) {
                    self.retry = Some(Duration::from_millis(millis));
                }
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pieces;
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]], cap: usize) -> (Vec<Event>, Option<String>, Option<Duration>) {
        let mut reader = EventReader::new(cap);
        let events = pieces.iter().flat_map(|piece| reader.feed(piece).unwrap()).collect();
        (events, reader.last_id().map(str::to_owned), reader.retry())
    }

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn names_ids_and_retry_are_told() {
        let text = b": hi\n\nevent: endpoint\ndata: /m?s=1\n\nid: 7\nretry: 1500\ndata:\n\ndata: a\r\ndata: b\r\n\r\nid: 8\n";
        let (events, id, retry) = read(&[text], 100);
        assert_eq!(events, [event("endpoint", "/m?s=1"), event("message", ""), event("message", "a\nb")]);
        // The last id belongs to an event that has not ended.
        assert_eq!(id.as_deref(), Some("7"));
        assert_eq!(retry, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn what_is_too_long_is_refused() {
        assert_eq!(EventReader::new(8).feed(b"data: 0123456789"), Err(Overlong));
        assert_eq!(EventReader::new(20).feed(b"data: 0123456789\ndata: 0123456789\n"), Err(Overlong));
    }

    proptest! {
        #[test]
        fn reading_does_not_depend_on_the_pieces(
            text in "((data|id|event|retry)?:? ?[a-c1]{0,9}(\r\n|\n|\r)){0,20}",
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            prop_assert_eq!(read(&pieces(&text, cuts), 4096), read(&[text.as_bytes()], 4096));
        }
    }
}
