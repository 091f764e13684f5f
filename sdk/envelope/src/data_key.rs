//! Data keys: what bodies are encrypted under, and how they reach those who may
//! read them. SPEC.md, ENV-70 to ENV-76.
//!
//! ```text
//! SealingKey ── wraps() ──► [ key expiry, [ [ KEM key id, enc ‖ ct ] … ] ] ──► OpeningKey::unwrap
//!     └─ in a sender's drafts                                                      └─ at a receiver
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_identity::{TrustDomain, UnixMillis, WorkloadId};
use bulla_keyring::{
    BadCiphertext, CipherSuite, DataKey, DataKeyId, KemKeyId, KemPublic, KemSecret, NONCE_LEN,
    Nonce, NonceError, NonceLane, NonceLanes, TAG_LEN, Tag, WrapError, constant_time_eq, sha256,
};

use crate::Epoch;
use crate::limits::MAX_RECIPIENTS;
use crate::reader::{EncodingError, Reader};
use crate::writer;

/// Longest wrapped key in bytes: an X-Wing encapsulation and its ciphertext.
const MAX_WRAP: usize = 1_120 + 48;

/// Bytes of a KEM key's id.
const KEM_ID_LEN: usize = 16;

/// Which keys a data key is wrapped to: a hash of their ids in order (ENV-72).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecipientSet(pub [u8; 32]);

impl RecipientSet {
    /// The set of these keys; their order does not matter.
    #[must_use]
    pub fn of(keys: impl IntoIterator<Item = KemKeyId>) -> Self {
        let mut ids: Vec<[u8; KEM_ID_LEN]> = keys.into_iter().map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        Self(sha256(&[Tag::RecipientSet.as_bytes(), &ids.concat()]))
    }
}

impl fmt::Debug for RecipientSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RecipientSet({})",
            data_encoding::HEXLOWER.encode(&self.0)
        )
    }
}

/// Somebody that a data key is wrapped to.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The workload that holds the key.
    pub workload: &'a WorkloadId,
    /// Its public key, of the suite in use.
    pub key: &'a KemPublic,
}

/// What a new data key is made from.
#[derive(Debug, Clone, Copy)]
pub struct DataKeyDraft<'a> {
    /// With which KEM it is wrapped, and with which cipher it encrypts.
    pub suite: CipherSuite,
    /// The trust domain.
    pub trust_domain: &'a TrustDomain,
    /// The workload that will seal under it.
    pub sender: &'a WorkloadId,
    /// The epoch of the process that will seal under it.
    pub epoch: Epoch,
    /// From when on nothing is sealed under it any more.
    pub expires_at: UnixMillis,
    /// How many envelopes it may seal, see [`SealingKey::reserve`].
    pub max_uses: u64,
    /// The process that will seal under it.
    pub process: u32,
}

/// Why a data key cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DataKeyError {
    /// Nobody to wrap it to, or too many.
    #[error("a data key has 1 to {limit} recipients, not {actual}")]
    Recipients {
        /// [`MAX_RECIPIENTS`].
        limit: usize,
        /// How many there are.
        actual: usize,
    },
    /// A recipient's key is of another suite.
    #[error("a recipient's key is of another suite")]
    Suite,
    /// Wrapping failed: a recipient's key is unusable.
    #[error("the data key cannot be wrapped")]
    Wrap(#[from] WrapError),
    /// No nonces can be taken under it.
    #[error("no nonce can be taken")]
    Nonce(#[from] NonceError),
}

impl DataKeyError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Recipients { .. } => "recipients",
            Self::Suite => "recipient_suite",
            Self::Wrap(_) => "wrap",
            Self::Nonce(error) => error.code(),
        }
    }
}

/// A data key in the hands of the process that seals under it.
pub struct SealingKey {
    key: DataKey,
    id: DataKeyId,
    suite: CipherSuite,
    epoch: Epoch,
    recipients: RecipientSet,
    recipient_count: usize,
    expires_at: UnixMillis,
    uses_left: AtomicU64,
    lane: NonceLane,
    wraps: Vec<u8>,
}

