//! The duty to answer for a delivery.

use std::sync::Arc;
use std::time::Duration;

use bulla_identity::UnixMillis;
use bytes::Bytes;
use serde_json::json;

use super::delivery::Delivered;
use crate::error::LinkError;
use crate::shared::Shared;
use crate::stats::Stats;
use crate::telemetry::Settled;

/// How long the stream may take to confirm an answer.
const CONFIRM: Duration = Duration::from_secs(5);

/// Answers for one delivery of one message.
#[derive(Clone)]
pub struct Receipt {
    shared: Arc<Shared>,
    reply: String,
    delivered: Delivered,
}

impl Receipt {
    pub(super) fn new(shared: &Arc<Shared>, reply: String, delivered: Delivered) -> Self {
        Self {
            shared: Arc::clone(shared),
            reply,
            delivered,
        }
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    pub(super) fn delivered(&self) -> &Delivered {
        &self.delivered
    }

    /// The message's number in its stream.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.delivered.sequence
    }

    /// How often the message was delivered, this time included.
    #[must_use]
    pub fn times_delivered(&self) -> u64 {
        self.delivered.times
    }

    /// When the stream stored the message, by nats-server's clock.
    #[must_use]
    pub fn stored_at(&self) -> UnixMillis {
        self.delivered.stored_at
    }

    /// How many messages wait behind it.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.delivered.pending
    }

    /// It is done. Returns when the stream has taken note, so that it does not
    /// come again.
    ///
    /// # Errors
    /// [`LinkError`]; the message may then come again.
    pub async fn ack(&self) -> Result<(), LinkError> {
        let body = Bytes::from_static(b"+ACK");
        let asked = self
            .shared
            .connection
            .ask(self.reply.clone(), body, CONFIRM);
        asked.await?;
        self.record(Settled::Done);
        Ok(())
    }

    /// It is not done: it comes again, at once or after `delay`.
    ///
    /// # Errors
    /// [`LinkError::Disconnected`].
    pub async fn nak(&self, delay: Option<Duration>) -> Result<(), LinkError> {
        let body = match delay {
            None => "-NAK".to_owned(),
            Some(delay) => {
                let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
                format!("-NAK {}", json!({ "delay": nanos }))
            }
        };
        self.tell(body).await?;
        self.record(Settled::Again);
        Ok(())
    }

    /// It will never be done: it does not come again. `reason` is for whoever
    /// watches the stream, and must hold no secret.
    ///
    /// # Errors
    /// [`LinkError::Disconnected`].
    pub async fn term(&self, reason: &str) -> Result<(), LinkError> {
        self.end(reason, Settled::Never).await
    }

    /// The same, for this reason in the numbers.
    pub(super) async fn end(&self, reason: &str, how: Settled) -> Result<(), LinkError> {
        self.tell(format!("+TERM {reason}")).await?;
        self.record(how);
        Ok(())
    }

    pub(super) fn record(&self, how: Settled) {
        if let Some(recorder) = &self.shared.options.recorder {
            let Delivered {
                stream, consumer, ..
            } = &self.delivered;
            recorder.0.settled(stream, consumer, how);
        }
    }

    /// A worker's handler is through with it.
    pub(super) fn record_work(&self, outcome: &'static str, took: Duration) {
        if let Some(recorder) = &self.shared.options.recorder {
            let Delivered {
                stream, consumer, ..
            } = &self.delivered;
            recorder.0.worked(stream, consumer, outcome, took);
        }
    }

    /// It is being worked on: the time to answer begins anew.
    ///
    /// # Errors
    /// [`LinkError::Disconnected`].
    pub async fn in_progress(&self) -> Result<(), LinkError> {
        self.tell("+WPI".to_owned()).await
    }

    async fn tell(&self, body: String) -> Result<(), LinkError> {
        self.shared
            .connection
            .link()
            .publish(self.reply.clone(), body.into())
            .await
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipt")
            .field("stream", &self.delivered.stream)
            .field("sequence", &self.delivered.sequence)
            .field("times_delivered", &self.delivered.times)
            .finish_non_exhaustive()
    }
}
