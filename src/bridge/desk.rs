//! The table of calls in flight on one child: what its lines mean and to whom they go. Pure: lines in, lines out.
//! Not here: pipes, processes and clocks (`child`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::audience::Audience;
use super::failure::{Death, Failure};
use super::frame::{Ends, rewrite};
use super::live::{Call, Command, Pending};
use super::mailbox::{Last, Mailbox};
use super::opening::{FIRST_TICKET, First, Opened, Opening, PROBE, Step};
use super::peer::Peer;
use crate::mcp::{Code, Id, RpcError};

/// Calls are taken from the queue while less than this waits to be read by the child: it is a few pipes full.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// A child may still answer a call that its client cancelled.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// What a line or a tick led to, beyond what was written and delivered.
#[derive(Debug)]
pub(super) enum Turn {
    /// The child is ready.
    Opened(Opened),
    /// It was opened for the modern era and does not speak it.
    LegacyOnly,
    /// The line was no JSON-RPC message.
    Rubbish,
}

/// One child's table.
#[derive(Debug)]
pub(super) struct Desk {
    pending: HashMap<u64, Pending>,
    opening: Opening,
    audience: Arc<Audience>,
    legacy: bool,
    total: Duration,
    /// What the child is to read.
    pub(super) out: BytesMut,
    grown: bool,
    /// When it last had a call.
    pub(super) active: Instant,
    /// How many calls it answered.
    pub(super) answered: u64,
    /// The one client, if the child is its own.
    peer: Option<Peer>,
    /// Since when calls have waited without a break.
    pub(super) waiting: Option<Instant>,
}

/// A message of the child, as far as we read it.
#[derive(Deserialize)]
struct Inbound<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// The parameters of its notifications that we act on.
#[derive(Deserialize, Default)]
struct NoteParams<'a> {
    #[serde(rename = "progressToken", borrow, default)]
    token: Option<&'a RawValue>,
    #[serde(default)]
    uri: Option<String>,
    #[serde(rename = "requestId", borrow, default)]
    request: Option<&'a RawValue>,
    #[serde(rename = "_meta", borrow, default)]
    meta: Option<NoteMeta<'a>>,
}

#[derive(Deserialize, Default)]
struct NoteMeta<'a> {
    #[serde(rename = "io.modelcontextprotocol/subscriptionId", borrow, default)]
    subscription: Option<&'a RawValue>,
}

impl Desk {
    /// The table of a child that is opened for one era. Calls get `total` to be answered.
    pub(super) fn new(first: &First, audience: Arc<Audience>, total: Duration, peer: Option<Peer>) -> Self {
        let mut out = BytesMut::new();
        let opening = Opening::begin(first, |line| out.extend_from_slice(line));
        Self {
            pending: HashMap::new(),
            opening,
            audience,
            legacy: !matches!(first, First::Modern),
            total,
            out,
            grown: false,
            active: Instant::now(),
            answered: 0,
            peer,
            waiting: None,
        }
    }

    /// Turns a child that was opened for the modern era into a legacy one.
    pub(super) fn go_legacy(&mut self) {
        self.legacy = true;
        self.opening = Opening::initialize(|line| self.out.extend_from_slice(line));
    }

    /// Whether the child answered its first message.
    pub(super) fn is_open(&self) -> bool {
        self.opening.is_done()
    }

    /// Whether commands may be taken from the queue.
    pub(super) fn takes_commands(&self) -> bool {
        self.is_open() && self.out.len() < OUT_BYTES_MAX
    }

    /// Notes that the child read `count` bytes of what waits for it.
    pub(super) fn wrote(&mut self, count: usize) {
        self.out.advance(count);
        if self.out.is_empty() && std::mem::take(&mut self.grown) {
            // The memory of a large call is given back.
            self.out = BytesMut::new();
        }
        self.grown |= self.out.len() > OUT_BYTES_MAX;
    }