impl SealingKey {
    /// Makes a key from 32 random bytes and wraps it to each of `recipients`;
    /// `random` gives 64 fresh random bytes for each wrap.
    ///
    /// # Errors
    /// [`DataKeyError`].
    ///
    /// # Security
    /// All random bytes come from a cryptographically secure generator and are
    /// used for nothing else.
    pub fn new(
        draft: &DataKeyDraft<'_>,
        recipients: &[Recipient<'_>],
        key: &[u8; 32],
        mut random: impl FnMut() -> [u8; 64],
    ) -> Result<Self, DataKeyError> {
        let mut sorted: Vec<(KemKeyId, &Recipient<'_>)> =
            recipients.iter().map(|r| (r.key.id(), r)).collect();
        sorted.sort_by_key(|(id, _)| id.0);
        sorted.dedup_by_key(|(id, _)| id.0);
        if !(1..=MAX_RECIPIENTS).contains(&sorted.len()) {
            return Err(DataKeyError::Recipients {
                limit: MAX_RECIPIENTS,
                actual: sorted.len(),
            });
        }
        if sorted.iter().any(|(_, r)| r.key.suite() != draft.suite.kem) {
            return Err(DataKeyError::Suite);
        }
        let key = DataKey::from_random(draft.suite.cipher, key);
        let id = key.id(draft.sender, draft.epoch.as_bytes());
        let set = RecipientSet::of(sorted.iter().map(|(id, _)| *id));
        let mut wraps = Vec::with_capacity(16 + sorted.len() * (MAX_WRAP + 24));
        writer::array(&mut wraps, 2);
        writer::uint(&mut wraps, draft.expires_at.as_millis());
        writer::array(&mut wraps, u32::try_from(sorted.len()).unwrap_or(u32::MAX));
        let context = WrapContext {
            suite: draft.suite,
            trust_domain: draft.trust_domain,
            sender: draft.sender,
            epoch: draft.epoch,
            data_key: id,
            recipients: set,
        };
        for (kem_id, recipient) in &sorted {
            let info = context.info(recipient.workload, *kem_id, draft.expires_at);
            let wrapped = recipient.key.wrap(&info, &key, &random())?;
            writer::array(&mut wraps, 2);
            writer::bin(&mut wraps, &kem_id.0);
            writer::bin(&mut wraps, &wrapped);
        }
        Ok(Self {
            key,
            id,
            suite: context.suite,
            epoch: draft.epoch,
            recipients: set,
            recipient_count: sorted.len(),
            expires_at: draft.expires_at,
            uses_left: AtomicU64::new(draft.max_uses),
            lane: NonceLanes::new(draft.process).lane(draft.process)?,
            wraps,
        })
    }

    /// Names the key, and commits to it.
    #[must_use]
    pub const fn id(&self) -> DataKeyId {
        self.id
    }

    /// The suite of envelopes under it.
    #[must_use]
    pub const fn suite(&self) -> CipherSuite {
        self.suite
    }

    /// The epoch of the process that it belongs to.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Which keys it is wrapped to.
    #[must_use]
    pub const fn recipients(&self) -> RecipientSet {
        self.recipients
    }

    /// How many keys it is wrapped to.
    #[must_use]
    pub const fn recipient_count(&self) -> usize {
        self.recipient_count
    }

    /// From when on nothing is sealed under it.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMillis {
        self.expires_at
    }

    /// Takes up to so many of the envelopes that it may seal; 0 if none are left, and
    /// another key is needed. Who takes them before sealing never seals more
    /// ([`DataKeyDraft::max_uses`]), whatever waits at that time.
    #[must_use]
    pub fn reserve(&self, envelopes: u64) -> u64 {
        let take = |left: u64| (left > 0).then(|| left - left.min(envelopes));
        let before = self
            .uses_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.map_or(0, |left| left.min(envelopes))
    }

    /// The wrapped key as it stands in headers and records.
    #[must_use]
    pub fn wraps(&self) -> &[u8] {
        &self.wraps
    }

    pub(crate) fn take_nonce(&self, process: u32) -> Result<Nonce, NonceError> {
        self.lane.take(process)
    }

    pub(crate) fn encrypt(&self, nonce: Nonce, aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_LEN] {
        self.key.seal_in_place(nonce, &[aad], buffer)
    }
}

/// Shows which key it is, never the key.
impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey")
            .field("id", &self.id)
            .field("suite", &self.suite)
            .field("recipients", &self.recipient_count)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What an encrypted envelope says about its key, with who sealed it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyReference {
    /// The suite.
    pub suite: CipherSuite,
    /// The workload that sealed.
    pub sender: WorkloadId,
    /// The epoch of the process that sealed.
    pub epoch: Epoch,
    /// Names the data key.
    pub data_key: DataKeyId,
    /// Which keys it is wrapped to.
    pub recipients: RecipientSet,
}

/// What every wrap of one data key is bound to.
struct WrapContext<'a> {
    suite: CipherSuite,
    trust_domain: &'a TrustDomain,
    sender: &'a WorkloadId,
    epoch: Epoch,
    data_key: DataKeyId,
    recipients: RecipientSet,
}

