//! One message sent to the gateway, and everything that comes back for it.
//! Not here: which messages are sent when (`relay`), what the server says unasked (`listen`).
//!
//! Nothing is sent twice once it may have been read: only a connection that was never made is tried again, and a
//! session that the gateway says it does not know, since then nothing ran.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method as Verb, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::door::{Door, DoorError};
use super::line::{Heard, Message};
use super::session::{Opened, SESSION};
use crate::mcp::{Code, EventReader, Kind, Method};

/// How long a gateway that cannot be reached is asked again: a restart takes less.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two tries.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// One message of a server, which is held in memory until it is a line.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A refusal is a few words.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// How often a stream is taken up again that brings nothing new.
const RESUMES_MAX: u32 = 5;
/// Before a stream is taken up again, unless the server says otherwise; never longer than the second.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the client is to be told.
#[derive(Debug)]
pub(super) enum Said {
    /// A message.
    Line(Bytes),
    /// A list of tools.
    Tools(Bytes),
    /// The response to `initialize`, and with it a session.
    Opened(Opened, Bytes),
}

/// How a message ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Whatever there was to tell has been told.
    Done,
    /// The gateway does not know the session; nothing ran.
    Lost(Message),
}

/// Why a message has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Door(#[from] DoorError),
    #[error("the gateway does not know the session any longer")]
    Lost,
    #[error("the gateway answered HTTP {0}")]
    Status(StatusCode),
    #[error("the gateway's answer is no JSON-RPC message")]
    Content,
    #[error("the gateway's answer is too long")]
    TooLong,
    #[error("the stream ended before the answer came; whether the call ran is unknown")]
    NoAnswer,
}

impl Trouble {
    fn code_and_reason(&self) -> (Code, &'static str) {
        match self {
            // The Open MCP Gateway's code for "failed to connect".
            Self::Door(DoorError::Unreachable(_)) => (Code::RESOURCE_NOT_FOUND, "gateway_unreachable"),
            Self::Door(DoorError::Broken) | Self::NoAnswer => (Code::BAD_UPSTREAM, "connection_broke"),
            Self::Lost => (Code::NOT_FOUND, "session_not_found"),
            Self::Status(_) => (Code::BAD_UPSTREAM, "gateway_status"),
            Self::Content => (Code::BAD_UPSTREAM, "gateway_content"),
            Self::TooLong => (Code::BAD_UPSTREAM, "answer_too_long"),
        }
    }

    /// The error for whoever waits for `message`.
    pub(super) fn tell(&self, message: &Message) -> Option<Bytes> {
        let (code, reason) = self.code_and_reason();
        message.fails(code, reason, self.to_string())
    }
}

/// Sends messages in one session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) door: &'a Door,
    pub(super) opened: &'a Opened,
    pub(super) tell: &'a mpsc::Sender<Said>,
}

