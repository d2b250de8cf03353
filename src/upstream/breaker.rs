//! When an endpoint has failed enough: a circuit breaker as a pure state machine, one for each endpoint.
//! Not here: what a failure is (`Fault`, told by whoever saw it), whether the endpoint may leave (`select`).
//!
//! What was under way together fails for one reason, so a connection that broke counts only if the call was sent after
//! the failure counted before it, and refused connections count only with growing pauses between them: a server that
//! is started again within a second loses the calls in flight and nothing else.

use std::time::Duration;

use tokio::time::Instant;

use crate::catalog;

/// Refused connections count again after this time, doubled with each of them.
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);
/// It is doubled so often at most.
const REFUSAL_DOUBLINGS_MAX: u32 = 4;

/// What an endpoint did wrong. Never the caller's own error: no 4xx, no JSON-RPC error, no tool's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It refused a connection, or gave none in time.
    Connect,
    /// The connection broke before the whole answer was there.
    Broken,
    /// A deadline passed, and it had answered nobody else meanwhile.
    Late,
    /// It answered with a status of 500 or above.
    Status(u16),
    /// Its answer was none of MCP.
    Answer,
}

impl Fault {
    /// Its label, one of a closed set.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Late => "late",
            Self::Status(_) => "status",
            Self::Answer => "answer",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect => f.write_str("connections are refused"),
            Self::Broken => f.write_str("connections break"),
            Self::Late => f.write_str("answers are late"),
            Self::Status(status) => write!(f, "answers have status {status}"),
            Self::Answer => f.write_str("answers are not MCP"),
        }
    }
}

/// Where a circuit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Circuit {
    /// Calls pass.
    Closed,
    /// Nothing passes.
    Open {
        /// Until then.
        until: Instant,
        /// The failure that opened it.
        why: Fault,
    },
    /// A few calls pass, to see.
    HalfOpen {
        /// How many at once.
        at_once: u16,
        /// The failure that opened it.
        why: Fault,
    },
}

/// Counts failures of one endpoint.
#[derive(Debug)]
pub(super) struct Breaker {
    circuit: Circuit,
    streak: u32,
    last: Option<Instant>,
    window: Option<Instant>,
    failed: u32,
    passed: u32,
    /// How often it opened without a success in between.
    opened: u32,
}

impl Breaker {
    /// A closed one.
    pub(super) fn new() -> Self {
        Self {
            circuit: Circuit::Closed,
            streak: 0,
            last: None,
            window: None,
            failed: 0,
            passed: 0,
            opened: 0,
        }
    }

    pub(super) fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// Failures in a row that counted.
    pub(super) fn streak(&self) -> u32 {
        self.streak
    }

    /// Counts a failure of a call that was sent at `sent`; `successes` are those since the last failure counted, which
    /// the caller then begins anew. Returns whether it is enough to open the circuit.
    pub(super) fn failed(
        &mut self,
        rules: &catalog::Breaker,
        fault: Fault,
        (sent, now): (Instant, Instant),
        successes: impl FnOnce() -> u32,
    ) -> bool {
        if let Circuit::HalfOpen { .. } = self.circuit {
            return true;
        }
        if self.circuit != Circuit::Closed || !self.counts(fault, sent, now) {
            return false;
        }
        self.last = Some(now);
        self.streak = self.streak.saturating_add(1);
        // A window begins with a failure. Successes before it say nothing of the time in it.
        let successes = successes();
        if self.window.is_none_or(|began| now.duration_since(began) > rules.window) {
            (self.window, self.failed, self.passed) = (Some(now), 0, 0);
        } else {
            self.passed = self.passed.saturating_add(successes);
        }
        self.failed = self.failed.saturating_add(1);
        let calls = self.failed.saturating_add(self.passed);
        let rate = u64::from(self.failed) * 100 >= u64::from(rules.error_rate) * u64::from(calls);
        self.streak >= u32::from(rules.failures) || (calls >= u32::from(rules.calls) && rate)
    }

    fn counts(&self, fault: Fault, sent: Instant, now: Instant) -> bool {
        let Some(last) = self.last else { return true };
        match fault {
            Fault::Connect => {
                let doublings = self.streak.saturating_sub(1).min(REFUSAL_DOUBLINGS_MAX);
                now.duration_since(last) >= REFUSAL_PAUSE * (1 << doublings)
            }
            Fault::Broken => sent > last,
            Fault::Late | Fault::Status(_) | Fault::Answer => true,
        }
    }

