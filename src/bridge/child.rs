//! One child's task: its pipes, its clock and its end, until no process of it is left.
//! Not here: what its lines mean (`desk`), processes and signals (`spawn`).

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::berths::Berth;
use super::desk::{Desk, Turn};
use super::failure::{Death, Failure};
use super::frame::{Cut, Lines, STDERR_LINE_BYTES_MAX, Tail};
use super::live::{Command, Live, Order, Stage};
use super::mailbox::Last;
use super::opening::{First, Opened};
use super::peer::Peer;
use super::quiet::Quiet;
use super::record::Trial;
use super::slot::Slot;
use super::spawn::{self, Process, read};
use super::starts::Life;
use crate::failpoint;
use crate::sandbox;

/// A child that takes no byte for this long, with a full pipe, is hung.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// What a dead child still had in its pipes is read for this long: a grandchild may hold them open.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Bytes of stderr kept to explain an end.
const OWN_STDERR_BYTES_MAX: usize = 16 * 1024;

/// What a child's task is started with.
pub(super) struct Job {
    pub(super) slot: Arc<Slot>,
    pub(super) live: Arc<Live>,
    pub(super) commands: mpsc::Receiver<Command>,
    /// What it is told first.
    pub(super) first: First,
    /// Its place among all children.
    pub(super) berth: Berth,
    /// Whether it is not known yet that it can start at all.
    pub(super) trial: Option<Trial>,
}

/// Starts a child after a delay, and lives through it.
pub(super) async fn run(job: Job, delay: Duration) {
    let Job { slot, live, .. } = &job;
    let mut order = live.order.subscribe();
    let held_back = tokio::select! {
        () = tokio::time::sleep(delay) => false,
        () = ordered(&mut order) => true,
    };
    let marker = slot.shared.table.marker();
    let spawned = if held_back { None } else { Some(spawn::spawn(&slot.local, marker)) };
    let process = match spawned {
        Some(Ok(process)) => process,
        Some(Err(error)) => {
            let death = Death::not_spawned(&slot.local, &error);
            return stillborn(job, death);
        }
        None => return stillborn(job, Death::meant("was stopped")),
    };
    slot.shared.born(&slot.id, live, process.pid);
    live_through(job, process, Vec::new(), Instant::now()).await;
}

/// Lives through a child that was started at `since` and wrote `stderr` so far.
pub(super) async fn live_through(job: Job, process: Process, stderr: Vec<String>, since: Instant) {
    let Job { slot, live, commands, first, berth, trial } = job;
    let total = slot.server.load().timeouts.total;
    let peer = slot.outlet.clone().map(Peer::new);
    let desk = Desk::new(&first, Arc::clone(&slot.audience), total, peer);
    let mut tail = Tail::new(OWN_STDERR_BYTES_MAX);
    stderr.into_iter().for_each(|line| tail.push(line));
    let worker = Worker {
        lines: Lines::new(slot.shared.limits.line_bytes_max),
        errors: Lines::new(STDERR_LINE_BYTES_MAX),
        tail,
        rubbish: Quiet::default(),
        chatter: Quiet::default(),
        since,
        opened_for: Instant::now(),
        ready_since: None,
        heard: Instant::now(),
        pinged: None,
        aged: false,
        desk,
        process,
        commands,
        slot,
        live,
        berth,
        trial,
    };
    worker.live_through().await;
}

/// Waits for an order.
async fn ordered(order: &mut watch::Receiver<Order>) {
    drop(order.wait_for(|order| *order != Order::Run).await);
}

/// There was no process: everybody who waited is told.
fn stillborn(job: Job, death: Death) {
    let Job { slot, live, mut commands, berth, trial, .. } = job;
    drop(trial);
    if !death.meant {
        tracing::warn!(server = %slot.id, error = %death.what, "child could not be started");
    }
    let death = Arc::new(death);
    slot.ended(&live, &death, 0, Life { ready: None, useful: false, killed: false });
    turn_away(&mut commands, (!death.meant).then_some(&death));
    drop(berth);
    live.stage.send_replace(Stage::Over(death));
}

