//! A message that a client posts for its stream.
//! Not here: the stream (`stream`), what an answer is made of (`events`).
//!
//! What is wrong with who posts, or where, is told by the status. What is wrong with a request is told on the stream,
//! where its client waits: clients of this transport look at nothing else.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, StatusCode};
use pingora_proxy::Session;
use serde::Deserialize;

use super::super::admit::Admitted;
use super::super::exchange::{begin_session, enter, id_of, note, parse, pay};
use super::super::rejection::{Rejection, Style};
use super::super::{Ctx, Proxy, body, headers, write};
use super::events::{Messages, event};
use super::table::Open;
use crate::auth::Allowed;
use crate::hub::{self, Asked, HubError, Relayed};
use crate::mcp::{self, Id, Kind, Method, MirroredHeaders};
use crate::reply::{Body, Reply};
use crate::telemetry::Outcome;
use crate::upstream::{Upstream, View};

/// What a message is, once it is known to be one.
struct Posted {
    asked: Asked,
    id: Option<Id>,
    kind: Kind,
}

/// `POST /servers/{id}/message`.
pub(in crate::proxy) async fn at_message(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    view: &View,
    id: &str,
) -> Result<(), Rejection> {
    let path = session.req_header().uri.path();
    let mut admitted = proxy.admission.admit(session, (path, true), ctx).await?;
    let number = number(session).unwrap_or_default();
    let open = proxy.streams.find(&number, admitted.caller.id, id).ok_or(Rejection::NoStream)?;
    let posted = match read(proxy, session, ctx, (&mut admitted, id), &open).await {
        Ok(posted) => posted,
        Err(rejection @ (Rejection::Malformed(_) | Rejection::HeaderMismatch { .. })) => {
            return refuse(proxy, session, ctx, &open, rejection).await;
        }
        Err(rejection) => return Err(rejection),
    };
    let permitted = match permit(proxy, ctx, view, (&mut admitted, id), &posted) {
        Ok(permitted) => permitted,
        Err(rejection) if posted.kind == Kind::Request => {
            return refuse(proxy, session, ctx, &open, rejection).await;
        }
        Err(rejection) => return Err(rejection),
    };
    if posted.kind == Kind::Request {
        // The client may go on at once, on another connection: this one is at work until the answer is there.
        session.set_keepalive(None);
        accept(session, ctx).await;
        return answer(proxy, ctx, (&admitted, &permitted), &open, posted).await;
    }
    let method = posted.asked.method;
    let relayed = proxy.hub.relay(&admitted.caller, &permitted, posted.asked).await;
    let relayed = relayed.map_err(|error| Rejection::Hub { error, server: id.to_owned(), id: None })?;
    recorded(ctx, &relayed);
    if relayed.reply.status.is_success() {
        if method == Method::Initialized {
            open.link.send_modify(|link| link.ready = true);
        }
        accept(session, ctx).await;
    } else {
        write::reply(session, ctx, relayed.reply, None).await;
    }
    Ok(())
}

/// The stream's number in the query, as `sessionId` or `session_id`.
fn number(session: &Session) -> Option<String> {
    let query = session.req_header().uri.query()?;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| matches!(&**name, "sessionId" | "session_id")).map(|(_, value)| value.into_owned())
}

/// The message, checked like any other.
async fn read(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    (admitted, server): (&mut Admitted, &str),
    open: &Open,
) -> Result<Posted, Rejection> {
    if !headers::is_json(&session.req_header().headers) {
        return Err(Rejection::NotJsonType);
    }
    let weigh = |bytes| proxy.admission.weigh(admitted, Some(server), bytes);
    let bytes = body::read(session, &proxy.limits, weigh).await?;
    let message = parse(proxy, &bytes)?;
    let head = &session.req_header().headers;
    let id = id_of(&message);
    let link = open.link.borrow().clone();
    let era = mcp::check_mirrored(head, &message)
        .map_err(|fault| Rejection::HeaderMismatch { fault, id: id.clone() })?;
    note(ctx, &message, era);
    let mut headers = headers::forwarded(head, &Verb::POST, era, ctx.record.request_id_header());
    let opens = message.method == Method::Initialize;
    match link.revision {
        Some(revision) if !opens => headers.insert(MirroredHeaders::VERSION, revision),
        _ => headers.remove(MirroredHeaders::VERSION),
    };
    let asked = Asked {
        verb: Verb::POST,
        method: message.method,
        demand: hub::demand(&message),
        wants_response: message.kind == Kind::Request,
        id: id.clone(),
        era,
        headers,
        session: link.session.filter(|_| !opens),
        body: Bytes::new(),
    };
    let kind = message.kind;
    Ok(Posted { asked: Asked { body: bytes, ..asked }, id, kind })
}

