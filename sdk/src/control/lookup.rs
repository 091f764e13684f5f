//! From key ids to verified credentials, at a bounded price.
//!
//! Key ids arrive in envelopes that nothing is proven of, so a look-up is the
//! one thing that anybody who can send can make a receiver do: one flight per
//! key id, so many at once, so many a second, and a rest when the control
//! stream does not answer. Who asks may be slow or go away: what others wait for
//! is done by tasks of their own, and places are theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use bulla_envelope::{
    Credential, CredentialDecodeError, CredentialError as VerifyError, VerifiedCredential,
};
use bulla_identity::{UnixMillis, reserved};
use bulla_keyring::KeyId;
use bulla_process::SingleFlight;
use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{AsOf, Control, Inner, fetch};
use crate::error::{LinkError, Silence};

/// Credentials held at once.
const MAX_CREDENTIALS: u64 = 20_000;
/// Places for those that were asked for lately.
const LATELY: usize = 64;
/// Key ids remembered as unknown, and for how long: forged ids must neither
/// evict good credentials nor reach the control stream each time.
const MAX_UNKNOWN: u64 = 10_000;
const UNKNOWN_FOR: Duration = Duration::from_secs(2);
/// Look-ups of unknown key ids: a burst and as many a second, and how many at
/// once. One costs nats-server about 0.3 ms.
const LOOKUPS_PER_SECOND: u32 = 2_000;
const LOOKUPS_AT_ONCE: usize = 32;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long nobody asks again after the control stream did not answer: what
/// hangs must not hold up messages whose keys are known.
const REST: Duration = Duration::from_secs(1);
/// Key ids that brokers have announced lately.
const MAX_ANNOUNCED: u64 = 50_000;

type Lookup = Result<Arc<VerifiedCredential>, LookupError>;
/// What the control stream has under a key id.
type Record = Result<Option<Bytes>, LookupError>;

/// Why a key id leads to no usable credential.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("nobody has published a credential with this key id")]
    Unknown,
    #[error("too many look-ups of unknown key ids")]
    Throttled,
    #[error("the control stream did not answer a moment ago")]
    Resting,
    #[error("the control stream cannot be reached")]
    Unreachable(#[from] LinkError),
    #[error("the published record is no credential")]
    Decode(#[from] CredentialDecodeError),
    #[error("the published record has another key id")]
    Misfiled,
    #[error("the policy has no such workload")]
    UnknownWorkload,
    #[error("the trust bundle does not name the key that signed the policy in force")]
    PolicyUnvouched,
    #[error("the credential does not verify")]
    Verify(#[from] VerifyError),
    #[error("its workload is revoked")]
    WorkloadRevoked,
    #[error("the credential is revoked")]
    KeyRevoked,
}

impl LookupError {
    /// The task that looked up is gone, and with it the runtime.
    const ENDED: Self = Self::Unreachable(LinkError::Disconnected);

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown_key",
            Self::Throttled => "lookup_throttled",
            Self::Resting => "lookup_resting",
            Self::Unreachable(error) => match error.silence() {
                Silence::Unanswered => "lookup_unreachable",
                Silence::NobodyThere => "lookup_stream_missing",
                Silence::NotPermitted => "lookup_not_permitted",
            },
            Self::Decode(_) => "credential_malformed",
            Self::Misfiled => "credential_misfiled",
            Self::UnknownWorkload => "credential_unknown_workload",
            Self::PolicyUnvouched => "policy_unvouched",
            Self::Verify(e) => e.code(),
            Self::WorkloadRevoked => "workload_revoked",
            Self::KeyRevoked => "key_revoked",
        }
    }

    /// The reason of something else that stands on the credential: a user's token, an
    /// ancestor, the record of a data key.
    pub(crate) const fn unusable(&self) -> Unusable {
        match self {
            Self::Throttled | Self::Resting | Self::Unreachable(_) => Unusable::Unreachable,
            Self::Unknown | Self::UnknownWorkload => Unusable::Unknown,
            Self::WorkloadRevoked | Self::KeyRevoked => Unusable::Revoked,
            Self::Verify(VerifyError::Expired | VerifyError::NotYetValid) => Unusable::NotInTime,
            Self::Decode(_) | Self::Misfiled | Self::PolicyUnvouched | Self::Verify(_) => {
                Unusable::Untrusted
            }
        }
    }
}

