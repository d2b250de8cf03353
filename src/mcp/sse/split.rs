//! An event stream in events, each byte for byte with its end.
//! Not here: what is in an event (`Decoder`).

/// Splits a stream that is handed over in arbitrary pieces. Memory is bounded: an event beyond the cap is `None`.
#[derive(Debug)]
pub struct Splitter {
    event: Vec<u8>,
    line_is_empty: bool,
    after_cr: bool,
    event_bytes_max: usize,
}

impl Splitter {
    /// A splitter that keeps at most `event_bytes_max` bytes of an event.
    pub fn new(event_bytes_max: usize) -> Self {
        Self { event: Vec::new(), line_is_empty: true, after_cr: false, event_bytes_max }
    }

    /// Takes the next piece; calls `each` with every event that ends in it. After `None` there is nothing to come.
    pub fn feed(&mut self, piece: &[u8], mut each: impl FnMut(Option<&[u8]>)) {
        for byte in piece {
            self.event.push(*byte);
            if self.event.len() > self.event_bytes_max {
                self.event.clear();
                return each(None);
            }
            let ends_cr = std::mem::take(&mut self.after_cr) && *byte == b'\n';
            match byte {
                b'\n' if ends_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    if self.line_is_empty {
                        each(Some(&self.event));
                        self.event.clear();
                    }
                    self.line_is_empty = true;
                }
                _ => self.line_is_empty = false,
            }
        }
    }

    /// The stream is over; what has no end is given one.
    pub fn end(&mut self, mut each: impl FnMut(Option<&[u8]>)) {
        let mut event = std::mem::take(&mut self.event);
        if event.iter().any(|byte| !matches!(byte, b'\n' | b'\r')) {
            event.extend_from_slice(b"\n\n");
            each(Some(&event));
        }
    }
}
