//! The buckets that the policy asks for: made where they are not there, looked at
//! where they are.
//!
//! What a workload may write to a bucket is decided by subjects alone, so the
//! bucket itself has to refuse whatever a header could ask for: one write with
//! `Nats-Rollup: all` would remove every key. A bucket that does not refuse it is
//! not served: nobody is given a right to its keys, whatever the policy says
//! (POL-128). Neither is one that could not be looked at yet. A broker never
//! changes a bucket that is there.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::Client;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use bulla_identity::reserved;
use bulla_policy::{Bucket, Permissions, Policy};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Makes buckets, and knows which of them are served.
#[derive(Debug)]
pub(crate) struct Buckets {
    context: Context,
    served: Served,
    /// What was last told of each, so that it is told once.
    told: Mutex<BTreeSet<(String, &'static str)>>,
    /// Told when another bucket is unfit.
    changes: watch::Sender<()>,
}

/// What was found of the buckets when they were last looked at, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// To these rights are given.
    pub(crate) served: BTreeSet<String>,
    /// These were seen to be unfit: who has rights to them loses them. One that was
    /// not looked at yet is in neither.
    pub(crate) unfit: BTreeSet<String>,
}

/// The same as it is now; the callout asks.
pub(crate) type Served = Arc<ArcSwap<Found>>;

impl Buckets {
    /// Nothing is served yet.
    pub(crate) fn new(client: Client) -> Self {
        let mut context = jetstream::new(client);
        context.set_timeout(REQUEST_LIMIT);
        Self {
            context,
            served: Served::default(),
            told: Mutex::default(),
            changes: watch::Sender::default(),
        }
    }

    /// Tells when a bucket has become unfit, or fit again.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// What is served, now and later.
    pub(crate) fn served(&self) -> Served {
        Arc::clone(&self.served)
    }

    /// Makes what is missing and looks at what is there; true if all of the
    /// policy's buckets are served and could be looked at now. What fails is
    /// logged: a broker without a bucket is still a broker.
    pub(crate) async fn make(&self, policy: &Policy) -> bool {
        let before = self.served.load_full();
        let (mut found, mut all) = (Found::default(), true);
        for bucket in policy.buckets() {
            let name = bucket.name().to_owned();
            let Err(fault) = self.bucket(bucket).await else {
                self.told.lock().retain(|(told, _)| *told != name);
                found.served.insert(name);
                continue;
            };
            all = false;
            self.tell(bucket, &fault);
            // That nobody could look says nothing against it, and nothing for it.
            if !fault.is_outage() || before.unfit.contains(&name) {
                found.unfit.insert(name);
            } else if before.served.contains(&name) {
                found.served.insert(name);
            }
        }
        if *before != found {
            let is_told = before.unfit != found.unfit;
            self.served.store(Arc::new(found));
            if is_told {
                self.changes.send_replace(());
            }
        }
        all
    }

    fn tell(&self, bucket: &Bucket, fault: &BucketFault) {
        let is_new = self
            .told
            .lock()
            .insert((bucket.name().to_owned(), fault.code()));
        if is_new {
            tracing::error!(
                bucket = bucket.name(),
                reason = fault.code(),
                "a bucket of the policy is not served: {fault}"
            );
        }
    }

    async fn bucket(&self, bucket: &Bucket) -> Result<(), BucketFault> {
        let wanted = configured(bucket);
        match self.context.create_stream(wanted.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {}
                kind => return Err(BucketFault::NotMade(kind)),
            },
        }
        // It is there, and differs.
        let found = self.context.get_stream(&wanted.name).await;
        let found = found.map_err(|error| BucketFault::NotSeen(error.kind()))?;
        check(&found.cached_info().config, &wanted)?;
        tracing::debug!(bucket = bucket.name(), "the bucket is configured otherwise");
        Ok(())
    }
}

/// The rights of a workload to what is served.
pub(crate) fn only_served<'p>(
    permissions: &'p Permissions,
    buckets: &[String],
    served: &BTreeSet<String>,
) -> Cow<'p, Permissions> {
    let mut left = Cow::Borrowed(permissions);
    for bucket in buckets.iter().filter(|bucket| !served.contains(*bucket)) {
        left.to_mut().without_bucket(bucket);
    }
    left
}

/// What every ordinary client takes for a bucket, and nothing that a header could
/// widen: no rollup, no lives of their own, no counters, no schedules, no batches.
fn configured(bucket: &Bucket) -> Config {
    Config {
        name: bucket.stream(),
        description: Some("Bulla: a bucket of the policy".to_owned()),
        subjects: vec![reserved::bucket_key(bucket.name(), ">")],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages: -1,
        max_messages_per_subject: i64::try_from(bucket.history()).unwrap_or(1),
        max_age: bucket.ttl().unwrap_or_default(),
        max_bytes: bucket
            .max_bytes()
            .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        num_replicas: usize::try_from(bucket.replicas()).unwrap_or(1),
        // Whoever writes one key could otherwise take an id that another writer
        // is about to use, and its value would be dropped in silence.
        duplicate_window: Duration::from_millis(100),
        republish: Some(news_of(bucket.name())),
        allow_direct: true,
        deny_delete: true,
        deny_purge: false,
        allow_rollup: false,
        allow_message_ttl: false,
        ..Config::default()
    }
}

/// Changes are heard of under subjects of the bucket's own.
fn news_of(bucket: &str) -> Republish {
    Republish {
        source: reserved::bucket_key(bucket, ">"),
        destination: reserved::bucket_news(bucket, ">"),
        headers_only: false,
    }
}

