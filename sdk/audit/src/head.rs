//! A head: how far a chain goes, signed by the key of who writes it. SPEC.md, AUD-5.

use bulla_identity::UnixMillis;
use bulla_keyring::{Signature, SigningKey, Tag, VerifyingKey};

use crate::entry::{EntryHash, Writer};
use crate::event::millis;

/// What a head says: this writer's chain, up to entry `seq - 1`, ends in `prev`.
#[derive(Debug, Clone, Copy)]
pub struct HeadStatement<'a> {
    /// Whose chain.
    pub writer: &'a Writer,
    /// The number of the head's own entry.
    pub seq: u64,
    /// The hash of the entry before it, and so of all before that.
    pub prev: EntryHash,
    /// When.
    pub at: UnixMillis,
    /// SHA-256 of the credential, or the broker's issuing key.
    pub key: [u8; 32],
}

impl HeadStatement<'_> {
    /// Signs it.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Signature {
        let (seq, at) = self.numbers();
        key.sign(Tag::AuditHead, &self.parts(&seq, &at))
    }

    /// Signs it with a key that somebody else holds.
    #[must_use]
    pub fn sign_with(&self, sign: impl FnOnce(&[&[u8]]) -> Signature) -> Signature {
        let (seq, at) = self.numbers();
        sign(&self.parts(&seq, &at))
    }

    /// Whether this key signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &VerifyingKey, signature: &Signature) -> bool {
        let (seq, at) = self.numbers();
        key.verify(Tag::AuditHead, &self.parts(&seq, &at), signature)
            .is_ok()
    }

    const fn numbers(&self) -> ([u8; 8], [u8; 8]) {
        (self.seq.to_be_bytes(), millis(self.at).to_be_bytes())
    }

    /// All of fixed length but the last.
    fn parts<'p>(&'p self, seq: &'p [u8; 8], at: &'p [u8; 8]) -> [&'p [u8]; 5] {
        [
            &self.key,
            seq,
            at,
            &self.prev.0,
            self.writer.as_str().as_bytes(),
        ]
    }
}