impl WrapContext<'_> {
    /// HPKE's `info` (ENV-74).
    fn info(&self, recipient: &WorkloadId, key: KemKeyId, expires_at: UnixMillis) -> Vec<u8> {
        let mut info = Vec::with_capacity(512);
        info.extend_from_slice(Tag::Wrap.as_bytes());
        writer::array(&mut info, 9);
        writer::uint(&mut info, u64::from(self.suite.code()));
        writer::string(&mut info, self.trust_domain.as_str());
        writer::string(&mut info, self.sender.as_str());
        writer::bin(&mut info, self.epoch.as_bytes());
        writer::string(&mut info, recipient.as_str());
        writer::bin(&mut info, &key.0);
        writer::bin(&mut info, &self.data_key.0);
        writer::bin(&mut info, &self.recipients.0);
        writer::uint(&mut info, expires_at.as_millis());
        info
    }
}

/// Why a data key cannot be had from its wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// Not the strict encoding of wraps.
    #[error("malformed wraps")]
    Encoding(#[from] EncodingError),
    /// Ids that are repeated or not in ascending order, or none.
    #[error("the wraps are repeated, out of order or none")]
    Order,
    /// The wraps are for other keys than the envelope says.
    #[error("the wraps are for another set of recipients")]
    RecipientSet,
    /// No key of ours is among the recipients.
    #[error("the data key is not wrapped to this workload")]
    NotARecipient,
    /// Our wrap does not open.
    #[error("the wrapped data key does not open")]
    Wrap(#[from] WrapError),
    /// What was wrapped is another key than the id commits to.
    #[error("the wrapped key is not the one that its id commits to")]
    WrongKey,
}

impl UnwrapError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Encoding(_) => "wraps_malformed",
            Self::Order => "wraps_order",
            Self::RecipientSet => "recipient_set_mismatch",
            Self::NotARecipient => "not_a_recipient",
            Self::Wrap(_) => "wrap_does_not_open",
            Self::WrongKey => "data_key_mismatch",
        }
    }
}

/// A data key in the hands of somebody who may read.
pub struct OpeningKey {
    key: DataKey,
    reference: KeyReference,
    expires_at: UnixMillis,
}

