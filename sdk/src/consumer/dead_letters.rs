//! Where messages go that nobody will handle: appended to a stream of their own,
//! whole and with the reason, before the stream they came from is told to forget them.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Receipt;
use crate::error::AppendError;
use crate::outgoing::Outgoing;
use crate::shared::Shared;
use std::sync::Arc;

/// A message that was given up, as it is appended to the subject that
/// [`Consumer::dead_letters`](super::Consumer::dead_letters) names.
///
/// # Security
/// `envelope` is what the stream had, sealed: a body that was encrypted still is. What
/// was not, a user's token for example, can be read by whoever may consume the dead
/// letters, so give their subject the protection of what may end there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The stream that it came from, and its number there.
    pub stream: String,
    /// Its number in that stream.
    pub sequence: u64,
    /// By which consumer it was given up.
    pub consumer: String,
    /// What it was appended to.
    pub subject: String,
    /// The stable code of the reason: of a check that it did not pass, as in
    /// [`Stats::refused`](crate::Stats::refused), or of the handler's error.
    pub reason: String,
    /// What the handler's error says; empty for a check.
    pub message: String,
    /// How often it was delivered.
    pub times_delivered: u64,
    /// The envelope as the stream had it.
    #[serde(with = "serde_bytes")]
    pub envelope: Vec<u8>,
}

/// Shows where it came from and why, never what it is.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("stream", &self.stream)
            .field("sequence", &self.sequence)
            .field("consumer", &self.consumer)
            .field("subject", &self.subject)
            .field("reason", &self.reason)
            .field("times_delivered", &self.times_delivered)
            .finish_non_exhaustive()
    }
}

/// A message as it came, as long as it may have to be buried.
#[derive(Clone)]
pub(super) struct Remains {
    pub(super) subject: async_nats::Subject,
    pub(super) envelope: Bytes,
}

/// Why it is given up.
pub(super) struct Cause<'a> {
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
}

/// The subject that dead letters are appended to.
#[derive(Clone)]
pub(super) struct DeadLetters {
    shared: Arc<Shared>,
    to: Arc<str>,
}

impl DeadLetters {
    pub(super) fn new(shared: &Arc<Shared>, to: &str) -> Self {
        Self {
            shared: Arc::clone(shared),
            to: to.into(),
        }
    }

    /// Returns when its stream has it.
    pub(super) async fn bury(
        &self,
        remains: &Remains,
        receipt: &Receipt,
        cause: &Cause<'_>,
    ) -> Result<(), AppendError> {
        let delivered = receipt.delivered();
        let letter = DeadLetter {
            stream: delivered.stream.clone(),
            sequence: delivered.sequence,
            consumer: delivered.consumer.clone(),
            subject: remains.subject.to_string(),
            reason: cause.reason.to_owned(),
            message: cause.message.to_owned(),
            times_delivered: delivered.times,
            envelope: remains.envelope.to_vec(),
        };
        let message = Outgoing::new(&self.shared, &self.to).payload(&letter);
        message.without_user().append().await.map(drop)
    }
}