impl Caller<'_> {
    /// Sends `message` and tells the client all that comes back.
    pub(super) async fn call(self, message: Message) -> Ended {
        match self.exchange(&message, true).await {
            Ok(_) => {}
            Err(Trouble::Lost) if !message.again => return Ended::Lost(message),
            Err(trouble) => {
                tracing::warn!(method = message.method.label(), "{trouble}");
                if let Some(line) = trouble.tell(&message) {
                    let _ = self.tell.send(Said::Line(line)).await;
                }
            }
        }
        Ended::Done
    }

    /// The same, for a message of our own: only what the server says beside the response is told. Gives the session that
    /// the response opened.
    pub(super) async fn call_quietly(self, message: &Message) -> Result<Option<Opened>, Trouble> {
        self.exchange(message, false).await
    }

    async fn exchange(self, message: &Message, aloud: bool) -> Result<Option<Opened>, Trouble> {
        let answer = self.send(message).await?;
        if !answer.status().is_success() {
            return self.refused(message, answer, aloud).await.map(|()| None);
        }
        if message.kind != Kind::Request {
            // 202 without a body. It is read so that the connection can be used again.
            let _ = whole(answer, REFUSAL_BYTES_MAX).await;
            return Ok(None);
        }
        let id = answer.headers().get(&SESSION).cloned();
        if is(&answer, "text/event-stream") {
            return self.events(message, answer, id, aloud).await;
        }
        if !is(&answer, "application/json") {
            return Err(Trouble::Content);
        }
        let heard = Heard::read(&whole(answer, MESSAGE_BYTES_MAX).await?).ok_or(Trouble::Content)?;
        Ok(self.heard(message, heard, id, aloud).await)
    }

    async fn send(self, message: &Message) -> Result<Response<Incoming>, DoorError> {
        let begun = Instant::now();
        let mut pause = TRY_AGAIN.0;
        loop {
            let headers = match &message.mirrored {
                Some(mirrored) => mirrored.clone(),
                None if message.method == Method::Initialize => http::HeaderMap::new(),
                None => self.opened.headers(),
            };
            match self.door.send(Verb::POST, headers, message.body.clone()).await {
                Err(DoorError::Unreachable(_)) if begun.elapsed() + pause < PATIENCE => {
                    sleep(pause).await;
                    pause = (pause * 2).min(TRY_AGAIN.1);
                }
                done => return done,
            }
        }
    }

    /// An answer with a status that is no success.
    async fn refused(
        self,
        message: &Message,
        answer: Response<Incoming>,
        aloud: bool,
    ) -> Result<(), Trouble> {
        let status = answer.status();
        let body = whole(answer, REFUSAL_BYTES_MAX).await.unwrap_or_default();
        let in_session = message.mirrored.is_none() && message.method != Method::Initialize;
        if in_session && self.opened.id.is_some() && is_lost(status, &body) {
            return Err(Trouble::Lost);
        }
        match Heard::read(&body).filter(|heard| heard.answers.is_some()) {
            Some(heard) if aloud && heard.is_for(message) => self.say(heard.line).await,
            // A refusal that does not know which request it answers.
            Some(heard) if aloud && message.kind == Kind::Request => {
                self.say(addressed(&heard.line, message).ok_or(Trouble::Status(status))?).await;
            }
            _ => return Err(Trouble::Status(status)),
        }
        Ok(())
    }

    /// An answer in events, over as many streams as it takes.
    async fn events(
        self,
        message: &Message,
        answer: Response<Incoming>,
        id: Option<HeaderValue>,
        aloud: bool,
    ) -> Result<Option<Opened>, Trouble> {
        let mut opened = None;
        let mut stream = Some(answer.into_body());
        let mut reader = EventReader::new(MESSAGE_BYTES_MAX);
        let (mut resumes, mut last) = (0, None);
        loop {
            while let Some(Some(Ok(frame))) = match &mut stream {
                Some(stream) => Some(stream.frame().await),
                None => None,
            } {
                let Ok(data) = frame.into_data() else { continue };
                for event in reader.feed(&data).map_err(|_| Trouble::TooLong)? {
                    let Some(heard) = Heard::read(&event.data) else { continue };
                    let answered = heard.is_for(message);
                    opened = self.heard(message, heard, id.clone(), aloud).await.or(opened);
                    if answered {
                        return Ok(opened);
                    }
                }
            }
            // A stream with ids can be taken up again after the last of them; a modern one has none.
            let at = reader.last_id().filter(|_| message.mirrored.is_none()).map(str::to_owned);
            let Some(at) = at else { return Err(Trouble::NoAnswer) };
            resumes = if last.as_ref() == Some(&at) { resumes + 1 } else { 0 };
            if resumes > RESUMES_MAX {
                return Err(Trouble::NoAnswer);
            }
            sleep(reader.retry().unwrap_or(RETRY.0).min(RETRY.1)).await;
            stream = self.resume(&at).await?;
            reader = EventReader::resuming(&reader, MESSAGE_BYTES_MAX);
            last = Some(at);
        }
    }

    /// The stream after the event `at`; `None` if the gateway cannot be reached just now.
    async fn resume(self, at: &str) -> Result<Option<Incoming>, Trouble> {
        let mut headers = self.opened.headers();
        let at = HeaderValue::try_from(at).map_err(|_| Trouble::NoAnswer)?;
        headers.insert("last-event-id", at);
        match self.door.send(Verb::GET, headers, Bytes::new()).await {
            Ok(answer) if answer.status().is_success() && is(&answer, "text/event-stream") => {
                Ok(Some(answer.into_body()))
            }
            Ok(_) => Err(Trouble::NoAnswer),
            Err(_) => Ok(None),
        }
    }

    /// A message of the server that came for `message`.
    async fn heard(
        self,
        message: &Message,
        heard: Heard,
        id: Option<HeaderValue>,
        aloud: bool,
    ) -> Option<Opened> {
        if !heard.is_for(message) {
            self.say(heard.line).await;
            return None;
        }
        let opened = (message.method == Method::Initialize).then(|| opened_by(&heard.line, id)).flatten();
        match &opened {
            _ if !aloud => {}
            Some(opened) => {
                let _ = self.tell.send(Said::Opened(opened.clone(), heard.line)).await;
            }
            None if message.method == Method::ToolsList && message.mirrored.is_some() => {
                let _ = self.tell.send(Said::Tools(heard.line)).await;
            }
            None => self.say(heard.line).await,
        }
        opened
    }

    async fn say(self, line: Bytes) {
        let _ = self.tell.send(Said::Line(line)).await;
    }
}

