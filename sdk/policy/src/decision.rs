//! The answer, and what explains it.

use std::fmt;
use std::sync::Arc;

use bulla_identity::UnixMillis;

use crate::denial::Denial;
use crate::requirements::Requirements;
use crate::rule::{Effect, Verb};

/// The engine's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a decision that nobody reads is no check"]
pub enum Decision {
    /// Yes, and the proof.
    Allow(Permit),
    /// No, and why.
    Deny(Denial),
}

impl Decision {
    /// Whether the answer is yes.
    #[must_use]
    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The answer as a result.
    ///
    /// # Errors
    /// The denial.
    pub fn into_result(self) -> Result<Permit, Denial> {
        match self {
            Self::Allow(permit) => Ok(permit),
            Self::Deny(denial) => Err(denial),
        }
    }

    /// The rule that decided, or the one that came nearest.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Allow(permit) => Some(permit.rule()),
            Self::Deny(denial) => denial.rule(),
        }
    }

    /// What would be said if everything in shadow were enforced, where that
    /// differs.
    #[must_use]
    pub fn would(&self) -> Option<&Would> {
        match self {
            Self::Allow(permit) => permit.would(),
            Self::Deny(denial) => denial.would(),
        }
    }

    /// The same decision, beside what a candidate policy says of the same
    /// request. What the candidate's shadow rules would do counts as well: the
    /// answer is one, what would happen if all of it were enforced.
    pub fn beside(mut self, candidate: &Self) -> Self {
        let would = match candidate.would() {
            Some(would) => would.clone(),
            None => Would::of(candidate),
        };
        let would = (would.is_allow() != self.is_allow()).then_some(would);
        match &mut self {
            Self::Allow(permit) => {
                permit.would = would;
                permit.for_anybody &=
                    matches!(candidate, Self::Allow(candidate) if candidate.for_anybody);
            }
            Self::Deny(denial) => denial.would = would,
        }
        self
    }
}

/// What is not enforced says otherwise: rules in shadow, or a candidate policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Would {
    effect: Effect,
    rule: Option<Arc<str>>,
    reason: Option<Reason>,
}

impl Would {
    /// What a decision says.
    #[must_use]
    pub fn of(decision: &Decision) -> Self {
        match decision {
            Decision::Allow(permit) => Self::allow(permit.rule.clone()),
            Decision::Deny(denial) => Self {
                effect: Effect::Deny,
                rule: denial.named().map(|rule| rule.id.clone()),
                reason: Some(denial.reason()),
            },
        }
    }

    pub(crate) fn allow(rule: Arc<str>) -> Self {
        Self {
            effect: Effect::Allow,
            rule: Some(rule),
            reason: None,
        }
    }

    pub(crate) fn deny(rule: Arc<str>) -> Self {
        Self {
            effect: Effect::Deny,
            rule: Some(rule),
            reason: Some(Reason::DeniedByRule),
        }
    }

    /// Whether it would be allowed; otherwise denied.
    #[must_use]
    pub fn is_allow(&self) -> bool {
        self.effect == Effect::Allow
    }

    /// The rule that would decide, or come nearest.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// Why it would be denied.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The stable name: `would_allow` or `would_deny`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.effect {
            Effect::Allow => "would_allow",
            Effect::Deny => "would_deny",
        }
    }
}

impl fmt::Display for Would {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "would {}", self.effect)?;
        match &self.rule {
            Some(rule) => write!(f, " (rule `{rule}`)"),
            None => Ok(()),
        }
    }
}

/// Proof that a decision allowed something.
///
/// Only [`Policy::decide`](crate::Policy::decide) makes one: code that asks for
/// a `Permit` cannot be reached without a decision.
///
/// ```compile_fail
/// let forged = bulla_policy::Permit { rule: "r".into() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    pub(crate) rule: Arc<str>,
    pub(crate) verb: Verb,
    pub(crate) requirements: Requirements,
    pub(crate) until: UnixMillis,
    pub(crate) break_glass: bool,
    pub(crate) for_anybody: bool,
    pub(crate) would: Option<Would>,
}

impl Permit {
    /// The id of the rule that allowed it; of several, the first by id.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// What was allowed.
    #[must_use]
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// What the subject demands of the message.
    #[must_use]
    pub fn requirements(&self) -> Requirements {
        self.requirements
    }

    /// Until when, that moment not included, the same request gets the same
    /// answer: whoever remembers a permit asks again from then on.
    #[must_use]
    pub fn until(&self) -> UnixMillis {
        self.until
    }

    /// The same permit, which ends no later than `other` does, and would be denied
    /// where `other` would be: for who needs both.
    #[must_use]
    pub fn ending_with(mut self, other: &Self) -> Self {
        self.until = self.until.min(other.until);
        self.for_anybody &= other.for_anybody;
        self.would = self.would.or_else(|| other.would.clone());
        self
    }

    /// Whether the rule that allowed it is a grant for an emergency.
    #[must_use]
    pub fn is_break_glass(&self) -> bool {
        self.break_glass
    }

    /// Whether the same request gets the same answer for every user, and without one: no
    /// rule that speaks of it asks for a user or for what is said of one, in shadow or on
    /// trial as little, and neither does the subject.
    #[must_use]
    pub fn is_for_anybody(&self) -> bool {
        self.for_anybody
    }

    /// What would be denied if everything in shadow were enforced.
    #[must_use]
    pub fn would(&self) -> Option<&Would> {
        self.would.as_ref()
    }
}

/// Why a decision is no. The codes are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The policy does not name the workload.
    UnknownWorkload,
    /// A deny rule applies.
    DeniedByRule,
    /// No allow rule gives the workload this verb on this subject.
    NotGranted,
    /// The subject belongs to nats-server or Bulla: no rule grants it.
    ReservedSubject,
    /// The subject demands a user and there is none.
    UserRequired,
    /// The subject refuses messages with a user and there is one.
    UserForbidden,
    /// An allow rule is there, but the user does not meet its condition.
    ConditionFailed,
    /// The subject belongs to a vertical that the user's token does not reach.
    OutOfReach,
    /// An allow rule is there, but it does not count at this time of the week.
    OutsideTime,
    /// An allow rule is there, but it has expired.
    RuleExpired,
}

impl Reason {
    /// The stable name, for logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownWorkload => "unknown_workload",
            Self::DeniedByRule => "denied_by_rule",
            Self::NotGranted => "not_granted",
            Self::ReservedSubject => "reserved_subject",
            Self::UserRequired => "user_required",
            Self::UserForbidden => "user_forbidden",
            Self::ConditionFailed => "condition_failed",
            Self::OutOfReach => "out_of_reach",
            Self::OutsideTime => "outside_time",
            Self::RuleExpired => "rule_expired",
        }
    }
}
