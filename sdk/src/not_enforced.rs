//! What a policy may ask for and this version does not enforce yet.
//!
//! Sender and receiver refuse a message on such a subject, each with this
//! reason: a demand that is ignored would be a promise that nobody keeps.
//! Whoever builds one of these removes its line here.

use bulla_policy::{Batch, Requirements};

/// A demand that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotEnforced {
    #[error("batch = \"per-subject\"")]
    SeparateBatches,
}

impl NotEnforced {
    /// The first demand of a subject that this version does not enforce.
    pub(crate) fn check(requirements: &Requirements) -> Result<(), Self> {
        match requirements.batch {
            Batch::PerSubject => Err(Self::SeparateBatches),
            Batch::Shared => Ok(()),
        }
    }

    /// A short stable name for metrics and tests.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::SeparateBatches => "separate_batches_unsupported",
        }
    }
}
