//! The table of all children, from before their start to the end of their processes: how many, and which makes room.
//! Not here: what a child is started for (`slot`), or how it ends (`child`).
//!
//! Three bounds count: the caller's, the server's and the process's. Who finds one reached asks the child within it
//! that was unused for longest to leave, and waits for its place. A child that was just used is no such child: its
//! client is between two calls.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::failure::Death;
use super::live::{Live, Stage};
use super::warm::Assignment;
use crate::catalog::{Children, Mode, ServerId};

/// Who wants a place waits for it this long: a child that leaves by itself takes milliseconds, and one that has to be
/// killed takes longer than a client should wait.
const PATIENCE: Duration = Duration::from_secs(4);
/// A child counts as idle this long after its last call.
const SETTLED: Duration = Duration::from_secs(1);
/// Who waits for a child that does not leave asks another one after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Nobody tells when a child has become idle for long enough.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The bound that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cap {
    /// `max_per_caller`.
    Caller(usize),
    /// `max_processes`.
    Server(usize),
    /// `limits.children`.
    Process(usize),
}

/// For whom a child is started.
#[derive(Debug, Clone)]
pub(super) struct Claim<'a> {
    /// The server.
    pub(super) server: &'a ServerId,
    /// The entry of the catalog: a changed server is another one.
    pub(super) entry: u64,
    /// Whose session or calls it serves alone.
    pub(super) caller: Option<&'a Arc<str>>,
    /// The bounds.
    pub(super) bounds: Children,
}

/// What came of a claim.
#[derive(Debug)]
pub(super) enum Got {
    /// A place for a child that is to be started.
    Berth(Berth),
    /// A child that was kept ready; it has its place.
    Warm(Arc<Live>, oneshot::Sender<Assignment>),
}

/// All children.
#[derive(Debug)]
pub(super) struct Berths {
    rows: Mutex<Vec<Row>>,
    changed: Notify,
    numbers: AtomicU64,
    max: usize,
}

#[derive(Debug)]
struct Row {
    number: u64,
    server: ServerId,
    entry: u64,
    caller: Option<Arc<str>>,
    live: Arc<Live>,
    /// How it is claimed, as long as it is kept ready for anybody.
    warm: Option<oneshot::Sender<Assignment>>,
}

/// One child's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Berth {
    number: u64,
    server: ServerId,
    live: Arc<Live>,
    home: Arc<Berths>,
}

impl Berth {
    /// Whose child it is.
    pub(super) fn server(&self) -> &ServerId {
        &self.server
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.home.rows.lock().retain(|row| row.number != self.number);
        // A child that was not started after all: somebody may wait for its end.
        self.live.stage.send_if_modified(|stage| {
            let never_lived = matches!(stage, Stage::Starting);
            if never_lived {
                *stage = Stage::Over(Arc::new(Death::meant("was not started")));
            }
            never_lived
        });
        self.home.changed.notify_waiters();
    }
}

/// Why there is no place, and whether there may soon be one.
struct Full {
    cap: Cap,
    soon: bool,
    /// Whether a child was asked to leave.
    asked: bool,
    /// Whether one was leaving before.
    leaving: bool,
}

