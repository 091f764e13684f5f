//! Requests for message credentials: who asks, and who vouches. SPEC.md, ENV-50 and
//! ENV-51.

use std::time::Duration;

use bulla_identity::{UnixMillis, Verified, WorkloadId, WorkloadTag};
use bulla_keyring::{
    Anchors, CertifiedKey, ExchangePublic, KemPublic, KemSuite, NkeySeed, Signature, SigningError,
    SigningKey, Tag, VerifyingKey, constant_time_eq,
};

use crate::countersignature::{Countersignature, CountersignatureError, Vouched};
use crate::credential::MAX_CREDENTIAL_LIFE;
use crate::reader::{EncodingError, Reader};
use crate::writer;

/// Longest request or credential in bytes: the longest workload id, a process's
/// keys, and the largest chain of certificates.
pub const MAX_CREDENTIAL: usize = 8 * 1024;

/// The version of both formats.
pub(crate) const VERSION: u64 = 1;
/// Longest workload id in bytes ([SPIFFE ID §2.3]).
///
/// [SPIFFE ID §2.3]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md
pub(crate) const MAX_WORKLOAD_ID: usize = 2048;

/// What a process asks a broker to certify.
#[derive(Debug, Clone)]
pub struct RequestDraft<'a> {
    /// The workload that the process runs as.
    pub workload: &'a WorkloadId,
    /// The key that will seal its messages.
    pub message_key: &'a SigningKey,
    /// The keys by which replies reach this process alone; without them nothing
    /// encrypted can be answered to it.
    pub process_keys: Option<&'a ProcessKeys>,
    /// The key that will sign transaction tokens, for workloads that mint.
    pub token_key: Option<&'a SigningKey>,
    /// 16 random bytes for each process.
    pub instance: [u8; 16],
    /// What the broker sent.
    pub challenge: [u8; 32],
    /// Now.
    pub requested_at: UnixMillis,
}

/// The public keys of one process, as fresh as its message key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessKeys {
    /// Replies are encrypted to it in the suite `xwing`.
    pub xwing: KemPublic,
    /// And to this one in the suite `x25519`.
    pub x25519: KemPublic,
    /// For keys that two processes agree on.
    pub exchange: ExchangePublic,
}

impl ProcessKeys {
    /// The KEM key for this suite.
    #[must_use]
    pub const fn kem(&self, suite: KemSuite) -> &KemPublic {
        match suite {
            KemSuite::XWing => &self.xwing,
            KemSuite::X25519 => &self.x25519,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        writer::array(out, 3);
        writer::bin(out, self.xwing.as_bytes());
        writer::bin(out, self.x25519.as_bytes());
        writer::bin(out, self.exchange.as_bytes());
    }

    fn read(reader: &mut Reader<'_>, bytes: &[u8]) -> Result<Self, CredentialDecodeError> {
        reader.array_of(3)?;
        Ok(Self {
            xwing: kem_key(reader, bytes, KemSuite::XWing)?,
            x25519: kem_key(reader, bytes, KemSuite::X25519)?,
            exchange: ExchangePublic::from_bytes(&reader.bin_of()?)
                .map_err(|_| CredentialDecodeError::KemKey)?,
        })
    }
}

/// A request that was decoded; [`CredentialRequest::verify`] proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRequest {
    pub(crate) statement: Vec<u8>,
    pub(crate) workload: WorkloadId,
    pub(crate) signing_key: VerifyingKey,
    pub(crate) process_keys: Option<ProcessKeys>,
    pub(crate) token_key: Option<VerifyingKey>,
    instance: [u8; 16],
    challenge: [u8; 32],
    pub(crate) requested_at: UnixMillis,
    possession: Option<Possession>,
    pub(crate) countersignature: Option<Countersignature>,
    /// Until when what vouches for it can, once that is verified.
    vouched_until: Option<UnixMillis>,
}

/// Proofs that the asker holds the keys that it names. A credential does not
/// repeat them: the broker has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Possession {
    message_key: Signature,
    token_key: Option<Signature>,
}

/// What a broker compares a request with.
#[derive(Debug, Clone)]
pub struct RequestExpectation<'a> {
    /// The tag in the subject on which it came, which nats-server vouches for.
    pub tag: WorkloadTag,
    /// The challenge that was sent.
    pub challenge: &'a [u8; 32],
    /// What vouches for the workload, by the policy.
    pub anchors: Anchors<'a>,
    /// The time.
    pub now: UnixMillis,
    /// By how much clocks may differ.
    pub skew: Duration,
    /// How old a request may be.
    pub max_age: Duration,
}

