//! The one place where the SDK reads the wall clock.

use std::time::Duration;

use bulla_identity::UnixMillis;

/// How far [`now`] may lie behind: a tick of the slowest common kernel clock.
pub(crate) const GRAIN: Duration = Duration::from_millis(10);

/// The time; a test's, where a test has one.
#[cfg(feature = "testing")]
pub(crate) fn now() -> UnixMillis {
    crate::testing::now().unwrap_or_else(wall)
}

#[cfg(not(feature = "testing"))]
pub(crate) use wall as now;

/// The time of the kernel's last tick, which is read in a few nanoseconds:
/// every message asks, and none needs it finer.
#[cfg(target_os = "linux")]
pub(crate) fn wall() -> UnixMillis {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    // Before 1970 there were no messages.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let millis = u64::try_from(time.tv_nsec / 1_000_000).unwrap_or_default();
    UnixMillis::from_millis(seconds.saturating_mul(1_000).saturating_add(millis))
}

/// The time.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wall() -> UnixMillis {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_no_more_than_a_grain_behind() {
        let exact = || {
            let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
            UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap())
        };
        let before = exact();
        let ours = now();
        let after = exact();
        assert!(ours <= after);
        assert!(ours.saturating_add(GRAIN) >= before);
    }
}