impl OpeningKey {
    /// Finds the wrap that one of our keys opens, and opens it.
    ///
    /// `secret` gives the KEM secret with this id, if it is ours; `own` is the
    /// workload that holds them.
    ///
    /// # Errors
    /// [`UnwrapError`] names the first thing that does not fit.
    ///
    /// # Security
    /// `reference` is taken from an authentic envelope
    /// ([`CheckedEnvelope::key_reference`](crate::CheckedEnvelope::key_reference)).
    /// The key is compared with the id that the sender signed, so where the wraps
    /// come from does not matter: nobody can put another key in its place.
    pub fn unwrap<'s>(
        reference: KeyReference,
        wraps: &[u8],
        trust_domain: &TrustDomain,
        own: &WorkloadId,
        secret: impl Fn(KemKeyId) -> Option<&'s KemSecret>,
    ) -> Result<Self, UnwrapError> {
        let mut ids = Vec::new();
        let mut ours = None;
        let expires_at = read_wraps(wraps, |id, wrapped| {
            if ours.is_none()
                && let Some(secret) = secret(id)
            {
                ours = Some((id, wrapped, secret));
            }
            ids.push(id);
        })?;
        if RecipientSet::of(ids) != reference.recipients {
            return Err(UnwrapError::RecipientSet);
        }
        let (id, wrapped, secret) = ours.ok_or(UnwrapError::NotARecipient)?;
        if reference.suite.kem != secret.public().suite() {
            return Err(UnwrapError::NotARecipient);
        }
        let context = WrapContext {
            suite: reference.suite,
            trust_domain,
            sender: &reference.sender,
            epoch: reference.epoch,
            data_key: reference.data_key,
            recipients: reference.recipients,
        };
        let info = context.info(own, id, expires_at);
        let key = secret.unwrap(reference.suite.cipher, &info, wrapped)?;
        let computed = key.id(&reference.sender, reference.epoch.as_bytes());
        if !constant_time_eq(&computed.0, &reference.data_key.0) {
            return Err(UnwrapError::WrongKey);
        }
        Ok(Self {
            key,
            reference,
            expires_at,
        })
    }

    /// What it is the key of.
    #[must_use]
    pub const fn reference(&self) -> &KeyReference {
        &self.reference
    }

    /// From when on its sender seals nothing under it.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMillis {
        self.expires_at
    }

    /// Whether something that was issued then may be sealed under it.
    pub(crate) fn covers(&self, issued_at: UnixMillis, skew: Duration) -> bool {
        issued_at <= self.expires_at.saturating_add(skew)
    }

    pub(crate) fn decrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), BadCiphertext> {
        self.key.open_in_place(nonce, &[aad], ciphertext, tag)
    }
}

/// Shows which key it is, never the key.
impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningKey")
            .field("reference", &self.reference)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Reads wraps (ENV-73), giving each to `each`; returns the key's expiry.
fn read_wraps<'w>(
    bytes: &'w [u8],
    mut each: impl FnMut(KemKeyId, &'w [u8]),
) -> Result<UnixMillis, UnwrapError> {
    let mut reader = Reader::new(bytes);
    reader.array_of(2)?;
    let expires_at = UnixMillis::from_millis(reader.uint()?);
    let count = reader.array(MAX_RECIPIENTS)?;
    let mut last: Option<[u8; KEM_ID_LEN]> = None;
    for _ in 0..count {
        reader.array_of(2)?;
        let id = reader.bin_of()?;
        if last.is_some_and(|last| last >= id) {
            return Err(UnwrapError::Order);
        }
        last = Some(id);
        each(KemKeyId(id), reader.bin(MAX_WRAP)?.of(bytes));
    }
    reader.finish()?;
    if last.is_none() {
        return Err(UnwrapError::Order);
    }
    Ok(expires_at)
}

/// The ids of the keys that wraps are for, and the data key's expiry: for
/// people who look at a captured envelope.
///
/// # Errors
/// [`UnwrapError`] if they are malformed.
pub fn wrapped_to(wraps: &[u8]) -> Result<(UnixMillis, Vec<KemKeyId>), UnwrapError> {
    let mut ids = Vec::new();
    let expires_at = read_wraps(wraps, |id, _| ids.push(id))?;
    Ok((expires_at, ids))
}
