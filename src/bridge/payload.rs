//! The bodies of answers: one message, or a stream of events.
//! Not here: what they say (`desk`), statuses and headers (`post`, `serve`).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::mailbox::{Item, Last, Reader};
use crate::catalog::ServerId;
use crate::mcp::{Id, encode_event};

/// A silent stream sends a comment this often, so that nobody between takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Payload {
    /// All of it, once.
    Whole(Option<Bytes>),
    /// `text/event-stream`.
    Events(Box<Events>),
}

/// A stream of events.
#[derive(Debug)]
pub(super) struct Events {
    first: Option<Bytes>,
    reader: Reader,
    /// Whose failure is told to whom, should the call end without an answer.
    server: ServerId,
    id: Option<Id>,
    keep_alive: Interval,
    done: bool,
}

impl Payload {
    /// One message, or nothing.
    pub(super) fn whole(body: Bytes) -> Self {
        Self::Whole(Some(body).filter(|body| !body.is_empty()))
    }

    /// What a reader gets, after the first item it already got.
    pub(super) fn events(first: Option<Bytes>, reader: Reader, server: ServerId, id: Option<Id>) -> Self {
        let mut keep_alive = interval(KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        keep_alive.reset();
        let first = first.map(|message| encode_event(&message));
        // A comment at once tells the other side that the stream stands.
        let first = first.or(Some(Bytes::from_static(b":\n\n")));
        Self::Events(Box::new(Events { first, reader, server, id, keep_alive, done: false }))
    }
}

impl Events {
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if self.done {
            return Poll::Ready(None);
        }
        match self.reader.poll_next(task) {
            Poll::Ready(Some(Item::Note(note))) => Poll::Ready(Some(encode_event(&note))),
            Poll::Ready(Some(Item::Last(last))) => {
                self.done = true;
                Poll::Ready(match last {
                    Last::Answer(answer) => Some(encode_event(&answer)),
                    Last::Failed(failure) => {
                        Some(encode_event(&failure.tell(&self.server, self.id.as_ref()).body))
                    }
                    Last::Closed => None,
                })
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.keep_alive.poll_tick(task).map(|_| Some(Bytes::from_static(b":\n\n"))),
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Self::Whole(body) => Poll::Ready(body.take()),
            Self::Events(events) => events.poll(task),
        };
        data.map(|data| data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
