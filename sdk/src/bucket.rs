//! Buckets: the newest values of keys, each sealed by who wrote it.
//!
//! ```text
//! put ─► may this workload write it, for this user? ─► seal for $KV.<bucket>.<key> ─► the bucket
//! get ─► direct get of the key ─► open as of when it was stored: writer, key, user, policy
//!                                 ─► not older than what was read before ─► the value
//! ```
//!
//! A value is an envelope whose signed subject names bucket and key, so it counts
//! nowhere else. That a key is deleted is said by an envelope as well. Which of a
//! writer's values is the newest is the bucket's word: a process remembers what it
//! has read, and goes back no more (ENV-130 to ENV-135).

mod entry;
mod memory;
mod open;
mod snapshot;
mod watch;
mod write;

use std::sync::Arc;
use std::time::Duration;

use async_nats::StatusCode;
use bulla_identity::{Subject, SubjectPattern, reserved};
use bulla_policy::{Decision, Permit, Request, Verb};
use bytes::Bytes;
use serde::Serialize;

use crate::client::Client;
use crate::clock;
use crate::decision_log;
use crate::error::{BucketError, LinkError};
use crate::refusal::{Refusal, StoredRefusal};
use crate::shared::Shared;
use crate::trial;

pub use entry::{Entry, Revision};
pub(crate) use memory::Memories;
use memory::Memory;
use open::Stored;
pub use watch::Watch;
pub use write::Write;

/// How long JetStream may take for one answer.
const ANSWER: Duration = Duration::from_secs(3);
/// A replica of the bucket may be a little behind: what is older than what was
/// read before is asked for again, after these pauses.
const LAGS: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
];
/// The content type of an envelope that says that its key is deleted.
pub(crate) const DELETED: &str = "application/vnd.bulla.deleted";
/// The longest key.
const LONGEST_KEY: usize = 400;

/// A bucket of the policy: keys, and the newest value of each.
///
/// Made by [`Client::bucket`](crate::Client::bucket); cloning is cheap. Which keys
/// this workload may read and write is said by the policy's verbs `read` and `write`.
///
/// ```no_run
/// # use bulla_sdk::Client;
/// # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let carts = client.bucket("carts")?;
/// let revision = carts.put("eu.17", &vec!["bowl"]).await?;
///
/// if let Some(entry) = carts.get("eu.17").await? {
///     let cart: Vec<String> = entry.decode()?;
///     println!("{cart:?}, by {:?}", entry.sender());
/// }
/// // Only if nobody was faster.
/// carts.update("eu.17", &vec!["bowl", "spoon"], revision).await?;
///
/// let mut changes = carts.watch("eu.17").await?;
/// while let Some(entry) = changes.next().await {
///     match entry {
///         Ok(entry) if entry.is_deleted() => println!("emptied"),
///         Ok(entry) => println!("{:?}", entry.decode::<Vec<String>>()?),
///         Err(refused) => eprintln!("{refused}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Security
/// A value that is moved to another key or bucket, is written by who may not, is
/// not sealed, or is older than what this process has read before is refused. A
/// process that has read nothing yet takes the newest value that it is shown: whoever
/// runs the stream can show it an older one that still counts, or none. How old a value
/// may be is said by the bucket's `max_age`.
#[derive(Clone)]
pub struct Bucket {
    pub(super) shared: Arc<Shared>,
    pub(super) name: Arc<str>,
    pub(super) memory: Arc<Memory>,
}

impl Client {
    /// The bucket of the policy with this name: keys and their newest values.
    ///
    /// # Errors
    /// [`BucketError::NotDeclared`].
    pub fn bucket(&self, name: &str) -> Result<Bucket, BucketError> {
        Bucket::bind(self.shared(), name)
    }
}

