//! Message credentials: who asks for one, who vouches, who issues, who checks.
//!
//! ```text
//! request    = [ statement, possession of the message key, of the token key | nil, countersignature | nil ]
//! statement  = [ 1, workload, signing key, KEM key (nil), token key | nil, instance, challenge, requested-at ]
//! credential = [ claims, signature by the issuing key ]
//! claims     = [ 1, statement, countersignature | nil, issuing key, not-before, expires-at, serial ]
//! ```
//!
//! The countersignature by the workload's own nkey travels in the credential:
//! a stolen issuing key alone cannot speak for a workload.

use std::time::Duration;

use bulla_identity::{Nkey, NkeyKind, UnixMillis, Verified, WorkloadId, WorkloadTag};
use bulla_keyring::{
    BadSignature, KeyId, NkeySeed, Signature, SigningKey, Tag, VerifyingKey, constant_time_eq,
    sha256,
};

use crate::reader::{EncodingError, Reader};
use crate::tree::Node;
use crate::trust::TrustBundle;
use crate::writer;

/// Longest request or credential in bytes.
pub const MAX_CREDENTIAL: usize = 4 * 1024;
/// Longest time from a request to the end of a credential made from it. A
/// countersignature vouches for no more.
pub const MAX_CREDENTIAL_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// The version of both formats.
const VERSION: u64 = 1;
/// Longest workload id in bytes ([SPIFFE ID §2.3]).
///
/// [SPIFFE ID §2.3]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md
const MAX_WORKLOAD_ID: usize = 2048;

/// What a process asks a broker to certify.
#[derive(Debug, Clone)]
pub struct RequestDraft<'a> {
    /// The workload that the process runs as.
    pub workload: &'a WorkloadId,
    /// The key that will seal its messages.
    pub message_key: &'a SigningKey,
    /// The key that will sign transaction tokens, for workloads that mint.
    pub token_key: Option<&'a SigningKey>,
    /// 16 random bytes for each process.
    pub instance: [u8; 16],
    /// What the broker sent.
    pub challenge: [u8; 32],
    /// Now.
    pub requested_at: UnixMillis,
}

/// A request that was decoded; [`CredentialRequest::verify`] proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRequest {
    statement: Vec<u8>,
    workload: WorkloadId,
    signing_key: VerifyingKey,
    token_key: Option<VerifyingKey>,
    instance: [u8; 16],
    challenge: [u8; 32],
    requested_at: UnixMillis,
    possession: Option<Possession>,
    countersignature: Option<Countersignature>,
}

/// Proofs that the asker holds the keys that it names. A credential does not
/// repeat them: the broker has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Possession {
    message_key: Signature,
    token_key: Option<Signature>,
}

/// The workload's nkey vouches for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Countersignature {
    nkey: Nkey,
    signature: Signature,
}

/// What a broker compares a request with.
#[derive(Debug, Clone)]
pub struct RequestExpectation<'a> {
    /// The tag in the subject on which it came, which nats-server vouches for.
    pub tag: WorkloadTag,
    /// The challenge that was sent.
    pub challenge: &'a [u8; 32],
    /// The workload's nkeys in the policy.
    pub anchors: &'a [Nkey],
    /// The time.
    pub now: UnixMillis,
    /// By how much clocks may differ.
    pub skew: Duration,
    /// How old a request may be.
    pub max_age: Duration,
}

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

/// A credential that a bundle's issuer and the workload's own nkey vouch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCredential {
    credential: Credential,
}

/// Why bytes are not a request or a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialDecodeError {
    /// Too long.
    #[error("{actual} bytes, more than {limit}")]
    TooLarge {
        /// [`MAX_CREDENTIAL`].
        limit: usize,
        /// What came.
        actual: usize,
    },
    /// Not strict MessagePack of the expected types.
    #[error("malformed credential")]
    Encoding(#[from] EncodingError),
    /// Another version of the format.
    #[error("credential version {version} is not supported")]
    UnsupportedVersion {
        /// What it says.
        version: u64,
    },
    /// It names a KEM key, which this version does not know.
    #[error("the credential names a key for encryption, which is not supported")]
    UnsupportedKem,
    /// Not a SPIFFE id.
    #[error("the workload id is malformed")]
    Workload,
    /// A key that is no sound Ed25519 key.
    #[error("the credential names an unsound key")]
    Key,
    /// A token key without its proof of possession, or the other way round.
    #[error("a token key and its proof come together or not at all")]
    TokenProofPresence,
}

