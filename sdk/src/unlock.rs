//! Reading what is encrypted: from the data key that an envelope names to the key
//! itself, which comes from memory, from the wraps that ride along, or from the
//! sender's record on the stream. A missing key is a refusal.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::StatusCode;
use bulla_envelope::{
    CheckError, CheckedEnvelope, DecodeError, Expectation, KeyReference, Kind, OpenError,
    OpenedEnvelope, OpeningKey, SealedEnvelope, Suite, UnwrapError, VerifyError,
};
use bulla_identity::{TrustDomain, UnixMillis, reserved};
use bulla_keyring::{Cipher, CipherSuite, DataKeyId, KemSuite};
use bulla_policy::{LONGEST_MAX_AGE, Protect, Requirements};
use bulla_process::SingleFlight;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::clock;
use crate::connection::{Connection, header_of};
use crate::control::{Control, LookupError, Unusable};
use crate::error::{LinkError, Silence};
use crate::jetstream;
use crate::kems::OwnKems;
use crate::refusal::Refusal;

/// Data keys held at once.
const MAX_KEYS: u64 = 20_000;
/// How long a key is held after its last use.
const IDLE: Duration = Duration::from_secs(3_600);
/// Keys that could not be had, and for how long nobody asks again.
const MAX_MISSING: u64 = 10_000;
const MISSING_FOR: Duration = Duration::from_millis(500);
const FETCH: Duration = Duration::from_secs(1);
const FETCHES_AT_ONCE: usize = 32;

