//! Policies that the policy key signed: the one in force, and one on trial. SPEC.md,
//! ENV-56, ENV-57 and ENV-59.
//!
//! ```text
//! policy    = [ statement, signature by a policy key of the bundle ]
//! statement = [ 1, trust domain, policy key, revision, issued-at, comment, text ]
//! ```
//!
//! A candidate is laid out alike and signed under another tag, so that nobody can
//! put it in force: whoever carries it only carries it.

use std::time::Duration;

use bulla_identity::{TrustDomain, UnixMillis, Verified};
use bulla_keyring::{Signature, SigningKey, Tag, VerifyingKey};

use crate::reader::Reader;
use crate::trust::{
    SuccessionError, TrustBundle, TrustError, VERSION, check_succession, key, signed, split,
    trust_domain, version,
};
use crate::writer;

/// Longest signed policy in bytes.
pub const MAX_POLICY: usize = 8 * 1024 * 1024;
/// Longest comment of a policy, in bytes.
pub const MAX_COMMENT: usize = 1024;

/// A policy revision as its text, signed by the policy key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPolicy {
    /// The domain that it is for.
    pub trust_domain: TrustDomain,
    /// Higher is newer; it never goes back.
    pub revision: u64,
    /// When it was signed.
    pub issued_at: UnixMillis,
    /// What whoever made it says about it, at most [`MAX_COMMENT`] bytes; may be
    /// empty. Every workload can read it.
    pub comment: String,
    /// The policy's text.
    pub text: String,
}

/// A policy on trial: decided beside the one in force, and not enforced. Its
/// `revision` counts candidates by themselves; an empty text says that there is
/// none any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyCandidate(pub SignedPolicy);