impl Bucket {
    pub(crate) fn bind(shared: &Arc<Shared>, name: &str) -> Result<Self, BucketError> {
        let policy = shared.control.policy();
        let Some(bucket) = policy.policy().bucket(name) else {
            return Err(BucketError::NotDeclared {
                bucket: name.to_owned(),
            });
        };
        Ok(Self {
            name: bucket.name().into(),
            memory: shared.memories.of(name),
            shared: Arc::clone(shared),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The newest value of `key`; nothing if it has none or was deleted.
    ///
    /// That there is none is nobody's signed word.
    ///
    /// # Errors
    /// [`BucketError`]. [`BucketError::Refused`] if there is something that does not
    /// pass the checks: it says nothing about what was there before.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, BucketError> {
        let newest = self.newest(key).await?;
        Ok(newest.filter(|entry| !entry.is_deleted()))
    }

    /// The same, but a deleted key is told by its entry: who deleted it, when, and
    /// under which revision.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn newest(&self, key: &str) -> Result<Option<Entry>, BucketError> {
        let name = self.key(key)?;
        self.may_read(&name)?;
        self.look(key, &name).await
    }

    /// Writes a value in the client's content type.
    ///
    /// # Errors
    /// As [`Write::put`].
    pub async fn put<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<Revision, BucketError> {
        self.write(key).payload(value).put().await
    }

    /// Writes a value if the key has none and had none that is still kept.
    ///
    /// # Errors
    /// As [`Write::put`]; [`BucketError::Conflict`] if there is something.
    pub async fn create<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<Revision, BucketError> {
        let write = self.write(key).payload(value);
        write.expecting(Revision::NONE).put().await
    }

    /// Writes a value if the newest one is still that of `revision`.
    ///
    /// # Errors
    /// As [`Write::put`]; [`BucketError::Conflict`] if somebody was faster.
    pub async fn update<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        revision: Revision,
    ) -> Result<Revision, BucketError> {
        self.write(key)
            .payload(value)
            .expecting(revision)
            .put()
            .await
    }

    /// Says that the key is deleted. Its earlier values are kept for as long as the
    /// bucket keeps its history.
    ///
    /// # Errors
    /// As [`Write::put`].
    pub async fn delete(&self, key: &str) -> Result<Revision, BucketError> {
        self.write(key).delete().await
    }

