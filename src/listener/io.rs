//! The bytes of one connection as Pingora reads and writes them: buffered, with deadlines of their own.
//! Not here: how the connection came to be (`accept`), TLS (`tls`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use http::StatusCode;
use pingora_core::protocols::l4::socket;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora_http::ResponseHeader;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::connection::Connection;
use super::deadline::{HeadDeadline, Passed, Patience};
use super::places::Place;
use super::transport::Transport;
use crate::conf::Limits;
use crate::telemetry::{Cut, ListenerMeters, OpenConnection};

/// What is gathered before it is written: the head of an answer and a small body leave in one segment.
const GATHERED_BYTES_MAX: usize = 1460;
/// Slices of one vectored write: what was gathered, and the pieces of a chunk.
const SLICES_MAX: usize = 8;
/// The preface of HTTP/2 (RFC 9113 section 3.4), after which its idle timeout counts.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What the line ends of a head, and the piece of a body that is read with it, may take besides its headers and path.
const HEAD_BYTES_BESIDES: usize = 16 << 10;
const TOO_LONG: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// One connection.
#[derive(Debug)]
pub(super) struct Io {
    transport: Transport,
    multiplexed: bool,
    /// Bytes of the HTTP/2 preface that are still to come.
    preface_left: usize,
    gathered: Vec<u8>,
    /// How much of `gathered` has been written.
    written: usize,
    head: HeadDeadline,
    /// The number of the head that is read, and how much of it has come.
    head_bytes: (u32, usize),
    head_bytes_max: usize,
    patience: Patience,
    /// Whether patience has come to its end.
    given_up: bool,
    connection: Arc<Connection>,
    proxy_digest: Arc<ProxyDigest>,
    socket_digest: Arc<SocketDigest>,
    meters: Arc<ListenerMeters>,
    _open: OpenConnection,
    _place: Place,
}

/// What a connection is made of besides its bytes.
pub(super) struct Parts {
    pub(super) connection: Arc<Connection>,
    pub(super) accepted: Instant,
    pub(super) place: Place,
    pub(super) open: OpenConnection,
    pub(super) meters: Arc<ListenerMeters>,
}

impl Io {
    /// A connection over `transport`; with HTTP/2 if `multiplexed`.
    pub(super) fn new(
        transport: Transport,
        multiplexed: bool,
        parts: Parts,
        limits: &Limits,
    ) -> io::Result<Self> {
        let Parts { connection, accepted, place, open, meters } = parts;
        let socket_digest = SocketDigest::from_raw_fd(transport.raw_fd());
        // Known from the beginning, so nobody asks the system; and behind a proxy the system would not know.
        let _ = socket_digest.peer_addr.set(Some(socket::SocketAddr::Inet(connection.peer)));
        let carried = Box::new(Arc::clone(&connection));
        // The head of an answer belongs to a proxy on the way to us; there is none, but the type wants one.
        let response = ResponseHeader::build(StatusCode::OK, Some(0)).map_err(io::Error::other)?;
        let proxy_digest = Arc::new(ProxyDigest::new(Box::new(response), Some(carried)));
        Ok(Self {
            transport,
            multiplexed,
            preface_left: PREFACE.len(),
            gathered: Vec::new(),
            written: 0,
            head: HeadDeadline::new(limits.header_timeout, accepted),
            head_bytes: (0, 0),
            // Twice what is taken, so that whoever sends a little too much is told what.
            head_bytes_max: (limits.header_bytes_max + limits.uri_bytes_max) * 2 + HEAD_BYTES_BESIDES,
            patience: Patience::new(limits.write_timeout, limits.body_bytes_per_second_min),
            given_up: false,
            connection,
            proxy_digest,
            socket_digest: Arc::new(socket_digest),
            meters,
            _open: open,
            _place: place,
        })
    }

    /// The head that is read now, if a head is: afterwards other deadlines count.
    fn awaited_head(&self) -> Option<u32> {
        match self.multiplexed {
            true => (self.preface_left > 0).then_some(0),
            false => self.connection.awaited_head(),
        }
    }

    fn cut(&mut self, cx: &mut Context<'_>, passed: Passed) -> io::Error {
        self.meters.cut(Cut::Head);
        if passed == Passed::Begun && !self.multiplexed {
            // As much as fits at once: whoever is so slow is not waited for again.
            let _ = Pin::new(&mut self.transport).poll_write(cx, TIMED_OUT);
            let _ = Pin::new(&mut self.transport).poll_flush(cx);
        }
        io::ErrorKind::TimedOut.into()
    }

