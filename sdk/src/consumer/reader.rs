//! Reading a stream by number: what it stored after a message that was seen.
//!
//! A consumer hands each message to one process and remembers how far it is; a reader
//! hands messages to whoever asks, from wherever he was, and remembers nothing. So many
//! readers with places of their own need no consumer each. It has the same rights, and
//! opens messages by the same checks: whoever may consume a stream may read all of it.

use std::sync::Arc;

use async_nats::StatusCode;
use bulla_identity::{SubjectPattern, reserved};
use bulla_process::SingleFlight;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::delivery::Delivered;
use super::open::{Outcome, PATIENCE};
use super::{ANSWER, Consumer, PAUSE, may_consume};
use crate::connection::header_of;
use crate::error::{ConsumeError, LinkError};
use crate::jetstream::Place;
use crate::message::Message;
use crate::shared::Shared;

/// A message at its place in a stream.
#[derive(Debug)]
pub struct Stored {
    sequence: u64,
    message: Option<Message<Bytes>>,
}

impl Stored {
    /// Its number in the stream.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The message; none if it did not pass the checks, which is counted and logged.
    #[must_use]
    pub fn into_message(self) -> Option<Message<Bytes>> {
        self.message
    }
}

/// Reads a stream by number; made by [`Client::read_stream`](crate::Client::read_stream).
#[derive(Debug)]
pub struct StreamReader {
    consumer: Consumer,
    /// Looks at the settings. Locked for long only by a task of its own.
    looker: Arc<Mutex<Consumer>>,
    /// Who asks while they are due to be looked at waits for it, and for nobody who
    /// asked before.
    looks: SingleFlight<(), Result<(), ConsumeError>>,
}

impl StreamReader {
    pub(crate) async fn bind(
        shared: &Arc<Shared>,
        stream: &str,
        consumer: &str,
    ) -> Result<Self, ConsumeError> {
        let reader = Self {
            consumer: Consumer::bind(shared, stream, consumer).await?,
            looker: Arc::new(Mutex::new(Consumer::bind(shared, stream, consumer).await?)),
            looks: SingleFlight::default(),
        };
        reader.look().await?;
        // Nobody answers for a stream that was made without direct gets.
        match reader.ask(&json!({ "seq": 1, "next_by_subj": ">" })).await {
            Err(ConsumeError::Link(LinkError::NoResponders)) => Err(ConsumeError::NotReadable {
                stream: stream.to_owned(),
            }),
            Err(other) => Err(other),
            Ok(_) => Ok(reader),
        }
    }

    /// The stream's name.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.consumer.stream()
    }

    /// The first message on `pattern` that the stream stored after its `after`th one;
    /// nothing if there is none yet.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ConsumeError`]; one of [`ConsumeError::Link`] may be over the next time.
    pub async fn after(
        &self,
        pattern: &SubjectPattern,
        after: u64,
    ) -> Result<Option<Stored>, ConsumeError> {
        let consumer = &self.consumer;
        may_consume(&consumer.shared, &consumer.stream, &consumer.name)?;
        self.look().await?;
        let question = json!({
            "seq": after.saturating_add(1),
            "next_by_subj": pattern.as_str(),
        });
        let Some(answer) = self.ask(&question).await? else {
            return Ok(None);
        };
        let place = self.place(&answer)?;
        if place.sequence <= after {
            return Err(self.malformed());
        }
        let sequence = place.sequence;
        let mut raw = answer;
        raw.subject = place.subject.into();
        // What something may heal is looked at again, and then passed by: others wait
        // behind it. An outage lasts until it is over.
        for times in [1, PATIENCE] {
            let delivered = Delivered {
                stream: consumer.stream.clone(),
                consumer: consumer.name.clone(),
                times,
                sequence,
                stored_at: place.stored_at,
                pending: 0,
            };
            match consumer.open(raw.clone(), &delivered).await {
                Outcome::Message(message) => {
                    consumer.shared.stats.count_delivered();
                    return Ok(Some(Stored {
                        sequence,
                        message: Some(message),
                    }));
                }
                Outcome::Refused { again: None, .. } => {
                    return Ok(Some(Stored {
                        sequence,
                        message: None,
                    }));
                }
                Outcome::Refused { again: Some(_), .. } => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(LinkError::Timeout.into())
    }

    /// The number of the last message that the stream has on `pattern`; 0 if it has none.
    ///
    /// # Errors
    /// As [`StreamReader::after`].
    pub async fn last(&self, pattern: &SubjectPattern) -> Result<u64, ConsumeError> {
        let consumer = &self.consumer;
        may_consume(&consumer.shared, &consumer.stream, &consumer.name)?;
        let question = json!({ "last_by_subj": pattern.as_str() });
        match self.ask(&question).await? {
            None => Ok(0),
            Some(answer) => self.place(&answer).map(|place| place.sequence),
        }
    }

    async fn ask(
        &self,
        question: &serde_json::Value,
    ) -> Result<Option<async_nats::Message>, ConsumeError> {
        let to = reserved::stream_direct_gets(&self.consumer.stream);
        let connection = &self.consumer.shared.connection;
        let answer = connection
            .ask(to, question.to_string().into(), ANSWER)
            .await?;
        match answer.status {
            None | Some(StatusCode::OK) => Ok(Some(answer)),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(_) => Err(self.malformed()),
        }
    }

    /// As a consumer does: what is read stands on the stream's settings.
    async fn look(&self) -> Result<(), ConsumeError> {
        let is_claimed = loop {
            // Also after a look: it may have begun before what makes another one due.
            if let Some(is_claimed) = self.looked() {
                break is_claimed;
            }
            let looker = Arc::clone(&self.looker);
            let look = || async move { look(&mut *looker.lock().await).await };
            let looked = self.looks.join((), look).await;
            // It ends without a word only when the runtime does.
            looked.unwrap_or(Err(LinkError::Disconnected.into()))?;
        };
        // What other retentions held is gone once it was taken.
        if is_claimed {
            return Err(ConsumeError::NotReadable {
                stream: self.consumer.stream.clone(),
            });
        }
        Ok(())
    }

    /// Whether the last look found a stream that forgets what was taken; nothing if the
    /// next look is due or under way.
    fn looked(&self) -> Option<bool> {
        let looker = self.looker.try_lock().ok()?;
        (!is_due(&looker)).then_some(looker.is_claimed)
    }

    fn place(&self, answer: &async_nats::Message) -> Result<Place, ConsumeError> {
        let policy = self.consumer.shared.control.policy();
        Place::of(header_of(answer))
            .filter(|place| {
                // A mirror of it answers too, with its numbers and times.
                let said = policy.policy().stream(&place.stream);
                place.stream == self.consumer.stream
                    || said.is_some_and(|s| s.mirror() == Some(&self.consumer.stream))
            })
            .ok_or_else(|| self.malformed())
    }

    fn malformed(&self) -> ConsumeError {
        ConsumeError::Malformed {
            stream: self.consumer.stream.clone(),
        }
    }
}

fn is_due(looker: &Consumer) -> bool {
    looker.disturbances.has_changed().unwrap_or(true) || Instant::now() >= looker.look_at
}

/// Looks, if nobody just did.
async fn look(looker: &mut Consumer) -> Result<(), ConsumeError> {
    if is_due(looker) {
        // What comes during the look asks for another, and a look that fails or is
        // given up counts for none.
        let mut seen = looker.disturbances.clone();
        seen.mark_unchanged();
        looker.look().await?;
        looker.disturbances = seen;
    }
    Ok(())
}
