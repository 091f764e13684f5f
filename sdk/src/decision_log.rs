//! One structured event for every decision of this process.
//!
//! Target `bulla::decision`; allowed at INFO, denied at WARN. Fields never hold
//! a token, a key or a payload.

use std::fmt;

use tracing::{info, warn};

/// The `tracing` target of decision events.
pub const TARGET: &str = "bulla::decision";

pub(crate) use bulla_envelope::DecisionId;

/// The random name of one decision, which the caller's error carries so that
/// an operator can find the full reason in the log.
pub(crate) fn fresh_id() -> DecisionId {
    DecisionId(rand::random())
}

/// Who decided, about whom and what.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) enforcer: &'static str,
    pub(crate) workload: &'a str,
    pub(crate) verb: &'static str,
    pub(crate) subject: &'a str,
    pub(crate) user: Option<&'a str>,
}

pub(crate) fn allow(what: Subject<'_>, rule: &str) {
    // The id is made only where somebody listens: this is the hot path.
    if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
        return;
    }
    info!(
        target: TARGET,
        enforcer = what.enforcer,
        decision = "allow",
        workload = what.workload,
        verb = what.verb,
        subject = what.subject,
        user = what.user.unwrap_or_default(),
        rule,
        reason = "",
        id = %fresh_id(),
    );
}

pub(crate) fn deny(what: Subject<'_>, rule: &str, reason: &dyn fmt::Display) -> DecisionId {
    let id = fresh_id();
    warn!(
        target: TARGET,
        enforcer = what.enforcer,
        decision = "deny",
        workload = what.workload,
        verb = what.verb,
        subject = what.subject,
        user = what.user.unwrap_or_default(),
        rule,
        reason = %reason,
        %id,
    );
    id
}