/// What an existing bucket has to be. How much it keeps, and where, is the
/// operator's.
fn check(found: &Config, wanted: &Config) -> Result<(), BucketFault> {
    if found.allow_rollup {
        return Err(BucketFault::Rollup);
    }
    if found.subjects != wanted.subjects || found.subject_transform.is_some() {
        return Err(BucketFault::Subjects);
    }
    if found.mirror.is_some() || found.sources.as_ref().is_some_and(|s| !s.is_empty()) {
        return Err(BucketFault::Copied);
    }
    if found.allow_message_schedules
        || found.allow_message_counter
        || found.allow_message_ttl
        || found.allow_atomic_publish
        || found.allow_batch_publish
    {
        return Err(BucketFault::Headers);
    }
    if found.retention != wanted.retention || found.max_messages_per_subject < 1 {
        return Err(BucketFault::Retention);
    }
    let news = |republish: &Option<Republish>| {
        republish
            .as_ref()
            .map(|r| (r.source.clone(), r.destination.clone(), r.headers_only))
    };
    if !found.allow_direct || news(&found.republish) != news(&wanted.republish) {
        return Err(BucketFault::Unreadable);
    }
    Ok(())
}

/// Why a bucket is not served.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum BucketFault {
    #[error(
        "it allows rollup, so who may write one of its keys may remove all of them: set `allow_rollup_hdrs` to false"
    )]
    Rollup,
    #[error("it stores other subjects than `$KV.<bucket>.>`, or changes them")]
    Subjects,
    #[error("it copies another stream: its values come from where this policy does not reach")]
    Copied,
    #[error(
        "it takes schedules, counters, lives or batches from headers of messages: switch `allow_msg_schedules`, `allow_msg_counter`, `allow_msg_ttl`, `allow_atomic` and `allow_batched` off"
    )]
    Headers,
    #[error("it does not keep the newest value of each key until that is too old")]
    Retention,
    #[error(
        "its keys cannot be read one by one: set `allow_direct`, and `republish` from `$KV.<bucket>.>` to `$BULLA.KV.<bucket>.>`"
    )]
    Unreadable,
    #[error("it cannot be made: {0}")]
    NotMade(CreateStreamErrorKind),
    #[error("it cannot be looked at: {0}")]
    NotSeen(GetStreamErrorKind),
}

impl BucketFault {
    /// Whether it is not the bucket that is wrong, but that nobody could look.
    const fn is_outage(&self) -> bool {
        matches!(self, Self::NotMade(_) | Self::NotSeen(_))
    }

    /// A stable name, for logs.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Rollup => "bucket_rollup",
            Self::Subjects => "bucket_subjects",
            Self::Copied => "bucket_copied",
            Self::Headers => "bucket_headers",
            Self::Retention => "bucket_retention",
            Self::Unreadable => "bucket_unreadable",
            Self::NotMade(_) => "bucket_not_made",
            Self::NotSeen(_) => "bucket_not_seen",
        }
    }
}

const REQUEST_LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use bulla_policy::Policy;

    use super::*;

    fn policy() -> Policy {
        let text = "version = 1\ntrust_domain = \"acme.example\"\n[bucket.carts]\nhistory = 3\n";
        Policy::parse("policy.toml", text).unwrap()
    }

    #[test]
    fn what_a_header_could_widen_is_not_served() {
        let policy = policy();
        let wanted = configured(&policy.buckets()[0]);
        assert_eq!(check(&wanted, &wanted), Ok(()));
        let broken = |change: fn(&mut Config)| {
            let mut found = wanted.clone();
            change(&mut found);
            check(&found, &wanted)
        };
        // How much it keeps is the operator's.
        assert_eq!(
            broken(|c| {
                c.max_messages_per_subject = 9;
                c.max_age = Duration::from_secs(5);
                c.num_replicas = 3;
                c.deny_purge = true;
                c.duplicate_window = Duration::from_secs(120);
            }),
            Ok(())
        );
        use BucketFault as F;
        for (change, fault) in [
            (
                (|c: &mut Config| c.allow_rollup = true) as fn(&mut Config),
                F::Rollup,
            ),
            (|c| c.subjects.push("orders.>".into()), F::Subjects),
            (
                |c| {
                    c.sources = Some(vec![jetstream::stream::Source::default()]);
                },
                F::Copied,
            ),
            (
                |c| {
                    c.mirror = Some(jetstream::stream::Source::default());
                },
                F::Copied,
            ),
            (|c| c.allow_message_schedules = true, F::Headers),
            (|c| c.allow_message_counter = true, F::Headers),
            (|c| c.allow_message_ttl = true, F::Headers),
            (|c| c.allow_atomic_publish = true, F::Headers),
            (|c| c.allow_batch_publish = true, F::Headers),
            (
                |c| {
                    c.retention = RetentionPolicy::WorkQueue;
                },
                F::Retention,
            ),
            (|c| c.max_messages_per_subject = -1, F::Retention),
            (|c| c.allow_direct = false, F::Unreadable),
            (|c| c.republish = None, F::Unreadable),
            (
                |c| {
                    if let Some(news) = &mut c.republish {
                        news.headers_only = true;
                    }
                },
                F::Unreadable,
            ),
        ] {
            let code = fault.code();
            assert_eq!(broken(change), Err(fault), "{code}");
        }
    }
}
