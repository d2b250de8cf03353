//! The client's body, read whole within its bounds.
//! Not here: what is in it (`mcp`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_proxy::Session;
use tokio::time::{Instant, timeout, timeout_at};

use super::rejection::Rejection;
use crate::conf::Limits;

/// The whole body. A declared length over the limit is refused before a byte of it is read.
pub(super) async fn read(session: &mut Session, limits: &Limits) -> Result<Bytes, Rejection> {
    let too_large = Rejection::BodyTooLarge { bytes_max: limits.body_bytes_max };
    if declared(session).is_some_and(|bytes| bytes > limits.body_bytes_max) {
        return Err(too_large);
    }
    let headers = &session.req_header().headers;
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Rejection::Encoded);
    }
    if headers.contains_key(header::EXPECT) {
        // Pingora leaves the answer to whoever reads the body; clients wait a second for it.
        let _ = session.downstream_session.write_continue_response().await;
    }
    // Pingora's own timeout is for each read, and one byte within it is enough to go on for ever: ours is for all.
    session.set_read_timeout(None);
    let read = timeout(limits.body_timeout, collect(session, limits.body_bytes_max)).await;
    read.map_err(|_| Rejection::BodyTooSlow)?.map_err(|_| Rejection::BodyBroken)?.ok_or(too_large)
}

async fn collect(session: &mut Session, bytes_max: usize) -> pingora_core::Result<Option<Bytes>> {
    let Some(first) = session.downstream_session.read_request_body().await? else {
        return Ok(Some(Bytes::new()));
    };
    let length = declared(session).unwrap_or_default();
    let mut whole: Option<BytesMut> = None;
    let mut so_far = first.len();
    while so_far <= bytes_max {
        match session.downstream_session.read_request_body().await? {
            // Most bodies come in one piece, which is then not copied.
            None => return Ok(Some(whole.map_or(first, BytesMut::freeze))),
            Some(piece) => {
                let whole = whole.get_or_insert_with(|| begun(&first, length));
                whole.extend_from_slice(&piece);
                so_far = whole.len();
            }
        }
    }
    Ok(None)
}

/// Leaves an unread body behind a refusal. Pingora reads it away after the answer, for a bounded time, so that a client
/// that is still writing sees the answer and not a reset, and the connection can be used again. Where no more of the
/// body will come, or none that could be read, the connection ends with the answer.
pub(super) fn leave(session: &mut Session, readable: bool) {
    let awaited = session.req_header().headers.contains_key(header::EXPECT) && session.body_bytes_read() == 0;
    if readable && (!awaited || session.is_body_done()) {
        session.downstream_session.set_close_on_response_before_downstream_finish(false);
    } else {
        session.set_keepalive(None);
    }
}

/// A buffer with the first piece in it and room for the declared length, so that it need not grow to twice of that.
fn begun(first: &[u8], length: usize) -> BytesMut {
    let mut whole = BytesMut::with_capacity(length.max(first.len() * 2));
    whole.extend_from_slice(first);
    whole
}

/// What is read away behind a refusal. A client that has more to send finds the connection closed.
const DRAIN_BYTES_MAX: usize = 16 << 20;
/// How long it may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Reads away what a refused client goes on to send, so that it sees the answer and the connection can be used again.
/// Pingora's own draining has no bound in bytes.
pub(super) async fn drain(session: &mut Session) {
    let until = Instant::now() + DRAIN_TIME_MAX;
    let mut bytes = 0;
    while session.get_keepalive().is_some() && !session.is_body_done() {
        match timeout_at(until, session.downstream_session.read_request_body()).await {
            Ok(Ok(Some(piece))) if bytes < DRAIN_BYTES_MAX => bytes += piece.len(),
            Ok(Ok(None)) => return,
            _ => session.set_keepalive(None),
        }
    }
}

fn declared(session: &Session) -> Option<usize> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
