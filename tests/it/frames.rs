//! A raw HTTP/2 client: frames byte by byte, headers without compression, so that anything can be said.
//! Not here: HTTP/1.1 (`wire`).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
/// Flags (RFC 9113 section 6).
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// What came of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Status(u16),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection was given up with this code.
    GoAway(u32),
    /// The connection ended.
    Closed,
    /// Nothing, in time.
    Nothing,
}

/// A connection.
pub(crate) struct Frames {
    stream: TcpStream,
    got: Vec<u8>,
    ended: bool,
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Header fields as literals that are not indexed (RFC 7541 section 6.2.2).
pub(crate) fn fields(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, 7, 0, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer in a prefix of that many bits (RFC 7541 section 5.1).
pub(crate) fn integer(block: &mut Vec<u8>, bits: u8, first: u8, value: usize) {
    let max = (1 << bits) - 1;
    if value < max {
        block.push(first | u8::try_from(value).unwrap());
        return;
    }
    block.push(first | u8::try_from(max).unwrap());
    let mut rest = value - max;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

impl Frames {
    /// A connection on which the preface has been said, with these settings.
    pub(crate) fn to(address: SocketAddr, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
        let mut frames = Self { stream, got: Vec::new(), ended: false };
        frames.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frames.say(&frame(SETTINGS, 0, 0, settings));
        frames
    }

    /// Writes. `false` when the other side takes no more.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Writes the same again and again, as long as it is taken. Gives how often it was.
    pub(crate) fn flood(&mut self, bytes: &[u8], times: usize) -> usize {
        (0..times).take_while(|_| self.say(bytes)).count()
    }

    /// What comes of a stream first: its status, or its end.
    pub(crate) fn hear(&mut self, wanted: u32, within: Duration) -> Came {
        let deadline = Instant::now() + within;
        loop {
            while let Some((kind, flags, stream, payload)) = self.next() {
                let code = |at: usize| {
                    payload.get(at..at + 4).map_or(0, |code| u32::from_be_bytes(code.try_into().unwrap()))
                };
                match kind {
                    HEADERS if stream == wanted => {
                        if let Some(status) = status(&payload).filter(|status| *status >= 200) {
                            return Came::Status(status);
                        }
                    }
                    RST_STREAM if stream == wanted => return Came::Reset(code(0)),
                    GOAWAY if code(4) != 0 => return Came::GoAway(code(4)),
                    SETTINGS if flags & 1 == 0 => drop(self.say(&frame(SETTINGS, 1, 0, &[]))),
                    _ => {}
                }
            }
            if self.ended {
                return Came::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.read(left) && !self.ended {
                return Came::Nothing;
            }
        }
    }

    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head = self.got.get(..9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff;
        let payload = self.got.get(9..9 + length)?.to_vec();
        self.got.drain(..9 + length);
        Some((kind, flags, stream, payload))
    }

    fn read(&mut self, within: Duration) -> bool {
        self.stream.set_read_timeout(Some(within)).unwrap();
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(n) => {
                self.got.extend_from_slice(&piece[..n]);
                self.ended = n == 0;
                n > 0
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(_) => {
                self.ended = true;
                false
            }
        }
    }
}

/// The status in a block of headers, which a server says first (RFC 7541: static table 8 to 14, or a literal with that
/// name whose three digits are plain or in Huffman code).
fn status(block: &[u8]) -> Option<u16> {
    let mut block = block;
    // A change of the table's size may come first.
    while block.first()? & 0xe0 == 0x20 {
        block = &block[1..];
    }
    match block.first()? {
        indexed @ 0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]),
        0x48 | 0x08 | 0x18 => {
            let (length, text) = (usize::from(block.get(1)? & 0x7f), block.get(2..)?);
            let text = text.get(..length)?;
            let digits = if block.get(1)? & 0x80 == 0 { text.to_vec() } else { huffman(text) };
            std::str::from_utf8(&digits).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// Digits in Huffman code: 0, 1 and 2 have five bits, the others six (RFC 7541 appendix B).
fn huffman(text: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0, |sum, bit| sum << 1 | bit);
    let (mut digits, mut at) = (Vec::new(), 0);
    while digits.len() < 3 && at + 5 <= bits.len() {
        let five = number(&bits[at..at + 5]);
        if five < 3 {
            digits.push(b'0' + five);
            at += 5;
        } else {
            let Some(six) = bits.get(at..at + 6) else { break };
            digits.push(number(six) - 0x19 + b'3');
            at += 6;
        }
    }
    digits
}
