//! A stream on its way to the client: what comes, what is said beside it, and how it ends.
//! Not here: heads and whole answers (`write`), what is kept for a client that comes back (`replay`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::Ctx;
use super::news::Listener;
use super::rejection::unsure::{OUTCOME, UNKNOWN};
use super::replay::Recording;
use super::standing::{Standing, Word};
use crate::failpoint;
use crate::mcp::{Answer, Code, Decoder, Id, RpcError, Verdict, encode_event};
use crate::reply::Stream;
use crate::telemetry::Outcome;
use crate::upstream::Deadline;

/// What is looked at while a stream passes.
pub(super) struct Watching {
    /// Whether the upstream call ends when the client leaves.
    pub(super) leaving_cancels: bool,
    /// The request that the stream answers, if it does.
    pub(super) id: Option<Id>,
    /// Turns true when the gateway shuts down: open-ended streams then end.
    pub(super) draining: watch::Receiver<bool>,
    /// Whether the caller may still have it.
    pub(super) standing: Standing,
    /// Who listens, if the stream is held open for that.
    pub(super) listener: Option<Listener>,
    /// How often a silent stream is kept alive.
    pub(super) comment_every: Duration,
    /// Keeps it for a client that lost its connection.
    pub(super) recording: Option<Recording>,
}

/// Writes the head, then the stream as it comes.
pub(super) async fn pass(
    session: &mut Session,
    ctx: &mut Ctx,
    head: ResponseHeader,
    (stream, watching): (Stream, Option<Watching>),
) {
    Passing::new(stream, watching).deliver(session, ctx, Box::new(head)).await;
}

/// What keeps a silent stream alive, for those on the way and for the client. No empty line is part of it: that would
/// end an event of which only the id has come.
pub(super) const COMMENT: Bytes = Bytes::from_static(b": \n");

/// Events up to this size are read for their outcome. Each stream may hold this much back in memory, however long the
/// lines are that its server writes.
const LOOKED_AT_BYTES_MAX: usize = 64 * 1024;

/// A stream that always has more lets others have their turn after so much: without it one flood for each thread is
/// enough to keep connections from being accepted and timers from being looked at for seconds.
const TURN_BYTES: usize = 256 * 1024;

/// A stream on its way to the client.
pub(super) struct Passing {
    /// What has passed in this turn.
    turn_bytes: usize,
    stream: Stream,
    decoder: Option<Decoder>,
    outcome: Option<Outcome>,
    id: Option<Id>,
    leaving_cancels: bool,
    draining: Option<watch::Receiver<bool>>,
    standing: Option<Standing>,
    listener: Option<Listener>,
    /// When the server last said something.
    heard: Instant,
    /// When the client was last told something.
    said: Instant,
    comment_every: Option<Duration>,
    recording: Option<Recording>,
    /// When the client left, if it did.
    left: Option<Instant>,
    /// Whether the client still takes bytes.
    there: bool,
    /// Whether the client got less than a whole answer.
    broken: bool,
    /// Whether the caller lost the right to it.
    revoked: bool,
}

/// What happens next to a stream.
enum Next {
    Piece(Bytes),
    /// Nothing, for so long that the client is told so.
    Silence,
    /// Nothing yet: the stream begins with an id of ours.
    Prime,
    End(Ending),
    ClientGone,
    Drained,
    /// The server offers something else.
    News,
    Revoked,
}

/// How an upstream's stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Whole,
    Broken,
    Late(Deadline),
    /// It goes on, but no longer for this caller.
    Revoked,
}

