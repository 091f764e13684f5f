//! Records what is not enforced would have decided: rules in shadow, and the
//! policy on trial.
//!
//! One event for each decision that would be another one, beside the decision's
//! own, and two counters. Fields never hold a token, a key or a payload.

use bulla_policy::{Denial, Permit, Would};
use tracing::info;

use crate::decision_log::{self, TARGET};
use crate::stats::Stats;
use crate::user::User;

/// An allowed decision. Costs nothing where all agree.
pub(crate) fn allowed<'a>(
    stats: &Stats,
    permit: &Permit,
    what: impl FnOnce() -> decision_log::Subject<'a>,
) {
    if let Some(would) = permit.would() {
        tell(stats, &what(), "allow", permit.rule(), would);
    }
}

/// A denied decision.
pub(crate) fn denied(stats: &Stats, denial: &Denial, what: &decision_log::Subject<'_>) {
    if let Some(would) = denial.would() {
        tell(
            stats,
            what,
            "deny",
            denial.rule().unwrap_or_default(),
            would,
        );
    }
}

fn tell(
    stats: &Stats,
    what: &decision_log::Subject<'_>,
    decision: &str,
    rule: &str,
    would: &Would,
) {
    stats.count_would(would.is_allow());
    let (would_be, reason) = if would.is_allow() {
        ("allow", "")
    } else {
        ("deny", would.reason().map_or("", |reason| reason.code()))
    };
    info!(
        target: TARGET,
        enforcer = what.enforcer,
        decision,
        would = would_be,
        workload = what.workload,
        verb = what.verb,
        subject = what.subject,
        user = what.user.map_or("", User::principal),
        rule,
        would_rule = would.rule().unwrap_or_default(),
        reason,
        id = "",
    );
}
