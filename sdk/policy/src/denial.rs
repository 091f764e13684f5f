//! A refusal, and what explains it.
//!
//! Refusing costs no memory (POL-111): what explains it are places in the policy
//! that refused, and words are made of them when somebody asks.

use std::fmt;
use std::sync::Arc;

use bulla_identity::WorkloadId;

use crate::condition::{ClaimTest, TestOutcome};
use crate::decision::{Reason, Would};
use crate::rule::{Rule, Verb};
use crate::source::Place;

/// A refusal and what explains it.
///
/// It names rules and claims, never a claim's value. For the workload's own
/// side and the operator: a peer gets one uniform error instead.
///
/// It shares the rules of the policy that refused: they live as long as it does.
#[derive(Clone)]
pub struct Denial {
    pub(crate) reason: Reason,
    pub(crate) workload: WorkloadId,
    pub(crate) verb: Verb,
    /// The subject or the pattern that was asked about.
    pub(crate) on: Arc<str>,
    pub(crate) rules: Arc<[Rule]>,
    /// Which of them decided, or came nearest.
    pub(crate) rule: Option<u32>,
    pub(crate) unmet: Option<Unmet>,
    /// What the user's token does not reach.
    pub(crate) audience: Option<Arc<str>>,
    pub(crate) would: Option<Would>,
}

/// The test of the nearest rule's condition that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unmet {
    /// Which one, from 0.
    pub(crate) test: u32,
    pub(crate) outcome: TestOutcome,
}

/// A condition on the user that did not hold.
#[derive(Clone, Copy)]
pub struct FailedCondition<'d> {
    test: &'d ClaimTest,
    outcome: TestOutcome,
}

impl<'d> FailedCondition<'d> {
    /// The claim.
    #[must_use]
    pub fn claim(&self) -> &'d str {
        &self.test.claim
    }

    /// What the policy asks of it, in words.
    #[must_use]
    pub fn test(&self) -> String {
        self.test.to_string()
    }

    /// What went wrong.
    #[must_use]
    pub fn outcome(&self) -> TestOutcome {
        self.outcome
    }
}

impl fmt::Debug for FailedCondition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailedCondition")
            .field("test", &format_args!("{}", self.test))
            .field("outcome", &self.outcome)
            .finish()
    }
}

impl Denial {
    /// Why.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The rule that decided ([`Reason::DeniedByRule`]), or the allow rule
    /// that came nearest, if there is one.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        self.named().map(|rule| &*rule.id)
    }

    /// The line of that rule in its file.
    #[must_use]
    pub fn rule_line(&self) -> Option<u32> {
        self.rule_place().map(Place::line)
    }

    /// Where that rule stands.
    #[must_use]
    pub fn rule_place(&self) -> Option<&Place> {
        self.named().map(|rule| &rule.place)
    }

    /// The audience that the user's token does not reach
    /// ([`Reason::OutOfReach`]).
    #[must_use]
    pub fn audience(&self) -> Option<&str> {
        self.audience.as_deref()
    }

    /// The condition of the nearest rule that failed.
    #[must_use]
    pub fn condition(&self) -> Option<FailedCondition<'_>> {
        let unmet = self.unmet?;
        let condition = self.named()?.user.as_ref()?;
        Some(FailedCondition {
            test: condition.tests.get(unmet.test as usize)?,
            outcome: unmet.outcome,
        })
    }

    /// What would be allowed if everything in shadow were enforced.
    #[must_use]
    pub fn would(&self) -> Option<&Would> {
        self.would.as_ref()
    }

    pub(crate) fn named(&self) -> Option<&Rule> {
        self.rules.get(self.rule? as usize)
    }
}

// Written by hand: the rules are not a part of what it says.
impl fmt::Debug for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denial")
            .field("reason", &self.reason)
            .field("workload", &self.workload)
            .field("verb", &self.verb)
            .field("on", &self.on)
            .field("rule", &self.rule())
            .field("condition", &self.condition())
            .field("audience", &self.audience)
            .field("would", &self.would)
            .finish()
    }
}

