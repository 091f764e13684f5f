//! Writes a chain of the audit log.
//!
//! ```text
//! decision ─► bounded queue ─► entries, hash-chained ─► one message ─► BULLA_AUDIT
//!                 │ full                     ▲
//!                 └─► counted ──► a gap, an entry of its own
//! ```
//!
//! Whoever decides never waits for it: what finds the queue full is counted by its
//! kind and its reason, and the count itself is written when there is room again.
//! A refusal is written always, an allowed message by sample; how often each grant
//! was used is counted exactly and written once a minute.
//!
//! Here is what every process writes by. What a client records of itself it does on
//! its own; brokers and the gateway add what only they know.

mod progress;
mod queue;
mod tally;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_audit::{Event, HeadStatement, Key, Writer, pseudonym};
use bulla_identity::TrustDomain;
use bulla_keyring::Signature;
use bulla_policy::{DecisionRecord, RecordedUser, Verdict};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::clock;
use progress::Progress;
pub use progress::{AuditState, ByKind};
use queue::Queue;
use tally::Tallies;
pub(crate) use tally::Tally;

/// What is kept of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordUsers {
    /// Names, and the claims that the policy's rules ask for.
    Names,
    /// The same claims, and in the place of a name a hash of it, by which an operator
    /// who knows the name finds its entries.
    #[default]
    Pseudonyms,
    /// Nothing but that there was one.
    Nothing,
}

/// How a process writes to the audit log.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    pub(crate) sample: u64,
    pub(crate) users: RecordUsers,
    pub(crate) head_every: Duration,
    pub(crate) uses_every: Duration,
    pub(crate) queue: usize,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            sample: 1_000,
            users: RecordUsers::default(),
            head_every: Duration::from_secs(10),
            uses_every: Duration::from_secs(60),
            queue: 8_192,
        }
    }
}

impl AuditOptions {
    /// Of so many allowed messages of a grant one is recorded, and the first in
    /// every minute. Default: 1,000. 1 records all, which a busy service cannot
    /// keep up with.
    #[must_use]
    pub fn sample(mut self, every: u64) -> Self {
        self.sample = every.max(1);
        self
    }

    /// What is kept of users. Default: pseudonyms.
    #[must_use]
    pub const fn users(mut self, users: RecordUsers) -> Self {
        self.users = users;
        self
    }

    /// How soon after an entry a signed head follows it. Default: 10 s.
    #[must_use]
    pub fn head_every(mut self, every: Duration) -> Self {
        self.head_every = every.max(Duration::from_millis(10));
        self
    }

    /// How often the use of grants is told. Default: 60 s.
    #[must_use]
    pub fn uses_every(mut self, every: Duration) -> Self {
        self.uses_every = every.max(Duration::from_millis(10));
        self
    }

    /// How many refusals may wait to be written; an eighth as many sampled allows.
    /// What comes then is counted. Default: 8,192.
    #[must_use]
    pub fn queue(mut self, refusals: usize) -> Self {
        self.queue = refusals.max(8);
        self
    }
}

/// Where entries go.
pub trait Store: Send + Sync + 'static {
    /// Stores one message of entries. `id` is the same for repetitions of what was
    /// not acknowledged, and foreseen by nobody.
    fn store(
        &self,
        subject: String,
        id: String,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<Stored, StoreError>>;
}

/// A message of entries lies in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Whether the stream says that it had it before.
    pub was_there: bool,
}

/// Why entries are not stored yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nobody answered.
    #[error("the audit log cannot be reached")]
    Unreachable,
    /// Whoever answered did not take it: the stream is full, or this process may
    /// not write there.
    #[error("the audit log takes nothing: it is full, or this process may not write there")]
    Refused,
}

/// Who signs how far a chain goes.
pub trait HeadSigner: Send + Sync + 'static {
    /// The key in use, and what heads call it; nothing if there is none now.
    fn key(&self) -> Option<(Key, [u8; 32])>;
    /// Signs with the key that the statement names; nothing if it is no more in use.
    fn sign(&self, statement: &HeadStatement<'_>) -> Option<Signature>;
}

/// What a writer begins with.
pub struct AuditParts {
    /// Whose chain.
    pub writer: Writer,
    /// The trust domain.
    pub domain: TrustDomain,
    /// The workload's short name; of a broker, empty.
    pub workload: String,
    /// How it writes.
    pub options: AuditOptions,
    /// Where to.
    pub store: Arc<dyn Store>,
    /// Who signs.
    pub signer: Arc<dyn HeadSigner>,
    /// When it ends by itself.
    pub stop: CancellationToken,
}

/// A chain that is being written; cloning shares it.
#[derive(Clone)]
pub struct AuditLog(Option<Arc<Inner>>);

