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

    /// Watches how far resident memory rises from where it is now.
    pub(crate) fn rise(self) -> Rise {
        std::fs::write(format!("/proc/{}/clear_refs", self.0), "5").unwrap();
        // The peak since the line above, not what is resident by now: memory that is being given back
        // meanwhile would count as a rise.
        Rise { meter: self, base: self.peak_kib() }
    }

    fn peak_kib(self) -> u64 {
        self.status("VmHWM:")
    }

    /// Open descriptors.
    pub(crate) fn descriptors(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap().count()
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

/// The highest point of a process's memory over where it started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rise {
    meter: Meter,
    base: u64,
}

impl Rise {
    /// The highest point so far, in KiB over the start.
    pub(crate) fn kib(self) -> u64 {
        // The kernel counts in steps of each thread: the peak may read a few pages lower than it did.
        self.meter.peak_kib().saturating_sub(self.base)
    }
}