/// Those are equal that say the same, by whichever policy.
impl PartialEq for Denial {
    fn eq(&self, other: &Self) -> bool {
        let test = |denial: &Self| denial.condition().map(|failed| failed.test.clone());
        self.reason == other.reason
            && self.workload == other.workload
            && self.verb == other.verb
            && self.on == other.on
            && self.rule() == other.rule()
            && self.rule_place() == other.rule_place()
            && self.unmet.map(|unmet| unmet.outcome) == other.unmet.map(|unmet| unmet.outcome)
            && test(self) == test(other)
            && self.audience == other.audience
            && self.would == other.would
    }
}

// The numbers of tests are finite, so each equals itself.
impl Eq for Denial {}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            workload,
            verb,
            on: subject,
            audience,
            ..
        } = self;
        let name = workload.path();
        match (*reason, self.named().map(Named)) {
            (Reason::UnknownWorkload, _) => {
                return write!(f, "the policy names no workload `{workload}`");
            }
            (Reason::DeniedByRule, Some(rule)) => {
                write!(f, "{rule} denies `{name}` to {verb} on `{subject}`")
            }
            (Reason::NotGranted, nearest) => {
                write!(f, "no rule lets `{name}` {verb} on `{subject}`")?;
                match nearest {
                    Some(rule) => {
                        write!(f, "; the nearest is {rule}, which grants other verbs there")
                    }
                    None => Ok(()),
                }
            }
            (Reason::ReservedSubject, _) => write!(
                f,
                "`{subject}` belongs to nats-server or Bulla: no rule can grant it"
            ),
            (Reason::UserRequired, _) => write!(
                f,
                "`{subject}` demands a user, and this message carries none"
            ),
            (Reason::UserForbidden, _) => write!(
                f,
                "`{subject}` says user = \"none\", and this message carries a user"
            ),
            (Reason::OutOfReach, _) => write!(
                f,
                "`{subject}` belongs to `{}`, which this user's token does not reach",
                audience.as_deref().unwrap_or("?")
            ),
            (Reason::ConditionFailed, Some(rule)) => write!(
                f,
                "{rule} would let `{name}` {verb} on `{subject}`, but not for this user"
            ),
            (Reason::OutsideTime, Some(rule)) => {
                write!(
                    f,
                    "{rule} would let `{name}` {verb} on `{subject}`, but not at this time"
                )?;
                match rule.0.hours() {
                    Some(hours) => write!(f, ": it counts {hours}"),
                    None => Ok(()),
                }
            }
            (Reason::RuleExpired, Some(rule)) => write!(
                f,
                "{rule} would let `{name}` {verb} on `{subject}`, but it has expired"
            ),
            (
                Reason::DeniedByRule
                | Reason::ConditionFailed
                | Reason::OutsideTime
                | Reason::RuleExpired,
                None,
            ) => {
                write!(f, "`{name}` may not {verb} on `{subject}`")
            }
        }?;
        let Some(failed) = self.condition() else {
            return Ok(());
        };
        match failed.outcome {
            TestOutcome::Missing => {
                write!(
                    f,
                    ": it asks that {}, and there is no claim `{}`",
                    failed.test, failed.test.claim
                )
            }
            TestOutcome::WrongType => {
                write!(
                    f,
                    ": it asks that {}, and the claim `{}` is of another type",
                    failed.test, failed.test.claim
                )
            }
            TestOutcome::Differs | TestOutcome::Holds => {
                write!(f, ": it asks that {}", failed.test)
            }
        }
    }
}

impl std::error::Error for Denial {}

/// A rule as a denial names it.
#[derive(Clone, Copy)]
struct Named<'p>(&'p Rule);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule `{}` ({})", self.0.id, self.0.place)
    }
}
