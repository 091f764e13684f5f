//! What this process holds for true: trust bundle, policy and other processes'
//! credentials, taken from the control stream and verified against the root.
//!
//! It listens to the republished news first and takes a snapshot then, so that
//! nothing falls between, and takes the snapshot again after every disturbance
//! of the connection and every few seconds: news is a hint that can be lost,
//! the stream is the truth. A record that is older than the one held, or does
//! not verify, is refused and the held one stays. Brokers' heads say what is the
//! newest: see [`heads`].
//!
//! Any workload can have nats-server deliver a *genuine* record of the stream
//! to any subject of its account, as the answer to a direct get. So the news is
//! taken for what its bytes prove and for nothing else, and what is held
//! already costs one comparison.

mod candidate;
mod heads;
mod kem_records;
mod lookup;
mod own_name;
mod revocations;
mod snapshot;

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::StatusCode;
use bulla_envelope::{Bounds, Credential, Holdings, SignedPolicy, TrustBundle, TrustError};
use bulla_identity::{TrustDomain, UnixMillis, Verified, WorkloadId, WorkloadTag, reserved};
use bulla_keyring::{KeyId, VerifyingKey};
use bulla_policy::Policy;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

pub use heads::Standing;
pub(crate) use lookup::{LookupError, Unusable};
pub(crate) use revocations::AsOf;
pub use revocations::Revocations;

use crate::clock;
use crate::connection::Connection;
use crate::error::{ControlError, LinkError};
use crate::link::Feed;
use crate::refusal::chain;
use crate::stats::Stats;
use candidate::CandidateState;
use heads::Heads;
use kem_records::KemRecords;
use lookup::Lookups;
use own_name::OwnName;
use revocations::RevocationState;
use snapshot::{Wanted, snapshot};

const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(2);
const SNAPSHOT_RETRY: Duration = Duration::from_millis(100);
/// Between two looks at the stream that heads or gaps in the news ask for.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(100);
/// What nats-server writes into news: its number in the stream.
/// How late at most it is noticed that time changed what the policy says, where
/// the policy or the clock changed meanwhile.
const TIME_STEP: Duration = Duration::from_secs(1);
const NUMBER_HEADER: &str = "Nats-Sequence";
/// Seconds between two looks at the stream, drawn anew each time.
const REFRESH_SECONDS: std::ops::Range<f64> = 8.0..12.0;

/// The policy in force, with where it stands in its history.
pub struct PolicyState {
    policy: Arc<Policy>,
    signed: Verified<SignedPolicy>,
    record: Bytes,
    /// Whether the trust bundle in force names the key that signed it.
    is_vouched: bool,
    /// Whether the workload of this process may send where chains are proven.
    proves_chains: OnceLock<bool>,
}

/// The trust bundle in force, with the record that it was read from.
struct BundleState {
    bundle: Verified<TrustBundle>,
    record: Bytes,
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

    /// Whether the trust bundle in force still names the key that signed it. If
    /// not, nothing is sent or received until a policy by another key comes.
    #[must_use]
    pub fn is_vouched(&self) -> bool {
        self.is_vouched
    }

    /// Whether this process's own workload may send where chains are proven.
    pub(crate) fn proves_chains(&self, own: &WorkloadId) -> bool {
        *self
            .proves_chains
            .get_or_init(|| self.policy.proves_chains(own))
    }
}

/// What a process says of itself and of its trust.
pub(crate) struct ControlParts<'a> {
    pub(crate) roots: &'a [VerifyingKey],
    pub(crate) workload: &'a WorkloadId,
    pub(crate) skew: Duration,
    pub(crate) bounds: Bounds,
    /// For how long to wait at the start.
    pub(crate) patience: Duration,
    pub(crate) stats: Stats,
    /// Whether no other process runs as this workload.
    pub(crate) is_sole: bool,
}

/// The control plane as this process sees it; cloning shares it.
#[derive(Clone)]
pub(crate) struct Control(Arc<Inner>);