/// Why nothing can stand on a credential, as coarse as what an operator does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It could not be looked up.
    Unreachable,
    /// No broker published it, or the policy has no such workload.
    Unknown,
    /// By the operator.
    Revoked,
    /// It was not valid then: somebody's clock, or a credential that was not renewed.
    NotInTime,
    /// Trust bundle, policy or the record itself do not carry it.
    Untrusted,
}

/// A credential that was verified under one state of trust, policy and revocations.
#[derive(Clone)]
struct Proven {
    generation: u64,
    credential: Arc<VerifiedCredential>,
    /// From when on the list names its workload, and itself.
    workload_revoked: Option<UnixMillis>,
    key_revoked: Option<UnixMillis>,
}

impl Proven {
    /// It is looked at each time: what was found for a message that a stream stored
    /// before a revocation must not serve one that comes now.
    fn judge(&self, as_of: AsOf) -> Lookup {
        if as_of.is_revoked(self.workload_revoked) {
            return Err(LookupError::WorkloadRevoked);
        }
        if as_of.is_revoked(self.key_revoked) {
            return Err(LookupError::KeyRevoked);
        }
        Ok(Arc::clone(&self.credential))
    }
}

/// Credentials that were asked for lately, each at the place that its key id draws: most
/// messages are by few, and a look here costs a tenth of one at all that are held.
struct Lately([ArcSwapOption<(KeyId, Proven)>; LATELY]);

/// What stood at a place when it was looked at.
type Found = Guard<Option<Arc<(KeyId, Proven)>>>;

impl Lately {
    /// What stands at the place of this key id, if it is of it and of this state.
    fn find(&self, key_id: KeyId, generation: u64) -> Option<Found> {
        let found = self.place(key_id)?.load();
        let is_it =
            |(id, proven): &(KeyId, Proven)| *id == key_id && proven.generation == generation;
        found.as_deref().is_some_and(is_it).then_some(found)
    }

    fn put(&self, key_id: KeyId, proven: Proven) {
        if let Some(place) = self.place(key_id) {
            place.store(Some(Arc::new((key_id, proven))));
        }
    }

    fn place(&self, key_id: KeyId) -> Option<&ArcSwapOption<(KeyId, Proven)>> {
        // It is a hash: any of its bytes will do.
        let [.., last] = key_id.0;
        self.0.get(usize::from(last) % LATELY)
    }
}

/// What is known of key ids.
pub(super) struct Lookups {
    lately: Lately,
    verified: Cache<KeyId, Proven>,
    unknown: Cache<KeyId, LookupError>,
    /// Known from the news to exist: their look-up is not throttled, so that a
    /// flood of forged key ids cannot shut out processes that have just begun.
    announced: Cache<KeyId, ()>,
    in_flight: SingleFlight<KeyId, Lookup>,
    fetches: SingleFlight<KeyId, Record>,
    places: Semaphore,
    bucket: Mutex<Bucket>,
    /// Milliseconds since 1970; before that the stream is left alone.
    resting_until: AtomicU64,
}

impl Lookups {
    pub(super) fn new() -> Self {
        Self {
            lately: Lately([const { ArcSwapOption::const_empty() }; LATELY]),
            verified: Cache::new(MAX_CREDENTIALS),
            unknown: Cache::builder()
                .max_capacity(MAX_UNKNOWN)
                .time_to_live(UNKNOWN_FOR)
                .build(),
            announced: Cache::new(MAX_ANNOUNCED),
            in_flight: SingleFlight::default(),
            fetches: SingleFlight::default(),
            places: Semaphore::new(LOOKUPS_AT_ONCE),
            bucket: Mutex::new(Bucket::full()),
            resting_until: AtomicU64::new(0),
        }
    }

    /// A broker has published a credential with this key id.
    pub(super) fn announce(&self, key_id: KeyId) {
        self.announced.insert(key_id, ());
        self.unknown.invalidate(&key_id);
    }
}

impl Control {
    /// The credential with this key id, verified under the present trust and
    /// policy. An unknown one costs a single look-up, however many ask.
    pub(crate) async fn credential(&self, key_id: KeyId, now: UnixMillis) -> Lookup {
        if let Some(held) = self.0.held(key_id, now) {
            return held;
        }
        let inner = &self.0;
        let ask = || Arc::clone(inner).look_up(key_id, now);
        // On the heap: once for each key, and large.
        let asked = Box::pin(inner.lookups.in_flight.join(key_id, ask)).await;
        asked.unwrap_or(Err(LookupError::ENDED))
    }

