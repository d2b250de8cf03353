//! The client's body, read whole within its bounds.
//! Not here: what is in it (`mcp`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_proxy::Session;
use tokio::time::{Instant, sleep, timeout_at};

use super::rejection::{Limited, Rejection};
use crate::conf::Limits;

/// Bodies below this do not count among those that are held: the bound on calls in flight bounds them, too.
const LIGHT_BYTES: usize = 16 * 1024;
/// What a body that does not say its length is weighed by, as it grows.
const STEP_BYTES: usize = 64 * 1024;

/// What of a body was weighed so far, and whoever weighs the rest.
struct Weighed<W> {
    bytes: usize,
    weigh: W,
}

impl<W: FnMut(usize) -> Result<(), Rejection>> Weighed<W> {
    fn up_to(&mut self, bytes: usize) -> Result<(), Rejection> {
        if bytes < LIGHT_BYTES || bytes <= self.bytes {
            return Ok(());
        }
        let more = (bytes - self.bytes).max(if self.bytes == 0 { 0 } else { STEP_BYTES });
        self.bytes += more;
        (self.weigh)(more)
    }
}

/// The whole body. A declared length over the limit is refused before a byte of it is read. `weigh` is told how many
/// more bytes will be held, and may refuse to.
pub(super) async fn read(
    session: &mut Session,
    limits: &Limits,
    weigh: impl FnMut(usize) -> Result<(), Rejection>,
) -> Result<Bytes, Rejection> {
    let too_large = Rejection::BodyTooLarge { bytes_max: limits.body_bytes_max };
    if declared(session).is_some_and(|bytes| bytes > limits.body_bytes_max) {
        return Err(too_large);
    }
    let headers = &session.req_header().headers;
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Rejection::Encoded);
    }
    let mut weighed = Weighed { bytes: 0, weigh };
    weighed.up_to(declared(session).unwrap_or_default())?;
    let headers = &session.req_header().headers;
    if headers.contains_key(header::EXPECT) {
        // Pingora leaves the answer to whoever reads the body; clients wait a second for it.
        let _ = session.downstream_session.write_continue_response().await;
    }
    // Pingora's own timeout is for each read, and one byte within it is enough to go on for ever: ours is for all.
    session.set_read_timeout(None);
    collect(session, limits, &mut weighed).await?.ok_or(too_large)
}

async fn collect(
    session: &mut Session,
    limits: &Limits,
    weighed: &mut Weighed<impl FnMut(usize) -> Result<(), Rejection>>,
) -> Result<Option<Bytes>, Rejection> {
    let pace = Pace::new(limits);
    let Some(first) = piece(session, pace.until(0)).await? else {
        return Ok(Some(Bytes::new()));
    };
    let length = declared(session).unwrap_or_default();
    let mut whole: Option<BytesMut> = None;
    let mut so_far = first.len();
    while so_far <= limits.body_bytes_max {
        weighed.up_to(so_far)?;
        match piece(session, pace.until(so_far)).await? {
            // Most bodies come in one piece, which is then not copied.
            None => return Ok(Some(whole.map_or(first, BytesMut::freeze))),
            Some(piece) => {
                let whole = whole.get_or_insert_with(|| begun(&first, length));
                whole.extend_from_slice(&piece);
                so_far = whole.len();
            }
        }
    }
    Ok(None)
}

async fn piece(session: &mut Session, until: Instant) -> Result<Option<Bytes>, Rejection> {
    let read = timeout_at(until, session.downstream_session.read_request_body()).await;
    read.map_err(|_| Rejection::BodyTooSlow)?.map_err(|_| Rejection::BodyBroken)
}

/// A body has this long to get going.
const START: Duration = Duration::from_secs(5);

/// How fast a body has to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    since: Instant,
    whole: Duration,
    bytes_per_second_min: usize,
}

impl Pace {
    /// The pace of a body that begins now.
    pub(super) fn new(limits: &Limits) -> Self {
        let bytes_per_second_min = limits.body_bytes_per_second_min.max(1);
        Self { since: Instant::now(), whole: limits.body_timeout, bytes_per_second_min }
    }

    /// When the next piece must be there, after `bytes`.
    fn until(&self, bytes: usize) -> Instant {
        self.since + self.earned(bytes).min(self.whole)
    }

