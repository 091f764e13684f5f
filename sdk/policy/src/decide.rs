//! One question, one answer.

use std::sync::Arc;

use bulla_identity::{
    Claims, PatternToken, Subject, SubjectPattern, UnixMillis, WorkloadId, reserved,
};

use crate::circumstances::Standing;
use crate::condition::{Condition, Scene};
use crate::decision::{Decision, Permit, Reason, Would};
use crate::denial::{Denial, Unmet};
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
    /// When.
    pub now: UnixMillis,
}

/// What a look-up has seen so far; of several rules the first by id.
struct Seen {
    denies: Option<u32>,
    allows: Option<u32>,
    /// The same of rules in shadow.
    would_deny: Option<u32>,
    would_allow: Option<u32>,
    /// When time next changes whether one of the rules counts.
    until: UnixMillis,
    /// Whether one of the rules asks something of the user.
    asks_user: bool,
}

/// An allow rule that does not allow, and how far it is from it: the less, the
/// nearer (POL-110).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Miss {
    /// Its verb, subject and time, and so many tests of the user failed.
    User(usize),
    /// Its verb and subject.
    OutsideTime,
    /// Its verb and subject.
    Expired,
    /// Its subject only.
    Verb,
}

type Near = (Miss, Entry);

impl Policy {
    /// Decides one request: default deny, a deny rule overrides, and the order
    /// of rules never matters (POL-50).
    ///
    /// The cost does not grow with the number of rules that are not about
    /// this workload and subject, and neither answer allocates.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let Some(workload) = self.index_of(request.workload) else {
            return self.deny(request, Reason::UnknownWorkload, None, None);
        };
        let mut seen = Seen {
            denies: None,
            allows: None,
            would_deny: None,
            would_allow: None,
            until: UnixMillis::from_millis(u64::MAX),
            asks_user: false,
        };
        if let Some(trie) = self.rules_of(workload) {
            trie.matches(request.subject.as_str(), &mut |entry| {
                self.weigh(*entry, request, &mut seen);
            });
        }
        if let Some(rule) = seen.denies {
            return self.deny(request, Reason::DeniedByRule, Some(rule), None);
        }
        let requirements = match request.verb {
            // Not about a subject: what a message must be is said by its own.
            Verb::Consume | Verb::Read | Verb::Write | Verb::Manage => {
                Stated::default().or_default()
            }
            _ => self.requirements(request.subject),
        };
        let allowing = seen.allows.and_then(|r| self.rules.get(r as usize));
        let Some(rule) = allowing else {
            return self.refuse(request, workload, &requirements, &seen);
        };
        if let Err(lack) = self.lacks(request, &requirements) {
            return self.deny_for(request, lack, seen.allows);
        }
        Decision::Allow(Permit {
            rule: rule.id.clone(),
            verb: request.verb,
            requirements,
            until: seen.until,
            break_glass: rule.break_glass,
            for_anybody: !seen.asks_user
                && requirements.user == UserRule::Optional
                && requirements.audiences.is_empty(),
            would: self.shadow(seen.would_deny).map(Would::deny),
        })
    }

    /// Every rule that decides a request as it is decided, by id: the deny rules
    /// that apply if there are any, otherwise the allow rules that do. Rules in
    /// shadow are not among them. For explanations; this allocates.
    #[must_use]
    pub fn deciding_rules(&self, request: &Request<'_>) -> Vec<&Rule> {
        let (mut allows, mut denies) = (Vec::new(), Vec::new());
        self.each_rule_on(request, &mut |entry, rule, pattern| {
            if rule.shadow
                || !rule.verbs.contains(request.verb)
                || rule.standing(request.now) != Standing::Counts
            {
                return;
            }
            match rule.effect {
                Effect::Deny if denies_for(rule, pattern, request) => denies.push(entry.rule),
                Effect::Allow if allows_for(rule, pattern, request) => allows.push(entry.rule),
                _ => {}
            }
        });
        let mut rules = if denies.is_empty() { allows } else { denies };
        rules.sort_unstable();
        rules.dedup();
        let found = rules.into_iter();
        found.filter_map(|r| self.rules.get(r as usize)).collect()
    }

    /// Whether a subscription to `pattern` is one that `workload` may make now:
    /// for the verbs `subscribe`, `serve` and `consume`, before there is any
    /// message. The answer is the id of a rule that allows it.
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
        now: UnixMillis,
    ) -> Result<&str, Denial> {
        let denial = |reason, rule| Denial {
            reason,
            workload: workload.clone(),
            verb,
            on: pattern.into(),
            rules: self.rules.clone(),
            rule,
            unmet: None,
            audience: None,
            would: None,
        };
        let Some(trie) = self.index_of(workload).and_then(|w| self.rules_of(w)) else {
            return Err(denial(Reason::UnknownWorkload, None));
        };
        let (mut allows, mut denies) = (None::<u32>, None::<u32>);
        let mut idle: Option<(Miss, u32)> = None;
        trie.overlaps(pattern.tokens(), &mut |entry| {
            let Some((rule, on)) = self.entry(*entry) else {
                return;
            };
            let standing = rule.standing(now);
            if rule.may_allow(verb) && on.contains(pattern) {
                let miss = match standing {
                    Standing::Counts => {
                        allows = first(allows, entry.rule);
                        return;
                    }
                    Standing::OutsideTime => Miss::OutsideTime,
                    Standing::Expired => Miss::Expired,
                };
                let found = (miss, entry.rule);
                idle = Some(idle.map_or(found, |held| held.min(found)));
            }
            if rule.may_deny_all(verb)
                && standing == Standing::Counts
                && (on.contains(pattern) || shape::speaks_for(on.tokens(), pattern.tokens()))
            {
                denies = first(denies, entry.rule);
            }
        });
        if let Some(rule) = denies {
            return Err(denial(Reason::DeniedByRule, Some(rule)));
        }
        if let Some(rule) = allows.and_then(|r| self.rules.get(r as usize)) {
            return Ok(&rule.id);
        }
        if let Some((miss, rule)) = idle {
            let reason = match miss {
                Miss::Expired => Reason::RuleExpired,
                _ => Reason::OutsideTime,
            };
            return Err(denial(reason, Some(rule)));
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
            return;
        }
        seen.asks_user |= rule.user.is_some();
        if let Some(when) = &rule.when {
            if let Some(change) = when.next_change(request.now) {
                seen.until = seen.until.min(change);
            }
            if rule.standing(request.now) != Standing::Counts {
                return;
            }
        }
        let (applies, found) = match rule.effect {
            Effect::Deny => (
                denies_for(rule, pattern, request),
                if rule.shadow {
                    &mut seen.would_deny
                } else {
                    &mut seen.denies
                },
            ),
            Effect::Allow => (
                allows_for(rule, pattern, request),
                if rule.shadow {
                    &mut seen.would_allow
                } else {
                    &mut seen.allows
                },
            ),
        };
        if applies {
            *found = first(*found, entry.rule);
        }
    }

    /// What of its subject's demands a message does not meet.
    fn lacks(&self, request: &Request<'_>, requirements: &Requirements) -> Result<(), Lack> {
        match (requirements.user, request.user) {
            (UserRule::Required, None) => Err(Lack::User),
            (UserRule::None, Some(_)) => Err(Lack::NoUser),
            (_, Some(user)) if !requirements.audiences.is_empty() => {
                match self.out_of_reach(requirements.audiences, user) {
                    Some(audience) => Err(Lack::Reach(audience)),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn shadow(&self, rule: Option<u32>) -> Option<Arc<str>> {
        Some(self.rules.get(rule? as usize)?.id.clone())
    }

    /// No allow rule allows it, and no deny rule denies it.
    #[cold]
    fn refuse(
        &self,
        request: &Request<'_>,
        workload: u32,
        requirements: &Requirements,
        seen: &Seen,
    ) -> Decision {
        debug_assert!(self.workload_at(workload).is_some());
        let lack = self.lacks(request, requirements);
        let is_met = lack.is_ok();
        let near = self.nearest(request);
        let rule = near.map(|(_, entry)| entry.rule);
        let decision = match (near, lack) {
            (Some((Miss::User(_), _)), Err(lack)) => self.deny_for(request, lack, rule),
            (Some((Miss::User(_), entry)), Ok(())) => {
                self.deny(request, Reason::ConditionFailed, rule, Some(entry))
            }
            (Some((Miss::OutsideTime, _)), _) => {
                self.deny(request, Reason::OutsideTime, rule, None)
            }
            (Some((Miss::Expired, _)), _) => self.deny(request, Reason::RuleExpired, rule, None),
            (Some((Miss::Verb, _)) | None, _) => {
                let reason = if reserved::is_reserved(request.subject.as_str()) {
                    Reason::ReservedSubject
                } else {
                    Reason::NotGranted
                };
                self.deny(request, reason, rule, None)
            }
        };
        let would = self
            .shadow(seen.would_allow)
            .filter(|_| seen.would_deny.is_none() && is_met);
        match (decision, would) {
            (Decision::Deny(mut denial), Some(rule)) => {
                denial.would = Some(Would::allow(rule));
                Decision::Deny(denial)
            }
            (decision, _) => decision,
        }
    }

    /// The allow rule that came nearest to allowing a request that none allows.
    fn nearest(&self, request: &Request<'_>) -> Option<Near> {
        let mut near: Option<Near> = None;
        self.each_rule_on(request, &mut |entry, rule, pattern| {
            // A subject may read like the name of a consumer or of a key.
            let is_about = rule.verbs.about() == Some(request.verb.about());
            if rule.effect != Effect::Allow || rule.shadow || !is_about {
                return;
            }
            let miss = if !rule.verbs.contains(request.verb) {
                Miss::Verb
            } else {
                match rule.standing(request.now) {
                    Standing::Expired => Miss::Expired,
                    Standing::OutsideTime => Miss::OutsideTime,
                    Standing::Counts => {
                        let failed = rule
                            .user
                            .as_ref()
                            .map(|c| c.failures(scene(pattern, request)));
                        Miss::User(failed.unwrap_or_default())
                    }
                }
            };
            let found = (miss, entry);
            near = Some(near.map_or(found, |held| held.min(found)));
        });
        near
    }

    fn each_rule_on<'p>(
        &'p self,
        request: &Request<'_>,
        visit: &mut dyn FnMut(Entry, &'p Rule, &'p SubjectPattern),
    ) {
        if let Some(trie) = self
            .index_of(request.workload)
            .and_then(|w| self.rules_of(w))
        {
            trie.matches(request.subject.as_str(), &mut |entry| {
                if let Some((rule, pattern)) = self.entry(*entry) {
                    visit(*entry, rule, pattern);
                }
            });
        }
    }

    #[cold]
    fn deny_for(&self, request: &Request<'_>, lack: Lack, rule: Option<u32>) -> Decision {
        let (reason, audience) = match lack {
            Lack::User => (Reason::UserRequired, None),
            Lack::NoUser => (Reason::UserForbidden, None),
            Lack::Reach(audience) => (Reason::OutOfReach, Some(audience)),
        };
        match self.deny(request, reason, rule, None) {
            Decision::Deny(denial) => Decision::Deny(Denial { audience, ..denial }),
            decision @ Decision::Allow(_) => decision,
        }
    }

    /// Allocates nothing: whoever is flooded with what it refuses pays least for
    /// that.
    #[cold]
    fn deny(
        &self,
        request: &Request<'_>,
        reason: Reason,
        rule: Option<u32>,
        unmet: Option<Entry>,
    ) -> Decision {
        let unmet = unmet.and_then(|entry| {
            let (rule, pattern) = self.entry(entry)?;
            let (test, outcome) = rule.user.as_ref()?.first_failure(scene(pattern, request))?;
            Some(Unmet { test, outcome })
        });
        Decision::Deny(Denial {
            reason,
            workload: request.workload.clone(),
            verb: request.verb,
            on: request.subject.into(),
            rules: self.rules.clone(),
            rule,
            unmet,
            audience: None,
            would: None,
        })
    }
}

/// What a message does not have, though its subject asks for it.
enum Lack {
    User,
    NoUser,
    Reach(Arc<str>),
}

fn scene<'a>(pattern: &'a SubjectPattern, request: &Request<'a>) -> Scene<'a> {
    Scene {
        user: request.user,
        pattern,
        subject: request.subject,
    }
}

fn allows_for(rule: &Rule, pattern: &SubjectPattern, request: &Request<'_>) -> bool {
    rule.user
        .as_ref()
        .is_none_or(|c| c.permits(scene(pattern, request)))
}

fn denies_for(rule: &Rule, pattern: &SubjectPattern, request: &Request<'_>) -> bool {
    let Some(condition) = &rule.user else {
        return true;
    };
    // Nobody escapes a deny rule by taking a claim off: it is asked of what the
    // token says, too.
    let whole = |c: &Condition| {
        let user = request.user.filter(|user| user.is_narrowed());
        user.is_some_and(|user| {
            c.denies(Scene {
                user: Some(user.whole()),
                ..scene(pattern, request)
            })
        })
    };
    condition.denies(scene(pattern, request)) || whole(condition)
}

/// Rules are sorted by id, so the smaller index is the first by id.
fn first(known: Option<u32>, found: u32) -> Option<u32> {
    Some(known.map_or(found, |k| k.min(found)))
}
