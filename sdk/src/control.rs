//! What this process holds for true: trust bundle, policy and other processes'
//! credentials, taken from the control stream and verified against the root.
//!
//! It listens to the republished news first and takes a snapshot then, so that
//! nothing falls between. A record that is older than the one held, or does not
//! verify, is refused and the held one stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use async_nats::StatusCode;
use bulla_envelope::{
    Credential, CredentialDecodeError, CredentialError as VerifyError, SignedPolicy, TrustBundle,
    VerifiedCredential,
};
use bulla_identity::{TrustDomain, UnixMillis, Verified, WorkloadId, reserved};
use bulla_keyring::{AuthorityKey, KeyId};
use bulla_policy::Policy;
use bytes::Bytes;
use futures_util::StreamExt;
use moka::sync::Cache;
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::clock;
use crate::connection::Connection;
use crate::error::{ControlError, LinkError};
use crate::refusal::chain;

/// Credentials held at once.
const MAX_CREDENTIALS: u64 = 20_000;
/// Key ids remembered as unknown, and for how long: forged ids must neither
/// evict good credentials nor reach the control stream each time.
const MAX_UNKNOWN: u64 = 10_000;
const UNKNOWN_FOR: Duration = Duration::from_secs(2);
/// Look-ups of unknown key ids: a burst, and how many a second afterwards.
const LOOKUP_BURST: u32 = 256;
const LOOKUPS_PER_SECOND: u32 = 64;
/// Key ids that brokers have announced lately; see [`Inner::announced`].
const MAX_ANNOUNCED: u64 = 50_000;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
const SNAPSHOT_RETRY: Duration = Duration::from_millis(100);

/// The policy in force, with where it stands in its history.
pub struct PolicyState {
    policy: Policy,
    signed: Verified<SignedPolicy>,
}

impl PolicyState {
    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Its revision; it only ever grows.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.signed.revision
    }
}

/// Why a key id leads to no usable credential.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("nobody has published a credential with this key id")]
    Unknown,
    #[error("too many look-ups of unknown key ids")]
    Throttled,
    #[error("the control stream cannot be reached")]
    Unreachable(#[from] LinkError),
    #[error("the published record is no credential")]
    Decode(#[from] CredentialDecodeError),
    #[error("the published record has another key id")]
    Misfiled,
    #[error("the policy has no such workload")]
    UnknownWorkload,
    #[error("the credential does not verify")]
    Verify(#[from] VerifyError),
}

impl LookupError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown_key",
            Self::Throttled => "lookup_throttled",
            Self::Unreachable(_) => "lookup_unreachable",
            Self::Decode(_) => "credential_malformed",
            Self::Misfiled => "credential_misfiled",
            Self::UnknownWorkload => "credential_unknown_workload",
            Self::Verify(e) => e.code(),
        }
    }
}

/// The control plane as this process sees it; cloning shares it.
#[derive(Clone)]
pub(crate) struct Control(Arc<Inner>);

struct Inner {
    connection: Connection,
    root: AuthorityKey,
    domain: TrustDomain,
    skew: Duration,
    bundle: ArcSwapOption<Verified<TrustBundle>>,
    policy: ArcSwap<PolicyState>,
    /// Grows with every change of bundle or policy: what was verified under an
    /// older one is verified again.
    generation: AtomicU64,
    verified: Cache<KeyId, (u64, Arc<VerifiedCredential>)>,
    unknown: Cache<KeyId, LookupError>,
    /// Known from the news to exist: their look-up is not throttled, so that a
    /// flood of forged key ids cannot shut out processes that have just begun.
    announced: Cache<KeyId, ()>,
    in_flight: Mutex<HashMap<KeyId, Arc<tokio::sync::Mutex<()>>>>,
    bucket: Mutex<Bucket>,
}

