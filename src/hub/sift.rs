//! Lists of a server, cut down to what the caller sees, as one JSON answer or among the events of a stream.
//! Not here: what the caller sees (`auth`); how a list is cut (`mcp`).
//!
//! A list that cannot be read is not passed on: not as JSON, and in a stream an error stands in its place and ends it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::Lie;
use crate::auth::{Caller, ItemKind, Policy, Sight};
use crate::mcp::{Code, Cut, Decoder, Era, Id, Listed, Method, RpcError, Splitter, Unreadable, encode_event};

/// What becomes of the lists in an answer.
#[derive(Debug)]
pub(super) struct Sift {
    sight: Option<Sight>,
    owed: bool,
    private: bool,
}

impl Sift {
    /// The sift of an answer to `method`; `None` if it goes on as it is.
    pub(super) fn of(policy: &Policy, caller: &Caller, method: Method, era: Era) -> Option<Arc<Self>> {
        let owed = matches!(
            method,
            Method::ToolsList | Method::PromptsList | Method::ResourcesList | Method::ResourcesTemplatesList
        );
        // The GET stream repeats answers that a client lost together with their own stream.
        if !policy.is_ruled() || !(owed || method == Method::Stream) {
            return None;
        }
        let sight = policy.sight(caller);
        let private = owed && era == Era::Modern;
        (sight.is_some() || private).then(|| Arc::new(Self { sight, owed, private }))
    }

    /// A whole message after it was sifted.
    pub(super) fn message(&self, message: Bytes) -> Result<Bytes, Lie> {
        let cut = self.apply(&message).map_err(|Unreadable| Lie::Content)?;
        Ok(cut.map_or(message, Bytes::from))
    }

    fn apply(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
        let keep = |listed, name: &str| {
            let kind = match listed {
                Listed::Tools => ItemKind::Tool,
                Listed::Prompts => ItemKind::Prompt,
                Listed::Resources | Listed::Templates => ItemKind::Resource,
            };
            self.sight.as_ref().is_none_or(|sight| sight.shows(kind, name))
        };
        Cut { keep: &keep, owed: self.owed, private: self.private }.apply(message)
    }

    /// The events of a stream in which each is at most `event_bytes_max` long; `id` is that of the request it answers.
    pub(super) fn events<B>(self: Arc<Self>, rest: B, event_bytes_max: usize, id: Option<Id>) -> Events<B> {
        Events { rest: Some(rest), splitter: Splitter::new(event_bytes_max), sift: self, event_bytes_max, id }
    }

    /// One event, with its end, after it was sifted.
    fn event(&self, event: &[u8], event_bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Unreadable> {
        let mut data: Option<Option<Vec<u8>>> = None;
        Decoder::new(event_bytes_max).feed(event, |found| data = Some(found.map(<[u8]>::to_vec)));
        let cut = match data {
            // Comments, ids and the like.
            None => None,
            Some(None) => return Err(Unreadable),
            // The event that older servers begin a stream with, so that it can be resumed.
            Some(Some(data)) if data.is_empty() => None,
            Some(Some(data)) => self.apply(&data)?,
        };
        match cut {
            None => out.extend_from_slice(event),
            Some(message) => rewrite(event, &message, out),
        }
        Ok(())
    }
}

/// An event with other data.
fn rewrite(event: &[u8], message: &[u8], out: &mut Vec<u8>) {
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    // It belongs to the line end of the event before.
    if event.first() == Some(&b'\n') {
        out.push(b'\n');
    }
    for line in event.split(is_end).filter(|line| !line.is_empty() && !line.starts_with(b"data")) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    for line in message.split(is_end) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// A stream of events on its way.
#[derive(Debug)]
pub(super) struct Events<B> {
    /// `None` once it ended, or had to be ended.
    rest: Option<B>,
    splitter: Splitter,
    sift: Arc<Sift>,
    event_bytes_max: usize,
    id: Option<Id>,
}

impl<B> Events<B> {
    /// Sifts what came; an empty piece is the end.
    fn take(&mut self, piece: &[u8]) -> Bytes {
        let Self { splitter, sift, event_bytes_max, .. } = self;
        let mut out = Vec::with_capacity(piece.len());
        let mut done = Ok(());
        let mut each = |event: Option<&[u8]>| {
            if done.is_ok() {
                done = match event {
                    Some(event) => sift.event(event, *event_bytes_max, &mut out),
                    None => Err(Unreadable),
                };
            }
        };
        if piece.is_empty() {
            splitter.end(&mut each)
        } else {
            splitter.feed(piece, &mut each)
        };
        if done.is_err() {
            self.rest = None;
            let error = RpcError {
                code: Code::BAD_UPSTREAM,
                message: "the server broke the protocol: its list cannot be read".into(),
                data: Some(serde_json::json!({"reason": "upstream_content"})),
            };
            out.extend_from_slice(&encode_event(&error.to_message(self.id.as_ref())));
        }
        Bytes::from(out)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Events<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
            let sifted = match ready!(Pin::new(rest).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) if !piece.is_empty() => self.take(&piece),
                    _ => continue,
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let last = self.take(&[]);
                    self.rest = None;
                    last
                }
            };
            if !sifted.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(sifted))));
            }
        }
    }
}

#[cfg(test)]
mod tests;