    /// The same if it is held, or known to be none; otherwise nothing.
    pub(crate) fn credential_at_once(&self, key_id: KeyId, now: UnixMillis) -> Option<Lookup> {
        self.0.held(key_id, now)
    }

    /// The credential with this key id as it counted at a time `at` in the past,
    /// under the trust and the policy of now: for what a stream stored then.
    pub(crate) async fn credential_as_of(
        &self,
        key_id: KeyId,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Lookup {
        self.0
            .credential_as_of(key_id, at, AsOf::Stored(at), now)
            .await
    }

    /// The same, where the time `at` is only what its holder says: whether it is
    /// revoked is judged as of when somebody else saw it.
    pub(crate) async fn credential_said_at(
        &self,
        key_id: KeyId,
        at: UnixMillis,
        as_of: AsOf,
        now: UnixMillis,
    ) -> Lookup {
        self.0.credential_as_of(key_id, at, as_of, now).await
    }

    /// Verifies a credential that this process was just issued, and keeps it.
    pub(crate) fn adopt(&self, bytes: &[u8], now: UnixMillis) -> Lookup {
        let own = self.0.admit(bytes, None, now, AsOf::Now)?;
        self.remember_own(own.id());
        Ok(own)
    }
}

impl Inner {
    fn held(&self, key_id: KeyId, now: UnixMillis) -> Option<Lookup> {
        let lookups = &self.lookups;
        let earliest_now = now.saturating_sub(self.skew);
        let generation = self.generation.load(Ordering::Acquire);
        let is_in_time = self.bundle.load().bundle.expires_at >= earliest_now;
        if is_in_time
            && let Some(found) = lookups.lately.find(key_id, generation)
            && let Some((_, proven)) = found.as_deref()
            && proven.credential.expires_at() >= earliest_now
        {
            return Some(proven.judge(AsOf::Now));
        }
        let Some(proven) = lookups.verified.get(&key_id) else {
            return lookups.unknown.get(&key_id).map(Err);
        };
        let credential = &proven.credential;
        if credential.expires_at() < earliest_now {
            lookups.verified.invalidate(&key_id);
            return Some(Err(VerifyError::Expired.into()));
        }
        if !is_in_time {
            return Some(Err(VerifyError::BundleExpired.into()));
        }
        if proven.generation == generation {
            let judged = proven.judge(AsOf::Now);
            lookups.lately.put(key_id, proven);
            return Some(judged);
        }
        let bytes = credential.credential().as_bytes();
        let again = self.admit(bytes, Some(key_id), now, AsOf::Now);
        if let Err(error) = &again {
            // Refused once for a while, not once for each of its messages.
            lookups.verified.invalidate(&key_id);
            lookups.unknown.insert(key_id, error.clone());
        }
        Some(again)
    }

    async fn credential_as_of(
        self: &Arc<Self>,
        key_id: KeyId,
        at: UnixMillis,
        as_of: AsOf,
        now: UnixMillis,
    ) -> Lookup {
        let lookups = &self.lookups;
        if self.bundle.load().bundle.expires_at < now.saturating_sub(self.skew) {
            return Err(VerifyError::BundleExpired.into());
        }
        if let Some(proven) = lookups.verified.get(&key_id) {
            if proven.generation != self.generation.load(Ordering::Acquire) {
                let bytes = proven.credential.credential().as_bytes();
                return self.admit(bytes, Some(key_id), at, as_of);
            }
            let held = proven.judge(as_of)?;
            // What does not depend on the time was verified.
            let credential = held.credential();
            if credential.not_before() > at.saturating_add(self.skew) {
                return Err(VerifyError::NotYetValid.into());
            }
            if credential.expires_at() < at.saturating_sub(self.skew) {
                return Err(VerifyError::Expired.into());
            }
            return Ok(held);
        }
        // Answers about now are no answers about then, but for this one.
        if let Some(unknown @ LookupError::Unknown) = lookups.unknown.get(&key_id) {
            return Err(unknown);
        }
        match self.fetch_credential(key_id, now).await? {
            Some(bytes) => self.admit(&bytes, Some(key_id), at, as_of),
            None => {
                lookups.unknown.insert(key_id, LookupError::Unknown);
                Err(LookupError::Unknown)
            }
        }
    }