impl Control {
    /// Follows the control stream; returns once bundle and policy are there.
    pub(crate) async fn open(
        connection: Connection,
        root: AuthorityKey,
        workload: &WorkloadId,
        skew: Duration,
        patience: Duration,
    ) -> Result<Self, ControlError> {
        let domain =
            TrustDomain::parse(workload.trust_domain()).map_err(|e| ControlError::Invalid {
                what: "trust domain",
                reason: e.to_string(),
            })?;
        let mut news = connection
            .nats()
            .subscribe(reserved::NEWS_ALL)
            .await
            .map_err(|_| LinkError::Disconnected)?;

        let give_up = tokio::time::Instant::now() + patience;
        let (bundle, policy) = loop {
            match snapshot(&connection, &root, &domain, skew).await {
                Ok(both) => break both,
                // A broker that has just started publishes in a moment.
                Err(ControlError::Missing { .. } | ControlError::Link(_))
                    if tokio::time::Instant::now() < give_up =>
                {
                    tokio::time::sleep(SNAPSHOT_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        };
        let control = Self(Arc::new(Inner {
            connection,
            root,
            domain,
            skew,
            bundle: ArcSwapOption::from_pointee(bundle),
            policy: ArcSwap::from_pointee(policy),
            generation: AtomicU64::new(1),
            verified: Cache::new(MAX_CREDENTIALS),
            unknown: Cache::builder()
                .max_capacity(MAX_UNKNOWN)
                .time_to_live(UNKNOWN_FOR)
                .build(),
            announced: Cache::new(MAX_ANNOUNCED),
            in_flight: Mutex::default(),
            bucket: Mutex::new(Bucket::full()),
        }));
        let weak = Arc::downgrade(&control.0);
        tokio::spawn(async move {
            while let Some(message) = news.next().await {
                let Some(inner) = weak.upgrade() else { break };
                inner.learn(&message.subject, message.payload);
            }
        });
        Ok(control)
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> Arc<PolicyState> {
        self.0.policy.load_full()
    }

    /// Names the state of trust and policy; a newer one is larger.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// The credential with this key id, verified under the present trust and
    /// policy. An unknown one costs a single look-up, however many ask.
    pub(crate) async fn credential(
        &self,
        key_id: KeyId,
        now: UnixMillis,
    ) -> Result<Arc<VerifiedCredential>, LookupError> {
        if let Some(held) = self.held(key_id, now) {
            return held;
        }
        let lock = Arc::clone(self.0.in_flight.lock().entry(key_id).or_default());
        let outcome = {
            let _alone = lock.lock().await;
            match self.held(key_id, now) {
                Some(held) => held,
                None => self.look_up(key_id, now).await,
            }
        };
        self.0.in_flight.lock().remove(&key_id);
        outcome
    }

    /// Verifies a credential that this process was just issued, and keeps it.
    pub(crate) fn adopt(
        &self,
        bytes: &[u8],
        now: UnixMillis,
    ) -> Result<Arc<VerifiedCredential>, LookupError> {
        self.0.admit(bytes, None, now)
    }

    fn held(
        &self,
        key_id: KeyId,
        now: UnixMillis,
    ) -> Option<Result<Arc<VerifiedCredential>, LookupError>> {
        let inner = &self.0;
        if let Some((generation, credential)) = inner.verified.get(&key_id) {
            if now.saturating_sub(inner.skew) > credential.expires_at() {
                inner.verified.invalidate(&key_id);
                return Some(Err(LookupError::Verify(VerifyError::Expired)));
            }
            if generation == self.generation() {
                return Some(Ok(credential));
            }
            return Some(inner.admit(credential.credential().as_bytes(), Some(key_id), now));
        }
        inner.unknown.get(&key_id).map(Err)
    }

    async fn look_up(
        &self,
        key_id: KeyId,
        now: UnixMillis,
    ) -> Result<Arc<VerifiedCredential>, LookupError> {
        let inner = &self.0;
        if !inner.announced.contains_key(&key_id) && !inner.bucket.lock().take(now) {
            return Err(LookupError::Throttled);
        }
        let subject = reserved::ctl_credential(&key_id.to_hex());
        let outcome = match fetch(&inner.connection, &subject, LOOKUP_TIMEOUT).await {
            Ok(Some(bytes)) => inner.admit(&bytes, Some(key_id), now),
            Ok(None) => Err(LookupError::Unknown),
            // Not remembered: the next message may find the stream again.
            Err(error) => return Err(error.into()),
        };
        if let Err(error) = &outcome {
            inner.unknown.insert(key_id, error.clone());
        }
        outcome
    }
}

impl Inner {
    /// Takes one republished record.
    fn learn(&self, subject: &str, payload: Bytes) {
        let now = clock::now();
        match subject {
            reserved::NEWS_BUNDLE => {
                if let Err(reason) = self.learn_bundle(&payload, now) {
                    warn!(reason, "refused a trust bundle from the control stream");
                }
            }
            reserved::NEWS_POLICY => {
                if let Err(reason) = self.learn_policy(&payload, now) {
                    warn!(reason, "refused a policy from the control stream");
                }
            }
            // Credentials are looked up when they are needed. One that was
            // asked for too early is not unknown any more.
            _ => {
                let id = subject.rsplit('.').next().and_then(KeyId::parse);
                if let Some(key_id) = id {
                    self.announced.insert(key_id, ());
                    self.unknown.invalidate(&key_id);
                }
            }
        }
    }

    fn learn_bundle(&self, payload: &[u8], now: UnixMillis) -> Result<(), String> {
        let offered = open_bundle(payload, &self.root, &self.domain, now, self.skew)
            .map_err(|e| chain(&e))?;
        if let Some(held) = self.bundle.load_full() {
            offered.check_succession(&held).map_err(|e| e.to_string())?;
            if *offered == **held {
                return Ok(());
            }
        }
        info!(version = offered.version, "a new trust bundle is in force");
        self.bundle.store(Some(Arc::new(offered)));
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn learn_policy(&self, payload: &[u8], now: UnixMillis) -> Result<(), String> {
        let bundle = self.bundle.load_full().ok_or("no trust bundle")?;
        let offered = open_policy(payload, &bundle, now, self.skew).map_err(|e| chain(&e))?;
        let held = self.policy.load_full();
        offered
            .signed
            .check_succession(&held.signed)
            .map_err(|e| e.to_string())?;
        if offered.revision() == held.revision() {
            return Ok(());
        }
        info!(revision = offered.revision(), "a new policy is in force");
        self.policy.store(Arc::new(offered));
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Verifies a credential under the present state and keeps it.
    fn admit(
        &self,
        bytes: &[u8],
        expected: Option<KeyId>,
        now: UnixMillis,
    ) -> Result<Arc<VerifiedCredential>, LookupError> {
        // Read before the state that it names, so that a change in between
        // makes the entry stale rather than wrongly fresh.
        let generation = self.generation.load(Ordering::Acquire);
        let bundle = self
            .bundle
            .load_full()
            .ok_or(LookupError::Verify(VerifyError::BundleExpired))?;
        let policy = self.policy.load_full();
        let credential = Credential::decode(bytes)?;
        if expected.is_some_and(|id| id != credential.id()) {
            return Err(LookupError::Misfiled);
        }
        let workload = policy
            .policy
            .workload_by_id(credential.claimed_workload())
            .ok_or(LookupError::UnknownWorkload)?;
        let verified = Arc::new(credential.verify(&bundle, workload.nkeys(), now, self.skew)?);
        self.verified
            .insert(verified.id(), (generation, Arc::clone(&verified)));
        Ok(verified)
    }
}

async fn snapshot(
    connection: &Connection,
    root: &AuthorityKey,
    domain: &TrustDomain,
    skew: Duration,
) -> Result<(Verified<TrustBundle>, PolicyState), ControlError> {
    let get = async |subject: &str, what| {
        fetch(connection, subject, LOOKUP_TIMEOUT)
            .await?
            .ok_or(ControlError::Missing { what })
    };
    let now = clock::now();
    let bytes = get(reserved::CTL_BUNDLE, "trust bundle").await?;
    let bundle = open_bundle(&bytes, root, domain, now, skew)?;
    let bytes = get(reserved::CTL_POLICY, "policy").await?;
    let policy = open_policy(&bytes, &bundle, now, skew)?;
    Ok((bundle, policy))
}

fn open_bundle(
    bytes: &[u8],
    root: &AuthorityKey,
    domain: &TrustDomain,
    now: UnixMillis,
    skew: Duration,
) -> Result<Verified<TrustBundle>, ControlError> {
    TrustBundle::open(bytes, root.verifying_key(), domain, now, skew).map_err(|e| {
        ControlError::Invalid {
            what: "trust bundle",
            reason: chain(&e),
        }
    })
}

fn open_policy(
    bytes: &[u8],
    bundle: &Verified<TrustBundle>,
    now: UnixMillis,
    skew: Duration,
) -> Result<PolicyState, ControlError> {
    let invalid = |reason| ControlError::Invalid {
        what: "policy",
        reason,
    };
    let signed = SignedPolicy::open(bytes, bundle, now, skew).map_err(|e| invalid(chain(&e)))?;
    let policy = Policy::parse("policy", &signed.text).map_err(|e| invalid(e.to_string()))?;
    if policy.trust_domain() != &signed.trust_domain {
        return Err(invalid(
            "it speaks of another trust domain than its signature".to_owned(),
        ));
    }
    Ok(PolicyState { policy, signed })
}

/// The newest record of one subject of the control stream, by direct get.
async fn fetch(
    connection: &Connection,
    subject: &str,
    timeout: Duration,
) -> Result<Option<Bytes>, LinkError> {
    let answer = connection
        .ask(reserved::direct_get(subject), Bytes::new(), timeout)
        .await?;
    match answer.status {
        None | Some(StatusCode::OK) => Ok(Some(answer.payload)),
        Some(StatusCode::NOT_FOUND) => Ok(None),
        Some(_) => Err(LinkError::NoResponders),
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
            tokens: f64::from(LOOKUP_BURST),
            at: UnixMillis::default(),
        }
    }

    fn take(&mut self, now: UnixMillis) -> bool {
        let elapsed = now.saturating_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens =
            (self.tokens + elapsed * f64::from(LOOKUPS_PER_SECOND)).min(f64::from(LOOKUP_BURST));
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
        assert_eq!(granted, LOOKUP_BURST as usize);
        let later = now.saturating_add(Duration::from_secs(1));
        let granted = (0..10_000).filter(|_| bucket.take(later)).count();
        assert_eq!(granted, LOOKUPS_PER_SECOND as usize);
        assert!(!bucket.take(now), "a clock that jumps back gives nothing");
    }
}
