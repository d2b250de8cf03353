//! What happened to the children of a server: when the next may start, how the last ones ended, what they wrote.
//! Not here: the rules of starting again (`starts`), one child's life (`child`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::failure::{Death, Failure};
use super::frame::Tail;
use super::starts::{Life, Starts};
use super::{End, Observer};
use crate::catalog::ServerId;

/// Ends that are kept for people to look at: a bad night fits.
const ENDS_MAX: usize = 16;

/// The record of one instance, or of all children of a server that is not shared.
#[derive(Debug)]
pub(super) struct Record {
    inner: Mutex<Inner>,
    /// The last lines of stderr.
    pub(super) stderr: Mutex<Tail>,
    /// Whether the server turned out to speak the legacy era only.
    pub(super) legacy_only: AtomicBool,
    last_activity_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    starts: Starts,
    /// Children that were started and are not ready yet.
    trials: usize,
    last_death: Option<Arc<Death>>,
    /// A child ended that was not to: the next start is a restart.
    again: bool,
    restarts: u64,
    ends: VecDeque<End>,
}

impl Record {
    /// An empty record that keeps at most `stderr_bytes_max` bytes of stderr.
    pub(super) fn new(stderr_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            stderr: Mutex::new(Tail::new(stderr_bytes_max)),
            legacy_only: AtomicBool::new(false),
            last_activity_ms: AtomicU64::new(0),
        })
    }

    /// Whether a child may be started now.
    pub(super) fn admits(&self) -> Result<(), Failure> {
        self.inner.lock().admits(Instant::now())
    }

    /// A child is started. Tells how long it has to wait for that.
    pub(super) fn start(
        self: &Arc<Self>,
        server: &ServerId,
        observer: &dyn Observer,
    ) -> Result<(Duration, Trial), Failure> {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        inner.admits(now)?;
        inner.trials += 1;
        if std::mem::take(&mut inner.again) {
            inner.restarts += 1;
            observer.restarted(server);
        }
        Ok((inner.starts.delay(now), Trial(Arc::clone(self))))
    }

    /// A child ended.
    pub(super) fn ended(&self, death: &Arc<Death>, pid: u32, life: Life, jitter: f64) {
        let mut inner = self.inner.lock();
        if !death.meant {
            inner.starts.died(Instant::now(), life, jitter);
            inner.again = true;
            inner.last_death = Some(Arc::clone(death));
        }
        if inner.ends.len() >= ENDS_MAX {
            inner.ends.pop_front();
        }
        let (reason, what) = (death.reason.into(), death.what.clone());
        inner.ends.push_back(End { at: SystemTime::now(), pid, reason, what, meant: death.meant });
    }

    /// Forgets early deaths, so that the next start is not held back by them.
    pub(super) fn forgive(&self) {
        self.inner.lock().starts = Starts::default();
    }

    /// Somebody ended it on purpose: the next start is no restart.
    pub(super) fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.starts = Starts::default();
        inner.again = false;
    }

    /// It is used.
    pub(super) fn touch(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_activity_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When it was last used.
    pub(super) fn last_activity(&self) -> Option<SystemTime> {
        let at = self.last_activity_ms.load(Ordering::Relaxed);
        (at > 0).then(|| UNIX_EPOCH + Duration::from_millis(at))
    }

    /// Whether starts are refused.
    pub(super) fn is_refused(&self) -> bool {
        self.inner.lock().starts.refused(Instant::now()).is_some()
    }

    /// Starts after an end that was not meant.
    pub(super) fn restarts(&self) -> u64 {
        self.inner.lock().restarts
    }

    /// How the last child ended that was not to.
    pub(super) fn last_death(&self) -> Option<Arc<Death>> {
        self.inner.lock().last_death.clone()
    }

    /// The last ends, the newest last.
    pub(super) fn ends(&self) -> Vec<End> {
        self.inner.lock().ends.iter().cloned().collect()
    }
}

/// A start whose outcome is not known yet, until it is dropped.
#[derive(Debug)]
pub(super) struct Trial(Arc<Record>);

impl Drop for Trial {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.trials = inner.trials.saturating_sub(1);
    }
}

impl Inner {
    fn admits(&self, now: Instant) -> Result<(), Failure> {
        let Some(left) = self.starts.refused_with(now, self.trials) else { return Ok(()) };
        let death = self.last_death.clone().unwrap_or_else(|| Arc::new(Death::meant("ended")));
        Err(Failure::Refused(death, left))
    }
}