    /// Starts a write for everything that [`Bucket::put`] does not say: raw bytes,
    /// headers, another user, the revision that is expected.
    pub fn write(&self, key: &str) -> Write<'_> {
        Write::new(self, key)
    }

    /// Follows the keys that `pattern` names, such as `eu.17`, `eu.*.items` or `>`.
    /// This workload may read all of them.
    ///
    /// What is there comes first, where it can be asked for: of one key, or of a
    /// pattern if this workload may read the whole bucket. A part of a bucket
    /// cannot be listed; there only what changes from now on comes.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn watch(&self, pattern: &str) -> Result<Watch, BucketError> {
        Watch::open(self.clone(), pattern).await
    }

    /// The newest entry of each key that `pattern` names, deleted ones included. Only
    /// who may read the whole bucket may ask.
    ///
    /// # Errors
    /// [`BucketError`]; what does not pass the checks is an error in its place.
    pub async fn entries(
        &self,
        pattern: &str,
    ) -> Result<Vec<Result<Entry, BucketError>>, BucketError> {
        self.pattern(pattern)?;
        self.may_read_pattern(">")?;
        let stored = self.stored(pattern, true).await?;
        let mut entries = Vec::with_capacity(stored.len());
        for stored in stored {
            entries.push(self.judge(stored).await);
        }
        Ok(entries)
    }

    /// What the bucket has kept of one key, the oldest first. Only who may read the
    /// whole bucket may ask.
    ///
    /// # Errors
    /// [`BucketError`]; what does not pass the checks is an error in its place.
    pub async fn history(&self, key: &str) -> Result<Vec<Result<Entry, BucketError>>, BucketError> {
        self.key(key)?;
        self.may_read_pattern(">")?;
        let stored = self.stored(key, false).await?;
        let past = Memory::default();
        let mut entries = Vec::with_capacity(stored.len());
        for stored in stored {
            entries.push(self.judge_by(stored, &past).await);
        }
        Ok(entries)
    }

    /// What is in the bucket under a key that may be read.
    pub(super) async fn look(
        &self,
        key: &str,
        name: &Subject,
    ) -> Result<Option<Entry>, BucketError> {
        let mut lags = LAGS.iter();
        loop {
            let Some(stored) = self.fetch(key, name).await? else {
                return Ok(None);
            };
            match self.judge(stored).await {
                Ok(entry) => return Ok(Some(entry)),
                Err(error) => match (error.is_older(), lags.next()) {
                    (true, Some(pause)) => tokio::time::sleep(*pause).await,
                    _ => return Err(error),
                },
            }
        }
    }

    async fn fetch(&self, key: &str, name: &Subject) -> Result<Option<Stored>, BucketError> {
        let ask = reserved::bucket_direct_get(&self.name, key);
        let asked = self.shared.connection.ask(ask, Bytes::new(), ANSWER);
        let answer = asked.await.map_err(|error| self.unreachable(error))?;
        match answer.status {
            None | Some(StatusCode::OK) => {}
            Some(StatusCode::NOT_FOUND) => return Ok(None),
            Some(_) => return Err(LinkError::Timeout.into()),
        }
        match Stored::of(&self.name, answer) {
            // Whatever was asked for: nothing else counts.
            Some(stored) if stored.name == *name => Ok(Some(stored)),
            _ => Err(BucketError::Malformed {
                bucket: self.name.to_string(),
            }),
        }
    }

    /// An entry that passes every check and is not older than what was read before.
    async fn judge(&self, stored: Stored) -> Result<Entry, BucketError> {
        self.judge_by(stored, &self.memory).await
    }

    async fn judge_by(&self, stored: Stored, memory: &Memory) -> Result<Entry, BucketError> {
        let (name, revision) = (stored.name.clone(), stored.revision);
        let mut progress = open::Progress::default();
        let opened = match self.open(stored, &mut progress).await {
            Ok(entry) => {
                let skew = self.shared.options.clock_skew;
                match memory.take(&entry, skew) {
                    Ok(()) => Ok(entry),
                    Err(refusal) => Err(Refusal::Stored(refusal)),
                }
            }
            Err(refusal) => Err(refusal),
        };
        opened.map_err(|refusal| {
            self.refuse(&name, &progress, &refusal);
            let is_older = matches!(refusal, Refusal::Stored(StoredRefusal::RolledBack));
            BucketError::Refused {
                key: name.as_str().to_owned(),
                revision: Revision(revision),
                reason: refusal.code(),
                is_older,
            }
        })
    }

    pub(super) fn unreachable(&self, error: LinkError) -> BucketError {
        match error {
            LinkError::NoResponders | LinkError::Refused => BucketError::NotServed {
                bucket: self.name.to_string(),
            },
            other => other.into(),
        }
    }

    /// The bucket's name and the key's, as the policy knows it.
    pub(super) fn key(&self, key: &str) -> Result<Subject, BucketError> {
        let fits = key.len() <= LONGEST_KEY && key.bytes().all(is_of_key);
        let name = Subject::parse(&format!("{}.{key}", self.name)).ok();
        name.filter(|_| fits).ok_or_else(|| BucketError::Key {
            key: key.to_owned(),
        })
    }

    pub(super) fn pattern(&self, pattern: &str) -> Result<SubjectPattern, BucketError> {
        let fits = pattern.len() <= LONGEST_KEY
            && pattern
                .bytes()
                .all(|b| is_of_key(b) || matches!(b, b'*' | b'>'));
        let whole = SubjectPattern::parse(&format!("{}.{pattern}", self.name)).ok();
        whole.filter(|_| fits).ok_or_else(|| BucketError::Key {
            key: pattern.to_owned(),
        })
    }

    fn may_read(&self, name: &Subject) -> Result<Permit, BucketError> {
        let shared = &self.shared;
        let now = clock::now();
        shared.control.check(now)?;
        let request = Request {
            workload: &shared.options.workload,
            verb: Verb::Read,
            subject: name,
            user: None,
            now,
        };
        let policy = shared.control.policy();
        let what = self.own(name.as_str());
        match shared.control.decide(&policy, &request) {
            Decision::Allow(permit) => {
                trial::allowed(&shared.stats, &permit, || what);
                Ok(permit)
            }
            Decision::Deny(denial) => {
                trial::denied(&shared.stats, &denial, &what);
                let id = shared.decisions.deny_by(what, &denial);
                Err(BucketError::Denied {
                    denial: Box::new(denial),
                    id,
                })
            }
        }
    }

    /// Whether all that a pattern names may be read.
    pub(super) fn may_read_pattern(&self, pattern: &str) -> Result<(), BucketError> {
        let whole = self.pattern(pattern)?;
        let shared = &self.shared;
        let now = clock::now();
        shared.control.check(now)?;
        let policy = shared.control.policy();
        let workload = &shared.options.workload;
        let asked = policy
            .policy()
            .may_listen(workload, Verb::Read, &whole, now);
        let Err(denial) = asked else {
            return Ok(());
        };
        let id = shared.decisions.deny_by(self.own(whole.as_str()), &denial);
        Err(BucketError::Denied {
            denial: Box::new(denial),
            id,
        })
    }

    fn own<'a>(&'a self, subject: &'a str) -> decision_log::Subject<'a> {
        decision_log::Subject {
            enforcer: "receiver",
            workload: self.shared.options.workload.path(),
            verb: Verb::Read.as_str(),
            subject,
            user: None,
        }
    }
}

/// What every client takes for a part of a key.
const fn is_of_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/' | b'=' | b'.')
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
