//! One MCP exchange: the message read and checked, the hub asked, one reply written.
//! Not here: who may come this far (`admit`), what the answer is (`hub`), how it is written (`write`).

use std::pin::pin;
use std::sync::Arc;

use http::Method as Verb;
use pingora_proxy::Session;

use super::admit::Admitted;
use super::news::Listener;
use super::pass::Watching;
use super::rejection::{RawFault, Rejection};
use super::replay::{Owner, Recording};
use super::tail::Tail;
use super::{Ctx, Proxy, body, headers, write};
use crate::auth::{Allowed, Caller, Demand};
use crate::failpoint;
use crate::hub::{self, Asked, HubError, Relayed};
use crate::mcp::{self, Era, Id, Kind, Malformed, MalformedKind, Message, Method, ParseLimits};
use crate::reply::{Body, Reply, Stream};
use crate::upstream::{Upstream, View};

const JSON: &str = "application/json";
pub(super) const EVENTS: &str = "text/event-stream";

/// `/servers/{id}/mcp`: a client that speaks MCP, and one server.
pub(super) async fn at_server(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    view: &View,
    id: &str,
) -> Result<(), Rejection> {
    let path = session.req_header().uri.path();
    let verb = session.req_header().method.clone();
    let mut admitted = proxy.admission.admit(session, (path, verb != Verb::GET), ctx).await?;
    // The message is read before the server is looked up, so that every refusal from here on answers its id.
    let (mut asked, message_id) = match verb {
        Verb::POST => message(proxy, session, ctx, (&mut admitted, id)).await?,
        _ => without_message(session, ctx, verb)?,
    };
    let upstream = enter(ctx, view, (&admitted.caller, id), message_id.clone())?;
    if asked.method == Method::Stream
        && let Some(stream) = replayed(proxy, (&admitted.caller, id), &mut asked)
    {
        return resume(proxy, session, ctx, (admitted, upstream), stream).await;
    }
    let waiter = Waiter { admitted, upstream, id: message_id, style: Asking::Relay };
    answer(proxy, session, ctx, waiter, asked).await
}

/// What a client missed of a stream that was kept for it. An id of ours means nothing to the server.
fn replayed(proxy: &Proxy, (caller, server): (&Caller, &str), asked: &mut Asked) -> Option<Stream> {
    let at = asked.headers.get("last-event-id")?.to_str().ok()?.to_owned();
    let owner = Owner::of(caller.id, server, asked.session.as_deref());
    let replayed = proxy.replays.after(&at, &owner)?;
    asked.headers.remove("last-event-id");
    replayed
}

/// Goes on with a stream that was kept.
async fn resume(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    (mut admitted, upstream): (Admitted, Arc<Upstream>),
    stream: Stream,
) -> Result<(), Rejection> {
    let server = upstream.server.id.as_str().to_owned();
    proxy.hub.permit(&admitted.caller, &upstream, &Demand::Session).map_err(|error| match error {
        HubError::Denied(denied) => {
            Rejection::Denied { denied, server, era: Era::Legacy, wanted: false, id: None }
        }
        error => Rejection::Hub { error, server, id: None },
    })?;
    pay(proxy, ctx, &mut admitted, &upstream, Method::Stream)?;
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(EVENTS));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    let reply = Reply { status: http::StatusCode::OK, headers, body: Body::Stream(Box::new(stream)) };
    let standing = proxy.admission.standing(proxy.hub.fleet(), &admitted, &upstream).of(None, true);
    let (draining, comment_every) = (proxy.ending.draining.clone(), proxy.limits.comment_every);
    let watching = Watching {
        leaving_cancels: true,
        id: None,
        draining,
        standing,
        listener: None,
        comment_every,
        recording: None,
    };
    write::reply(session, ctx, reply, Some(watching)).await;
    Ok(())
}

/// `POST /mcp`: the Open MCP Gateway's envelope, which names the server in the body.
pub(super) async fn at_envelope(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    view: &View,
) -> Result<(), Rejection> {
    let path = session.req_header().uri.path();
    let mut admitted = proxy.admission.admit(session, (path, true), ctx).await?;
    if !headers::is_json(&session.req_header().headers) {
        return Err(Rejection::NotJsonType);
    }
    let bytes =
        body::read(session, &proxy.limits, |bytes| proxy.admission.weigh(&mut admitted, None, bytes)).await?;
    let message = parse(proxy, &bytes).map_err(|rejection| match rejection {
        // Beside a `server_id` the version may be missing, so it is the server that is.
        rejection if is_unversioned(&rejection) => Rejection::NoServerId { place: "server_id" },
        rejection => rejection,
    })?;
    let Some(server) = message.server_id.as_deref() else {
        return Err(Rejection::NoServerId { place: "server_id" });
    };
    let upstream = enter(ctx, view, (&admitted.caller, server), id_of(&message))?;
    plain(proxy, session, ctx, (admitted, upstream), &bytes).await
}

