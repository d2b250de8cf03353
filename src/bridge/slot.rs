//! One place for calls: an instance, a caller's or a session's. At most one child for each era, and when there is one.
//! Not here: the child's life (`child`), the server's slots together (`supervisor`), how many there may be (`berths`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::audience::Audience;
use super::berths::{Cap, Claim, Got};
use super::child::{self, Job};
use super::failure::{Death, Failure};
use super::live::{Live, Stage};
use super::opening::First;
use super::outlet::Outlet;
use super::record::{Record, Trial};
use super::starts::Life;
use super::supervisor::{Entry, Shared};
use super::warm::Assignment;
use crate::catalog::{Children, Local, Mode, Runtime, Server, ServerId};

/// Whose slot it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Everybody's: that instance.
    Instance(u16),
    /// A caller's, for its shared sessions and for requests without one.
    Caller(Arc<str>),
    /// A session's own.
    Session(Box<str>),
}

/// One place for calls.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) shared: Arc<Shared>,
    /// The server as the newest catalog has it; what matters to a child is equal in all of them.
    pub(super) server: Arc<ArcSwap<Server>>,
    pub(super) id: ServerId,
    pub(super) local: Local,
    pub(super) key: Key,
    /// Who the caller is, unless it is everybody's.
    pub(super) caller: Option<Arc<str>>,
    pub(super) audience: Arc<Audience>,
    /// The way to the one client of a session's own child.
    pub(super) outlet: Option<Arc<Outlet>>,
    pub(super) record: Arc<Record>,
    entry: Weak<Entry>,
    number: u64,
    retired: Arc<AtomicBool>,
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    legacy: Option<Arc<Live>>,
    modern: Option<Arc<Live>>,
    /// Whether the session had its child: it gets no second one.
    spent: bool,
}

impl Lanes {
    fn of(&mut self, modern: bool) -> &mut Option<Arc<Live>> {
        if modern { &mut self.modern } else { &mut self.legacy }
    }

    /// Forgets a child. Tells whether it was there.
    fn forget(&mut self, live: &Arc<Live>) -> bool {
        let mut found = false;
        for lane in [&mut self.legacy, &mut self.modern] {
            if lane.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
                *lane = None;
                found = true;
            }
        }
        found
    }
}

/// What a slot is made of.
pub(super) struct Plan<'a> {
    pub(super) entry: &'a Weak<Entry>,
    pub(super) number: u64,
    pub(super) retired: &'a Arc<AtomicBool>,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) server: &'a Arc<ArcSwap<Server>>,
    pub(super) local: &'a Local,
    pub(super) record: &'a Arc<Record>,
}

impl Slot {
    /// A slot without a child.
    pub(super) fn new(plan: &Plan<'_>, key: Key, caller: Option<Arc<str>>) -> Arc<Self> {
        let is_session = matches!(key, Key::Session(_));
        Arc::new(Self {
            shared: Arc::clone(plan.shared),
            server: Arc::clone(plan.server),
            id: plan.server.load().id.clone(),
            local: plan.local.clone(),
            key,
            caller,
            audience: Arc::default(),
            outlet: is_session.then(|| Outlet::new(plan.shared.limits.child_queue_max)),
            record: Arc::clone(plan.record),
            entry: Weak::clone(plan.entry),
            number: plan.number,
            retired: Arc::clone(plan.retired),
            lanes: Mutex::default(),
        })
    }

    /// The bounds of its server's children, as the newest catalog has them.
    pub(super) fn bounds(&self) -> Children {
        bounds_of(&self.server.load()).unwrap_or(self.local.children)
    }

    /// Whether it is one session's own.
    pub(super) fn is_session(&self) -> bool {
        self.outlet.is_some()
    }

    /// Whether somebody listens to it outside of calls.
    pub(super) fn is_watched(&self) -> bool {
        match &self.outlet {
            Some(outlet) => outlet.is_open(),
            None => self.audience.has_streams(),
        }
    }

