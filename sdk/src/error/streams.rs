//! What goes wrong with streams.

use std::time::Duration;

use bulla_policy::Denial;

use super::{LinkError, SendError, ServiceError, ServiceErrorCode, humantime};
use crate::decision_log::DecisionId;

/// Why an append failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// It did not leave.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The policy has no stream for it.
    #[error("no stream of the policy stores `{subject}`: nothing was sent")]
    NoStream {
        /// The subject.
        subject: String,
    },
    /// nats-server did not permit it.
    #[error("nats-server refused the append to `{subject}`")]
    RefusedByServer {
        /// The subject.
        subject: String,
    },
    /// The stream did not take it, for example because it is full.
    #[error("the stream did not take the message to `{subject}`: {reason} ({code})")]
    Refused {
        /// The subject.
        subject: String,
        /// JetStream's number for the reason.
        code: u64,
        /// JetStream's words for it.
        reason: String,
    },
    /// No word from the stream in time: it may have been stored. With a stream
    /// that nobody has made, or whose subjects nats-server's configuration does
    /// not let pass, every append ends so.
    #[error(
        "no word from the stream about the message to `{subject}` within {}: it may have been stored", humantime(*after)
    )]
    Unconfirmed {
        /// The subject.
        subject: String,
        /// How long was waited.
        after: Duration,
    },
    /// The stream had a message of this id before the first attempt: somebody
    /// took the id, and this message is *not* stored. Where the application
    /// chose the id itself, it may have been an earlier attempt of its own.
    #[error(
        "the id of the message to `{subject}` was taken before it: it is not stored (`{stream}` has the other at {sequence})"
    )]
    IdTaken {
        /// The subject.
        subject: String,
        /// The stream.
        stream: String,
        /// Where the other message lies.
        sequence: u64,
    },
    /// Another stream took it than the policy says.
    #[error("`{subject}` was stored by `{stream}`; the policy says `{expected}`")]
    WrongStream {
        /// The subject.
        subject: String,
        /// The stream that answered.
        stream: String,
        /// The policy's.
        expected: String,
    },
    /// Something answered that is no stream.
    #[error("what answered the append to `{subject}` is no stream")]
    Malformed {
        /// The subject.
        subject: String,
    },
}

/// What a handler's caller learns of it: a dependency is missing.
impl From<AppendError> for ServiceError {
    fn from(error: AppendError) -> Self {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "an append inside a handler failed"
        );
        Self::new(
            ServiceErrorCode::Unavailable,
            "an event could not be stored",
        )
    }
}

/// Why nothing can be consumed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// Not the name of a consumer.
    #[error("`{name}` is no consumer of a stream")]
    Name {
        /// What was given.
        name: String,
    },
    /// The policy does not let this workload consume there, or not any more.
    #[error("the policy denies it ({id}): {denial}")]
    Denied {
        /// The full reason.
        denial: Box<Denial>,
        /// Its name in the decision log.
        id: DecisionId,
    },
    /// The policy has no such stream.
    #[error("the policy declares no stream `{stream}`")]
    NotDeclared {
        /// The stream.
        stream: String,
    },
    /// Nothing can be read by its number: the stream forgets what was taken, or was made
    /// without direct gets.
    #[error(
        "`{stream}` cannot be read by number: it forgets what was taken, or `allow_direct` is off"
    )]
    NotReadable {
        /// The stream.
        stream: String,
    },
    /// The stream or the consumer is not there.
    #[error(
        "there is no consumer `{consumer}` on a stream `{stream}`: brokers make those that the policy grants"
    )]
    Gone {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
    },
    /// A setting of the stream or the consumer does not keep what the messages'
    /// replay rule stands on. The consumer has stopped and stays stopped.
    #[error("`{consumer}` stops, because its stream `{stream}` is not what its messages need")]
    Misconfigured {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
        /// The setting.
        #[source]
        fault: crate::SettingFault,
    },
    /// What answers for the stream is no JetStream.
    #[error("what answers for the stream `{stream}` is no JetStream")]
    Malformed {
        /// The stream.
        stream: String,
    },
    /// No answer, or no permission of nats-server's.
    #[error("cannot reach the stream")]
    Link(#[from] LinkError),
}
