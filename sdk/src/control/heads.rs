//! Whether this process may go by what it holds, as brokers' heads say; and what
//! is missed and has to be fetched.
//!
//! Every message asks, so the answer is one number: until when all is well. It is
//! worked out anew when a head comes, when what is held changes, and a few times
//! within the bound, because the clock that never moves back has a say in it too.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bulla_envelope::{Bounds, Freshness, Head, Holdings, Mark, Stale};
use bulla_identity::{UnixMillis, Verified, WorkloadId};
use bulla_keyring::KeyId;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{error, info};

use super::{Control, Inner};
use crate::alarm;
use crate::clock;
use crate::stats::Stats;

/// Between two looks at the clocks, at most.
const LONGEST_WATCH: Duration = Duration::from_secs(1);
const SHORTEST_WATCH: Duration = Duration::from_millis(20);
/// Own credentials that are remembered: as many as there may be in use.
const OWN_KEYS: usize = 4;

/// Why this process neither receives nor sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Standing {
    /// Nobody has confirmed lately that what it holds is the newest.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// Its own workload is revoked.
    #[error("this workload is revoked")]
    WorkloadRevoked,
}

impl Standing {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Stale(stale) => stale.code(),
            Self::WorkloadRevoked => "own_workload_revoked",
        }
    }
}

/// What heads have said.
pub(super) struct Heads {
    own: WorkloadId,
    stats: Stats,
    started: Instant,
    watch: Duration,
    freshness: Mutex<Freshness>,
    /// Milliseconds since 1970: until then messages are received and sent.
    good_until: AtomicU64,
    own_is_revoked: AtomicBool,
    /// The last credentials of this process, the newest last.
    own_keys: Mutex<Vec<KeyId>>,
    pub(super) own_key_revoked: Notify,
    /// Told when the stream is to be looked at now.
    pub(super) catch_up: Arc<Notify>,
    /// The number in the stream of the last news.
    last_news: AtomicU64,
    was_stale: AtomicBool,
}

impl Heads {
    pub(super) fn new(
        own: WorkloadId,
        bounds: Bounds,
        freshness: Freshness,
        started: Instant,
        stats: Stats,
    ) -> Self {
        let shortest = bounds.revocations.min(bounds.policy);
        Self {
            own,
            stats,
            started,
            watch: (shortest / 16).clamp(SHORTEST_WATCH, LONGEST_WATCH),
            freshness: Mutex::new(freshness),
            good_until: AtomicU64::new(0),
            own_is_revoked: AtomicBool::new(false),
            own_keys: Mutex::default(),
            own_key_revoked: Notify::new(),
            catch_up: Arc::default(),
            last_news: AtomicU64::new(0),
            was_stale: AtomicBool::new(false),
        }
    }

    fn tick(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether news was missed before one with this number in the stream.
    ///
    /// The numbers of the control stream have no gaps, and all of it is news. A
    /// workload can have an older record delivered as if it were news; it cannot
    /// have one that the stream does not hold.
    pub(super) fn note_news(&self, number: u64) {
        let last = self.last_news.fetch_max(number, Ordering::Relaxed);
        if last != 0 && number > last.saturating_add(1) {
            self.stats.count_news_gap();
            self.catch_up.notify_one();
        }
    }
}

impl Control {
    /// Whether this process may receive and send at this moment.
    pub(crate) fn check(&self, now: UnixMillis) -> Result<(), Standing> {
        if now.as_millis() <= self.0.heads.good_until.load(Ordering::Acquire) {
            return Ok(());
        }
        self.0.standing(now)
    }

    /// Resolves when this process's credential has been revoked alone, and is to
    /// be replaced.
    pub(crate) async fn own_key_revoked(&self) {
        self.0.heads.own_key_revoked.notified().await;
    }

