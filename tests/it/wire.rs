//! A raw HTTP/1.1 client: writes the bytes it is given and tells every answer that comes back, one by one.
//! Not here: well-behaved clients (`client`), raw frames of HTTP/2 (`frames`).

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take before the test goes on without it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A connection on which a test writes what it likes.
pub(crate) struct Wire {
    stream: TcpStream,
    got: Vec<u8>,
    ended: bool,
}

/// One answer as it came.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    /// Status line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Heard {
    /// The value of a header, the first if there are several.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    }

    /// Whether the connection ends with this answer.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl Wire {
    /// A new connection.
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, got: Vec::new(), ended: false }
    }

    /// Writes. `false` when the other side does not take it any more, which shows in what it answers.
    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next answer that is not an interim one; `None` at the end of the connection, or when none came in time.
    pub(crate) fn hear(&mut self, within: Duration) -> Option<Heard> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(heard) = self.parse() {
                if heard.status >= 200 {
                    return Some(heard);
                }
                continue;
            }
            if self.ended || !self.read(deadline) {
                return None;
            }
        }
    }

    /// Whether the other side has ended the connection, as far as was read.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Reads up to the end of the connection; `false` when it stays open.
    pub(crate) fn ends(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while !self.ended {
            if !self.read(deadline) {
                return self.ended;
            }
        }
        true
    }

    /// What came and is no whole answer.
    pub(crate) fn left(&self) -> &[u8] {
        &self.got
    }

    fn read(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(n) => {
                self.got.extend_from_slice(&piece[..n]);
                self.ended = n == 0;
                n > 0 || !self.got.is_empty()
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            // A reset is an end as well.
            Err(_) => {
                self.ended = true;
                false
            }
        }
    }

    fn parse(&mut self) -> Option<Heard> {
        let end = self.got.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.got[..end]).to_ascii_lowercase();
        let status: u16 = head.split(' ').nth(1)?.trim().parse().ok()?;
        let mut heard = Heard { status, head, body: String::new() };
        let bodiless = status < 200 || status == 204 || status == 304;
        let (body, taken) = if bodiless {
            (Vec::new(), 0)
        } else if heard.header("transfer-encoding") == Some("chunked") {
            unchunk(&self.got[end..])?
        } else if let Some(length) = heard.header("content-length") {
            let length: usize = length.parse().unwrap();
            (self.got.get(end..end + length)?.to_vec(), length)
        } else if self.ended {
            (self.got[end..].to_vec(), self.got.len() - end)
        } else {
            return None;
        };
        self.got.drain(..end + taken);
        heard.body = String::from_utf8_lossy(&body).into_owned();
        Some(heard)
    }
}

/// A whole chunked body and its length on the wire.
fn unchunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
        if bytes.len() < at {
            return None;
        }
        if size == 0 {
            return Some((body, at));
        }
    }
}

/// One exchange on a connection of its own.
pub(crate) fn once(address: SocketAddr, request: &str) -> Heard {
    let mut wire = Wire::to(address);
    wire.say(request);
    wire.hear(PATIENCE)
        .unwrap_or_else(|| panic!("no answer to {request:?}, but {:?}", String::from_utf8_lossy(wire.left())))
}
