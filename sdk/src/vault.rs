//! What this process encrypts under: data keys by recipient set, and which one a
//! subject takes.
//!
//! ```text
//! subject ─► recipients (policy, KEM records) ─► set ─► data key ─► wraps: in the header until
//!                                                                  the record on BULLA_KEYS stands
//! ```
//!
//! A change of the policy or of a KEM record changes the set, and with it the
//! key: who lost the right cannot read what follows, who gained it can.

mod kept;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use bulla_envelope::{
    DataKeyDraft, DataKeyError, Draft, Epoch, MAX_INLINE_WRAPS, MessageId, Recipient, RecipientSet,
    SealingKey, VerifiedCredential,
};
use bulla_identity::{Subject, TrustDomain, UnixMillis, WorkloadId, reserved};
use bulla_keyring::{CipherSuite, KemPublic, KeyId};
use bulla_policy::{LONGEST_MAX_AGE, Verb, Workload};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use tracing::{debug, warn};

use self::kept::Kept;
use crate::clock;
use crate::connection::Connection;
use crate::control::Control;
use crate::error::{LinkError, SendError};
use crate::jetstream::PublishAnswer;
use crate::own::OwnCredential;
use crate::process;
use crate::refusal::chain;
use crate::secret;
use crate::stats::Stats;

/// Data keys held at once; each is a few hundred bytes and its wraps.
const MAX_KEYS: u64 = 1_000;
/// Data keys for replies, one for each requester.
const MAX_REPLY_KEYS: u64 = 10_000;
/// How long one attempt to store a record may take.
const STORE: Duration = Duration::from_secs(2);
/// Pause between attempts to store a record that also rides along.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// What is kept of a record's life beyond the last message that may need it.
const RECORD_SLACK: Duration = Duration::from_secs(60);
/// Wrapping to more is done off the async threads: it takes about 0.1 ms each.
const WRAPS_INLINE_WORK: usize = 8;
/// Uses of a key that a subject takes at once at most, so that not every message
/// counts where all do.
const MOST_USES: u64 = 64;
/// Into how many such shares the uses of a key go at least.
const LEAST_SHARES: u64 = 1_024;

/// A data key in use.
#[derive(Debug)]
pub(crate) struct KeyInUse {
    pub(crate) key: SealingKey,
    /// Whether its record is known to be stored.
    is_stored: AtomicBool,
    /// Of a reply: there is no record.
    is_inline_only: bool,
}

impl KeyInUse {
    /// Whether the wraps ride along.
    pub(crate) fn inline_wraps(&self) -> bool {
        self.is_inline_only || !self.is_stored.load(Ordering::Acquire)
    }

    /// Takes up to so many of its uses, before anything is sealed: what waits to be
    /// sealed is counted, so that no more is sealed under it than may be. None if it
    /// is to be replaced.
    fn reserve(&self, uses: u64, now: UnixMillis) -> Option<u64> {
        let is_in_time = now < self.key.expires_at();
        let reserved = if is_in_time {
            self.key.reserve(uses)
        } else {
            0
        };
        (reserved > 0).then_some(reserved)
    }
}

/// Which key a subject took last, as of which state of policy and records.
#[derive(Default)]
pub(crate) struct LastKey(Mutex<Option<Choice>>);

struct Choice {
    policy: u64,
    records: u64,
    key: Arc<KeyInUse>,
    /// Uses of the key that the subject has reserved and not taken.
    reserved: u64,
}

impl Choice {
    /// Takes one use of the key.
    fn take(&mut self, share: u64, now: UnixMillis) -> Option<Arc<KeyInUse>> {
        if self.reserved == 0 {
            self.reserved = self.key.reserve(share, now)?;
        }
        self.reserved -= 1;
        Some(Arc::clone(&self.key))
    }
}

/// This process's data keys.
pub(crate) struct Vault {
    maker: Arc<Maker>,
    stats: Stats,
    by_set: Kept<(CipherSuite, RecipientSet)>,
    by_requester: Kept<(CipherSuite, KeyId)>,
}

/// What data keys are made of.
struct Maker {
    control: Control,
    connection: Connection,
    own: OwnCredential,
    workload: WorkloadId,
    epoch: Epoch,
    life: Duration,
    max_uses: u64,
}

