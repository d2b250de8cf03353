//! A server's instances together, what they share, and what they look like from outside.
//! Not here: one instance (`slot`), the set of servers (`bridge`).

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use super::live::Stage;
use super::slot::Slot;
use super::sweep::Table;
use super::{BridgeError, Observer, Started, State, Status, Stopped};
use crate::catalog::{Local, Server};
use crate::conf::Limits;

/// What all children share.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) table: Table,
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
        Arc::new(Self { limits, observer, table, runtime: OnceLock::new(), closed: AtomicBool::new(false) })
    }

    /// Makes the current runtime the one on which children live.
    pub(super) fn settle(&self) {
        if let Ok(runtime) = Handle::try_current() {
            // Only the first one counts: pipes belong to the runtime they were opened on.
            drop(self.runtime.set(runtime));
        }
    }

    /// The runtime on which children live: that of `serve`, or of whoever asks before it runs.
    pub(super) fn runtime(&self) -> Option<Handle> {
        if self.is_closed() {
            return None;
        }
        self.runtime.get().cloned().or_else(|| Handle::try_current().ok())
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

/// A server of the catalog and its instances.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) server: Arc<ArcSwap<Server>>,
    local: Local,
    pub(super) slots: Vec<Arc<Slot>>,
}

impl Entry {
    /// A server without a child yet.
    pub(super) fn new(shared: &Arc<Shared>, server: &Arc<Server>, local: &Local) -> Arc<Self> {
        let server = Arc::new(ArcSwap::new(Arc::clone(server)));
        let slots = (0..local.instances.get()).map(|_| Slot::new(shared, &server, local)).collect();
        Arc::new(Self { server, local: local.clone(), slots })
    }

    /// Whether its children are right for `local`.
    pub(super) fn fits(&self, local: &Local) -> bool {
        self.local == *local
    }

    /// Starts what runs of the entry that this one takes the place of, so that the next call finds it started.
    pub(super) fn follow(&self, before: &Self) {
        for (slot, before) in self.slots.iter().zip(&before.slots) {
            slot.follow(before);
        }
    }

    /// The instance of that number.
    pub(super) fn slot(&self, instance: u16) -> Option<&Arc<Slot>> {
        self.slots.get(usize::from(instance))
    }

    /// Starts every instance that has no child, and waits until all are ready.
    pub(super) async fn start(&self) -> Result<Started, BridgeError> {
        let mut started = Started::Already;
        let mut starting = Vec::new();
        for slot in &self.slots {
            slot.forgive();
            let view = slot.view();
            let live = match view.lives.first() {
                Some(live) => Arc::clone(live),
                None => {
                    started = Started::Now;
                    slot.ensure(false).map_err(|_| BridgeError::Closed)?
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

    /// Stops every child and waits until no process of them is left. Calls in flight get `within` to finish.
    pub(super) async fn stop(&self, within: Duration, retire: bool) -> Stopped {
        let (mut lives, mut ending) = (Vec::new(), Vec::new());
        for slot in &self.slots {
            let (running, others) = slot.stop(within, retire);
            lives.extend(running);
            ending.extend(others);
        }
        for live in lives.iter().chain(&ending) {
            live.over().await;
        }
        if lives.is_empty() { Stopped::Already } else { Stopped::Now }
    }

    /// Orders every child to stop, without waiting. Tells whether there were any.
    pub(super) fn retire(&self, within: Duration) -> bool {
        for slot in &self.slots {
            slot.stop(within, true);
        }
        self.has_processes()
    }

    /// Whether any process is left.
    pub(super) fn has_processes(&self) -> bool {
        self.slots
            .iter()
            .map(|slot| slot.view())
            .any(|view| !view.lives.is_empty() || !view.ending.is_empty())
    }

    /// What it looks like.
    pub(super) fn status(&self) -> Status {
        let views: Vec<_> = self.slots.iter().map(|slot| slot.view()).collect();
        let lives = || views.iter().flat_map(|view| &view.lives);
        let stage = |want: fn(&Stage) -> bool| lives().any(|live| want(&live.stage.borrow()));
        let state = if stage(|stage| matches!(stage, Stage::Ready(_))) {
            State::Running
        } else if stage(|_| true) {
            State::Starting
        } else if views.iter().any(|view| view.refused) {
            State::Failed
        } else if views.iter().any(|view| !view.ending.is_empty()) {
            State::Stopping
        } else {
            State::Stopped
        };
        let death = views.iter().filter_map(|view| view.last_death.as_ref()).find(|death| !death.meant);
        Status {
            state,
            pids: lives().filter_map(|live| live.pid()).collect(),
            started_at: lives().map(|live| live.started_at).min(),
            last_activity: views.iter().filter_map(|view| view.last_activity).max(),
            restarts: views.iter().map(|view| view.restarts).sum(),
            in_flight: lives().map(|live| live.in_flight()).sum(),
            last_error: death.map(|death| death.what.clone()),
            stderr_tail: self.slots.iter().flat_map(|slot| slot.stderr.lock().all()).collect(),
        }
    }
}
