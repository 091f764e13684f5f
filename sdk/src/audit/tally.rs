//! How often grants are used, counted one by one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bulla_policy::RuleUse;
use parking_lot::Mutex;

/// Grants that a process counts one by one; uses of others are counted together.
const MAX_TALLIES: usize = 4_096;

/// The uses of one grant. Counting takes one addition and one comparison.
pub(crate) struct Tally {
    rule: Box<str>,
    verb: Box<str>,
    pattern: Box<str>,
    every: u64,
    count: AtomicU64,
    told: AtomicU64,
    /// At this count the next use is recorded.
    next: AtomicU64,
}

impl Tally {
    pub(crate) fn new(rule: &str, verb: &str, pattern: &str, every: u64) -> Self {
        Self {
            rule: rule.into(),
            verb: verb.into(),
            pattern: pattern.into(),
            every,
            count: AtomicU64::new(0),
            told: AtomicU64::new(0),
            next: AtomicU64::new(0),
        }
    }

    /// Whether it is of this rule.
    pub(crate) fn is_of(&self, rule: &str) -> bool {
        *self.rule == *rule
    }

    /// Counts one use.
    #[inline]
    pub(crate) fn count(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this use is one that is recorded.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        let (count, next) = (
            self.count.load(Ordering::Relaxed),
            self.next.load(Ordering::Relaxed),
        );
        count >= next && self.take(next, count)
    }

    #[cold]
    fn take(&self, next: u64, count: u64) -> bool {
        let then = count.saturating_add(self.every);
        self.next
            .compare_exchange(next, then, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// The next use is recorded.
    pub(crate) fn renew(&self) {
        self.next.store(0, Ordering::Relaxed);
    }
}

/// All grants that were used.
pub(super) struct Tallies {
    every: u64,
    by_name: Mutex<HashMap<String, Arc<Tally>>>,
    uncounted: AtomicU64,
}

impl Tallies {
    pub(super) fn new(every: u64) -> Self {
        Self {
            every,
            by_name: Mutex::default(),
            uncounted: AtomicU64::new(0),
        }
    }

    pub(super) fn of(&self, rule: &str, verb: &str, pattern: &str) -> Option<Arc<Tally>> {
        let name = format!("{rule}\n{verb}\n{pattern}");
        let mut by_name = self.by_name.lock();
        if let Some(tally) = by_name.get(&name) {
            return Some(Arc::clone(tally));
        }
        if by_name.len() >= MAX_TALLIES {
            self.uncounted.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let tally = Arc::new(Tally::new(rule, verb, pattern, self.every));
        by_name.insert(name, Arc::clone(&tally));
        Some(tally)
    }

    /// The uses since the last time, and those of grants that are not counted. The
    /// next use of each is recorded.
    pub(super) fn take(&self, workload: &str) -> (Vec<RuleUse>, u64) {
        let mut uses = Vec::new();
        for tally in self.by_name.lock().values() {
            tally.renew();
            let count = tally.count.load(Ordering::Relaxed);
            let before = tally.told.swap(count, Ordering::Relaxed);
            if count > before {
                uses.push(RuleUse {
                    workload: workload.to_owned(),
                    rule: tally.rule.to_string(),
                    verb: tally.verb.to_string(),
                    pattern: tally.pattern.to_string(),
                    count: count - before,
                });
            }
        }
        uses.sort();
        (uses, self.uncounted.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_is_recorded_and_the_first_after_each_report() {
        let tallies = Tallies::new(100);
        let tally = tallies.of("r", "publish", "a.*").unwrap();
        let use_it = |times: usize| {
            (0..times)
                .filter(|_| {
                    tally.count();
                    tally.is_due()
                })
                .count()
        };
        assert_eq!(use_it(1), 1);
        assert_eq!(use_it(99), 0);
        assert_eq!(use_it(1), 1);
        assert_eq!(use_it(200), 2);
        let (uses, uncounted) = tallies.take("orders");
        assert_eq!((uses.len(), uses[0].count, uncounted), (1, 301, 0));
        assert!(tallies.take("orders").0.is_empty());
        assert_eq!(use_it(2), 1);
        assert_eq!(tallies.take("orders").0[0].count, 2);
    }

    #[test]
    fn what_is_not_counted_is_told_as_a_number() {
        let tallies = Tallies::new(1);
        for n in 0..MAX_TALLIES {
            assert!(tallies.of(&n.to_string(), "v", "p").is_some());
        }
        assert!(tallies.of("one more", "v", "p").is_none());
        assert!(tallies.of("0", "v", "p").is_some());
        assert_eq!(tallies.take("w").1, 1);
    }
}
