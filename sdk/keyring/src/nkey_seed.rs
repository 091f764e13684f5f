//! Ed25519 seeds in NATS's textual form.

use std::fmt;

use bulla_identity::{Nkey, NkeyKind, WorkloadId};

use crate::seed_text::{self, SecretBytes, SeedError};
use crate::{KemSecret, KemSuite, SecretString, Signature, SigningKey, Tag, kdf};

/// Longest nonce that [`NkeySeed::sign_nonce`] signs, in bytes. nats-server's
/// are 15 characters.
pub const MAX_NONCE_LEN: usize = 128;

/// A secret nkey that signs: `SU…` (user), `SA…` (account), `SN…`, `SO…`.
pub struct NkeySeed {
    kind: NkeyKind,
    seed: SecretBytes,
    key: SigningKey,
}

/// Why a nonce is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServerNonceError {
    /// A signature over nothing could be replayed for ever.
    #[error("the server offers no nonce, and signing an empty one would be replayable")]
    Empty,
    /// Too long for a nonce.
    #[error("the server's nonce is {actual} bytes long, more than {limit}")]
    TooLong {
        /// [`MAX_NONCE_LEN`].
        limit: usize,
        /// What came.
        actual: usize,
    },
    /// Not printable ASCII.
    #[error("the server's nonce is not printable text")]
    NotText,
}

impl NkeySeed {
    /// The seed of 32 random bytes.
    ///
    /// # Errors
    /// [`SeedError::WrongKind`] for [`NkeyKind::Curve`]: that is a
    /// [`CurveSeed`](crate::CurveSeed).
    pub fn from_random(kind: NkeyKind, random: &[u8; 32]) -> Result<Self, SeedError> {
        let mut seed: SecretBytes = Box::default();
        **seed = *random;
        Self::new(Some(kind), seed)
    }

    /// Reads the textual form, for example `SUA…`.
    ///
    /// # Errors
    /// [`SeedError`]; the text is never repeated.
    pub fn parse(text: &str) -> Result<Self, SeedError> {
        let (kind, seed) = seed_text::parse(text)?;
        Self::new(kind, seed)
    }

    fn new(kind: Option<NkeyKind>, seed: SecretBytes) -> Result<Self, SeedError> {
        let kind = kind
            .filter(|kind| *kind != NkeyKind::Curve)
            .ok_or(SeedError::WrongKind {
                expected: "a signing seed (`SU…`, `SA…`, `SN…`, `SO…`)",
            })?;
        let key = SigningKey::from_seed(&seed);
        Ok(Self { kind, seed, key })
    }

    /// What the key is for.
    #[must_use]
    pub const fn kind(&self) -> NkeyKind {
        self.kind
    }

    /// The public nkey.
    #[must_use]
    pub fn public(&self) -> Nkey {
        Nkey::from_bytes(self.kind, *self.key.verifying_key().as_bytes())
    }

    /// The key itself.
    #[must_use]
    pub const fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// Signs a statement of Bulla, see [`SigningKey::sign`].
    #[must_use]
    pub fn sign(&self, tag: Tag, parts: &[&[u8]]) -> Signature {
        self.key.sign(tag, parts)
    }

    /// Signs a text, see [`SigningKey::sign_text`].
    #[must_use]
    pub fn sign_text(&self, text: &str) -> Signature {
        self.key.sign_text(text)
    }

    /// Signs the nonce that a nats-server offers at connect.
    ///
    /// # Errors
    /// [`ServerNonceError`] for what no honest server sends; an empty nonce above
    /// all, whose signature anybody could replay.
    pub fn sign_nonce(&self, nonce: &[u8]) -> Result<Signature, ServerNonceError> {
        if nonce.is_empty() {
            return Err(ServerNonceError::Empty);
        }
        if nonce.len() > MAX_NONCE_LEN {
            return Err(ServerNonceError::TooLong {
                limit: MAX_NONCE_LEN,
                actual: nonce.len(),
            });
        }
        let text = std::str::from_utf8(nonce)
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or(ServerNonceError::NotText)?;
        Ok(self.sign_text(text))
    }

