//! The stream on which the server speaks unasked, opened again whenever it ends.
//! Not here: answers to what the client asked (`call`).

use bytes::Bytes;
use http::{HeaderValue, Method as Verb, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::sleep;

use super::call::{Caller, MESSAGE_BYTES_MAX, RETRY, Said, is, is_lost, whole};
use super::line::Heard;
use crate::mcp::EventReader;

/// Why nobody listens any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deaf {
    /// The server has no such stream.
    Never,
    /// The session is gone.
    Lost,
}

/// Listens until there is nothing to listen to.
pub(super) async fn listen(caller: Caller<'_>) -> Deaf {
    let mut reader = EventReader::new(MESSAGE_BYTES_MAX);
    loop {
        let mut headers = caller.opened.headers();
        if let Some(at) = reader.last_id().and_then(|at| HeaderValue::try_from(at).ok()) {
            headers.insert("last-event-id", at);
        }
        if let Ok(answer) = caller.door.send(Verb::GET, headers, Bytes::new()).await {
            let status = answer.status();
            if status.is_success() && is(&answer, "text/event-stream") {
                let mut stream = answer.into_body();
                while let Some(Ok(frame)) = stream.frame().await {
                    let Ok(data) = frame.into_data() else { continue };
                    let Ok(events) = reader.feed(&data) else { break };
                    for heard in events.iter().filter_map(|event| Heard::read(&event.data)) {
                        let _ = caller.tell.send(Said::Line(heard.line)).await;
                    }
                }
            } else if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
                let body = whole(answer, 64 * 1024).await.unwrap_or_default();
                let lost = caller.opened.id.is_some() && is_lost(status, &body);
                return if lost { Deaf::Lost } else { Deaf::Never };
            }
        }
        sleep(reader.retry().unwrap_or(RETRY.0).min(RETRY.1)).await;
        reader = EventReader::resuming(&reader, MESSAGE_BYTES_MAX);
    }
}