/// Answers what is still in the queue. Without a death to blame it is safe to try again.
pub(super) fn turn_away(commands: &mut mpsc::Receiver<Command>, death: Option<&Arc<Death>>) {
    commands.close();
    while let Ok(command) = commands.try_recv() {
        if let Command::Call(call) = command {
            let failure = death.map_or(Failure::Unsent, |death| Failure::Died(Arc::clone(death)));
            call.pending.mailbox.finish(Last::Failed(failure));
        }
    }
}

struct Worker {
    slot: Arc<Slot>,
    live: Arc<Live>,
    process: Process,
    commands: mpsc::Receiver<Command>,
    desk: Desk,
    lines: Lines,
    errors: Lines,
    tail: Tail,
    rubbish: Quiet,
    chatter: Quiet,
    /// When the process was started, and when it was told its first message.
    since: Instant,
    opened_for: Instant,
    ready_since: Option<Instant>,
    /// When it last wrote something, and when it was asked because it did not.
    heard: Instant,
    pinged: Option<Instant>,
    /// Whether it was too old, and takes no new calls.
    aged: bool,
    berth: Berth,
    trial: Option<Trial>,
}

impl Worker {
    async fn live_through(mut self) {
        // A fault of ours ends this child and no more: who called it is told, and the next call starts another.
        let working = AssertUnwindSafe(self.work()).catch_unwind().await;
        let mut death =
            working.unwrap_or_else(|_| Death::new("internal", "was ended by a fault of the gateway"));
        if !death.meant {
            self.last_words().await;
        }
        death.stderr = self.tail.told();
        death.of_launcher();
        let now = Instant::now();
        let life = Life {
            ready: self.ready_since.map(|since| now.duration_since(since)),
            useful: self.desk.answered > 0,
            killed: death.killed,
        };
        let death = Arc::new(death);
        let Self { slot, live, process, mut commands, mut desk, berth, trial, .. } = self;
        drop(trial);
        let pid = process.pid;
        // First the calls, so that nobody waits for the processes.
        slot.ended(&live, &death, pid, life);
        live.pid.store(0, Ordering::Relaxed);
        desk.fail(&death);
        turn_away(&mut commands, (!death.meant && life.ready.is_none()).then_some(&death));
        if death.meant {
            tracing::info!(server = %slot.id, pid, what = %death.what, "child stopped");
        } else {
            tracing::warn!(server = %slot.id, pid, reason = death.reason, what = %death.what, "child ended");
        }
        process.end().await;
        slot.shared.buried(&slot.id, pid, death.meant, berth);
        live.stage.send_replace(Stage::Over(death));
    }

    /// Moves bytes until there is a reason to end.
    async fn work(&mut self) -> Death {
        let mut order = self.live.order.subscribe();
        let mut tick = interval(self.pace());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stalled: Option<Instant> = None;
        let mut stop_at: Option<Instant> = None;
        loop {
            let told = *order.borrow_and_update();
            if let Some(death) = self.obey(told, &mut stop_at) {
                return death;
            }
            if self.desk.out.is_empty() {
                stalled = None;
            } else {
                stalled.get_or_insert_with(Instant::now);
            }
            let clocked = stop_at.is_some() || self.needs_clock();
            let Self { process, desk, commands, live, lines, errors, .. } = self;
            let Process { child, stdin, stdout, stderr, .. } = process;
            tokio::select! {
                open = read(stdout, lines.buffer()) => {
                    (self.heard, self.pinged) = (Instant::now(), None);
                    self.take_lines();
                    if !open {
                        self.process.stdout = None;
                        return self.closed("closed its output").await;
                    }
                }
                command = commands.recv(), if desk.takes_commands() => {
                    let mut next = command;
                    while let Some(command) = next {
                        desk.command(command);
                        next = if desk.takes_commands() { commands.try_recv().ok() } else { None };
                    }
                }
                written = write(stdin, &desk.out), if !desk.out.is_empty() => match written {
                    Ok(count) => { desk.wrote(count); stalled = None; }
                    Err(_) => return self.closed("closed its input").await,
                },
                open = read(stderr, errors.buffer()), if stderr.is_some() => {
                    if !open { *stderr = None }
                    self.take_errors(open);
                }
                status = child.wait() => {
                    return status.map_or_else(|_| Death::new("child_exited", "ended"), Death::of_status);
                }
                () = live.wake.notified() => {
                    for ticket in live.take_gone() { desk.caller_gone(ticket) }
                }
                _ = order.changed() => {}
                _ = tick.tick(), if clocked => {
                    if let Some(death) = self.clock(stalled) {
                        return death;
                    }
                }
            }
        }
    }

