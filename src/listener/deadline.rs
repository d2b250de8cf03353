//! Deadlines that a connection keeps by itself: one for the whole head of a request, one for a reader that is slow.
//! Not here: bodies of requests (`proxy/body`), and the time between requests, which Pingora counts.
//!
//! Pingora's own timeouts are for each read and each write, so that a byte every minute holds a connection for ever.
//! Nothing here costs a timer or a look at the clock while bytes come and go without waiting.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The deadline of a request's head: it starts with the connection, and with the first byte of every later request.
#[derive(Debug)]
pub(super) struct HeadDeadline {
    allowed: Duration,
    head: u32,
    /// Whether a byte of the head has come.
    begun: bool,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What a look at a deadline found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// Before anything had come: there is nobody to tell.
    Silent,
    /// In the middle.
    Begun,
}

impl HeadDeadline {
    /// The deadline of a connection that was accepted at `since`.
    pub(super) fn new(allowed: Duration, since: Instant) -> Self {
        Self { allowed, head: 0, begun: false, since: Some(since), timer: None }
    }

    /// Says which head the next bytes are of; to be called before they are read.
    pub(super) fn turn_to(&mut self, head: u32) {
        if self.head != head {
            // The first head is also the first that is named: it keeps the time at which the connection began.
            if self.head != 0 {
                (self.begun, self.since, self.timer) = (false, None, None);
            }
            self.head = head;
        }
        if self.begun && self.since.is_none() {
            // More is wanted than came with the first read.
            self.since = Some(Instant::now());
        }
    }

    /// Bytes of the head have come. `Some` if they came too late.
    pub(super) fn more(&mut self) -> Option<Passed> {
        let late = self.begun && self.since.is_some_and(|since| since.elapsed() > self.allowed);
        self.begun = true;
        late.then_some(Passed::Begun)
    }

    /// Waits for the deadline beside the bytes that are awaited. Never ready between requests.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Passed> {
        let Some(since) = self.since else { return Poll::Pending };
        let until = since + self.allowed;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        let passed = if self.begun { Passed::Begun } else { Passed::Silent };
        timer.as_mut().poll(cx).map(|()| passed)
    }
}

/// The deadline of a reader: it may hold up writes for `patience` in all, and earns time back with what it reads.
#[derive(Debug)]
pub(super) struct Patience {
    patience: Duration,
    bytes_per_second_min: u32,
    /// What is left of it.
    left: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(super) fn new(patience: Duration, bytes_per_second_min: usize) -> Self {
        let bytes_per_second_min = u32::try_from(bytes_per_second_min).unwrap_or(u32::MAX).max(1);
        Self { patience, bytes_per_second_min, left: patience, since: None, timer: None }
    }

    /// A write went through: `bytes` of it, or a flush of nothing.
    pub(super) fn went(&mut self, bytes: usize) {
        let Some(since) = self.since.take() else { return };
        self.timer = None;
        let earned = Duration::from_secs(1)
            .saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX))
            .checked_div(self.bytes_per_second_min)
            .unwrap_or_default();
        self.left = self.left.saturating_sub(since.elapsed()).saturating_add(earned).min(self.patience);
    }

    /// A write waits. Ready when patience is at its end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let until = since + self.left;
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(until))).as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const ALLOWED: Duration = Duration::from_secs(10);

    async fn advance(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    /// What a poll finds now.
    async fn look(deadline: &mut HeadDeadline) -> Poll<Passed> {
        poll_fn(|cx| Poll::Ready(deadline.poll(cx))).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_head_is_counted_from_the_beginning_of_the_connection() {
        let mut deadline = HeadDeadline::new(ALLOWED, Instant::now());
        advance(9).await;
        deadline.turn_to(2);
        assert_eq!(look(&mut deadline).await, Poll::Pending);
        advance(2).await;
        assert_eq!(look(&mut deadline).await, Poll::Ready(Passed::Silent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_put_a_deadline_off() {
        let mut deadline = HeadDeadline::new(ALLOWED, Instant::now());
        deadline.turn_to(2);
        for _ in 0..5 {
            assert_eq!(deadline.more(), None);
            advance(2).await;
            deadline.turn_to(2);
        }
        advance(1).await;
        assert_eq!(look(&mut deadline).await, Poll::Ready(Passed::Begun));
        // Even if there is never a moment to wait.
        assert_eq!(deadline.more(), Some(Passed::Begun));
    }

    #[tokio::test(start_paused = true)]
    async fn time_between_requests_does_not_count() {
        let mut deadline = HeadDeadline::new(ALLOWED, Instant::now());
        deadline.turn_to(2);
        assert_eq!(deadline.more(), None);
        advance(100).await;
        deadline.turn_to(4);
        assert_eq!(look(&mut deadline).await, Poll::Pending);
        advance(100).await;
        assert_eq!(look(&mut deadline).await, Poll::Pending);
        assert_eq!(deadline.more(), None);
        deadline.turn_to(4);
        advance(11).await;
        assert_eq!(look(&mut deadline).await, Poll::Ready(Passed::Begun));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_keeps_its_time_only_by_reading() {
        let wait = async |patience: &mut Patience, seconds| {
            assert_eq!(poll_fn(|cx| Poll::Ready(patience.poll(cx))).await, Poll::Pending);
            advance(seconds).await;
            poll_fn(|cx| Poll::Ready(patience.poll(cx))).await
        };
        let mut patience = Patience::new(Duration::from_secs(30), 256);
        // Fast enough: a second's worth each second.
        for _ in 0..100 {
            assert_eq!(wait(&mut patience, 1).await, Poll::Pending);
            patience.went(256);
        }
        // A byte a second is not.
        let mut seconds = 0;
        while wait(&mut patience, 1).await.is_pending() {
            patience.went(1);
            seconds += 1;
            assert!(seconds < 40);
        }
        assert!(seconds >= 28, "{seconds}");
    }
}