/// Why a broker refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// For another workload than the one that may ask here.
    #[error("the request is for another workload")]
    WrongWorkload,
    /// Not the challenge that was sent.
    #[error("the request answers another challenge")]
    WrongChallenge,
    /// From the future or too old.
    #[error("the request is not from now")]
    NotRecent,
    /// The asker does not hold the message key.
    #[error("the request does not prove possession of its message key")]
    MessageKeyProof,
    /// The asker does not hold the token key.
    #[error("the request does not prove possession of its token key")]
    TokenKeyProof,
    /// One key for both uses.
    #[error("message key and token key are the same")]
    SameKey,
    /// The workload's nkey does not vouch for it.
    #[error(transparent)]
    Countersignature(#[from] CountersignatureError),
}

/// Why a workload's nkey does not vouch for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CountersignatureError {
    /// The policy names no nkey of that workload.
    #[error("the policy names no nkey of the workload")]
    NoAnchor,
    /// There is none.
    #[error("the workload's countersignature is missing")]
    Missing,
    /// By an nkey that is not the workload's.
    #[error("the countersignature is by an nkey that is not the workload's")]
    ForeignNkey,
    /// It does not verify.
    #[error("the countersignature does not verify")]
    BadSignature,
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
    /// The workload's nkey does not vouch for it.
    #[error(transparent)]
    Countersignature(#[from] CountersignatureError),
    /// It would be valid for longer than a request may vouch for.
    #[error("the credential outlives what its request vouches for")]
    LifeTooLong,
    /// Its time has not come.
    #[error("the credential is not valid yet")]
    NotYetValid,
    /// Its time is over.
    #[error("the credential has expired")]
    Expired,
}

impl CredentialDecodeError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Encoding(error) => error.code(),
            Self::UnsupportedVersion { .. } => "unsupported_version",
            Self::UnsupportedKem => "unsupported_kem",
            Self::Workload => "workload",
            Self::Key => "key",
            Self::TokenProofPresence => "token_proof_presence",
        }
    }
}

impl RequestError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::WrongWorkload => "wrong_workload",
            Self::WrongChallenge => "wrong_challenge",
            Self::NotRecent => "not_recent",
            Self::MessageKeyProof => "message_key_proof",
            Self::TokenKeyProof => "token_key_proof",
            Self::SameKey => "same_key",
            Self::Countersignature(error) => error.code(),
        }
    }
}

impl CountersignatureError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoAnchor => "no_anchor",
            Self::Missing => "countersignature_missing",
            Self::ForeignNkey => "foreign_nkey",
            Self::BadSignature => "bad_countersignature",
        }
    }
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
            Self::NotYetValid => "credential_not_yet_valid",
            Self::Expired => "credential_expired",
        }
    }
}

impl RequestDraft<'_> {
    /// Signs the request with the keys that it names, and with the workload's
    /// nkey where it has one.
    #[must_use]
    pub fn sign(&self, countersigner: Option<&NkeySeed>) -> Vec<u8> {
        let statement = self.statement();
        let mut out = Vec::with_capacity(statement.len() + 256);
        writer::array(&mut out, 4);
        writer::bin(&mut out, &statement);
        let possession = self.message_key.sign(Tag::CredentialRequest, &[&statement]);
        writer::bin(&mut out, possession.as_bytes());
        match self.token_key {
            Some(key) => {
                let possession = key.sign(Tag::TokenKey, &[&statement]);
                writer::bin(&mut out, possession.as_bytes());
            }
            None => writer::nil(&mut out),
        }
        let countersignature = countersigner.map(|seed| Countersignature {
            nkey: seed.public(),
            signature: seed.sign(Tag::Countersignature, &[&statement]),
        });
        Countersignature::write(countersignature.as_ref(), &mut out);
        out
    }

    fn statement(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        writer::array(&mut out, 8);
        writer::uint(&mut out, VERSION);
        writer::string(&mut out, self.workload.as_str());
        writer::bin(&mut out, self.message_key.verifying_key().as_bytes());
        writer::nil(&mut out);
        match self.token_key {
            Some(key) => writer::bin(&mut out, key.verifying_key().as_bytes()),
            None => writer::nil(&mut out),
        }
        writer::bin(&mut out, &self.instance);
        writer::bin(&mut out, &self.challenge);
        writer::uint(&mut out, self.requested_at.as_millis());
        out
    }
}