    /// Asks a silent child whether it lives.
    pub(super) fn ping(&mut self) {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{PROBE},\"method\":\"ping\"}}\n");
        self.out.extend_from_slice(line.as_bytes());
    }

    /// Since when a call waits that has a deadline; streams that listen may be silent for long.
    pub(super) fn waits(&mut self) -> Option<Instant> {
        if !self.pending.values().any(|pending| pending.deadline.is_some()) {
            self.waiting = None;
        }
        // One that asked its client waits itself, for a person perhaps.
        if self.peer.as_ref().is_some_and(Peer::is_asked) {
            self.waiting = self.waiting.map(|_| Instant::now());
            return None;
        }
        self.waiting
    }

    /// Whether no call is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes a command.
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Call(call) => self.call(call),
            Command::Notify(line) => {
                self.active = Instant::now();
                self.out.extend_from_slice(&line);
            }
            Command::Answer { id, line } => {
                self.active = Instant::now();
                if self.peer.as_mut().is_some_and(|peer| peer.answered(&id)) {
                    self.out.extend_from_slice(&line);
                }
            }
            Command::Cancel { session, id } => self.cancel(session.as_deref(), &id),
        }
    }

    fn call(&mut self, Call { ticket, line, pending }: Call) {
        if pending.modern == self.legacy {
            // The caller came while it was not yet known that the server speaks the legacy era only.
            pending.mailbox.finish(Last::Failed(Failure::LegacyOnly));
            return;
        }
        if pending.modern && pending.mailbox.is_gone() {
            return;
        }
        self.active = Instant::now();
        if let Some(peer) = &self.peer {
            peer.hand_over(&pending.mailbox);
        }
        if self.pending.is_empty() {
            self.waiting = None;
        }
        self.waiting.get_or_insert(self.active);
        self.out.extend_from_slice(&line);
        self.pending.insert(ticket, pending);
    }

    fn cancel(&mut self, session: Option<&str>, id: &Id) {
        let found = self.pending.iter_mut().find(|(_, pending)| {
            pending.id == *id && pending.session.as_deref() == session && !pending.cancelled
        });
        if let Some((ticket, pending)) = found {
            pending.cancelled = true;
            let grace = Instant::now() + CANCEL_GRACE;
            pending.deadline = Some(pending.deadline.map_or(grace, |deadline| deadline.min(grace)));
            let line = cancelled(*ticket, "cancelled by the client");
            self.out.extend_from_slice(&line);
        }
    }

    /// The caller of a call is gone: a modern one ends with it, a legacy one runs on.
    pub(super) fn caller_gone(&mut self, ticket: u64) {
        if self.pending.get(&ticket).is_some_and(|pending| pending.modern) {
            self.pending.remove(&ticket);
            self.out.extend_from_slice(&cancelled(ticket, "the client is gone"));
        }
    }

    /// Takes a line of the child.
    pub(super) fn line(&mut self, line: &[u8]) -> Option<Turn> {
        let Ok(message) = serde_json::from_slice::<Inbound<'_>>(line) else { return Some(Turn::Rubbish) };
        match (&message.method, message.id) {
            (Some(method), Some(id)) => self.request(line, method, id),
            (Some(method), None) => self.notification(line, method, message.params),
            (None, Some(id)) if message.result.is_some() || message.error.is_some() => {
                let Ok(ticket) = id.get().parse::<u64>() else { return Some(Turn::Rubbish) };
                if ticket < FIRST_TICKET {
                    return self.opening_answered(ticket, &message);
                }
                self.response(line, ticket, &message);
            }
            _ => return Some(Turn::Rubbish),
        }
        None
    }

    fn opening_answered(&mut self, ticket: u64, message: &Inbound<'_>) -> Option<Turn> {
        let out = &mut self.out;
        let answer = (message.result, message.error);
        let step = self.opening.answered(ticket, answer, |line| out.extend_from_slice(line));
        if matches!(step, Some(Step::Opened(_))) {
            self.active = Instant::now();
        }
        step.map(Turn::from)
    }

    fn response(&mut self, line: &[u8], ticket: u64, message: &Inbound<'_>) {
        // An answer to nobody is one that came after its deadline or its caller's end.
        let Some(pending) = self.pending.remove(&ticket) else { return };
        self.active = Instant::now();
        self.answered += 1;
        let id = pending.id.as_json();
        let listens = pending.deadline.is_none();
        let subscription = message
            .result
            .filter(|_| listens)
            .and_then(|result| serde_json::from_str::<NoteParams<'_>>(result.get()).ok()?.meta?.subscription);
        let answer = rewrite(line, &[(message.id, id), (subscription, id)]);
        pending.mailbox.finish(Last::Answer(Bytes::from(answer)));
    }

    /// Takes what was kept of a line over `line_bytes_max`: the call that it answered fails, and no other.
    pub(super) fn dropped(&mut self, ends: &Ends, line_bytes_max: usize) {
        let ticket = match addressee(ends) {
            Addressee::Call(ticket) => Some(ticket),
            Addressee::Unsaid => self.only_ticket(),
            Addressee::Nobody => None,
        };
        // Like any answer, one to nobody came after its deadline or its caller's end.
        let Some(pending) = ticket.and_then(|ticket| self.pending.remove(&ticket)) else { return };
        self.active = Instant::now();
        pending.mailbox.finish(Last::Failed(Failure::LineTooLong(line_bytes_max)));
    }

    /// The only call in flight, if it is one that has a deadline: the answer to a listen stream is never long.
    fn only_ticket(&self) -> Option<u64> {
        let mut all = self.pending.iter();
        let (ticket, pending) = all.next()?;
        (all.next().is_none() && pending.deadline.is_some()).then_some(*ticket)
    }

    /// A child of one client asks that client. A shared one was told that its client has no capabilities, so it may
    /// ask for nothing but a ping.
    fn request(&mut self, line: &[u8], method: &str, id: &RawValue) {
        let Some(id) = Id::from_json(id.get()) else { return };
        if let Some(peer) = &mut self.peer {
            let calls = self.pending.iter().map(|(ticket, pending)| (*ticket, &*pending.mailbox));
            if peer.asks(line, method, &id, calls) {
                return;
            }
        }
        let answer = if method == "ping" {
            Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.as_json()))
        } else {
            let message = match self.peer {
                Some(_) => "the client cannot be asked now".to_owned(),
                None => "this client has no capabilities".to_owned(),
            };
            RpcError { code: Code::METHOD_NOT_FOUND, message, data: None }.to_message(Some(&id))
        };
        // A child that asks and does not read gets no answer, instead of our memory.
        if self.out.len() < OUT_BYTES_MAX {
            self.out.extend_from_slice(&answer);
            self.out.extend_from_slice(b"\n");
        }
    }

    fn notification(&mut self, line: &[u8], method: &str, params: Option<&RawValue>) {
        let params = params.and_then(|raw| serde_json::from_str::<NoteParams<'_>>(raw.get()).ok());
        let params = params.unwrap_or_default();
        if let Some(subscription) = params.meta.and_then(|meta| meta.subscription) {
            if let Some(pending) = self.of(subscription) {
                let id = pending.id.as_json();
                note(&pending.mailbox, rewrite(line, &[(Some(subscription), id)]));
            }
            return;
        }
        if method != "notifications/progress"
            && let Some(peer) = &mut self.peer
        {
            let calls = self.pending.iter().map(|(ticket, pending)| (*ticket, &*pending.mailbox));
            peer.tells(line, method, params.request, calls);
            return;
        }
        match method {
            "notifications/progress" => {
                let Some(pending) = params.token.and_then(|token| self.of(token)) else { return };
                let Some(own) = &pending.token else { return };
                note(&pending.mailbox, rewrite(line, &[(params.token, own)]));
            }
            "notifications/message" => {
                if let Some(mailbox) = self.only_caller() {
                    note(mailbox, line.to_vec());
                }
            }
            "notifications/resources/updated" => {
                self.audience.updated(params.uri.as_deref().unwrap_or_default(), line);
            }
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => self.audience.broadcast(line),
            // What else a server says belongs to one client, and nothing tells to which.
            _ => {}
        }
    }

    fn of(&self, ticket: &RawValue) -> Option<&Pending> {
        self.pending.get(&ticket.get().trim_matches('"').parse().ok()?)
    }

    /// The call of the only caller there is. A log message names no call; with two callers it could be shown to
    /// the wrong one.
    fn only_caller(&self) -> Option<&Mailbox> {
        let mut calls = self.pending.iter().filter(|(_, pending)| pending.deadline.is_some());
        let (mut newest, first) = calls.next()?;
        let mut mailbox = &first.mailbox;
        for (ticket, pending) in calls {
            if first.session.is_none() || pending.session != first.session {
                return None;
            }
            if ticket > newest {
                (newest, mailbox) = (ticket, &pending.mailbox);
            }
        }
        Some(mailbox)
    }

    /// Looks at the clock: calls whose deadline passed fail, and the child is told.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Turn> {
        let due = |pending: &Pending| pending.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| due(pending)).map(|(ticket, _)| *ticket).collect();
        for ticket in late {
            let Some(pending) = self.pending.remove(&ticket) else { continue };
            if pending.cancelled {
                pending.mailbox.finish(Last::Failed(Failure::Cancelled));
            } else {
                self.out.extend_from_slice(&cancelled(ticket, "timeout"));
                pending.mailbox.finish(Last::Failed(Failure::TimedOut(self.total)));
            }
        }
        let out = &mut self.out;
        self.opening.tick(now, |line| out.extend_from_slice(line)).map(Turn::from)
    }

    /// Fails every call: the child is gone.
    pub(super) fn fail(&mut self, death: &Arc<Death>) {
        for (_, pending) in self.pending.drain() {
            pending.mailbox.finish(Last::Failed(Failure::Died(Arc::clone(death))));
        }
        if self.legacy {
            self.audience.unsubscribe_all();
        }
        if let Some(peer) = &self.peer {
            peer.gone();
        }
    }
}

