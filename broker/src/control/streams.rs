//! The streams that Bulla stands on, all in the account `JS`.
//!
//! | stream | holds | written by |
//! |---|---|---|
//! | `BULLA_CTL` | trust bundle, policy, revocation list, heads, credentials, KEM records | brokers and operators |
//! | `BULLA_KEYS` | data keys, wrapped to their recipients | each workload beneath its own tag |
//! | `BULLA_TAKEN` | under which number a consumer was first given a message of a stream that forgets ids | the same |
//! | `BULLA_AUDIT` | what was decided and done | each workload beneath its own tag, and brokers |
//! | `BULLA_CLAIMS` | which message a workload has begun to handle | each workload beneath its own tag |
//! | `BULLA_STATUS` | which policy each enforcer runs | each workload beneath its own tag, brokers beneath theirs |
//! | `BULLA_HISTORY` | the policies that were in force | brokers and operators |
//!
//! What workloads write reaches these streams through an account import, so the
//! stream itself has to refuse whatever a header could ask for: no rollup, no
//! second record under a subject, no deletion. Only a record's life is for its
//! writer to choose, who harms nobody but itself with a wrong one.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::CreateStreamError;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, Context};
use bulla_envelope::MAX_CREDENTIAL;
use bulla_identity::reserved;
use tokio::time::{Instant, sleep};

/// Creates the streams that workloads write to, or brings existing ones to our
/// configuration.
pub(crate) async fn open_for_workloads(
    client: &Client,
    retention: AuditRetention,
    replicas: usize,
) -> Result<(), StreamError> {
    let open = |config| open(client.clone(), config, replicas);
    tokio::try_join!(
        open(keys()),
        open(claims()),
        open(audit(retention)),
        open(status())
    )?;
    Ok(())
}

/// For how long the audit log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditRetention {
    /// How long.
    pub keep: Duration,
    /// How much at most, in bytes.
    pub max_bytes: u64,
    /// How much of it one workload may write at once, in percent, and again within
    /// `keep`; 100 is no limit.
    pub workload_percent: u8,
}

impl Default for AuditRetention {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(30 * 24 * 60 * 60),
            max_bytes: 512 * 1024 * 1024,
            workload_percent: 25,
        }
    }
}

/// The same for the policies that were in force.
pub(crate) async fn open_history(client: &Client, replicas: usize) -> Result<(), StreamError> {
    open(client.clone(), history(), replicas).await.map(drop)
}

/// The same for the stream of claims about what other streams stored, which is
/// needed only where one of them forgets ids or an edge remembers for long.
pub(crate) async fn open_taken(client: &Client, replicas: usize) -> Result<(), StreamError> {
    open(client.clone(), taken(), replicas).await.map(drop)
}

