//! The lines of the log, from the stream or from a file.

use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use bulla_audit::{Trust, Writer};
use bulla_envelope::SignedPolicy;
use bulla_identity::{TrustDomain, UnixMillis, reserved};
use bulla_keyring::VerifyingKey;
use bulla_policy::Policy;
use data_encoding::BASE64;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{Failure, Place};
use crate::cli::operator::OperatorArgs;
use crate::clock;
use crate::trust::CLOCK_SKEW;

/// One line of the log.
pub(crate) struct Line<'a> {
    /// The bytes that were hashed, if it is an entry.
    pub(crate) text: &'a str,
    /// Under whose subject it lies; not known of a file.
    pub(crate) writer: Option<&'a Writer>,
}

/// What stands at the beginning of an exported file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) v: u64,
    pub(crate) stream: String,
    pub(crate) trust_domain: String,
    /// When it was exported.
    pub(crate) at: u64,
    /// Whether the file holds all that was ever written until then.
    pub(crate) complete: bool,
}

/// A line of an exported file that is no entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Note {
    /// What the file is.
    Export(Header),
    /// A trust bundle, base64.
    Bundle(String),
    /// The signed policy in force when it was exported, base64.
    Policy(String),
    /// What lay under the subject of a writer and is no entry of it.
    Foreign { writer: String, line: String },
}

/// Where lines come from.
pub(crate) struct Source {
    lines: Lines,
    domain: TrustDomain,
    /// Whether nothing has aged out, and nothing was asked to be left out.
    pub(crate) complete: bool,
    /// How long the stream keeps, if it is one.
    pub(crate) kept: Option<Duration>,
    roots: Vec<VerifyingKey>,
    bundles: Vec<Vec<u8>>,
    /// The policy in force: its signed record.
    policy: Option<Vec<u8>>,
}

enum Lines {
    Stream {
        stream: Box<Stream>,
        since: Option<UnixMillis>,
        /// The last message to read; without it, for ever.
        last: Option<u64>,
    },
    File(PathBuf),
}

impl Source {
    /// The stream or the file that was named. What is older than `since` may be left
    /// out already.
    pub(crate) async fn open(place: &Place, since: Option<UnixMillis>) -> Result<Self, Failure> {
        match &place.file {
            Some(path) => Ok(Self::of_file(path, &place.operator)?),
            None => Self::of_stream(&place.operator, since, false).await,
        }
    }

    /// The stream, and what is written from now on.
    pub(crate) async fn live(
        operator: &OperatorArgs,
        since: Option<UnixMillis>,
    ) -> Result<Self, Failure> {
        Self::of_stream(operator, since, true).await
    }

    async fn of_stream(
        args: &OperatorArgs,
        since: Option<UnixMillis>,
        is_live: bool,
    ) -> Result<Self, Failure> {
        let operator = args.connect().await?;
        let context = operator.jetstream();
        let gone = |_| SourceError::Stream;
        let mut stream = context
            .get_stream(reserved::AUDIT_STREAM)
            .await
            .map_err(gone)?;
        let info = stream.info().await.map_err(|_| SourceError::Stream)?;
        let (state, config) = (&info.state, &info.config);
        let (complete, kept) = (state.first_sequence <= 1, config.max_age);
        let last = (!is_live).then_some(if state.messages == 0 {
            0
        } else {
            state.last_sequence
        });
        let policy = operator.stream.last(reserved::CTL_POLICY).await;
        let policy = policy.map_err(|_| SourceError::Stream)?;
        let bundle = operator.stream.last(reserved::CTL_BUNDLE).await;
        let bundle = bundle.map_err(|_| SourceError::Stream)?;
        Ok(Self {
            lines: Lines::Stream {
                stream: Box::new(stream),
                since: since.or(is_live.then(clock::now)),
                last,
            },
            domain: operator.bundle.trust_domain.clone(),
            complete: complete && since.is_none(),
            kept: Some(kept),
            roots: args.root_keys()?,
            bundles: bundle
                .map(|record| record.payload.to_vec())
                .into_iter()
                .collect(),
            policy: policy.map(|record| record.payload.to_vec()),
        })
    }

    fn of_file(path: &Path, operator: &OperatorArgs) -> Result<Self, SourceError> {
        let read = |source| SourceError::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(read)?;
        let mut source = Self {
            lines: Lines::File(path.to_owned()),
            domain: TrustDomain::parse("unknown").map_err(|_| SourceError::Header)?,
            complete: false,
            kept: None,
            // Without a root, heads are compared with the keys in the file alone.
            roots: operator.root_keys().unwrap_or_default(),
            bundles: Vec::new(),
            policy: None,
        };
        let mut has_header = false;
        for line in BufReader::new(file).lines() {
            match note(&line.map_err(read)?) {
                Some(Note::Export(header)) if header.v == 1 && !has_header => {
                    has_header = true;
                    source.complete = header.complete;
                    source.domain = TrustDomain::parse(&header.trust_domain)
                        .map_err(|_| SourceError::Header)?;
                }
                Some(Note::Export(_)) => return Err(SourceError::Header),
                Some(Note::Bundle(text)) => source.bundles.extend(BASE64.decode(text.as_bytes())),
                Some(Note::Policy(text)) => source.policy = BASE64.decode(text.as_bytes()).ok(),
                Some(Note::Foreign { .. }) | None => {}
            }
        }
        if has_header {
            Ok(source)
        } else {
            Err(SourceError::Header)
        }
    }

