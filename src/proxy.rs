//! The edge: Pingora's phases, in the order in which a request meets them.
//! Not here: what a message means (`mcp`), where it goes (`hub`, `upstream`), the admin API's own routes (`control`).
//!
//! There are exactly two paths. An MCP exchange begins and ends inside `request_filter`: its body is read here, and
//! a body that was read in a filter is never handed back to Pingora's proxying, which would lose what is above
//! 64 KiB. Everything we do not read is forwarded opaquely by `upstream_peer`.

mod admit;
mod body;
mod client;
mod cors;
mod door;
mod exchange;
mod forward;
mod framing;
mod headers;
mod names;
mod news;
mod oauth;
mod pass;
mod record;
mod rejection;
mod replay;
mod route;
mod sse;
mod standing;
mod tail;
mod toll;
mod write;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, StatusCode};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio::sync::watch;

pub use admit::Admission;
pub use forward::Forwarding;
pub use record::Recorder;
pub use route::{ROUTES, Route};
pub use toll::Load;

use crate::conf::{Limits, Resume};
use crate::failpoint;
use crate::hub::Hub;
use crate::limit::Decision;
use crate::listener::Connection;
use crate::reply::Reply;
use crate::telemetry::Outcome;
use body::Pace;
use door::Door;
use forward::Forward;
use record::Record;
use rejection::{EdgeFault, Rejection};
use toll::Tally;

/// Pingora's proxy as we fill it in.
pub struct Proxy {
    hub: Arc<Hub>,
    admission: Admission,
    forwarding: Forwarding,
    recorder: Arc<Recorder>,
    limits: Limits,
    ending: Ending,
    /// Streams of clients of 2024-11-05.
    streams: sse::Table,
    /// Streams that can be taken up again.
    replays: replay::Replays,
}

/// The gateway's end, as far as requests notice; each turns true once.
#[derive(Clone)]
pub struct Ending {
    /// Answers ask clients to come back over another connection.
    pub leaving: watch::Receiver<bool>,
    /// No sessions are begun: nobody would be here for them.
    pub closed: watch::Receiver<bool>,
    /// Streams that are held open to listen end.
    pub draining: watch::Receiver<bool>,
}

impl Proxy {
    /// A proxy that answers from `hub` whom `admission` lets in.
    pub fn new(
        hub: Arc<Hub>,
        admission: Admission,
        forwarding: Forwarding,
        recorder: Recorder,
        limits: Limits,
    ) -> Self {
        let never = || watch::channel(false).1;
        let ending = Ending { leaving: never(), closed: never(), draining: never() };
        Self {
            hub,
            admission,
            forwarding,
            recorder: Arc::new(recorder),
            limits,
            ending,
            streams: sse::Table::default(),
            replays: replay::Replays::default(),
        }
    }

    /// Finds the client's address and the door, and checks what needs no caller.
    fn arrive(&self, session: &Session, ctx: &mut Ctx) -> Result<(Door, Inspected)> {
        // Every connection comes from a listener of ours.
        let connection = Connection::of(session).ok_or_else(|| Error::new(ErrorType::InternalError))?;
        let request = session.req_header();
        ctx.record.client = Some(client::address(connection, &request.headers));
        let door = Door::find(request).open_to(&connection.listener.doors, request.uri.path());
        ctx.record.door = door.name();
        ctx.is_for_pages = door.is_for_pages();
        if ctx.is_for_pages {
            ctx.origin = cors::origin(&connection.listener, request);
        }
        let inspected = self.look_at_head(connection, request, ctx, &door);
        Ok((door, inspected))
    }

    /// What can be refused before anybody looks at the body or at a credential.
    fn look_at_head(
        &self,
        connection: &Connection,
        request: &RequestHeader,
        ctx: &mut Ctx,
        door: &Door,
    ) -> Inspected {
        let address = ctx.record.client.unwrap_or(connection.peer.ip());
        client::check(connection, address)?;
        if door.is_probe(request) {
            self.admission.probed(address, &mut ctx.tally)?;
        } else if connection.is_reserved {
            return Err(self.admission.full(&mut ctx.tally));
        } else {
            self.admission.arrive(address, &mut ctx.tally)?;
        }
        self.admission.inspect(&connection.listener, request)?;
        // The control plane asks for the caller's token itself; metadata and preflights are for everybody.
        if matches!(door, Door::Control | Door::Metadata | Door::Wrong { .. }) {
            self.admission.settle(&mut ctx.tally)
        } else {
            Ok(())
        }
    }

    /// Where a token for the door can be had.
    fn metadata(&self, session: &Session) -> std::result::Result<Reply, Rejection> {
        let connection = Connection::of(session).ok_or(Rejection::NoDoor)?;
        oauth::metadata(&self.admission.resource_server(), connection, session.req_header())
    }

