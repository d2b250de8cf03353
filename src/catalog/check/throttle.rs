//! Checks limits of servers and tools.
//! Not here: limits of callers (`conf`); counting (`limit`).

use std::collections::BTreeMap;

use super::Checker;
use crate::catalog::model::{RemoteKind, Runtime, Timeouts, Tool};
use crate::catalog::raw::{RawServer, RawShared, RawTool};
use crate::catalog::{Shared, Throttle, ToolThrottle};
use crate::conf::{Limit, Rate};
use crate::document::{At, Code};

/// Tokens in a second that a bucket can still tell apart: one in each nanosecond.
const PER_SECOND_MAX: u128 = 1_000_000_000;
/// The longest name of a tool that a caller may use, see `auth/policy`.
const TOOL_NAME_BYTES_MAX: usize = 1024;

impl Checker<'_> {
    /// Checks the limits of a server, and what is said of its tools.
    pub(super) fn throttle(
        &mut self,
        server: &mut RawServer,
        runtime: &Runtime,
        timeouts: &Timeouts,
        enabled: bool,
    ) -> (Throttle, BTreeMap<String, Tool>) {
        let (limit, tools) = (server.limit.take(), server.tools.take());
        if let (Some(span), false) = (limit.as_ref().map(|limit| limit.span), enabled) {
            self.report.warn(span, Code::Unused, "a limit of a disabled server limits nobody");
        }
        let is_raw = matches!(runtime, Runtime::Remote(remote) if remote.kind == RemoteKind::Raw);
        if is_raw {
            self.no_effect(tools.as_ref(), "tools", "a raw-http server, which is not read");
        }
        let limit = limit.and_then(|limit| self.shared(&limit));
        let mut checked: Vec<(String, ToolThrottle)> = Vec::new();
        let mut calls = BTreeMap::new();
        for (name, raw) in tools.map(|tools| tools.value.0).unwrap_or_default() {
            if name.is_empty() || name.len() > TOOL_NAME_BYTES_MAX {
                let message = format!("expected the name of a tool, of at most {TOOL_NAME_BYTES_MAX} bytes");
                self.report.add(name.span, Code::InvalidValue, message);
            }
            if name.contains(['*', '?']) {
                let message =
                    format!("`{}` is taken for the exact name of a tool, not for a pattern", name.value);
                self.report.warn(name.span, Code::Unused, message);
            }
            if let Some(tool) = self.tool_calls(&raw, timeouts) {
                calls.insert(name.value.clone(), tool);
            }
            if let Some(tool) = self.tool(&name, &raw, limit.as_ref()) {
                checked.push((name.value, tool));
            }
        }
        (Throttle { limit, tools: checked }, calls)
    }

    fn tool(
        &mut self,
        name: &At<String>,
        raw: &At<RawTool>,
        server: Option<&Shared>,
    ) -> Option<ToolThrottle> {
        if raw.cost.is_none() && raw.limit.is_none() {
            if raw.timeouts.is_none() && raw.idempotent.is_none() {
                self.missing(
                    name.span,
                    format!(
                        "tool `{}` says nothing: expected `cost`, `limit`, `timeouts` or `idempotent`",
                        name.value
                    ),
                );
            }
            return None;
        }
        let own = raw.limit.as_ref().and_then(|limit| self.shared(limit));
        let cost = raw.cost.as_ref().map_or(1, |cost| cost.value);
        if let Some(at) = &raw.cost {
            if cost == 0 {
                self.report.add(at.span, Code::InvalidValue, "must be at least 1");
            }
            for (whose, limit) in [("the tool", own.as_ref()), ("the server", server)] {
                let burst = limit.and_then(|limit| limit.limit.rate).map(|rate| rate.burst);
                if let Some(burst) = burst.filter(|burst| *burst < cost) {
                    let message = format!(
                        "a cost of {cost} can never be paid: the limit of {whose} has a burst of {burst}"
                    );
                    self.report.add(at.span, Code::Conflict, message);
                }
            }
        }
        if let (Some(own), Some(server), Some(at)) = (&own, server, &raw.limit) {
            self.loose(at, own, server, cost);
        }
        Some(ToolThrottle { cost, limit: own })
    }

    /// Warns of a tool's limit that the server's own is always hit before.
    fn loose(&mut self, at: &At<RawShared>, tool: &Shared, server: &Shared, cost: u32) {
        // What all share is never more than what each has; the other way round nothing can be said.
        if !tool.each_caller && server.each_caller {
            return;
        }
        let rate_is_loose = match (tool.limit.rate, server.limit.rate) {
            (Some(tool), Some(server)) => {
                tool.burst >= server.burst && per_second(tool) >= per_second(server)
            }
            (None, _) => true,
            (Some(_), None) => false,
        };
        let flight_is_loose = match (tool.limit.in_flight, server.limit.in_flight) {
            (Some(tool), Some(server)) => tool >= server,
            (None, _) => true,
            (Some(_), None) => false,
        };
        if rate_is_loose && flight_is_loose && cost >= 1 {
            let message = "nobody can hit this limit: the server's own is hit before or at the same time";
            self.report.warn(at.span, Code::Unused, message);
        }
    }

    /// Checks one limit; `None` if it says nothing usable, which was reported.
    fn shared(&mut self, raw: &At<RawShared>) -> Option<Shared> {
        let zero = |at: &&At<u32>| at.value == 0;
        for at in [&raw.requests, &raw.burst, &raw.in_flight].into_iter().flatten().filter(zero) {
            self.report.add(at.span, Code::InvalidValue, "must be at least 1");
        }
        let rate = match (&raw.requests, &raw.per) {
            (Some(requests), Some(per)) => {
                let burst = raw.burst.as_ref().map_or(requests.value, |burst| burst.value);
                let rate = Rate { requests: requests.value, per: self.positive(Some(per), 1), burst };
                if per_second(rate) > PER_SECOND_MAX * SCALE {
                    self.report.add(
                        requests.span,
                        Code::InvalidValue,
                        "more than a thousand million in a second",
                    );
                }
                Some(rate)
            }
            (None, None) => {
                if let Some(burst) = &raw.burst {
                    self.report.add(
                        burst.span,
                        Code::NoEffect,
                        "`burst` has no effect without `requests` and `per`",
                    );
                }
                None
            }
            (Some(_), None) => {
                self.missing(raw.span, "a limit needs `per`, such as `1m`, beside `requests`");
                None
            }
            (None, Some(_)) => {
                self.missing(raw.span, "a limit needs `requests` beside `per`");
                None
            }
        };
        let in_flight = raw.in_flight.as_ref().map(|count| count.value);
        if rate.is_none() && in_flight.is_none() {
            let says_something = raw.requests.is_some() || raw.per.is_some() || raw.burst.is_some();
            if says_something {
                return None;
            }
            self.missing(raw.span, "a limit needs `requests` and `per`, or `in_flight`, or all of them");
            return None;
        }
        Some(Shared { limit: Limit { rate, in_flight }, each_caller: raw.each_caller.unwrap_or(false) })
    }
}

/// Parts of a token that [`per_second`] counts in.
const SCALE: u128 = 1_000_000;

/// Tokens that flow in during a second, in millionths.
fn per_second(rate: Rate) -> u128 {
    u128::from(rate.requests) * 1_000_000_000 * SCALE / rate.per.as_nanos().max(1)
}
