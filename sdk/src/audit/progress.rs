//! How far a chain's writer has come.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_identity::UnixMillis;

use super::StoreError;

/// How a writer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditState {
    /// Entries that wait to be put into the chain.
    pub waiting: ByKind,
    /// Entries that were left out so far.
    pub lost: ByKind,
    /// When what is not in the stream yet came first; nothing if all of it is there.
    pub behind_since: Option<UnixMillis>,
    /// Entries that the stream has acknowledged.
    pub stored: u64,
    /// Gaps that were told as entries.
    pub gaps: u64,
    /// Attempts to store that nobody answered.
    pub unreachable: u64,
    /// Attempts to store that were refused.
    pub refused: u64,
}

impl AuditState {
    /// For how long what came first waits already.
    #[must_use]
    pub fn lag(&self, now: UnixMillis) -> Duration {
        self.behind_since
            .map_or(Duration::ZERO, |since| now.saturating_since(since))
    }
}

/// A number for each kind of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByKind {
    /// Refusals.
    pub denies: u64,
    /// Sampled allows.
    pub allows: u64,
    /// Everything else.
    pub others: u64,
}

impl From<[u64; 3]> for ByKind {
    fn from([denies, allows, others]: [u64; 3]) -> Self {
        Self {
            denies,
            allows,
            others,
        }
    }
}

/// What the writer's task counts.
#[derive(Default)]
pub(super) struct Progress {
    /// 0 if nothing waits in the task's hands.
    behind_since: AtomicU64,
    stored: AtomicU64,
    gaps: AtomicU64,
    unreachable: AtomicU64,
    refused: AtomicU64,
}

impl Progress {
    /// The first of what is in the task's hands came then.
    pub(super) fn took(&self, at: UnixMillis) {
        let at = at.as_millis().max(1);
        // What is older stays.
        let _ = self
            .behind_since
            .compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// So many entries were stored, of which `left` are still in hand.
    pub(super) fn stored(&self, count: usize, left: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.stored.fetch_add(count, Ordering::Relaxed);
        if left == 0 {
            self.behind_since.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, error: StoreError) {
        let count = match error {
            StoreError::Unreachable => &self.unreachable,
            StoreError::Refused => &self.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn state(&self) -> AuditState {
        let behind_since = self.behind_since.load(Ordering::Relaxed);
        AuditState {
            behind_since: (behind_since > 0).then(|| UnixMillis::from_millis(behind_since)),
            stored: self.stored.load(Ordering::Relaxed),
            gaps: self.gaps.load(Ordering::Relaxed),
            unreachable: self.unreachable.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            ..AuditState::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_waits_says_how_far_behind_it_is() {
        let progress = Progress::default();
        let at = UnixMillis::from_secs;
        assert_eq!(progress.state(), AuditState::default());
        progress.took(at(100));
        progress.took(at(160));
        progress.failed(StoreError::Refused);
        progress.stored(3, 2);
        let state = progress.state();
        assert_eq!((state.stored, state.refused), (3, 1));
        assert_eq!(state.lag(at(170)), Duration::from_secs(70));
        progress.stored(2, 0);
        assert_eq!(progress.state().lag(at(170)), Duration::ZERO);
    }
}
