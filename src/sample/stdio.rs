//! The sample server on standard input and output, both eras on one process.
//! Not here: what it answers (`react`).

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

use super::react::{Reaction, react, refuse_modern};
use super::slow::Slow;
use crate::mcp::{Kind, Method, ParseLimits, RpcError, parse};

const LIMITS: ParseLimits = ParseLimits { depth_max: 128 };
/// Slow calls at once; further ones are refused.
const SLOW_MAX: usize = 1024;
/// Answers are collected while more input is at hand, up to this many bytes.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// Serves standard input until it, or standard output, ends.
pub async fn stdio() {
    // A parent that is gone is the end, in whatever way it shows.
    drop(serve().await);
}

async fn serve() -> io::Result<()> {
    let mut input = BufReader::with_capacity(64 * 1024, input()?);
    let mut output = output()?;
    let mut slow: Vec<Slow> = Vec::new();
    let (mut line, mut out) = (Vec::new(), Vec::new());
    loop {
        let due = slow.iter().map(Slow::due).min();
        tokio::select! {
            // A line that is read in part stays in `line`.
            read = input.read_until(b'\n', &mut line) => {
                if read? == 0 && line.is_empty() {
                    return Ok(());
                }
                take(&line, &mut slow, &mut out);
                line.clear();
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let now = Instant::now();
                slow.retain_mut(|slow| slow.due() > now || {
                    let (said, over) = slow.say();
                    out.extend_from_slice(said.as_bytes());
                    out.push(b'\n');
                    !over
                });
            }
        }
        let more = memchr::memchr(b'\n', input.buffer()).is_some();
        if !out.is_empty() && (!more || out.len() > OUT_BYTES_MAX) {
            output.write_all(&out).await?;
            output.flush().await?;
            out.clear();
        }
    }
}

/// Takes one line.
fn take(line: &[u8], slow: &mut Vec<Slow>, out: &mut Vec<u8>) {
    if line.trim_ascii().is_empty() {
        return;
    }
    let before = out.len();
    let message = match parse(line, LIMITS) {
        Ok(message) => message,
        Err(malformed) => {
            let code = crate::mcp::Code::INVALID_REQUEST;
            let error = RpcError { code, message: malformed.kind.to_string(), data: None };
            out.extend_from_slice(&error.to_message(malformed.id.as_ref()));
            out.push(b'\n');
            return;
        }
    };
    let modern = message.kind == Kind::Request
        && (message.params.meta.protocol_version().is_some() || message.method == Method::Discover);
    if !(modern && refuse_modern(&message, out).is_some()) {
        match react(&message, modern, out) {
            Reaction::Slow(call) if slow.len() < SLOW_MAX => slow.push(call),
            Reaction::Slow(call) => {
                let code = crate::mcp::Code::UNAVAILABLE;
                let error = RpcError { code, message: "too many slow calls".to_owned(), data: None };
                out.extend_from_slice(&error.to_message(Some(&call.id)));
            }
            Reaction::Cancelled(id) => slow.retain(|slow| slow.id != id),
            Reaction::Silent | Reaction::Answered(_) | Reaction::Listening => {}
        }
    }
    if out.len() > before {
        out.push(b'\n');
    }
}

/// Standard input. A pipe, which is what a parent gives us, is read without a thread in between.
fn input() -> io::Result<Pin<Box<dyn AsyncRead>>> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(match pipe::Receiver::from_owned_fd(input.try_clone()?) {
        Ok(pipe) => Box::pin(pipe),
        Err(_) => Box::pin(tokio::fs::File::from_std(input.into())),
    })
}

/// Standard output, likewise.
fn output() -> io::Result<Pin<Box<dyn AsyncWrite>>> {
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(match pipe::Sender::from_owned_fd(output.try_clone()?) {
        Ok(pipe) => Box::pin(pipe),
        Err(_) => Box::pin(tokio::fs::File::from_std(output.into())),
    })
}