struct Inner {
    options: AuditOptions,
    domain: TrustDomain,
    workload: Box<str>,
    queue: Queue,
    progress: Progress,
    tallies: Tallies,
    /// How many more allows that shadow rules would deny are recorded in this minute.
    shadow_left: AtomicU64,
    stop: CancellationToken,
    /// Cancelled when the writer has ended.
    ended: CancellationToken,
}

impl AuditLog {
    /// Begins a chain, in a task of its own.
    #[must_use]
    pub fn start(parts: AuditParts) -> Self {
        let inner = Arc::new(Inner {
            queue: Queue::new(parts.options.queue),
            progress: Progress::default(),
            tallies: Tallies::new(parts.options.sample),
            shadow_left: AtomicU64::new(SHADOW_AT_ONCE),
            options: parts.options.clone(),
            domain: parts.domain.clone(),
            workload: parts.workload.clone().into(),
            stop: parts.stop.clone(),
            ended: CancellationToken::new(),
        });
        tokio::spawn(writer::run(parts, Arc::clone(&inner)));
        Self(Some(inner))
    }

    /// One that keeps nothing: for tests, and where no bus is.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Records what happened now. Never waits.
    pub fn record(&self, event: Event) {
        if let Some(inner) = &self.0 {
            inner.queue.push(clock::now(), event);
        }
    }

    /// Records a decision now. Never waits.
    pub fn decision(&self, mut record: DecisionRecord) {
        record.bound();
        self.record(Event::Decision(Box::new(record)));
    }

    /// Whether anything is kept.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What is kept of a user with this name, of whom `claims` are the ones that
    /// the policy asks for.
    #[must_use]
    pub fn user(&self, principal: &str, claims: RecordedUser) -> RecordedUser {
        let Some(inner) = &self.0 else {
            return RecordedUser::default();
        };
        match inner.options.users {
            RecordUsers::Names => RecordedUser {
                name: Some(principal.to_owned()),
                ..claims
            },
            RecordUsers::Pseudonyms => RecordedUser {
                pseudonym: Some(pseudonym(&inner.domain, principal)),
                ..claims
            },
            RecordUsers::Nothing => RecordedUser {
                narrowed: claims.narrowed,
                ..RecordedUser::default()
            },
        }
    }

    /// The counter of one grant's use; nothing if nothing is kept, or too many are.
    pub(crate) fn tally(&self, rule: &str, verb: &str, pattern: &str) -> Option<Arc<Tally>> {
        self.0.as_ref()?.tallies.of(rule, verb, pattern)
    }

    /// A counter that is told of in no entry, for sampling alone.
    pub(crate) fn sampler(&self) -> Arc<Tally> {
        let every = self
            .0
            .as_ref()
            .map_or(u64::MAX, |inner| inner.options.sample);
        Arc::new(Tally::new("", "", "", every))
    }

    /// Whether one more allow that shadow rules would deny is recorded; if not, it is
    /// counted as left out.
    pub(crate) fn has_room_for_shadow(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        let left = &inner.shadow_left;
        let is_left = left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        if !is_left {
            inner.queue.leave_out_allow(clock::now());
        }
        is_left
    }

    /// How many entries were left out so far: refusals, sampled allows, others.
    #[must_use]
    pub fn lost(&self) -> [u64; 3] {
        self.0.as_ref().map_or([0; 3], |inner| inner.queue.lost())
    }

    /// How far the writer has come: for metrics and for whoever decides whether the
    /// process is well.
    #[must_use]
    pub fn state(&self) -> AuditState {
        let Some(inner) = &self.0 else {
            return AuditState::default();
        };
        let (waiting, oldest) = inner.queue.waiting();
        let mut state = inner.progress.state();
        let first = [state.behind_since, oldest].into_iter().flatten().min();
        state.behind_since = first;
        state.waiting = waiting.into();
        state.lost = inner.queue.lost().into();
        state
    }

    /// Writes what waits and the chain's end, and waits for that, but no longer than
    /// `limit`.
    pub async fn close(&self, limit: Duration) {
        let Some(inner) = &self.0 else { return };
        inner.stop.cancel();
        let _ = tokio::time::timeout(limit, inner.ended.cancelled()).await;
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog")
            .field("is_on", &self.is_on())
            .finish_non_exhaustive()
    }
}

/// What an entry counts as where there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Deny,
    Allow,
    Other,
}

impl Class {
    fn of(event: &Event) -> Self {
        match event.decision().map(|d| (d.decision, d.verb.as_str())) {
            Some((Verdict::Deny, _)) => Self::Deny,
            // Every connection is recorded, and none is a sample.
            Some((Verdict::Allow, "connect" | "credential")) | None => Self::Other,
            Some((Verdict::Allow, _)) => Self::Allow,
        }
    }
}

/// Allows that shadow rules would deny which are recorded one by one, in a minute.
const SHADOW_AT_ONCE: u64 = 1_000;
