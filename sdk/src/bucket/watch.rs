//! Following keys: the news of a change is a hint, the bucket is what counts.
//!
//! Whoever may read or consume anything can have an answer of nats-server's
//! delivered under a key's news. So of the news only the key is taken, and the
//! bucket is asked. What could have been missed, after a lost connection or a full
//! subscription, is asked for again, and so is everything from time to time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use bulla_identity::{SubjectPattern, reserved};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::entry::{Entry, Revision};
use super::{Bucket, Stored};
use crate::connection::Violation;
use crate::error::{BucketError, LinkError};
use crate::link::Feed;

/// How long nats-server may take to confirm a subscription.
const CONFIRM: Duration = Duration::from_secs(5);
/// Seconds between two looks at everything, drawn anew each time.
const LOOK_SECONDS: std::ops::Range<f64> = 20.0..30.0;
/// Between two attempts at something that nobody answered.
const PAUSE: Duration = Duration::from_millis(250);
/// Keys whose revisions are known. A watch of more may give an entry twice.
const MOST_KEYS: usize = 65_536;

/// The entries of some keys as they change; made by [`Bucket::watch`].
///
/// Of changes that follow one another quickly the last is given. Dropping it stops it.
pub struct Watch {
    bucket: Bucket,
    /// Of keys, within the bucket.
    pattern: String,
    whole: SubjectPattern,
    /// How the news of the bucket's keys begin.
    news_of: String,
    news: Feed,
    disturbances: watch::Receiver<u64>,
    /// Whether it may be listed.
    is_listable: bool,
    look_at: Instant,
    /// Read and not given yet.
    read: VecDeque<Stored>,
    /// Keys that may have changed.
    due: VecDeque<String>,
    is_due: HashSet<String>,
    /// What was given last of each key, also where it was refused.
    known: HashMap<String, Revision>,
    /// The right to read is gone.
    is_over: bool,
}

impl Watch {
    pub(super) async fn open(bucket: Bucket, pattern: &str) -> Result<Self, BucketError> {
        let whole = bucket.pattern(pattern)?;
        bucket.may_read_pattern(pattern)?;
        let policy = bucket.shared.control.policy();
        let workload = &bucket.shared.options.workload;
        let all = bucket.pattern(">")?;
        let is_listable = policy
            .policy()
            .may_listen(
                workload,
                bulla_policy::Verb::Read,
                &all,
                crate::clock::now(),
            )
            .is_ok();
        let connection = &bucket.shared.connection;
        connection.check_heard()?;
        let disturbances = connection.disturbances();
        let mut refusals = connection.watch();
        let subject = reserved::bucket_news(&bucket.name, pattern);
        let news = connection.link().subscribe(subject.clone()).await?;
        connection.barrier(CONFIRM).await?;
        let refusal = Violation::Subscribe { subject };
        if connection.refused_since(&mut refusals, &refusal).await {
            return Err(bucket.unreachable(LinkError::Refused));
        }
        let mut watch = Self {
            news_of: reserved::bucket_news(&bucket.name, ""),
            pattern: pattern.to_owned(),
            bucket,
            whole,
            news,
            disturbances,
            is_listable,
            look_at: Instant::now(),
            read: VecDeque::new(),
            due: VecDeque::new(),
            is_due: HashSet::new(),
            known: HashMap::new(),
            is_over: false,
        };
        watch.disturbances.mark_unchanged();
        watch.look_again().await?;
        watch.look_later();
        Ok(watch)
    }

