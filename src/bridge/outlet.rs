//! Where a session's own child speaks to its client outside of calls: the session's GET stream, and what waits for it.
//! Not here: streams that sessions of a shared child have (`audience`), or what is said on them (`desk`).

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::mailbox::{Last, Mailbox, Reader};

/// The way to one client.
#[derive(Debug)]
pub(super) struct Outlet {
    inner: Mutex<Inner>,
    queue_max: usize,
}

#[derive(Debug)]
struct Inner {
    /// What the client reads, or will read when it comes.
    mailbox: Arc<Mailbox>,
    /// Whether it came.
    taken: bool,
    closed: bool,
}

impl Outlet {
    /// A way on which at most `queue_max` messages wait.
    pub(super) fn new(queue_max: usize) -> Arc<Self> {
        let inner = Inner { mailbox: Mailbox::new(queue_max), taken: false, closed: false };
        Arc::new(Self { inner: Mutex::new(inner), queue_max })
    }

    /// Opens the stream and ends the one that was open; `None` if the child is gone.
    pub(super) fn open(&self) -> Option<Reader> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return None;
        }
        if inner.taken {
            let fresh = Mailbox::new(self.queue_max);
            std::mem::replace(&mut inner.mailbox, fresh).finish(Last::Closed);
        }
        inner.taken = true;
        Some(Reader::of_stream(Arc::clone(&inner.mailbox)))
    }

    /// Says something, or keeps it until the stream is opened. Tells whether it did either.
    pub(super) fn say(&self, message: Bytes) -> bool {
        let mut inner = self.inner.lock();
        if inner.taken && inner.mailbox.is_gone() {
            inner.mailbox = Mailbox::new(self.queue_max);
            inner.taken = false;
        }
        inner.mailbox.note(message)
    }

    /// Whether the client listens.
    pub(super) fn is_open(&self) -> bool {
        let inner = self.inner.lock();
        inner.taken && !inner.mailbox.is_gone()
    }

    /// Takes what waits for a client that does not listen.
    pub(super) fn take_waiting(&self) -> Vec<Bytes> {
        let inner = self.inner.lock();
        if inner.taken && !inner.mailbox.is_gone() { Vec::new() } else { inner.mailbox.take_notes() }
    }

    /// Ends the stream for good.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.mailbox.finish(Last::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_before_the_client_listens_waits_within_bounds() {
        let outlet = Outlet::new(2);
        let said = ["one", "two", "three"].map(|text| outlet.say(Bytes::from_static(text.as_bytes())));
        assert_eq!((said, outlet.is_open()), ([true, true, false], false));
        let mut first = outlet.open().unwrap();
        assert!(outlet.is_open() && outlet.take_waiting().is_empty());
        assert_eq!([first.said().await, first.said().await], ["one", "two"]);
        let mut second = outlet.open().unwrap();
        assert_eq!(first.said().await, "closed");
        assert!(outlet.say(Bytes::from_static(b"four")));
        assert_eq!(second.said().await, "four");
        drop(second);
        assert!(outlet.say(Bytes::from_static(b"five")), "it waits for the next stream");
        assert!(!outlet.is_open());
        assert_eq!(outlet.take_waiting(), ["five"]);
        outlet.close();
        assert!(outlet.open().is_none() && !outlet.say(Bytes::from_static(b"six")));
    }
}
