//! Message credentials: who issues, who checks (SPEC.md, ENV-52 and ENV-53). Requests are
//! in `request.rs`.
//!
//! ```text
//! request    = [ statement, possession of the message key, of the token key | nil, countersignature | nil ]
//! statement  = [ 1, workload, signing key, process keys | nil, token key | nil, instance, challenge, requested-at ]
//! process keys = [ X-Wing public, X25519 public, exchange public ]
//! credential = [ claims, signature by the issuing key ]
//! claims     = [ 1, statement, countersignature | nil, issuing key, not-before, expires-at, serial ]
//! ```
//!
//! The countersignature by the workload's own nkey or certificate travels in the
//! credential: a stolen issuing key alone cannot speak for a workload.

use std::time::Duration;

use bulla_identity::{UnixMillis, Verified, WorkloadId};
use bulla_keyring::{
    Anchors, BadSignature, KeyId, Signature, SigningKey, Tag, VerifyingKey, sha256,
};

use crate::countersignature::{Countersignature, CountersignatureError};
use crate::head::Head;
use crate::reader::Reader;
use crate::request::{
    self, CredentialDecodeError, CredentialRequest, MAX_CREDENTIAL, ProcessKeys, VERSION,
};
use crate::tree::Node;
use crate::trust::TrustBundle;
use crate::writer;

/// Longest time from a request to the end of a credential made from it. A
/// countersignature vouches for no more.
pub const MAX_CREDENTIAL_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes credentials with a broker's issuing key.
#[derive(Debug)]
pub struct CredentialIssuer {
    key: SigningKey,
}

/// From when until when a credential is valid, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Not before.
    pub not_before: UnixMillis,
    /// Not after.
    pub expires_at: UnixMillis,
    /// 16 random bytes for each credential.
    pub serial: [u8; 16],
}

/// A credential that was decoded; [`Credential::verify`] proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    bytes: Vec<u8>,
    hash: [u8; 32],
    claims: Vec<u8>,
    request: CredentialRequest,
    issuer: VerifyingKey,
    terms: Terms,
    signature: Signature,
}

/// A credential that a bundle's issuer and the workload itself vouch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCredential {
    credential: Credential,
}

/// Why a credential is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// It would end before it begins.
    #[error("the credential would end before it begins")]
    EmptyLife,
    /// It would be valid for longer than a request may vouch for.
    #[error("the credential would end more than {} hours after its request", MAX_CREDENTIAL_LIFE.as_secs() / 3600)]
    LifeTooLong,
    /// It would be valid for longer than the certificate that vouches for it.
    #[error("the credential would outlive the workload's certificate")]
    OutlivesCertificate,
}

/// Why a receiver does not accept a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The bundle has expired: nothing can be judged by it.
    #[error("the trust bundle has expired")]
    BundleExpired,
    /// From another trust domain.
    #[error("the credential is of another trust domain")]
    ForeignDomain,
    /// By a key that the bundle does not name.
    #[error("the credential is by an issuer that the trust bundle does not name")]
    UnknownIssuer,
    /// It would outlive its issuer.
    #[error("the credential outlives its issuer")]
    OutlivesIssuer,
    /// The issuer's signature does not verify.
    #[error("the issuer's signature does not verify")]
    BadSignature,
    /// Nothing that the policy names vouches for it.
    #[error(transparent)]
    Countersignature(#[from] CountersignatureError),
    /// It would be valid for longer than a request may vouch for.
    #[error("the credential outlives what its request vouches for")]
    LifeTooLong,
    /// It would be valid for longer than the certificate that vouches for it.
    #[error("the credential outlives the workload's certificate")]
    OutlivesCertificate,
    /// Its time has not come.
    #[error("the credential is not valid yet")]
    NotYetValid,
    /// Its time is over.
    #[error("the credential has expired")]
    Expired,
}

impl CredentialError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::BundleExpired => "bundle_expired",
            Self::ForeignDomain => "foreign_domain",
            Self::UnknownIssuer => "unknown_issuer",
            Self::OutlivesIssuer => "outlives_issuer",
            Self::BadSignature => "bad_issuer_signature",
            Self::Countersignature(error) => error.code(),
            Self::LifeTooLong => "credential_life_too_long",
            Self::OutlivesCertificate => "outlives_certificate",
            Self::NotYetValid => "credential_not_yet_valid",
            Self::Expired => "credential_expired",
        }
    }
}

