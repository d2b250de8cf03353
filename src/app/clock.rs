//! The wall clock, compared with the one that only goes forward: a jump is told, since it makes tokens good or bad.
//! Not here: what goes by the wall clock (tokens in `auth`, the age of sessions in `session`); deadlines and buckets do not.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::telemetry::Audit;

/// How often the two are compared.
const LOOK: Duration = Duration::from_secs(1);
/// What a time server may correct without being told of.
const JUMP: Duration = Duration::from_secs(2);

/// Compares until `stopping` turns true.
pub(super) async fn watch(audit: &Audit, mut stopping: watch::Receiver<bool>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = (SystemTime::now(), Instant::now());
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let now = (SystemTime::now(), Instant::now());
        let (by, ahead) = off(last.0 + now.1.duration_since(last.1), now.0);
        last = now;
        if by >= JUMP {
            let jump = format!("{}{} s", if ahead { '+' } else { '-' }, by.as_secs());
            tracing::warn!(%jump, "the clock jumped: tokens and sessions are judged by the new time");
            audit.write("clock", |line| line.text("reason", "jumped").text("jump", &jump));
        }
    }
}

/// How far `now` is from what it should be, and whether it is ahead.
fn off(expected: SystemTime, now: SystemTime) -> (Duration, bool) {
    match now.duration_since(expected) {
        Ok(ahead) => (ahead, true),
        Err(behind) => (behind.duration(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_which_way_a_clock_went() {
        let (hour, day) = (Duration::from_secs(3600), SystemTime::UNIX_EPOCH + Duration::from_secs(86_400));
        assert_eq!(off(day, day + hour), (hour, true));
        assert_eq!(off(day, day - hour), (hour, false));
        assert_eq!(off(day, day), (Duration::ZERO, true));
    }
}