/// A data key to be made.
struct Order {
    suite: CipherSuite,
    domain: TrustDomain,
    recipients: Vec<(WorkloadId, KemPublic)>,
    at: UnixMillis,
    is_for_reply: bool,
}

/// What a vault stands on.
pub(crate) struct VaultParts {
    pub(crate) control: Control,
    pub(crate) connection: Connection,
    pub(crate) own: OwnCredential,
    pub(crate) workload: WorkloadId,
    pub(crate) epoch: Epoch,
    pub(crate) life: Duration,
    pub(crate) max_uses: u64,
    pub(crate) stats: Stats,
}

/// Why there is nothing to encrypt under.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EncryptError {
    /// No workload that may receive on the subject has published a key.
    #[error(
        "no workload that may receive on `{subject}` has published a key: the first one does so when it connects"
    )]
    NoRecipient {
        /// Where.
        subject: String,
    },
    /// The requester's credential has no key for encryption.
    #[error("the requester cannot receive encrypted replies")]
    RequesterWithoutKey,
    /// Making the data key failed.
    #[error("no data key can be made")]
    DataKey(#[from] DataKeyError),
    /// A recipient's record or the own record's acknowledgement did not come.
    #[error("keys cannot be exchanged")]
    Link(#[from] LinkError),
    /// The stream refused the record of the wrapped key.
    #[error("the wrapped data key was not stored")]
    NotStored,
    /// Private claims for more sets of readers than a token carries.
    #[error("private claims for more than {limit} sets of readers")]
    TooMany {
        /// The most allowed.
        limit: usize,
    },
    /// More private claims for one set of readers than a token carries.
    #[error("private claims of {actual} bytes for one set of readers, at most {limit}")]
    TooLarge {
        /// The most bytes allowed.
        limit: usize,
        /// How many there are.
        actual: usize,
    },
}

impl EncryptError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoRecipient { .. } => "no_recipient_key",
            Self::RequesterWithoutKey => "requester_without_key",
            Self::DataKey(error) => error.code(),
            Self::Link(_) => "key_exchange_unreachable",
            Self::NotStored => "data_key_not_stored",
            Self::TooMany { .. } => "private_claims_too_many",
            Self::TooLarge { .. } => "private_claims_too_large",
        }
    }
}

impl Vault {
    pub(crate) fn new(parts: VaultParts) -> Self {
        Self {
            by_set: Kept::new(MAX_KEYS, parts.life),
            by_requester: Kept::new(MAX_REPLY_KEYS, parts.life),
            stats: parts.stats,
            maker: Arc::new(Maker {
                control: parts.control,
                connection: parts.connection,
                own: parts.own,
                workload: parts.workload,
                epoch: parts.epoch,
                life: parts.life,
                max_uses: parts.max_uses,
            }),
        }
    }

    /// The key that a subject took last, if it would take the same again.
    pub(crate) fn last_key(
        &self,
        last: &LastKey,
        suite: CipherSuite,
        now: UnixMillis,
    ) -> Option<Arc<KeyInUse>> {
        let (policy, records) = self.state();
        let mut last = last.0.lock();
        let choice = last.as_mut().filter(|choice| {
            choice.policy == policy
                && choice.records == records
                && now < choice.key.key.expires_at()
                && choice.key.key.suite() == suite
        });
        choice?.take(self.maker.share(), now)
    }

    /// Names what the choice of a key depends on.
    fn state(&self) -> (u64, u64) {
        let control = &self.maker.control;
        (control.generation(), control.kem_generation())
    }

    /// The key for a message with this verb to `subject`, wrapped to everybody
    /// who may receive it; `last` is the memory of that verb and subject.
    pub(crate) async fn key_for(
        &self,
        last: &LastKey,
        verb: Verb,
        subject: &Subject,
        suite: CipherSuite,
        now: UnixMillis,
    ) -> Result<Arc<KeyInUse>, SendError> {
        if let Some(key) = self.last_key(last, suite, now) {
            return Ok(key);
        }
        // Before the choice, so that a change in between makes it stale.
        let (policy, records) = self.state();
        // On the heap: seldom, and larger than what every message does.
        let (key, reserved) = Box::pin(self.choose(verb, subject, suite, now)).await?;
        *last.0.lock() = Some(Choice {
            policy,
            records,
            key: Arc::clone(&key),
            // Without the one for this message.
            reserved: reserved.saturating_sub(1),
        });
        Ok(key)
    }

