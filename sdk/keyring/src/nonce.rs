//! Nonces for the ciphers of bodies: never the same twice under one key.
//!
//! ```text
//! nonce (12 bytes) = lane (4, big endian) ‖ counter (8, big endian)
//! ```
//!
//! They are counted, not drawn: 96 random bits collide too soon
//! ([RFC 8439 §2.8] asks for uniqueness, not for randomness). Each data key has
//! one [`NonceLanes`], each thread that seals one [`NonceLane`] of it, so that
//! threads share no counter.
//!
//! [RFC 8439 §2.8]: https://www.rfc-editor.org/rfc/rfc8439#section-2.8

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Length of a nonce, in bytes.
pub const NONCE_LEN: usize = 12;

/// One nonce that was not used yet.
///
/// It cannot be copied, and sealing consumes it: using one twice does not
/// compile.
pub struct Nonce([u8; NONCE_LEN]);

/// Why there is no further nonce. The key must be retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NonceError {
    /// The counter of the lane, or the number of lanes, is used up.
    #[error("the nonces of the data key are used up")]
    Exhausted,
    /// The process is a copy of the one that made the key (`fork`), and the
    /// other goes on counting where this one would.
    #[error("the process was forked after the data key was made")]
    Forked,
}

impl NonceError {
    /// A stable name for metrics and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Exhausted => "nonces_exhausted",
            Self::Forked => "nonces_forked",
        }
    }
}

/// The lanes of one data key.
///
/// # Security
/// Make exactly one for each data key, together with the key, and never one for
/// a key that came from somebody else. A process that is *snapshotted* and
/// resumed twice repeats its nonces like a forked one and cannot be told from
/// its twin by its process id.
#[derive(Debug)]
pub struct NonceLanes {
    process: u32,
    next: AtomicU32,
}

/// A counter of nonces that no other lane gives out. May be shared by threads.
#[derive(Debug)]
pub struct NonceLane {
    process: u32,
    lane: u32,
    next: AtomicU64,
}

/// Nonces that were taken together, for one batch; see [`NonceLane::take_many`].
#[derive(Debug)]
pub struct Nonces {
    lane: u32,
    counters: std::ops::Range<u64>,
}

impl Nonce {
    const fn new(lane: u32, counter: u64) -> Self {
        let [l0, l1, l2, l3] = lane.to_be_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = counter.to_be_bytes();
        Self([l0, l1, l2, l3, c0, c1, c2, c3, c4, c5, c6, c7])
    }

    /// The bytes, for the header.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; NONCE_LEN] {
        &self.0
    }

    /// The nonce of a key that is made for one text and encrypts no other.
    pub(crate) const fn only() -> Self {
        Self([0; NONCE_LEN])
    }

    #[cfg(test)]
    pub(crate) const fn from_bytes(bytes: [u8; NONCE_LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl NonceLanes {
    /// The lanes of a new data key. `process` is the id of this process.
    #[must_use]
    pub const fn new(process: u32) -> Self {
        Self {
            process,
            next: AtomicU32::new(0),
        }
    }

    /// A new lane. `process` is the id of this process *now*.
    ///
    /// # Errors
    /// [`NonceError::Forked`] in a copy of the process that made the key;
    /// [`NonceError::Exhausted`] after 2³² − 1 lanes.
    pub fn lane(&self, process: u32) -> Result<NonceLane, NonceError> {
        if process != self.process {
            return Err(NonceError::Forked);
        }
        let lane = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |lane| {
                lane.checked_add(1)
            })
            .map_err(|_| NonceError::Exhausted)?;
        Ok(NonceLane {
            process,
            lane,
            next: AtomicU64::new(0),
        })
    }
}

impl NonceLane {
    /// The next nonce. `process` is the id of this process *now*.
    ///
    /// # Errors
    /// [`NonceError::Forked`] in a copy of the process that made the lane;
    /// [`NonceError::Exhausted`] after 2⁶⁴ − 1 nonces.
    pub fn take(&self, process: u32) -> Result<Nonce, NonceError> {
        let counter = self.advance(process, 1)?;
        Ok(Nonce::new(self.lane, counter))
    }

    /// The next `count` nonces, all of them or none: one look at the process id
    /// (a system call) for a whole batch.
    ///
    /// # Errors
    /// As [`NonceLane::take`].
    pub fn take_many(&self, process: u32, count: u32) -> Result<Nonces, NonceError> {
        let count = u64::from(count);
        let first = self.advance(process, count)?;
        Ok(Nonces {
            lane: self.lane,
            counters: first..first.saturating_add(count),
        })
    }

    /// How many nonces were taken so far.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    fn advance(&self, process: u32, count: u64) -> Result<u64, NonceError> {
        if process != self.process {
            return Err(NonceError::Forked);
        }
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                next.checked_add(count)
            })
            .map_err(|_| NonceError::Exhausted)
    }

    #[cfg(test)]
    fn starting_at(self, counter: u64) -> Self {
        self.next.store(counter, Ordering::Relaxed);
        self
    }
}

