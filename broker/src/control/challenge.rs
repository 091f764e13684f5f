//! Challenges without memory.
//!
//! ```text
//! challenge = HMAC-SHA256(secret, label ‖ tag ‖ slot)      slot = time / 10 s      [RFC 2104]
//! ```
//!
//! A request that answers one was made after the slot began, for this workload
//! and for this broker process. A challenge is good for 20 to 30 s; used twice
//! in that time it gives the same process a second credential, and nobody else
//! anything. [`bulla_envelope::CredentialRequest::verify`] compares in constant
//! time.

use std::time::Duration;

use aws_lc_rs::hmac;
use bulla_identity::{UnixMillis, WorkloadTag};
use bulla_process::Zeroizing;

/// The secret of one broker process.
pub(crate) struct Challenger {
    secret: hmac::Key,
}

impl Challenger {
    pub(crate) fn new(secret: &Zeroizing<[u8; 32]>) -> Self {
        Self {
            secret: hmac::Key::new(hmac::HMAC_SHA256, &**secret),
        }
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
        let mut context = hmac::Context::with_key(&self.secret);
        context.update(LABEL);
        context.update(tag.to_hex().as_bytes());
        context.update(&slot.to_be_bytes());
        let mut challenge = [0; 32];
        // Both have 32 bytes.
        for (to, from) in challenge.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        challenge
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
    use data_encoding::HEXLOWER;

    use super::*;

    const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

    fn tag(byte: char) -> WorkloadTag {
        WorkloadTag::parse(&byte.to_string().repeat(32)).unwrap()
    }

    #[test]
    fn a_challenge_is_good_for_its_workload_and_broker_and_a_while() {
        let ours = Challenger::new(&Zeroizing::new([1; 32]));
        let other = Challenger::new(&Zeroizing::new([2; 32]));
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
    /// Computed with Python's `hmac`.
    #[test]
    fn a_challenge_is_an_hmac_of_label_tag_and_slot() {
        let ours = Challenger::new(&Zeroizing::new([1; 32]));
        assert_eq!(
            HEXLOWER.encode(&ours.challenge(tag('a'), NOW)),
            "47f94bb7c37e94281af6e73fb47e492f38e0efd12030613bad372a2663bfc0f5"
        );
    }
}
