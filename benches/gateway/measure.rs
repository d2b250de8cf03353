//! What a process tree costs: CPU time and resident memory, read from `/proc`; starting, pinning and ending it.
//! Not here: latency and throughput (`load`).

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;

/// The core of what is measured.
pub(crate) const GATEWAY_CORE: &str = "0";
/// The core of the load generator and the backend.
pub(crate) const LOAD_CORE: &str = "1";
/// `sysconf(_SC_CLK_TCK)` is 100 on every Linux we measure on; `/proc/PID/stat` counts in it.
const TICK: Duration = Duration::from_millis(10);

/// A process we started and end when it goes out of scope.
pub(crate) struct Running {
    child: Child,
    name: String,
}

impl Running {
    /// Starts `command` on `core`. `log` receives stderr; stdout, where the access log goes, is read and thrown away.
    pub(crate) fn start(name: &str, core: &str, command: &[String], log: fs::File) -> Result<Self, Failure> {
        let mut child = Command::new("taskset")
            .args(["-c", core])
            .args(command)
            .stdin(Stdio::null())
            .stderr(log)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name}: cannot start {command:?} under taskset: {error}"))?;
        if let Some(mut said) = child.stdout.take() {
            // On the load generator's core, like any shipper of logs beside a gateway; ends with the process.
            std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        }
        Ok(Self { child, name: name.to_owned() })
    }

    /// Waits until `addr` accepts connections, at most 15 seconds.
    pub(crate) fn wait_for(&mut self, addr: SocketAddr) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(15);
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended while starting: {status}; see its log", self.name).into());
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not listen on {addr} after 15 s; see its log", self.name).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The process id; `taskset` replaces itself by the program, so it is the program's.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM first, so that nginx and the gateway end their own children.
        let _ = Command::new("kill").arg(self.pid().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Moves a running process and its threads to `core`.
pub(crate) fn pin(pid: u32, core: &str) -> Result<(), Failure> {
    let status = Command::new("taskset")
        .args(["-a", "-p", "-c", core, &pid.to_string()])
        .stdout(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("taskset cannot move process {pid} to core {core}").into())
    }
}

/// A port nobody listens on now.
pub(crate) fn free_addr() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// One reading of a process tree.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading {
    /// User and system time of the first process.
    pub root: Duration,
    /// The same of everything below it, ended children included.
    pub below: Duration,
    /// Resident memory of the first process now, in KiB.
    pub resident_kib: u64,
    /// Its highest since `forget_peak`, in KiB.
    pub peak_kib: u64,
}

/// Reads `root` and its descendants. Memory is that of the tree for nginx (one worker) and of the gateway alone
/// otherwise, because a child's memory is the child's: `whole_tree` says which.
pub(crate) fn read(root: u32, whole_tree: bool) -> Reading {
    let all = processes();
    let mut reading = Reading::default();
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(&pid) = tree.get(at) {
        at += 1;
        tree.extend(all.iter().filter(|process| process.parent == pid).map(|process| process.pid));
        let Some(process) = all.iter().find(|process| process.pid == pid) else { continue };
        if pid == root {
            reading.root += TICK * process.ticks;
        } else {
            reading.below += TICK * process.ticks;
        }
        // Children that ended and were waited for count in their parent's `cutime` and `cstime`.
        reading.below += TICK * process.ended_ticks;
        if whole_tree || pid == root {
            reading.resident_kib += status_kib(pid, "VmRSS:");
            reading.peak_kib += status_kib(pid, "VmHWM:");
        }
    }
    reading
}

/// Sets the peak back to what is resident now.
pub(crate) fn forget_peak(root: u32) {
    let all = processes();
    for process in all.iter().filter(|process| process.pid == root || process.parent == root) {
        // Needs no privilege for processes of our own; where it fails the peak is the highest of the whole run.
        let _ = fs::write(format!("/proc/{}/clear_refs", process.pid), "5");
    }
}

struct Process {
    pid: u32,
    parent: u32,
    ticks: u32,
    ended_ticks: u32,
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// Fields 4 (ppid) and 14–17 (utime, stime, cutime, cstime) of proc_pid_stat(5), after the name in parentheses.
fn parse_stat(pid: u32, text: &str) -> Option<Process> {
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
    Some(Process {
        pid,
        parent: number(1)?,
        ticks: number(11)? + number(12)?,
        ended_ticks: number(13)? + number(14)?,
    })
}

fn status_kib(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}
