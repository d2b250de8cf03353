//! What an earlier gateway left behind: the table of children on disk, and the sweep at the next start.
//! Not here: how a child of this process ends (`spawn`).
//!
//! A child is known by a mark in its environment and, should it have overwritten that, by the table: process id,
//! start time and the boot they belong to. Process ids are reused, so a number alone never kills anything. The
//! mark names this state directory; gateways with other state directories are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::BridgeError;
use super::spawn::{MARKER, POLL, signal_group};

/// Swept groups are gone within this time, or hang in the kernel.
const SWEEP_GRACE: Duration = Duration::from_secs(5);

/// Killed descendants are gone within this time, or hang in the kernel.
const KILLED_GRACE: Duration = Duration::from_secs(1);
const KILLED_POLL: Duration = Duration::from_millis(5);

/// The children of one state directory.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    id: String,
    /// Random for each run, so that a predecessor's children are told from ours.
    run: String,
    boot: String,
    serial: AtomicU64,
    /// What the table held when it was opened.
    left: Mutex<BTreeMap<u32, u64>>,
    rows: Mutex<BTreeMap<u32, u64>>,
    /// Held as long as we live; a killed process lets go of it.
    _lock: File,
}

#[derive(Serialize, Deserialize, Default)]
struct Stored {
    boot: String,
    children: BTreeMap<u32, u64>,
}

impl Table {
    /// Opens the table and locks the state directory.
    pub(super) fn open(state_dir: &Path) -> Result<Self, BridgeError> {
        let lock =
            File::options().create(true).truncate(false).write(true).open(state_dir.join("bridge.lock"));
        let lock = lock.map_err(|e| BridgeError::State(state_dir.to_owned(), e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BridgeError::Locked(state_dir.to_owned())),
            Err(TryLockError::Error(e)) => return Err(BridgeError::State(state_dir.to_owned(), e)),
        }
        let id = state_id(state_dir).map_err(|e| BridgeError::State(state_dir.to_owned(), e))?;
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let path = state_dir.join("children.json");
        let run = super::random_hex::<4>().map_err(|e| BridgeError::State(state_dir.to_owned(), e))?;
        let left = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Stored>(&text).ok());
        let left = left.filter(|left| left.boot == boot).unwrap_or_default().children;
        let serial = AtomicU64::new(0);
        Ok(Self { path, id, run, boot, serial, left: Mutex::new(left), rows: Mutex::default(), _lock: lock })
    }

    /// The random name of this run.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// A new mark for a child.
    pub(super) fn marker(&self) -> String {
        format!("{}.{}.{}", self.id, self.run, self.serial.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes a child.
    pub(super) fn add(&self, pid: u32) {
        let Some(stat) = Stat::read(pid) else { return };
        let mut rows = self.rows.lock();
        rows.insert(pid, stat.start);
        self.store(&rows);
    }

    /// Strikes a child out.
    pub(super) fn remove(&self, pid: u32) {
        let mut rows = self.rows.lock();
        if rows.remove(&pid).is_some() {
            self.store(&rows);
        }
    }

    fn store(&self, rows: &BTreeMap<u32, u64>) {
        let stored = Stored { boot: self.boot.clone(), children: rows.clone() };
        let fresh = self.path.with_extension("new");
        let written = serde_json::to_vec(&stored)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&fresh, text))
            .and_then(|()| fs::rename(&fresh, &self.path));
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.path.display(), "the table of children cannot be written");
        }
    }

    /// Kills what an earlier gateway with this state directory left. Tells how many processes that were.
    pub(super) async fn sweep(&self) -> usize {
        let prefix = format!("{}.", self.id);
        let ours = format!("{prefix}{}.", self.run);
        let (mut groups, mut count) = (BTreeSet::new(), 0);
        for (pid, mark) in marked() {
            if mark.starts_with(&prefix) && !mark.starts_with(&ours) {
                groups.extend(Stat::read(pid).map(|stat| stat.group));
                send(pid, Signal::SIGKILL);
                count += 1;
            }
        }
        for (pid, start) in std::mem::take(&mut *self.left.lock()) {
            if Stat::read(pid).is_some_and(|stat| stat.start == start) {
                count += usize::from(groups.insert(pid));
            }
        }
        let own = Stat::read(std::process::id()).map(|stat| stat.group);
        groups.retain(|group| Some(*group) != own && *group > 1);
        for group in &groups {
            signal_group(*group, Signal::SIGKILL);
        }
        // The dead hold nothing. When they are reaped is for whoever inherited them: some take seconds.
        let runs = |stat: Stat| groups.contains(&stat.group) && !matches!(stat.state, b'Z' | b'X');
        let ended = async {
            while processes().filter_map(Stat::read).any(runs) {
                sleep(POLL).await;
            }
        };
        drop(timeout(SWEEP_GRACE, ended).await);
        // When we are the first process of a container, they became ours.
        groups.iter().copied().for_each(reap_group);
        count
    }
}

