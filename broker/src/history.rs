//! Keeps each policy that was in force, so that an operator can look at it and
//! bring it back.

use std::sync::atomic::{AtomicU64, Ordering};

use bulla_identity::reserved;

use crate::control::ControlStream;
use crate::trust::HeldPolicy;

/// Writes to the history. Several brokers do; the first one counts.
#[derive(Debug)]
pub(crate) struct History {
    stream: ControlStream,
    /// The newest revision that is there for certain.
    kept: AtomicU64,
}

impl History {
    pub(crate) const fn new(stream: ControlStream) -> Self {
        Self {
            stream,
            kept: AtomicU64::new(0),
        }
    }

    /// Keeps this policy, unless it is kept. What fails is tried again with the
    /// next look.
    pub(crate) async fn keep(&self, policy: &HeldPolicy) {
        let revision = policy.signed.revision;
        if self.kept.load(Ordering::Relaxed) >= revision {
            return;
        }
        let subject = reserved::policy_history(revision);
        match self.stream.keep(&subject, policy.bytes.clone()).await {
            // Somebody else was faster.
            Ok(_) => self.kept.store(revision, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, revision, "the policy is not in the history yet"),
        }
    }
}
