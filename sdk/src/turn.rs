//! How much a task receives before it lets others run.

use std::time::{Duration, Instant};

/// So many messages at most.
const MESSAGES: u32 = 512;
/// How often the time is looked at, in messages.
const LOOK: u32 = 64;
/// So long at most, as far as it is looked at.
const LONG: Duration = Duration::from_millis(1);

/// What a task has received since others could last run.
///
/// The runtime's own measure is 128 operations, whatever each of them takes. That is
/// neither: a frame is one operation and 64 messages, so others on the same thread would
/// wait for 8,192 of them; and a receiver that gives way every 128 envelopes, a sixth of
/// a millisecond, falls behind senders that do more in a turn of theirs.
pub(crate) struct Turn {
    received: u32,
    /// When the first was.
    since: Instant,
}

impl Turn {
    pub(crate) fn new(now: Instant) -> Self {
        let received = 0;
        let since = now;
        Self { received, since }
    }

    /// Another message is wanted: whether others are to run before it, and a new turn
    /// begins.
    pub(crate) fn is_over(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let is_over = match self.received {
            0 => {
                self.since = now();
                false
            }
            MESSAGES.. => true,
            received if received.is_multiple_of(LOOK) => {
                now().saturating_duration_since(self.since) >= LONG
            }
            _ => false,
        };
        self.received = if is_over { 0 } else { self.received + 1 };
        is_over
    }

    /// Others have run, because there was nothing to receive.
    pub(crate) fn begin(&mut self) {
        self.received = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many messages a turn has, if each takes so long.
    fn len(each: Duration) -> u32 {
        let start = Instant::now();
        let mut turn = Turn::new(start);
        let lens: Vec<u32> = (0..3)
            .map(|_| {
                let mut received = 0;
                while !turn.is_over(|| start + each * received) {
                    received += 1;
                }
                received
            })
            .collect();
        assert!(lens.iter().all(|len| *len == lens[0]), "{lens:?}");
        lens[0]
    }

    #[test]
    fn a_turn_is_bounded_by_number_and_by_time() {
        assert_eq!(len(Duration::ZERO), 512);
        assert_eq!(len(Duration::from_nanos(1_500)), 512);
        assert_eq!(len(Duration::from_micros(5)), 256);
        assert_eq!(len(Duration::from_micros(20)), 64);
        assert_eq!(len(Duration::from_secs(1)), 64);
    }

    #[test]
    fn who_had_to_wait_begins_a_turn() {
        let mut turn = Turn::new(Instant::now());
        for _ in 0..10_000 {
            assert!(!turn.is_over(Instant::now));
            turn.begin();
        }
    }
}
