//! Appending: an event that a stream stores, with its word for it.
//!
//! ```text
//! seal ─► publish with Nats-Msg-Id = envelope id ─► JetStream ─► stream, sequence
//!              ▲                                        │
//!              └── the same bytes, the same id ◄── no answer in time
//! ```
//!
//! The id is what makes a repetition harmless: within its window the stream
//! stores one message of an id. So on a first attempt "it is there already" can
//! only mean that somebody else took the id, and is an alarm, not a success.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use bulla_envelope::MessageId;
use bulla_policy::Verb;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock;
use crate::error::{AppendError, LinkError};
use crate::jetstream::PublishAnswer;
use crate::letter::Purpose;
use crate::outgoing::Outgoing;
use crate::shared::Shared;
use crate::telemetry;

/// The header by which JetStream knows a message again.
pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// How long one attempt waits for the stream's word.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two attempts when the answer was that nobody is there: a stream
/// whose leader changes is silent for some seconds.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a message lies now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    stream: String,
    sequence: u64,
    id: MessageId,
}

impl Appended {
    /// The stream that has it.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Its number in the stream.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its own id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }
}

/// Where the signer leaves a sealed envelope for the one who sends it.
#[derive(Default)]
pub(crate) struct Slot(Mutex<Option<Bytes>>);

impl Slot {
    pub(crate) fn put(&self, envelope: Bytes) {
        *self.0.lock() = Some(envelope);
    }

    pub(crate) fn take(&self) -> Option<Bytes> {
        self.0.lock().take()
    }
}

/// A message's id as it stands in NATS headers.
pub(crate) fn id_header(id: MessageId) -> String {
    HEXLOWER.encode(&id.0)
}

impl Outgoing<'_> {
    /// Appends it to the stream that stores its subject, and returns when the
    /// stream has it.
    ///
    /// An answer that does not come is asked for again, with the same id, until
    /// the time-out ([`Outgoing::timeout`]) or the end of the message's life.
    ///
    /// Cancel safe in that a message is stored once or not at all; whether it
    /// was is then not known.
    ///
    /// # Errors
    /// [`AppendError`]. After [`AppendError::Unconfirmed`] the message may have
    /// been stored.
    pub async fn append(self) -> Result<Appended, AppendError> {
        let (recorder, began) = (self.shared.options.recorder.as_ref(), Instant::now());
        let outcome = self.store().await;
        if let Some(recorder) = recorder {
            let what = telemetry::of_appending(&outcome);
            recorder.0.appended(what, began.elapsed());
        }
        outcome
    }

    async fn store(self) -> Result<Appended, AppendError> {
        let (shared, timeout, is_repeated) = (self.shared, self.timeout, self.is_repeated);
        let mut letter = self.address(Verb::Append).await?;
        let subject = letter.to.subject().as_str().to_owned();
        let policy = shared.control.policy();
        let Some(stream) = policy.policy().stream_of(letter.to.subject()) else {
            return Err(AppendError::NoStream { subject });
        };
        let stream = stream.name().to_owned();
        let slot = Arc::new(Slot::default());
        letter.purpose = Purpose::Append(Arc::clone(&slot));
        let (id, until) = (letter.id(), letter.issued_at.saturating_add(letter.life));
        let under_way = UnderWay::begin(&shared.appending);
        shared
            .signer
            .post_and_tell(letter, under_way.is_crowded)
            .await?;
        let Some(envelope) = slot.take() else {
            return Err(crate::SendError::Link(LinkError::Disconnected).into());
        };
        let attempts = Attempts {
            shared,
            subject: &subject,
            stream: &stream,
            envelope,
            id,
            is_repeated,
        };
        let life = until.saturating_since(clock::now());
        let patience = timeout.min(life);
        match tokio::time::timeout(patience, attempts.run()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(AppendError::Unconfirmed {
                subject,
                after: patience,
            }),
        }
    }
}

struct Attempts<'a> {
    shared: &'a Shared,
    subject: &'a str,
    stream: &'a str,
    envelope: Bytes,
    id: MessageId,
    is_repeated: bool,
}

impl Attempts<'_> {
    async fn run(&self) -> Result<Appended, AppendError> {
        // Whether an earlier attempt may have stored it.
        let mut is_open = self.is_repeated;
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(MESSAGE_ID, id_header(self.id).as_str());
            let asked = self.shared.connection.ask_with_headers(
                self.subject.to_owned(),
                headers,
                self.envelope.clone(),
                ATTEMPT,
            );
            match asked.await {
                Ok(answer) if answer.status.is_none() => {
                    return self.read(&answer.payload, is_open);
                }
                // Nothing was stored: nobody took it.
                Ok(_) | Err(LinkError::NoResponders) => {}
                Err(LinkError::Refused) => {
                    let subject = self.subject.to_owned();
                    return Err(AppendError::RefusedByServer { subject });
                }
                Err(
                    LinkError::Timeout
                    | LinkError::Disconnected
                    | LinkError::BarrierServed
                    | LinkError::Deaf,
                ) => {
                    is_open = true;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn read(&self, answer: &[u8], is_open: bool) -> Result<Appended, AppendError> {
        let subject = || self.subject.to_owned();
        let Some(answer) = PublishAnswer::read(answer) else {
            return Err(AppendError::Malformed { subject: subject() });
        };
        if let Some(error) = answer.error {
            return Err(AppendError::Refused {
                subject: subject(),
                code: error.code,
                reason: error.description,
            });
        }
        if !answer.is_stored_in(self.stream) {
            return Err(AppendError::WrongStream {
                subject: subject(),
                stream: answer.stream,
                expected: self.stream.to_owned(),
            });
        }
        if answer.is_duplicate && !is_open {
            self.shared.stats.count_id_taken();
            tracing::error!(
                stream = self.stream,
                sequence = answer.sequence,
                id = id_header(self.id),
                "ALARM: somebody has taken the id of a message before it was appended"
            );
            return Err(AppendError::IdTaken {
                subject: subject(),
                stream: answer.stream,
                sequence: answer.sequence,
            });
        }
        Ok(Appended {
            stream: answer.stream,
            sequence: answer.sequence,
            id: self.id,
        })
    }
}

/// Counts appends that are under way, so that those that come together are
/// sealed together.
struct UnderWay<'a> {
    count: &'a AtomicUsize,
    is_crowded: bool,
}

impl<'a> UnderWay<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        let is_crowded = count.fetch_add(1, Ordering::Relaxed) > 0;
        Self { count, is_crowded }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
