//! Bodies of the sample server's HTTP answers: a message, a slow call as it goes on, or a stream that stays open.
//! Not here: statuses and headers (`http`).

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::slow::Slow;
use crate::mcp::encode_event;

/// An open stream sends a comment this often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The body of an answer.
pub(super) enum Payload {
    /// All of it, once.
    Whole(Option<Bytes>),
    /// A slow call, as events.
    Slow(Box<(Slow, Pin<Box<Sleep>>, bool)>),
    /// Stays open until the session ends or the server does, and says only what it is given at first.
    Open(Box<Open>),
}

/// A stream that stays open.
pub(super) struct Open {
    pub(super) first: Option<Bytes>,
    pub(super) end: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub(super) tick: Pin<Box<Sleep>>,
}

impl Payload {
    /// One message, or nothing.
    pub(super) fn whole(body: Bytes) -> Self {
        Self::Whole(Some(body).filter(|body| !body.is_empty()))
    }

    /// A slow call, as events.
    pub(super) fn slow(slow: Slow) -> Self {
        let sleep = Box::pin(sleep_until(slow.due()));
        Self::Slow(Box::new((slow, sleep, false)))
    }

    /// A stream that stays open until one of the signals turns true or its sender is gone.
    pub(super) fn open(
        first: Bytes,
        mut shutdown: watch::Receiver<bool>,
        ended: Option<watch::Receiver<bool>>,
    ) -> Self {
        let end = async move {
            let session = async {
                match ended {
                    Some(mut ended) => drop(ended.wait_for(|ended| *ended).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = async { drop(shutdown.wait_for(|down| *down).await) } => {}
                () = session => {}
            }
        };
        let tick = Box::pin(sleep_until(Instant::now() + KEEP_ALIVE));
        Self::Open(Box::new(Open { first: Some(first), end: Box::pin(end), tick }))
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
            Self::Slow(call) => {
                let (slow, sleep, over) = &mut **call;
                if *over {
                    return Poll::Ready(None);
                }
                if sleep.as_mut().poll(task).is_pending() {
                    return Poll::Pending;
                }
                let (said, last) = slow.say();
                *over = last;
                sleep.as_mut().reset(slow.due());
                Poll::Ready(Some(encode_event(said.as_bytes())))
            }
            Self::Open(open) => {
                if let Some(first) = open.first.take() {
                    Poll::Ready(Some(first))
                } else if open.end.as_mut().poll(task).is_ready() {
                    Poll::Ready(None)
                } else {
                    let beat = open.tick.as_mut().poll(task);
                    if beat.is_ready() {
                        open.tick.as_mut().reset(Instant::now() + KEEP_ALIVE);
                        task.waker().wake_by_ref();
                    }
                    beat.map(|()| Some(Bytes::from_static(b":\n\n")))
                }
            }
        };
        data.map(|data| data.map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(body) => {
                hyper::body::SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            Self::Slow(_) | Self::Open(_) => hyper::body::SizeHint::default(),
        }
    }
}
