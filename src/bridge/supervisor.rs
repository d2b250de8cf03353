//! A server's slots together, what all children share, and what they look like from outside.
//! Not here: one slot (`slot`), the set of servers (`bridge`), how many children there may be (`berths`).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::berths::{Berth, Berths, Claim};
use super::live::{Live, Stage};
use super::record::Record;
use super::slot::{Key, Plan, Slot, bounds_of};
use super::sweep::Table;
use super::warm::{self, Ready};
use super::{BridgeError, Observer, Population, Started, State, Status, Stopped};
use crate::catalog::{Children, Local, Mode, Server, ServerId};
use crate::conf::Limits;

/// What all children share.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) table: Table,
    pub(super) berths: Arc<Berths>,
    runtime: OnceLock<Handle>,
    closed: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(limits: Limits, observer: Arc<dyn Observer>, table: Table) -> Arc<Self> {
        let berths = Berths::new(limits.children_max);
        let (runtime, closed) = (OnceLock::new(), AtomicBool::new(false));
        Arc::new(Self { limits, observer, table, berths, runtime, closed })
    }

    /// Makes the current runtime the one on which children live.
    pub(super) fn settle(&self) {
        if let Ok(runtime) = Handle::try_current() {
            // Only the first one counts: pipes belong to the runtime they were opened on.
            drop(self.runtime.set(runtime));
        }
    }

    /// Whether children have a runtime.
    pub(super) fn is_settled(&self) -> bool {
        self.runtime.get().is_some() && !self.is_closed()
    }

    /// The runtime on which children live: that of `serve`, or of whoever asks before it runs.
    pub(super) fn runtime(&self) -> Option<Handle> {
        if self.is_closed() {
            return None;
        }
        self.runtime.get().cloned().or_else(|| Handle::try_current().ok())
    }

    /// A child was started.
    pub(super) fn born(&self, server: &ServerId, live: &Live, pid: u32) {
        live.pid.store(pid, Ordering::Relaxed);
        self.table.add(pid);
        self.observer.started(server);
        self.tell_count(server);
        tracing::debug!(%server, pid, "child started");
    }

    /// No process of a child is left.
    pub(super) fn buried(&self, server: &ServerId, pid: u32, clean: bool, berth: Berth) {
        self.table.remove(pid);
        self.observer.exited(server, clean);
        drop(berth);
        self.tell_count(server);
    }

    fn tell_count(&self, server: &ServerId) {
        self.observer.living(server, self.berths.count(server));
    }

    /// From now on nothing is started.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// A random number from 0 to 1.
    pub(super) fn jitter(&self) -> f64 {
        let mut byte = [0u8; 1];
        // Without randomness there is no jitter; nothing depends on it.
        let _ = getrandom::fill(&mut byte);
        f64::from(byte[0]) / 255.0
    }
}

/// Warm children that were started and have not lived for a second yet: a server that cannot start is noticed by one.
const UNPROVEN_MAX: usize = 1;
/// Callers without a child whose slots are kept beside those with one, since they may listen.
const IDLE_CALLERS_MAX: usize = 64;

/// A server of the catalog and its slots.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) server: Arc<ArcSwap<Server>>,
    shared: Arc<Shared>,
    local: Local,
    number: u64,
    /// Everybody's.
    instances: Vec<Arc<Slot>>,
    /// Those of callers and sessions.
    guests: Mutex<HashMap<Key, Arc<Slot>>>,
    /// What happened to the children of guests: a server that cannot start cannot start for anybody.
    record: Arc<Record>,
    retired: Arc<AtomicBool>,
    me: Weak<Self>,
}

/// Why there is no slot for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// No such server or instance.
    Instance,
    /// The session is not there any more.
    Session,
}

/// Whose request it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guest<'a> {
    pub(super) caller: &'a str,
    /// Its session, if it is of the legacy era and has one.
    pub(super) session: Option<&'a str>,
}

impl Entry {
    /// A server without a child yet.
    pub(super) fn new(shared: &Arc<Shared>, server: &Arc<Server>, local: &Local) -> Arc<Self> {
        let server = Arc::new(ArcSwap::new(Arc::clone(server)));
        let retired = Arc::default();
        let number = shared.berths.number();
        let bytes_max = shared.limits.stderr_bytes_max;
        let is_shared = local.children.mode == Mode::Shared;
        let count = if is_shared { local.instances.get() } else { 0 };
        Arc::new_cyclic(|me| {
            let instance = |at| {
                let record = &Record::new(bytes_max);
                let plan =
                    Plan { entry: me, number, retired: &retired, shared, server: &server, local, record };
                Slot::new(&plan, Key::Instance(at), None)
            };
            Self {
                instances: (0..count).map(instance).collect(),
                shared: Arc::clone(shared),
                local: local.clone(),
                number,
                guests: Mutex::default(),
                record: Record::new(bytes_max),
                me: Weak::clone(me),
                server,
                retired,
            }
        })
    }