/// `POST /rpc`: the same, with the server named by a header.
pub(super) async fn at_rpc(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    view: &View,
) -> Result<(), Rejection> {
    let path = session.req_header().uri.path();
    let mut admitted = proxy.admission.admit(session, (path, true), ctx).await?;
    let mut named = session.req_header().headers.get_all(headers::SERVER_ID).iter();
    let server = match (named.next().and_then(|value| value.to_str().ok()), named.next()) {
        (Some(server), None) => server.trim().to_owned(),
        _ => return Err(Rejection::NoServerId { place: "X-Server-ID header" }),
    };
    if !headers::is_json(&session.req_header().headers) {
        return Err(Rejection::NotJsonType);
    }
    let bytes = body::read(session, &proxy.limits, |bytes| {
        proxy.admission.weigh(&mut admitted, Some(&server), bytes)
    })
    .await?;
    // The contract's own examples leave `jsonrpc` out here as well.
    let bytes = match parse(proxy, &bytes) {
        Err(rejection) if is_unversioned(&rejection) => {
            mcp::rebuild_for_forwarding(&bytes).map_or_else(|| bytes.clone(), Into::into)
        }
        _ => bytes,
    };
    let message = parse(proxy, &bytes)?;
    let upstream = enter(ctx, view, (&admitted.caller, &server), id_of(&message))?;
    plain(proxy, session, ctx, (admitted, upstream), &bytes).await
}

/// A call of a client that knows neither sessions nor streams.
async fn plain(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    (admitted, upstream): (Admitted, Arc<Upstream>),
    bytes: &bytes::Bytes,
) -> Result<(), Rejection> {
    let rebuilt = mcp::rebuild_for_forwarding(bytes).map_or_else(|| bytes.clone(), Into::into);
    let message = parse(proxy, &rebuilt)?;
    note(ctx, &message, Era::Legacy);
    let id = id_of(&message);
    let asked = Asked {
        verb: Verb::POST,
        method: message.method,
        demand: hub::demand(&message),
        wants_response: message.kind == Kind::Request,
        id: id.clone(),
        era: Era::Legacy,
        headers: headers::forwarded(
            &http::HeaderMap::new(),
            &Verb::POST,
            Era::Legacy,
            ctx.record.request_id_header(),
        ),
        session: None,
        body: rebuilt.clone(),
    };
    let waiter = Waiter { admitted, upstream, id, style: Asking::Plain };
    answer(proxy, session, ctx, waiter, asked).await
}

/// The server, if there is one that speaks MCP. Whether it is there for the caller comes out with what is asked of it,
/// and then looks as it does here when it is not there at all.
pub(super) fn enter(
    ctx: &mut Ctx,
    view: &View,
    (caller, server): (&Caller, &str),
    id: Option<Id>,
) -> Result<Arc<Upstream>, Rejection> {
    let unknown = || Rejection::UnknownServer { server: server.chars().take(64).collect(), id: id.clone() };
    let upstream = view.upstream(server).ok_or_else(unknown)?;
    if upstream.is_raw() {
        return Err(if upstream.policy.sees(caller) { Rejection::Raw(RawFault::OnlyRaw) } else { unknown() });
    }
    upstream.activity.asked();
    ctx.record.upstream = Some(Arc::clone(upstream));
    Ok(Arc::clone(upstream))
}

/// Hop 3: the bounded body becomes a message, its headers are checked against it, and its era is told.
async fn message(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    (admitted, server): (&mut Admitted, &str),
) -> Result<(Asked, Option<Id>), Rejection> {
    let head = &session.req_header().headers;
    if !headers::is_json(head) {
        return Err(Rejection::NotJsonType);
    }
    if !headers::accepts(head, &[JSON, EVENTS]) {
        return Err(Rejection::NotAcceptable { accept: "application/json and text/event-stream" });
    }
    let weigh = |bytes| proxy.admission.weigh(admitted, Some(server), bytes);
    let bytes = body::read(session, &proxy.limits, weigh).await?;
    let message = parse(proxy, &bytes)?;
    let head = &session.req_header().headers;
    let id = id_of(&message);
    let era = mcp::check_mirrored(head, &message)
        .map_err(|fault| Rejection::HeaderMismatch { fault, id: id.clone() })?;
    note(ctx, &message, era);
    let asked = Asked {
        verb: Verb::POST,
        method: message.method,
        demand: hub::demand(&message),
        wants_response: message.kind == Kind::Request,
        id: id.clone(),
        era,
        headers: headers::forwarded(head, &Verb::POST, era, ctx.record.request_id_header()),
        session: session_id(head)?,
        body: bytes::Bytes::new(),
    };
    // The message borrows from the body, which moves on only now.
    Ok((Asked { body: bytes, ..asked }, id))
}

