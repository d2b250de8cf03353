//! One POST: what a client's message means to a shared child, and how the answer comes back.
//! Not here: the socket (`serve`), the child's side (`desk`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::timeout;

use super::Bridge;
use super::failure::Failure;
use super::live::{Command, Stage, Submission};
use super::mailbox::{Item, Last, Reader};
use super::opening::Opened;
use super::payload::Payload;
use super::serve::{Answer, Place, SESSION, empty, events, failed, json, refuse, session};
use super::slot::Slot;
use crate::mcp::{Era, Id, Kind, Message, Method, MirroredHeaders, ParseLimits, Revision, RpcError, parse};

/// A call that reaches a child at its end was not written to it, and is handed to the next one this often.
const ATTEMPTS_MAX: usize = 4;
/// A listen stream whose child says nothing becomes a stream after this time, so that its caller knows it stands.
const LISTEN_PATIENCE: Duration = Duration::from_secs(1);

/// Answers a POST.
pub(super) async fn answer(bridge: &Arc<Bridge>, place: &Place, headers: &HeaderMap, body: &Bytes) -> Answer {
    let limits = ParseLimits { depth_max: bridge.shared.limits.json_depth_max };
    let message = match parse(body, limits) {
        Ok(message) => message,
        Err(malformed) => {
            let code = crate::mcp::Code::INVALID_REQUEST;
            let error = RpcError { code, message: malformed.kind.to_string(), data: None };
            return json(StatusCode::BAD_REQUEST, error.to_message(malformed.id.as_ref()));
        }
    };
    let session = session(headers);
    if session.is_none() && headers.contains_key(SESSION) {
        return refuse(StatusCode::NOT_FOUND, "Session not found");
    }
    let id = message.id.and_then(|raw| Id::from_json(raw.get()));
    let modern = is_modern(headers, &message);
    let request = Post { bridge, place, body, message: &message, session, modern };
    match (message.kind, id) {
        (Kind::Request, Some(id)) => request.call(&id).await,
        (Kind::Notification, _) => request.notify().await,
        // Nothing was asked of a client, so nothing waits for what it says.
        _ => empty(StatusCode::ACCEPTED),
    }
}

/// The gateway has checked that headers and body agree; either one tells the era.
fn is_modern(headers: &HeaderMap, message: &Message<'_>) -> bool {
    message.params.meta.protocol_version().is_some()
        || headers
            .get(MirroredHeaders::VERSION)
            .and_then(|value| Revision::parse(value.to_str().ok()?))
            .is_some_and(|revision| revision.era() == Era::Modern)
}

struct Post<'a> {
    bridge: &'a Arc<Bridge>,
    place: &'a Place,
    body: &'a Bytes,
    message: &'a Message<'a>,
    session: Option<&'a str>,
    modern: bool,
}