    /// The trust domain that it is of.
    pub(crate) const fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// What its keys are proven by; nothing without a root.
    pub(crate) fn trust(&self) -> Option<Trust> {
        if self.roots.is_empty() {
            return None;
        }
        let mut trust = Trust::new(self.roots.clone(), self.domain.clone());
        for bundle in &self.bundles {
            // One that is not by the root proves nothing, and says nothing wrong.
            let _ = trust.add_bundle(bundle);
        }
        if let Some(policy) = self.policy() {
            trust.add_policy(policy);
        }
        Some(trust)
    }

    /// The policy in force, under the newest bundle.
    pub(crate) fn policy(&self) -> Option<Policy> {
        let record = self.policy.as_ref()?;
        let bundle = self.bundles.iter().rev().find_map(|bundle| {
            bulla_envelope::TrustBundle::open(
                bundle,
                &self.roots,
                &self.domain,
                UnixMillis::default(),
                Duration::MAX,
            )
            .ok()
        })?;
        let signed = SignedPolicy::open(record, &bundle, clock::now(), CLOCK_SKEW).ok()?;
        Policy::parse("policy.toml", &signed.text).ok()
    }

    /// The records that an export carries along.
    pub(crate) fn notes(&self) -> Vec<Note> {
        let mut notes = vec![Note::Export(Header {
            v: 1,
            stream: reserved::AUDIT_STREAM.to_owned(),
            trust_domain: self.domain.as_str().to_owned(),
            at: clock::now().as_millis(),
            complete: self.complete,
        })];
        for bundle in &self.bundles {
            notes.push(Note::Bundle(BASE64.encode(bundle)));
        }
        if let Some(policy) = &self.policy {
            notes.push(Note::Policy(BASE64.encode(policy)));
        }
        notes
    }

    /// Gives every line, in the order of the stream, until `take` says to stop.
    pub(crate) async fn each(
        &mut self,
        take: impl FnMut(&Line<'_>) -> ControlFlow<()>,
    ) -> Result<(), SourceError> {
        match &self.lines {
            Lines::File(path) => each_of_file(path, take),
            Lines::Stream {
                stream,
                since,
                last,
            } => each_of_stream(stream, *since, *last, take).await,
        }
    }
}

fn each_of_file(
    path: &Path,
    mut take: impl FnMut(&Line<'_>) -> ControlFlow<()>,
) -> Result<(), SourceError> {
    let read = |source| SourceError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(read)?;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(read)?;
        let flow = match note(&line) {
            Some(Note::Foreign { writer, line }) => {
                let writer = Writer::parse(&writer).ok();
                take(&Line {
                    text: &line,
                    writer: writer.as_ref(),
                })
            }
            Some(_) => ControlFlow::Continue(()),
            None => take(&Line {
                text: &line,
                writer: None,
            }),
        };
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

async fn each_of_stream(
    stream: &Stream,
    since: Option<UnixMillis>,
    last: Option<u64>,
    mut take: impl FnMut(&Line<'_>) -> ControlFlow<()>,
) -> Result<(), SourceError> {
    if last == Some(0) {
        return Ok(());
    }
    // An entry is stored a little after it happened, never before.
    let start = since.and_then(|since| {
        let millis = i128::from(since.as_millis());
        OffsetDateTime::from_unix_timestamp_nanos(millis.saturating_mul(1_000_000)).ok()
    });
    let deliver_policy = match start {
        Some(start_time) => DeliverPolicy::ByStartTime { start_time },
        None => DeliverPolicy::All,
    };
    let config = pull::OrderedConfig {
        deliver_policy,
        ..pull::OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await;
    let consumer = consumer.map_err(|_| SourceError::Consumer)?;
    let messages = consumer.messages().await;
    let mut messages = messages.map_err(|_| SourceError::Consumer)?;
    loop {
        let next = match last {
            // Where nothing is as new as `since`, nothing comes.
            Some(_) => match timeout(QUIET, messages.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(()),
            },
            None => messages.next().await,
        };
        let Some(message) = next else {
            return Err(SourceError::Consumer);
        };
        let message = message.map_err(|_| SourceError::Consumer)?;
        let at = message.info().map(|info| info.stream_sequence);
        let prefix = reserved::audit("");
        let writer = message
            .subject
            .strip_prefix(&prefix)
            .and_then(|name| Writer::parse(name).ok());
        let text = String::from_utf8_lossy(&message.payload);
        for text in text.split('\n') {
            let line = Line {
                text,
                writer: writer.as_ref(),
            };
            if take(&line).is_break() {
                return Ok(());
            }
        }
        if let (Some(last), Ok(at)) = (last, at)
            && at >= last
        {
            return Ok(());
        }
    }
}

/// A line that is no entry.
fn note(line: &str) -> Option<Note> {
    // Entries begin with their version.
    (!line.starts_with("{\"v\":")).then(|| serde_json::from_str(line).ok())?
}

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("it is no file of `bulla audit export`: its first line should say so")]
    Header,
    #[error("the stream `BULLA_AUDIT` cannot be looked at: does a broker run?")]
    Stream,
    #[error("the stream `BULLA_AUDIT` cannot be read as this user: may it create consumers there?")]
    Consumer,
}

/// Nothing comes for so long: there is nothing.
const QUIET: Duration = Duration::from_secs(3);
