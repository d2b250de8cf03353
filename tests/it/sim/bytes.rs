//! A connection as bytes: requests read with a cut at any byte, answers written, pauses in which the other side may go.
//! Not here: which bytes (`speak`), when they are cut (`serve`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::speak::Said;
use super::{Asked, End, Shared};

/// No test sends more; a gateway that does is broken.
const REQUEST_BYTES_MAX: usize = 16 << 20;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {
    fn socket(&self) -> &TcpStream;
}

impl Io for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Io for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// One connection.
pub(super) struct Line {
    io: Box<dyn Io>,
    got: Vec<u8>,
    /// Whether bytes may wait where the socket does not show them.
    secure: bool,
}

/// What came of reading a request.
pub(super) enum Read {
    Request(Asked),
    /// The test wanted it broken here.
    Cut(End),
    /// The other side closed, between requests or within one.
    Gone,
}

/// What came of answering one.
pub(super) enum Ended {
    /// It is all written.
    Whole,
    /// The other side closed first.
    Gone,
    /// The connection is over, by our own doing.
    Broken,
}

impl Line {
    /// A connection that was taken; `None` if the other side does not like our certificate.
    pub(super) async fn open(stream: TcpStream, tls: Option<&TlsAcceptor>) -> Option<Self> {
        let io: Box<dyn Io> = match tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.accept(stream).await.ok()?),
        };
        Some(Self { io, got: Vec::new(), secure: tls.is_some() })
    }

    /// Reads one request, or as much of it as the test wants read.
    pub(super) async fn read_request(&mut self, connection: usize, shared: &Shared) -> Read {
        let mut cut = None;
        loop {
            if let Some((asked, bytes)) = whole(&self.got) {
                self.got.drain(..bytes);
                let asked = note(asked, bytes, connection, shared);
                // A cut behind the last byte: the call has run, and nothing is said of it.
                let late = cut.or_else(|| shared.behaviour.lock().unwrap().cut.take());
                return late.map_or(Read::Request(asked), |(_, end)| Read::Cut(end));
            }
            assert!(self.got.len() < REQUEST_BYTES_MAX, "a request over {REQUEST_BYTES_MAX} bytes");
            // Armed at any time before the first byte: the connection may have been idle until now.
            if self.got.is_empty() && cut.is_none() {
                if !self.secure && (self.io.socket().readable().await.is_err() || self.peer_has_closed()) {
                    return Read::Gone;
                }
                cut = shared.behaviour.lock().unwrap().cut.take();
            }
            let most = cut.map_or(64 << 10, |(after, _)| after.saturating_sub(self.got.len()).min(64 << 10));
            if let Some((_, end)) = cut.filter(|_| most == 0) {
                return Read::Cut(end);
            }
            let mut piece = vec![0; most];
            match self.io.read(&mut piece).await {
                Ok(n) if n > 0 => self.got.extend_from_slice(&piece[..n]),
                _ => return Read::Gone,
            }
        }
    }

    /// Whether a readable socket is readable because it ended. A cut is not spent on a connection that is only
    /// being closed.
    fn peer_has_closed(&self) -> bool {
        use std::os::fd::AsRawFd as _;
        let mut byte = [0];
        let peeked = nix::sys::socket::recv(
            self.io.socket().as_raw_fd(),
            &mut byte,
            nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        );
        match peeked {
            Ok(n) => n == 0,
            Err(error) => error != nix::errno::Errno::EAGAIN,
        }
    }

    /// Writes all of it. `false` when the other side does not take it.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.io.write_all(bytes).await.is_ok() && self.io.flush().await.is_ok()
    }

    /// Writes an answer piece by piece.
    pub(super) async fn say(&mut self, said: &Said, asked: &Asked, shared: &Shared) -> Ended {
        if asked.n().is_some() {
            // Before the client has it, and may look.
            shared.note(|facts| facts.answer_bytes = said.length());
        }
        for (wait, piece) in &said.pieces {
            if !wait.is_zero() && !self.pause(*wait).await {
                return Ended::Gone;
            }
            if !self.write(piece).await {
                return Ended::Gone;
            }
        }
        if said.stays_open {
            return self.pass_on_news(shared).await;
        }
        Ended::Whole
    }

    /// A stream that stays open, with whatever the test has to tell.
    async fn pass_on_news(&mut self, shared: &Shared) -> Ended {
        let mut news = shared.news.subscribe();
        loop {
            let mut byte = [0];
            let told = tokio::select! {
                told = news.recv() => told,
                read = self.io.read(&mut byte) => {
                    assert!(!matches!(read, Ok(1)), "a byte arrived ({byte:?}) while an answer was outstanding");
                    return Ended::Gone;
                }
            };
            if let Ok(message) = told
                && !self.write(&super::speak::chunk(&message)).await
            {
                return Ended::Gone;
            }
        }
    }

    /// Waits. `false` when the other side closes meanwhile: nobody pipelines.
    pub(super) async fn pause(&mut self, time: Duration) -> bool {
        let mut byte = [0];
        match tokio::time::timeout(time, self.io.read(&mut byte)).await {
            Err(_) => true,
            Ok(Ok(1)) => panic!("a byte arrived ({byte:?}) while an answer was outstanding"),
            Ok(_) => false,
        }
    }

    /// Waits until the other side gives up.
    pub(super) async fn wait_for_the_end(&mut self) -> Ended {
        while self.pause(Duration::from_secs(3600)).await {}
        Ended::Gone
    }

    /// Ends the connection so.
    pub(super) async fn end(&mut self, end: End) {
        match end {
            End::Close => drop(self.io.shutdown().await),
            End::Reset => self.reset(),
            End::Stall => {
                // What still comes is not looked at.
                let mut rest = [0; 4096];
                while matches!(self.io.read(&mut rest).await, Ok(n) if n > 0) {}
            }
        }
    }

    /// What is dropped after this is reset.
    pub(super) fn reset(&mut self) {
        // A socket that is gone needs no reset.
        let _ = self.io.socket().set_zero_linger();
    }
}

/// A whole request at the beginning of `got`, and its length.
fn whole(got: &[u8]) -> Option<(Asked, usize)> {
    let end = got.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&got[..end]).expect("a head that is no text");
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let mut parts = first.split(' ');
    let (verb, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    assert_eq!(parts.next(), Some("HTTP/1.1"), "not a request line: {first:?}");
    let mut headers = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    assert!(!headers.contains_key("transfer-encoding"), "a length is sent, not chunks: {headers:?}");
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let body = got.get(end..end + length)?;
    let message = serde_json::from_slice(body).unwrap_or(Value::Null);
    let asked =
        Asked { number: 0, connection: 0, verb: verb.to_owned(), path: path.to_owned(), headers, message };
    Some((asked, end + length))
}

/// Counts a request that arrived whole: from here on a call has run.
fn note(mut asked: Asked, bytes: usize, connection: usize, shared: &Shared) -> Asked {
    asked.connection = connection;
    asked.number = shared.note(|facts| {
        let number = facts.requests.values().sum();
        *facts.requests.entry(asked.method().to_owned()).or_default() += 1;
        if asked.method() == "tools/call" {
            *facts.executed.entry(asked.n().unwrap_or_default().to_owned()).or_default() += 1;
            facts.request_bytes = bytes;
        }
        if asked.method() == "notifications/cancelled" {
            facts.cancelled.push(asked.message["params"]["requestId"].clone());
        }
        number
    });
    asked
}
