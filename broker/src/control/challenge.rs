//! Challenges without memory.
//!
//! ```text
//! challenge = u64 time ‖ first 24 bytes of SHA-256(label ‖ secret ‖ tag ‖ time)
//! ```
//!
//! Every part of the hashed text has a fixed length and the result is
//! truncated, so a keyed plain hash is a sound authenticator here. A challenge
//! proves that the request was made after it, for this workload, for this
//! broker process; it is good for [`CHALLENGE_LIFE`] and may be used twice in
//! that time, which gives the same process a second credential and nobody else
//! anything.

use std::time::Duration;

use bulla_identity::{UnixMillis, WorkloadTag};
use bulla_keyring::{constant_time_eq, sha256};
use bulla_process::Zeroizing;

/// The secret of one broker process.
pub(crate) struct Challenger {
    secret: Zeroizing<[u8; 32]>,
}

impl Challenger {
    pub(crate) fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self { secret }
    }

    /// A challenge for the workload with this tag.
    pub(crate) fn challenge(&self, tag: WorkloadTag, now: UnixMillis) -> [u8; 32] {
        let time = now.as_millis().to_be_bytes();
        let hash = sha256(&[LABEL, &*self.secret, tag.to_hex().as_bytes(), &time]);
        let mut challenge = [0; 32];
        for (to, from) in challenge.iter_mut().zip(time.iter().chain(&hash)) {
            *to = *from;
        }
        challenge
    }

    /// Whether we made this challenge, for this workload, lately.
    pub(crate) fn accepts(&self, challenge: &[u8; 32], tag: WorkloadTag, now: UnixMillis) -> bool {
        let Some((time, _)) = challenge.split_first_chunk::<8>() else {
            return false;
        };
        let made = UnixMillis::from_millis(u64::from_be_bytes(*time));
        let ours = self.challenge(tag, made);
        constant_time_eq(challenge, &ours)
            && made <= now
            && now.saturating_since(made) <= CHALLENGE_LIFE
    }
}

/// From challenge to request, signatures and one round trip lie between.
const CHALLENGE_LIFE: Duration = Duration::from_secs(20);

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
        assert!(ours.accepts(&challenge, tag('a'), NOW));
        assert!(ours.accepts(&challenge, tag('a'), NOW.saturating_add(CHALLENGE_LIFE)));
        assert!(!ours.accepts(&challenge, tag('b'), NOW));
        assert!(!other.accepts(&challenge, tag('a'), NOW));
        let late = NOW.saturating_add(CHALLENGE_LIFE + Duration::from_millis(1));
        assert!(!ours.accepts(&challenge, tag('a'), late));
        let early = NOW.saturating_sub(Duration::from_millis(1));
        assert!(!ours.accepts(&challenge, tag('a'), early));
    }

    #[test]
    fn every_bit_counts() {
        let ours = Challenger::new(Zeroizing::new([1; 32]));
        let challenge = ours.challenge(tag('a'), NOW);
        for bit in 0..256 {
            let mut changed = challenge;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!ours.accepts(&changed, tag('a'), NOW), "bit {bit}");
        }
    }
}
