//! One POST: what a client's message means to its child, and how the answer comes back.
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
use super::opening::{First, INITIALIZE, Opened};
use super::payload::Payload;
use super::serve::{Answer, Place, SESSION, caller, empty, events, failed, json, nobody, refuse, session};
use super::slot::Slot;
use super::supervisor::{Absent, Guest};
use crate::catalog::Mode;
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
    // The modern era has no sessions.
    let guest = Guest { caller: caller(headers), session: session.filter(|_| !modern) };
    let request = Post { bridge, place, body, message: &message, session, modern, guest };
    match (message.kind, id) {
        (Kind::Request, Some(id)) => request.call(&id).await,
        (Kind::Notification, _) => request.notify().await,
        (_, Some(id)) => request.respond(id).await,
        // An answer without an id answers nothing.
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
    guest: Guest<'a>,
}

impl Post<'_> {
    async fn call(&self, id: &Id) -> Answer {
        let Some(entry) = self.place.entry(self.bridge) else { return nobody(Absent::Instance) };
        let is_opening = self.message.method == Method::Initialize && !self.modern;
        let mut last = Failure::Unsent;
        for _ in 0..ATTEMPTS_MAX {
            let attempted = if is_opening && entry.bounds().mode == Mode::PerSession {
                self.open_session(id).await
            } else {
                match self.place.slot(self.bridge, self.guest) {
                    Ok(slot) => {
                        slot.record.touch();
                        self.attempt(&slot, id).await
                    }
                    Err(absent) => return nobody(absent),
                }
            };
            match attempted {
                Ok(answer) => return answer,
                Err(Failure::Unsent) => {}
                Err(failure) => {
                    last = failure;
                    break;
                }
            }
        }
        failed(&last, &entry.server.load().id, Some(id))
    }

    async fn attempt(&self, slot: &Arc<Slot>, id: &Id) -> Result<Answer, Failure> {
        if !self.modern
            && !slot.is_session()
            && let Some(answer) = self.answered_here(slot, id).await?
        {
            return Ok(answer);
        }
        let live = slot.ensure(self.modern).await?;
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

    /// A session with a child of its own, which gets the client's own `initialize`.
    async fn open_session(&self, id: &Id) -> Result<Answer, Failure> {
        let session = super::random_hex::<16>().map_err(|_| Failure::Closed)?;
        // The newest entry: a changed server may be another one by now.
        let entry = self.place.entry(self.bridge).ok_or(Failure::Closed)?;
        let slot = entry.new_session(&session, self.guest.caller).ok_or(Failure::Unsent)?;
        // A client that leaves before it knows its session leaves none behind.
        let unknown = Unknown(Some(slot));
        let Some(slot) = &unknown.0 else { return Err(Failure::Closed) };
        slot.record.touch();
        let line = super::frame::one_line(self.body, &[(self.message.id, &INITIALIZE.to_string())]);
        let opened = slot.begin(First::Client(line)).await?.ready().await;
        let opened =
            opened.map_err(|death| if death.meant { Failure::Unsent } else { Failure::Died(death) })?;
        let Opened::Legacy(handshake) = &*opened else { return Err(Failure::Unsent) };
        let mut answer = json(StatusCode::OK, handshake.own_answer(id));
        if handshake.is_result()
            && let Ok(session) = HeaderValue::try_from(session)
        {
            answer.headers_mut().insert(SESSION, session);
            unknown.keep();
        }
        Ok(answer)
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
            .ensure(false)
            .await?
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

    /// What a client answers to its own child; a shared one asks for nothing.
    async fn respond(&self, id: Id) -> Answer {
        let slot = match self.place.slot(self.bridge, self.guest) {
            Ok(slot) => slot,
            Err(absent) => return nobody(absent),
        };
        if slot.is_session()
            && let Some(live) = slot.legacy()
        {
            live.touch();
            live.tell(Command::Answer { id, line: super::frame::one_line(self.body, &[]) }).await;
        }
        empty(StatusCode::ACCEPTED)
    }

    async fn notify(&self) -> Answer {
        let accepted = empty(StatusCode::ACCEPTED);
        let slot = match self.place.slot(self.bridge, self.guest) {
            Ok(slot) => slot,
            Err(absent) => return nobody(absent),
        };
        // A child that does not run needs no news, and a modern one takes none from clients: they close streams.
        let Some(live) = slot.legacy().filter(|_| !self.modern) else { return accepted };
        let is_own = slot.is_session();
        live.touch();
        match self.message.method {
            // The child had its own handshake.
            Method::Initialized if !is_own => {}
            Method::Cancelled => {
                let params = &self.message.params;
                let id = params.raw("requestId").and_then(|raw| Id::from_json(raw.get()));
                if let Some(id) = id {
                    live.tell(Command::Cancel { session: self.session.map(Into::into), id }).await;
                }
            }
            // A client's progress is on a request of the server, and there are none.
            Method::Progress if !is_own => {}
            _ => live.tell(Command::Notify(super::frame::one_line(self.body, &[]))).await,
        }
        accepted
    }
}

/// A session whose client does not know of it yet; it ends unless it is kept.
struct Unknown(Option<Arc<Slot>>);

impl Unknown {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unknown {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.end_session();
        }
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