    /// Whether its children are right for `local`: bounds may differ, since they do not matter to a child.
    pub(super) fn fits(&self, local: &Local) -> bool {
        self.local.children.mode == local.children.mode
            && self.local == Local { children: self.local.children, ..local.clone() }
    }

    /// Starts what runs of the entry that this one takes the place of, so that the next call finds it started.
    pub(super) fn follow(&self, before: &Self) {
        for (slot, before) in self.instances.iter().zip(&before.instances) {
            slot.follow(before);
        }
    }

    /// The bounds of its children, as the newest catalog has them.
    pub(super) fn bounds(&self) -> Children {
        bounds_of(&self.server.load()).unwrap_or(self.local.children)
    }

    /// The slot for a request.
    pub(super) fn slot(&self, instance: u16, guest: Guest<'_>) -> Result<Arc<Slot>, Absent> {
        let mode = self.local.children.mode;
        if mode == Mode::Shared {
            return self.instances.get(usize::from(instance)).cloned().ok_or(Absent::Instance);
        }
        if instance != 0 {
            return Err(Absent::Instance);
        }
        if let (Mode::PerSession, Some(session)) = (mode, guest.session) {
            let found = self.guests.lock().get(&Key::Session(session.into())).cloned();
            // The gateway has bound the session to its caller; this holds whatever it does.
            return found.filter(|slot| slot.caller.as_deref() == Some(guest.caller)).ok_or(Absent::Session);
        }
        let caller: Arc<str> = guest.caller.into();
        let key = Key::Caller(Arc::clone(&caller));
        let mut guests = self.guests.lock();
        if let Some(slot) = guests.get(&key) {
            return Ok(Arc::clone(slot));
        }
        if guests.len() >= self.bounds().max_processes.saturating_mul(2) + IDLE_CALLERS_MAX {
            guests
                .retain(|_, slot| slot.is_session() || !slot.lives().is_empty() || !slot.audience.is_empty());
        }
        let slot = Slot::new(&self.plan(), key.clone(), Some(caller));
        guests.insert(key, Arc::clone(&slot));
        Ok(slot)
    }

    /// A slot for a new session; `None` unless sessions have children of their own.
    pub(super) fn new_session(&self, id: &str, caller: &str) -> Option<Arc<Slot>> {
        if self.local.children.mode != Mode::PerSession {
            return None;
        }
        let key = Key::Session(id.into());
        let slot = Slot::new(&self.plan(), key.clone(), Some(caller.into()));
        self.guests.lock().insert(key, Arc::clone(&slot));
        Some(slot)
    }

    /// Forgets a session.
    pub(super) fn forget(&self, key: &Key) {
        self.guests.lock().remove(key);
    }

