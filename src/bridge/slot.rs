//! One instance of a server: at most one child for each era, and when there is one.
//! Not here: the child's life (`child`), the server's instances together (`supervisor`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::audience::Audience;
use super::child::{self, Job};
use super::failure::{Death, Failure};
use super::frame::Tail;
use super::live::{Live, Stage};
use super::starts::{Life, Starts};
use super::supervisor::Shared;
use crate::catalog::{Local, Server, ServerId};

/// One instance of a server.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) shared: Arc<Shared>,
    /// The server as the newest catalog has it; what matters to a child is equal in all of them.
    pub(super) server: Arc<ArcSwap<Server>>,
    pub(super) id: ServerId,
    pub(super) local: Local,
    pub(super) audience: Arc<Audience>,
    pub(super) stderr: Mutex<Tail>,
    legacy_only: AtomicBool,
    last_activity_ms: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    legacy: Option<Arc<Live>>,
    modern: Option<Arc<Live>>,
    /// Children that take no calls any more and still have processes.
    ending: Vec<Arc<Live>>,
    starts: Starts,
    last_death: Option<Arc<Death>>,
    restarts: u64,
    retired: bool,
}

impl State {
    fn lane(&mut self, modern: bool) -> &mut Option<Arc<Live>> {
        if modern { &mut self.modern } else { &mut self.legacy }
    }

    fn lives(&self) -> impl Iterator<Item = &Arc<Live>> {
        self.legacy.iter().chain(&self.modern)
    }
}

/// What a slot looks like at one moment.
#[derive(Debug)]
pub(super) struct View {
    pub(super) lives: Vec<Arc<Live>>,
    pub(super) ending: Vec<Arc<Live>>,
    pub(super) refused: bool,
    pub(super) restarts: u64,
    pub(super) last_death: Option<Arc<Death>>,
    pub(super) last_activity: Option<SystemTime>,
}

impl Slot {
    /// A slot without a child.
    pub(super) fn new(shared: &Arc<Shared>, server: &Arc<ArcSwap<Server>>, local: &Local) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            server: Arc::clone(server),
            id: server.load().id.clone(),
            local: local.clone(),
            audience: Arc::default(),
            stderr: Mutex::new(Tail::new(shared.limits.stderr_bytes_max)),
            legacy_only: AtomicBool::new(false),
            last_activity_ms: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    /// The child for an era; it is started if there is none.
    pub(super) fn ensure(self: &Arc<Self>, modern: bool) -> Result<Arc<Live>, Failure> {
        if modern && self.legacy_only.load(Ordering::Relaxed) {
            return Err(Failure::LegacyOnly);
        }
        let mut state = self.state.lock();
        if let Some(live) = state.lane(modern) {
            return Ok(Arc::clone(live));
        }
        if state.retired {
            return Err(if self.shared.is_closed() { Failure::Closed } else { Failure::Unsent });
        }
        let now = Instant::now();
        if let Some(left) = state.starts.refused(now) {
            let death = state.last_death.clone().unwrap_or_else(|| Arc::new(Death::meant("ended")));
            return Err(Failure::Refused(death, left));
        }
        let Some(runtime) = self.shared.runtime() else { return Err(Failure::Closed) };
        let (live, commands) = Live::new(&self.shared.limits);
        *state.lane(modern) = Some(Arc::clone(&live));
        let delay = state.starts.delay(now);
        // A child after one that was not stopped on purpose is a restart.
        let again = state.last_death.as_ref().is_some_and(|death| !death.meant);
        if again {
            state.restarts += 1;
            self.shared.observer.restarted(&self.id);
        }
        let job = Job { slot: Arc::clone(self), live: Arc::clone(&live), commands, modern, delay };
        runtime.spawn(child::run(job));
        Ok(live)
    }

    /// Starts a child for each era that the slot before it has one for.
    pub(super) fn follow(self: &Arc<Self>, before: &Self) {
        let ran = {
            let state = before.state.lock();
            [(state.legacy.is_some(), false), (state.modern.is_some(), true)]
        };
        for (_, modern) in ran.into_iter().filter(|(ran, _)| *ran) {
            // One that cannot be started says so to whoever calls it.
            drop(self.ensure(modern));
        }
    }

    /// The child for the legacy era, if it runs.
    pub(super) fn legacy(&self) -> Option<Arc<Live>> {
        self.state.lock().legacy.clone()
    }

    /// The server does not speak the modern era: what was started for it becomes the legacy child, unless there
    /// is one already. Tells whether it did.
    pub(super) fn hand_over(&self, live: &Arc<Live>) -> bool {
        self.legacy_only.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.modern.as_ref().is_some_and(|modern| Arc::ptr_eq(modern, live)) {
            state.modern = None;
        }
        if state.legacy.is_some() || state.retired {
            state.ending.push(Arc::clone(live));
            return false;
        }
        state.legacy = Some(Arc::clone(live));
        true
    }

    /// A child takes no calls any more.
    pub(super) fn ended(&self, live: &Arc<Live>, death: &Arc<Death>, life: Life) {
        let mut state = self.state.lock();
        for modern in [false, true] {
            let lane = state.lane(modern);
            if lane.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
                *lane = None;
            }
        }
        if !state.ending.iter().any(|ending| Arc::ptr_eq(ending, live)) {
            state.ending.push(Arc::clone(live));
        }
        if !death.meant {
            state.starts.died(Instant::now(), life, self.shared.jitter());
        }
        state.last_death = Some(Arc::clone(death));
        drop(state);
        live.stage.send_replace(Stage::Ended(Arc::clone(death)));
    }

    /// No process of a child is left.
    pub(super) fn over(&self, live: &Arc<Live>, death: &Arc<Death>) {
        self.state.lock().ending.retain(|ending| !Arc::ptr_eq(ending, live));
        live.stage.send_replace(Stage::Over(Arc::clone(death)));
    }

    /// Stops its children once their calls in flight ended, or after `within`. Tells which ones ran, and which
    /// were ending already. A retired slot starts none any more.
    pub(super) fn stop(&self, within: Duration, retire: bool) -> (Vec<Arc<Live>>, Vec<Arc<Live>>) {
        let mut state = self.state.lock();
        state.retired |= retire;
        state.starts = Starts::default();
        let running: Vec<Arc<Live>> = state.lives().cloned().collect();
        for live in &running {
            live.stop(within);
        }
        if retire {
            self.audience.close();
        }
        (running, state.ending.clone())
    }

    /// Forgets early deaths, so that the next start is not held back by them.
    pub(super) fn forgive(&self) {
        self.state.lock().starts = Starts::default();
    }

    /// Notes that it is used.
    pub(super) fn touch(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_activity_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What it looks like now.
    pub(super) fn view(&self) -> View {
        let state = self.state.lock();
        let last_activity_ms = self.last_activity_ms.load(Ordering::Relaxed);
        View {
            lives: state.lives().cloned().collect(),
            ending: state.ending.clone(),
            refused: state.starts.refused(Instant::now()).is_some(),
            restarts: state.restarts,
            last_death: state.last_death.clone(),
            last_activity: (last_activity_ms > 0)
                .then(|| UNIX_EPOCH + Duration::from_millis(last_activity_ms)),
        }
    }
}
