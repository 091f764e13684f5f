//! One question, one answer.

use std::fmt;
use std::sync::Arc;

use bulla_identity::{
    Claims, PatternToken, Subject, SubjectPattern, UnixMillis, WorkloadId, reserved,
};

use crate::condition::{Condition, Scene, TestOutcome};
use crate::policy::{Entry, Policy};
use crate::requirements::{Requirements, Stated, UserRule};
use crate::rule::{Effect, Rule, Verb};
use crate::shape;

/// May this workload do this, with a message for this user?
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who does it.
    pub workload: &'a WorkloadId,
    /// What it does.
    pub verb: Verb,
    /// With which subject.
    pub subject: &'a Subject,
    /// The user of the message that is sent or received; of a reply, the
    /// user of the request.
    pub user: Option<&'a Claims>,
    /// When. No rule of this version depends on it.
    pub now: UnixMillis,
}

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
}

/// Proof that a decision allowed something.
///
/// Only [`Policy::decide`] makes one: code that asks for a `Permit` cannot be
/// reached without a decision.
///
/// ```compile_fail
/// let forged = bulla_policy::Permit { rule: "r".into() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    rule: Arc<str>,
    verb: Verb,
    requirements: Requirements,
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
        }
    }
}

/// A refusal and what explains it.
///
/// It names rules and claims, never a claim's value. For the workload's own
/// side and the operator: a peer gets one uniform error instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    reason: Reason,
    /// Boxed, so that an allowed request does not pay for its size.
    detail: Box<Detail>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Detail {
    workload: WorkloadId,
    verb: Verb,
    subject: String,
    rule: Option<NamedRule>,
    condition: Option<FailedCondition>,
    /// What the user's token does not reach.
    audience: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedRule {
    id: Arc<str>,
    line: u32,
}

/// A condition on the user that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCondition {
    claim: String,
    test: String,
    outcome: TestOutcome,
}

impl FailedCondition {
    /// The claim.
    #[must_use]
    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// What the policy asks of it.
    #[must_use]
    pub fn test(&self) -> &str {
        &self.test
    }

    /// What went wrong.
    #[must_use]
    pub fn outcome(&self) -> TestOutcome {
        self.outcome
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
        self.detail.rule.as_ref().map(|r| &*r.id)
    }

    /// The line of that rule in the policy file.
    #[must_use]
    pub fn rule_line(&self) -> Option<u32> {
        self.detail.rule.as_ref().map(|r| r.line)
    }

    /// The audience that the user's token does not reach
    /// ([`Reason::OutOfReach`]).
    #[must_use]
    pub fn audience(&self) -> Option<&str> {
        self.detail.audience.as_deref()
    }

    /// The condition of the nearest rule that failed.
    #[must_use]
    pub fn condition(&self) -> Option<&FailedCondition> {
        self.detail.condition.as_ref()
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail {
            workload,
            verb,
            subject,
            rule,
            condition,
            audience,
        } = &*self.detail;
        let name = workload.path();
        match (self.reason, rule) {
            (Reason::UnknownWorkload, _) => {
                return write!(f, "the policy names no workload `{workload}`");
            }
            (Reason::DeniedByRule, Some(rule)) => write!(
                f,
                "rule `{}` (line {}) denies `{name}` to {verb} on `{subject}`",
                rule.id, rule.line
            ),
            (Reason::NotGranted, nearest) => {
                write!(f, "no rule lets `{name}` {verb} on `{subject}`")?;
                match nearest {
                    Some(rule) => write!(
                        f,
                        "; the nearest is rule `{}` (line {}), which grants other verbs there",
                        rule.id, rule.line
                    ),
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
                "rule `{}` (line {}) would let `{name}` {verb} on `{subject}`, but not for this user",
                rule.id, rule.line
            ),
            (Reason::DeniedByRule | Reason::ConditionFailed, None) => {
                write!(f, "`{name}` may not {verb} on `{subject}`")
            }
        }?;
        let Some(failed) = condition else {
            return Ok(());
        };
        match failed.outcome {
            TestOutcome::Missing => {
                write!(
                    f,
                    ": it asks that {}, and there is no claim `{}`",
                    failed.test, failed.claim
                )
            }
            TestOutcome::WrongType => {
                write!(
                    f,
                    ": it asks that {}, and the claim `{}` is of another type",
                    failed.test, failed.claim
                )
            }
            TestOutcome::Differs | TestOutcome::Holds => {
                write!(f, ": it asks that {}", failed.test)
            }
        }
    }
}

impl std::error::Error for Denial {}

/// What a look-up has seen so far; of several rules the first by id.
#[derive(Default)]
struct Seen {
    denies: Option<u32>,
    allows: Option<u32>,
    /// An allow rule for this verb whose condition failed.
    unmet: Option<Entry>,
    /// An allow rule for other verbs.
    other_verb: Option<u32>,
}

impl Policy {
    /// Decides one request: default deny, a deny rule overrides, and the order
    /// of rules never matters (POL-50).
    ///
    /// The cost does not grow with the number of rules that are not about
    /// this workload and subject.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let Some((workload, trie)) = self
            .index_of(request.workload)
            .and_then(|w| Some((w, self.rules_of(w)?)))
        else {
            return self.deny(request, Reason::UnknownWorkload, None, None);
        };
        debug_assert!(self.workload_at(workload).is_some());