    /// What an order means now.
    fn obey(&mut self, order: Order, stop_at: &mut Option<Instant>) -> Option<Death> {
        let is_idle = self.desk.is_idle() && self.commands.is_empty();
        match order {
            Order::Run => None,
            Order::Leave if is_idle && !self.slot.is_watched() => Some(Death::meant("made room for another")),
            Order::Leave => {
                self.live.stay();
                self.slot.shared.berths.stir();
                None
            }
            Order::Stop(within) => {
                let now = Instant::now();
                let at = stop_at.map_or(now + within, |before| before.min(now + within));
                *stop_at = Some(at);
                (now >= at || is_idle).then(|| Death::meant("was stopped"))
            }
        }
    }

    /// How often the clock is looked at: fine enough for the shortest deadline, and no more than 50 times a second.
    fn pace(&self) -> Duration {
        let timeouts = &self.slot.server.load().timeouts;
        let bounds = self.slot.bounds();
        let others = [self.slot.local.idle_timeout, bounds.max_age, bounds.hang_timeout];
        let shortest = others.into_iter().flatten().fold(timeouts.total.min(timeouts.start), Duration::min);
        (shortest / 10).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    fn needs_clock(&self) -> bool {
        !self.desk.is_idle()
            || !self.desk.is_open()
            || !self.desk.out.is_empty()
            || self.slot.local.idle_timeout.is_some()
            || self.slot.bounds().max_age.is_some()
    }

    fn clock(&mut self, stalled: Option<Instant>) -> Option<Death> {
        let now = Instant::now();
        let timeouts = self.slot.server.load().timeouts.clone();
        if let Some(turn) = self.desk.tick(now) {
            self.turn(turn);
        }
        if !self.desk.is_open() && now >= self.opened_for + timeouts.start {
            let what = format!("did not answer its first message within {:?}", timeouts.start);
            return Some(Death::new("start_timeout", what));
        }
        let patience = WRITE_STALL_MAX.min(timeouts.total);
        if stalled.is_some_and(|since| now >= since + patience) {
            return Some(Death::new("child_hung", format!("read nothing for {patience:?}")));
        }
        if let Some(death) = self.silence(now) {
            return Some(death);
        }
        let is_old = self.slot.bounds().max_age.is_some_and(|age| now >= self.since + age);
        if is_old && !std::mem::replace(&mut self.aged, true) {
            tracing::info!(server = %self.slot.id, pid = self.process.pid, "child is as old as it may be");
            self.slot.replace(&self.live);
            self.live.stop(timeouts.total);
        }
        if self.slot.is_session() && self.slot.is_watched() {
            self.desk.active = now;
        }
        let idle = self.slot.local.idle_timeout?;
        let unused = self.desk.is_open() && self.desk.is_idle() && self.commands.is_empty();
        (unused && now >= self.desk.active + idle).then(|| Death::meant(format!("had no call for {idle:?}")))
    }

    /// A child that says nothing while calls wait is asked, and given up if it does not answer that either.
    fn silence(&mut self, now: Instant) -> Option<Death> {
        let patience = self.slot.bounds().hang_timeout?;
        let waits = self.desk.waits()?;
        if let Some(pinged) = self.pinged {
            let what = || format!("did not answer a ping within {patience:?} while calls waited");
            return (now >= pinged + patience).then(|| Death::new("child_hung", what()));
        }
        if now >= waits.max(self.heard) + patience {
            self.desk.ping();
            self.pinged = Some(now);
        }
        None
    }

    fn take_lines(&mut self) {
        failpoint::pass("reader");
        while let Some(cut) = self.lines.cut() {
            let turn = match &cut {
                Cut::Line(line) => self.desk.line(line),
                Cut::TooLong => Some(Turn::Rubbish),
                Cut::Dropped(ends) => {
                    self.desk.dropped(ends, self.slot.shared.limits.line_bytes_max);
                    None
                }
            };
            match (turn, cut) {
                (Some(Turn::Rubbish), cut) => self.rubbish(&cut),
                (Some(turn), _) => self.turn(turn),
                (None, _) => {}
            }
        }
    }

    fn rubbish(&mut self, cut: &Cut) {
        self.slot.shared.observer.rubbish(&self.slot.id);
        let Some(dropped) = self.rubbish.admit() else { return };
        let server = &self.slot.id;
        match cut {
            Cut::Line(line) => {
                let shown = String::from_utf8_lossy(line.get(..200).unwrap_or(line));
                tracing::warn!(%server, dropped, line = ?shown, "child wrote something that is no JSON-RPC message");
            }
            Cut::TooLong => {
                tracing::warn!(%server, dropped, "child wrote a line over the limit; it was dropped")
            }
            // It was told when it grew over the limit.
            Cut::Dropped(_) => {}
        }
    }

    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Opened(opened) => {
                self.ready_since = Some(Instant::now());
                let era = match &opened {
                    Opened::Modern => "modern",
                    Opened::Legacy(_) => "legacy",
                };
                tracing::info!(server = %self.slot.id, pid = self.process.pid, era, "child ready");
                self.trial = None;
                self.live.touch();
                self.live.stage.send_replace(Stage::Ready(Arc::new(opened)));
            }
            Turn::LegacyOnly => {
                if self.slot.hand_over(&self.live) {
                    self.desk.go_legacy();
                } else {
                    // There is a legacy child already, and nothing to do for this one.
                    self.desk.go_legacy();
                    self.live.stop(Duration::ZERO);
                }
            }
            Turn::Rubbish => {}
        }
    }

    fn take_errors(&mut self, open: bool) {
        while let Some(cut) = self.errors.cut() {
            match cut {
                Cut::Line(line) => self.error_line(&line),
                Cut::TooLong => self.error_line(b"(a line over 8 KiB was dropped)"),
                Cut::Dropped(_) => {}
            }
        }
        if !open && let Some(rest) = self.errors.rest() {
            self.error_line(&rest);
        }
    }

    fn error_line(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        if let Some(said) = line.strip_prefix(sandbox::PREFIX) {
            tracing::warn!(server = %self.slot.id, "sandbox: {said}");
        } else if let Some(dropped) = self.chatter.admit() {
            tracing::info!(server = %self.slot.id, dropped, stderr = %line);
        }
        self.slot.record.stderr.lock().push(line.clone());
        self.tail.push(line);
    }

    /// A closed pipe means that the child is about to exit, or that it is of no more use.
    async fn closed(&mut self, what: &'static str) -> Death {
        match timeout(LAST_WORDS, self.process.child.wait()).await {
            Ok(Ok(status)) => Death::of_status(status),
            _ => Death::new("child_mute", what),
        }
    }

    /// Reads what a dead child left in its pipes.
    async fn last_words(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        while self.process.stdout.is_some() || self.process.stderr.is_some() {
            let Self { process: Process { stdout, stderr, .. }, lines, errors, .. } = self;
            tokio::select! {
                open = read(stdout, lines.buffer()), if stdout.is_some() => {
                    if !open { *stdout = None }
                    self.take_lines();
                }
                open = read(stderr, errors.buffer()), if stderr.is_some() => {
                    if !open { *stderr = None }
                    self.take_errors(open);
                }
                () = tokio::time::sleep_until(deadline) => return,
            }
        }
    }
}

async fn write(stdin: &mut Option<ChildStdin>, out: &BytesMut) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write(out).await,
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}
