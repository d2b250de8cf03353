//! What the server says unasked, read from its own stream and put onto the client's.
//! Not here: the client's stream (`stream`), answers (`events`).

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::sleep;

use super::events::event;
use crate::hub::{HubError, Relayed};
use crate::mcp::EventReader;
use crate::reply::{Body, Stream};
use crate::upstream::Attempt;

/// Before a server's stream is opened again, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

type Opening<'a> = Pin<Box<dyn Future<Output = Result<Relayed, HubError>> + Send + 'a>>;

/// A server's stream, opened again whenever it ends.
pub(super) struct Listening<'a> {
    open: Box<dyn Fn() -> Opening<'a> + Send + Sync + 'a>,
    state: State<'a>,
    pause: Duration,
    bytes_max: usize,
}

enum State<'a> {
    /// The client is not ready, or the server has no such stream.
    Silent,
    Opening(Opening<'a>),
    Open(Box<(Stream, EventReader, Option<Attempt>)>),
    Pausing(Pin<Box<tokio::time::Sleep>>),
}

impl<'a> Listening<'a> {
    /// Nothing yet; `open` opens the server's stream. Events are as long as `bytes_max` at most.
    pub(super) fn new(open: impl Fn() -> Opening<'a> + Send + Sync + 'a, bytes_max: usize) -> Self {
        Self { open: Box::new(open), state: State::Silent, pause: PAUSE.0, bytes_max }
    }

    /// The server may speak from now on.
    pub(super) fn begin(&mut self) {
        self.state = State::Opening((self.open)());
    }

    /// The next events for the client, which are never none. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Bytes {
        loop {
            match &mut self.state {
                State::Silent => std::future::pending().await,
                State::Pausing(pause) => {
                    pause.await;
                    self.begin();
                }
                State::Opening(opening) => {
                    let opened = opening.await;
                    self.opened(opened);
                }
                State::Open(open) => {
                    let (stream, reader, _) = open.as_mut();
                    let data = match stream.rest.frame().await {
                        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                        Some(Err(_)) | None => {
                            self.pause();
                            continue;
                        }
                    };
                    let Ok(events) = reader.feed(&data) else {
                        self.pause();
                        continue;
                    };
                    let said: Vec<u8> = events
                        .iter()
                        .filter(|said| !said.data.is_empty())
                        .flat_map(|said| event(&said.data))
                        .collect();
                    if !said.is_empty() {
                        self.pause = PAUSE.0;
                        return said.into();
                    }
                }
            }
        }
    }

    fn opened(&mut self, opened: Result<Relayed, HubError>) {
        match opened {
            Ok(Relayed { reply, attempt, .. }) if reply.status.is_success() => match reply.body {
                Body::Stream(stream) if stream.events => {
                    let reader = EventReader::new(self.bytes_max);
                    self.state = State::Open(Box::new((*stream, reader, attempt)));
                }
                _ => self.state = State::Silent,
            },
            // 405 where there is no such stream; 404 where the session is gone, which the next message finds out.
            Ok(Relayed { reply, .. }) if reply.status.is_client_error() => self.state = State::Silent,
            Ok(_) | Err(_) => self.pause(),
        }
    }

    fn pause(&mut self) {
        self.state = State::Pausing(Box::pin(sleep(self.pause)));
        self.pause = (self.pause * 2).min(PAUSE.1);
    }
}