        let mut seen = Seen::default();
        trie.matches(request.subject.as_str(), &mut |entry| {
            self.weigh(*entry, request, &mut seen);
        });
        if let Some(rule) = seen.denies {
            return self.deny(request, Reason::DeniedByRule, Some(rule), None);
        }
        if seen.allows.is_none() && seen.unmet.is_none() {
            let reason = if reserved::is_reserved(request.subject.as_str()) {
                Reason::ReservedSubject
            } else {
                Reason::NotGranted
            };
            return self.deny(request, reason, seen.other_verb, None);
        }
        let requirements = match request.verb {
            // Not about a subject: what a message must be is said by its own.
            Verb::Consume | Verb::Read | Verb::Write | Verb::Manage => {
                Stated::default().or_default()
            }
            _ => self.requirements(request.subject),
        };
        let nearest = seen.allows.or(seen.unmet.map(|e| e.rule));
        match (requirements.user, request.user) {
            (UserRule::Required, None) => {
                return self.deny(request, Reason::UserRequired, nearest, None);
            }
            (UserRule::None, Some(_)) => {
                return self.deny(request, Reason::UserForbidden, nearest, None);
            }
            _ => {}
        }
        if let Some(user) = request.user
            && !requirements.audiences.is_empty()
            && let Some(audience) = self.out_of_reach(requirements.audiences, user)
        {
            return self.deny_reach(request, nearest, audience);
        }
        match seen.allows.and_then(|r| self.rules.get(r as usize)) {
            Some(rule) => Decision::Allow(Permit {
                rule: rule.id.clone(),
                verb: request.verb,
                requirements,
            }),
            None => self.deny(request, Reason::ConditionFailed, nearest, seen.unmet),
        }
    }

    /// Whether a subscription to `pattern` is one that `workload` may make:
    /// for the verbs `subscribe` and `serve`, before there is any message.
    /// The answer is the id of a rule that allows it.
    ///
    /// Yes if one allow rule covers the whole pattern and nats-server will not
    /// refuse it for the sake of an unconditional deny rule. A deny rule that
    /// covers a part of the pattern only filters what is delivered, and each
    /// message is decided with its own user.
    ///
    /// # Errors
    /// The denial that explains the refusal.
    pub fn may_listen(
        &self,
        workload: &WorkloadId,
        verb: Verb,
        pattern: &SubjectPattern,
    ) -> Result<&str, Denial> {
        let denial = |reason, rule: Option<&Rule>| Denial {
            reason,
            detail: Box::new(Detail {
                workload: workload.clone(),
                verb,
                subject: pattern.to_string(),
                rule: rule.map(named),
                condition: None,
                audience: None,
            }),
        };
        let Some(trie) = self.index_of(workload).and_then(|w| self.rules_of(w)) else {
            return Err(denial(Reason::UnknownWorkload, None));
        };
        let (mut allows, mut denies) = (None::<u32>, None::<u32>);
        trie.overlaps(pattern.tokens(), &mut |entry| {
            let Some((rule, on)) = self.entry(*entry) else {
                return;
            };
            if rule.may_allow(verb) && on.contains(pattern) {
                allows = first(allows, entry.rule);
            }
            if rule.denies_always(verb)
                && (on.contains(pattern) || shape::speaks_for(on.tokens(), pattern.tokens()))
            {
                denies = first(denies, entry.rule);
            }
        });
        if let Some(rule) = denies {
            return Err(denial(Reason::DeniedByRule, self.rules.get(rule as usize)));
        }
        if let Some(rule) = allows.and_then(|r| self.rules.get(r as usize)) {
            return Ok(&rule.id);
        }
        let reserved = reserved::is_reserved(pattern.as_str())
            && matches!(pattern.tokens().first(), Some(PatternToken::Literal(_)));
        let reason = if reserved {
            Reason::ReservedSubject
        } else {
            Reason::NotGranted
        };
        Err(denial(reason, None))
    }