    fn plan(&self) -> Plan<'_> {
        Plan {
            entry: &self.me,
            number: self.number,
            retired: &self.retired,
            shared: &self.shared,
            server: &self.server,
            local: &self.local,
            record: &self.record,
        }
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        let guests = self.guests.lock();
        self.instances.iter().chain(guests.values()).cloned().collect()
    }

    fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.instances.iter().map(|slot| &slot.record).chain([&self.record])
    }

    /// Starts as many warm children as are wanted and missing. Tells whether it started one.
    pub(super) fn fill(&self) -> bool {
        let bounds = self.bounds();
        let mut any = false;
        while !self.retired.load(Ordering::SeqCst) {
            let (lives, warm) = self.shared.berths.of(self.number);
            if warm >= bounds.warm || self.unproven(&lives) >= UNPROVEN_MAX {
                break;
            }
            let Some(runtime) = self.shared.runtime() else { break };
            let server = self.server.load().id.clone();
            let claim = Claim { server: &server, entry: self.number, caller: None, bounds };
            let (live, commands) = Live::new(&self.shared.limits);
            let Some(berth) = self.shared.berths.take_free(&claim, &live) else { break };
            let Ok((delay, trial)) = self.record.start(&server, &*self.shared.observer) else { break };
            let (offer, claimed) = oneshot::channel();
            self.shared.berths.offer(&berth, offer);
            let ready = Ready {
                shared: Arc::clone(&self.shared),
                entry: Weak::clone(&self.me),
                record: Arc::clone(&self.record),
                local: self.local.clone(),
                live,
                commands,
                berth,
                trial: Some(trial),
                claimed,
            };
            runtime.spawn(warm::keep(ready, delay));
            any = true;
        }
        any
    }

    fn unproven(&self, lives: &[Arc<Live>]) -> usize {
        lives.iter().filter(|live| live.is_unproven()).count()
    }

    /// Starts every instance that has no child, and waits until all are ready. Where sessions or callers have their
    /// own, there is nobody to start one for; those that are kept warm are started.
    pub(super) async fn start(&self) -> Result<Started, BridgeError> {
        for record in self.records() {
            record.forgive();
        }
        let mut started = if self.fill() { Started::Now } else { Started::Already };
        let mut starting = Vec::new();
        for slot in &self.instances {
            let live = match slot.lives().first() {
                Some(live) => Arc::clone(live),
                None => {
                    started = Started::Now;
                    slot.ensure(false).await.map_err(|failure| self.not_started(&failure))?
                }
            };
            starting.push(live);
        }
        for live in starting {
            live.ready().await.map_err(|death| BridgeError::Start {
                server: self.server.load().id.clone(),
                what: death.what.clone(),
                stderr: death.stderr.clone(),
            })?;
        }
        Ok(started)
    }

    fn not_started(&self, failure: &super::failure::Failure) -> BridgeError {
        match failure {
            super::failure::Failure::Full(cap) => {
                let server = self.server.load().id.clone();
                BridgeError::Start {
                    what: format!("was not started: {}", cap.sentence(&server)),
                    server,
                    stderr: Vec::new(),
                }
            }
            _ => BridgeError::Closed,
        }
    }

    /// Stops every child and waits until no process of them is left. Calls in flight get `within` to finish.
    pub(super) async fn stop(&self, within: Duration, retire: bool) -> Stopped {
        let (lives, ran) = self.order(within, retire);
        for live in &lives {
            live.over().await;
        }
        if ran { Stopped::Now } else { Stopped::Already }
    }

    /// Orders every child to stop, without waiting. Tells whether there were any.
    pub(super) fn retire(&self, within: Duration) -> bool {
        !self.order(within, true).0.is_empty()
    }

    /// Orders every child to stop, and tells whether any of them ran. One that retires starts none any more.
    fn order(&self, within: Duration, retire: bool) -> (Vec<Arc<Live>>, bool) {
        if retire {
            // Before the look: who is about to start one looks at this after taking its place.
            self.retired.store(true, Ordering::SeqCst);
            self.slots().iter().for_each(|slot| slot.audience.close());
        }
        for record in self.records() {
            record.reset();
        }
        let (lives, _) = self.shared.berths.of(self.number);
        let ran = lives.iter().any(|live| matches!(*live.stage.borrow(), Stage::Starting | Stage::Ready(_)));
        for live in &lives {
            live.stop(within);
        }
        (lives, ran)
    }

    /// Whether any process is left.
    pub(super) fn has_processes(&self) -> bool {
        !self.shared.berths.of(self.number).0.is_empty()
    }

    /// What it looks like.
    pub(super) fn status(&self) -> Status {
        let (all, warm) = self.shared.berths.of(self.number);
        let mut population = Population { warm, ..Population::default() };
        let mut lives = Vec::new();
        for live in &all {
            match *live.stage.borrow() {
                Stage::Ended(_) | Stage::Over(_) => {
                    population.ending += 1;
                    continue;
                }
                Stage::Ready(_) => population.ready += 1,
                Stage::Starting if live.is_assigned() => population.starting += 1,
                // One that is kept warm was counted.
                Stage::Starting => {}
            }
            lives.push(live);
        }
        let state = if population.ready > 0 {
            State::Running
        } else if population.starting + population.warm > 0 {
            State::Starting
        } else if self.records().any(|record| record.is_refused()) {
            State::Failed
        } else if population.ending > 0 {
            State::Stopping
        } else {
            State::Stopped
        };
        let mut ends: Vec<_> = self.records().flat_map(|record| record.ends()).collect();
        ends.sort_by_key(|end| end.at);
        let stderr = |record: &Arc<Record>| record.stderr.lock().all();
        Status {
            state,
            mode: self.local.children.mode,
            population,
            pids: lives.iter().filter_map(|live| live.pid()).collect(),
            started_at: lives.iter().map(|live| live.started_at).min(),
            last_activity: self.records().filter_map(|record| record.last_activity()).max(),
            restarts: self.records().map(|record| record.restarts()).sum(),
            in_flight: lives.iter().map(|live| live.in_flight()).sum(),
            last_error: self.records().find_map(|record| record.last_death()).map(|death| death.what.clone()),
            ends,
            stderr_tail: self.records().flat_map(stderr).collect(),
        }
    }
}