impl CredentialRequest {
    /// Decodes strictly what [`RequestDraft::sign`] made.
    ///
    /// # Errors
    /// [`CredentialDecodeError`] names the first rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, CredentialDecodeError> {
        let mut reader = bounded(bytes)?;
        reader.array_of(4)?;
        let statement = reader.bin(MAX_CREDENTIAL)?.of(bytes);
        let mut request = Self::read_statement(statement)?;
        request.possession = Some(Possession {
            message_key: Signature::from_bytes(reader.bin_of()?),
            token_key: if reader.take_nil() {
                None
            } else {
                Some(Signature::from_bytes(reader.bin_of()?))
            },
        });
        request.countersignature = Countersignature::read(&mut reader)?;
        reader.finish()?;
        let token_proof = request.possession.as_ref().and_then(|p| p.token_key);
        if token_proof.is_some() != request.token_key.is_some() {
            return Err(CredentialDecodeError::TokenProofPresence);
        }
        Ok(request)
    }

    fn read_statement(statement: &[u8]) -> Result<Self, CredentialDecodeError> {
        let mut reader = Reader::new(statement);
        reader.array_of(8)?;
        version(&mut reader)?;
        let (_, workload) = reader.string(MAX_WORKLOAD_ID)?;
        let workload = WorkloadId::parse(workload).map_err(|_| CredentialDecodeError::Workload)?;
        let signing_key = key(&mut reader)?;
        if !reader.take_nil() {
            return Err(CredentialDecodeError::UnsupportedKem);
        }
        let token_key = if reader.take_nil() {
            None
        } else {
            Some(key(&mut reader)?)
        };
        let request = Self {
            statement: statement.to_vec(),
            workload,
            signing_key,
            token_key,
            instance: reader.bin_of()?,
            challenge: reader.bin_of()?,
            requested_at: UnixMillis::from_millis(reader.uint()?),
            possession: None,
            countersignature: None,
        };
        reader.finish()?;
        Ok(request)
    }

    /// The workload that the asker says it is.
    #[must_use]
    pub const fn claimed_workload(&self) -> &WorkloadId {
        &self.workload
    }

    /// The message key.
    #[must_use]
    pub const fn signing_key(&self) -> &VerifyingKey {
        &self.signing_key
    }

    /// The key for transaction tokens, if the workload means to mint.
    #[must_use]
    pub const fn token_key(&self) -> Option<&VerifyingKey> {
        self.token_key.as_ref()
    }

    /// The process.
    #[must_use]
    pub const fn instance(&self) -> &[u8; 16] {
        &self.instance
    }

    /// When it was made, by the asker's clock.
    #[must_use]
    pub const fn requested_at(&self) -> UnixMillis {
        self.requested_at
    }

    /// Proves that the asker holds the keys, answers this challenge now, and is
    /// vouched for by the workload's nkey.
    ///
    /// Whether the workload may have a token key is the policy's business.
    ///
    /// # Errors
    /// [`RequestError`] names the first thing that does not fit.
    pub fn verify(self, expected: &RequestExpectation<'_>) -> Result<Verified<Self>, RequestError> {
        if self.workload.tag() != expected.tag {
            return Err(RequestError::WrongWorkload);
        }
        if !constant_time_eq(&self.challenge, expected.challenge) {
            return Err(RequestError::WrongChallenge);
        }
        let oldest = expected
            .now
            .saturating_sub(expected.max_age)
            .saturating_sub(expected.skew);
        let newest = expected.now.saturating_add(expected.skew);
        if !(oldest..=newest).contains(&self.requested_at) {
            return Err(RequestError::NotRecent);
        }
        let possession = self.possession.as_ref();
        let possession = possession.ok_or(RequestError::MessageKeyProof)?;
        self.signing_key
            .verify(
                Tag::CredentialRequest,
                &[&self.statement],
                &possession.message_key,
            )
            .map_err(|_| RequestError::MessageKeyProof)?;
        if let Some(token_key) = &self.token_key {
            if *token_key == self.signing_key {
                return Err(RequestError::SameKey);
            }
            let proof = possession.token_key.ok_or(RequestError::TokenKeyProof)?;
            token_key
                .verify(Tag::TokenKey, &[&self.statement], &proof)
                .map_err(|_| RequestError::TokenKeyProof)?;
        }
        self.verify_countersignature(expected.anchors)?;
        Ok(Verified::danger_assert(self))
    }

    fn verify_countersignature(&self, anchors: &[Nkey]) -> Result<(), CountersignatureError> {
        if anchors.is_empty() {
            return Err(CountersignatureError::NoAnchor);
        }
        let countersignature = self
            .countersignature
            .as_ref()
            .ok_or(CountersignatureError::Missing)?;
        if !anchors.contains(&countersignature.nkey) {
            return Err(CountersignatureError::ForeignNkey);
        }
        VerifyingKey::from_nkey(&countersignature.nkey)
            .map_err(|_| CountersignatureError::BadSignature)?
            .verify(
                Tag::Countersignature,
                &[&self.statement],
                &countersignature.signature,
            )
            .map_err(|_| CountersignatureError::BadSignature)
    }
}

