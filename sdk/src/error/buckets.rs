//! What goes wrong with buckets.

use std::time::Duration;

use bulla_policy::Denial;

use super::{LinkError, SendError, ServiceError, ServiceErrorCode, humantime};
use crate::bucket::Revision;
use crate::control::Standing;
use crate::decision_log::DecisionId;

/// Why a key was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// The policy has no such bucket.
    #[error("the policy declares no bucket `{bucket}`")]
    NotDeclared {
        /// The bucket.
        bucket: String,
    },
    /// Not a key, or not a pattern of keys.
    #[error(
        "`{key}` is no key of a bucket: its tokens are of A-Z, a-z, 0-9, `-`, `_`, `/` and `=`, with `.` between them"
    )]
    Key {
        /// What was given.
        key: String,
    },
    /// The policy does not let this workload read it.
    #[error("the policy denies it ({id}): {denial}")]
    Denied {
        /// The full reason.
        denial: Box<Denial>,
        /// Its name in the decision log.
        id: DecisionId,
    },
    /// It was not written: it is wrong, or the policy does not let this workload
    /// write it for this user.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The content type that means that a key is deleted, with a value.
    #[error("the content type of a value is not the one that says that a key is deleted")]
    Reserved,
    /// Something lies under the key that does not pass the checks. It is counted
    /// under this reason, and told in the decision log.
    #[error("what lies under `{key}` at {revision} is not believed: {reason}")]
    Refused {
        /// Bucket and key.
        key: String,
        /// Under which number it lies there.
        revision: Revision,
        /// The stable code of the reason.
        reason: &'static str,
        /// Older than what was read before.
        #[doc(hidden)]
        is_older: bool,
    },
    /// Another revision is the newest than the write expects: read it, and decide
    /// anew.
    #[error("`{key}` was written by somebody else meanwhile")]
    Conflict {
        /// Bucket and key.
        key: String,
    },
    /// The bucket did not take it, for example because it is full.
    #[error("the bucket did not take `{key}`: {reason} ({code})")]
    NotStored {
        /// Bucket and key.
        key: String,
        /// JetStream's number for the reason.
        code: u64,
        /// JetStream's words for it.
        reason: String,
    },
    /// No word from the bucket in time: it may have been written.
    #[error(
        "no word from the bucket about `{key}` within {}: it may have been written", humantime(*after)
    )]
    Unconfirmed {
        /// Bucket and key.
        key: String,
        /// How long was waited.
        after: Duration,
    },
    /// Nobody answers for the bucket: brokers have not made it or do not serve it,
    /// or nats-server does not permit it.
    #[error(
        "nobody serves the bucket `{bucket}`: brokers make it, and log why they do not serve it"
    )]
    NotServed {
        /// The bucket.
        bucket: String,
    },
    /// More entries than one call holds.
    #[error("the bucket has more than {limit} entries there")]
    TooMany {
        /// The most.
        limit: usize,
    },
    /// What answered is no bucket.
    #[error("what answers for the bucket `{bucket}` is no JetStream")]
    Malformed {
        /// The bucket.
        bucket: String,
    },
    /// Nothing is read at the moment: nobody has confirmed lately that what this
    /// process holds is the newest, or it is revoked.
    #[error("nothing is read: {0}")]
    Standing(#[from] Standing),
    /// No answer.
    #[error("cannot reach the bucket")]
    Link(#[from] LinkError),
}

impl BucketError {
    /// A short stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotDeclared { .. } => "bucket_not_declared",
            Self::Key { .. } => "bucket_key",
            Self::Denied { denial, .. } => denial.reason().code(),
            Self::Send(SendError::Denied { denial, .. }) => denial.reason().code(),
            Self::Send(_) => "not_sent",
            Self::Reserved => "content_type_reserved",
            Self::Refused { reason, .. } => reason,
            Self::Conflict { .. } => "bucket_conflict",
            Self::NotStored { .. } => "bucket_not_stored",
            Self::Unconfirmed { .. } => "bucket_unconfirmed",
            Self::NotServed { .. } => "bucket_not_served",
            Self::TooMany { .. } => "bucket_too_many",
            Self::Malformed { .. } => "bucket_malformed",
            Self::Standing(standing) => standing.code(),
            Self::Link(_) => "bucket_unreachable",
        }
    }

    pub(crate) const fn is_older(&self) -> bool {
        matches!(self, Self::Refused { is_older: true, .. })
    }
}

/// What a handler's caller learns of it: that somebody was faster, that the user may
/// not, or that a dependency is missing. Nothing of the inner error travels outward.
impl From<BucketError> for ServiceError {
    fn from(error: BucketError) -> Self {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a bucket inside a handler failed"
        );
        match error {
            BucketError::Conflict { .. } => Self::new(
                ServiceErrorCode::Conflict,
                "it was changed by somebody else meanwhile",
            ),
            BucketError::Send(SendError::Denied { .. }) => {
                Self::new(ServiceErrorCode::Forbidden, "this may not be written")
            }
            _ => Self::new(ServiceErrorCode::Unavailable, "a value could not be had"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handlers_caller_learns_the_kind_and_nothing_else() {
        let key = || "carts.secret".to_owned();
        for (error, code) in [
            (
                BucketError::Conflict { key: key() },
                ServiceErrorCode::Conflict,
            ),
            (
                BucketError::Key { key: key() },
                ServiceErrorCode::Unavailable,
            ),
            (
                BucketError::Link(LinkError::Timeout),
                ServiceErrorCode::Unavailable,
            ),
        ] {
            let told = ServiceError::from(error);
            assert_eq!(told.code(), code);
            assert!(!told.to_string().contains("secret"), "{told}");
        }
    }
}