    /// Opens the circuit. Each time in a row lasts twice as long, from `first` to `longest`.
    pub(super) fn open(&mut self, why: Fault, now: Instant, first: Duration, longest: Duration) -> Instant {
        let lasts = first.saturating_mul(1 << self.opened.min(16)).min(longest.max(first));
        let until = now + lasts;
        self.opened = self.opened.saturating_add(1);
        self.circuit = Circuit::Open { until, why };
        (self.streak, self.window) = (0, None);
        until
    }

    /// Lets `at_once` calls through, if it is open.
    pub(super) fn half_open(&mut self, at_once: u16) {
        if let Circuit::Open { why, .. } = self.circuit {
            self.circuit = Circuit::HalfOpen { at_once, why };
        }
    }

    /// A call succeeded; returns whether that closed the circuit. One that was sent before it opened does not.
    pub(super) fn succeeded(&mut self) -> bool {
        self.streak = 0;
        let closes = matches!(self.circuit, Circuit::HalfOpen { .. });
        if closes {
            *self = Self::new();
        }
        closes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: catalog::Breaker = catalog::Breaker {
        failures: 5,
        error_rate: 50,
        calls: 20,
        window: Duration::from_secs(10),
        open_for: Duration::from_secs(60),
        probes: 3,
        eject_for: Duration::from_secs(5),
        eject_for_max: Duration::from_secs(30),
        ejected_max: 50,
        slow_start: Duration::from_secs(10),
    };

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn five_failures_in_a_row_are_enough_and_a_success_begins_anew() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        for round in 0..3 {
            for n in 0..4 {
                assert!(
                    !breaker.failed(&RULES, Fault::Status(500), (now, now), || 1_000),
                    "{n} of round {round}"
                );
            }
            breaker.succeeded();
        }
        let enough: Vec<bool> =
            (0..5).map(|_| breaker.failed(&RULES, Fault::Status(500), (now, now), || 0)).collect();
        assert_eq!(enough, [false, false, false, false, true]);
    }

    #[test]
    fn half_of_twenty_calls_are_enough() {
        let (mut breaker, start) = (Breaker::new(), Instant::now());
        let mut opened_at = None;
        for n in 0..40u32 {
            breaker.succeeded();
            let now = start + ms(u64::from(n) * 10);
            if breaker.failed(&RULES, Fault::Answer, (now, now), || 1) {
                opened_at = opened_at.or(Some(n));
            }
        }
        assert_eq!(opened_at, Some(10), "eleven failures and ten successes");
        let mut calm = Breaker::new();
        for n in 0..100 {
            calm.succeeded();
            let now = start + Duration::from_secs(11 * n);
            assert!(!calm.failed(&RULES, Fault::Answer, (now, now), || 0), "failures far apart");
        }
    }

    #[test]
    fn what_breaks_together_counts_once() {
        let (mut breaker, start) = (Breaker::new(), Instant::now());
        for _ in 0..100 {
            assert!(!breaker.failed(&RULES, Fault::Broken, (start, start + ms(5)), || 0));
        }
        assert_eq!(breaker.streak(), 1);
    }

    #[test]
    fn refused_connections_open_after_a_second_and_a_half() {
        let (mut breaker, start) = (Breaker::new(), Instant::now());
        let opened = (0..2_000).find(|at| {
            let now = start + ms(*at);
            breaker.failed(&RULES, Fault::Connect, (now, now), || 0)
        });
        assert_eq!(opened, Some(100 + 200 + 400 + 800));
    }

    #[test]
    fn an_open_circuit_half_opens_and_one_call_decides() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        let open = |breaker: &mut Breaker| {
            let until = breaker.open(Fault::Late, now, RULES.eject_for, RULES.eject_for_max);
            until.duration_since(now).as_secs()
        };
        assert_eq!([(); 5].map(|()| open(&mut breaker)), [5, 10, 20, 30, 30]);
        assert!(!breaker.succeeded(), "an answer from before it opened does not close it");
        assert!(!breaker.failed(&RULES, Fault::Late, (now, now), || 0), "nor does a failure open it again");
        breaker.half_open(3);
        assert_eq!(breaker.circuit(), Circuit::HalfOpen { at_once: 3, why: Fault::Late });
        assert!(breaker.failed(&RULES, Fault::Late, (now, now), || 0));
        open(&mut breaker);
        breaker.half_open(1);
        assert!(breaker.succeeded());
        assert_eq!((breaker.circuit(), open(&mut breaker)), (Circuit::Closed, 5));
    }
}