    /// The key for what these workloads are to read outside of messages, so that its
    /// record stands. None if none of them has published a key.
    pub(crate) async fn key_for_readers(
        &self,
        readers: Vec<Workload>,
        suite: CipherSuite,
        now: UnixMillis,
    ) -> Result<Option<Arc<KeyInUse>>, EncryptError> {
        let Some((key, _)) = Box::pin(self.key_to(readers, suite, 1, now)).await? else {
            return Ok(None);
        };
        if key.inline_wraps() {
            // It cannot ride along, so nobody goes on before it is stored.
            self.maker.storing(&key).store().await?;
        }
        Ok(Some(key))
    }

    async fn choose(
        &self,
        verb: Verb,
        subject: &Subject,
        suite: CipherSuite,
        now: UnixMillis,
    ) -> Result<(Arc<KeyInUse>, u64), EncryptError> {
        let policy = self.maker.control.policy();
        let workloads = policy.policy().recipients(verb, subject, now);
        let workloads = workloads.cloned().collect();
        let share = self.maker.share();
        let key = self.key_to(workloads, suite, share, now).await?;
        key.ok_or_else(|| EncryptError::NoRecipient {
            subject: subject.as_str().to_owned(),
        })
    }

    /// The key for these workloads, as far as they have keys, and how many of the uses
    /// asked for it gives.
    async fn key_to(
        &self,
        workloads: Vec<Workload>,
        suite: CipherSuite,
        uses: u64,
        now: UnixMillis,
    ) -> Result<Option<(Arc<KeyInUse>, u64)>, EncryptError> {
        let control = &self.maker.control;
        let policy = control.policy();
        let (records, without) = control.kem_records(workloads).await?;
        if without > 0 {
            self.stats.count_recipients_without_key(without);
            debug!(
                without,
                "workloads that may read this have published no key"
            );
        }
        if records.is_empty() {
            return Ok(None);
        }
        let set = RecipientSet::of(records.iter().map(|record| record.key(suite.kem).id()));
        let recipients: Vec<(WorkloadId, KemPublic)> = records
            .iter()
            .map(|record| {
                let workload = record.claimed_workload().clone();
                (workload, record.key(suite.kem).clone())
            })
            .collect();
        let domain = policy.policy().trust_domain().clone();
        let made = self.by_set.get(
            (suite, set),
            |key| key.reserve(uses, now),
            || {
                Arc::clone(&self.maker).make(Order {
                    suite,
                    domain: domain.clone(),
                    recipients: recipients.clone(),
                    at: now,
                    is_for_reply: false,
                })
            },
        );
        made.await.map(Some)
    }

    /// The key for replies to the holder of this credential alone.
    pub(crate) async fn key_for_reply(
        &self,
        requester: &VerifiedCredential,
        suite: CipherSuite,
        now: UnixMillis,
    ) -> Result<Arc<KeyInUse>, SendError> {
        let keys = requester
            .process_keys()
            .ok_or(EncryptError::RequesterWithoutKey)?;
        let recipients = vec![(requester.workload().clone(), keys.kem(suite.kem).clone())];
        let domain = self.maker.control.policy().policy().trust_domain().clone();
        let made = self.by_requester.get(
            (suite, requester.id()),
            |key| key.reserve(1, now),
            || {
                Arc::clone(&self.maker).make(Order {
                    suite,
                    domain: domain.clone(),
                    recipients: recipients.clone(),
                    at: now,
                    is_for_reply: true,
                })
            },
        );
        let (key, _) = Box::pin(made).await?;
        Ok(key)
    }
}

impl Maker {
    /// How many uses of a key a subject reserves at once.
    fn share(&self) -> u64 {
        (self.max_uses / LEAST_SHARES).clamp(1, MOST_USES)
    }

