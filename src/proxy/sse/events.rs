//! A server's answer made into events of a stream.
//! Not here: how it was asked for (`post`), what the server says unasked (`listening`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use crate::mcp::{Answer, Code, EventReader, Id, RpcError, Verdict, encode_event};
use crate::reply::{Body, Stream};
use crate::telemetry::Outcome;

/// A stream without a bound of its own is given up after this silence; none of them answers a request.
const IDLE: Duration = Duration::from_secs(120);

/// A message on one line, as an event.
pub(super) fn event(message: &[u8]) -> Bytes {
    if !message.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return encode_event(message);
    }
    // Line ends within JSON stand between values only, where a space does as well.
    let line: Vec<u8> =
        message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
    encode_event(&line)
}

/// The messages of an answer, one after the other.
pub(super) struct Messages {
    body: Option<Body>,
    reader: EventReader,
    ready: std::vec::IntoIter<Vec<u8>>,
    answered: bool,
    bytes_max: usize,
    /// The request that is answered, if it is one.
    id: Option<Id>,
    /// How the exchange ended, once that is known.
    pub(super) outcome: Option<Outcome>,
}

impl Messages {
    pub(super) fn new(body: Body, id: Option<Id>, bytes_max: usize) -> Self {
        Self {
            body: Some(body),
            reader: EventReader::new(bytes_max),
            ready: Vec::new().into_iter(),
            answered: false,
            bytes_max,
            id,
            outcome: None,
        }
    }

    /// The next message; `None` when there are no more. A request that the server leaves without a response gets one.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.ready.next() {
                self.look(&message);
                return Some(message.into());
            }
            match self.body.take()? {
                Body::Whole(body) if body.is_empty() => return None,
                Body::Whole(body) => {
                    self.look(&body);
                    return Some(body);
                }
                Body::Stream(stream) if stream.events => self.pull(stream).await,
                Body::Stream(stream) => {
                    let message = self.whole(*stream).await;
                    self.look(&message);
                    return Some(message);
                }
            }
        }
    }

    fn look(&mut self, message: &[u8]) {
        if let Some(Answer::Response(verdict)) = Answer::read(message) {
            self.answered = true;
            self.outcome = Some(match verdict {
                Verdict::Ok => Outcome::Ok,
                Verdict::ToolError => Outcome::ToolError,
                Verdict::RpcError => Outcome::RpcError,
            });
        }
    }

    /// Reads on in a stream of events until there is a message, or an end.
    async fn pull(&mut self, mut stream: Box<Stream>) {
        let first = std::mem::take(&mut stream.first);
        let (words, outcome) = match self.reader.feed(&first) {
            Ok(events) if !events.is_empty() => return self.keep(events, stream),
            Ok(_) => match next(&mut stream).await {
                Piece::Data(data) => match self.reader.feed(&data) {
                    Ok(events) => return self.keep(events, stream),
                    Err(_) => {
                        (("upstream_too_long", "the server's answer is too long"), Outcome::TransportError)
                    }
                },
                Piece::End => (
                    ("upstream_no_response", "the server ended its stream without a response"),
                    Outcome::TransportError,
                ),
                Piece::Late => (("timeout", "the server's response did not come in time"), Outcome::Timeout),
            },
            Err(_) => (("upstream_too_long", "the server's answer is too long"), Outcome::TransportError),
        };
        if let (false, Some(id)) = (self.answered, &self.id) {
            self.ready = vec![self.failure(id, words, outcome)].into_iter();
            self.answered = true;
            self.outcome = Some(outcome);
        }
    }

    fn keep(&mut self, events: Vec<crate::mcp::Event>, stream: Box<Stream>) {
        let messages = events.into_iter().filter(|event| !event.data.is_empty()).map(|event| event.data);
        self.ready = messages.collect::<Vec<_>>().into_iter();
        self.body = Some(Body::Stream(stream));
    }

    fn failure(&self, id: &Id, (reason, words): (&str, &str), outcome: Outcome) -> Vec<u8> {
        let code = if outcome == Outcome::Timeout { Code::TIMEOUT } else { Code::BAD_UPSTREAM };
        let data = Some(serde_json::json!({ "reason": reason }));
        RpcError { code, message: words.into(), data }.to_message(Some(id)).to_vec()
    }

    /// A long answer in JSON, whole: an event needs its end.
    async fn whole(&mut self, mut stream: Stream) -> Bytes {
        let mut whole = BytesMut::from(std::mem::take(&mut stream.first).as_ref());
        let failed = loop {
            match next(&mut stream).await {
                Piece::Data(data) if whole.len() + data.len() <= self.bytes_max => {
                    whole.extend_from_slice(&data)
                }
                Piece::Data(_) => break ("upstream_too_long", "the server's answer is too long"),
                Piece::Late => break ("timeout", "the server's response did not come in time"),
                Piece::End if Answer::read(&whole).is_some() => return whole.freeze(),
                Piece::End => break ("upstream_truncated", "the server's answer ended too early"),
            }
        };
        let error = RpcError {
            code: Code::BAD_UPSTREAM,
            message: failed.1.into(),
            data: Some(serde_json::json!({"reason": failed.0})),
        };
        error.to_message(self.id.as_ref())
    }
}

enum Piece {
    Data(Bytes),
    End,
    Late,
}

async fn next(stream: &mut Stream) -> Piece {
    let idle = Instant::now() + stream.idle.unwrap_or(IDLE);
    let until = stream.deadline.map_or(idle, |deadline| deadline.min(idle));
    loop {
        match timeout_at(until, stream.rest.frame()).await {
            Err(_) => return Piece::Late,
            Ok(None | Some(Err(_))) => return Piece::End,
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Piece::Data(data);
                }
            }
        }
    }
}
