//! The one place where decisions are told: to the log of the process, and to the
//! audit log.
//!
//! Target `bulla::decision`; allowed at INFO, denied at WARN. Neither ever holds a
//! token, a key or a payload. A refusal is recorded always, what is allowed by
//! sample; both carry the decision's id, which the caller's error carries too.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bulla_identity::{PatternToken, Subject as SubjectName, SubjectPattern, WorkloadName};
use bulla_policy::{DecisionRecord, Denial, Permit, RecordedUser, Verdict, Would};
use tracing::{info, warn};

pub use bulla_envelope::DecisionId;

use crate::audit::{AuditLog, Tally};
use crate::control::Control;
use crate::user::User;

/// The `tracing` target of decision events.
pub const TARGET: &str = "bulla::decision";

/// The random name of one decision, which the caller's error carries so that
/// an operator can find the full reason.
pub(crate) fn fresh_id() -> DecisionId {
    DecisionId(rand::random())
}

/// Who wanted what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempt<'a> {
    /// The workload's short name, or nothing.
    pub workload: &'a str,
    /// What it wanted.
    pub verb: &'a str,
    /// On which subject, or nothing.
    pub subject: &'a str,
    /// For whom, or nothing.
    pub user: &'a str,
    /// By which rule or route, or nothing.
    pub rule: &'a str,
    /// The policy's revision, or 0.
    pub revision: u64,
    /// From where the client connects.
    pub client: Option<IpAddr>,
    /// What would be decided if what is in shadow counted, where that differs.
    pub would: Option<Verdict>,
}

/// The decisions of an enforcer that is no client of the bus itself: the edge, the
/// broker.
#[derive(Clone)]
pub struct DecisionLog {
    enforcer: &'static str,
    audit: AuditLog,
    sampler: Arc<Tally>,
}

impl DecisionLog {
    /// Tells decisions of this enforcer to the process's log and to `audit`.
    #[must_use]
    pub fn new(enforcer: &'static str, audit: AuditLog) -> Self {
        let sampler = audit.sampler();
        Self {
            enforcer,
            audit,
            sampler,
        }
    }

    /// The audit log.
    #[must_use]
    pub const fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// Tells an allow. It is recorded by sample.
    pub fn allow(&self, attempt: Attempt<'_>, id: DecisionId) {
        tell_allow(self.enforcer, &attempt, || id);
        self.sampler.count();
        if self.sampler.is_due() {
            self.record(attempt, id, Verdict::Allow, None);
        }
    }

    /// Tells an allow that is always recorded.
    pub fn allow_recorded(&self, attempt: Attempt<'_>, id: DecisionId) {
        tell_allow(self.enforcer, &attempt, || id);
        self.record(attempt, id, Verdict::Allow, None);
    }

    /// Tells a refusal: the reason's stable code, and the reason for people.
    pub fn deny(
        &self,
        attempt: Attempt<'_>,
        code: &str,
        reason: &dyn fmt::Display,
        id: DecisionId,
    ) {
        tell_deny(self.enforcer, &attempt, reason, id);
        self.record(attempt, id, Verdict::Deny, Some((code, reason)));
    }

    fn record(
        &self,
        attempt: Attempt<'_>,
        id: DecisionId,
        decision: Verdict,
        why: Option<(&str, &dyn fmt::Display)>,
    ) {
        if !self.audit.is_on() {
            return;
        }
        let user = attempt.user;
        let user = (!user.is_empty()).then(|| self.audit.user(user, RecordedUser::default()));
        self.audit
            .decision(record(self.enforcer, &attempt, id, decision, why, user));
    }
}

impl fmt::Debug for DecisionLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionLog")
            .field("enforcer", &self.enforcer)
            .finish_non_exhaustive()
    }
}

/// Who decided in a client, about whom and what.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) enforcer: &'static str,
    pub(crate) workload: &'a str,
    pub(crate) verb: &'static str,
    pub(crate) subject: &'a str,
    pub(crate) user: Option<&'a User>,
}

/// What is not enforced says otherwise.
fn verdict(would: &Would) -> Verdict {
    if would.is_allow() {
        Verdict::Allow
    } else {
        Verdict::Deny
    }
}

impl<'a> Subject<'a> {
    fn attempt(self, rule: &'a str) -> Attempt<'a> {
        Attempt {
            workload: self.workload,
            verb: self.verb,
            subject: self.subject,
            user: self.user.map(User::principal).unwrap_or_default(),
            rule,
            ..Attempt::default()
        }
    }
}

/// POL-101: every use of an emergency's grant.
#[cold]
fn shout(what: Subject<'_>, rule: &str) {
    warn!(
        target: TARGET,
        enforcer = what.enforcer,
        decision = "allow",
        workload = what.workload,
        verb = what.verb,
        subject = what.subject,
        user = what.user.map(User::principal).unwrap_or_default(),
        rule,
        reason = "break_glass",
        "a grant for an emergency was used"
    );
}

/// The decisions of a client.
pub(crate) struct Decisions {
    pub(crate) audit: AuditLog,
    pub(crate) control: Control,
}

impl Decisions {
    /// Tells an allow, and records it if it is due, if a grant for an emergency was
    /// used (POL-101), or if rules in shadow would deny it: of those so many in a minute, the others by number.
    pub(crate) fn allow(&self, what: Subject<'_>, permit: &Permit, is_due: bool) {
        // Most: nobody listens, and nothing is special about it.
        if !is_due
            && permit.would().is_none()
            && !permit.is_break_glass()
            && !tracing::enabled!(target: TARGET, tracing::Level::INFO)
        {
            return;
        }
        let would = permit.would().map(verdict);
        let attempt = Attempt {
            would,
            ..what.attempt(permit.rule())
        };
        tell_allow(what.enforcer, &attempt, fresh_id);
        if permit.is_break_glass() {
            shout(what, permit.rule());
        }
        if is_due
            || permit.is_break_glass()
            || (would.is_some() && self.audit.has_room_for_shadow())
        {
            self.record(what, attempt, fresh_id(), Verdict::Allow, None);
        }
    }