/// Creates a stream on so many nodes, or brings an existing one to this configuration.
/// Waits a little for JetStream to come up.
pub(super) async fn open(
    client: Client,
    config: Config,
    replicas: usize,
) -> Result<(Context, Stream), StreamError> {
    let config = Config {
        num_replicas: replicas,
        ..config
    };
    let mut context = jetstream::new(client);
    context.set_timeout(REQUEST_LIMIT);
    let deadline = Instant::now() + OPEN_LIMIT;
    loop {
        match context.create_or_update_stream(config.clone()).await {
            Ok(_) => break,
            Err(source) if Instant::now() > deadline => {
                return Err(StreamError::Open {
                    stream: config.name,
                    mebibytes: config.max_bytes >> 20,
                    source,
                });
            }
            Err(error) => {
                tracing::debug!(%error, stream = config.name, "a stream is not there yet");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    match context.get_stream(&config.name).await {
        Ok(stream) => Ok((context, stream)),
        Err(_) => Err(StreamError::Gone {
            stream: config.name,
        }),
    }
}

/// An existing stream, as it is.
pub(super) async fn attach(client: Client, name: &str) -> Result<(Context, Stream), StreamError> {
    let mut context = jetstream::new(client);
    context.set_timeout(REQUEST_LIMIT);
    match context.get_stream(name).await {
        Ok(stream) => Ok((context, stream)),
        Err(_) => Err(StreamError::Gone {
            stream: name.to_owned(),
        }),
    }
}

/// The control stream. A full one refuses new records and drops none. Of
/// nats-server's two limits only that of records lets an existing one be
/// replaced by a larger one, so it is the one that is reached: as many
/// credentials of the largest size as it allows stay below the limit of bytes,
/// and a full stream still takes the next policy.
pub(super) fn control() -> Config {
    Config {
        description: Some(
            "Bulla: trust bundle, policy, revocations, heads, credentials, KEM records".to_owned(),
        ),
        max_messages: MAX_RECORDS,
        max_bytes: MAX_BYTES,
        max_message_size: MAX_RECORD,
        allow_message_ttl: true,
        republish: Some(Republish {
            source: reserved::CTL_ALL.to_owned(),
            destination: reserved::NEWS_ALL.to_owned(),
            headers_only: false,
        }),
        ..one_of_each(reserved::CTL_STREAM, reserved::CTL_ALL)
    }
}

/// Wrapped data keys. What lies there is never replaced; each record has its
/// own time to live.
fn keys() -> Config {
    Config {
        description: Some("Bulla: data keys, wrapped to their recipients".to_owned()),
        max_bytes: KEYS_MAX_BYTES,
        max_message_size: MAX_RECORD,
        max_age: KEYS_MAX_AGE,
        allow_message_ttl: true,
        ..written_once(reserved::KEYS_STREAM, reserved::KEYS_ALL)
    }
}

/// Claims. Each lives for as long as its message could come again, which keeps
/// their number small: nats-server holds about 400 bytes of memory for each.
fn claims() -> Config {
    Config {
        description: Some("Bulla: messages that are being handled".to_owned()),
        max_bytes: CLAIMS_MAX_BYTES,
        max_message_size: CLAIMS_MAX_RECORD,
        max_age: reserved::CLAIM_LIFE,
        allow_message_ttl: true,
        ..written_once(reserved::CLAIMS_STREAM, reserved::CLAIMS_ALL)
    }
}

/// Claims about what other streams stored. By themselves, because they may have
/// to stand for weeks: however many there are, what is sent and handled at once
/// still finds room for its claims.
fn taken() -> Config {
    Config {
        description: Some("Bulla: messages that were taken from streams".to_owned()),
        max_bytes: TAKEN_MAX_BYTES,
        max_message_size: CLAIMS_MAX_RECORD,
        max_age: reserved::TAKEN_LIFE,
        allow_message_ttl: true,
        ..written_once(reserved::TAKEN_STREAM, reserved::TAKEN_ALL)
    }
}

/// The audit log. A full one refuses what is new: who could fill it would otherwise
/// push out what is written about him. Writers count and tell what they cannot write.
fn audit(retention: AuditRetention) -> Config {
    Config {
        description: Some("Bulla: the audit log".to_owned()),
        max_bytes: i64::try_from(retention.max_bytes).unwrap_or(i64::MAX),
        max_message_size: AUDIT_MAX_RECORD,
        max_age: retention.keep,
        max_messages_per_subject: -1,
        deny_delete: true,
        deny_purge: true,
        // Brokers learn how much each writes, and nothing of what.
        republish: Some(Republish {
            source: reserved::AUDIT_ALL.to_owned(),
            destination: "$BULLA.AUDITED.{{wildcard(1)}}.{{wildcard(2)}}".to_owned(),
            headers_only: true,
        }),
        // For repetitions of what was not acknowledged.
        duplicate_window: retention.keep.min(Duration::from_secs(120)),
        ..one_of_each(reserved::AUDIT_STREAM, reserved::AUDIT_ALL)
    }
}

/// What enforcers say of themselves. It is said again every half a minute, so it
/// is kept in memory, and not for long. When it is full newcomers are not seen,
/// and whoever has a report there can still renew it.
fn status() -> Config {
    Config {
        description: Some("Bulla: which policy each enforcer runs".to_owned()),
        storage: StorageType::Memory,
        max_messages: MAX_REPORTS,
        max_bytes: STATUS_MAX_BYTES,
        max_message_size: STATUS_MAX_RECORD,
        max_age: STATUS_LIFE,
        duplicate_window: Duration::from_millis(100),
        ..one_of_each(reserved::STATUS_STREAM, reserved::STATUS_ALL)
    }
}

/// Policies by revision. The oldest leave when there are too many.
fn history() -> Config {
    Config {
        description: Some("Bulla: the policies that were in force".to_owned()),
        discard: DiscardPolicy::Old,
        max_messages: MAX_REVISIONS,
        max_bytes: HISTORY_MAX_BYTES,
        max_message_size: MAX_RECORD,
        deny_delete: true,
        deny_purge: true,
        duplicate_window: Duration::from_millis(100),
        ..one_of_each(reserved::HISTORY_STREAM, reserved::HISTORY_ALL)
    }
}

/// The first record under a subject stands until its time is over.
fn written_once(name: &str, subjects: &str) -> Config {
    Config {
        discard_new_per_subject: true,
        deny_delete: true,
        deny_purge: true,
        // Ids of messages mean nothing here; remembering them costs memory.
        duplicate_window: Duration::from_millis(100),
        ..one_of_each(name, subjects)
    }
}

fn one_of_each(name: &str, subjects: &str) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages_per_subject: 1,
        allow_direct: true,
        // One write could otherwise remove every record.
        allow_rollup: false,
        ..Config::default()
    }
}

/// What failed on a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// JetStream is off, or the stream cannot have our configuration.
    #[error(
        "cannot create the stream `{stream}`: is JetStream on in the account of the broker's nkey, with {mebibytes} MiB of file storage for it?"
    )]
    Open {
        /// Its name.
        stream: String,
        /// What it reserves.
        mebibytes: i64,
        /// What nats-server says.
        source: CreateStreamError,
    },
    /// It was there a moment ago.
    #[error("the stream `{stream}` is gone")]
    Gone {
        /// Its name.
        stream: String,
    },
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

