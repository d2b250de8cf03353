//! Checks how calls are spread over endpoints, when one is left alone, what is tried again, and what tools say of it.
//! Not here: the endpoints themselves (`runtime`).

use std::time::Duration;

use super::Checker;
use crate::catalog::endpoint::{Balance, Breaker, HashBy, Retry};
use crate::catalog::model::{RemoteKind, Runtime, Timeouts, Tool};
use crate::catalog::raw::{RawBalance, RawBreaker, RawHashBy, RawRetry, RawServer, RawTool};
use crate::document::{At, Code, Period};

/// One call is tried again so often at most; more is a mistyped number.
const RETRIES_MAX: u16 = 10;

impl Checker<'_> {
    /// Checks `balance` and `hash_by`.
    pub(super) fn balance(&mut self, server: &RawServer, runtime: &Runtime) -> Balance {
        let endpoints = match runtime {
            Runtime::Local(local) => usize::from(local.instances.get()),
            Runtime::Remote(remote) => remote.endpoints.len(),
        };
        if endpoints < 2 {
            self.no_effect(server.balance.as_ref(), "balance", "a server with one endpoint");
        }
        let balance = server.balance.as_ref().map_or(RawBalance::default(), |balance| balance.value);
        if balance != RawBalance::Hash {
            self.no_effect(server.hash_by.as_ref(), "hash_by", "a balance that is not `hash`");
        }
        match balance {
            RawBalance::RoundRobin => Balance::RoundRobin,
            RawBalance::LeastInFlight => Balance::LeastInFlight,
            RawBalance::Random => Balance::Random,
            RawBalance::Hash => Balance::Hash(match server.hash_by.as_ref().map(|by| by.value) {
                Some(RawHashBy::Session) => HashBy::Session,
                Some(RawHashBy::Caller) | None => HashBy::Caller,
            }),
        }
    }

    /// Checks `breaker`; `None` if there is to be none. The bridge decides itself when a child is left alone.
    pub(super) fn breaker(&mut self, raw: Option<At<RawBreaker>>, runtime: &Runtime) -> Option<Breaker> {
        if matches!(runtime, Runtime::Local(_)) {
            self.no_effect(raw.as_ref(), "breaker", "a local process");
            return None;
        }
        let raw = raw.map(|raw| raw.value).unwrap_or_default();
        let enabled = raw.enabled.as_ref().is_none_or(|enabled| enabled.value);
        let checked = Breaker {
            failures: self.count(raw.failures.as_ref(), 5),
            error_rate: self.percentage(raw.error_rate.as_ref(), 50, 1),
            calls: self.count(raw.calls.as_ref(), 20),
            window: self.positive(raw.window.as_ref(), 10),
            open_for: self.positive(raw.open_for.as_ref(), 60),
            probes: self.count(raw.probes.as_ref(), 3),
            eject_for: self.positive(raw.eject_for.as_ref(), 5),
            eject_for_max: self.positive(raw.eject_for_max.as_ref(), 30),
            ejected_max: self.percentage(raw.ejected_max.as_ref(), 50, 1),
            slow_start: raw.slow_start.as_ref().map_or(Duration::from_secs(10), |period| period.0),
        };
        if let Some(at) = raw.eject_for_max.as_ref().or(raw.eject_for.as_ref())
            && checked.eject_for_max < checked.eject_for
        {
            self.report.add(at.span, Code::Conflict, "`eject_for_max` is shorter than `eject_for`");
        }
        if !enabled {
            let numbers = [&raw.failures, &raw.error_rate, &raw.calls, &raw.probes, &raw.ejected_max];
            let periods = [&raw.window, &raw.open_for, &raw.eject_for, &raw.eject_for_max, &raw.slow_start];
            let spans = numbers.iter().filter_map(|raw| raw.as_ref().map(|at| at.span));
            for span in spans.chain(periods.iter().filter_map(|raw| raw.as_ref().map(|at| at.span))) {
                self.report.add(span, Code::NoEffect, "has no effect on a breaker that is not enabled");
            }
        }
        enabled.then_some(checked)
    }

    /// Checks `retry`.
    pub(super) fn retry(&mut self, raw: Option<At<RawRetry>>, runtime: &Runtime) -> Retry {
        if matches!(runtime, Runtime::Remote(remote) if remote.kind == RemoteKind::Raw) {
            self.no_effect(raw.as_ref(), "retry", "a raw-http server, which is not read");
        }
        let raw = raw.map(|raw| raw.value).unwrap_or_default();
        if let Some(at) = raw.max.as_ref().filter(|max| max.value > RETRIES_MAX) {
            let message = format!("expected a whole number from 0 to {RETRIES_MAX}");
            self.report.add(at.span, Code::InvalidValue, message);
        }
        let pause = raw.pause.as_ref();
        if let Some(zero) = pause.filter(|period| period.0.is_zero()) {
            self.report.add(zero.span, Code::InvalidValue, "must be longer than 0");
        }
        Retry {
            max: raw.max.as_ref().map_or(3, |max| max.value),
            budget: self.percentage(raw.budget.as_ref(), 20, 0),
            pause: pause.map_or(Duration::from_millis(100), |period| period.0),
        }
    }

    /// Checks what a tool says of its calls; `None` if it says nothing of them.
    pub(super) fn tool_calls(&mut self, raw: &RawTool, server: &Timeouts) -> Option<Tool> {
        if raw.timeouts.is_none() && raw.idempotent.is_none() {
            return None;
        }
        let timeouts = raw.timeouts.as_ref();
        let mut or = |own: Option<&At<Period>>, server: Duration| match own {
            Some(own) => self.positive(Some(own), 1),
            None => server,
        };
        Some(Tool {
            idempotent: raw.idempotent.unwrap_or(false),
            response: or(timeouts.and_then(|t| t.response.as_ref()), server.response),
            idle: or(timeouts.and_then(|t| t.idle.as_ref()), server.idle),
            total: or(timeouts.and_then(|t| t.total.as_ref()), server.total),
        })
    }

    fn percentage(&mut self, raw: Option<&At<u16>>, default: u8, least: u16) -> u8 {
        let Some(raw) = raw else { return default };
        let checked = u8::try_from(raw.value).ok().filter(|_| (least..=100).contains(&raw.value));
        if checked.is_none() {
            let message = format!("expected a percentage from {least} to 100");
            self.report.add(raw.span, Code::InvalidValue, message);
        }
        checked.unwrap_or(default)
    }
}
