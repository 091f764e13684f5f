//! The broker's decisions: told as everybody's are, to its log and to the audit log.

use std::net::IpAddr;

use bulla_sdk::DecisionId;
use bulla_sdk::decision_log::{Attempt, DecisionLog};

pub(crate) use bulla_sdk::decision_log::TARGET;

/// What was decided about whom. Never holds a token, key or payload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Decision<'a> {
    /// The workload's short name, or nothing.
    pub(crate) workload: &'a str,
    /// What it wanted: `connect`, `credential`, `kem`, `exchange`.
    pub(crate) verb: &'a str,
    /// On what.
    pub(crate) subject: &'a str,
    /// Names the decision in the log and towards the caller.
    pub(crate) id: [u8; 16],
    /// The policy's revision, or 0.
    pub(crate) revision: u64,
    /// From where the client connects.
    pub(crate) client: Option<IpAddr>,
}

impl Decision<'_> {
    /// Every allow of a broker is recorded: there is one for each connection and
    /// credential, not for each message.
    pub(crate) fn allow(&self, log: &DecisionLog) {
        log.allow_recorded(self.attempt(), DecisionId(self.id));
    }

    pub(crate) fn deny(&self, log: &DecisionLog, code: &str, reason: &str) {
        log.deny(self.attempt(), code, &reason, DecisionId(self.id));
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            workload: self.workload,
            verb: self.verb,
            subject: self.subject,
            user: "",
            rule: "",
            revision: self.revision,
            client: self.client,
            would: None,
        }
    }
}