    /// What is said beside a refusal that another credential would help against.
    fn challenge(&self, session: &Session, rejection: &Rejection) -> Option<HeaderValue> {
        let server = self.admission.resource_server();
        oauth::challenge(&server, Connection::of(session)?, session.req_header(), rejection)
    }

    /// Keeps streams to be taken up again, as `resume` says.
    pub fn resume(mut self, resume: Resume) -> Self {
        self.replays = replay::Replays::new(resume);
        self
    }

    /// Hop 1: one snapshot for the whole request, and the door that its path leads to.
    async fn enter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        failpoint::pass("filter");
        let view = self.hub.fleet().view().clone();
        let (door, inspected) = self.arrive(session, ctx)?;
        let style = door.style();
        let refused = match inspected {
            Err(rejection) => Some(rejection),
            Ok(()) => match door {
                Door::Server { id } => exchange::at_server(self, session, ctx, &view, &id).await.err(),
                // What is rare is boxed, so that the future of a plain exchange stays small.
                Door::Envelope => Box::pin(exchange::at_envelope(self, session, ctx, &view)).await.err(),
                Door::Sse { id } => Box::pin(sse::at_stream(self, session, ctx, &view, &id)).await.err(),
                Door::Message { id } => Box::pin(sse::at_message(self, session, ctx, &view, &id)).await.err(),
                Door::Rpc => Box::pin(exchange::at_rpc(self, session, ctx, &view)).await.err(),
                Door::Control => {
                    ctx.stage = Stage::Forwarding(Box::new(self.forwarding.to_control()));
                    return Ok(false);
                }
                Door::Metadata => match self.metadata(session) {
                    Ok(reply) => {
                        write::reply(session, ctx, reply, None).await;
                        None
                    }
                    Err(rejection) => Some(rejection),
                },
                Door::Raw { id, rest } => {
                    let fleet = self.hub.fleet();
                    let forwarded =
                        forward::to_server(&self.admission, session, ctx, (fleet, &view), (&id, &rest));
                    match Box::pin(forwarded).await {
                        Ok(forward) => {
                            ctx.stage = Stage::Forwarding(Box::new(forward));
                            return Ok(false);
                        }
                        Err(rejection) => Some(rejection),
                    }
                }
                Door::Wrong { allow } => match cors::preflight(session.req_header(), allow) {
                    Some(reply) => {
                        write::reply(session, ctx, reply, None).await;
                        None
                    }
                    None => Some(Rejection::WrongMethod { allow }),
                },
                Door::None => Some(Rejection::NoDoor),
            },
        };
        if let Some(rejection) = refused {
            // Whoever is refused pays for it, and is told so if that is more than there is.
            let rejection = self.admission.settle(&mut ctx.tally).err().unwrap_or(rejection);
            let challenge = self.challenge(session, &rejection);
            Box::pin(write::refuse(session, ctx, &rejection, style, challenge)).await?;
        }
        if matches!(ctx.stage, Stage::Detached) {
            return Ok(true);
        }
        ctx.stage = Stage::Answered;
        if ctx.broken.load(Ordering::Relaxed) {
            // Pingora would put a proper end to what has none; after an error it only hangs up.
            return Err(Error::new(ErrorType::ConnectionClosed));
        }
        Ok(true)
    }

    /// The answer to a request at which we failed. How far its connection was read is not known any more.
    async fn confess(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        session.set_keepalive(None);
        ctx.stage = Stage::Answered;
        if session.response_written().is_some() {
            ctx.broken.store(true, Ordering::Relaxed);
            return Err(Error::new(ErrorType::InternalError));
        }
        let style = Door::find(session.req_header()).style();
        write::refuse(session, ctx, &Rejection::Fault, style, None).await?;
        Ok(true)
    }

    /// Follows the gateway's end.
    pub fn ending_with(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }
}

/// Whether a request may go on to its door.
type Inspected = std::result::Result<(), Rejection>;

/// What one request carries from phase to phase.
pub struct Ctx {
    record: Record,
    stage: Stage,
    /// What the request owes to buckets, and what the tightest of them said.
    tally: Tally,
    broken: AtomicBool,
    /// The pace of a forwarded body, from its first piece on.
    pace: Option<Pace>,
    /// Whether the door answers pages.
    is_for_pages: bool,
    /// The page that may read the answer.
    origin: Option<HeaderValue>,
}

impl Ctx {
    fn new(recorder: &Recorder) -> Self {
        Self {
            record: recorder.begin(),
            stage: Stage::Arrived,
            tally: Tally::default(),
            broken: AtomicBool::new(false),
            pace: None,
            is_for_pages: false,
            origin: None,
        }
    }

    /// Nothing more of a forward passes once its caller may not have it.
    fn still_stands(&mut self) -> Result<()> {
        let Stage::Forwarding(forward) = &mut self.stage else { return Ok(()) };
        if forward.stands() {
            return Ok(());
        }
        (self.record.outcome, self.record.reason) = (Some(Outcome::Denied), Some("revoked"));
        Error::e_explain(ErrorType::ConnectionClosed, "the caller may not have it any longer")
    }
}

