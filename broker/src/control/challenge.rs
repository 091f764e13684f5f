//! Challenges without memory.
//!
//! ```text
//! challenge = SHA-256(label ‖ secret ‖ tag ‖ slot)      slot = time / 10 s
//! ```
//!
//! Every part of the hashed text has a fixed length and the secret never leaves
//! the process, so a keyed plain hash is a sound authenticator here. A request
//! that answers one was made after the slot began, for this workload and for
//! this broker process. A challenge is good for 20 to 30 s; used twice in that
//! time it gives the same process a second credential, and nobody else anything.

use std::time::Duration;

use bulla_identity::{UnixMillis, WorkloadTag};
use bulla_keyring::sha256;
use bulla_process::Zeroizing;

/// The secret of one broker process.
pub(crate) struct Challenger {
    secret: Zeroizing<[u8; 32]>,
}

impl Challenger {
    pub(crate) fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self { secret }
    }

    /// The challenge for the workload with this tag.
    pub(crate) fn challenge(&self, tag: WorkloadTag, now: UnixMillis) -> [u8; 32] {
        self.of_slot(tag, slot(now))
    }

    /// Every challenge that may be answered now, newest first.
    pub(crate) fn acceptable(&self, tag: WorkloadTag, now: UnixMillis) -> [[u8; 32]; 3] {
        let newest = slot(now);
        [0, 1, 2].map(|age| self.of_slot(tag, newest.saturating_sub(age)))
    }

    fn of_slot(&self, tag: WorkloadTag, slot: u64) -> [u8; 32] {
        let tag = tag.to_hex();
        sha256(&[LABEL, &*self.secret, tag.as_bytes(), &slot.to_be_bytes()])
    }
}

fn slot(time: UnixMillis) -> u64 {
    time.as_secs() / SLOT_SECONDS
}

const SLOT_SECONDS: u64 = 10;

/// The oldest that an acceptable challenge can be.
pub(crate) const CHALLENGE_LIFE: Duration = Duration::from_secs(3 * SLOT_SECONDS);

const LABEL: &[u8] = b"bulla/v1/challenge\0";

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

    fn tag(byte: char) -> WorkloadTag {
        WorkloadTag::parse(&byte.to_string().repeat(32)).unwrap()
    }

    #[test]
    fn a_challenge_is_good_for_its_workload_and_broker_and_a_while() {
        let ours = Challenger::new(Zeroizing::new([1; 32]));
        let other = Challenger::new(Zeroizing::new([2; 32]));
        let challenge = ours.challenge(tag('a'), NOW);
        let after = |seconds| NOW.saturating_add(Duration::from_secs(seconds));
        assert!(ours.acceptable(tag('a'), NOW).contains(&challenge));
        assert!(ours.acceptable(tag('a'), after(20)).contains(&challenge));
        assert!(!ours.acceptable(tag('a'), after(30)).contains(&challenge));
        assert!(!ours.acceptable(tag('b'), NOW).contains(&challenge));
        assert!(!other.acceptable(tag('a'), NOW).contains(&challenge));
        let before = NOW.saturating_sub(Duration::from_secs(10));
        assert!(!ours.acceptable(tag('a'), before).contains(&challenge));
    }
}
