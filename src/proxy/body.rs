//! The client's body, read whole within its bounds.
//! Not here: what is in it (`mcp`).

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_proxy::Session;
use tokio::time::timeout;

use super::rejection::Rejection;
use crate::conf::Limits;

/// A body this small is read and thrown away after a refusal, so that the connection can be used again.
const DRAINED_BYTES_MAX: usize = 64 * 1024;

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
    let mut whole: Option<BytesMut> = None;
    let mut so_far = first.len();
    while so_far <= bytes_max {
        match session.downstream_session.read_request_body().await? {
            // Most bodies come in one piece, which is then not copied.
            None => return Ok(Some(whole.map_or(first, BytesMut::freeze))),
            Some(piece) => {
                let whole = whole.get_or_insert_with(|| BytesMut::from(first.as_ref()));
                whole.extend_from_slice(&piece);
                so_far = whole.len();
            }
        }
    }
    Ok(None)
}

/// Reads a small unread body away after a refusal. Otherwise Pingora closes the connection after the answer, and a
/// client that is still writing may see a reset instead of the answer.
pub(super) async fn drain(session: &mut Session) {
    if session.is_body_done() || declared(session).is_none_or(|bytes| bytes > DRAINED_BYTES_MAX) {
        return;
    }
    let reading = async { while let Ok(Some(_)) = session.downstream_session.read_request_body().await {} };
    let _ = timeout(std::time::Duration::from_secs(1), reading).await;
}

fn declared(session: &Session) -> Option<usize> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
