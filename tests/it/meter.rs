//! What a process costs: memory and processor time, as the kernel counts them.
//! Not here: whose process it is (`gateway`, `naive`).

use std::time::Duration;

/// A process being watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter(pub(crate) u32);

impl Meter {
    fn status(self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Resident memory now, in KiB.
    pub(crate) fn resident_kib(self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory since the last call of `forget_peak`, in KiB.
    pub(crate) fn peak_kib(self) -> u64 {
        self.status("VmHWM:")
    }

    /// Starts to look for a new peak.
    pub(crate) fn forget_peak(self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.0), "5").unwrap();
    }

    /// Processor time so far, in ticks of ten milliseconds.
    pub(crate) fn cpu(self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        // The command in parentheses may contain anything: fields start after the last one.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}
