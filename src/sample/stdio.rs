//! MCP by lines on standard input and output, in one task.
//! Not here: what the messages mean (`answer`).
//!
//! All lines of one read are answered by one write. Where standard input and output are pipes they are polled like
//! sockets, which spares each call two trips to the thread pool that files take.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::pipe;

use super::answer::{Turn, answer, check_revision};
use super::flow::Flow;
use super::peer::Peer;
use super::refusal::Refusal;
use super::{MESSAGE_BYTES_MAX, PARSE, offer};
use crate::mcp::{Era, MalformedKind, parse};

const READ_BYTES: usize = 64 * 1024;
/// Answers are written when this much has come together, even if there are more lines to answer.
const WRITE_BYTES: usize = 256 * 1024;

type Input = Box<dyn AsyncRead + Unpin + Send>;
type Output = Box<dyn AsyncWrite + Unpin + Send>;

/// Speaks on the standard streams until one of them ends.
pub(super) async fn serve() {
    let spoken = async { converse(input()?, output()?).await };
    if let Err(error) = spoken.await
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        tracing::error!(%error, "the sample server's standard streams failed");
    }
}

fn input() -> io::Result<Input> {
    let fd = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(match pipe::Receiver::from_owned_fd(fd.try_clone()?) {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(File::from_std(fd.into())),
    })
}

fn output() -> io::Result<Output> {
    let fd = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(match pipe::Sender::from_owned_fd(fd.try_clone()?) {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(File::from_std(fd.into())),
    })
}

/// Answers the lines of `input` on `output` until the input ends.
pub(super) async fn converse<R, W>(mut input: R, mut output: W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let peer = Arc::new(Peer::default());
    let mut lines = Lines::default();
    let mut flows = FuturesUnordered::new();
    let mut out = Vec::new();
    loop {
        tokio::select! {
            read = lines.fill(&mut input) => {
                let ended = read? == 0;
                while let Some(line) = lines.next(ended) {
                    if let Some(flow) = take(line, &peer, &mut out) {
                        flows.push(advance(flow));
                    }
                    if out.len() >= WRITE_BYTES {
                        flush(&mut output, &mut out).await?;
                    }
                }
                if ended {
                    return flush(&mut output, &mut out).await;
                }
            }
            Some((flow, message)) = flows.next() => {
                if let Some(message) = message {
                    put(&mut out, &message);
                    flows.push(advance(flow));
                }
            }
        }
        flush(&mut output, &mut out).await?;
    }
}

async fn advance(mut flow: Flow) -> (Flow, Option<Vec<u8>>) {
    let message = flow.next().await;
    (flow, message)
}

async fn flush<W: AsyncWrite + Unpin>(output: &mut W, out: &mut Vec<u8>) -> io::Result<()> {
    if !out.is_empty() {
        output.write_all(out).await?;
        output.flush().await?;
        out.clear();
        out.shrink_to(2 * WRITE_BYTES);
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, message: &[u8]) {
    out.extend_from_slice(message);
    out.push(b'\n');
}

/// Acts on one line. What is answered at once goes to `out`; a flow is to be let run.
fn take(line: Result<&[u8], Overlong>, peer: &Arc<Peer>, out: &mut Vec<u8>) -> Option<Flow> {
    let Ok(line) = line else {
        let refusal = Refusal::Malformed(MalformedKind::Envelope("the line is too long"));
        put(out, &refusal.to_message(None, Era::Legacy));
        return None;
    };
    if line.trim_ascii().is_empty() {
        return None;
    }
    let message = match parse(line, PARSE) {
        Ok(message) => message,
        Err(malformed) => {
            let id = malformed.id.and_then(|id| serde_json::from_str(id.as_json()).ok());
            let id: Option<Box<serde_json::value::RawValue>> = id;
            put(out, &Refusal::Malformed(malformed.kind).to_message(id.as_deref(), Era::Legacy));
            return None;
        }
    };
    let era = if message.params.meta.protocol_version().is_some() { Era::Modern } else { Era::Legacy };
    let turn = check_revision(&message, era, &offer::REVISIONS)
        .and_then(|()| answer(line, &message, era, Some(peer)))
        .and_then(|turn| match turn {
            Turn::Flow(mut flow) => peer.admit(&mut flow).map(|()| Turn::Flow(flow)),
            other => Ok(other),
        });
    match turn {
        Ok(Turn::Nothing) => {}
        Ok(Turn::Cancel(id)) => peer.cancel(&id),
        Ok(Turn::Whole(answer)) => put(out, &answer),
        Ok(Turn::Flow(flow)) => return Some(flow),
        Err(refusal) => put(out, &refusal.to_message(message.id, era)),
    }
    None
}

/// A line that was longer than a message may be, and was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlong;

/// Bytes read, cut at line ends.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Where the search for its end goes on.
    scanned: usize,
    /// The line's beginning was thrown away.
    overlong: bool,
}

impl Lines {
    /// Reads more; 0 at the end. Dropping the future loses nothing.
    async fn fill<R: AsyncRead + Unpin>(&mut self, input: &mut R) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        if self.buffer.len() > MESSAGE_BYTES_MAX {
            self.overlong = true;
            self.buffer.clear();
            self.scanned = 0;
        }
        if self.buffer.is_empty() {
            self.buffer.shrink_to(READ_BYTES);
        }
        self.buffer.reserve(READ_BYTES);
        input.read_buf(&mut self.buffer).await
    }

    /// The next whole line; at the end of the input also what follows the last line end.
    fn next(&mut self, ended: bool) -> Option<Result<&[u8], Overlong>> {
        let rest = self.buffer.get(self.scanned..).unwrap_or_default();
        let (end, next) = match memchr::memchr(b'\n', rest) {
            Some(at) => (self.scanned + at, self.scanned + at + 1),
            None => {
                self.scanned = self.buffer.len();
                if !ended || self.start == self.scanned {
                    return None;
                }
                (self.scanned, self.scanned)
            }
        };
        let line = self.start..end;
        (self.start, self.scanned) = (next, next);
        if std::mem::take(&mut self.overlong) {
            return Some(Err(Overlong));
        }
        self.buffer.get(line).map(Ok)
    }
}