impl Countersignature {
    fn write(this: Option<&Self>, out: &mut Vec<u8>) {
        match this {
            Some(this) => {
                writer::array(out, 2);
                writer::bin(out, this.nkey.bytes());
                writer::bin(out, this.signature.as_bytes());
            }
            None => writer::nil(out),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, EncodingError> {
        if reader.take_nil() {
            return Ok(None);
        }
        reader.array_of(2)?;
        Ok(Some(Self {
            nkey: Nkey::from_bytes(NkeyKind::User, reader.bin_of()?),
            signature: Signature::from_bytes(reader.bin_of()?),
        }))
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
        let mut claims = Vec::with_capacity(request.statement.len() + 256);
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
            request: CredentialRequest {
                possession: None,
                ..CredentialRequest::clone(request)
            },
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
        let mut reader = bounded(bytes)?;
        reader.array_of(2)?;
        let claims = reader.bin(MAX_CREDENTIAL)?.of(bytes);
        let signature = Signature::from_bytes(reader.bin_of()?);
        reader.finish()?;

        let mut reader = Reader::new(claims);
        reader.array_of(7)?;
        version(&mut reader)?;
        let statement = reader.bin(MAX_CREDENTIAL)?.of(claims);
        let mut request = CredentialRequest::read_statement(statement)?;
        request.countersignature = Countersignature::read(&mut reader)?;
        let issuer = key(&mut reader)?;
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
            request,
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

    /// The workload that it claims to speak for. Needed to find that
    /// workload's nkeys in the policy; proves nothing.
    #[must_use]
    pub const fn claimed_workload(&self) -> &WorkloadId {
        &self.request.workload
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
    /// nkey vouches for the keys in it, and that it is valid now.
    ///
    /// `anchors` are the nkeys of [`Credential::claimed_workload`] in the
    /// policy. Without any the credential is refused.
    ///
    /// # Errors
    /// [`CredentialError`] names the first thing that does not fit.
    pub fn verify(
        self,
        bundle: &Verified<TrustBundle>,
        anchors: &[Nkey],
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
        self.request.verify_countersignature(anchors)?;
        let vouched_until = self
            .request
            .requested_at
            .saturating_add(MAX_CREDENTIAL_LIFE);
        if self.terms.expires_at > vouched_until {
            return Err(CredentialError::LifeTooLong);
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

fn bounded(bytes: &[u8]) -> Result<Reader<'_>, CredentialDecodeError> {
    if bytes.len() > MAX_CREDENTIAL {
        return Err(CredentialDecodeError::TooLarge {
            limit: MAX_CREDENTIAL,
            actual: bytes.len(),
        });
    }
    Ok(Reader::new(bytes))
}

fn version(reader: &mut Reader<'_>) -> Result<(), CredentialDecodeError> {
    match reader.uint()? {
        VERSION => Ok(()),
        version => Err(CredentialDecodeError::UnsupportedVersion { version }),
    }
}

fn key(reader: &mut Reader<'_>) -> Result<VerifyingKey, CredentialDecodeError> {
    VerifyingKey::from_bytes(&reader.bin_of()?).map_err(|_| CredentialDecodeError::Key)
}