struct Inner {
    connection: Connection,
    /// What is pinned. It counts until a bundle is held.
    roots: Vec<VerifyingKey>,
    domain: TrustDomain,
    skew: Duration,
    bundle: ArcSwap<BundleState>,
    policy: ArcSwap<PolicyState>,
    revocations: ArcSwap<RevocationState>,
    candidate: ArcSwap<CandidateState>,
    heads: Heads,
    stats: Stats,
    /// Grows with every change of bundle, policy or revocations: what was verified
    /// under an older one is verified again.
    generation: AtomicU64,
    /// Told of each of these changes.
    changes: watch::Sender<u64>,
    /// Milliseconds since 1970: when the policy in force came to be so here.
    policy_since: AtomicU64,
    lookups: Lookups,
    kem_records: KemRecords,
    own_name: OwnName,
}

impl Control {
    /// Follows the control stream; returns once bundle and policy are there, and a
    /// recent head confirms that they are the newest.
    pub(crate) async fn open(
        connection: Connection,
        parts: ControlParts<'_>,
    ) -> Result<Self, ControlError> {
        let ControlParts {
            roots,
            workload,
            skew,
            bounds,
            patience,
            stats,
            is_sole,
        } = parts;
        let domain =
            TrustDomain::parse(workload.trust_domain()).map_err(|e| ControlError::Invalid {
                what: "trust domain",
                reason: e.to_string(),
            })?;
        let disturbances = connection.disturbances();
        let news = connection.link().subscribe(reserved::NEWS_ALL).await?;

        let started = tokio::time::Instant::now();
        let give_up = started + patience;
        let snapshot = loop {
            let wanted = Wanted {
                roots,
                domain: &domain,
                skew,
                bounds,
                started,
            };
            match snapshot(&connection, wanted).await {
                Ok(snapshot) => break snapshot,
                // A broker that has just started publishes in a moment.
                Err(
                    ControlError::Missing { .. }
                    | ControlError::Link(_)
                    | ControlError::Unconfirmed { .. },
                ) if tokio::time::Instant::now() < give_up => {
                    tokio::time::sleep(SNAPSHOT_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        };
        let heads = Heads::new(
            workload.clone(),
            bounds,
            snapshot.freshness,
            started,
            stats.clone(),
        );
        let inner = Arc::new(Inner {
            connection,
            roots: roots.to_vec(),
            domain,
            skew,
            bundle: ArcSwap::from_pointee(snapshot.bundle),
            policy: ArcSwap::from_pointee(snapshot.policy),
            revocations: ArcSwap::from_pointee(snapshot.revocations),
            candidate: ArcSwap::default(),
            heads,
            stats: stats.clone(),
            generation: AtomicU64::new(1),
            changes: watch::channel(1).0,
            policy_since: AtomicU64::new(clock::now().as_millis()),
            lookups: Lookups::new(),
            kem_records: KemRecords::new(),
            own_name: OwnName::new(workload.clone(), is_sole, stats.clone()),
        });
        inner.reconsider(clock::now());
        if let Some(candidate) = snapshot.candidate {
            inner.learn(reserved::NEWS_CANDIDATE, candidate);
        }
        tokio::spawn(hear(Arc::downgrade(&inner), news));
        let catch_up = Arc::clone(&inner.heads.catch_up);
        tokio::spawn(look_again(Arc::downgrade(&inner), disturbances, catch_up));
        tokio::spawn(heads::watch(Arc::downgrade(&inner)));
        tokio::spawn(keep_time(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> Arc<PolicyState> {
        self.0.policy.load_full()
    }

    /// A record of the control stream, if there is one.
    pub(crate) async fn record(&self, subject: &str) -> Result<Option<Bytes>, LinkError> {
        fetch(&self.0.connection, subject, SNAPSHOT_TIMEOUT).await
    }

    /// When the trust bundle in force ends.
    pub(crate) fn bundle_expires_at(&self) -> UnixMillis {
        self.0.bundle.load().bundle.expires_at
    }

    /// Names the state of trust and policy; a newer one is larger.
    ///
    /// Whatever was found, verified or decided under another state is forgotten
    /// by those who remember it: a change that is to take effect at once has to
    /// make a newer one.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Changes with the state of trust and policy.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// What this process goes by, and since when it goes by this policy.
    pub(crate) fn holdings(&self) -> (Holdings, UnixMillis) {
        let since = self.0.policy_since.load(Ordering::Acquire);
        (self.0.holdings(), UnixMillis::from_millis(since))
    }
}

/// Takes the news until the client is gone.
async fn hear(inner: Weak<Inner>, mut news: Feed) {
    while let Some(message) = news.next().await {
        let Some(inner) = inner.upgrade() else { break };
        // A status is nats-server's answer to somebody's direct get, aimed here.
        if message.status.is_none() {
            if let Some(number) = number_of(&message) {
                inner.heads.note_news(number);
            }
            inner.learn(&message.subject, message.payload);
        }
    }
}

/// The number in the stream of what was republished.
fn number_of(news: &async_nats::Message) -> Option<u64> {
    let headers = news.headers.as_ref()?;
    headers.get(NUMBER_HEADER)?.as_str().parse().ok()
}

/// Makes a newer state whenever time alone changes what the policy says, so that
/// nothing is encrypted any more to who lost the right to read it.
///
/// Permits that are remembered do not wait for this: each says until when it
/// counts.
async fn keep_time(inner: Weak<Inner>) {
    let mut asked = clock::now();
    loop {
        let Some(held) = inner.upgrade() else { break };
        let now = clock::now();
        let policy = Arc::clone(&held.policy.load().policy);
        if policy
            .next_change(asked)
            .is_some_and(|change| change <= now)
        {
            held.changed(now);
        }
        drop(held);
        asked = now;
        let change = policy.next_change(now);
        let wait = change.map_or(TIME_STEP, |change| change.saturating_since(now));
        tokio::time::sleep(wait.clamp(clock::GRAIN, TIME_STEP)).await;
    }
}

/// Looks at the stream itself after each disturbance, whenever something newer is
/// said to be there, and every few seconds.
async fn look_again(
    inner: Weak<Inner>,
    mut disturbances: watch::Receiver<u64>,
    catch_up: Arc<Notify>,
) {
    loop {
        let pause = Duration::from_secs_f64(rand::random_range(REFRESH_SECONDS));
        tokio::select! {
            changed = disturbances.changed() => match (changed, inner.upgrade()) {
                (Ok(()), Some(inner)) => inner.kem_records.doubt(),
                _ => break,
            },
            () = catch_up.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        let Some(inner) = inner.upgrade() else { break };
        inner.look().await;
        drop(inner);
        // Whoever makes heads and gaps makes no more looks than this.
        tokio::time::sleep(CATCH_UP_PAUSE).await;
    }
}

impl Inner {
    /// Takes everything as it lies on the stream.
    async fn look(&self) {
        let mut records = [None, None, None, None, None];
        let subjects = [
            reserved::CTL_CANDIDATE,
            reserved::CTL_REVOCATIONS,
            reserved::CTL_BUNDLE,
            reserved::CTL_POLICY,
            // Last, so that it can be about all of them.
            reserved::CTL_HEAD,
        ];
        for (record, subject) in records.iter_mut().zip(subjects) {
            match fetch(&self.connection, subject, SNAPSHOT_TIMEOUT).await {
                Ok(Some(found)) => *record = Some(found),
                // Nothing was ever revoked; if not so, heads say it.
                Ok(None) if subject == reserved::CTL_REVOCATIONS => {}
                Ok(None) if subject == reserved::CTL_CANDIDATE => {}
                Ok(None) => warn!(subject, "the control stream has lost a record"),
                Err(error) => debug!(subject, %error, "the control stream cannot be read"),
            }
        }
        let [candidate, revocations, bundle, policy, head] = records;
        if let (Some(bundle), Some(policy)) = (&bundle, &policy) {
            self.learn_before(bundle, policy);
        }
        if let Some(revocations) = &revocations {
            // A key that signed it may leave with the next bundle, or come with it.
            let _ = self.learn_revocations(revocations.clone(), clock::now());
        }
        for (news, record) in [
            (reserved::NEWS_BUNDLE, bundle),
            (reserved::NEWS_POLICY, policy),
            (reserved::NEWS_REVOCATIONS, revocations),
            (reserved::NEWS_CANDIDATE, candidate),
            (reserved::NEWS_HEAD, head),
        ] {
            if let Some(record) = record {
                self.learn(news, record);
            }
        }
    }

    /// Takes the policy before a bundle that drops the key of the one held, if
    /// the old bundle names the new policy's key as well. An operator publishes
    /// them in that order; who sees both at once must not fall between.
    fn learn_before(&self, bundle: &Bytes, policy: &Bytes) {
        let now = clock::now();
        let (held, in_force) = (self.bundle.load_full(), self.policy.load_full());
        if held.record == *bundle || in_force.record == *policy {
            return;
        }
        // What it does not like it says when it is its turn.
        let _ = self.learn_policy(policy.clone(), now);
    }

    /// Takes one record, for what its bytes prove.
    fn learn(&self, subject: &str, record: Bytes) {
        let now = clock::now();
        match subject {
            reserved::NEWS_BUNDLE => {
                if let Err(reason) = self.learn_bundle(record, now) {
                    warn!(reason, "refused a trust bundle from the control stream");
                }
            }
            reserved::NEWS_POLICY => {
                if let Err(reason) = self.learn_policy(record, now) {
                    warn!(reason, "refused a policy from the control stream");
                }
            }
            reserved::NEWS_REVOCATIONS => {
                if let Err(reason) = self.learn_revocations(record, now) {
                    self.stats.count_refused("revocations_refused");
                    warn!(reason, "refused a revocation list from the control stream");
                }
            }
            reserved::NEWS_CANDIDATE => {
                if let Err(reason) = self.learn_candidate(record, now) {
                    self.stats.count_refused("candidate_refused");
                    warn!(reason, "the policy on trial is not decided here");
                }
            }
            reserved::NEWS_HEAD => {
                if let Err(reason) = self.learn_head(&record, now) {
                    warn!(reason, "refused a head from the control stream");
                }
            }
            kem if kem.starts_with(reserved::NEWS_KEM) => {
                let tag = kem.split('.').nth(3).map(WorkloadTag::parse);
                if let Some(Ok(tag)) = tag {
                    self.learn_kem_record(tag, &record);
                }
            }
            // Credentials are looked up when they are needed; it is enough to
            // know that this one exists.
            _ => {
                let named = subject.rsplit('.').next().and_then(KeyId::parse);
                let told = Credential::decode(&record).ok();
                if let Some(told) = told.filter(|told| named == Some(told.id())) {
                    self.lookups.announce(told.id());
                    self.watch_own_name(told, now);
                }
            }
        }
    }

    fn learn_bundle(&self, record: Bytes, now: UnixMillis) -> Result<(), String> {
        let held = self.bundle.load_full();
        if held.record == record {
            return Ok(());
        }
        // The pinned roots, for a reason of its own; the succession decides.
        let mut roots = self.roots.clone();
        roots.push(held.bundle.root);
        let offered =
            open_bundle(&record, &roots, &self.domain, now, self.skew).map_err(|e| chain(&e))?;
        offered
            .check_succession(&held.bundle)
            .map_err(|e| e.to_string())?;
        info!(version = offered.version, "a new trust bundle is in force");
        let vouched = self.vouched_policy(&offered, now);
        self.bundle.store(Arc::new(BundleState {
            bundle: offered,
            record,
        }));
        if let Some(vouched) = vouched {
            self.policy.store(Arc::new(vouched));
        }
        self.changed(now);
        Ok(())
    }

    /// The policy in force as it is under `bundle`, if that makes a difference:
    /// one whose key the bundle does not name counts no more.
    fn vouched_policy(
        &self,
        bundle: &Verified<TrustBundle>,
        now: UnixMillis,
    ) -> Option<PolicyState> {
        let held = self.policy.load_full();
        let opened = SignedPolicy::open(&held.record, bundle, now, self.skew);
        let is_vouched = !matches!(opened, Err(TrustError::UnknownKey));
        if is_vouched == held.is_vouched {
            return None;
        }
        if !is_vouched {
            warn!(
                revision = held.revision(),
                "the policy in force is signed by a key that the new trust bundle does not name: \
                 nothing is sent or received until one by another key comes"
            );
        }
        Some(PolicyState {
            policy: Arc::clone(&held.policy),
            signed: held.signed.clone(),
            record: held.record.clone(),
            is_vouched,
            proves_chains: held.proves_chains.clone(),
        })
    }

    fn learn_policy(&self, record: Bytes, now: UnixMillis) -> Result<(), String> {
        let held = self.policy.load_full();
        if held.record == record {
            return Ok(());
        }
        let bundle = self.bundle.load_full();
        let signed = open_signed(&record, &bundle.bundle, now, self.skew).map_err(|e| chain(&e))?;
        // Before it is parsed: an old policy must not cost what a new one does.
        signed
            .check_succession(&held.signed)
            .map_err(|e| e.to_string())?;
        // The same by another key counts where the first key counts no more.
        if signed.revision == held.revision() && held.is_vouched {
            return Ok(());
        }
        let offered = parse_policy(signed, record).map_err(|e| chain(&e))?;
        info!(revision = offered.revision(), "a new policy is in force");
        self.policy_since.store(now.as_millis(), Ordering::Release);
        self.policy.store(Arc::new(offered));
        self.changed(now);
        Ok(())
    }

    /// What was found, verified or decided until now is void, and the newest head
    /// is asked about what is held now.
    fn changed(&self, now: UnixMillis) {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel);
        self.reconsider(now);
        self.changes.send_replace(generation.wrapping_add(1));
    }
}

fn open_bundle(
    record: &[u8],
    roots: &[VerifyingKey],
    domain: &TrustDomain,
    now: UnixMillis,
    skew: Duration,
) -> Result<Verified<TrustBundle>, ControlError> {
    TrustBundle::open(record, roots, domain, now, skew).map_err(|e| ControlError::Invalid {
        what: "trust bundle",
        reason: chain(&e),
    })
}

fn open_signed(
    record: &[u8],
    bundle: &Verified<TrustBundle>,
    now: UnixMillis,
    skew: Duration,
) -> Result<Verified<SignedPolicy>, ControlError> {
    SignedPolicy::open(record, bundle, now, skew).map_err(|e| invalid_policy(chain(&e)))
}

fn parse_policy(
    signed: Verified<SignedPolicy>,
    record: Bytes,
) -> Result<PolicyState, ControlError> {
    let policy =
        Policy::parse("policy", &signed.text).map_err(|e| invalid_policy(e.to_string()))?;
    if policy.trust_domain() != &signed.trust_domain {
        let reason = "it speaks of another trust domain than its signature";
        return Err(invalid_policy(reason.to_owned()));
    }
    Ok(PolicyState {
        policy: Arc::new(policy),
        signed,
        record,
        is_vouched: true,
        proves_chains: OnceLock::new(),
    })
}

fn invalid_policy(reason: String) -> ControlError {
    ControlError::Invalid {
        what: "policy",
        reason,
    }
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
        // It is there, and does not say.
        Some(_) => Err(LinkError::Timeout),
    }
}
