//! The one writer: every answer that is ours goes to the client here.
//! Not here: what is answered (`hub`, `rejection`). Pingora's own `respond_error` is never used: it goes past its
//! modules and always closes the connection.

use std::future::Future;
use std::pin::Pin;

use http::{HeaderMap, HeaderValue, Version, header};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::pass::{self, Watching};
use super::rejection::{Rejection, Style};
use super::{Ctx, body, cors, headers};
use crate::reply::{Body, Reply};

/// Runs `work`, unless the client leaves first and that ends it.
pub(super) async fn unless_gone<T>(
    session: &mut Session,
    leaving_ends: bool,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    if !leaving_ends {
        return Some(work.await);
    }
    tokio::select! {
        biased;
        done = work.as_mut() => Some(done),
        _ = session.downstream_session.read_body_or_idle(true) => None,
    }
}

/// Writes a refusal and records it. A `challenge` says how to get a credential that would help.
pub(super) async fn refuse(
    session: &mut Session,
    ctx: &mut Ctx,
    rejection: &Rejection,
    style: Style,
    challenge: Option<HeaderValue>,
) -> pingora_core::Result<()> {
    ctx.record.outcome = Some(rejection.outcome());
    ctx.record.reason = Some(rejection.reason());
    tracing::debug!(request_id = ctx.record.request_id(), reason = rejection.reason(), "refused");
    let rest = body::Rest::behind(rejection);
    body::leave(session, rest);
    let mut answer = rejection.render(style, ctx.record.request_id());
    if let Some(challenge) = challenge {
        answer.headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(decision) = &ctx.tally.decision {
        answer.headers.extend(decision.headers());
    }
    reply(session, ctx, answer, None).await;
    body::drain(session, rest).await;
    Ok(())
}

/// Writes a reply. A client that is gone is no error: there is nobody to tell.
pub(super) async fn reply(session: &mut Session, ctx: &mut Ctx, reply: Reply, watching: Option<Watching>) {
    let Reply { status, mut headers, body } = reply;
    match body {
        Body::Whole(body) => {
            if ctx.is_for_pages {
                cors::tell(&mut headers, ctx.origin.as_ref());
            }
            let Ok(head) =
                head(session, status, headers, Length::Known(body.len()), ctx.record.request_id_header())
            else {
                return;
            };
            let bodiless = body.is_empty();
            if session.write_response_header(Box::new(head), bodiless).await.is_ok() && !bodiless {
                let _ = session.write_response_body(Some(body), true).await;
            }
        }
        Body::Stream(stream) => {
            let Ok(head) = stream_head(session, ctx, status, headers) else { return };
            // Boxed, so that the many calls that do not stream carry nothing of it.
            Box::pin(pass::pass(session, ctx, head, (*stream, watching))).await;
        }
    }
}

/// The head of an answer that is streamed.
pub(super) fn stream_head(
    session: &mut Session,
    ctx: &Ctx,
    status: http::StatusCode,
    mut headers: HeaderMap,
) -> pingora_core::Result<ResponseHeader> {
    if ctx.is_for_pages {
        cors::tell(&mut headers, ctx.origin.as_ref());
    }
    head(session, status, detached(headers), Length::Unknown, ctx.record.request_id_header())
}

/// The same headers in memory of their own. What came from a server is part of the buffer that it was read into, which
/// would be held as long as the stream.
fn detached(mut headers: HeaderMap) -> HeaderMap {
    for value in headers.values_mut() {
        // A copy of a header's value is one as well.
        *value = HeaderValue::from_bytes(value.as_bytes()).unwrap_or(HeaderValue::from_static(""));
    }
    headers
}

/// Begins an event stream. False if the client is gone.
pub(super) async fn begin_events(session: &mut Session, ctx: &mut Ctx, mut headers: HeaderMap) -> bool {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if ctx.is_for_pages {
        cors::tell(&mut headers, ctx.origin.as_ref());
    }
    let request_id = ctx.record.request_id_header();
    match head(session, http::StatusCode::OK, headers, Length::Unknown, request_id) {
        Ok(head) => session.write_response_header(Box::new(head), false).await.is_ok(),
        Err(_) => false,
    }
}

/// How long a body is.
#[derive(Clone, Copy)]
enum Length {
    Known(usize),
    Unknown,
}

fn head(
    session: &mut Session,
    status: http::StatusCode,
    headers: HeaderMap,
    length: Length,
    request_id: &HeaderValue,
) -> pingora_core::Result<ResponseHeader> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = headers;
    let mut head = ResponseHeader::from(parts);
    head.insert_header(headers::REQUEST_ID, request_id.clone())?;
    match length {
        // 204 has no length (RFC 9110 section 8.6).
        Length::Known(_) if status == http::StatusCode::NO_CONTENT => {}
        Length::Known(bytes) => head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(bytes))?,
        // Without it Pingora would end the body by closing the connection.
        Length::Unknown if session.req_header().version == Version::HTTP_11 => {
            head.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        }
        // Only the connection's end ends such a body.
        Length::Unknown => session.set_keepalive(None),
    }
    Ok(head)
}