impl CredentialIssuer {
    /// An issuer with a key that a trust bundle names.
    #[must_use]
    pub const fn new(key: SigningKey) -> Self {
        Self { key }
    }

    /// The issuing key's public half.
    #[must_use]
    pub const fn verifying_key(&self) -> &VerifyingKey {
        self.key.verifying_key()
    }

    /// Signs a head under the same key.
    #[must_use]
    pub fn sign_head(&self, head: &Head) -> Vec<u8> {
        head.sign(&self.key)
    }

    /// Signs how far this broker's chain of the audit log goes; of the parts all but
    /// the last have a fixed length.
    #[must_use]
    pub fn sign_audit(&self, parts: &[&[u8]]) -> Signature {
        self.key.sign(Tag::AuditHead, parts)
    }

    /// Makes a credential from a request that was verified.
    ///
    /// # Errors
    /// [`IssueError`] if the terms make no sense.
    pub fn issue(
        &self,
        request: &Verified<CredentialRequest>,
        terms: Terms,
    ) -> Result<Credential, IssueError> {
        if terms.expires_at <= terms.not_before {
            return Err(IssueError::EmptyLife);
        }
        if terms.expires_at > request.requested_at.saturating_add(MAX_CREDENTIAL_LIFE) {
            return Err(IssueError::LifeTooLong);
        }
        if terms.expires_at > request.longest() {
            return Err(IssueError::OutlivesCertificate);
        }
        let room = request.countersignature.as_ref();
        let room = room.map_or(0, Countersignature::size);
        let mut claims = Vec::with_capacity(request.statement.len() + 128 + room);
        writer::array(&mut claims, 7);
        writer::uint(&mut claims, VERSION);
        writer::bin(&mut claims, &request.statement);
        Countersignature::write(request.countersignature.as_ref(), &mut claims);
        writer::bin(&mut claims, self.verifying_key().as_bytes());
        writer::uint(&mut claims, terms.not_before.as_millis());
        writer::uint(&mut claims, terms.expires_at.as_millis());
        writer::bin(&mut claims, &terms.serial);

        let signature = self.key.sign(Tag::Credential, &[&claims]);
        let mut bytes = Vec::with_capacity(claims.len() + 80);
        writer::array(&mut bytes, 2);
        writer::bin(&mut bytes, &claims);
        writer::bin(&mut bytes, signature.as_bytes());
        Ok(Credential {
            hash: sha256(&[&bytes]),
            bytes,
            claims,
            request: request.without_proofs(),
            issuer: *self.verifying_key(),
            terms,
            signature,
        })
    }
}

impl Credential {
    /// Decodes strictly what [`CredentialIssuer::issue`] made.
    ///
    /// # Errors
    /// [`CredentialDecodeError`] names the first rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, CredentialDecodeError> {
        let mut reader = request::bounded(bytes, MAX_CREDENTIAL)?;
        reader.array_of(2)?;
        let claims = reader.bin(MAX_CREDENTIAL)?.of(bytes);
        let signature = Signature::from_bytes(reader.bin_of()?);
        reader.finish()?;

