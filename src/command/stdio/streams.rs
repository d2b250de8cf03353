//! The standard streams, and lines read from them with a bound.
//! Not here: what a line says (`line`).

use std::io;
use std::os::fd::AsFd as _;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::unix::pipe;

/// One message of a client. The gateway's own bound is lower unless it is configured otherwise.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) type Input = Box<dyn AsyncRead + Unpin + Send>;
pub(super) type Output = Box<dyn AsyncWrite + Unpin + Send>;

/// Standard input. Pipes are polled like sockets, which spares each message two trips to the thread pool.
pub(super) fn input() -> io::Result<Input> {
    let fd = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(match pipe::Receiver::from_owned_fd(fd.try_clone()?) {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(File::from_std(fd.into())),
    })
}

/// Standard output.
pub(super) fn output() -> io::Result<Output> {
    let fd = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(match pipe::Sender::from_owned_fd(fd.try_clone()?) {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(File::from_std(fd.into())),
    })
}

/// A line that was longer than a message may be, and was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlong;

/// Input, line by line.
pub(super) struct Lines<R> {
    input: R,
    buffer: BytesMut,
    scanned: usize,
    overlong: bool,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: BytesMut::new(), scanned: 0, overlong: false, ended: false }
    }

    /// The next line that is not blank; `None` at the end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Result<Bytes, Overlong>>> {
        loop {
            if let Some(line) = self.take() {
                if std::mem::take(&mut self.overlong) || line.len() > LINE_BYTES_MAX {
                    return Ok(Some(Err(Overlong)));
                }
                let text = line.trim_ascii();
                if !text.is_empty() {
                    return Ok(Some(Ok(line.slice_ref(text))));
                }
                continue;
            }
            if self.ended {
                return Ok(None);
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                self.overlong = true;
                self.buffer.clear();
                self.scanned = 0;
            }
            self.buffer.reserve(16 * 1024);
            self.ended = self.input.read_buf(&mut self.buffer).await? == 0;
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let rest = self.buffer.get(self.scanned..).unwrap_or_default();
        let end = match memchr::memchr(b'\n', rest) {
            Some(at) => self.scanned + at + 1,
            None if self.ended && !self.buffer.is_empty() => self.buffer.len(),
            None => {
                self.scanned = self.buffer.len();
                return None;
            }
        };
        self.scanned = 0;
        Some(self.buffer.split_to(end).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_and_the_last_needs_no_end() {
        let mut lines = Lines::new(&b"{\"a\":1}\r\n\n  \n{\"b\":2}\nrest"[..]);
        let mut got = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            got.push(line.unwrap());
        }
        assert_eq!(got, ["{\"a\":1}", "{\"b\":2}", "rest"]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_passed_over_and_the_next_is_whole() {
        let mut text = vec![b'a'; LINE_BYTES_MAX + 100_000];
        text.extend_from_slice(b"\nnext\n");
        let mut lines = Lines::new(&text[..]);
        assert_eq!(lines.next().await.unwrap(), Some(Err(Overlong)));
        assert_eq!(lines.next().await.unwrap(), Some(Ok("next".into())));
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