impl Berths {
    /// At most `max` children.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { rows: Mutex::default(), changed: Notify::new(), numbers: AtomicU64::new(1), max })
    }

    /// A number that was not given before.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A place for `live`, or a warm child instead. An idle child leaves for it, if it has to be.
    pub(super) async fn take(self: &Arc<Self>, claim: &Claim<'_>, live: &Arc<Live>) -> Result<Got, Cap> {
        let deadline = Instant::now() + PATIENCE;
        let mut asked: Option<Instant> = None;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look: a place that becomes free after it is not missed.
            changed.as_mut().enable();
            let now = Instant::now();
            let wish = match asked {
                Some(at) if now >= at + ASK_AGAIN => Wish::AskAgain,
                _ => Wish::Wait,
            };
            let full = match self.try_take(claim, live, wish) {
                Ok(got) => return Ok(got),
                Err(full) => full,
            };
            if full.asked || (full.leaving && asked.is_none()) {
                asked = Some(now);
            }
            if !full.soon || now >= deadline {
                return Err(full.cap);
            }
            // Either way it is looked at again.
            drop(timeout_at(deadline.min(now + LOOK_AGAIN), changed).await);
        }
    }

    /// A place that is free now, for a child that nobody waits for.
    pub(super) fn take_free(self: &Arc<Self>, claim: &Claim<'_>, live: &Arc<Live>) -> Option<Berth> {
        match self.try_take(&Claim { caller: None, ..claim.clone() }, live, Wish::OnlyIfFree) {
            Ok(Got::Berth(berth)) => Some(berth),
            _ => None,
        }
    }

    /// Offers the child in `berth` to whoever comes next.
    pub(super) fn offer(&self, berth: &Berth, claim: oneshot::Sender<Assignment>) {
        if let Some(row) = self.rows.lock().iter_mut().find(|row| row.number == berth.number) {
            row.warm = Some(claim);
        }
    }

    /// The children of an entry, and how many of them are warm.
    pub(super) fn of(&self, entry: u64) -> (Vec<Arc<Live>>, usize) {
        let rows = self.rows.lock();
        let own = || rows.iter().filter(|row| row.entry == entry);
        (own().map(|row| Arc::clone(&row.live)).collect(), own().filter(|row| row.warm.is_some()).count())
    }

    /// How many children a server has.
    pub(super) fn count(&self, server: &ServerId) -> usize {
        self.rows.lock().iter().filter(|row| row.server == *server).count()
    }

    /// Somebody became idle, or did not leave.
    pub(super) fn stir(&self) {
        self.changed.notify_waiters();
    }

    fn try_take(self: &Arc<Self>, claim: &Claim<'_>, live: &Arc<Live>, wish: Wish) -> Result<Got, Full> {
        let mut rows = self.rows.lock();
        let of_server = |row: &Row| row.server == *claim.server;
        let of_caller =
            |row: &Row| of_server(row) && claim.caller.is_some() && row.caller.as_ref() == claim.caller;
        let mode = claim.bounds.mode;
        let full =
            |rows: &mut Vec<Row>, cap, within: &dyn Fn(&Row) -> bool| make_room(rows, within, wish, cap);
        let max = claim.bounds.max_per_caller;
        if mode == Mode::PerSession && rows.iter().filter(|row| of_caller(row)).count() >= max {
            return Err(full(&mut rows, Cap::Caller(max), &of_caller));
        }
        let caller = claim.caller.cloned();
        if wish != Wish::OnlyIfFree
            && mode != Mode::Shared
            && let Some(row) = rows.iter_mut().find(|row| row.entry == claim.entry && row.is_ready_warm())
            && let Some(warm) = row.warm.take()
        {
            row.caller = caller;
            row.live.touch();
            return Ok(Got::Warm(Arc::clone(&row.live), warm));
        }
        let max = claim.bounds.max_processes;
        if mode != Mode::Shared && rows.iter().filter(|row| of_server(row)).count() >= max {
            return Err(full(&mut rows, Cap::Server(max), &of_server));
        }
        if rows.len() >= self.max {
            return Err(full(&mut rows, Cap::Process(self.max), &|_| true));
        }
        let number = self.number();
        let (server, live) = (claim.server.clone(), Arc::clone(live));
        let row = Row {
            number,
            server: server.clone(),
            entry: claim.entry,
            caller,
            live: Arc::clone(&live),
            warm: None,
        };
        rows.push(row);
        Ok(Got::Berth(Berth { number, server, live, home: Arc::clone(self) }))
    }
}

impl Row {
    fn is_ready_warm(&self) -> bool {
        self.warm.is_some() && self.live.pid().is_some() && !self.live.is_leaving()
    }
}

/// What somebody does for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Nothing.
    OnlyIfFree,
    /// Ask a child to leave, unless one is leaving already.
    Wait,
    /// Ask another one, since the first takes its time.
    AskAgain,
}

/// Asks the idlest child to leave.
fn make_room(rows: &mut [Row], within: &dyn Fn(&Row) -> bool, wish: Wish, cap: Cap) -> Full {
    let now = Instant::now();
    let (mut soon, mut leaving) = (false, false);
    let mut best: Option<(bool, Reverse<Instant>, &mut Row)> = None;
    for row in rows.iter_mut().filter(|row| within(row)) {
        if row.live.is_leaving() || matches!(*row.live.stage.borrow(), Stage::Ended(_) | Stage::Over(_)) {
            leaving = true;
            continue;
        }
        let is_warm = row.warm.is_some();
        let Some(since) = row.live.idle_since() else { continue };
        soon = true;
        // Warm ones first: nobody uses them.
        let rank = (is_warm, Reverse(since));
        let is_settled = is_warm || now >= since + SETTLED;
        if is_settled && best.as_ref().is_none_or(|(warm, at, _)| rank > (*warm, *at)) {
            best = Some((rank.0, rank.1, row));
        }
    }
    // One at a time is enough: whoever else waits asks for another when it is gone, or does not go.
    let asks = match wish {
        Wish::Wait => !leaving,
        Wish::AskAgain => true,
        Wish::OnlyIfFree => false,
    };
    let mut asked = false;
    if let Some((_, _, row)) = best.filter(|_| asks) {
        row.warm = None;
        row.live.evict();
        asked = true;
    }
    Full { cap, soon: soon || leaving, asked, leaving }
}