    /// Remembers a credential as this process's own.
    pub(super) fn remember_own(&self, key: KeyId) {
        let mut keys = self.0.heads.own_keys.lock();
        keys.push(key);
        let surplus = keys.len().saturating_sub(OWN_KEYS);
        keys.drain(..surplus);
    }
}

impl Inner {
    /// The long answer of [`Control::check`].
    #[cold]
    fn standing(&self, now: UnixMillis) -> Result<(), Standing> {
        if self.heads.own_is_revoked.load(Ordering::Acquire) {
            return Err(Standing::WorkloadRevoked);
        }
        let tick = self.heads.tick();
        Ok(self.heads.freshness.lock().check(now, tick)?)
    }

    /// What is held now.
    pub(super) fn holdings(&self) -> Holdings {
        let policy = self.policy.load();
        let revocations = self.revocations.load();
        Holdings {
            bundle: self.bundle.load().bundle.version,
            policy: Mark::of(policy.revision(), &policy.record),
            revocations: revocations.mark(),
        }
    }

    pub(super) fn learn_head(&self, record: &Bytes, now: UnixMillis) -> Result<(), String> {
        let bundle = self.bundle.load_full();
        let opened = Head::open(record, &bundle.bundle, now, self.skew);
        let head = opened.map_err(|error| {
            self.stats.count_refused("head_refused");
            // Its key may be one of a bundle that this process has missed.
            if error.code() == "unknown_issuer" {
                self.heads.catch_up.notify_one();
            }
            error.to_string()
        })?;
        self.hear(&head, now);
        Ok(())
    }

    fn hear(&self, head: &Verified<Head>, now: UnixMillis) {
        let held = self.holdings();
        let heard = {
            let mut freshness = self.heads.freshness.lock();
            freshness.hear(head, &held, self.heads.tick())
        };
        self.stats.note_head(head.time);
        if heard.is_contradiction() {
            alarm::two_records(&self.stats, head, &held);
        }
        if heard.is_ahead() {
            self.heads.catch_up.notify_one();
        }
        self.settle(now);
    }

    /// What is held has changed.
    pub(super) fn reconsider(&self, now: UnixMillis) {
        let held = self.holdings();
        self.heads.freshness.lock().reconsider(&held);
        self.look_at_ourselves();
        self.settle(now);
    }

    /// Whether it is this process that was revoked.
    fn look_at_ourselves(&self) {
        let heads = &self.heads;
        let list = self.revocations.load();
        let is_revoked = list.workload_since(&heads.own).is_some();
        if is_revoked && !heads.own_is_revoked.swap(true, Ordering::AcqRel) {
            alarm::own_workload_revoked(&self.stats, &heads.own);
        } else if !is_revoked && heads.own_is_revoked.swap(false, Ordering::AcqRel) {
            info!("this workload is not revoked any more");
        }
        let newest = heads.own_keys.lock().last().copied();
        if let Some(key) = newest
            && list.key_since(key).is_some()
        {
            alarm::own_key_revoked(&self.stats, &heads.own, key);
            heads.own_key_revoked.notify_one();
        }
    }

    /// Works out until when all is well.
    fn settle(&self, now: UnixMillis) {
        let heads = &self.heads;
        let verdict = {
            // Held until the answer is written: of two who work it out at the same
            // time, the one that saw more must write last.
            let freshness = heads.freshness.lock();
            let (wall, _) = freshness.until();
            let verdict = freshness.check(now, heads.tick());
            let is_good = verdict.is_ok() && !heads.own_is_revoked.load(Ordering::Acquire);
            let until = if is_good { wall.as_millis() } else { 0 };
            heads.good_until.store(until, Ordering::Release);
            verdict
        };
        match verdict {
            Err(stale) if !heads.was_stale.swap(true, Ordering::AcqRel) => {
                self.stats.count_stale(stale.code());
                error!(
                    reason = stale.code(),
                    "nothing is received or sent: {stale}; does a broker run, and is the control stream there?"
                );
            }
            Ok(()) if heads.was_stale.swap(false, Ordering::AcqRel) => {
                info!("heads confirm what is held again");
            }
            _ => {}
        }
    }
}

/// Looks at the clocks until the client is gone.
pub(super) async fn watch(inner: Weak<Inner>) {
    loop {
        let Some(pause) = inner.upgrade().map(|inner| inner.heads.watch) else {
            return;
        };
        tokio::time::sleep(pause).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.settle(clock::now());
    }
}