/// GET and DELETE: the legacy stream and the end of a session.
fn without_message(session: &Session, ctx: &mut Ctx, verb: Verb) -> Result<(Asked, Option<Id>), Rejection> {
    let head = &session.req_header().headers;
    let method = if verb == Verb::GET { Method::Stream } else { Method::EndSession };
    if method == Method::Stream && !headers::accepts(head, &[EVENTS]) {
        return Err(Rejection::NotAcceptable { accept: EVENTS });
    }
    ctx.record.method = Some(method);
    ctx.record.era = Some(Era::Legacy);
    let asked = Asked {
        headers: headers::forwarded(head, &verb, Era::Legacy, ctx.record.request_id_header()),
        session: session_id(head)?,
        verb,
        method,
        demand: Demand::Session,
        wants_response: false,
        id: None,
        era: Era::Legacy,
        body: bytes::Bytes::new(),
    };
    Ok((asked, None))
}

/// Who waits for the answer, and how.
struct Waiter {
    admitted: Admitted,
    upstream: Arc<Upstream>,
    id: Option<Id>,
    style: Asking,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    Relay,
    Plain,
}

impl Asking {
    async fn ask(
        self,
        proxy: &Proxy,
        caller: &Arc<Caller>,
        permitted: &Allowed<Arc<Upstream>>,
        asked: Asked,
    ) -> Result<Relayed, HubError> {
        match self {
            Self::Relay => proxy.hub.relay(caller, permitted, asked).await,
            Self::Plain => Box::pin(proxy.hub.ask(caller, permitted, asked)).await,
        }
    }
}

/// Asks the hub while watching whether the client is still there, and writes the reply.
async fn answer(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    waiter: Waiter,
    asked: Asked,
) -> Result<(), Rejection> {
    let Waiter { mut admitted, upstream, id, style } = waiter;
    let (era, wanted) = (asked.era, asked.wants_response);
    let rejected = |error| {
        let (server, id) = (upstream.server.id.as_str().to_owned(), id.clone());
        match error {
            HubError::Denied(denied) => Rejection::Denied { denied, server, era, wanted, id },
            error => Rejection::Hub { error, server, id },
        }
    };
    // What is denied costs the server and the tool nothing: only what is asked of any refusal is paid.
    let permitted = proxy.hub.permit(&admitted.caller, &upstream, &asked.demand).map_err(rejected)?;
    if asked.method == Method::Initialize && style == Asking::Relay {
        begin_session(proxy, ctx, (&admitted, &upstream), &id)?;
    }
    pay(proxy, ctx, &mut admitted, &upstream, asked.method)?;
    failpoint::pass("handler");
    // A client of the modern era cancels by leaving; one of the legacy era only lost its connection, and its call
    // goes on (2026-07-28 and 2025-11-25/basic/transports). A stream without a client is of no use in either.
    let leaving_cancels = asked.era == Era::Modern || asked.method == Method::Stream;
    let opened_for = (asked.method == Method::Listen).then(|| asked.demand.clone());
    let is_open_ended = matches!(asked.method, Method::Stream | Method::Listen);
    let listener = listener(proxy, &asked, id.as_ref());
    let (method, of_server) = (asked.method, upstream.server.id.as_str());
    // The modern era asks anew instead; `initialize` has no session yet to come back to.
    let is_kept = era == Era::Legacy && method != Method::Initialize && style == Asking::Relay;
    let owner = is_kept.then(|| Owner::of(admitted.caller.id, of_server, asked.session.as_deref()));
    let asked = {
        let asking = pin!(style.ask(proxy, &admitted.caller, &permitted, asked));
        write::unless_gone(session, leaving_cancels, asking).await
    };
    let Some(asked) = asked else {
        ctx.record.client_gone();
        session.set_keepalive(None);
        return Ok(());
    };
    let relayed = asked.inspect_err(|error| refused(ctx, error)).map_err(rejected)?;
    let Relayed { mut reply, outcome, upstream_time, attempts, attempt } = relayed;
    ctx.record.outcome = outcome;
    ctx.record.upstream_time = Some(upstream_time);
    ctx.record.attempts = attempts;
    if let Some(decision) = &ctx.tally.decision {
        reply.headers.extend(decision.headers());
    }
    let standing = proxy.admission.standing(proxy.hub.fleet(), &admitted, &upstream);
    let standing = standing.of(opened_for, is_open_ended);
    let standing = if listener.is_some() { standing.hearing() } else { standing };
    let draining = proxy.ending.draining.clone();
    let comment_every = proxy.limits.comment_every;
    let recording = owner.and_then(|owner| recording(proxy, &owner, &reply, method));
    let watching = Watching { leaving_cancels, id, draining, standing, listener, comment_every, recording };
    let Reply { status, headers, body } = reply;
    match body {
        Body::Stream(stream) if is_open_ended && let Some(tail) = Tail::take(proxy, session, ctx) => {
            tail.go_on((status, headers, *stream), watching, (admitted, attempt));
        }
        body => write::reply(session, ctx, Reply { status, headers, body }, Some(watching)).await,
    }
    Ok(())
}