/// How far a request has come. An MCP exchange needs no stage: its values are locals of `request_filter`.
enum Stage {
    Arrived,
    Forwarding(Box<Forward>),
    Answered,
    /// Its stream goes on by itself.
    Detached,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new(&self.recorder)
    }

    /// None: compression would hold events back, and nothing else of Pingora's modules is wanted.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        if let Some(connection) = Connection::of(session) {
            connection.head_read();
        }
        let leaving = *self.ending.leaving.borrow();
        // Pingora would keep an idle connection for ever. One that it decided not to keep stays so: HTTP/1.0 without a
        // word about it, or a body framed in two ways, after which nobody knows where the next request begins.
        let is_reserved = Connection::of(session).is_some_and(|connection| connection.is_reserved);
        let kept = !leaving && !is_reserved && session.get_keepalive().is_some();
        session.set_keepalive(kept.then_some(self.limits.keepalive.as_secs()));
        session.set_total_drain_timeout(Some(Duration::from_secs(5)));
        if session.is_http2() {
            // One stream of many can be left unread while the connection itself is not; for that the listener sees.
            session.set_write_timeout(Some(self.limits.write_timeout));
        }
        ctx.record.arrived(session);
        Ok(())
    }

    /// A panic costs one request: it is answered with 500, recorded, and nobody else's connection is touched.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        match AssertUnwindSafe(self.enter(session, ctx)).catch_unwind().await {
            Ok(entered) => entered,
            Err(_) => self.confess(session, ctx).await,
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        session.set_read_timeout(Some(self.limits.body_timeout));
        match &ctx.stage {
            Stage::Forwarding(forward) => Ok(forward.peer()),
            Stage::Arrived | Stage::Answered | Stage::Detached => Err(Error::new(ErrorType::InternalError)),
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        match (&ctx.stage, Connection::of(session)) {
            (Stage::Forwarding(forward), Some(connection)) => {
                forward.prepare(upstream_request, connection, &ctx.record)
            }
            _ => Err(Error::new(ErrorType::InternalError)),
        }
    }

    /// The pace of a body that nobody here reads. Pingora's own timeout sees to one that stops altogether.
    async fn request_body_filter(
        &self,
        session: &mut Session,
        _body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.still_stands()?;
        let pace = *ctx.pace.get_or_insert_with(|| Pace::new(&self.limits));
        // An upgraded connection has no pace.
        if session.was_upgraded() || pace.is_kept(session.body_bytes_read()) {
            return Ok(());
        }
        Error::e_explain(ErrorType::HTTPStatus(StatusCode::REQUEST_TIMEOUT.as_u16()), "a slow body")
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        ctx.still_stands()?;
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut pingora_http::ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // From here on either side may be silent for as long as it likes.
            session.set_read_timeout(None);
        }
        response.insert_header(headers::REQUEST_ID, ctx.record.request_id())?;
        if let Stage::Forwarding(forward) = &ctx.stage {
            forward.clean(response);
        }
        let limits = ctx.tally.decision.iter().flat_map(Decision::headers);
        // The control plane speaks of the caller's bucket, which is closer.
        let said = matches!(&ctx.stage, Stage::Forwarding(forward) if forward.is_ours());
        for (name, value) in limits {
            if !said || !response.headers.contains_key(&name) {
                response.insert_header(name, value)?;
            }
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Stage::Forwarding(forward) = &ctx.stage {
            forward.refused();
        }
        // Nothing was sent; one peer is all there is, so a retry helps only against a listener that is restarting.
        error.set_retry(false);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        // Pingora lays a head that it will not forward at the client's door as well, who then waits for an answer.
        let unfit = error.etype() == &ErrorType::InvalidHTTPHeader;
        let client_left = error.esource() == &pingora_core::ErrorSource::Downstream && !unfit;
        if session.response_written().is_none() && !client_left {
            let slow = error.etype() == &ErrorType::HTTPStatus(StatusCode::REQUEST_TIMEOUT.as_u16());
            let ours = error.esource() == &pingora_core::ErrorSource::Downstream;
            let rejection = match (slow, unfit && ours) {
                (true, _) => Rejection::BodyTooSlow,
                (false, true) => Rejection::Edge(EdgeFault::Unfit),
                (false, false) => Rejection::ForwardFailed,
            };
            // The connection ends with this answer, which has to say so: the client's next request would be lost.
            session.set_keepalive(None);
            let _ = write::refuse(session, ctx, &rejection, rejection::Style::Plain, None).await;
        } else {
            ctx.record.client_gone();
        }
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        // The access log tells of it.
        true
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Ctx) {
        if !matches!(ctx.stage, Stage::Detached) {
            let broken = ctx.broken.load(Ordering::Relaxed);
            self.recorder.finish(&ctx.record, session, broken);
        }
    }
}