        let mut reader = Reader::new(claims);
        reader.array_of(7)?;
        request::version(&mut reader)?;
        let statement = reader.bin(MAX_CREDENTIAL)?.of(claims);
        let mut asked = CredentialRequest::read_statement(statement)?;
        asked.countersignature = Countersignature::read(&mut reader)?;
        let issuer = request::key(&mut reader)?;
        let terms = Terms {
            not_before: UnixMillis::from_millis(reader.uint()?),
            expires_at: UnixMillis::from_millis(reader.uint()?),
            serial: reader.bin_of()?,
        };
        reader.finish()?;
        Ok(Self {
            bytes: bytes.to_vec(),
            hash: sha256(&[bytes]),
            claims: claims.to_vec(),
            request: asked,
            issuer,
            terms,
            signature,
        })
    }

    /// The credential's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What names it on the wire.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::from_hash(&self.hash)
    }

    /// SHA-256 of its bytes, which every signature under it binds.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The request in it.
    #[must_use]
    pub const fn request(&self) -> &CredentialRequest {
        &self.request
    }

    /// The workload that it claims to speak for. Needed to find what vouches
    /// for that workload in the policy; proves nothing.
    #[must_use]
    pub const fn claimed_workload(&self) -> &WorkloadId {
        &self.request.workload
    }

    /// The issuing key that it names.
    #[must_use]
    pub const fn issuer(&self) -> &VerifyingKey {
        &self.issuer
    }

    /// Not before.
    #[must_use]
    pub const fn not_before(&self) -> UnixMillis {
        self.terms.not_before
    }

    /// Not after.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMillis {
        self.terms.expires_at
    }

    /// Its number.
    #[must_use]
    pub const fn serial(&self) -> &[u8; 16] {
        &self.terms.serial
    }

    /// Proves that an issuer of the bundle made it, that the workload's own
    /// nkey or certificate vouches for the keys in it, and that it is valid now.
    ///
    /// `anchors` are what the policy lets vouch for
    /// [`Credential::claimed_workload`]. Without any the credential is refused.
    ///
    /// A certificate has to be valid from when it vouched until the credential
    /// ends, so whenever the credential is.
    ///
    /// # Errors
    /// [`CredentialError`] names the first thing that does not fit.
    pub fn verify<'a>(
        self,
        bundle: &Verified<TrustBundle>,
        anchors: impl Into<Anchors<'a>>,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<VerifiedCredential, CredentialError> {
        let earliest_now = now.saturating_sub(skew);
        if bundle.expires_at < earliest_now {
            return Err(CredentialError::BundleExpired);
        }
        if self.request.workload.trust_domain() != bundle.trust_domain.as_str() {
            return Err(CredentialError::ForeignDomain);
        }
        let issuing = bundle
            .issuing
            .iter()
            .find(|issuing| issuing.key == self.issuer)
            .ok_or(CredentialError::UnknownIssuer)?;
        if self.terms.expires_at > issuing.expires_at {
            return Err(CredentialError::OutlivesIssuer);
        }
        self.issuer
            .verify(Tag::Credential, &[&self.claims], &self.signature)
            .map_err(|_| CredentialError::BadSignature)?;
        let certified_until = self.request.verify_countersignature(anchors.into())?;
        let vouched_until = self
            .request
            .requested_at
            .saturating_add(MAX_CREDENTIAL_LIFE);
        if self.terms.expires_at > vouched_until {
            return Err(CredentialError::LifeTooLong);
        }
        if certified_until.is_some_and(|until| self.terms.expires_at > until) {
            return Err(CredentialError::OutlivesCertificate);
        }
        if self.terms.not_before > now.saturating_add(skew) {
            return Err(CredentialError::NotYetValid);
        }
        if self.terms.expires_at < earliest_now {
            return Err(CredentialError::Expired);
        }
        Ok(VerifiedCredential { credential: self })
    }
}

impl VerifiedCredential {
    /// What names it on the wire.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.credential.id()
    }

    /// The workload that it speaks for.
    #[must_use]
    pub const fn workload(&self) -> &WorkloadId {
        &self.credential.request.workload
    }

    /// The key of the transaction tokens that this process mints. Whether the
    /// workload may mint is the policy's business.
    #[must_use]
    pub const fn token_key(&self) -> Option<&VerifyingKey> {
        self.credential.request.token_key.as_ref()
    }

    /// The keys by which replies reach this process alone.
    #[must_use]
    pub const fn process_keys(&self) -> Option<&ProcessKeys> {
        self.credential.request.process_keys.as_ref()
    }

    /// Not after. What it sealed does not live longer.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMillis {
        self.credential.terms.expires_at
    }

    /// The credential itself.
    #[must_use]
    pub const fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Verifies a batch's signature.
    pub(crate) fn verify_batch(
        &self,
        count: u32,
        root: &Node,
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        self.credential.request.signing_key.verify(
            Tag::Batch,
            &[&self.credential.hash, &count.to_be_bytes(), root],
            signature,
        )
    }
}
