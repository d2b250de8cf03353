//! Checks how the processes of a local server are shared and bounded.
//! Not here: what a process is started with (`runtime`).

use std::num::NonZeroU16;
use std::time::Duration;

use super::Checker;
use crate::catalog::children::{Children, Mode};
use crate::catalog::raw::{RawMode, RawServer};
use crate::document::{At, Code, Period};

/// Processes of one local server; more is a mistyped number.
const INSTANCES_MAX: u16 = 256;
const PROCESSES_MAX: u32 = 10_000;

impl Checker<'_> {
    /// What a local server says about its processes.
    pub(super) fn children(&mut self, server: &RawServer) -> (NonZeroU16, Children) {
        let mode = match server.mode.as_ref().map_or(RawMode::default(), |mode| mode.value) {
            RawMode::Shared => Mode::Shared,
            RawMode::PerSession => Mode::PerSession,
            RawMode::PerCaller => Mode::PerCaller,
        };
        let fallback = Children::default();
        let max_processes = self.processes(server.max_processes.as_ref(), fallback.max_processes, 1);
        let max_per_caller = self.processes(server.max_per_caller.as_ref(), fallback.max_per_caller, 1);
        let warm = self.processes(server.warm.as_ref(), fallback.warm, 0);
        self.without_effect(mode, server);
        if mode != Mode::Shared
            && let Some(raw) = server.warm.as_ref().filter(|_| warm > max_processes)
        {
            let message = format!("more processes are kept ready than there may be ({max_processes})");
            self.report.advise(raw.span, Code::Conflict, message, "raise `max_processes`");
        }
        if mode == Mode::PerSession
            && let Some(raw) = server.max_per_caller.as_ref().filter(|_| max_per_caller > max_processes)
        {
            let message = format!("more than all processes together ({max_processes}): it has no effect");
            self.report.add(raw.span, Code::NoEffect, message);
        }
        if let Some(zero) = server.max_age.as_ref().filter(|period| period.0.is_zero()) {
            let advice = "without `max_age` a process lives as long as it is used";
            self.report.advise(zero.span, Code::InvalidValue, "must be longer than 0", advice);
        }
        let hang_timeout = or_never(server.hang_timeout.as_ref(), fallback.hang_timeout);
        let max_age = server.max_age.as_ref().map(|period| period.0);
        let instances = self.instances(server.instances.as_ref());
        (instances, Children { mode, max_processes, max_per_caller, warm, max_age, hang_timeout })
    }

    /// Keys that do nothing in this mode.
    fn without_effect(&mut self, mode: Mode, server: &RawServer) {
        let mut idle = |span, key: &str, advice: &str| {
            let message = format!("`{key}` has no effect with `mode: {}`", mode.as_str());
            self.report.advise(span, Code::NoEffect, message, advice);
        };
        let share = "set `mode: per_session` or `mode: per_caller`, or count shared processes by `instances`";
        match mode {
            Mode::Shared => {
                for (raw, key) in [(&server.max_processes, "max_processes"), (&server.warm, "warm")] {
                    if let Some(raw) = raw {
                        idle(raw.span, key, share);
                    }
                }
                if let Some(raw) = &server.max_per_caller {
                    idle(raw.span, "max_per_caller", "set `mode: per_session`");
                }
            }
            Mode::PerSession | Mode::PerCaller => {
                if let Some(raw) = &server.instances {
                    idle(raw.span, "instances", "bound the processes by `max_processes`");
                }
                if let Some(raw) = server.max_per_caller.as_ref().filter(|_| mode == Mode::PerCaller) {
                    idle(raw.span, "max_per_caller", "a caller has one process for each era of the protocol");
                }
            }
        }
    }

    /// The same on a server that has no processes.
    pub(super) fn no_children(&mut self, server: &RawServer, on: &str) {
        self.no_effect(server.mode.as_ref(), "mode", on);
        self.no_effect(server.instances.as_ref(), "instances", on);
        self.no_effect(server.max_processes.as_ref(), "max_processes", on);
        self.no_effect(server.max_per_caller.as_ref(), "max_per_caller", on);
        self.no_effect(server.warm.as_ref(), "warm", on);
        self.no_effect(server.max_age.as_ref(), "max_age", on);
        self.no_effect(server.hang_timeout.as_ref(), "hang_timeout", on);
    }

    fn instances(&mut self, raw: Option<&At<u16>>) -> NonZeroU16 {
        let Some(raw) = raw else { return NonZeroU16::MIN };
        let checked = NonZeroU16::new(raw.value).filter(|count| count.get() <= INSTANCES_MAX);
        if checked.is_none() {
            let message = format!("expected a whole number from 1 to {INSTANCES_MAX}");
            self.report.add(raw.span, Code::InvalidValue, message);
        }
        checked.unwrap_or(NonZeroU16::MIN)
    }

    fn processes(&mut self, raw: Option<&At<u32>>, fallback: usize, min: u32) -> usize {
        let Some(raw) = raw else { return fallback };
        if !(min..=PROCESSES_MAX).contains(&raw.value) {
            let message = format!("expected a whole number from {min} to {PROCESSES_MAX}");
            self.report.add(raw.span, Code::InvalidValue, message);
        }
        usize::try_from(raw.value).unwrap_or(fallback)
    }
}

/// A period of which `0` means never.
fn or_never(raw: Option<&At<Period>>, fallback: Option<Duration>) -> Option<Duration> {
    raw.map_or(fallback, |period| Some(period.0).filter(|period| !period.is_zero()))
}
