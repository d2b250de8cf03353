//! Streams that are held open to listen: they go on by themselves when the rest of their request is over.
//! Not here: how a stream passes (`pass`), which streams are held open (`exchange`).
//!
//! What is held for a request while it runs is mostly Pingora's room for reaching an upstream, which an MCP exchange
//! never uses: 25 KiB, measured, of 68 that an idle stream cost. Thousands of streams wait for hours, so theirs is
//! given back.

use std::io::Cursor;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt as _;
use http::{HeaderMap, StatusCode};
use pingora_proxy::Session;

use super::pass::{Passing, Watching};
use super::record::Recorder;
use super::{Ctx, Proxy, Stage, write};
use crate::reply::Stream;

/// A connection and what is known of its request, taken out of Pingora's hands.
pub(super) struct Tail {
    session: Session,
    ctx: Ctx,
    recorder: Arc<Recorder>,
}

impl Tail {
    /// Takes over a request of HTTP/1; what is left of it ends as soon as nobody waits for it. The connection is closed
    /// after the stream, and the client is told so. `None` for HTTP/2, where one stream of many is no connection.
    pub(super) fn take(proxy: &Proxy, session: &mut Session, ctx: &mut Ctx) -> Option<Self> {
        if session.is_http2() {
            return None;
        }
        session.set_keepalive(None);
        let mut taken = Session::new_h1(Box::new(Cursor::new(Vec::new())));
        taken.set_keepalive(None);
        std::mem::swap(&mut taken.downstream_session, &mut session.downstream_session);
        let left = Ctx { stage: Stage::Detached, ..Ctx::new(&proxy.recorder) };
        let ctx = std::mem::replace(ctx, left);
        Some(Self { session: taken, ctx, recorder: Arc::clone(&proxy.recorder) })
    }

    /// Writes a stream in a task of its own, until it ends or the client leaves; `held` is dropped then.
    pub(super) fn go_on(
        self,
        (status, headers, stream): (StatusCode, HeaderMap, Stream),
        watching: Watching,
        held: impl Send + 'static,
    ) {
        let Self { mut session, mut ctx, recorder } = self;
        // A head that cannot be written is no answer: the client sees its connection end.
        let Ok(head) = write::stream_head(&mut session, &ctx, status, headers).map(Box::new) else { return };
        // Made here and not in the task, which would hold room for it twice.
        let mut passing = Passing::new(stream, Some(watching));
        #[expect(clippy::disallowed_methods, reason = "one for each stream, which `limits.streams` bounds")]
        tokio::spawn(async move {
            // A panic costs one stream, which is recorded like any other.
            let delivered =
                AssertUnwindSafe(passing.deliver(&mut session, &mut ctx, head)).catch_unwind().await;
            if delivered.is_err() {
                ctx.broken.store(true, Ordering::Relaxed);
            }
            let broken = ctx.broken.load(Ordering::Relaxed);
            recorder.finish(&ctx.record, &session, broken);
            if !broken {
                // A client that is gone is no error: there is nobody to tell.
                let _ = session.downstream_session.finish().await;
            }
            drop(held);
        });
    }
}
