//! A child that is kept started for a session or a caller to come: it was told nothing yet.
//! Not here: how many are kept (`supervisor`), or what becomes of one that is claimed (`child`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::berths::Berth;
use super::child::{self, Job};
use super::failure::Death;
use super::frame::{Cut, Lines, STDERR_LINE_BYTES_MAX, Tail};
use super::live::{Command, Live, Order, Stage};
use super::opening::First;
use super::record::{Record, Trial};
use super::slot::Slot;
use super::spawn::{self, Process, read};
use super::starts::Life;
use super::supervisor::{Entry, Shared};
use crate::catalog::Local;

/// A child that lives this long before it is used shows that others may be started beside it.
const PROVEN: Duration = Duration::from_secs(1);
/// Bytes of stderr kept to explain an end.
const STDERR_BYTES_MAX: usize = 16 * 1024;

/// For whom a warm child is, and what it is told.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) slot: Arc<Slot>,
    pub(super) first: First,
}

/// What a warm child is started with.
pub(super) struct Ready {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Weak<Entry>,
    pub(super) record: Arc<Record>,
    pub(super) local: Local,
    pub(super) live: Arc<Live>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) berth: Berth,
    pub(super) trial: Option<Trial>,
    /// Somebody takes it.
    pub(super) claimed: oneshot::Receiver<Assignment>,
}

/// Why it is kept no longer.
enum Wake {
    Claimed(Assignment),
    Ended(Death),
}

/// Keeps a child until it is claimed, too old, told to stop, or dead.
pub(super) async fn keep(mut ready: Ready, delay: Duration) {
    let mut order = ready.live.order.subscribe();
    let held_back = tokio::select! {
        () = sleep(delay) => false,
        _ = order.wait_for(|order| *order != Order::Run) => true,
    };
    let marker = ready.shared.table.marker();
    let spawned = if held_back { None } else { Some(spawn::spawn(&ready.local, marker)) };
    let mut process = match spawned {
        Some(Ok(process)) => process,
        Some(Err(error)) => {
            let death = Death::not_spawned(&ready.local, &error);
            return ready.finish(None, death).await;
        }
        None => return ready.finish(None, Death::meant("was stopped")).await,
    };
    let since = Instant::now();
    let server = ready.berth.server().clone();
    ready.shared.born(&server, &ready.live, process.pid);
    let mut tail = Tail::new(STDERR_BYTES_MAX);
    match ready.wait(&mut process, &mut tail, &mut order, since).await {
        Wake::Ended(mut death) => {
            death.stderr = tail.told();
            ready.finish(Some(process), death).await;
        }
        Wake::Claimed(Assignment { slot, first }) => {
            let Ready { live, commands, berth, trial, .. } = ready;
            let job = Job { slot, live, commands, first, berth, trial };
            child::live_through(job, process, tail.all(), since).await;
        }
    }
}

impl Ready {
    async fn wait(
        &mut self,
        process: &mut Process,
        tail: &mut Tail,
        order: &mut watch::Receiver<Order>,
        since: Instant,
    ) -> Wake {
        let mut errors = Lines::new(STDERR_LINE_BYTES_MAX);
        let mut proven = false;
        let old_at = self.max_age().map(|age| since + age);
        loop {
            let next = if proven { old_at } else { Some(since + PROVEN) };
            tokio::select! {
                biased;
                claimed = &mut self.claimed => {
                    return claimed.map_or_else(|_| Wake::Ended(Death::meant("made room for another")), Wake::Claimed);
                }
                _ = order.wait_for(|order| *order != Order::Run) => return Wake::Ended(Death::meant("was stopped")),
                open = read(&mut process.stderr, errors.buffer()), if process.stderr.is_some() => {
                    if !open { process.stderr = None }
                    while let Some(cut) = errors.cut() {
                        if let Cut::Line(line) = cut {
                            let line = String::from_utf8_lossy(&line).into_owned();
                            self.record.stderr.lock().push(line.clone());
                            tail.push(line);
                        }
                    }
                }
                status = process.child.wait() => {
                    return Wake::Ended(status.map_or_else(|_| Death::new("child_exited", "ended"), Death::of_status));
                }
                () = sleep_until(next.unwrap_or(since)), if next.is_some() => {
                    if proven {
                        return Wake::Ended(Death::meant("was as old as it may be"));
                    }
                    proven = true;
                    self.trial = None;
                    self.live.prove();
                    self.refill();
                }
            }
        }
    }

    fn max_age(&self) -> Option<Duration> {
        self.entry.upgrade().and_then(|entry| entry.bounds().max_age)
    }

    fn refill(&self) {
        if let Some(entry) = self.entry.upgrade() {
            entry.fill();
        }
    }

    /// Nobody claimed it.
    async fn finish(mut self, process: Option<Process>, death: Death) {
        // From now on nobody can.
        self.claimed.close();
        let stranded = self.claimed.try_recv().ok();
        let death = Arc::new(death);
        let pid = process.as_ref().map_or(0, |process| process.pid);
        self.trial = None;
        let life = Life { ready: None, useful: false, killed: death.killed };
        self.record.ended(&death, pid, life, self.shared.jitter());
        let server = self.berth.server().clone();
        if !death.meant {
            tracing::warn!(%server, pid, reason = death.reason, what = %death.what, "child ended before it was used");
        }
        if let Some(Assignment { slot, .. }) = stranded {
            slot.lost(&self.live);
        }
        self.live.pid.store(0, std::sync::atomic::Ordering::Relaxed);
        self.live.stage.send_replace(Stage::Ended(Arc::clone(&death)));
        child::turn_away(&mut self.commands, (!death.meant).then_some(&death));
        let Self { shared, entry, berth, live, .. } = self;
        match process {
            Some(process) => {
                process.end().await;
                shared.buried(&server, pid, death.meant, berth);
            }
            None => drop(berth),
        }
        let stays_out = live.is_leaving();
        live.stage.send_replace(Stage::Over(death));
        if !stays_out && let Some(entry) = entry.upgrade() {
            entry.fill();
        }
    }
}