impl Post<'_> {
    async fn call(&self, id: &Id) -> Answer {
        let mut last = Failure::Unsent;
        let mut server = None;
        for _ in 0..ATTEMPTS_MAX {
            let Some(slot) = self.place.slot(self.bridge) else { break };
            slot.touch();
            server = Some(slot.id.clone());
            match self.attempt(&slot, id).await {
                Ok(answer) => return answer,
                Err(Failure::Unsent) => {}
                Err(failure) => {
                    last = failure;
                    break;
                }
            }
        }
        match server {
            Some(server) => failed(&last, &server, Some(id)),
            None => refuse(StatusCode::NOT_FOUND, "there is no such server or instance"),
        }
    }

    async fn attempt(&self, slot: &Arc<Slot>, id: &Id) -> Result<Answer, Failure> {
        if !self.modern
            && let Some(answer) = self.answered_here(slot, id).await?
        {
            return Ok(answer);
        }
        let live = slot.ensure(self.modern)?;
        let server = slot.server.load();
        let submission = Submission {
            body: self.body,
            message: self.message,
            id,
            session: self.session,
            modern: self.modern,
            timeouts: &server.timeouts,
        };
        let reader = live.submit(&submission, &self.bridge.shared.limits).await?;
        self.first(slot, id, reader).await
    }

    /// Waits for the first thing said to a call: an answer is JSON, all else begins a stream.
    async fn first(&self, slot: &Slot, id: &Id, mut reader: Reader) -> Result<Answer, Failure> {
        let first = if self.modern && self.message.method == Method::Listen {
            timeout(LISTEN_PATIENCE, reader.next()).await
        } else {
            Ok(reader.next().await)
        };
        let note = match first {
            Ok(Some(Item::Last(Last::Answer(answer)))) => {
                let status = if self.modern { modern_status(&answer) } else { StatusCode::OK };
                return Ok(json(status, answer));
            }
            Ok(Some(Item::Last(Last::Failed(failure)))) => return Err(failure),
            Ok(Some(Item::Last(Last::Closed)) | None) => return Err(Failure::Closed),
            Ok(Some(Item::Note(note))) => Some(note),
            Err(_) => None,
        };
        Ok(events(Payload::events(note, reader, slot.id.clone(), Some(id.clone()))))
    }

    /// What the bridge answers itself, being the server that legacy sessions are with.
    async fn answered_here(&self, slot: &Arc<Slot>, id: &Id) -> Result<Option<Answer>, Failure> {
        match self.message.method {
            Method::Initialize => self.initialize(slot, id).await.map(Some),
            // A ping keeps no child from its rest; one that runs answers itself.
            Method::Ping => {
                let runs = slot.legacy().is_some_and(|live| matches!(*live.stage.borrow(), Stage::Ready(_)));
                Ok((!runs).then(|| json(StatusCode::OK, empty_result(id))))
            }
            Method::ResourcesSubscribe => {
                let kept = match (self.session, self.message.params.text("uri")) {
                    (Some(session), Some(uri)) => slot.audience.subscribe(session, &uri),
                    _ => true,
                };
                if kept { Ok(None) } else { Err(Failure::Busy) }
            }
            Method::ResourcesUnsubscribe => {
                let held = match (self.session, self.message.params.text("uri")) {
                    (Some(session), Some(uri)) => slot.audience.unsubscribe(session, &uri),
                    _ => false,
                };
                Ok(held.then(|| json(StatusCode::OK, empty_result(id))))
            }
            _ => Ok(None),
        }
    }

    async fn initialize(&self, slot: &Arc<Slot>, id: &Id) -> Result<Answer, Failure> {
        let opened = slot
            .ensure(false)?
            .ready()
            .await
            .map_err(|death| if death.meant { Failure::Unsent } else { Failure::Died(death) })?;
        let Opened::Legacy(handshake) = &*opened else { return Err(Failure::Unsent) };
        let asked = self.message.params.text("protocolVersion");
        let mut answer = json(StatusCode::OK, handshake.answer(id, asked.as_deref()));
        let session = super::random_hex::<16>().ok().and_then(|id| HeaderValue::try_from(id).ok());
        // Without randomness there is no session, which the protocol allows.
        if let Some(session) = session.filter(|_| handshake.is_result()) {
            answer.headers_mut().insert(SESSION, session);
        }
        Ok(answer)
    }

    async fn notify(&self) -> Answer {
        let accepted = empty(StatusCode::ACCEPTED);
        let live = self.place.slot(self.bridge).and_then(|slot| slot.legacy());
        // A child that does not run needs no news, and a modern one takes none from clients: they close streams.
        let Some(live) = live.filter(|_| !self.modern) else { return accepted };
        match self.message.method {
            // The child had its own handshake.
            Method::Initialized => {}
            Method::Cancelled => {
                let params = &self.message.params;
                let id = params.raw("requestId").and_then(|raw| Id::from_json(raw.get()));
                if let Some(id) = id {
                    live.tell(Command::Cancel { session: self.session.map(Into::into), id }).await;
                }
            }
            // A client's progress is on a request of the server, and there are none.
            Method::Progress => {}
            _ => live.tell(Command::Notify(super::frame::one_line(self.body, &[]))).await,
        }
        accepted
    }
}

fn empty_result(id: &Id) -> Bytes {
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.as_json()))
}

/// The status that goes with a modern answer (2026-07-28/basic/transports/streamable-http).
fn modern_status(answer: &[u8]) -> StatusCode {
    #[derive(serde::Deserialize)]
    struct Failed {
        error: Option<Code>,
    }
    #[derive(serde::Deserialize)]
    struct Code {
        code: i64,
    }
    // Only the few answers that could be errors are read once more.
    if memchr::memmem::find(answer, b"\"error\"").is_none() {
        return StatusCode::OK;
    }
    let failed = serde_json::from_slice::<Failed>(answer).ok().and_then(|failed| failed.error);
    match failed.map(|error| error.code) {
        Some(-32601) => StatusCode::NOT_FOUND,
        Some(-32022..=-32020) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}