    /// Tells a refusal, and records it: the reason's stable code, and the reason for
    /// people.
    pub(crate) fn deny(
        &self,
        what: Subject<'_>,
        rule: &str,
        code: &str,
        reason: &dyn fmt::Display,
    ) -> DecisionId {
        self.deny_beside(what, rule, None, (code, reason))
    }

    /// The same of a denial by the policy.
    pub(crate) fn deny_by(&self, what: Subject<'_>, denial: &Denial) -> DecisionId {
        let (rule, code) = (denial.rule().unwrap_or_default(), denial.reason().code());
        self.deny_beside(what, rule, denial.would(), (code, denial))
    }

    /// The same with what is said where it is not enforced.
    pub(crate) fn deny_beside(
        &self,
        what: Subject<'_>,
        rule: &str,
        would: Option<&Would>,
        (code, reason): (&str, &dyn fmt::Display),
    ) -> DecisionId {
        let id = fresh_id();
        let attempt = Attempt {
            would: would.map(verdict),
            ..what.attempt(rule)
        };
        tell_deny(what.enforcer, &attempt, reason, id);
        self.record(what, attempt, id, Verdict::Deny, Some((code, reason)));
        id
    }

    /// The counter of a grant's use: by the rule's pattern that matches.
    pub(crate) fn tally(
        &self,
        workload: &bulla_identity::WorkloadId,
        rule: &str,
        verb: bulla_policy::Verb,
        subject: &SubjectName,
    ) -> Option<Arc<Tally>> {
        if !self.audit.is_on() {
            return None;
        }
        let policy = self.control.policy();
        let pattern = policy.policy().matching_pattern(workload, rule, subject);
        let pattern = pattern.as_deref().unwrap_or(subject.as_str());
        self.audit.tally(rule, verb.as_str(), pattern)
    }

    /// Counts that this workload listens to a pattern.
    pub(crate) fn count_listening(
        &self,
        workload: &bulla_identity::WorkloadId,
        rule: &str,
        verb: bulla_policy::Verb,
        pattern: &SubjectPattern,
    ) {
        // Any subject of the pattern finds the rule's pattern that contains it.
        let tokens = pattern.tokens().iter().map(|token| match token {
            PatternToken::Literal(literal) => literal,
            _ => "any",
        });
        let any = tokens.collect::<Vec<_>>().join(".");
        if let Ok(any) = SubjectName::parse(&any)
            && let Some(tally) = self.tally(workload, rule, verb, &any)
        {
            tally.count();
        }
    }

    #[cold]
    fn record(
        &self,
        what: Subject<'_>,
        attempt: Attempt<'_>,
        id: DecisionId,
        decision: Verdict,
        why: Option<(&str, &dyn fmt::Display)>,
    ) {
        if !self.audit.is_on() {
            return;
        }
        let state = self.control.policy();
        let user = what.user.map(|user| {
            let policy = state.policy();
            let name = WorkloadName::parse(what.workload).ok();
            let workload = name.and_then(|name| policy.workload(&name));
            let claims = match (workload, SubjectName::parse(what.subject)) {
                (Some(workload), Ok(subject)) => {
                    policy.record_claims(workload.id(), &subject, user.claims())
                }
                _ => RecordedUser::default(),
            };
            self.audit.user(user.principal(), claims)
        });
        let attempt = Attempt {
            revision: state.revision(),
            // Unproven is nobody.
            workload: if what.workload == "?" {
                ""
            } else {
                what.workload
            },
            ..attempt
        };
        self.audit
            .decision(record(what.enforcer, &attempt, id, decision, why, user));
    }
}

fn record(
    enforcer: &str,
    attempt: &Attempt<'_>,
    id: DecisionId,
    decision: Verdict,
    why: Option<(&str, &dyn fmt::Display)>,
    user: Option<RecordedUser>,
) -> DecisionRecord {
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    DecisionRecord {
        id: id.to_string(),
        enforcer: enforcer.to_owned(),
        decision,
        would: attempt.would,
        workload: attempt.workload.to_owned(),
        verb: attempt.verb.to_owned(),
        subject: attempt.subject.to_owned(),
        user,
        rule: said(attempt.rule),
        reason: why.map(|(code, _)| code.to_owned()),
        detail: why.map(|(_, reason)| reason.to_string()),
        revision: attempt.revision,
        client: attempt.client,
    }
}

fn tell_allow(enforcer: &str, attempt: &Attempt<'_>, id: impl FnOnce() -> DecisionId) {
    // The id is made only where somebody listens: this is the hot path.
    if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
        return;
    }
    info!(
        target: TARGET,
        enforcer,
        decision = "allow",
        workload = attempt.workload,
        verb = attempt.verb,
        subject = attempt.subject,
        user = attempt.user,
        rule = attempt.rule,
        would = attempt.would.map_or("", Verdict::as_str),
        reason = "",
        id = %id(),
    );
}

fn tell_deny(enforcer: &str, attempt: &Attempt<'_>, reason: &dyn fmt::Display, id: DecisionId) {
    warn!(
        target: TARGET,
        enforcer,
        decision = "deny",
        workload = attempt.workload,
        verb = attempt.verb,
        subject = attempt.subject,
        user = attempt.user,
        rule = attempt.rule,
        would = attempt.would.map_or("", Verdict::as_str),
        reason = %reason,
        %id,
    );
}