    /// Counts bytes of a head. Pingora would hold a mebibyte of it before it gave up.
    fn is_too_long(&mut self, head: u32, bytes: usize) -> bool {
        if self.head_bytes.0 != head {
            self.head_bytes = (head, 0);
        }
        self.head_bytes.1 += bytes;
        !self.multiplexed && self.head_bytes.1 > self.head_bytes_max
    }

    /// Tells a client that its head is too long, as far as that goes without waiting.
    fn burst(&mut self, cx: &mut Context<'_>) -> io::Error {
        self.meters.cut(Cut::LongHead);
        let _ = Pin::new(&mut self.transport).poll_write(cx, TOO_LONG);
        let _ = Pin::new(&mut self.transport).poll_flush(cx);
        io::ErrorKind::InvalidData.into()
    }

    /// What a write or flush came to, unless it waits and the reader has used up its time.
    fn patient<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &done {
            Poll::Ready(Ok(through)) => self.patience.went(bytes(through)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                ready!(self.patience.poll(cx));
                // What is tried after that, such as a farewell, waits for nobody.
                if !std::mem::replace(&mut self.given_up, true) {
                    self.meters.cut(Cut::SlowReader);
                }
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        done
    }

    /// Writes what was gathered.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.gathered.get(self.written..).filter(|rest| !rest.is_empty()) {
            let done = Pin::new(&mut self.transport).poll_write(cx, rest);
            match ready!(self.patient(cx, done, |bytes| *bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.written += bytes,
            }
        }
        self.gathered.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn gathers(&self, bytes: usize) -> bool {
        self.gathered.len() + bytes <= GATHERED_BYTES_MAX
    }

    fn gather(&mut self, bytes: &[u8]) {
        if self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(GATHERED_BYTES_MAX);
        }
        self.gathered.extend_from_slice(bytes);
    }

    /// Writes what was gathered together with `pieces`; the number of bytes of `pieces` that went.
    fn poll_together(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let rest = self.gathered.get(self.written..).unwrap_or_default();
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let of_pieces = pieces.iter().map(|piece| IoSlice::new(piece));
            let all = std::iter::once(IoSlice::new(rest)).chain(of_pieces).filter(|slice| !slice.is_empty());
            let mut count = 0;
            for (to, from) in slices.iter_mut().zip(all) {
                *to = from;
                count += 1;
            }
            let left = rest.len();
            let slices = slices.get(..count).unwrap_or_default();
            let done = Pin::new(&mut self.transport).poll_write_vectored(cx, slices);
            let bytes = ready!(self.patient(cx, done, |bytes| *bytes))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if bytes < left {
                self.written += bytes;
                continue;
            }
            self.gathered.clear();
            self.written = 0;
            if bytes > left {
                return Poll::Ready(Ok(bytes - left));
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(head) = this.awaited_head() else {
            return Pin::new(&mut this.transport).poll_read(cx, buf);
        };
        this.head.turn_to(head);
        let before = buf.filled().len();
        match Pin::new(&mut this.transport).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                let bytes = buf.filled().len() - before;
                this.preface_left = this.preface_left.saturating_sub(bytes);
                if this.is_too_long(head, bytes) {
                    return Poll::Ready(Err(this.burst(cx)));
                }
                match this.head.more() {
                    Some(passed) => Poll::Ready(Err(this.cut(cx, passed))),
                    None => Poll::Ready(Ok(())),
                }
            }
            Poll::Pending => {
                let passed = ready!(this.head.poll(cx));
                Poll::Ready(Err(this.cut(cx, passed)))
            }
            done => done,
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathers(buf.len()) {
            self.gather(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        if self.gathered.is_empty() {
            let done = Pin::new(&mut self.transport).poll_write(cx, buf);
            return self.patient(cx, done, |bytes| *bytes);
        }
        self.poll_together(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        if self.gathers(bytes) {
            bufs.iter().for_each(|buf| self.gather(buf));
            return Poll::Ready(Ok(bytes));
        }
        self.poll_together(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        let done = Pin::new(&mut self.transport).poll_flush(cx);
        self.patient(cx, done, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        let done = Pin::new(&mut self.transport).poll_shutdown(cx);
        self.patient(cx, done, |()| 0)
    }
}

#[async_trait]
impl Shutdown for Io {
    async fn shutdown(&mut self) {
        // Whoever is gone need not be told.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Io {
    fn id(&self) -> UniqueIDType {
        self.transport.raw_fd()
    }
}

impl Ssl for Io {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.multiplexed { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for Io {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Io {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        // Pingora asks once for each request, before it reads the first byte of it.
        self.connection.await_head();
        Some(Arc::clone(&self.proxy_digest))
    }
}

impl GetSocketDigest for Io {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket_digest))
    }
}

impl Peek for Io {}
