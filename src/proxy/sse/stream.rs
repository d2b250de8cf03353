//! The stream of one client, from its endpoint event to its end.
//! Not here: messages for it (`post`), the server's own stream (`listening`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb};
use pingora_proxy::Session;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::super::exchange::{EVENTS, enter, pay};
use super::super::pass::{COMMENT, begun, passed};
use super::super::rejection::{Limited, Rejection};
use super::super::standing::Standing;
use super::super::write::begin_events;
use super::super::{Ctx, Proxy, headers};
use super::listening::Listening;
use super::table::{Link, Registered};
use crate::auth::{Allowed, Caller, Demand};
use crate::hub::{Asked, HubError};
use crate::mcp::{Era, Method, MirroredHeaders};
use crate::telemetry::Outcome;
use crate::upstream::{Upstream, View};

/// How long the farewell to the server may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a stream has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    ClientGone,
    Drained,
    Revoked,
}

/// `GET /servers/{id}/sse`.
pub(in crate::proxy) async fn at_stream(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Ctx,
    view: &View,
    id: &str,
) -> Result<(), Rejection> {
    let path = session.req_header().uri.path();
    let mut admitted = proxy.admission.admit(session, (path, false), ctx).await?;
    if !headers::accepts(&session.req_header().headers, &[EVENTS]) {
        return Err(Rejection::NotAcceptable { accept: EVENTS });
    }
    (ctx.record.method, ctx.record.era) = (Some(Method::Stream), Some(Era::Legacy));
    let upstream = enter(ctx, view, (&admitted.caller, id), None)?;
    let server = || id.to_owned();
    let permitted =
        proxy.hub.permit(&admitted.caller, &upstream, &Demand::Session).map_err(|error| match error {
            HubError::Denied(denied) => {
                Rejection::Denied { denied, server: server(), era: Era::Legacy, wanted: false, id: None }
            }
            error => Rejection::Hub { error, server: server(), id: None },
        })?;
    pay(proxy, ctx, &mut admitted, &upstream, Method::Stream)?;
    let Some(mut registered) = proxy.streams.open(admitted.caller.id, id) else {
        // Without random bytes no number would be safe.
        return Err(Rejection::Limited(Limited::Busy));
    };
    let standing = proxy.admission.standing(proxy.hub.fleet(), &admitted, &upstream).of(None, true);
    let request_id = ctx.record.request_id_header().clone();
    let asking = Asking { proxy, caller: &admitted.caller, permitted: &permitted, request_id: &request_id };
    let end = asking.run(session, ctx, (id, &mut registered), standing).await;
    let link = registered.link.borrow().clone();
    drop(registered);
    match end {
        End::ClientGone => ctx.record.client_gone(),
        End::Revoked => (ctx.record.outcome, ctx.record.reason) = (Some(Outcome::Denied), Some("revoked")),
        End::Drained => ctx.record.outcome = Some(Outcome::Ok),
    }
    asking.farewell(link).await;
    Ok(())
}

/// What it takes to ask the server something for the stream itself.
#[derive(Clone, Copy)]
struct Asking<'a> {
    proxy: &'a Proxy,
    caller: &'a Arc<Caller>,
    permitted: &'a Allowed<Arc<Upstream>>,
    request_id: &'a HeaderValue,
}

impl Asking<'_> {
    async fn run(
        self,
        session: &mut Session,
        ctx: &mut Ctx,
        (server, registered): (&str, &mut Registered),
        mut standing: Standing,
    ) -> End {
        let Registered { events, link, number, .. } = registered;
        let mut limits = HeaderMap::new();
        if let Some(decision) = &ctx.tally.decision {
            limits.extend(decision.headers());
        }
        let endpoint = format!("event: endpoint\ndata: /servers/{server}/message?sessionId={number}\n\n");
        if !begin_events(session, ctx, limits).await || !write(session, endpoint.into()).await {
            return End::ClientGone;
        }
        let mut draining = self.proxy.ending.draining.clone();
        let seen = link.clone();
        let open = move || {
            let asked = self.asked(&seen.borrow(), Verb::GET);
            Box::pin(self.proxy.hub.relay(self.caller, self.permitted, asked)) as _
        };
        let mut listening = Listening::new(open, self.proxy.limits.answer_bytes_max);
        let mut ready = false;
        loop {
            let silent_until = Some(Instant::now() + self.proxy.limits.comment_every);
            let said = tokio::select! {
                biased;
                _ = session.downstream_session.read_body_or_idle(true) => return End::ClientGone,
                () = standing.lost() => {
                    finish(session).await;
                    return End::Revoked;
                }
                () = begun(Some(&mut draining)) => {
                    finish(session).await;
                    return End::Drained;
                }
                Some(event) = events.recv() => event,
                () = is_ready(link), if !ready => {
                    ready = true;
                    listening.begin();
                    continue;
                }
                said = listening.next() => said,
                () = passed(silent_until) => COMMENT,
            };
            if !write(session, said).await {
                return End::ClientGone;
            }
        }
    }

    fn asked(self, link: &Link, verb: Verb) -> Asked {
        let mut headers = headers::forwarded(&HeaderMap::new(), &verb, Era::Legacy, self.request_id);
        if let Some(revision) = &link.revision {
            headers.insert(MirroredHeaders::VERSION, revision.clone());
        }
        Asked {
            method: if verb == Verb::GET { Method::Stream } else { Method::EndSession },
            verb,
            demand: Demand::Session,
            wants_response: false,
            id: None,
            era: Era::Legacy,
            headers,
            session: link.session.clone(),
            body: Bytes::new(),
        }
    }

    /// The client is gone: so is its session.
    async fn farewell(self, link: Link) {
        if link.session.is_none() {
            return;
        }
        let asked = self.asked(&link, Verb::DELETE);
        let ended = self.proxy.hub.relay(self.caller, self.permitted, asked);
        if !matches!(timeout(FAREWELL, ended).await, Ok(Ok(_))) {
            tracing::debug!("a session could not be ended");
        }
    }
}

async fn is_ready(link: &mut watch::Receiver<Link>) {
    if link.wait_for(|link| link.ready).await.is_err() {
        std::future::pending().await
    }
}

async fn write(session: &mut Session, bytes: Bytes) -> bool {
    session.write_response_body(Some(bytes), false).await.is_ok()
}

async fn finish(session: &mut Session) {
    let _ = session.write_response_body(None, true).await;
}