impl Iterator for Nonces {
    type Item = Nonce;

    fn next(&mut self) -> Option<Nonce> {
        Some(Nonce::new(self.lane, self.counters.next()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.counters.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const PROCESS: u32 = 4711;

    #[test]
    fn bytes_are_lane_and_counter() {
        let lanes = NonceLanes::new(PROCESS);
        let first = lanes.lane(PROCESS).unwrap();
        let second = lanes.lane(PROCESS).unwrap();
        let bytes = |lane: &NonceLane| *lane.take(PROCESS).unwrap().as_bytes();
        assert_eq!(bytes(&first), [0; 12]);
        assert_eq!(bytes(&first), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(bytes(&second), [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let far = second.starting_at(0x0102_0304_0506_0708);
        assert_eq!(bytes(&far), [0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn no_nonce_comes_twice_across_threads() {
        let lanes = NonceLanes::new(PROCESS);
        let shared = lanes.lane(PROCESS).unwrap();
        let seen: Vec<[u8; 12]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let own = lanes.lane(PROCESS).unwrap();
                        let mut seen = Vec::new();
                        for _ in 0..500 {
                            seen.push(*own.take(PROCESS).unwrap().as_bytes());
                            seen.push(*shared.take(PROCESS).unwrap().as_bytes());
                            let batch = shared.take_many(PROCESS, 3).unwrap();
                            seen.extend(batch.map(|nonce| *nonce.as_bytes()));
                        }
                        seen
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(seen.len(), 8 * 500 * 5);
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len());
    }

    #[test]
    fn an_exhausted_lane_stays_exhausted() {
        let lanes = NonceLanes::new(PROCESS);
        let lane = lanes.lane(PROCESS).unwrap().starting_at(u64::MAX - 2);
        assert_eq!(
            lane.take_many(PROCESS, 3).unwrap_err(),
            NonceError::Exhausted,
            "all or none"
        );
        let last: Vec<_> = lane.take_many(PROCESS, 2).unwrap().collect();
        assert_eq!(last.len(), 2);
        for _ in 0..3 {
            assert_eq!(lane.take(PROCESS).unwrap_err(), NonceError::Exhausted);
        }
    }

    #[test]
    fn exhausted_lanes_stay_exhausted() {
        let lanes = NonceLanes::new(PROCESS);
        lanes.next.store(u32::MAX - 1, Ordering::Relaxed);
        assert!(lanes.lane(PROCESS).is_ok());
        for _ in 0..3 {
            assert_eq!(lanes.lane(PROCESS).unwrap_err(), NonceError::Exhausted);
        }
    }

    #[test]
    fn a_forked_process_gets_none() {
        let lanes = NonceLanes::new(PROCESS);
        let lane = lanes.lane(PROCESS).unwrap();
        let child = PROCESS + 1;
        assert_eq!(lanes.lane(child).unwrap_err(), NonceError::Forked);
        assert_eq!(lane.take(child).unwrap_err(), NonceError::Forked);
        assert_eq!(lane.take_many(child, 2).unwrap_err(), NonceError::Forked);
        assert!(lane.take(PROCESS).is_ok(), "the parent goes on");
    }
}