impl From<Step> for Turn {
    fn from(step: Step) -> Self {
        match step {
            Step::Opened(opened) => Self::Opened(opened),
            Step::LegacyOnly => Self::LegacyOnly,
        }
    }
}

/// Whom a line of which only the ends are left was for.
#[derive(Debug, PartialEq, Eq)]
enum Addressee {
    /// The call of that ticket.
    Call(u64),
    /// Some call, perhaps.
    Unsaid,
    /// It was no answer.
    Nobody,
}

/// Reads the members at the head until the long one. A child numbers its own requests as it likes, so an id
/// counts only where `result` or `error` shows that the line is an answer.
fn addressee(Ends { head, tail }: &Ends) -> Addressee {
    let Some(mut rest) = after(head, b"{") else { return Addressee::Nobody };
    let mut id = None;
    while let Some((key, from_value)) = value(rest).and_then(|(key, rest)| Some((key, after(rest, b":")?))) {
        match key {
            r#""result""# | r#""error""# => {
                return id.or_else(|| last_id(tail)).map_or(Addressee::Unsaid, Addressee::Call);
            }
            r#""method""# | r#""params""# => return Addressee::Nobody,
            _ => {}
        }
        let Some((value, from_comma)) = value(from_value) else { break };
        let Some(next) = after(from_comma, b",") else { break };
        if key == r#""id""# {
            id = value.parse().ok();
        }
        rest = next;
    }
    Addressee::Unsaid
}