/// Why bytes are not a request or a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialDecodeError {
    /// Too long.
    #[error("{actual} bytes, more than {limit}")]
    TooLarge {
        /// What such a record may have.
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
    /// It names a key for encryption or agreement that is unsound.
    #[error("it names an unsound key for encryption")]
    KemKey,
    /// A record that nobody vouches for.
    #[error("the workload's signature is missing")]
    CountersignatureMissing,
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
    /// Nothing that the policy names vouches for it.
    #[error(transparent)]
    Countersignature(#[from] CountersignatureError),
}

impl CredentialDecodeError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Encoding(error) => error.code(),
            Self::UnsupportedVersion { .. } => "unsupported_version",
            Self::KemKey => "kem_key",
            Self::CountersignatureMissing => "countersignature_missing",
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

impl RequestDraft<'_> {
    /// Signs the request with the keys that it names, and with the workload's
    /// nkey where it vouches.
    #[must_use]
    pub fn sign(&self, countersigner: Option<&NkeySeed>) -> Vec<u8> {
        let statement = self.statement();
        let by = countersigner.map(|seed| Countersignature::by_nkey(seed, &statement));
        self.signed(&statement, by.as_ref())
    }

    /// Signs the request with the keys that it names, and with the key of the
    /// workload's certificate.
    ///
    /// # Errors
    /// [`SigningError`] if that key does not sign.
    pub fn sign_certified(&self, countersigner: &CertifiedKey) -> Result<Vec<u8>, SigningError> {
        let statement = self.statement();
        let by = Countersignature::by_certificate(countersigner, &statement)?;
        Ok(self.signed(&statement, Some(&by)))
    }

    fn signed(&self, statement: &[u8], by: Option<&Countersignature>) -> Vec<u8> {
        let room = by.map_or(0, Countersignature::size);
        let mut out = Vec::with_capacity(statement.len() + 160 + room);
        writer::array(&mut out, 4);
        writer::bin(&mut out, statement);
        let possession = self.message_key.sign(Tag::CredentialRequest, &[statement]);
        writer::bin(&mut out, possession.as_bytes());
        match self.token_key {
            Some(key) => {
                let possession = key.sign(Tag::TokenKey, &[statement]);
                writer::bin(&mut out, possession.as_bytes());
            }
            None => writer::nil(&mut out),
        }
        Countersignature::write(by, &mut out);
        out
    }

    fn statement(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        writer::array(&mut out, 8);
        writer::uint(&mut out, VERSION);
        writer::string(&mut out, self.workload.as_str());
        writer::bin(&mut out, self.message_key.verifying_key().as_bytes());
        match self.process_keys {
            Some(keys) => keys.write(&mut out),
            None => writer::nil(&mut out),
        }
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
        let mut reader = bounded(bytes, MAX_CREDENTIAL)?;
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

    pub(crate) fn read_statement(statement: &[u8]) -> Result<Self, CredentialDecodeError> {
        let mut reader = Reader::new(statement);
        reader.array_of(8)?;
        version(&mut reader)?;
        let (_, workload) = reader.string(MAX_WORKLOAD_ID)?;
        let workload = WorkloadId::parse(workload).map_err(|_| CredentialDecodeError::Workload)?;
        let signing_key = key(&mut reader)?;
        let process_keys = if reader.take_nil() {
            None
        } else {
            Some(ProcessKeys::read(&mut reader, statement)?)
        };
        let token_key = if reader.take_nil() {
            None
        } else {
            Some(key(&mut reader)?)
        };
        let request = Self {
            statement: statement.to_vec(),
            workload,
            signing_key,
            process_keys,
            token_key,
            instance: reader.bin_of()?,
            challenge: reader.bin_of()?,
            requested_at: UnixMillis::from_millis(reader.uint()?),
            possession: None,
            countersignature: None,
            vouched_until: None,
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

    /// The keys by which replies reach this process alone.
    #[must_use]
    pub const fn process_keys(&self) -> Option<&ProcessKeys> {
        self.process_keys.as_ref()
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

    /// The latest end of a credential that is made from it: a day after it was
    /// asked for, and no later than the certificate that vouches for it.
    #[must_use]
    pub fn longest(&self) -> UnixMillis {
        let day = self.requested_at.saturating_add(MAX_CREDENTIAL_LIFE);
        self.vouched_until.map_or(day, |until| until.min(day))
    }

    /// Proves that the asker holds the keys, answers this challenge now, and is
    /// vouched for by what the policy names.
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
        let vouched_until = self.verify_countersignature(expected.anchors)?;
        Ok(Verified::danger_assert(Self {
            vouched_until,
            ..self
        }))
    }

    /// Whether something of the workload's own vouches for it.
    #[must_use]
    pub const fn is_countersigned(&self) -> bool {
        self.countersignature.is_some()
    }

    /// As it stands in a credential.
    pub(crate) fn without_proofs(&self) -> Self {
        Self {
            possession: None,
            ..self.clone()
        }
    }

    /// Proves that something which the policy names vouches for this, and until
    /// when it can.
    pub(crate) fn verify_countersignature(
        &self,
        anchors: Anchors<'_>,
    ) -> Result<Option<UnixMillis>, CountersignatureError> {
        let vouched = Vouched {
            workload: &self.workload,
            statement: &self.statement,
            requested_at: self.requested_at,
        };
        Countersignature::verify(self.countersignature.as_ref(), vouched, anchors)
    }
}

pub(crate) fn bounded(bytes: &[u8], limit: usize) -> Result<Reader<'_>, CredentialDecodeError> {
    if bytes.len() > limit {
        return Err(CredentialDecodeError::TooLarge {
            limit,
            actual: bytes.len(),
        });
    }
    Ok(Reader::new(bytes))
}

pub(crate) fn version(reader: &mut Reader<'_>) -> Result<(), CredentialDecodeError> {
    match reader.uint()? {
        VERSION => Ok(()),
        version => Err(CredentialDecodeError::UnsupportedVersion { version }),
    }
}

pub(crate) fn key(reader: &mut Reader<'_>) -> Result<VerifyingKey, CredentialDecodeError> {
    VerifyingKey::from_bytes(&reader.bin_of()?).map_err(|_| CredentialDecodeError::Key)
}

pub(crate) fn kem_key(
    reader: &mut Reader<'_>,
    bytes: &[u8],
    suite: KemSuite,
) -> Result<KemPublic, CredentialDecodeError> {
    let key = reader.bin(MAX_CREDENTIAL)?.of(bytes);
    KemPublic::from_bytes(suite, key).map_err(|_| CredentialDecodeError::KemKey)
}