impl Ending {
    /// What a client is told that was owed a response.
    fn words(self) -> (Code, &'static str, Outcome) {
        match self {
            Self::Whole => (
                Code::BAD_UPSTREAM,
                "the server ended its stream without a response",
                Outcome::TransportError,
            ),
            Self::Broken => {
                (Code::BAD_UPSTREAM, "the server's stream broke before the response", Outcome::TransportError)
            }
            Self::Revoked => {
                (Code::UNAUTHENTICATED, "the credential is not good any longer", Outcome::Denied)
            }
            Self::Late(_) => (Code::TIMEOUT, "the server's response did not come in time", Outcome::Timeout),
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Whole => "upstream_no_response",
            Self::Broken => "upstream_truncated",
            Self::Late(_) => "timeout",
            Self::Revoked => "revoked",
        }
    }
}

impl Passing {
    pub(super) fn new(stream: Stream, mut watching: Option<Watching>) -> Self {
        let recording = watching.as_mut().and_then(|watching| watching.recording.take());
        let decoder = watching.as_ref().filter(|_| stream.events).map(|_| Decoder::new(LOOKED_AT_BYTES_MAX));
        let open_ended = stream.deadline.is_none();
        let comment_every = watching.as_ref().filter(|_| stream.events).map(|it| it.comment_every);
        let (id, leaving_cancels, draining, standing, listener) = match watching {
            Some(Watching { id, leaving_cancels, draining, standing, listener, .. }) => {
                (id, leaving_cancels, Some(draining).filter(|_| open_ended), Some(standing), listener)
            }
            None => (None, true, None, None, None),
        };
        let now = Instant::now();
        Self {
            turn_bytes: 0,
            stream,
            decoder,
            outcome: None,
            id,
            leaving_cancels,
            draining,
            standing,
            listener,
            heard: now,
            said: now,
            comment_every,
            recording,
            left: None,
            there: true,
            broken: false,
            revoked: false,
        }
    }

    /// Writes the head, then the stream, and records how it ended.
    pub(super) async fn deliver(&mut self, session: &mut Session, ctx: &mut Ctx, head: Box<ResponseHeader>) {
        self.there = session.write_response_header(head, false).await.is_ok();
        failpoint::pass("stream");
        self.run(session).await;
        self.record(ctx);
    }

    async fn run(&mut self, session: &mut Session) {
        let first = std::mem::take(&mut self.stream.first);
        if !first.is_empty() {
            self.pass(session, first).await;
        }
        loop {
            match self.next(session).await {
                Next::Piece(piece) => {
                    self.heard = Instant::now();
                    self.said = self.heard;
                    self.pass(session, piece).await;
                }
                Next::Silence => self.write(session, COMMENT).await,
                Next::Prime => {
                    let first = self.recording.as_mut().map(Recording::prime).unwrap_or_default();
                    self.write(session, first).await;
                }
                Next::End(ending) => {
                    if let (Ending::Late(_), Some(farewell)) = (ending, self.stream.farewell.take()) {
                        farewell.say();
                    }
                    // It may end because of what there is to tell: a reload has replaced what is behind it.
                    if self.standing.as_mut().is_some_and(Standing::is_news) {
                        self.tell(session).await;
                    }
                    break self.end(session, ending).await;
                }
                Next::News => self.tell(session).await,
                Next::Drained => break self.part(session).await,
                Next::Revoked => {
                    self.revoked = true;
                    break self.end(session, Ending::Revoked).await;
                }
                Next::ClientGone => self.there = false,
            }
            if !self.there && self.left.is_none() {
                self.left = Some(Instant::now());
            }
            let is_kept = self.recording.as_ref().is_some_and(Recording::is_resumable);
            if !self.there && self.leaving_cancels && !is_kept {
                self.broken = true;
                return;
            }
        }
    }

    /// Waits for a piece, a deadline, the client's leaving or the gateway's end, whichever comes first.
    async fn next(&mut self, session: &mut Session) -> Next {
        if let Some(end) = self.is_over() {
            return end;
        }
        let (until, next) = self.waits_for();
        let between = self.is_between_events();
        tokio::select! {
            biased;
            frame = self.stream.rest.frame() => match frame {
                Some(Ok(frame)) => frame.into_data().map_or(Next::Piece(Bytes::new()), Next::Piece),
                Some(Err(_)) => Next::End(Ending::Broken),
                None => Next::End(Ending::Whole),
            },
            _ = session.downstream_session.read_body_or_idle(true), if self.there => Next::ClientGone,
            () = passed(until) => next,
            () = begun(self.draining.as_mut()) => Next::Drained,
            word = word(self.standing.as_mut(), between) => match word {
                Word::Lost => Next::Revoked,
                Word::News => Next::News,
            },
        }
    }