fn permit(
    proxy: &Proxy,
    ctx: &mut Ctx,
    view: &View,
    (admitted, server): (&mut Admitted, &str),
    posted: &Posted,
) -> Result<Allowed<Arc<Upstream>>, Rejection> {
    let upstream = enter(ctx, view, (&admitted.caller, server), posted.id.clone())?;
    let asked = &posted.asked;
    let permitted = proxy.hub.permit(&admitted.caller, &upstream, &asked.demand).map_err(|error| {
        let (server, id) = (server.to_owned(), posted.id.clone());
        match error {
            HubError::Denied(denied) => {
                Rejection::Denied { denied, server, era: asked.era, wanted: asked.wants_response, id }
            }
            error => Rejection::Hub { error, server, id },
        }
    })?;
    if asked.method == Method::Initialize {
        begin_session(proxy, ctx, (admitted, &upstream), &posted.id)?;
    }
    pay(proxy, ctx, admitted, &upstream, asked.method)?;
    Ok(permitted)
}

/// A refusal, told on the stream.
async fn refuse(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    open: &Open,
    rejection: Rejection,
) -> Result<(), Rejection> {
    let rejection = proxy.admission.settle(&mut ctx.tally).err().unwrap_or(rejection);
    (ctx.record.outcome, ctx.record.reason) = (Some(rejection.outcome()), Some(rejection.reason()));
    let reply = rejection.render(Style::Mcp, ctx.record.request_id());
    let Body::Whole(message) = reply.body else { return Err(rejection) };
    body::leave(session, body::Rest::behind(&rejection));
    accept(session, ctx).await;
    body::drain(session, body::Rest::behind(&rejection)).await;
    let _ = open.events.send(event(&message)).await;
    Ok(())
}

async fn accept(session: &mut Session, ctx: &mut Ctx) {
    let mut headers = HeaderMap::new();
    if let Some(decision) = &ctx.tally.decision {
        headers.extend(decision.headers());
    }
    let body = Body::Whole(Bytes::new());
    write::reply(session, ctx, Reply { status: StatusCode::ACCEPTED, headers, body }, None).await;
}

fn recorded(ctx: &mut Ctx, relayed: &Relayed) {
    ctx.record.outcome = relayed.outcome;
    ctx.record.upstream_time = Some(relayed.upstream_time);
    ctx.record.attempts = relayed.attempts;
}

/// Asks the server, and puts what it says onto the stream; without a stream nobody waits for it.
async fn answer(
    proxy: &Proxy,
    ctx: &mut Ctx,
    (admitted, permitted): (&Admitted, &Allowed<Arc<Upstream>>),
    open: &Open,
    posted: Posted,
) -> Result<(), Rejection> {
    let Posted { asked, id, .. } = posted;
    let opens = asked.method == Method::Initialize;
    let upstream = permitted.get();
    let standing = proxy.admission.standing(proxy.hub.fleet(), admitted, upstream);
    let mut standing = standing.of(None, false);
    let relaying = async {
        let relayed = match proxy.hub.relay(&admitted.caller, permitted, asked).await {
            Ok(relayed) => relayed,
            Err(error) => {
                let server = upstream.server.id.as_str().to_owned();
                let rejection = Rejection::Hub { error, server, id };
                (ctx.record.outcome, ctx.record.reason) =
                    (Some(rejection.outcome()), Some(rejection.reason()));
                if let Body::Whole(message) = rejection.render(Style::Mcp, ctx.record.request_id()).body {
                    let _ = open.events.send(event(&message)).await;
                }
                return;
            }
        };
        recorded(ctx, &relayed);
        let Relayed { reply, attempt, .. } = relayed;
        let session = reply.headers.get(headers::SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let mut messages = Messages::new(reply.body, id.clone(), proxy.limits.answer_bytes_max);
        while let Some(message) = messages.next().await {
            if opens && let Some(revision) = revision_in(&message) {
                let session = session.clone();
                open.link.send_modify(|link| (link.session, link.revision) = (session, Some(revision)));
            }
            if open.events.send(event(&message)).await.is_err() {
                break;
            }
        }
        ctx.record.outcome = messages.outcome.or(ctx.record.outcome);
        drop(attempt);
    };
    let left = tokio::select! {
        () = relaying => None,
        () = open.events.closed() => Some(Outcome::ClientGone),
        () = standing.lost() => Some(Outcome::Denied),
    };
    match left {
        Some(Outcome::Denied) => {
            (ctx.record.outcome, ctx.record.reason) = (Some(Outcome::Denied), Some("revoked"));
        }
        Some(_) => ctx.record.client_gone(),
        None => {}
    }
    Ok(())
}

/// The revision in a response to `initialize`.
fn revision_in(response: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Response {
        result: Agreed,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Agreed {
        protocol_version: String,
    }
    let response: Response = serde_json::from_slice(response).ok()?;
    HeaderValue::try_from(response.result.protocol_version).ok()
}
