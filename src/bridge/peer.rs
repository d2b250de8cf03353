//! The client of a child that serves one session alone: what the child asks and tells it, and on which stream.
//! Not here: the stream outside of calls (`outlet`), the child's table of calls (`desk`).
//!
//! On stdio nothing says which call a server's request belongs to. While one call is in flight it belongs to that
//! one, and goes on its stream; otherwise it goes on the session's own stream, or waits for it. Ids stay as the child
//! chose them, because nobody else uses them.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::mailbox::Mailbox;
use super::outlet::Outlet;
use crate::mcp::Id;

/// Requests of a child that its client did not answer yet: a person is asked one thing at a time.
const ASKED_MAX: usize = 64;

/// A child's one client.
#[derive(Debug)]
pub(super) struct Peer {
    outlet: Arc<Outlet>,
    asked: HashSet<Id>,
}

impl Peer {
    /// The client that listens at `outlet`.
    pub(super) fn new(outlet: Arc<Outlet>) -> Self {
        Self { outlet, asked: HashSet::new() }
    }

    /// Takes a request to the client. Tells whether it could be; a ping of a child whose client does not listen is
    /// left to be answered for it.
    pub(super) fn asks<'m>(
        &mut self,
        line: &[u8],
        method: &str,
        id: &Id,
        calls: impl Iterator<Item = (u64, &'m Mailbox)>,
    ) -> bool {
        let mut calls = calls.filter(|(_, call)| !call.is_gone()).peekable();
        let is_deaf = calls.peek().is_none() && !self.outlet.is_open();
        if self.asked.len() >= ASKED_MAX || (method == "ping" && is_deaf) || !self.say(line, calls) {
            return false;
        }
        self.asked.insert(id.clone());
        true
    }

    /// Takes a notification to the client.
    pub(super) fn tells<'m>(
        &mut self,
        line: &[u8],
        method: &str,
        request: Option<&RawValue>,
        calls: impl Iterator<Item = (u64, &'m Mailbox)>,
    ) {
        let is_told = match method {
            // These belong to the session, whatever is in flight.
            "notifications/resources/updated"
            | "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => self.outlet.say(Bytes::copy_from_slice(line)),
            "notifications/cancelled" => {
                if let Some(id) = request.and_then(|raw| Id::from_json(raw.get())) {
                    self.asked.remove(&id);
                }
                self.say(line, calls)
            }
            _ => self.say(line, calls),
        };
        if !is_told {
            tracing::debug!(method, "a session is too slow for its notifications");
        }
    }

    /// Whether it has something to answer.
    pub(super) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The client answered; `false` if it was not asked.
    pub(super) fn answered(&mut self, id: &Id) -> bool {
        self.asked.remove(id)
    }

    /// A call is the next chance of a client that does not listen to be told what waits for it.
    pub(super) fn hand_over(&self, call: &Mailbox) {
        for message in self.outlet.take_waiting() {
            call.note(message);
        }
    }

    /// The child is gone.
    pub(super) fn gone(&self) {
        self.outlet.close();
    }

    fn say<'m>(&self, line: &[u8], calls: impl Iterator<Item = (u64, &'m Mailbox)>) -> bool {
        let message = Bytes::copy_from_slice(line);
        let mut live: Vec<(u64, &Mailbox)> = calls.filter(|(_, call)| !call.is_gone()).collect();
        live.sort_unstable_by_key(|(ticket, _)| *ticket);
        match live.as_slice() {
            [(_, only)] => only.note(message),
            [.., (_, newest)] if !self.outlet.is_open() => newest.note(message),
            _ => self.outlet.say(message),
        }
    }
}