impl SignedPolicy {
    /// Signs the revision with a policy key of the bundle.
    ///
    /// # Errors
    /// [`TrustError`] if the text or the comment is too long.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, TrustError> {
        self.sign_as(Tag::Policy, key)
    }

    /// The bytes that the policy key signs, for one that is not in this process.
    #[must_use]
    pub fn to_sign(&self, key: &VerifyingKey) -> Vec<u8> {
        Tag::Policy.message(&[&self.statement(key)])
    }

    /// The revision with the key's signature over [`SignedPolicy::to_sign`].
    ///
    /// # Errors
    /// [`TrustError`] if the signature does not verify, or the text or the comment
    /// is too long.
    pub fn signed(&self, key: &VerifyingKey, signature: &Signature) -> Result<Vec<u8>, TrustError> {
        self.signed_as(Tag::Policy, key, signature)
    }

    /// Decodes strictly and proves that a policy key of the bundle signed it.
    ///
    /// A revision does not expire by itself: how old the newest one may be is
    /// the enforcer's setting.
    ///
    /// # Errors
    /// [`TrustError`] names the first thing that does not fit.
    pub fn open(
        bytes: &[u8],
        bundle: &Verified<TrustBundle>,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<Verified<Self>, TrustError> {
        Self::open_as(Tag::Policy, bytes, bundle, now, skew).map(Verified::danger_assert)
    }

    /// Decodes strictly and proves that the key which it names signed it,
    /// whoever trusts that key. Gives the key too.
    ///
    /// # Security
    /// For who knows the key otherwise: it says what a file holds, not what to
    /// go by.
    ///
    /// # Errors
    /// [`TrustError`] names the first thing that does not fit.
    pub fn danger_open_by_its_own_key(
        bytes: &[u8],
        trust_domain: &TrustDomain,
    ) -> Result<(Self, VerifyingKey), TrustError> {
        Self::open_if(Tag::Policy, bytes, trust_domain, |_| true)
    }

    /// Whether this revision may replace `held`: it is newer, or the same.
    ///
    /// # Errors
    /// [`SuccessionError`] for an older one or another of the same number.
    pub fn check_succession(&self, held: &Self) -> Result<(), SuccessionError> {
        check_succession(self.revision, held.revision, self == held)
    }

    fn sign_as(&self, tag: Tag, key: &SigningKey) -> Result<Vec<u8>, TrustError> {
        let statement = self.statement(key.verifying_key());
        self.fitting(signed(&statement, &key.sign(tag, &[&statement])))
    }

    fn signed_as(
        &self,
        tag: Tag,
        key: &VerifyingKey,
        signature: &Signature,
    ) -> Result<Vec<u8>, TrustError> {
        let statement = self.statement(key);
        key.verify(tag, &[&statement], signature)
            .map_err(|_| TrustError::BadSignature)?;
        self.fitting(signed(&statement, signature))
    }

    fn fitting(&self, bytes: Vec<u8>) -> Result<Vec<u8>, TrustError> {
        if self.comment.len() > MAX_COMMENT {
            return Err(TrustError::TooLarge {
                limit: MAX_COMMENT,
                actual: self.comment.len(),
            });
        }
        split(&bytes, MAX_POLICY)?;
        Ok(bytes)
    }

    fn statement(&self, key: &VerifyingKey) -> Vec<u8> {
        let mut statement = Vec::with_capacity(self.text.len() + self.comment.len() + 256);
        writer::array(&mut statement, 7);
        writer::uint(&mut statement, VERSION);
        writer::string(&mut statement, self.trust_domain.as_str());
        writer::bin(&mut statement, key.as_bytes());
        writer::uint(&mut statement, self.revision);
        writer::uint(&mut statement, self.issued_at.as_millis());
        writer::string(&mut statement, &self.comment);
        writer::string(&mut statement, &self.text);
        statement
    }

    fn open_as(
        tag: Tag,
        bytes: &[u8],
        bundle: &Verified<TrustBundle>,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<Self, TrustError> {
        if bundle.expires_at < now.saturating_sub(skew) {
            return Err(TrustError::Expired);
        }
        let (policy, _) = Self::open_if(tag, bytes, &bundle.trust_domain, |key| {
            bundle.policy_keys.contains(key)
        })?;
        if policy.issued_at > now.saturating_add(skew) {
            return Err(TrustError::Future);
        }
        Ok(policy)
    }

    fn open_if(
        tag: Tag,
        bytes: &[u8],
        domain: &TrustDomain,
        is_trusted: impl FnOnce(&VerifyingKey) -> bool,
    ) -> Result<(Self, VerifyingKey), TrustError> {
        let (statement, signature) = split(bytes, MAX_POLICY)?;
        let mut reader = Reader::new(statement);
        reader.array_of(7)?;
        version(&mut reader)?;
        let trust_domain = trust_domain(&mut reader)?;
        let key = key(&mut reader)?;
        if trust_domain != *domain {
            return Err(TrustError::ForeignDomain);
        }
        if !is_trusted(&key) {
            return Err(TrustError::UnknownKey);
        }
        key.verify(tag, &[statement], &signature)
            .map_err(|_| TrustError::BadSignature)?;
        let revision = reader.uint()?;
        let issued_at = UnixMillis::from_millis(reader.uint()?);
        let (_, comment) = reader.string(MAX_COMMENT)?;
        let (_, text) = reader.string(MAX_POLICY)?;
        reader.finish()?;
        let policy = Self {
            trust_domain,
            revision,
            issued_at,
            comment: comment.to_owned(),
            text: text.to_owned(),
        };
        Ok((policy, key))
    }
}

impl PolicyCandidate {
    /// Signs the candidate with a policy key of the bundle.
    ///
    /// # Errors
    /// As [`SignedPolicy::sign`].
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, TrustError> {
        self.0.sign_as(Tag::Candidate, key)
    }

    /// The bytes that the policy key signs, for one that is not in this process.
    #[must_use]
    pub fn to_sign(&self, key: &VerifyingKey) -> Vec<u8> {
        Tag::Candidate.message(&[&self.0.statement(key)])
    }

    /// The candidate with the key's signature over [`PolicyCandidate::to_sign`].
    ///
    /// # Errors
    /// As [`SignedPolicy::signed`].
    pub fn signed(&self, key: &VerifyingKey, signature: &Signature) -> Result<Vec<u8>, TrustError> {
        self.0.signed_as(Tag::Candidate, key, signature)
    }

    /// Decodes strictly and proves that a policy key of the bundle signed it as a
    /// candidate.
    ///
    /// # Errors
    /// [`TrustError`] names the first thing that does not fit.
    pub fn open(
        bytes: &[u8],
        bundle: &Verified<TrustBundle>,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<Verified<Self>, TrustError> {
        SignedPolicy::open_as(Tag::Candidate, bytes, bundle, now, skew)
            .map(|policy| Verified::danger_assert(Self(policy)))
    }

    /// Whether it says that nothing is on trial any more.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.text.is_empty()
    }

    /// Whether this candidate may replace `held`: it is newer, or the same.
    ///
    /// # Errors
    /// [`SuccessionError`] for an older one or another of the same number.
    pub fn check_succession(&self, held: &Self) -> Result<(), SuccessionError> {
        self.0.check_succession(&held.0)
    }
}
