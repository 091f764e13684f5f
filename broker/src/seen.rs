//! When this broker last read all that it goes by from the control stream.
//!
//! A broker that cannot read it does not know what was revoked meanwhile, so after
//! a while it admits nobody and issues nothing: it is silent, as one that is not
//! ready, and says so in its log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_identity::UnixMillis;
use tokio::time::Instant;

use crate::trust::CLOCK_SKEW;

/// The moment, by both clocks.
#[derive(Debug)]
pub(crate) struct Seen {
    started: Instant,
    bound: Duration,
    wall: AtomicU64,
    /// Milliseconds since the start: a clock that never moves back.
    tick: AtomicU64,
}

impl Seen {
    /// Seen now, and to be gone by for as long as `bound`.
    pub(crate) fn new(bound: Duration, now: UnixMillis) -> Self {
        let seen = Self {
            started: Instant::now(),
            bound,
            wall: AtomicU64::new(0),
            tick: AtomicU64::new(0),
        };
        seen.mark(now);
        seen
    }

    /// Everything was read now.
    pub(crate) fn mark(&self, now: UnixMillis) {
        self.wall.store(now.as_millis(), Ordering::Release);
        self.tick.store(self.ticks(), Ordering::Release);
    }

    /// Whether what was read may still be gone by.
    pub(crate) fn is_recent(&self, now: UnixMillis) -> bool {
        let wall = UnixMillis::from_millis(self.wall.load(Ordering::Acquire));
        let tick = Duration::from_millis(self.tick.load(Ordering::Acquire));
        let elapsed = self.started.elapsed().saturating_sub(tick);
        elapsed <= self.bound && now <= wall.saturating_add(self.bound).saturating_add(CLOCK_SKEW)
    }

    /// How long ago it was read, by the clock that says longer.
    pub(crate) fn age(&self, now: UnixMillis) -> Duration {
        let wall = UnixMillis::from_millis(self.wall.load(Ordering::Acquire));
        let tick = Duration::from_millis(self.tick.load(Ordering::Acquire));
        let elapsed = self.started.elapsed().saturating_sub(tick);
        elapsed.max(now.saturating_since(wall))
    }

    /// Between two looks, so that there are several within the bound.
    pub(crate) fn longest_pause(&self) -> Duration {
        self.bound / 4
    }

    fn ticks(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_read_counts_for_the_bound_by_both_clocks() {
        let now = UnixMillis::from_secs(1_000);
        let after = |seconds| now.saturating_add(Duration::from_secs(seconds));
        let seen = Seen::new(Duration::from_secs(60), now);
        assert!(seen.is_recent(now));
        // The wall clock jumps ahead, or was stopped with the machine.
        assert!(!seen.is_recent(after(60 + CLOCK_SKEW.as_secs() + 1)));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(seen.is_recent(after(60)));
        tokio::time::advance(Duration::from_millis(10)).await;
        // The wall clock was set back.
        assert!(!seen.is_recent(now));
        seen.mark(after(61));
        assert!(seen.is_recent(after(61)));
    }
}
