//! When a server may be started again: back-off after early deaths, and a limit of them. Pure.
//! Not here: who starts it (`slot`).
//!
//! Only a child that died *young*, before it was of any use, counts: starting it again at once would help
//! nobody. One that worked is started again by the next call, however often it is killed.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// A child that dies within this time of being ready without an answer to any call died young.
const YOUNG: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(30);
/// Somebody who kills a starting child is no fault of the child; the next call is answered within two seconds.
const KILLED_DELAY_MAX: Duration = Duration::from_millis(500);
const DEATHS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// How a child's life went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    /// How long it was ready; `None` if it never was.
    pub(super) ready: Option<Duration>,
    /// Whether it answered a call.
    pub(super) useful: bool,
    /// Whether it was killed by SIGKILL.
    pub(super) killed: bool,
}

/// The record of one slot.
#[derive(Debug, Default)]
pub(super) struct Starts {
    deaths: VecDeque<Instant>,
    streak: u32,
    not_before: Option<Instant>,
    refused_until: Option<Instant>,
}

impl Starts {
    /// How long starts are refused from `now` on.
    pub(super) fn refused(&self, now: Instant) -> Option<Duration> {
        self.refused_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// The same while `trials` more are under way: once one died young, each of them may be the last that is allowed.
    pub(super) fn refused_with(&self, now: Instant, trials: usize) -> Option<Duration> {
        let suspect = !self.deaths.is_empty() && self.deaths.len() + trials >= DEATHS_MAX;
        self.refused(now).or_else(|| suspect.then_some(FIRST_DELAY))
    }

    /// How long the next start has to wait.
    pub(super) fn delay(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Notes a death that was not meant; `jitter` is from 0 to 1.
    pub(super) fn died(&mut self, now: Instant, life: Life, jitter: f64) {
        let young = match life.ready {
            None => true,
            Some(ready) => ready < YOUNG && !life.useful && !life.killed,
        };
        if !young {
            *self = Self::default();
            return;
        }
        self.streak = self.streak.saturating_add(1);
        let cap = if life.killed { KILLED_DELAY_MAX } else { DELAY_MAX };
        let doubled = FIRST_DELAY.saturating_mul(1 << (self.streak - 1).min(20)).min(cap);
        self.not_before = Some(now + doubled.mul_f64(0.75 + 0.25 * jitter));
        if life.killed {
            return;
        }
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|at| now.duration_since(*at) > WINDOW) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= DEATHS_MAX {
            *self = Self { refused_until: Some(now + WINDOW), ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILLBORN: Life = Life { ready: None, useful: false, killed: false };

    #[tokio::test(start_paused = true)]
    async fn early_deaths_back_off_and_are_limited_until_time_passes() {
        let mut starts = Starts::default();
        let mut delays = Vec::new();
        for _ in 0..4 {
            starts.died(Instant::now(), STILLBORN, 1.0);
            delays.push(starts.delay(Instant::now()).as_millis());
            assert_eq!(starts.refused(Instant::now()), None);
        }
        assert_eq!(delays, [100, 200, 400, 800]);
        starts.died(Instant::now(), STILLBORN, 1.0);
        assert_eq!(starts.refused(Instant::now()), Some(WINDOW));
        tokio::time::advance(WINDOW).await;
        assert_eq!(starts.refused(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn deaths_far_apart_never_reach_the_limit() {
        let mut starts = Starts::default();
        for _ in 0..20 {
            starts.died(Instant::now(), STILLBORN, 0.0);
            assert_eq!(starts.refused(Instant::now()), None);
            assert!(starts.delay(Instant::now()) <= DELAY_MAX);
            tokio::time::advance(Duration::from_secs(20)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_somebody_kills_comes_back_within_two_seconds() {
        let mut starts = Starts::default();
        let now = Instant::now();
        for n in 0..50 {
            let ready = (n % 2 == 0).then_some(Duration::from_millis(1));
            starts.died(now, Life { ready, useful: false, killed: true }, 1.0);
            assert_eq!(starts.refused(now), None);
            assert!(starts.delay(now) < Duration::from_secs(1));
        }
        starts.died(now, Life { ready: Some(Duration::ZERO), useful: true, killed: false }, 1.0);
        assert_eq!(starts.delay(now), Duration::ZERO);
    }
}