/// Keeps what is streamed for a client that comes back; after the end of a session nobody does.
fn recording(proxy: &Proxy, owner: &Owner, reply: &Reply, method: Method) -> Option<Recording> {
    if method == Method::EndSession && reply.status.is_success() {
        proxy.replays.forget(owner);
    }
    match &reply.body {
        Body::Stream(stream) if stream.events => proxy.replays.begin(owner),
        _ => None,
    }
}

/// Whether there is room for a session, and time.
pub(super) fn begin_session(
    proxy: &Proxy,
    ctx: &mut Ctx,
    (admitted, upstream): (&Admitted, &Upstream),
    id: &Option<Id>,
) -> Result<(), Rejection> {
    if *proxy.ending.closed.borrow() {
        return Err(Rejection::Leaving { id: id.clone() });
    }
    let room = proxy.hub.admit_session(&admitted.caller, upstream.server.id.as_str());
    room.map_err(|crowded| proxy.admission.crowded(crowded, &mut ctx.tally))
}

/// Who listens, if the stream that is asked for is held open for that.
fn listener(proxy: &Proxy, asked: &Asked, id: Option<&Id>) -> Option<Listener> {
    match asked.method {
        Method::Stream => Some(Listener::session()),
        Method::Listen => {
            let wanted = parse(proxy, &asked.body).map(|message| mcp::listens(&message.params));
            wanted.ok().map(|wanted| Listener::subscription(id, wanted))
        }
        _ => None,
    }
}

/// Asks every limit on the way, and pays.
pub(super) fn pay(
    proxy: &Proxy,
    ctx: &mut Ctx,
    admitted: &mut Admitted,
    upstream: &Upstream,
    method: Method,
) -> Result<(), Rejection> {
    let tool = ctx.record.tool.as_deref().filter(|_| method == Method::ToolsCall);
    let is_call = !matches!(method, Method::Stream | Method::Listen);
    proxy.admission.pay(admitted, (&upstream.server, tool), is_call, &mut ctx.tally)
}

/// A call that was sent and failed still took the upstream's time.
fn refused(ctx: &mut Ctx, error: &HubError) {
    if let HubError::Upstream(crate::upstream::UpstreamError::Late(_, after)) = error {
        ctx.record.upstream_time = Some(*after);
    }
}

fn session_id(headers: &http::HeaderMap) -> Result<Option<String>, Rejection> {
    let mut values = headers.get_all(headers::SESSION).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        // What is no text cannot be an id of ours, and is found to be none like any other.
        (Some(id), None) => Ok(Some(id.to_str().unwrap_or_default().to_owned())),
        _ => Ok(Some(String::new())),
    }
}

fn parse_limits(proxy: &Proxy) -> ParseLimits {
    ParseLimits { depth_max: proxy.limits.json_depth_max }
}

pub(super) fn parse<'b>(proxy: &Proxy, bytes: &'b [u8]) -> Result<Message<'b>, Rejection> {
    mcp::parse(bytes, parse_limits(proxy)).map_err(|malformed: Malformed| Rejection::Malformed(malformed))
}

fn is_unversioned(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::Malformed(malformed) if malformed.kind == MalformedKind::Unversioned)
}

pub(super) fn id_of(message: &Message<'_>) -> Option<Id> {
    message.id.and_then(|raw| Id::from_json(raw.get()))
}

pub(super) fn note(ctx: &mut Ctx, message: &Message<'_>, era: Era) {
    ctx.record.method = Some(message.method);
    ctx.record.era = Some(era);
    if message.kind != Kind::Response && message.method == Method::Other {
        ctx.record.method_name = Some(message.method_name.clone().into_owned());
    }
    if matches!(message.method, Method::ToolsCall | Method::PromptsGet) {
        ctx.record.tool = message.params.text("name").map(std::borrow::Cow::into_owned);
    }
}
