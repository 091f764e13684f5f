//! The control stream: where the trust bundle, the policy and the credentials
//! lie, and from where they are republished to every enforcer.
//!
//! A full stream refuses new records and drops none. Of nats-server's two limits
//! only that of records lets an existing one be replaced by a larger one, so it
//! is the one that is reached: as many credentials of the largest size as it
//! allows stay below the limit of bytes, and a full stream still takes the next
//! policy.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::{CreateStreamError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DirectGetErrorKind, DiscardPolicy, Republish, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, Context};
use bulla_envelope::MAX_CREDENTIAL;
use bulla_identity::reserved;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

/// The stream, with the configuration that Bulla relies on.
#[derive(Clone, Debug)]
pub(crate) struct ControlStream {
    context: Context,
    stream: Stream,
}

/// The newest record under one subject.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Its place in the stream, for [`ControlStream::replace`].
    pub(crate) sequence: u64,
    /// Its bytes.
    pub(crate) payload: Bytes,
}

impl ControlStream {
    /// Creates the stream, or brings an existing one to our configuration.
    /// Waits a little for JetStream to come up.
    pub(crate) async fn open(client: Client) -> Result<Self, StreamError> {
        let mut context = jetstream::new(client);
        context.set_timeout(REQUEST_LIMIT);
        let deadline = Instant::now() + OPEN_LIMIT;
        loop {
            match context.create_or_update_stream(configuration()).await {
                Ok(_) => break,
                Err(source) if Instant::now() > deadline => return Err(StreamError::Open(source)),
                Err(error) => {
                    tracing::debug!(%error, "control stream not there yet");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
        let stream = context
            .get_stream(reserved::CTL_STREAM)
            .await
            .map_err(|_| StreamError::Gone)?;
        Ok(Self {
            context,
            stream: stream.clone(),
        })
    }

    /// The newest record under `subject`, if there is one.
    pub(crate) async fn last(&self, subject: &str) -> Result<Option<Record>, StreamError> {
        match self.stream.direct_get_last_for_subject(subject).await {
            Ok(message) => Ok(Some(Record {
                sequence: message.sequence,
                payload: message.payload,
            })),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(_) => Err(StreamError::Read {
                subject: subject.to_owned(),
            }),
        }
    }

    /// Writes a record if `previous` is still the newest under its subject
    /// (zero: if there is none). False if another broker was faster.
    pub(crate) async fn replace(
        &self,
        subject: &str,
        payload: Bytes,
        previous: u64,
    ) -> Result<bool, StreamError> {
        let message = PublishMessage::build()
            .payload(payload)
            .expected_last_subject_sequence(previous);
        self.publish(subject, message).await
    }

    /// Writes a record that disappears by itself. The first one under a
    /// subject stands.
    pub(crate) async fn add(
        &self,
        subject: &str,
        payload: Bytes,
        ttl: Duration,
    ) -> Result<bool, StreamError> {
        let message = PublishMessage::build()
            .payload(payload)
            .ttl(ttl)
            .expected_last_subject_sequence(0);
        self.publish(subject, message).await
    }

    async fn publish(&self, subject: &str, message: PublishMessage) -> Result<bool, StreamError> {
        let failed = || StreamError::Write {
            subject: subject.to_owned(),
        };
        let ack = self
            .context
            .send_publish(subject.to_owned(), message)
            .await
            .map_err(|_| failed())?;
        match ack.await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
            Err(_) => Err(failed()),
        }
    }
}

fn configuration() -> Config {
    Config {
        name: reserved::CTL_STREAM.to_owned(),
        description: Some("Bulla: trust bundle, policy, credentials".to_owned()),
        subjects: vec![reserved::CTL_ALL.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages: MAX_RECORDS,
        max_bytes: MAX_BYTES,
        // The newest of each subject is the truth.
        max_messages_per_subject: 1,
        max_message_size: MAX_RECORD,
        allow_direct: true,
        allow_message_ttl: true,
        // One write could otherwise remove every credential.
        allow_rollup: false,
        republish: Some(Republish {
            source: reserved::CTL_ALL.to_owned(),
            destination: reserved::NEWS_ALL.to_owned(),
            headers_only: false,
        }),
        num_replicas: 1,
        ..Config::default()
    }
}

/// What failed on the control stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// JetStream is off, or the stream cannot have our configuration.
    #[error(
        "cannot create the control stream `BULLA_CTL`: is JetStream on in the account of the broker's nkey, with 1 GiB of file storage?"
    )]
    Open(#[source] CreateStreamError),
    /// It was there a moment ago.
    #[error("the control stream `BULLA_CTL` is gone")]
    Gone,
    /// A direct get failed.
    #[error("cannot read `{subject}` from the control stream")]
    Read {
        /// The record.
        subject: String,
    },
    /// A publish was not acknowledged.
    #[error("cannot write `{subject}` to the control stream")]
    Write {
        /// The record.
        subject: String,
    },
}

/// A policy may be large; nats-server's default message size is 1 MiB.
const MAX_RECORD: i32 = 1024 * 1024;

/// Bundle, policy and the credentials that have not expired.
const MAX_RECORDS: i64 = 200_000;

/// nats-server reserves this much of its file storage.
const MAX_BYTES: i64 = 1024 * 1024 * 1024;

/// Subject, headers, signatures around the claims and nats-server's own.
const RECORD_OVERHEAD: i64 = 1024;

const _: () = assert!(
    MAX_RECORDS * (MAX_CREDENTIAL as i64 + RECORD_OVERHEAD) + 4 * MAX_RECORD as i64 <= MAX_BYTES
);

const OPEN_LIMIT: Duration = Duration::from_secs(10);

const REQUEST_LIMIT: Duration = Duration::from_secs(5);
