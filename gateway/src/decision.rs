//! The decision log: one event for each decision, never with a token or a payload.

use std::fmt;

/// The `tracing` target of decision events.
const TARGET: &str = "bulla::decision";

/// The random name of one decision: it travels in the error that the client sees,
/// so that an operator finds the reason.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DecisionId(String);

impl DecisionId {
    pub(crate) fn random() -> Self {
        let mut bytes = [0; 8];
        // An id that is not random is still an id; nothing is secured by it.
        let _ = getrandom::fill(&mut bytes);
        Self(data_encoding::HEXLOWER.encode(&bytes))
    }

    /// An id that the bus gave.
    pub(crate) fn of_bus(id: String) -> Self {
        Self(id)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who wanted what.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attempt<'a> {
    pub(crate) workload: &'a str,
    pub(crate) verb: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) user: &'a str,
    /// The route.
    pub(crate) rule: &'a str,
}

pub(crate) fn allow(attempt: Attempt<'_>, id: &DecisionId) {
    tracing::info!(
        target: TARGET,
        enforcer = "gateway",
        decision = "allow",
        workload = attempt.workload,
        verb = attempt.verb,
        subject = attempt.subject,
        user = attempt.user,
        rule = attempt.rule,
        reason = "",
        id = id.as_str(),
    );
}

pub(crate) fn deny(attempt: Attempt<'_>, reason: &str, id: &DecisionId) {
    tracing::warn!(
        target: TARGET,
        enforcer = "gateway",
        decision = "deny",
        workload = attempt.workload,
        verb = attempt.verb,
        subject = attempt.subject,
        user = attempt.user,
        rule = attempt.rule,
        reason,
        id = id.as_str(),
    );
}
