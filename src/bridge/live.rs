//! The handle to one running child: how calls, orders and news get to its task and back.
//! Not here: the task itself (`child`) or who decides that there is a child (`slot`).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::failure::{Death, Failure};
use super::frame::one_line;
use super::mailbox::{Mailbox, Reader};
use super::opening::{FIRST_TICKET, Opened};
use super::slot::Slot;
use crate::catalog::Timeouts;
use crate::conf::Limits;
use crate::mcp::{Id, Message, Method};

/// What a child's task is asked to write.
#[derive(Debug)]
pub(super) enum Command {
    /// A request.
    Call(Call),
    /// A notification, as a line.
    Notify(Vec<u8>),
    /// A legacy client's `notifications/cancelled`.
    Cancel {
        /// Whose request.
        session: Option<Box<str>>,
        /// The client's own id of it.
        id: Id,
    },
    /// What a client answered to a request of its own child.
    Answer {
        /// The child's id of it.
        id: Id,
        /// The line, its end included.
        line: Vec<u8>,
    },
}

/// A request on its way to a child.
#[derive(Debug)]
pub(super) struct Call {
    /// Our id of it, which the line carries.
    pub(super) ticket: u64,
    /// The line, its end included.
    pub(super) line: Vec<u8>,
    /// What is remembered until it is answered.
    pub(super) pending: Pending,
}

/// A call that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    /// The client's id.
    pub(super) id: Id,
    /// The client's progress token, as JSON.
    pub(super) token: Option<Box<str>>,
    /// The client's session.
    pub(super) session: Option<Box<str>>,
    /// Modern requests end with their caller; legacy ones run on.
    pub(super) modern: bool,
    /// Where the answer goes.
    pub(super) mailbox: Arc<Mailbox>,
    /// When it fails; `None` for a listen stream.
    pub(super) deadline: Option<Instant>,
    /// What the deadline was counted from, and whether the client cancelled it since.
    pub(super) cancelled: bool,
    /// Counts it as in flight.
    #[expect(dead_code, reason = "held for its Drop")]
    pub(super) flight: Flight,
}

/// One call in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct Flight(Arc<Live>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.touch();
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a child is in its life.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// It was not ready yet.
    Starting,
    /// It answered its first message.
    Ready(Arc<Opened>),
    /// It takes no calls any more; its processes may still be ending.
    Ended(Arc<Death>),
    /// No process of its group is left.
    Over(Arc<Death>),
}

/// What a child's task is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Go on.
    Run,
    /// Stop if there is nothing to do: another child needs the place.
    Leave,
    /// Finish the calls in flight within this time, then stop.
    Stop(Duration),
}

/// The handle to one child.
#[derive(Debug)]
pub(super) struct Live {
    queue: mpsc::Sender<Command>,
    tickets: AtomicU64,
    in_flight: AtomicUsize,
    gone: Mutex<Vec<u64>>,
    /// Wakes the task when `gone` has something.
    pub(super) wake: Notify,
    /// What the task is told.
    pub(super) order: watch::Sender<Order>,
    /// What the task tells.
    pub(super) stage: watch::Sender<Stage>,
    /// The process id; 0 while there is none.
    pub(super) pid: AtomicU32,
    /// When it was started.
    pub(super) started_at: SystemTime,
    /// Whose it is; nobody's while it is kept ready.
    slot: OnceLock<Weak<Slot>>,
    born: Instant,
    /// Milliseconds from `born` to its last use.
    used_ms: AtomicU64,
    proven: AtomicBool,
}

