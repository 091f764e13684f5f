//! The broker's decisions: told as everybody's are, to its log and to the audit log,
//! and counted.

use std::net::IpAddr;

use bulla_sdk::DecisionId;
use bulla_sdk::audit::AuditLog;
use bulla_sdk::decision_log::{Attempt, DecisionLog};

use crate::metrics::Metrics;
use crate::spans;

pub(crate) use bulla_sdk::decision_log::TARGET;

/// Where the decisions of one enforcer are told and counted.
#[derive(Clone, Debug)]
pub(crate) struct Decisions {
    log: DecisionLog,
    metrics: Metrics,
}

impl Decisions {
    /// Those of this enforcer.
    pub(crate) fn new(enforcer: &'static str, audit: AuditLog, metrics: Metrics) -> Self {
        Self {
            log: DecisionLog::new(enforcer, audit),
            metrics,
        }
    }

    /// Told to the process's log alone.
    pub(crate) fn untold(enforcer: &'static str) -> Self {
        Self::new(enforcer, AuditLog::off(), Metrics::new())
    }

    /// The audit log.
    pub(crate) const fn audit(&self) -> &AuditLog {
        self.log.audit()
    }
}

/// What was decided about whom. Never holds a token, key or payload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Decision<'a> {
    /// The workload's short name, or nothing.
    pub(crate) workload: &'a str,
    /// What it wanted: `connect`, `credential`, `kem`, `exchange`.
    pub(crate) verb: &'static str,
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
    pub(crate) fn allow(&self, decisions: &Decisions) {
        decisions.metrics.decided(self.verb, None);
        spans::decided(self, None);
        let id = DecisionId(self.id);
        decisions.log.allow_recorded(self.attempt(), id);
    }

    /// A refusal: the reason's stable code, and the reason for people.
    pub(crate) fn deny(&self, decisions: &Decisions, code: &'static str, reason: &str) {
        decisions.metrics.decided(self.verb, Some(code));
        spans::decided(self, Some(code));
        let id = DecisionId(self.id);
        decisions.log.deny(self.attempt(), code, &reason, id);
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
