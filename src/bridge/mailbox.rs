//! Where one reader waits for what a child says to it: some notifications, then the last word.
//! Not here: who writes into it (`desk`, `audience`) or how it becomes HTTP (`payload`).
//!
//! The writer is the child's own task and must never wait for a reader. A slow reader therefore loses
//! notifications once its queue is full, and never the answer, which has a place of its own.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use super::failure::Failure;
use super::live::Live;

/// What a reader gets.
#[derive(Debug)]
pub(super) enum Item {
    /// A notification; more follows.
    Note(Bytes),
    /// The last word.
    Last(Last),
}

/// The last word of a mailbox.
#[derive(Debug)]
pub(super) enum Last {
    /// The whole JSON-RPC response, with the caller's own id.
    Answer(Bytes),
    /// There will be no response.
    Failed(Failure),
    /// The stream ends; only for streams that are no call.
    Closed,
}

/// Notifications of one reader may take this much, however many there are: as much as the longest line.
const NOTES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The writer's side.
#[derive(Debug)]
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    queue_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    notes: VecDeque<Bytes>,
    /// Length of all notes together.
    bytes: usize,
    last: Option<Last>,
    waker: Option<Waker>,
    gone: bool,
    lost: u64,
}

impl Mailbox {
    /// A mailbox for at most `queue_max` notifications that were not read yet.
    pub(super) fn new(queue_max: usize) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), queue_max })
    }

    /// Adds a notification, or drops it when the reader is behind or gone. Tells whether it was kept.
    pub(super) fn note(&self, message: Bytes) -> bool {
        let waker = {
            let mut inner = self.inner.lock();
            if inner.gone || inner.last.is_some() {
                return false;
            }
            let full = inner.notes.len() >= self.queue_max || inner.bytes + message.len() > NOTES_BYTES_MAX;
            // A note that is too long by itself is let through alone.
            if full && !inner.notes.is_empty() {
                inner.lost += 1;
                return false;
            }
            inner.bytes += message.len();
            inner.notes.push_back(message);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Says the last word; only the first one counts.
    pub(super) fn finish(&self, last: Last) {
        let waker = {
            let mut inner = self.inner.lock();
            if inner.gone || inner.last.is_some() {
                return;
            }
            inner.last = Some(last);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the notifications that nobody read yet.
    pub(super) fn take_notes(&self) -> Vec<Bytes> {
        let mut inner = self.inner.lock();
        inner.bytes = 0;
        inner.notes.drain(..).collect()
    }

    /// Whether nobody will read it any more.
    pub(super) fn is_gone(&self) -> bool {
        self.inner.lock().gone
    }

    /// Notifications that were dropped because the reader was behind.
    pub(super) fn lost(&self) -> u64 {
        self.inner.lock().lost
    }
}

/// The reader's side. Dropping it before the last word tells the child's task that the caller is gone.
#[derive(Debug)]
pub(super) struct Reader {
    mailbox: Arc<Mailbox>,
    call: Option<(Arc<Live>, u64)>,
    finished: bool,
}

impl Reader {
    /// Reads a call's mailbox.
    pub(super) fn of_call(mailbox: Arc<Mailbox>, live: Arc<Live>, ticket: u64) -> Self {
        Self { mailbox, call: Some((live, ticket)), finished: false }
    }

    /// Reads a stream that belongs to no call.
    pub(super) fn of_stream(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox, call: None, finished: false }
    }

    /// The next item; `None` after the last word.
    pub(super) fn poll_next(&mut self, task: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let mut inner = self.mailbox.inner.lock();
        if let Some(note) = inner.notes.pop_front() {
            inner.bytes -= note.len();
            return Poll::Ready(Some(Item::Note(note)));
        }
        if let Some(last) = inner.last.take() {
            drop(inner);
            self.finished = true;
            return Poll::Ready(Some(Item::Last(last)));
        }
        if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(task.waker())) {
            inner.waker = Some(task.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for the next item; `None` after the last word.
    pub(super) async fn next(&mut self) -> Option<Item> {
        poll_fn(|task| self.poll_next(task)).await
    }

    /// What is said next, or that nothing will be.
    #[cfg(test)]
    pub(super) async fn said(&mut self) -> String {
        match self.next().await {
            Some(Item::Note(said) | Item::Last(Last::Answer(said))) => {
                String::from_utf8(said.to_vec()).unwrap()
            }
            Some(Item::Last(Last::Closed)) => "closed".to_owned(),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        {
            let mut inner = self.mailbox.inner.lock();
            inner.gone = true;
            inner.notes.clear();
            inner.waker = None;
        }
        if let Some((live, ticket)) = self.call.take().filter(|_| !self.finished) {
            live.caller_gone(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_holds_neither_many_nor_long_notes() {
        let many = Mailbox::new(2);
        assert_eq!([1, 2, 3].map(|_| many.note(Bytes::from_static(b"{}"))), [true, true, false]);
        let long = Mailbox::new(256);
        let note = || Bytes::from(vec![b' '; NOTES_BYTES_MAX / 2 + 1]);
        assert_eq!([1, 2].map(|_| long.note(note())), [true, false]);
        assert_eq!(long.lost(), 1);
        let mut reader = Reader::of_stream(Arc::clone(&long));
        let mut task = Context::from_waker(Waker::noop());
        assert!(matches!(reader.poll_next(&mut task), Poll::Ready(Some(Item::Note(_)))));
        assert!(long.note(note()), "what was read makes room");
    }
}
