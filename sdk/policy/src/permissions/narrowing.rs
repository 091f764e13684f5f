//! What is taken off a grant: by deny rules within it, and because nats-server lets
//! a `*` at the end stand for more.

use bulla_identity::PatternToken;

use super::{Compiler, Held, Lists, siblings};
use crate::policy::Entry;
use crate::problem::Problem;
use crate::rule::{Rule, Verb};
use crate::shape;

impl<'p> Compiler<'p> {
    /// POL-65: an unconditional deny within a grant becomes a NATS deny,
    /// unless another verb needs the same permission there.
    pub(super) fn narrow(
        &self,
        held: Held<'p>,
        lists: &mut Lists,
        report: &mut dyn FnMut(Entry, Problem),
    ) {
        let verb = held.verb;
        let others = siblings(verb);
        for (entry, deny, shared) in self.denied_within(held) {
            let needed = others
                .iter()
                .flat_map(|other| self.holders(*other, &shared))
                .min_by_key(|h| (h.entry.rule, h.entry.pattern));
            let deny_it = |lists: &mut Lists| {
                let denied = shape::to_nats(&shared);
                match verb {
                    Verb::Publish | Verb::Request | Verb::Append => {
                        lists.deny_publish(denied);
                    }
                    Verb::Subscribe | Verb::Serve => lists.deny_subscribe(denied),
                    Verb::Consume | Verb::Read | Verb::Write | Verb::Manage => {}
                }
            };
            let Some(needed) = needed else {
                deny_it(lists);
                continue;
            };
            // Another verb gives the same NATS permission anyway; only a
            // plain subscription is more than what `serve` gives.
            // The endpoints then tell the verbs apart, who see no network.
            if verb != Verb::Subscribe
                && deny.networks().is_none()
                && others
                    .iter()
                    .any(|other| self.holds_all(*other, &shared, held.rule))
            {
                continue;
            }
            // Such a policy does not load; if it did, the deny would win.
            deny_it(lists);
            let problem = Problem::DenyCuts {
                workload: self.workload.name().to_string(),
                deny: deny.id.to_string(),
                verb,
                denied: shape::to_nats(&shared),
                other: needed.rule.id.to_string(),
                other_verb: needed.verb,
                other_pattern: needed.pattern.to_string(),
            };
            report(entry, problem);
        }
    }

    /// The unconditional deny rules that take a part of a grant, and the part.
    pub(super) fn denied_within(
        &self,
        held: Held<'_>,
    ) -> Vec<(Entry, &'p Rule, Vec<PatternToken>)> {
        let mut denies = Vec::new();
        if !self.narrowed {
            return denies;
        }
        self.trie.overlaps(held.pattern.tokens(), &mut |entry| {
            if let Some((rule, on)) = self.policy.entry(*entry)
                && self.denies(rule, held.verb)
                && let Some(shared) = shape::intersect(held.pattern.tokens(), on.tokens())
            {
                denies.push((*entry, rule, shared));
            }
        });
        denies.sort_by_key(|(entry, ..)| (entry.rule, entry.pattern));
        denies
    }

    /// POL-62: a grant that ends in `*` lets nats-server accept `>` there, so
    /// the deeper levels are denied, unless they are granted as well.
    pub(super) fn close_open_end(
        &self,
        held: Held<'p>,
        lists: &mut Lists,
        report: &mut dyn FnMut(Entry, Problem),
    ) {
        let enough: &[Verb] = match held.verb {
            Verb::Subscribe => &[Verb::Subscribe],
            Verb::Serve => &[Verb::Subscribe, Verb::Serve],
            _ => return,
        };
        let Some(beneath) = shape::beneath_open_end(held.pattern.tokens()) else {
            return;
        };
        let mut granted = false;
        self.trie.overlaps(&beneath, &mut |entry| {
            if let Some((rule, on)) = self.policy.entry(*entry)
                && shape::contains(on.tokens(), &beneath)
            {
                granted |= enough.iter().any(|v| {
                    self.allows_with(rule, *v, held.rule) && !self.is_taken(*v, on.tokens())
                });
            }
        });
        if granted {
            return;
        }
        let needed = self
            .holders(Verb::Subscribe, &beneath)
            .into_iter()
            .chain(self.holders(Verb::Serve, &beneath))
            .min_by_key(|h| h.entry.rule);
        let opened = shape::to_nats(&beneath);
        match needed {
            None => {
                lists.deny_subscribe(opened);
            }
            Some(needed) => {
                // Such a policy does not load; if it did, it would stay closed.
                lists.deny_subscribe(opened.clone());
                let problem = Problem::OpenEnd {
                    workload: self.workload.name().to_string(),
                    rule: held.rule.id.to_string(),
                    verb: held.verb,
                    pattern: held.pattern.to_string(),
                    opened,
                    other: needed.rule.id.to_string(),
                    other_pattern: needed.pattern.to_string(),
                };
                report(held.entry, problem);
            }
        }
    }
}