    /// The workload's KEM key: what requests and events to it are wrapped to.
    ///
    /// HKDF-SHA256 with salt [`Tag::WorkloadKem`], this seed as the key
    /// material and suite code ‖ version (8 bytes, big endian) ‖ workload id as
    /// `info`; the 32 bytes are the private key. Whoever holds the seed makes
    /// the same key, so replicas share it and nothing new has to be stored.
    #[must_use]
    pub fn kem_secret(&self, suite: KemSuite, version: u64, workload: &WorkloadId) -> KemSecret {
        let seed = kdf::hkdf_sha256(
            Tag::WorkloadKem,
            self.seed.as_slice(),
            &[
                &[suite.code()],
                &version.to_be_bytes(),
                workload.as_str().as_bytes(),
            ],
        );
        KemSecret::from_seed(suite, &seed)
    }

    pub(crate) fn seed_bytes(&self) -> &[u8] {
        self.seed.as_slice()
    }

    /// The seed's text, for a key file.
    ///
    /// # Security
    /// This is the secret itself.
    #[must_use]
    pub fn to_seed_text(&self) -> SecretString {
        seed_text::format(self.kind, &self.seed)
    }
}

impl fmt::Debug for NkeySeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NkeySeed(of {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VerifyingKey;

    #[test]
    fn text_is_what_the_nkeys_library_writes_and_reads() {
        for theirs in [
            nkeys::KeyPair::new_user(),
            nkeys::KeyPair::new_account(),
            nkeys::KeyPair::new_server(),
            nkeys::KeyPair::new_operator(),
        ] {
            let text = theirs.seed().unwrap();
            let ours = NkeySeed::parse(&text).unwrap();
            assert_eq!(&*ours.to_seed_text(), text);
            assert_eq!(ours.public().to_string(), theirs.public_key());
            let signature = ours.sign_nonce(b"PXoWU7zWAMt75FY").unwrap();
            theirs
                .verify(b"PXoWU7zWAMt75FY", signature.as_bytes())
                .unwrap();
            let public = VerifyingKey::from_nkey(&ours.public()).unwrap();
            assert!(public.verify_text("PXoWU7zWAMt75FY", &signature).is_ok());
        }
    }

    #[test]
    fn made_from_random_bytes() {
        let seed = NkeySeed::from_random(NkeyKind::User, &[9; 32]).unwrap();
        let again = NkeySeed::parse(&seed.to_seed_text()).unwrap();
        assert_eq!(seed.public(), again.public());
        assert!(seed.to_seed_text().starts_with("SU"));
        assert!(NkeySeed::from_random(NkeyKind::Curve, &[9; 32]).is_err());
    }

    #[test]
    fn damaged_and_foreign_texts_are_refused() {
        let pair = nkeys::KeyPair::new_user();
        let text = pair.seed().unwrap();
        let refused = |text: &str| NkeySeed::parse(text).unwrap_err();
        assert_eq!(refused(""), SeedError::Malformed);
        assert_eq!(refused(&text[..57]), SeedError::Malformed);
        assert_eq!(refused(&format!("{text}A")), SeedError::Malformed);
        assert_eq!(refused(&text.to_lowercase()), SeedError::Malformed);
        assert_eq!(refused(&pair.public_key()), SeedError::Public);
        let curve = nkeys::XKey::new().seed().unwrap();
        assert!(matches!(refused(&curve), SeedError::WrongKind { .. }));
        for at in 2..56 {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(NkeySeed::parse(&damaged).is_err(), "character {at}");
        }
        // An unknown kind with a right checksum (`SM…`, a module key).
        let module = nkeys::KeyPair::new_module().seed().unwrap();
        assert!(matches!(refused(&module), SeedError::WrongKind { .. }));
    }

    #[test]
    fn hostile_nonces_are_not_signed() {
        let seed = NkeySeed::from_random(NkeyKind::User, &[9; 32]).unwrap();
        assert_eq!(seed.sign_nonce(b""), Err(ServerNonceError::Empty));
        assert!(seed.sign_nonce(&[b'n'; 128]).is_ok());
        assert_eq!(
            seed.sign_nonce(&[b'n'; 129]),
            Err(ServerNonceError::TooLong {
                limit: 128,
                actual: 129
            })
        );
        assert_eq!(seed.sign_nonce(b"no nce"), Err(ServerNonceError::NotText));
        for tag in Tag::ALL {
            assert_eq!(
                seed.sign_nonce(tag.as_bytes()),
                Err(ServerNonceError::NotText)
            );
        }
    }
}
