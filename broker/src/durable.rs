//! The streams and consumers that the policy asks for.
//!
//! A broker makes those that are not there. It never changes one that is: what
//! somebody has configured by hand may hold messages that a change would drop.
//! Whether a stream is configured as its messages need it is checked by those
//! who consume it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, ConsumerCreateStrictError, ConsumerCreateStrictErrorKind, DiscardPolicy,
    RetentionPolicy, Source, StorageType,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use bulla_policy::{Consumer, Policy, Retention, Stream, Workload};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::buckets::Buckets;
use crate::control::{self, ControlPlane};

/// Makes what the policies in force ask for, until `stop`.
pub(crate) struct Durable {
    client: Client,
    context: Context,
    buckets: Arc<Buckets>,
    /// Of our own streams.
    replicas: usize,
    /// The revision whose streams and consumers are all there.
    done: Option<u64>,
}

impl Durable {
    /// To be told of policies.
    pub(crate) fn new(client: Client, buckets: Arc<Buckets>, replicas: usize) -> Self {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(REQUEST_LIMIT);
        Self {
            client,
            context,
            buckets,
            replicas,
            done: None,
        }
    }

    /// Makes what is missing. What fails is logged and tried again later: a
    /// broker without a stream is still a broker.
    pub(crate) async fn make(&mut self, policy: &Policy, revision: u64) {
        let mut all = true;
        let forgets = |stream: &Stream| stream.retention() != Retention::Limits;
        // Edges remember there for long what was asked of them.
        if (policy.streams().iter().any(forgets) || policy.workloads().iter().any(Workload::mints))
            && let Err(error) = control::open_taken(&self.client, self.replicas).await
        {
            all = false;
            tracing::warn!(error = %error, "nobody can consume a stream that forgets ids, and no edge remembers for long");
        }
        all &= self.buckets.make(policy).await;
        // What is copied before its copies.
        let mut streams: Vec<&Stream> = policy.streams().iter().collect();
        streams.sort_by_key(|stream| stream.mirror().is_some());
        for stream in streams {
            if let Err(error) = self.stream(stream).await {
                all = false;
                tracing::warn!(
                    stream = stream.name(),
                    error = %error,
                    "a stream of the policy cannot be made: appends to it fail"
                );
            }
        }
        for consumer in policy.consumers() {
            if let Err(error) = self.consumer(consumer).await {
                all = false;
                tracing::warn!(
                    stream = consumer.stream(),
                    consumer = consumer.name(),
                    error = %error,
                    "a consumer of the policy cannot be made: its workload cannot consume"
                );
            }
        }
        self.done = all.then_some(revision);
    }

    /// Follows the policies that `plane` holds.
    pub(crate) async fn run(mut self, plane: Arc<ControlPlane>, stop: CancellationToken) {
        let mut tried = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(POLL) => {}
            }
            let held = plane.held();
            let revision = held.policy.signed.revision;
            let is_new = self.done.is_some_and(|done| done != revision);
            let is_time = tried.elapsed() > PAUSE;
            if is_new || (is_time && self.done.is_none()) {
                self.make(&held.policy.policy, revision).await;
                tried = Instant::now();
            } else if is_time {
                // One that was sound may have been changed.
                self.buckets.make(&held.policy.policy).await;
                tried = Instant::now();
            }
        }
    }

    async fn stream(&self, stream: &Stream) -> Result<(), CreateStreamError> {
        match self.context.create_stream(configured(stream)).await {
            Ok(_) => Ok(()),
            // It is there, and differs.
            Err(error) if is_code(error.kind(), ErrorCode::STREAM_NAME_EXIST) => {
                tracing::debug!(stream = stream.name(), "the stream is configured otherwise");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn consumer(&self, consumer: &Consumer) -> Result<(), ConsumerCreateStrictError> {
        let config = pull::Config {
            durable_name: Some(consumer.name().to_owned()),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        let made = self
            .context
            .create_consumer_strict_on_stream(config, consumer.stream())
            .await;
        match made {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                ConsumerCreateStrictErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            },
        }
    }
}

fn is_code(kind: CreateStreamErrorKind, code: ErrorCode) -> bool {
    matches!(kind, CreateStreamErrorKind::JetStream(error) if error.error_code() == code)
}

/// What keeps ids and sequences where consumers can rely on them: files, no
/// deletion, nothing dropped to make room, no rollup, no lives of their own.
fn configured(stream: &Stream) -> Config {
    Config {
        name: stream.name().to_owned(),
        subjects: stream.subjects().iter().map(|s| s.to_nats()).collect(),
        retention: match stream.retention() {
            Retention::Limits => RetentionPolicy::Limits,
            Retention::WorkQueue => RetentionPolicy::WorkQueue,
            Retention::Interest => RetentionPolicy::Interest,
        },
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_age: stream.max_age(),
        max_bytes: stream
            .max_bytes()
            .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        max_messages: -1,
        mirror: stream.mirror().map(|origin| Source {
            name: origin.to_owned(),
            ..Source::default()
        }),
        duplicate_window: match stream.mirror() {
            // Its stream has seen to that.
            Some(_) => Duration::ZERO,
            None => stream.duplicates(),
        },
        num_replicas: usize::try_from(stream.replicas()).unwrap_or(1),
        deny_delete: true,
        deny_purge: true,
        // Who may consume it may also read it by number; of another retention nothing
        // would be left to read.
        allow_direct: stream.retention() == Retention::Limits,
        allow_rollup: false,
        allow_message_ttl: false,
        ..Config::default()
    }
}

const POLL: Duration = Duration::from_millis(500);

/// Between two attempts at what failed.
const PAUSE: Duration = Duration::from_secs(10);

const REQUEST_LIMIT: Duration = Duration::from_secs(5);