impl Live {
    /// A handle and the queue that its task reads. Calls are bounded by `child_pending_max` before they get into
    /// the queue; what is added to it is for notifications.
    pub(super) fn new(limits: &Limits) -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (queue, commands) = mpsc::channel(limits.child_pending_max + limits.child_queue_max.max(1));
        let live = Self {
            queue,
            tickets: AtomicU64::new(FIRST_TICKET),
            in_flight: AtomicUsize::new(0),
            gone: Mutex::default(),
            wake: Notify::new(),
            order: watch::Sender::new(Order::Run),
            stage: watch::Sender::new(Stage::Starting),
            pid: AtomicU32::new(0),
            started_at: SystemTime::now(),
            slot: OnceLock::new(),
            born: Instant::now(),
            used_ms: AtomicU64::new(0),
            proven: AtomicBool::new(false),
        };
        (Arc::new(live), commands)
    }

    /// Hands a request to the child.
    pub(super) async fn submit(
        self: &Arc<Self>,
        request: &Submission<'_>,
        limits: &Limits,
    ) -> Result<Reader, Failure> {
        let admit = |n: usize| (n < limits.child_pending_max).then_some(n + 1);
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit)
            .map_err(|_| Failure::Busy)?;
        let flight = Flight(Arc::clone(self));
        self.touch();
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let mailbox = Mailbox::new(limits.child_queue_max);
        let token = request.message.params.meta.progress_token();
        let number = ticket.to_string();
        let line = one_line(request.body, &[(request.message.id, &number), (token, &number)]);
        let listens = request.message.method == Method::Listen;
        let pending = Pending {
            id: request.id.clone(),
            token: token.map(|raw| raw.get().into()),
            session: request.session.map(Into::into),
            modern: request.modern,
            mailbox: Arc::clone(&mailbox),
            deadline: (!listens).then(|| Instant::now() + request.timeouts.total),
            cancelled: false,
            flight,
        };
        // The reader exists before the call is sent, so that a caller who leaves in between is noticed.
        let reader = Reader::of_call(mailbox, Arc::clone(self), ticket);
        self.queue.send(Command::Call(Call { ticket, line, pending })).await.map_err(|_| Failure::Unsent)?;
        Ok(reader)
    }

    /// Hands a notification over; it is dropped if the child is gone.
    pub(super) async fn tell(&self, command: Command) {
        // A child that is gone needs no news.
        drop(self.queue.send(command).await);
    }

    #[cfg(test)]
    pub(super) fn flight_for_tests() -> Flight {
        let limits = Limits { child_pending_max: 8, ..super::tests::limits() };
        let (live, _) = Self::new(&limits);
        live.in_flight.fetch_add(1, Ordering::Relaxed);
        Flight(live)
    }

    /// Notes that the caller of a request is gone.
    pub(super) fn caller_gone(&self, ticket: u64) {
        self.gone.lock().push(ticket);
        self.wake.notify_one();
    }

    /// The callers that went since this was last asked.
    pub(super) fn take_gone(&self) -> Vec<u64> {
        std::mem::take(&mut *self.gone.lock())
    }

    /// Calls in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The process id, while there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Says whose it is; only the first time counts.
    pub(super) fn belongs_to(&self, slot: &Arc<Slot>) {
        drop(self.slot.set(Arc::downgrade(slot)));
    }

    /// It is used.
    pub(super) fn touch(&self) {
        let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used_ms.fetch_max(age, Ordering::Relaxed);
    }

    /// Since when nobody uses it: no call is in flight and no stream is open.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let is_watched = || self.slot.get().and_then(Weak::upgrade).is_some_and(|slot| slot.is_watched());
        let is_busy = self.slot.get().is_some() && matches!(*self.stage.borrow(), Stage::Starting);
        let used = Duration::from_millis(self.used_ms.load(Ordering::Relaxed));
        (self.in_flight() == 0 && !is_busy && !is_watched()).then(|| self.born + used)
    }

    /// Asks it to stop unless it has something to do.
    pub(super) fn evict(&self) {
        self.order.send_if_modified(|order| {
            let runs = *order == Order::Run;
            if runs {
                *order = Order::Leave;
            }
            runs
        });
    }

    /// It had something to do, and stays.
    pub(super) fn stay(&self) {
        self.order.send_if_modified(|order| {
            if *order == Order::Leave {
                *order = Order::Run;
            }
            false
        });
    }

    /// Whether it has an owner.
    pub(super) fn is_assigned(&self) -> bool {
        self.slot.get().is_some()
    }

    /// Whether it has no owner and is too young to show that the server can start at all.
    pub(super) fn is_unproven(&self) -> bool {
        let ended = matches!(*self.stage.borrow(), Stage::Ended(_) | Stage::Over(_));
        !self.is_assigned() && !ended && !self.proven.load(Ordering::Relaxed)
    }

    /// It has lived for a while without an owner.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Whether it was told to end.
    pub(super) fn is_leaving(&self) -> bool {
        *self.order.borrow() != Order::Run
    }

    /// Orders it to stop. The shorter time counts if it was told before.
    pub(super) fn stop(&self, within: Duration) {
        self.order.send_if_modified(|order| {
            let sooner = match *order {
                Order::Run | Order::Leave => true,
                Order::Stop(before) => within < before,
            };
            if sooner {
                *order = Order::Stop(within);
            }
            sooner
        });
    }

    /// Waits until it answered its first message, or cannot any more.
    pub(super) async fn ready(&self) -> Result<Arc<Opened>, Arc<Death>> {
        let mut stage = self.stage.subscribe();
        let reached =
            stage.wait_for(|stage| !matches!(stage, Stage::Starting)).await.map(|stage| stage.clone());
        match reached {
            Ok(Stage::Ready(opened)) => Ok(opened),
            Ok(Stage::Ended(death) | Stage::Over(death)) => Err(death),
            Ok(Stage::Starting) | Err(_) => Err(Arc::new(Death::meant("ended"))),
        }
    }

    /// Waits until no process of it is left.
    pub(super) async fn over(&self) {
        let mut stage = self.stage.subscribe();
        // The sender lives in `self`, so this ends with the stage.
        drop(stage.wait_for(|stage| matches!(stage, Stage::Over(_))).await);
    }
}

/// A request as a handler has it.
pub(super) struct Submission<'a> {
    /// The body.
    pub(super) body: &'a Bytes,
    /// The message read from it.
    pub(super) message: &'a Message<'a>,
    /// Its id.
    pub(super) id: &'a Id,
    /// The session it came in.
    pub(super) session: Option<&'a str>,
    /// Whether it is of the modern era.
    pub(super) modern: bool,
    /// The server's deadlines.
    pub(super) timeouts: &'a Timeouts,
}