/// The id of a line that ends with `,"id":<number>}`, perhaps with `"jsonrpc"` behind it. What stands before the
/// last brace of a message is a member of the message itself.
fn last_id(tail: &[u8]) -> Option<u64> {
    let text = before(tail, &["}"])?;
    let text = before(text, &[",", r#""jsonrpc""#, ":", r#""2.0""#]).unwrap_or(text).trim_ascii_end();
    let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (text, number) = text.split_at_checked(text.len() - digits)?;
    before(text, &[",", r#""id""#, ":"])?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// The JSON value that a text begins with, and what follows it; nothing if the text ends within.
fn value(text: &[u8]) -> Option<(&str, &[u8])> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
    let value = values.next()?.ok()?;
    Some((value.get(), text.get(values.byte_offset()..)?))
}

fn after<'a>(text: &'a [u8], token: &[u8]) -> Option<&'a [u8]> {
    text.trim_ascii_start().strip_prefix(token)
}

fn before<'a>(text: &'a [u8], tokens: &[&str]) -> Option<&'a [u8]> {
    tokens.iter().rev().try_fold(text, |text, token| text.trim_ascii_end().strip_suffix(token.as_bytes()))
}

fn note(mailbox: &Mailbox, message: Vec<u8>) {
    if !mailbox.note(Bytes::from(message)) {
        tracing::debug!(lost = mailbox.lost(), "a caller is too slow for its notifications, or gone");
    }
}

/// `notifications/cancelled` for one of our ids.
fn cancelled(ticket: u64, reason: &'static str) -> Vec<u8> {
    let params = format!(r#"{{"requestId":{ticket},"reason":"{reason}"}}"#);
    format!("{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{params}}}\n")
        .into_bytes()
}

#[cfg(test)]
mod tests;