    async fn look_up(self: Arc<Self>, key_id: KeyId, now: UnixMillis) -> Lookup {
        // Another may have ended since the one who asks looked.
        if let Some(held) = self.held(key_id, now) {
            return held;
        }
        let outcome = match self.fetch_credential(key_id, now).await? {
            Some(bytes) => self.admit(&bytes, Some(key_id), now, AsOf::Now),
            None => Err(LookupError::Unknown),
        };
        if let Err(error) = &outcome {
            self.lookups.unknown.insert(key_id, error.clone());
        }
        outcome
    }

    /// One credential's record, for all who ask for it at this moment.
    async fn fetch_credential(self: &Arc<Self>, key_id: KeyId, now: UnixMillis) -> Record {
        let fetch = || Arc::clone(self).fetch_for_all(key_id, now);
        let fetched = self.lookups.fetches.join(key_id, fetch).await;
        fetched.unwrap_or(Err(LookupError::ENDED))
    }

    /// The same, at the price that everybody shares.
    async fn fetch_for_all(self: Arc<Self>, key_id: KeyId, now: UnixMillis) -> Record {
        let lookups = &self.lookups;
        if now.as_millis() < lookups.resting_until.load(Ordering::Relaxed) {
            return Err(LookupError::Resting);
        }
        let announced = lookups.announced.contains_key(&key_id);
        if !announced && !lookups.bucket.lock().take(now) {
            return Err(LookupError::Throttled);
        }
        let _place = if announced {
            lookups.places.acquire().await
        } else {
            lookups
                .places
                .try_acquire()
                .map_err(|_| LookupError::Throttled)
                .map(Ok)?
        };
        let subject = reserved::ctl_credential(&key_id.to_hex());
        match fetch(&self.connection, &subject, LOOKUP_TIMEOUT).await {
            Ok(found) => Ok(found),
            // Not remembered for this key: the next message may find the
            // stream again.
            Err(error) => {
                let until = now.saturating_add(REST).as_millis();
                lookups.resting_until.store(until, Ordering::Relaxed);
                Err(error.into())
            }
        }
    }

    /// Verifies a credential under the present state and keeps it.
    fn admit(&self, bytes: &[u8], expected: Option<KeyId>, at: UnixMillis, as_of: AsOf) -> Lookup {
        // Read before the state that it names, so that a change in between
        // makes the entry stale rather than wrongly fresh.
        let generation = self.generation.load(Ordering::Acquire);
        let bundle = self.bundle.load_full();
        let policy = self.policy.load_full();
        let revocations = self.revocations.load_full();
        let credential = Credential::decode(bytes)?;
        if expected.is_some_and(|id| id != credential.id()) {
            return Err(LookupError::Misfiled);
        }
        if !policy.is_vouched() {
            return Err(LookupError::PolicyUnvouched);
        }
        let workload = policy
            .policy()
            .workload_by_id(credential.claimed_workload())
            .ok_or(LookupError::UnknownWorkload)?;
        let verified =
            Arc::new(credential.verify(&bundle.bundle, workload.anchors(), at, self.skew)?);
        let id = verified.id();
        let proven = Proven {
            generation,
            workload_revoked: revocations.workload_since(verified.workload()),
            key_revoked: revocations.key_since(id),
            credential: verified,
        };
        self.lookups.verified.insert(id, proven.clone());
        proven.judge(as_of)
    }
}

/// A token bucket that is told the time.
struct Bucket {
    tokens: f64,
    at: UnixMillis,
}

impl Bucket {
    fn full() -> Self {
        Self {
            tokens: f64::from(LOOKUPS_PER_SECOND),
            at: UnixMillis::default(),
        }
    }

    fn take(&mut self, now: UnixMillis) -> bool {
        let elapsed = now.saturating_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + elapsed * f64::from(LOOKUPS_PER_SECOND))
            .min(f64::from(LOOKUPS_PER_SECOND));
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_are_bounded_and_recover() {
        let mut bucket = Bucket::full();
        let now = UnixMillis::from_secs(1_000);
        let granted = (0..10_000).filter(|_| bucket.take(now)).count();
        assert_eq!(granted, LOOKUPS_PER_SECOND as usize);
        let later = now.saturating_add(Duration::from_secs(1));
        let granted = (0..10_000).filter(|_| bucket.take(later)).count();
        assert_eq!(granted, LOOKUPS_PER_SECOND as usize);
        assert!(!bucket.take(now), "a clock that jumps back gives nothing");
    }
}
