//! The hours of the week at which a rule counts.

use std::fmt;

use bulla_identity::UnixMillis;

/// Minutes of a week; it begins on Monday at 00:00 UTC.
pub(crate) const WEEK: u32 = 7 * DAY;
/// Minutes of a day.
pub(crate) const DAY: u32 = 24 * 60;

const MINUTE_MILLIS: u64 = 60_000;
/// The epoch was a Thursday.
const EPOCH: u64 = 3 * DAY as u64;

/// Parts of the week, the same in every week. Equal hours are equal values,
/// however they were written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// From the first minute to before the last, sorted, neither overlapping
    /// nor touching, within one week; never all of it.
    parts: Box<[(u32, u32)]>,
}

impl Schedule {
    /// The union of spans of minutes, each `(first, length)`, which may reach
    /// over the end of the week. `None` if they are the whole week.
    pub(crate) fn of(spans: impl IntoIterator<Item = (u32, u32)>) -> Option<Self> {
        let mut cut = Vec::new();
        for (start, length) in spans {
            let start = start % WEEK;
            let end = start + length.min(WEEK);
            cut.push((start, end.min(WEEK)));
            if end > WEEK {
                cut.push((0, end - WEEK));
            }
        }
        cut.sort_unstable();
        let mut parts: Vec<(u32, u32)> = Vec::new();
        for (start, end) in cut {
            match parts.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => parts.push((start, end)),
            }
        }
        let whole = matches!(*parts, [(0, WEEK)]);
        (!whole).then(|| Self {
            parts: parts.into(),
        })
    }

    /// Whether the moment lies in it.
    #[must_use]
    pub fn holds(&self, now: UnixMillis) -> bool {
        let minute = minute_of_week(now);
        self.parts
            .iter()
            .any(|(start, end)| (*start..*end).contains(&minute))
    }

    /// Whether all of it lies in `other`.
    pub(crate) fn within(&self, other: &Self) -> bool {
        let mut parts = self.parts.iter();
        parts.all(|(a, b)| other.parts.iter().any(|(c, d)| c <= a && b <= d))
    }

    /// Whether some of it lies in `other`.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let mut parts = self.parts.iter();
        parts.any(|(a, b)| other.parts.iter().any(|(c, d)| c < b && a < d))
    }

    /// When, after `now`, it next begins or ends. Never, if it is empty.
    #[must_use]
    pub fn next_change(&self, now: UnixMillis) -> Option<UnixMillis> {
        let minute = minute_of_week(now);
        let edges = || self.parts.iter().flat_map(|(start, end)| [*start, *end]);
        // What ends with the week and begins with it again does not change.
        let seamless = edges().next() == Some(0) && edges().next_back() == Some(WEEK);
        let edges = || edges().filter(|edge| !(seamless && matches!(edge, 0 | &WEEK)));
        let wait = edges()
            .map(|edge| (edge + WEEK - 1 - minute) % WEEK + 1)
            .min()?;
        let began = now.as_millis() / MINUTE_MILLIS;
        let at = began.checked_add(u64::from(wait))?;
        at.checked_mul(MINUTE_MILLIS).map(UnixMillis::from_millis)
    }
}

fn minute_of_week(now: UnixMillis) -> u32 {
    let minutes = now.as_millis() / MINUTE_MILLIS + EPOCH;
    u32::try_from(minutes % u64::from(WEEK)).unwrap_or_default()
}

impl fmt::Display for Schedule {
    /// In UTC, as `mon 07:00–17:00, tue 07:00–17:00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAYS: [&str; 8] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun", "mon"];
        let day = |minute: u32| DAYS.get((minute / DAY) as usize).copied().unwrap_or("mon");
        for (i, (start, end)) in self.parts.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            let (from, to) = (start % DAY, end % DAY);
            write!(
                f,
                "{comma}{} {:02}:{:02}–",
                day(*start),
                from / 60,
                from % 60
            )?;
            if end - start <= DAY && to == 0 {
                f.write_str("24:00")?;
            } else {
                if start / DAY != end / DAY {
                    write!(f, "{} ", day(*end))?;
                }
                write!(f, "{:02}:{:02}", to / 60, to % 60)?;
            }
        }
        f.write_str(" UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-23 was a Monday.
    const MONDAY: u64 = 1_795_392_000;

    fn at(minutes: u64) -> UnixMillis {
        UnixMillis::from_secs(MONDAY + minutes * 60)
    }

    #[test]
    fn the_week_begins_on_monday() {
        assert_eq!(minute_of_week(at(0)), 0);
        let monday_morning = Schedule::of([(8 * 60, 60)]).unwrap();
        assert!(!monday_morning.holds(at(8 * 60 - 1)));
        assert!(monday_morning.holds(at(8 * 60)));
        assert!(monday_morning.holds(at(9 * 60 - 1)));
        assert!(!monday_morning.holds(at(9 * 60)));
        assert_eq!(monday_morning.to_string(), "mon 08:00–09:00 UTC");
        assert_eq!(monday_morning.next_change(at(0)), Some(at(8 * 60)));
        assert_eq!(monday_morning.next_change(at(8 * 60)), Some(at(9 * 60)));
        assert_eq!(
            monday_morning.next_change(at(9 * 60)),
            Some(at(u64::from(WEEK) + 8 * 60))
        );
    }

    #[test]
    fn the_end_of_the_week_is_no_edge() {
        // Sunday 22:00 to Monday 06:00.
        let night = Schedule::of([(WEEK - 120, 8 * 60)]).unwrap();
        assert!(night.holds(at(0)) && night.holds(at(u64::from(WEEK) - 1)));
        assert_eq!(
            night.next_change(at(u64::from(WEEK) - 120)),
            Some(at(u64::from(WEEK) + 6 * 60))
        );
        assert_eq!(Schedule::of([(0, WEEK / 2), (WEEK / 2, WEEK / 2)]), None);
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        let schedule = Schedule::of([(0, 1)]).unwrap();
        let _ = schedule.next_change(UnixMillis::from_millis(u64::MAX));
        let _ = schedule.holds(UnixMillis::from_millis(u64::MAX));
    }

    proptest! {
        /// Minute by minute, over two weeks.
        #[test]
        fn changes_are_where_it_changes(
            spans in proptest::collection::vec((0..WEEK, 1..3 * DAY), 1..4),
            now in 0..u64::from(WEEK),
        ) {
            let Some(schedule) = Schedule::of(spans.iter().copied()) else { return Ok(()) };
            let plain = |minute: u64| {
                let minute = (minute % u64::from(WEEK)) as u32;
                spans.iter().any(|(start, len)| (minute + WEEK - start) % WEEK < *len)
            };
            prop_assert_eq!(schedule.holds(at(now)), plain(now));
            let first = (now + 1..now + 2 * u64::from(WEEK)).find(|m| plain(*m) != plain(now));
            prop_assert_eq!(schedule.next_change(at(now)), first.map(at));
        }
    }
}