    /// The same for a body that may take as long as it likes, if only it keeps coming.
    pub(super) fn is_kept(&self, bytes: usize) -> bool {
        self.since.elapsed() <= self.earned(bytes)
    }

    fn earned(&self, bytes: usize) -> Duration {
        START + Duration::from_secs((bytes / self.bytes_per_second_min) as u64)
    }
}

/// What becomes of a body behind a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// A little of it is read away, so that the connection can be used again if that was all.
    Drained,
    /// None of it is read, and the connection ends with the answer.
    Left,
    /// The same at once: whoever floods us is not waited for.
    Cut,
}

impl Rest {
    /// What becomes of the body behind this refusal.
    pub(super) fn behind(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::BodyBroken | Rejection::BodyTooSlow | Rejection::Limited(Limited::Flood) => Self::Cut,
            Rejection::BodyTooLarge { .. } => Self::Left,
            _ => Self::Drained,
        }
    }
}

/// Says in the answer whether the connection goes on after it, before it is written. It ends where more of the body
/// will come than is read away, none will come any more, or none that could be read.
pub(super) fn leave(session: &mut Session, rest: Rest) {
    let awaited = session.req_header().headers.contains_key(header::EXPECT) && session.body_bytes_read() == 0;
    let left = declared(session).unwrap_or_default().saturating_sub(session.body_bytes_read());
    let short = session.is_body_done() || !awaited && left <= DRAIN_BYTES_MAX;
    if rest == Rest::Drained && short {
        session.downstream_session.set_close_on_response_before_downstream_finish(false);
    } else {
        session.set_keepalive(None);
    }
}

/// A buffer with the first piece in it and room for the declared length, so that it need not grow to twice of that.
fn begun(first: &[u8], length: usize) -> BytesMut {
    let mut whole = BytesMut::with_capacity(length.max(first.len() * 2));
    whole.extend_from_slice(first);
    whole
}

/// What is read away behind a refusal. A client that has more to send finds the connection closed.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
/// How long it may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection that ends before its client has sent everything stays open for reading the answer: what
/// arrives at a closed one is answered with a reset, which may overtake the answer.
const LINGER: Duration = Duration::from_millis(500);

/// Ends a refusal after its answer: reads away what is left of a short body, and lets the client of a longer one see
/// the answer before the connection ends. Pingora's own draining has no bound in bytes.
pub(super) async fn drain(session: &mut Session, rest: Rest) {
    if rest == Rest::Cut || session.is_body_done() || session.is_http2() {
        return;
    }
    if session.get_keepalive().is_some() {
        let until = Instant::now() + DRAIN_TIME_MAX;
        if read_away(session, until).await {
            return;
        }
        session.set_keepalive(None);
    }
    if session.body_bytes_read() == 0 && session.req_header().headers.contains_key(header::EXPECT) {
        // The client waits for a word before it sends anything, and has got it.
        return;
    }
    // It sees that no more will come. A client that goes on writing meets a full window, not a reset.
    session.downstream_session.shutdown().await;
    sleep(LINGER).await;
}

/// Whether that was all.
async fn read_away(session: &mut Session, until: Instant) -> bool {
    let mut bytes = 0;
    while !session.is_body_done() {
        match timeout_at(until, session.downstream_session.read_request_body()).await {
            Ok(Ok(Some(piece))) if bytes < DRAIN_BYTES_MAX => bytes += piece.len(),
            Ok(Ok(None)) => return true,
            _ => return false,
        }
    }
    true
}

fn declared(session: &Session) -> Option<usize> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_keeps_its_pace_or_is_cut() {
        let limits = crate::conf::Limits { body_bytes_per_second_min: 100, ..limits() };
        let pace = Pace::new(&limits);
        let after = |bytes| pace.until(bytes) - pace.since;
        assert_eq!(after(0), Duration::from_secs(5));
        assert_eq!(after(1_000), Duration::from_secs(15));
        // In all it has no longer than `body_timeout`, however fast it comes.
        assert_eq!(after(1_000_000), limits.body_timeout);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(pace.is_kept(1_500) && !pace.is_kept(1_499));
    }

    fn limits() -> Limits {
        let flags = crate::conf::Flags::default();
        let sources = crate::conf::Sources { env: Vec::new(), flags, ..Default::default() };
        crate::conf::load(sources).unwrap().conf.limits
    }
}