    /// The child for an era; it is started if there is none.
    pub(super) async fn ensure(self: &Arc<Self>, modern: bool) -> Result<Arc<Live>, Failure> {
        if let Some(live) = self.running(modern)? {
            return Ok(live);
        }
        self.begin(if modern { First::Modern } else { First::Legacy }).await
    }

    /// The child for an era, if there is one; an error if there cannot be.
    fn running(&self, modern: bool) -> Result<Option<Arc<Live>>, Failure> {
        if modern && self.record.legacy_only.load(Ordering::Relaxed) {
            return Err(Failure::LegacyOnly);
        }
        let mut lanes = self.lanes.lock();
        match lanes.of(modern) {
            Some(live) => Ok(Some(Arc::clone(live))),
            None if self.is_session() => Err(Failure::NoSession),
            None => Ok(None),
        }
    }

    /// Starts a child, or takes a warm one, and tells it its first words.
    pub(super) async fn begin(self: &Arc<Self>, first: First) -> Result<Arc<Live>, Failure> {
        self.can_start()?;
        let (live, commands) = Live::new(&self.shared.limits);
        live.belongs_to(self);
        let bounds = self.bounds();
        let taken = self.shared.berths.take(&self.claim(bounds), &live).await;
        let full = |cap: Cap| {
            self.shared.observer.refused(&self.id, cap.word());
            Failure::Full(cap)
        };
        match taken.map_err(full)? {
            Got::Berth(berth) => {
                let place = |trial| Job { slot: Arc::clone(self), live, commands, first, berth, trial };
                self.launch(place)
            }
            Got::Warm(live, claim) => self.adopt(live, claim, first),
        }
    }