    /// The next entry, of a deleted key too; `None` when the connection has ended, and
    /// after it was told that this workload may not read here any more.
    ///
    /// An entry that does not pass the checks is an error, and the watch goes on:
    /// what the key had before may be too old by now, and only whoever reads it can
    /// say what is better. Cancel safe: what was not given is given next.
    pub async fn next(&mut self) -> Option<Result<Entry, BucketError>> {
        loop {
            if self.is_over {
                return None;
            }
            if let Err(error) = self.bucket.may_read_pattern(&self.pattern) {
                match &error {
                    BucketError::Denied { .. } => self.is_over = true,
                    // It may come back: whoever asks in a loop is not to spin.
                    _ => tokio::time::sleep(PAUSE).await,
                }
                return Some(Err(error));
            }
            if let Some(stored) = self.read.front() {
                let stored = stored.clone();
                let (key, revision) = (stored.key.clone(), Revision(stored.revision));
                let judged = self.bucket.judge(stored).await;
                self.read.pop_front();
                // Another process may have a newer one: it is asked for.
                if judged.as_ref().is_err_and(BucketError::is_older) {
                    self.mark(&key);
                    continue;
                }
                if self.note(&key, revision) {
                    return Some(judged);
                }
                continue;
            }
            if let Some(key) = self.due.front().cloned() {
                let outcome = self.ask(&key).await;
                if let Err(BucketError::Link(_)) = outcome {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                self.due.pop_front();
                self.is_due.remove(&key);
                match outcome {
                    Ok(Some(entry)) if self.note(&key, entry.revision) => return Some(Ok(entry)),
                    Ok(_) => {}
                    Err(BucketError::Refused { revision, .. }) if !self.note(&key, revision) => {}
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
            if self.disturbances.has_changed().unwrap_or(true) || Instant::now() >= self.look_at {
                // What comes during the look asks for another, and a look that is given
                // up or that nobody answers counts for none.
                let mut seen = self.disturbances.clone();
                seen.mark_unchanged();
                let outcome = self.look_again().await;
                if let Err(BucketError::Link(_)) = outcome {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                self.disturbances = seen;
                // Another error is asked for again too, and not at once.
                self.look_later();
                if let Err(error) = outcome {
                    return Some(Err(error));
                }
                continue;
            }
            tokio::select! {
                biased;
                news = self.news.next() => {
                    let news = news?;
                    self.hear(&news);
                }
                changed = self.disturbances.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                    self.disturbances.mark_changed();
                }
                () = tokio::time::sleep_until(self.look_at) => {}
            }
        }
    }

    async fn ask(&self, key: &str) -> Result<Option<Entry>, BucketError> {
        let name = self.bucket.key(key)?;
        self.bucket.look(key, &name).await
    }

    /// A hint that a key may have changed.
    fn hear(&mut self, news: &async_nats::Message) {
        let Some(key) = news.subject.strip_prefix(&self.news_of) else {
            return;
        };
        let sequence = news
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Sequence"))
            .and_then(|number| number.as_str().parse().ok());
        // What was given already, told late.
        if sequence.is_some_and(|n: u64| self.known.get(key) == Some(&Revision(n))) {
            return;
        }
        let key = key.to_owned();
        self.mark(&key);
    }

    fn mark(&mut self, key: &str) {
        let is_within = self
            .bucket
            .key(key)
            .is_ok_and(|name| self.whole.matches(&name));
        if is_within && self.is_due.insert(key.to_owned()) {
            self.due.push_back(key.to_owned());
        }
    }

    /// Whether this revision of the key was not given yet.
    fn note(&mut self, key: &str, revision: Revision) -> bool {
        if self.known.get(key) == Some(&revision) {
            return false;
        }
        if self.known.len() >= MOST_KEYS && !self.known.contains_key(key) {
            self.known.clear();
        }
        self.known.insert(key.to_owned(), revision);
        true
    }

    /// Everything that can be asked for.
    async fn look_again(&mut self) -> Result<(), BucketError> {
        if self.is_listable {
            let stored = self.bucket.stored(&self.pattern, true).await?;
            self.read = stored
                .into_iter()
                .filter(|stored| self.known.get(&stored.key) != Some(&Revision(stored.revision)))
                .collect();
            return Ok(());
        }
        let known: Vec<String> = self.known.keys().cloned().collect();
        for key in &known {
            self.mark(key);
        }
        // A pattern without a wildcard is a key.
        let pattern = self.pattern.clone();
        if self.bucket.key(&pattern).is_ok() {
            self.mark(&pattern);
        }
        Ok(())
    }

    fn look_later(&mut self) {
        let seconds = rand::random_range(LOOK_SECONDS);
        self.look_at = Instant::now() + Duration::from_secs_f64(seconds);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("bucket", &self.bucket.name)
            .field("pattern", &self.pattern)
            .finish_non_exhaustive()
    }
}
