//! What is told of a change: the conditions of both sides, and the rules that differ.

use std::collections::BTreeSet;

use super::{Comparison, Label, MOST_WEIGHED};
use crate::diff::{Allowance, RuleChange};
use crate::policy::Policy;
use crate::rule::Effect;

impl Comparison<'_> {
    /// On which conditions one side allows it.
    pub(super) fn allowance(&self, side: usize, labels: &[&Label]) -> Allowance {
        let (user, audiences) = self.demanded(side, labels);
        let mut when: Vec<(&[u32], &str)> = Vec::new();
        let mut unless = Vec::new();
        let mut always = false;
        for meaning in self.meanings_of(side, labels) {
            match (meaning.effect, &meaning.shown) {
                (Effect::Allow, Some(shown)) => when.push((meaning.terms.as_slice(), shown)),
                (Effect::Allow, None) => always = true,
                (Effect::Deny, shown) => unless.extend(shown.as_deref().map(str::to_owned)),
            }
        }
        if always {
            when.clear();
        }
        when.sort_unstable();
        when.dedup_by_key(|w| w.0);
        let all = when.clone();
        if all.len() <= MOST_WEIGHED {
            // A condition that is met whenever another one is says it all.
            let follows = |term: &u32, others: &[u32]| {
                let given = self.atoms.lits(*term);
                let mut others = others.iter();
                others.any(|other| self.atoms.follows(given, self.atoms.lits(*other)))
            };
            when.retain(|(terms, _)| {
                !all.iter().any(|(others, _)| {
                    others != terms && terms.iter().all(|term| follows(term, others))
                })
            });
        }
        let mut when: Vec<String> = when
            .into_iter()
            .map(|(_, shown)| shown.to_owned())
            .collect();
        when.sort_unstable();
        unless.sort_unstable();
        unless.dedup();
        Allowance {
            when,
            unless,
            user,
            audiences: audiences.iter().map(|a| a.1.to_string()).collect(),
        }
    }

    /// The rules that are in one policy only, of those that match, or that are
    /// other ones now under the same id.
    pub(super) fn rule_changes(&self, labels: &[&Label]) -> Vec<RuleChange> {
        let mut ids: BTreeSet<&str> = BTreeSet::new();
        for label in labels {
            if let Label::Rule { before, after, .. } = label
                && before.is_some() != after.is_some()
            {
                let named = self.sides.iter().zip([before, after]);
                ids.extend(
                    named.filter_map(|(policy, rule)| {
                        Some(&*policy.rules.get((*rule)? as usize)?.id)
                    }),
                );
            }
        }
        let [before, after] = self.sides;
        let find = |policy: &'_ Policy, id: &str| {
            let at = policy.rules.binary_search_by(|r| (*r.id).cmp(id)).ok()?;
            let rule = policy.rules.get(at)?;
            Some((rule.effect, rule.place.clone()))
        };
        let changes = ids.into_iter().filter_map(|id| {
            let (old, new) = (find(before, id), find(after, id));
            Some(RuleChange {
                id: id.to_owned(),
                effect: new.as_ref().or(old.as_ref())?.0,
                before: old.map(|r| r.1),
                after: new.map(|r| r.1),
            })
        });
        changes.collect()
    }
}