    /// When something has to be done that the server does not do, and what.
    fn waits_for(&self) -> (Option<Instant>, Next) {
        let idle = self.stream.idle.map(|idle| (self.heard + idle, Deadline::Idle));
        let total = self.stream.deadline.map(|total| (total, Deadline::Total));
        let late = [idle, total].into_iter().flatten().min_by_key(|(at, _)| *at);
        // Not within an event, where it would be part of it; and only to somebody.
        let may_comment = self.there && self.decoder.as_ref().is_some_and(|it| !it.is_within_event());
        let silent = self.comment_every.filter(|_| may_comment).map(|every| self.said + every);
        let (until, next) = match (late, silent) {
            (Some((late, _)), Some(silent)) if silent < late => (Some(silent), Next::Silence),
            (None, Some(silent)) => (Some(silent), Next::Silence),
            (Some((late, which)), _) => (Some(late), Next::End(Ending::Late(which))),
            (None, None) => (None, Next::End(Ending::Whole)),
        };
        let prime = self.recording.as_ref().and_then(Recording::prime_at).filter(|_| self.there);
        // An open-ended stream is read on for somebody who may come back, but not for ever.
        let open_ended = self.stream.deadline.is_none();
        let given_up = self.left.filter(|_| open_ended).map(Recording::kept_until);
        match (prime, given_up) {
            (Some(prime), _) => (Some(prime), Next::Prime),
            (None, Some(given_up)) => (Some(given_up), Next::End(Ending::Whole)),
            (None, None) => (until, next),
        }
    }