/// A policy may be large, and so may the wraps for many recipients;
/// nats-server's default message size is 1 MiB.
const MAX_RECORD: i32 = 1024 * 1024;

/// Bundle, policy and the credentials that have not expired.
const MAX_RECORDS: i64 = 200_000;

/// nats-server reserves this much of its file storage.
const MAX_BYTES: i64 = 2 * 1024 * 1024 * 1024;

/// Subject, headers, signatures around the claims and nats-server's own.
const RECORD_OVERHEAD: i64 = 1024;

const _: () = assert!(
    MAX_RECORDS * (MAX_CREDENTIAL as i64 + RECORD_OVERHEAD) + 4 * MAX_RECORD as i64 <= MAX_BYTES
);

/// A wrap takes 1.2 KB: about 800,000 of them.
const KEYS_MAX_BYTES: i64 = 1024 * 1024 * 1024;

/// The end of records that were given no life of their own.
const KEYS_MAX_AGE: Duration = Duration::from_secs(32 * 24 * 60 * 60);

/// A claim takes about 150 bytes: 3.5 million at once, or 100,000 a second where
/// messages live for 30 s.
const CLAIMS_MAX_BYTES: i64 = 512 * 1024 * 1024;

/// 3.5 million claims.
const TAKEN_MAX_BYTES: i64 = 512 * 1024 * 1024;

/// A stream's name of the largest size, and a sequence.
const CLAIMS_MAX_RECORD: i32 = 512;

/// Several entries in one message.
const AUDIT_MAX_RECORD: i32 = 256 * 1024;

/// Enforcers whose reports are kept at the same time.
const MAX_REPORTS: i64 = 65_536;

/// A report and what nats-server adds.
const STATUS_MAX_RECORD: i32 = 1024;

const STATUS_MAX_BYTES: i64 = 128 * 1024 * 1024;

/// An enforcer that has said nothing for so long is forgotten.
const STATUS_LIFE: Duration = Duration::from_secs(10 * 60);

/// Revisions with their texts.
const MAX_REVISIONS: i64 = 1_000;

const HISTORY_MAX_BYTES: i64 = 256 * 1024 * 1024;

const OPEN_LIMIT: Duration = Duration::from_secs(10);

const REQUEST_LIMIT: Duration = Duration::from_secs(5);