    fn weigh(&self, entry: Entry, request: &Request<'_>, seen: &mut Seen) {
        let Some((rule, pattern)) = self.entry(entry) else {
            return;
        };
        if !rule.verbs.contains(request.verb) {
            if rule.effect == Effect::Allow {
                // A subject may read like the name of a consumer or of a key.
                if rule.verbs.about() == Some(request.verb.about()) {
                    seen.other_verb = first(seen.other_verb, entry.rule);
                }
            }
            return;
        }
        let scene = Scene {
            user: request.user,
            pattern,
            subject: request.subject,
        };
        match rule.effect {
            Effect::Deny => {
                // Nobody escapes a deny rule by taking a claim off: it is asked
                // of what the token says, too.
                let whole = request.user.filter(|user| user.is_narrowed());
                let denies = |c: &Condition| {
                    c.denies(scene)
                        || whole.is_some_and(|user| {
                            c.denies(Scene {
                                user: Some(user.whole()),
                                ..scene
                            })
                        })
                };
                if rule.user.as_ref().is_none_or(denies) {
                    seen.denies = first(seen.denies, entry.rule);
                }
            }
            Effect::Allow => {
                if rule.user.as_ref().is_none_or(|c| c.permits(scene)) {
                    seen.allows = first(seen.allows, entry.rule);
                } else if seen
                    .unmet
                    .is_none_or(|e| (entry.rule, entry.pattern) < (e.rule, e.pattern))
                {
                    seen.unmet = Some(entry);
                }
            }
        }
    }

    #[cold]
    fn deny(
        &self,
        request: &Request<'_>,
        reason: Reason,
        rule: Option<u32>,
        unmet: Option<Entry>,
    ) -> Decision {
        let condition = unmet.and_then(|entry| {
            let (rule, pattern) = self.entry(entry)?;
            let scene = Scene {
                user: request.user,
                pattern,
                subject: request.subject,
            };
            let (test, outcome) = rule.user.as_ref()?.first_failure(scene)?;
            Some(FailedCondition {
                claim: test.claim.to_string(),
                test: test.to_string(),
                outcome,
            })
        });
        Decision::Deny(Denial {
            reason,
            detail: Box::new(Detail {
                workload: request.workload.clone(),
                verb: request.verb,
                subject: request.subject.to_string(),
                rule: rule.and_then(|r| self.rules.get(r as usize)).map(named),
                condition,
                audience: None,
            }),
        })
    }

    #[cold]
    fn deny_reach(&self, request: &Request<'_>, rule: Option<u32>, audience: &str) -> Decision {
        Decision::Deny(Denial {
            reason: Reason::OutOfReach,
            detail: Box::new(Detail {
                workload: request.workload.clone(),
                verb: request.verb,
                subject: request.subject.to_string(),
                rule: rule.and_then(|r| self.rules.get(r as usize)).map(named),
                condition: None,
                audience: Some(audience.into()),
            }),
        })
    }
}

fn named(rule: &Rule) -> NamedRule {
    NamedRule {
        id: rule.id.clone(),
        line: rule.line,
    }
}

/// Rules are sorted by id, so the smaller index is the first by id.
fn first(known: Option<u32>, found: u32) -> Option<u32> {
    Some(known.map_or(found, |k| k.min(found)))
}