    fn claim(&self, bounds: Children) -> Claim<'_> {
        Claim { server: &self.id, entry: self.number, caller: self.caller.as_ref(), bounds }
    }

    fn can_start(&self) -> Result<(), Failure> {
        if self.retired.load(Ordering::SeqCst) {
            return Err(if self.shared.is_closed() { Failure::Closed } else { Failure::Unsent });
        }
        self.record.admits()
    }

    /// Starts the child of a job, unless there is one by now.
    fn launch(self: &Arc<Self>, job: impl FnOnce(Option<Trial>) -> Job) -> Result<Arc<Live>, Failure> {
        let mut lanes = self.lanes.lock();
        let mut job = job(None);
        let modern = matches!(job.first, First::Modern);
        if let Some(live) = lanes.of(modern) {
            return Ok(Arc::clone(live));
        }
        if lanes.spent {
            return Err(Failure::NoSession);
        }
        // Once more, since a place may have been waited for.
        self.can_start()?;
        let Some(runtime) = self.shared.runtime() else { return Err(Failure::Closed) };
        let (delay, trial) = self.record.start(&self.id, &*self.shared.observer)?;
        job.trial = Some(trial);
        let live = Arc::clone(&job.live);
        *lanes.of(modern) = Some(Arc::clone(&live));
        lanes.spent = self.is_session();
        runtime.spawn(child::run(job, delay));
        drop(lanes);
        self.fill();
        Ok(live)
    }

    /// Starts a child for each era that the slot before it has one for, if there is room for them.
    pub(super) fn follow(self: &Arc<Self>, before: &Self) {
        let ran = {
            let lanes = before.lanes.lock();
            [(lanes.legacy.is_some(), false), (lanes.modern.is_some(), true)]
        };
        for (_, modern) in ran.into_iter().filter(|(ran, _)| *ran) {
            self.start_another(modern);
        }
    }

    /// Takes a warm child, unless there is one by now: then the warm one ends.
    fn adopt(
        self: &Arc<Self>,
        live: Arc<Live>,
        claim: tokio::sync::oneshot::Sender<Assignment>,
        first: First,
    ) -> Result<Arc<Live>, Failure> {
        let mut lanes = self.lanes.lock();
        let modern = matches!(first, First::Modern);
        if let Some(live) = lanes.of(modern) {
            return Ok(Arc::clone(live));
        }
        live.belongs_to(self);
        *lanes.of(modern) = Some(Arc::clone(&live));
        lanes.spent = self.is_session();
        if claim.send(Assignment { slot: Arc::clone(self), first }).is_err() {
            // It ended in this moment, and was told nothing.
            *lanes.of(modern) = None;
            lanes.spent = false;
            return Err(Failure::Unsent);
        }
        drop(lanes);
        self.fill();
        Ok(live)
    }

    /// A warm child that was claimed had ended before it could be told anything.
    pub(super) fn lost(&self, live: &Arc<Live>) {
        let mut lanes = self.lanes.lock();
        if lanes.forget(live) {
            lanes.spent = false;
        }
    }

    fn fill(&self) {
        if let Some(entry) = self.entry.upgrade() {
            entry.fill();
        }
    }

    /// The child for the legacy era, if it runs.
    pub(super) fn legacy(&self) -> Option<Arc<Live>> {
        self.lanes.lock().legacy.clone()
    }

    /// The children that take calls.
    pub(super) fn lives(&self) -> Vec<Arc<Live>> {
        let lanes = self.lanes.lock();
        lanes.legacy.iter().chain(&lanes.modern).cloned().collect()
    }

    /// The server does not speak the modern era: what was started for it becomes the legacy child, unless there is
    /// one already, or legacy sessions have children of their own. Tells whether it did.
    pub(super) fn hand_over(&self, live: &Arc<Live>) -> bool {
        self.record.legacy_only.store(true, Ordering::Relaxed);
        let mut lanes = self.lanes.lock();
        lanes.forget(live);
        let is_wanted = lanes.legacy.is_none() && self.bounds().mode != Mode::PerSession;
        if !is_wanted || self.retired.load(Ordering::SeqCst) {
            return false;
        }
        lanes.legacy = Some(Arc::clone(live));
        true
    }

    /// A child is as old as it may be: the next call gets another one. A shared one is started at once, if there is
    /// room for it.
    pub(super) fn replace(self: &Arc<Self>, live: &Arc<Live>) {
        let modern = {
            let mut lanes = self.lanes.lock();
            let modern = lanes.modern.as_ref().is_some_and(|modern| Arc::ptr_eq(modern, live));
            if !lanes.forget(live) {
                return;
            }
            modern
        };
        self.leave_if_session();
        if self.key_is_instance() {
            self.start_another(modern);
        }
    }

    /// Starts a child that nobody waits for, if there is room for it.
    fn start_another(self: &Arc<Self>, modern: bool) {
        let (live, commands) = Live::new(&self.shared.limits);
        live.belongs_to(self);
        let Some(berth) = self.shared.berths.take_free(&self.claim(self.bounds()), &live) else { return };
        let first = if modern { First::Modern } else { First::Legacy };
        let job = |trial| Job { slot: Arc::clone(self), live, commands, first, berth, trial };
        // If it cannot be started now, the next call says why.
        drop(self.launch(job));
    }

    fn key_is_instance(&self) -> bool {
        matches!(self.key, Key::Instance(_))
    }

    fn leave_if_session(&self) {
        if self.is_session()
            && let Some(entry) = self.entry.upgrade()
        {
            entry.forget(&self.key);
        }
    }

    /// A child takes no calls any more.
    pub(super) fn ended(&self, live: &Arc<Live>, death: &Arc<Death>, pid: u32, life: Life) {
        self.lanes.lock().forget(live);
        self.leave_if_session();
        self.record.ended(death, pid, life, self.shared.jitter());
        live.stage.send_replace(Stage::Ended(Arc::clone(death)));
    }

    /// Ends a session: its child stops at once.
    pub(super) fn end_session(&self) {
        self.leave_if_session();
        if let Some(live) = self.legacy() {
            live.stop(Duration::ZERO);
        }
    }
}

/// What a server says of its children.
pub(super) fn bounds_of(server: &Server) -> Option<Children> {
    match &server.runtime {
        Runtime::Local(local) => Some(local.children),
        Runtime::Remote(_) => None,
    }
}
