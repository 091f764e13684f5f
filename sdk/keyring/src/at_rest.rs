//! Secrets of a process on its own disk, under a key that is derived from its
//! workload's nkey seed.
//!
//! ```text
//! box = random (32) ‖ ChaCha20-Poly1305(key, nonce 0, aad = workload id, secret) ‖ tag (16)
//! key = HKDF-SHA256(salt = tag(at-rest), ikm = nkey seed, info = random ‖ workload id)
//! ```
//!
//! Every box has a key of its own, used once, so the nonce may be zero. Nobody
//! opens it without the seed, which lies in another file; whoever has the seed
//! could ask for a credential of his own anyway.

use bulla_identity::WorkloadId;
use zeroize::Zeroizing;

use crate::data_key::{BadCiphertext, DataKey, TAG_LEN};
use crate::nonce::{NONCE_LEN, Nonce};
use crate::{Cipher, NkeySeed, Tag, kdf};

/// Length of the random part before the ciphertext.
const RANDOM_LEN: usize = 32;

impl NkeySeed {
    /// Encrypts `secret` for a later process of the workload that holds this
    /// seed.
    ///
    /// # Security
    /// `random` must be fresh for each box: it makes the key.
    #[must_use]
    pub fn seal_at_rest(
        &self,
        workload: &WorkloadId,
        random: &[u8; RANDOM_LEN],
        secret: &[u8],
    ) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(RANDOM_LEN + secret.len() + TAG_LEN);
        sealed.extend_from_slice(random);
        let key = self.key_at_rest(workload, random);
        let mut text = Zeroizing::new(secret.to_vec());
        let tag = key.seal_in_place(Nonce::only(), &[workload.as_str().as_bytes()], &mut text);
        sealed.extend_from_slice(&text);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// What [`NkeySeed::seal_at_rest`] encrypted.
    ///
    /// # Errors
    /// [`BadCiphertext`] if it was another seed or workload, or was changed.
    pub fn open_at_rest(
        &self,
        workload: &WorkloadId,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, BadCiphertext> {
        let (random, rest) = sealed
            .split_first_chunk::<RANDOM_LEN>()
            .ok_or(BadCiphertext)?;
        let (text, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(BadCiphertext)?;
        let key = self.key_at_rest(workload, random);
        let mut text = Zeroizing::new(text.to_vec());
        let aad = [workload.as_str().as_bytes()];
        key.open_in_place(&[0; NONCE_LEN], &aad, &mut text, tag)?;
        Ok(text)
    }

    fn key_at_rest(&self, workload: &WorkloadId, random: &[u8; RANDOM_LEN]) -> DataKey {
        let info: [&[u8]; 2] = [random, workload.as_str().as_bytes()];
        DataKey::new(
            Cipher::ChaCha20Poly1305,
            kdf::hkdf_sha256(Tag::AtRest, self.seed_bytes(), &info),
        )
    }
}

#[cfg(test)]
mod tests {
    use bulla_identity::NkeyKind;

    use super::*;

    fn seed(n: u8) -> NkeySeed {
        NkeySeed::from_random(NkeyKind::User, &[n; 32]).unwrap()
    }

    fn workload(name: &str) -> WorkloadId {
        WorkloadId::parse(&format!("spiffe://acme.example/{name}")).unwrap()
    }

    #[test]
    fn it_opens_for_its_seed_and_workload_only_and_unchanged_only() {
        let orders = workload("orders");
        let sealed = seed(1).seal_at_rest(&orders, &[7; 32], b"a secret");
        assert_eq!(sealed.len(), 32 + 8 + 16);
        let opened = seed(1).open_at_rest(&orders, &sealed).unwrap();
        assert_eq!(opened.as_slice(), b"a secret");
        assert!(seed(2).open_at_rest(&orders, &sealed).is_err());
        assert!(seed(1).open_at_rest(&workload("billing"), &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(seed(1).open_at_rest(&orders, &changed).is_err(), "{bit}");
        }
        for len in 0..sealed.len() {
            assert!(seed(1).open_at_rest(&orders, &sealed[..len]).is_err());
        }
    }

    #[test]
    fn every_box_has_a_key_of_its_own_and_none_shows_its_secret() {
        let orders = workload("orders");
        let one = seed(1).seal_at_rest(&orders, &[7; 32], &[0; 64]);
        let two = seed(1).seal_at_rest(&orders, &[8; 32], &[0; 64]);
        assert_ne!(one[32..], two[32..]);
        assert!(one[32..].windows(8).all(|window| window != [0; 8]));
    }
}