/// The session that a response to `initialize` opens; `None` if it is an error.
fn opened_by(response: &[u8], id: Option<HeaderValue>) -> Option<Opened> {
    #[derive(Deserialize)]
    struct Response {
        result: Agreed,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Agreed {
        protocol_version: Option<String>,
    }
    let Response { result } = serde_json::from_slice(response).ok()?;
    let revision = result.protocol_version.and_then(|text| HeaderValue::try_from(text).ok());
    Some(Opened { id, revision })
}

/// Whether a refusal says that the session is unknown: 404 by the specification, 400 with such words in practice. A
/// server that is unknown is another thing, which our gateways say.
pub(super) fn is_lost(status: StatusCode, body: &[u8]) -> bool {
    let says = |words: &[u8]| memchr::memmem::find(&body.to_ascii_lowercase(), words).is_some();
    match status {
        StatusCode::NOT_FOUND => !says(br#""reason":"unknown_server""#),
        StatusCode::BAD_REQUEST => says(b"session"),
        _ => false,
    }
}

/// The error in `refusal`, as the response to `message`.
fn addressed(refusal: &[u8], message: &Message) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Refusal<'a> {
        #[serde(borrow)]
        error: &'a RawValue,
    }
    let Refusal { error } = serde_json::from_slice(refusal).ok()?;
    let id = message.id.as_ref()?.as_json();
    Some(Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{}}}"#, error.get())))
}

/// Whether a body is of that type.
pub(super) fn is(answer: &Response<Incoming>, wanted: &str) -> bool {
    let value = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(wanted)
}

/// A body, whole.
pub(super) async fn whole(answer: Response<Incoming>, bytes_max: usize) -> Result<Bytes, Trouble> {
    match Limited::new(answer.into_body(), bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Trouble::TooLong),
        Err(_) => Err(Trouble::Door(DoorError::Broken)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_session_is_told_from_a_server_that_is_not_there() {
        let check = |status: u16, body: &str, want| {
            assert_eq!(is_lost(StatusCode::from_u16(status).unwrap(), body.as_bytes()), want, "{body}");
        };
        check(404, r#"{"error":{"data":{"reason":"session_not_found"}}}"#, true);
        check(404, "", true);
        check(404, r#"{"error":{"data":{"reason":"unknown_server"}}}"#, false);
        check(400, r#"{"error":{"message":"Bad Request: No valid session ID provided"}}"#, true);
        check(400, r#"{"error":{"message":"unknown tool"}}"#, false);
        check(503, "session", false);
    }

    #[test]
    fn a_refusal_without_id_is_addressed() {
        let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#);
        let message = Message::read(&body).unwrap();
        let line = addressed(br#"{"jsonrpc":"2.0","id":null,"error":{"code":-1}}"#, &message).unwrap();
        assert_eq!(line, r#"{"jsonrpc":"2.0","id":"a","error":{"code":-1}}"#);
    }
}
