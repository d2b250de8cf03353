//! A flow as a body of server-sent events.
//! Not here: the flow (`flow`); when an answer is a stream (`http`).

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;
use tokio::time::sleep;

use super::flow::Flow;
use crate::mcp::encode_event;

/// A silent stream gets a comment this often, so that nobody between takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The messages of `flow` as events, until it ends or `stopping` turns true. Dropping the body ends the flow: that is
/// how a modern client cancels, and in the legacy era nobody could fetch the answer any more.
pub(super) fn events(flow: Flow, stopping: watch::Receiver<bool>) -> UnsyncBoxBody<Bytes, Infallible> {
    let events = Events { flow, stopping, closing: false };
    let frames = unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(event)), events))
    });
    StreamBody::new(frames).boxed_unsync()
}

struct Events {
    flow: Flow,
    stopping: watch::Receiver<bool>,
    closing: bool,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        if self.closing {
            return None;
        }
        tokio::select! {
            message = self.flow.next() => return message.map(|message| encode_event(&message)),
            () = sleep(KEEP_ALIVE) => return Some(Bytes::from_static(b": still here\n\n")),
            _ = self.stopping.wait_for(|stopping| *stopping) => {}
        }
        self.closing = true;
        self.flow.close().map(|message| encode_event(&message))
    }
}
