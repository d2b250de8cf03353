//! A bound on how often one child may speak in our log.
//! Not here: what is logged (`child`).

use std::time::Duration;

use tokio::time::Instant;

/// Lines of one kind that one child may put into the log within [`WINDOW`]: a traceback fits.
const LINES_MAX: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);

/// Counts the lines of one kind.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    since: Option<Instant>,
    told: u32,
    dropped: u64,
}

impl Quiet {
    /// Whether the next line may be logged, and how many were not since the last one that was.
    pub(super) fn admit(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told >= LINES_MAX {
            self.dropped += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_cut_and_the_next_line_tells_how_much() {
        let mut quiet = Quiet::default();
        assert_eq!((0..60).filter_map(|_| quiet.admit()).count(), 50);
        tokio::time::advance(WINDOW).await;
        assert_eq!(quiet.admit(), Some(10));
    }
}
