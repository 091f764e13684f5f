//! The decision log: one event for each decision, in one shape everywhere.

use data_encoding::HEXLOWER;

/// What was decided about whom. Never holds a token, key or payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision<'a> {
    /// The workload's short name, or nothing.
    pub(crate) workload: &'a str,
    /// What it wanted: `connect`, `credential`.
    pub(crate) verb: &'a str,
    /// On what.
    pub(crate) subject: &'a str,
    /// Names the decision in the log and towards the caller.
    pub(crate) id: [u8; 16],
}

impl Decision<'_> {
    pub(crate) fn allow(&self, enforcer: &str) {
        tracing::info!(
            target: TARGET,
            enforcer,
            decision = "allow",
            workload = self.workload,
            verb = self.verb,
            subject = self.subject,
            user = "",
            rule = "",
            reason = "",
            id = HEXLOWER.encode(&self.id),
        );
    }

    pub(crate) fn deny(&self, enforcer: &str, reason: &str) {
        tracing::warn!(
            target: TARGET,
            enforcer,
            decision = "deny",
            workload = self.workload,
            verb = self.verb,
            subject = self.subject,
            user = "",
            rule = "",
            reason,
            id = HEXLOWER.encode(&self.id),
        );
    }
}

/// The tracing target of every decision.
pub(crate) const TARGET: &str = "bulla::decision";
