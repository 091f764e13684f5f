//! How often a workload may ask for a credential: a token bucket for each tag.
//!
//! A credential lies on the control stream until it expires, so a workload that
//! asks without end would fill it. Every request counts, also one that is
//! refused later: it costs signatures to find that out.

use std::collections::HashMap;
use std::time::Duration;

use bulla_identity::{UnixMillis, WorkloadTag};

/// The buckets of one broker process, at most `capacity`.
#[derive(Debug)]
pub(crate) struct Quota {
    buckets: HashMap<WorkloadTag, Bucket>,
    capacity: usize,
    /// One more request is allowed in this time.
    refill: Duration,
}

/// How full it is, as the time that filling it took.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: Duration,
    at: UnixMillis,
}

impl Quota {
    /// Room for one credential a second.
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with_rate(capacity, REFILL)
    }

    pub(crate) fn with_rate(capacity: usize, refill: Duration) -> Self {
        Self {
            buckets: HashMap::new(),
            capacity,
            refill,
        }
    }

    /// Whether the workload with this tag may ask once more, now.
    ///
    /// nats-server lets nobody ask under another's tag, so only workloads that
    /// could connect have buckets here. If there are more than fit, and none is
    /// full again, new ones may not ask.
    pub(crate) fn take(&mut self, tag: WorkloadTag, now: UnixMillis) -> bool {
        let full = self.refill.saturating_mul(BURST);
        if !self.buckets.contains_key(&tag) && self.buckets.len() >= self.capacity {
            // A full bucket says as much as none.
            self.buckets
                .retain(|_, bucket| bucket.level(now, full) < full);
            if self.buckets.len() >= self.capacity {
                return false;
            }
        }
        let bucket = self.buckets.entry(tag).or_insert(Bucket {
            level: full,
            at: now,
        });
        let left = bucket.level(now, full).checked_sub(self.refill);
        // A clock that was set back fills nothing until it runs on from there.
        bucket.level = left.unwrap_or(bucket.level(now, full));
        bucket.at = now;
        left.is_some()
    }
}

impl Bucket {
    fn level(&self, now: UnixMillis, full: Duration) -> Duration {
        let since = now.saturating_since(self.at);
        self.level.saturating_add(since).min(full)
    }
}

/// One more request is allowed in this time.
const REFILL: Duration = Duration::from_secs(1);

/// What may be asked at once by a workload that has long not asked: the
/// replicas of a service that start together.
const BURST: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

    fn tag(number: u8) -> WorkloadTag {
        WorkloadTag::parse(&format!("{number:02x}").repeat(16)).unwrap()
    }

    fn after(millis: u64) -> UnixMillis {
        NOW.saturating_add(Duration::from_millis(millis))
    }

    fn granted(quota: &mut Quota, tag: WorkloadTag, now: UnixMillis) -> usize {
        (0..1_000).filter(|_| quota.take(tag, now)).count()
    }

    #[test]
    fn a_burst_and_then_one_each_second() {
        let mut quota = Quota::new(10);
        assert_eq!(granted(&mut quota, tag(1), NOW), 64);
        assert_eq!(granted(&mut quota, tag(1), after(999)), 0);
        assert_eq!(granted(&mut quota, tag(1), after(1_000)), 1);
        assert_eq!(granted(&mut quota, tag(1), after(3_500)), 2);
        assert_eq!(
            granted(&mut quota, tag(1), after(4_000)),
            1,
            "halves add up"
        );
        assert_eq!(granted(&mut quota, tag(1), after(1_000_000)), 64);
    }

    #[test]
    fn workloads_do_not_take_from_each_other() {
        let mut quota = Quota::new(10);
        granted(&mut quota, tag(1), NOW);
        assert_eq!(granted(&mut quota, tag(2), NOW), 64);
    }

    #[test]
    fn a_clock_that_is_set_back_grants_nothing_and_blocks_nobody() {
        let mut quota = Quota::new(10);
        granted(&mut quota, tag(1), after(100_000));
        assert_eq!(granted(&mut quota, tag(1), NOW), 0);
        assert_eq!(granted(&mut quota, tag(1), after(1_000)), 1);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_only_full_buckets() {
        let mut quota = Quota::new(2);
        assert_eq!(granted(&mut quota, tag(1), NOW), 64);
        assert!(quota.take(tag(2), NOW));
        assert!(!quota.take(tag(3), NOW), "no room, and none is full");
        assert!(quota.take(tag(3), after(1_000)), "the second is full again");
        assert_eq!(quota.buckets.len(), 2);
        assert_eq!(
            granted(&mut quota, tag(1), after(1_000)),
            1,
            "not forgotten"
        );
    }
}
