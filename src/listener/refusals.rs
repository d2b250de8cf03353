//! Audit lines of connections that are refused before anything is asked on them.
//! Not here: why they are (`accept`); refusals of requests (`proxy/record`, `control/audit`).
//!
//! Whoever knocks ten thousand times must not write ten thousand lines: of each reason there is one in a second, with
//! the number of those since the line before it.

use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::telemetry::{Audit, Cut};

/// Time between two lines with the same reason.
const PERIOD: Duration = Duration::from_secs(1);
/// Reasons that are told of. The others are deadlines: nobody was refused.
const TOLD: [Cut; 5] = [Cut::Full, Cut::Address, Cut::Network, Cut::ProxyProtocol, Cut::Tls];

/// Tells of the refusals of one listener.
pub(super) struct Refusals {
    listener: String,
    audit: Audit,
    latest: Mutex<[Latest; TOLD.len()]>,
}

/// Of one reason.
#[derive(Debug, Clone, Copy, Default)]
struct Latest {
    told: Option<Instant>,
    /// Refusals since then that no line tells of.
    suppressed: u64,
}

impl Latest {
    /// Whether a refusal is told of, and if so how many were not since the last that was.
    fn refused(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.duration_since(told) < PERIOD) {
            self.suppressed += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Refusals {
    pub(super) fn new(listener: &str, audit: Audit) -> Self {
        Self { listener: listener.to_owned(), audit, latest: Mutex::default() }
    }

    /// A connection from `client` was refused.
    pub(super) fn tell(&self, cut: Cut, client: SocketAddr) {
        let Some(at) = TOLD.iter().position(|told| *told == cut) else { return };
        let suppressed = self.latest.lock().get_mut(at).and_then(|latest| latest.refused(Instant::now()));
        let Some(suppressed) = suppressed else { return };
        self.audit.write("refused", |line| {
            let line = line.text("reason", cut.as_str()).text("listener", &self.listener);
            line.plain("client", client.ip()).number("suppressed", suppressed)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_in_a_second_with_the_number_of_the_others() {
        let (mut latest, start) = (Latest::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for (millis, want) in [
            (0, Some(0)),
            (1, None),
            (999, None),
            (1000, Some(2)),
            (1500, None),
            (5000, Some(1)),
            (6000, Some(0)),
        ] {
            assert_eq!(latest.refused(at(millis)), want, "{millis}");
        }
    }
}
