//! One session with a server of 2024-11-05: its stream, who waits for responses on it, and who listens.
//! Not here: how it is opened and used (`legacy_sse`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ::http::Uri;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::Sessions;
use crate::mcp::{EventReader, Id, encode_event};
use crate::upstream::http::Answer;

/// Requests at once in one session.
const PENDING_MAX: usize = 256;
/// Messages of the server that wait for somebody who listens; older ones give way.
const UNHEARD_MAX: usize = 64;
/// A session that nobody uses and nobody listens to is given up.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    /// Where messages go.
    pub(super) target: Uri,
    pending: Mutex<HashMap<Id, oneshot::Sender<Bytes>>>,
    ear: Mutex<Ear>,
    used: Mutex<Instant>,
    over: Notify,
}

/// Who listens to what the server says unasked.
#[derive(Debug, Default)]
struct Ear {
    open: Option<mpsc::Sender<Bytes>>,
    unheard: VecDeque<Bytes>,
}

/// Somebody who waits for a response; dropping it gives the place back.
pub(super) struct Waiting<'s> {
    session: &'s Session,
    id: Id,
    response: oneshot::Receiver<Bytes>,
}

impl Waiting<'_> {
    /// The response; `None` if the stream ended before.
    pub(super) async fn response(mut self) -> Option<Bytes> {
        (&mut self.response).await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.session.pending.lock().remove(&self.id);
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: Option<IgnoredAny>,
}

impl Session {
    pub(super) fn new(target: Uri) -> Self {
        Self {
            target,
            pending: Mutex::default(),
            ear: Mutex::default(),
            used: Mutex::new(Instant::now()),
            over: Notify::new(),
        }
    }

    /// It is in use.
    pub(super) fn used(&self) {
        *self.used.lock() = Instant::now();
    }

    /// Waits for the response to a request of that id; `None` if one of that id is waited for already, or too many are.
    pub(super) fn expect(&self, id: &Id) -> Option<Waiting<'_>> {
        let (send, response) = oneshot::channel();
        let mut pending = self.pending.lock();
        if pending.len() >= PENDING_MAX || pending.contains_key(id) {
            return None;
        }
        pending.insert(id.clone(), send);
        Some(Waiting { session: self, id: id.clone(), response })
    }

    /// A stream of what the server says unasked, from what nobody has heard yet on. Whoever listened before does so no
    /// longer: he lost his connection and came back.
    pub(super) fn listen(&self) -> Answer {
        let (send, received) = mpsc::channel(UNHEARD_MAX);
        let mut ear = self.ear.lock();
        for unheard in std::mem::take(&mut ear.unheard) {
            // As many as there is room for.
            let _ = send.try_send(unheard);
        }
        ear.open = Some(send);
        Answer::live(received)
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.over.notify_one();
    }

    /// Takes messages of the server.
    pub(super) fn take_all(&self, messages: Vec<Bytes>) {
        messages.into_iter().for_each(|message| self.take(message));
    }

    fn take(&self, message: Bytes) {
        let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(&message) else { return };
        if envelope.method.is_none() {
            // A response that nobody waits for any longer has nobody to go to.
            let id = envelope.id.and_then(|id| Id::from_json(id.get()));
            if let Some(waiting) = id.and_then(|id| self.pending.lock().remove(&id)) {
                let _ = waiting.send(message);
            }
            return;
        }
        let line: Vec<u8> =
            message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
        let event = encode_event(&line);
        let mut ear = self.ear.lock();
        let event = match &ear.open {
            Some(open) => match open.try_send(event) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return tracing::debug!("a client listens too slowly: a message was dropped");
                }
                Err(mpsc::error::TrySendError::Closed(event)) => event,
            },
            None => event,
        };
        ear.open = None;
        if ear.unheard.len() >= UNHEARD_MAX {
            ear.unheard.pop_front();
        }
        ear.unheard.push_back(event);
    }

    /// When it is to be given up, if it is not used until then.
    fn idle_at(&self) -> Instant {
        let listened = self.ear.lock().open.as_ref().is_some_and(|open| !open.is_closed());
        if listened || !self.pending.lock().is_empty() {
            self.used();
        }
        *self.used.lock() + IDLE
    }
}

/// Reads a session's stream until it ends, the session does, or nobody uses it.
pub(super) fn read(
    session: Arc<Session>,
    (mut stream, mut reader): (Answer, EventReader),
    (sessions, id): (Sessions, Box<str>),
) {
    #[expect(
        clippy::disallowed_methods,
        reason = "one task for each open stream, which ends with its session"
    )]
    tokio::spawn(async move {
        loop {
            let idle_at = session.idle_at();
            let frame = tokio::select! {
                frame = stream.frame() => frame,
                () = session.over.notified() => break,
                () = sleep_until(idle_at) => {
                    if session.idle_at() <= Instant::now() { break } else { continue }
                }
            };
            let Some(Ok(frame)) = frame else { break };
            let Ok(data) = frame.into_data() else { continue };
            let Ok(events) = reader.feed(&data) else {
                tracing::warn!("an event of a server is too long: its session is ended");
                break;
            };
            session.take_all(events.into_iter().map(|event| event.data.into()).collect());
        }
        // Whoever waits or listens learns that nothing comes any more; later calls find no session.
        sessions.lock().remove(&id);
        session.pending.lock().clear();
        session.ear.lock().open = None;
    });
}