/// Why a data key cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum UnlockError {
    #[error("the data key cannot be had from its wraps")]
    Unwrap(#[from] UnwrapError),
    #[error("the sender has stored no record of the data key")]
    NoRecord,
    #[error("the stream of data keys cannot be reached")]
    Unreachable(#[from] LinkError),
    #[error("the stream of data keys answers with an error")]
    Refused,
    #[error("the record of the data key does not count")]
    Record(#[from] RecordFault),
    #[error("the record of the data key is under no usable credential")]
    RecordCredential(#[from] LookupError),
}

/// Why what lies in the place of a data key's record is none.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RecordFault {
    #[error("it is no envelope")]
    Malformed(#[from] DecodeError),
    #[error("it is not authentic")]
    NotAuthentic(#[from] VerifyError),
    #[error("another workload made it than the one that names the data key")]
    Foreign,
    #[error("it is an envelope of another kind")]
    Kind,
    #[error("it was made for another place")]
    Misplaced,
    #[error("it was made for another time")]
    NotInTime(#[source] CheckError),
    #[error("it is about another data key")]
    OtherKey,
    #[error("it gives the data key another suite, epoch or set of recipients")]
    Mismatch,
    #[error("its contents cannot be read")]
    Contents(#[from] OpenError),
}

impl RecordFault {
    const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "data_key_record_malformed",
            Self::NotAuthentic(_) => "data_key_record_not_authentic",
            Self::Foreign => "data_key_record_foreign",
            Self::Kind => "data_key_record_kind",
            Self::Misplaced => "data_key_record_misplaced",
            Self::NotInTime(_) => "data_key_record_not_in_time",
            Self::OtherKey => "data_key_record_other_key",
            Self::Mismatch => "data_key_record_mismatch",
            Self::Contents(_) => "data_key_record_contents",
        }
    }
}

impl From<CheckError> for RecordFault {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::WrongKind { .. } => Self::Kind,
            CheckError::WrongSubject | CheckError::WrongReplyTo | CheckError::WrongRequest => {
                Self::Misplaced
            }
            CheckError::Future
            | CheckError::Expired
            | CheckError::TooOld
            | CheckError::LivesTooLong
            | CheckError::IssuedBeforeStart
            | CheckError::OutlivesCredential => Self::NotInTime(error),
        }
    }
}

impl UnlockError {
    /// Whether it is wrapped, and not to this workload.
    pub(crate) fn is_for_others(&self) -> bool {
        matches!(self, Self::Unwrap(UnwrapError::NotARecipient))
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unwrap(error) => error.code(),
            Self::NoRecord => "no_data_key_record",
            Self::Unreachable(error) => match error.silence() {
                Silence::Unanswered => "data_keys_unreachable",
                Silence::NobodyThere => "data_keys_stream_missing",
                Silence::NotPermitted => "data_keys_not_permitted",
            },
            Self::Refused => "data_keys_refused",
            Self::Record(fault) => fault.code(),
            Self::RecordCredential(lookup) => match lookup.unusable() {
                Unusable::Unreachable => "data_key_record_credential_unreachable",
                Unusable::Unknown => "data_key_record_credential_unknown",
                Unusable::Revoked => "data_key_record_credential_revoked",
                Unusable::NotInTime => "data_key_record_credential_not_in_time",
                Unusable::Untrusted => "data_key_record_credential_untrusted",
            },
        }
    }
}

pub(crate) type Unlocked = Result<Arc<OpeningKey>, UnlockError>;

/// The data keys that others' envelopes were sealed under.
pub(crate) struct Unlocker {
    kems: OwnKems,
    connection: Connection,
    control: Control,
    domain: TrustDomain,
    skew: Duration,
    held: Cache<DataKeyId, Arc<OpeningKey>>,
    /// The one that was asked for last, for as long as it is held: most often the next
    /// message is under it too.
    last: Mutex<Weak<OpeningKey>>,
    /// By all that an envelope says of its key, its sender among it: who names
    /// another's data key must not keep others from finding it.
    missing: Cache<KeyReference, UnlockError>,
    in_flight: SingleFlight<KeyReference, Unlocked>,
    /// Records asked for at once: who may send may name any number of keys.
    places: Semaphore,
}

/// What comes of an envelope at once.
pub(crate) enum Attempt {
    Opened(OpenedEnvelope),
    /// Its data key has to be found first.
    Locked(CheckedEnvelope, KeyReference),
}

impl Unlocker {
    pub(crate) fn new(
        kems: OwnKems,
        connection: Connection,
        control: Control,
        domain: TrustDomain,
        skew: Duration,
    ) -> Self {
        Self {
            kems,
            connection,
            control,
            domain,
            skew,
            held: Cache::builder()
                .max_capacity(MAX_KEYS)
                .time_to_idle(IDLE)
                .build(),
            last: Mutex::default(),
            missing: Cache::builder()
                .max_capacity(MAX_MISSING)
                .time_to_live(MISSING_FOR)
                .build(),
            in_flight: SingleFlight::default(),
            places: Semaphore::new(FETCHES_AT_ONCE),
        }
    }

    /// The contents of an envelope that is protected as its subject demands.
    pub(crate) async fn open(
        self: &Arc<Self>,
        envelope: CheckedEnvelope,
        requirements: &Requirements,
    ) -> Result<OpenedEnvelope, Refusal> {
        match self.open_at_once(envelope, requirements)? {
            Attempt::Opened(opened) => Ok(opened),
            // Once for each key; on the heap, so that the way of every message
            // is not as large as this one.
            Attempt::Locked(envelope, key) => Box::pin(self.unlock(envelope, key)).await,
        }
    }

    /// Finds the data key that an envelope names, and decrypts with it.
    pub(crate) async fn unlock(
        self: &Arc<Self>,
        envelope: CheckedEnvelope,
        reference: KeyReference,
    ) -> Result<OpenedEnvelope, Refusal> {
        let key = self.obtain(&envelope, reference).await?;
        Ok(envelope.decrypt(&key)?)
    }

    /// The same as far as nothing has to be waited for.
    pub(crate) fn open_at_once(
        &self,
        envelope: CheckedEnvelope,
        requirements: &Requirements,
    ) -> Result<Attempt, Refusal> {
        check_suite(envelope.suite(), requirements)?;
        if let Some(key) = envelope.data_key().and_then(|id| self.held(&id)) {
            return Ok(Attempt::Opened(envelope.decrypt(&key)?));
        }
        match envelope.key_reference() {
            None => Ok(Attempt::Opened(envelope.open_clear()?)),
            Some(reference) => Ok(Attempt::Locked(envelope, reference)),
        }
    }

    /// A key that is held.
    fn held(&self, id: &DataKeyId) -> Option<Arc<OpeningKey>> {
        let last = self.last.lock().upgrade();
        if let Some(key) = last.filter(|key| key.reference().data_key == *id) {
            return Some(key);
        }
        let key = self.held.get(id)?;
        *self.last.lock() = Arc::downgrade(&key);
        Some(key)
    }

    /// The key that something else than an envelope names: its record is on the
    /// stream.
    pub(crate) async fn key(self: &Arc<Self>, reference: KeyReference) -> Unlocked {
        match self.held(&reference.data_key) {
            Some(key) => Ok(key),
            None => Box::pin(self.look_up(reference)).await,
        }
    }

    /// The key of an authentic envelope; `reference` is what it says of it.
    async fn obtain(
        self: &Arc<Self>,
        envelope: &CheckedEnvelope,
        reference: KeyReference,
    ) -> Unlocked {
        if let Some(wraps) = envelope.inline_wraps() {
            return self.admit(reference, &wraps);
        }
        self.look_up(reference).await
    }

    async fn look_up(self: &Arc<Self>, reference: KeyReference) -> Unlocked {
        if let Some(error) = self.missing.get(&reference) {
            return Err(error);
        }
        let fetch = || Arc::clone(self).fetch_for_all(reference.clone());
        let fetched = self.in_flight.join(reference.clone(), fetch).await;
        // Its task is gone, and with it the runtime.
        fetched.unwrap_or(Err(LinkError::Disconnected.into()))
    }

    /// Done by a task of its own, whoever waits.
    async fn fetch_for_all(self: Arc<Self>, reference: KeyReference) -> Unlocked {
        // Another may have ended since the one who asks looked.
        if let Some(key) = self.held(&reference.data_key) {
            return Ok(key);
        }
        if let Some(error) = self.missing.get(&reference) {
            return Err(error);
        }
        let fetched = self.fetch(reference.clone()).await;
        if let Err(error) = &fetched {
            self.missing.insert(reference, error.clone());
        }
        fetched
    }

    fn admit(&self, reference: KeyReference, wraps: &[u8]) -> Unlocked {
        let id = reference.data_key;
        let key = Arc::new(self.kems.unwrap(reference, wraps, &self.domain)?);
        self.held.insert(id, Arc::clone(&key));
        Ok(key)
    }

    async fn fetch(&self, reference: KeyReference) -> Unlocked {
        let place = self.places.acquire().await;
        let _place = place.map_err(|_| LinkError::Disconnected)?;
        let id = HEXLOWER.encode(&reference.data_key.0);
        let subject = reserved::key_record(reference.sender.tag(), &id);
        let ask = reserved::key_direct_get(reference.sender.tag(), &id);
        let answer = self.connection.ask(ask, Bytes::new(), FETCH).await?;
        match answer.status {
            None | Some(StatusCode::OK) => {}
            Some(StatusCode::NOT_FOUND) => return Err(UnlockError::NoRecord),
            Some(_) => return Err(UnlockError::Refused),
        }
        let stored_at = jetstream::stored_at(header_of(&answer)).unwrap_or_else(clock::now);
        let wraps = self
            .prove(&reference, &subject, answer.payload, stored_at)
            .await?;
        self.admit(reference, &wraps)
    }

    /// A record is an envelope of the same sender, judged as of when it was stored.
    async fn prove(
        &self,
        reference: &KeyReference,
        subject: &str,
        record: Bytes,
        stored_at: UnixMillis,
    ) -> Result<Bytes, UnlockError> {
        let sealed = SealedEnvelope::decode(record).map_err(RecordFault::from)?;
        let credential = self
            .control
            .credential_as_of(sealed.key_id(), stored_at, clock::now())
            .await?;
        let authentic = sealed.verify(&credential).map_err(RecordFault::from)?;
        if authentic.sender().workload != reference.sender {
            return Err(RecordFault::Foreign.into());
        }
        let expectation = Expectation {
            subject,
            reply_to: None,
            kinds: &[Kind::KeyWrap],
            now: stored_at,
            skew: self.skew,
            max_age: LONGEST_MAX_AGE,
            not_before: UnixMillis::default(),
            request: None,
        };
        let checked = authentic.check(&expectation).map_err(RecordFault::from)?;
        match checked.key_reference() {
            Some(about) if about == *reference => {}
            Some(about) if about.data_key == reference.data_key => {
                return Err(RecordFault::Mismatch.into());
            }
            _ => return Err(RecordFault::OtherKey.into()),
        }
        let opened = checked.open_clear().map_err(RecordFault::from)?;
        Ok(opened.first_message().body)
    }
}

/// Whether what came is protected as its subject demands (ENV-11).
fn check_suite(suite: Suite, requirements: &Requirements) -> Result<(), Refusal> {
    if !suite.is_at_least(kem_of(requirements)) {
        return Err(match suite {
            Suite::Signed => Refusal::Unprotected,
            Suite::Encrypted(_) => Refusal::WeakSuite,
        });
    }
    match (suite, cipher_of(requirements)) {
        // What is encrypted though nobody asked is as good in one as in the other.
        (Suite::Encrypted(suite), Some(cipher)) if suite.cipher != cipher => {
            Err(Refusal::OtherCipher)
        }
        _ => Ok(()),
    }
}

/// How this process encrypts messages on a subject, if they are encrypted.
pub(crate) fn suite_of(requirements: &Requirements) -> Option<CipherSuite> {
    let kem = kem_of(requirements)?;
    let cipher = cipher_of(requirements).unwrap_or_else(Cipher::fastest_here);
    Some(CipherSuite { kem, cipher })
}

/// The KEM of a subject's messages, if they are encrypted.
fn kem_of(requirements: &Requirements) -> Option<KemSuite> {
    match requirements.protect {
        Protect::Open | Protect::Signed => None,
        Protect::Encrypted => Some(match requirements.suite {
            bulla_policy::Suite::XWing => KemSuite::XWing,
            bulla_policy::Suite::X25519 => KemSuite::X25519,
        }),
    }
}

/// The one cipher of a subject's messages, if they are encrypted and it names one.
fn cipher_of(requirements: &Requirements) -> Option<Cipher> {
    kem_of(requirements)?;
    match requirements.cipher {
        bulla_policy::Cipher::Any => None,
        bulla_policy::Cipher::ChaCha20Poly1305 => Some(Cipher::ChaCha20Poly1305),
        bulla_policy::Cipher::Aes256Gcm => Some(Cipher::Aes256Gcm),
    }
}