    async fn make(self: Arc<Self>, order: Order) -> Result<Arc<KeyInUse>, EncryptError> {
        let (workload, epoch, max_uses) = (self.workload.clone(), self.epoch, self.max_uses);
        let expires_at = order.at.saturating_add(self.life);
        let (is_for_reply, count) = (order.is_for_reply, order.recipients.len());
        let make = move || {
            let draft = DataKeyDraft {
                suite: order.suite,
                trust_domain: &order.domain,
                sender: &workload,
                epoch,
                expires_at,
                max_uses,
                process: process::id(),
            };
            let recipients: Vec<Recipient<'_>> = order
                .recipients
                .iter()
                .map(|(workload, key)| Recipient { workload, key })
                .collect();
            SealingKey::new(&draft, &recipients, &secret::fresh(), || *secret::fresh())
        };
        let key = if count > WRAPS_INLINE_WORK {
            let made = tokio::task::spawn_blocking(make).await;
            made.map_err(|_| LinkError::Disconnected)??
        } else {
            make()?
        };
        debug!(key = ?key, "made a data key");
        let in_use = Arc::new(KeyInUse {
            is_stored: AtomicBool::new(false),
            is_inline_only: is_for_reply,
            key,
        });
        if is_for_reply {
            return Ok(in_use);
        }
        let storing = self.storing(&in_use);
        if in_use.key.recipient_count() > MAX_INLINE_WRAPS {
            // Too many to ride along: nobody could read without the record.
            storing.store().await?;
        } else {
            tokio::spawn(storing.keep_trying());
        }
        Ok(in_use)
    }

    fn storing(&self, key: &Arc<KeyInUse>) -> Storing {
        let id = HEXLOWER.encode(&key.key.id().0);
        // Of what a stream stores, longer than of anything else.
        let longest = self.control.policy().policy().longest_max_age();
        Storing {
            connection: self.connection.clone(),
            own: self.own.clone(),
            subject: reserved::key_record(self.workload.tag(), &id),
            readable_for: longest.max(LONGEST_MAX_AGE),
            key: Arc::clone(key),
        }
    }
}

/// A wrapped key on its way to its record.
struct Storing {
    connection: Connection,
    own: OwnCredential,
    subject: String,
    /// How long after it was sealed the last message under it may be read.
    readable_for: Duration,
    key: Arc<KeyInUse>,
}

impl Storing {
    async fn keep_trying(self) {
        while clock::now() < self.key.key.expires_at() {
            match self.store().await {
                Ok(()) => return,
                Err(error) => {
                    warn!(
                        error = chain(&error),
                        "a wrapped data key is not stored yet and rides along"
                    );
                    tokio::time::sleep(STORE_AGAIN).await;
                }
            }
        }
    }

    async fn store(&self) -> Result<(), EncryptError> {
        let now = clock::now();
        let payload = self.seal(now)?;
        let key_left = self.key.key.expires_at().saturating_since(now);
        let kept = key_left + self.readable_for + RECORD_SLACK;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-TTL", format!("{}s", kept.as_secs()));
        let answer = self
            .connection
            .ask_with_headers(self.subject.clone(), headers, payload, STORE)
            .await?;
        // Taken: an earlier attempt whose acknowledgement was lost. Only this
        // workload can write there, and the key's id is random.
        let is_there = PublishAnswer::read(&answer.payload)
            .is_some_and(|a| a.is_stored_in(reserved::KEYS_STREAM) || a.is_taken());
        if !is_there {
            return Err(EncryptError::NotStored);
        }
        self.key.is_stored.store(true, Ordering::Release);
        Ok(())
    }

    fn seal(&self, now: UnixMillis) -> Result<Bytes, EncryptError> {
        let sealer = self.own.sealer(now).map_err(|_| LinkError::Disconnected)?;
        let subject = Subject::parse(&self.subject).map_err(|_| EncryptError::NotStored)?;
        let until = now
            .saturating_add(STORE + RECORD_SLACK)
            .min(sealer.expires_at());
        let draft = Draft::key_wrap(&subject, &self.key.key, now, until);
        let sealed = sealer.seal(&draft, MessageId(rand::random()));
        Ok(sealed.map_err(|_| EncryptError::NotStored)?.bytes)
    }
}
