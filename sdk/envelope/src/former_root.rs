//! Roots that were in force before: each vouches for the one that followed it.
//!
//! ```text
//! former root = [ key, signature by that key ]
//! signed      = [ 1, trust domain, former root, next root ]
//! ```
//!
//! A process that pins an older root finds the way to the newest one in the
//! bundle itself. The old key signs once and is needed no more.

use bulla_identity::TrustDomain;
use bulla_keyring::{Signature, SigningKey, Tag, VerifyingKey};

use crate::reader::Reader;
use crate::trust::{TrustError, key};
use crate::writer;

/// Most former roots in a bundle.
pub const MAX_FORMER_ROOTS: usize = 8;

const VERSION: u64 = 1;

/// A root that was in force before, and its word for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerRoot {
    key: VerifyingKey,
    signature: Signature,
}

impl FormerRoot {
    /// `former` says that `next` takes its place.
    #[must_use]
    pub fn vouch(domain: &TrustDomain, former: &SigningKey, next: &VerifyingKey) -> Self {
        let statement = statement(domain, former.verifying_key(), next);
        Self {
            key: *former.verifying_key(),
            signature: former.sign(Tag::RootSuccession, &[&statement]),
        }
    }

    /// The bytes that `former` signs so that `next` takes its place, for keys
    /// that are not in this process.
    #[must_use]
    pub fn to_sign(domain: &TrustDomain, former: &VerifyingKey, next: &VerifyingKey) -> Vec<u8> {
        Tag::RootSuccession.message(&[&statement(domain, former, next)])
    }

    /// Takes the signature over [`FormerRoot::to_sign`].
    ///
    /// # Errors
    /// [`TrustError::RootSuccession`] if it does not verify.
    pub fn vouched(
        domain: &TrustDomain,
        former: &VerifyingKey,
        next: &VerifyingKey,
        signature: Signature,
    ) -> Result<Self, TrustError> {
        let this = Self {
            key: *former,
            signature,
        };
        this.verify(domain, next)?;
        Ok(this)
    }

    /// The key of the root that was in force.
    #[must_use]
    pub const fn key(&self) -> &VerifyingKey {
        &self.key
    }

    pub(crate) fn verify(
        &self,
        domain: &TrustDomain,
        next: &VerifyingKey,
    ) -> Result<(), TrustError> {
        let statement = statement(domain, &self.key, next);
        self.key
            .verify(Tag::RootSuccession, &[&statement], &self.signature)
            .map_err(|_| TrustError::RootSuccession)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        writer::array(out, 2);
        writer::bin(out, self.key.as_bytes());
        writer::bin(out, self.signature.as_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, TrustError> {
        reader.array_of(2)?;
        Ok(Self {
            key: key(reader)?,
            signature: Signature::from_bytes(reader.bin_of()?),
        })
    }
}

fn statement(domain: &TrustDomain, former: &VerifyingKey, next: &VerifyingKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    writer::array(&mut out, 4);
    writer::uint(&mut out, VERSION);
    writer::string(&mut out, domain.as_str());
    writer::bin(&mut out, former.as_bytes());
    writer::bin(&mut out, next.as_bytes());
    out
}