    /// Why nothing more of it may pass. Asked before each piece: a server that always has one more is not waited for,
    /// and so would outlast whatever ends a wait.
    fn is_over(&mut self) -> Option<Next> {
        if self.stream.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Some(Next::End(Ending::Late(Deadline::Total)));
        }
        if self.draining.as_ref().is_some_and(|draining| *draining.borrow()) {
            return Some(Next::Drained);
        }
        let stands = self.standing.as_mut().is_none_or(Standing::still_holds);
        (!stands).then_some(Next::Revoked)
    }

    async fn pass(&mut self, session: &mut Session, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.turn_bytes += piece.len();
        if self.turn_bytes >= TURN_BYTES {
            self.turn_bytes = 0;
            yield_now().await;
        }
        if let Some(decoder) = &mut self.decoder {
            let (outcome, id) = (&mut self.outcome, self.id.as_ref());
            let read = |event: &[u8]| match id {
                Some(id) => Answer::read_to(event, id),
                None => Answer::read(event),
            };
            decoder.feed(&piece, |event| match event.map(read) {
                Some(Some(Answer::Response(verdict))) => {
                    *outcome = Some(match verdict {
                        Verdict::Ok => Outcome::Ok,
                        Verdict::ToolError => Outcome::ToolError,
                        Verdict::RpcError => Outcome::RpcError,
                    });
                }
                Some(_) => {}
                // What is so long is a response, and nearly always a result.
                None => drop(outcome.get_or_insert(Outcome::Ok)),
            });
        }
        let piece = match &mut self.recording {
            Some(recording) => recording.take(&piece),
            None => piece,
        };
        self.write(session, piece).await;
    }

    /// Writes to the client, if it is there and has not gone on elsewhere.
    async fn write(&mut self, session: &mut Session, bytes: Bytes) {
        if self.recording.as_ref().is_some_and(Recording::is_taken) {
            self.there = false;
        }
        self.said = Instant::now();
        if self.there && !bytes.is_empty() {
            self.there = session.write_response_body(Some(bytes), false).await.is_ok();
        }
    }

    /// The upstream's stream is over. A client that is owed a response and cannot come back for it is told in the
    /// stream; any other shortfall breaks the connection, so that the client sees it too.
    async fn end(&mut self, session: &mut Session, ending: Ending) {
        let owed = self.id.is_some() && self.outcome.is_none();
        let resumable = self.decoder.as_ref().is_some_and(Decoder::is_resumable);
        if !self.stream.events && ending == Ending::Whole
            || self.stream.events && (!owed || ending == Ending::Whole && resumable)
        {
            return self.finish(session).await;
        }
        let (code, words, outcome) = ending.words();
        self.outcome = Some(outcome);
        if self.stream.events && !resumable {
            let mut data = json!({"reason": ending.reason(), OUTCOME: UNKNOWN});
            if let (Ending::Late(deadline), Some(data)) = (ending, data.as_object_mut()) {
                data.insert("deadline".into(), deadline.name().into());
            }
            let error = RpcError { code, message: words.into(), data: Some(data) };
            let mut event = encode_event(&error.to_message(self.id.as_ref()));
            if let Some(recording) = &mut self.recording {
                event = recording.own(&event);
            } else if self.there && self.decoder.as_ref().is_some_and(Decoder::is_within_event) {
                // What the server left half said must not swallow it.
                let end = Bytes::from_static(b"\n\n");
                self.there = session.write_response_body(Some(end), false).await.is_ok();
            }
            self.there = self.there && session.write_response_body(Some(event), false).await.is_ok();
            return self.finish(session).await;
        }
        self.broken = true;
        session.set_keepalive(None);
    }

    /// Whether a word of ours would not fall into the middle of one of the server's.
    fn is_between_events(&self) -> bool {
        self.stream.events && self.decoder.as_ref().is_some_and(|decoder| !decoder.is_within_event())
    }

    /// Tells whoever listens that the server offers something else.
    async fn tell(&mut self, session: &mut Session) {
        let said = self.listener.as_ref().map(Listener::lists_changed);
        self.say(session, said).await;
    }

    /// The gateway ends. Whoever only listens is told so.
    async fn part(&mut self, session: &mut Session) {
        let said = self.listener.as_ref().map(Listener::farewell);
        self.say(session, said).await;
        self.finish(session).await;
    }

    async fn say(&mut self, session: &mut Session, said: Option<Bytes>) {
        if self.there && self.is_between_events() {
            let Some(said) = said.filter(|said| !said.is_empty()) else { return };
            self.there = session.write_response_body(Some(said), false).await.is_ok();
        }
    }

    async fn finish(&mut self, session: &mut Session) {
        if let Some(recording) = &mut self.recording {
            let rest = recording.end();
            self.write(session, rest).await;
        }
        if self.there {
            let _ = session.write_response_body(None, true).await;
        }
    }

    fn record(&self, ctx: &mut Ctx) {
        if self.revoked {
            // A refusal, though the stream began long ago: the audit has to tell of it.
            let reason = Ending::Revoked.reason();
            (ctx.record.outcome, ctx.record.reason) = (Some(Outcome::Denied), Some(reason));
        } else if self.outcome.is_some() {
            ctx.record.outcome = self.outcome;
        } else if self.broken {
            ctx.record.client_gone();
        }
        ctx.broken.store(self.broken, Ordering::Relaxed);
    }
}

pub(super) async fn passed(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn word(standing: Option<&mut Standing>, may_tell: bool) -> Word {
    match standing {
        Some(standing) => standing.word(may_tell).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn begun(draining: Option<&mut watch::Receiver<bool>>) {
    let Some(draining) = draining else { return std::future::pending().await };
    // A sender that is gone will never say so; the stream then ends by itself.
    if draining.wait_for(|draining| *draining).await.is_err() {
        std::future::pending().await
    }
}