/// The id of a state directory: random, written once.
fn state_id(state_dir: &Path) -> io::Result<String> {
    let path = state_dir.join("bridge.id");
    if let Ok(id) = fs::read_to_string(&path)
        && id.len() == 16
        && id.bytes().all(|b| b.is_ascii_hexdigit())
    {
        return Ok(id);
    }
    let id = super::random_hex::<8>()?;
    fs::write(&path, &id)?;
    Ok(id)
}

/// What the kernel says of a process.
struct Stat {
    state: u8,
    parent: u32,
    group: u32,
    /// Clock ticks since boot.
    start: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; what follows the last one is plain (proc(5)).
        let rest = text.get(memchr::memrchr(b')', &text)? + 2..)?;
        let fields: Vec<&str> = std::str::from_utf8(rest).ok()?.split(' ').collect();
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Every process that carries a mark, and the mark.
fn marked() -> impl Iterator<Item = (u32, String)> {
    let name = format!("{MARKER}=");
    processes().filter_map(move |pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut entries = environment.split(|byte| *byte == 0);
        let mark = entries.find_map(|entry| entry.strip_prefix(name.as_bytes()))?;
        Some((pid, String::from_utf8_lossy(mark).into_owned()))
    })
}

/// Kills every process that carries exactly this mark, and waits until they are gone. Tells how many there were. Blocks.
pub(super) fn kill_marked(marker: &str) -> usize {
    let mut killed = BTreeMap::new();
    let since = Instant::now();
    loop {
        // Again and again: one of them may have started another before it died.
        let found: Vec<u32> = marked().filter(|(_, mark)| mark == marker).map(|(pid, _)| pid).collect();
        for pid in &found {
            killed.extend(Stat::read(*pid).map(|stat| (*pid, stat.start)));
            send(*pid, Signal::SIGKILL);
        }
        killed.keys().for_each(|pid| reap(*pid));
        // A dead one that somebody else adopted is theirs to reap.
        let is_there = |(pid, start): (&u32, &u64)| {
            Stat::read(*pid).is_some_and(|stat| stat.start == *start && stat.state != b'Z')
        };
        if (found.is_empty() && !killed.iter().any(is_there)) || since.elapsed() > KILLED_GRACE {
            return killed.len();
        }
        std::thread::sleep(KILLED_POLL);
    }
}

/// Reaps dead members of a group that became our children; its leader is reaped by whoever waits for it.
pub(super) fn reap_group(group: u32) {
    let us = std::process::id();
    for pid in processes().filter(|pid| *pid != group) {
        if Stat::read(pid).is_some_and(|s| s.state == b'Z' && s.parent == us && s.group == group) {
            reap(pid);
        }
    }
}

fn reap(pid: u32) {
    let ours = Stat::read(pid).is_some_and(|stat| stat.parent == std::process::id());
    if let Some(pid) = i32::try_from(pid).ok().filter(|_| ours) {
        // Whoever else reaped it was quicker.
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 1) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
