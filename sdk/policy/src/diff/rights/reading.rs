//! Both policies as labelled patterns.

use std::collections::{BTreeMap, HashMap};

use bulla_identity::{SubjectPattern, WorkloadName, reserved};

use super::{Comparison, DemandEntry, Label, Meaning, RuleEntry, RuleSets, Sides};
use crate::circumstances::moment;
use crate::diff::atom::{Atom, Lit, Part};
use crate::diff::demand;
use crate::diff::token::Captures;
use crate::diff::walk::{Budget, Labelled};
use crate::requirements::Protect;
use crate::rule::{About, Effect, Rule, Verb};

impl Comparison<'_> {
    pub(super) fn read(&mut self) {
        for side in 0..self.sides.len() {
            let Some(policy) = self.sides.get(side).copied() else {
                continue;
            };
            let mut entries = Vec::new();
            for (rule, index) in policy.rules.iter().zip(0u32..) {
                for pattern in &rule.on {
                    if let Some(meaning) = self.meaning(rule, pattern) {
                        entries.push(RuleEntry {
                            rule: index,
                            tokens: pattern.clone(),
                            meaning,
                        });
                    }
                }
            }
            if let Some(place) = self.entries.get_mut(side) {
                *place = entries;
            }
        }
        let [before, after] = self.sides;
        for (entry, sides) in demand::entries(before, after) {
            let mut audiences = Vec::new();
            for name in &entry.audiences {
                let atom = self.atoms.id(Atom::Reach(name.clone()));
                audiences.push((Lit::holds(atom), name.clone()));
            }
            self.demands.push(DemandEntry {
                sides: Sides {
                    before: sides.0,
                    after: sides.1,
                },
                protect: entry.stated.protect.map(|p| p.min(Protect::Signed)),
                user: entry.stated.user,
                audiences,
                pattern: entry.pattern,
            });
        }
        self.demands
            .retain(|d| d.protect.is_some() || d.user.is_some() || !d.audiences.is_empty());
        self.pair_demands();
    }

    /// Two entries that differ in nothing that decisions depend on are one.
    fn pair_demands(&mut self) {
        let demands = std::mem::take(&mut self.demands);
        let mut by_key = HashMap::new();
        for demand in demands {
            let lits: Vec<Lit> = demand.audiences.iter().map(|a| a.0).collect();
            let key = (demand.pattern.to_nats(), demand.protect, demand.user, lits);
            let known: Option<&usize> = by_key.get(&key);
            match known.and_then(|at| self.demands.get_mut(*at)) {
                Some(known) => {
                    known.sides.before |= demand.sides.before;
                    known.sides.after |= demand.sides.after;
                }
                None => {
                    by_key.insert(key, self.demands.len());
                    self.demands.push(demand);
                }
            }
        }
    }

    /// The number of what a rule says of a pattern; `None` if it says nothing
    /// any more.
    fn meaning(&mut self, rule: &Rule, pattern: &SubjectPattern) -> Option<u32> {
        if rule.shadow && !self.shadow {
            return None;
        }
        let counts = self.atoms.circumstances(rule, self.now)?;
        let mut parts = Vec::new();
        for test in rule.user.iter().flat_map(|c| &c.tests) {
            parts.extend(self.atoms.split(test, pattern));
        }
        let mut terms = self.atoms.ways(&counts, &parts);
        if rule.effect == Effect::Deny {
            // A test that cannot be asked makes a deny rule apply.
            terms.extend(parts.iter().map(|part| {
                let odd = Lit::wrong(part.whole);
                counts.iter().copied().chain(std::iter::once(odd)).collect()
            }));
        }
        let exact = self.exact(rule.effect, &counts, &parts);
        let mut without_user = Vec::new();
        for term in &terms {
            if let Some(left) = self.atoms.without_user(term) {
                without_user.push(self.atoms.term(left));
            }
        }
        let terms = terms.into_iter().map(|t| self.atoms.term(t)).collect();
        let mut parts: Vec<String> = rule.tests().collect();
        parts.extend(rule.hours().map(|hours| format!("it is {hours}")));
        parts.extend(rule.networks().map(|nets| format!("it comes from {nets}")));
        parts.extend(
            rule.expires()
                .map(|end| format!("it is before {}", moment(end))),
        );
        let shown = (!parts.is_empty()).then(|| parts.join(" and ").into());
        let meaning = Meaning {
            effect: rule.effect,
            pattern: pattern.to_nats(),
            terms,
            without_user,
            exact,
            shown,
        };
        if let Some(id) = self.meaning_ids.get(&meaning) {
            return Some(*id);
        }
        let id = u32::try_from(self.meanings.len()).unwrap_or(u32::MAX);
        self.meanings.push(meaning.clone());
        self.meaning_ids.insert(meaning, id);
        Some(id)
    }

    /// The terms of a rule whose tests are taken as they are, and not by the ways
    /// in which each of them can hold.
    fn exact(&mut self, effect: Effect, counts: &[Lit], parts: &[Part]) -> Vec<u32> {
        let mut all = counts.to_vec();
        all.extend(parts.iter().map(|part| Lit::holds(part.whole)));
        let mut out = vec![self.atoms.term(all)];
        if effect == Effect::Deny {
            for part in parts {
                let mut odd = counts.to_vec();
                odd.push(Lit::wrong(part.whole));
                out.push(self.atoms.term(odd));
            }
        }
        out
    }

    /// Everything that is asked where these labels match.
    pub(super) fn asked<'a>(
        &'a self,
        labels: impl IntoIterator<Item = &'a Label>,
    ) -> impl Iterator<Item = Lit> {
        labels.into_iter().flat_map(|label| {
            let (terms, demanded): (&[u32], &[(Lit, Box<str>)]) = match label {
                Label::Rule { meaning, .. } => {
                    let meaning = self.meanings.get(*meaning as usize);
                    (meaning.map_or(&[], |m| &m.exact), &[])
                }
                Label::Demand(at) => (&[], self.demands.get(*at).map_or(&[], |d| &d.audiences)),
                Label::Fixed => (&[], &[]),
            };
            let lits = terms.iter().flat_map(|term| self.atoms.lits(*term));
            lits.copied().chain(demanded.iter().map(|d| d.0))
        })
    }

    /// By place, the literals that conditions tell apart.
    fn compared(
        &mut self,
        labels: &[Label],
        patterns: &[&SubjectPattern],
    ) -> BTreeMap<usize, Vec<u32>> {
        let captures = Captures::of(&self.atoms, self.asked(labels));
        let literals = captures.literals(patterns).into_iter();
        literals
            .map(|(at, texts)| {
                let ids = texts.into_iter().map(|text| self.names.id(&text.into()));
                (at, ids.collect())
            })
            .collect()
    }

    /// The workloads that the rules of both sides name alike are compared once.
    pub(super) fn groups(&self) -> Vec<(RuleSets, Vec<WorkloadName>)> {
        let mut by_name: BTreeMap<&WorkloadName, RuleSets> = BTreeMap::new();
        for (policy, side) in self.sides.iter().zip(0usize..) {
            for workload in policy.workloads() {
                by_name.entry(workload.name()).or_default();
            }
            for (rule, index) in policy.rules.iter().zip(0u32..) {
                let named = rule.who.iter().filter_map(|w| policy.workload_at(*w));
                for workload in named {
                    let sets = by_name.entry(workload.name()).or_default();
                    if let Some(set) = sets.get_mut(side) {
                        set.push(index);
                    }
                }
            }
        }
        let mut by_rules: BTreeMap<RuleSets, Vec<WorkloadName>> = BTreeMap::new();
        for (name, rules) in by_name {
            by_rules.entry(rules).or_default().push(name.clone());
        }
        by_rules.into_iter().collect()
    }

    pub(super) fn label(
        &mut self,
        rules: &RuleSets,
        verb: Verb,
        budget: &mut Budget,
    ) -> (Vec<Label>, Labelled) {
        let mut labels = Vec::new();
        let nothing = || Labelled::new(BTreeMap::new());
        let mut found: BTreeMap<u32, (Option<u32>, Option<u32>)> = BTreeMap::new();
        let mut patterns: HashMap<u32, &SubjectPattern> = HashMap::new();
        for side in 0..rules.len() {
            let (Some(policy), Some(set), Some(entries)) = (
                self.sides.get(side),
                rules.get(side),
                self.entries.get(side),
            ) else {
                continue;
            };
            for rule in set {
                // Entries are in the order of their rules.
                let from = entries.partition_point(|e| e.rule < *rule);
                let its = entries.iter().skip(from).take_while(|e| e.rule == *rule);
                let speaks = policy
                    .rules
                    .get(*rule as usize)
                    .is_some_and(|r| r.verbs.contains(verb));
                for entry in its.filter(|_| speaks) {
                    let place = found.entry(entry.meaning).or_default();
                    let place = if side == 0 {
                        &mut place.0
                    } else {
                        &mut place.1
                    };
                    place.get_or_insert(*rule);
                    patterns.insert(entry.meaning, &entry.tokens);
                }
            }
        }
        if found.is_empty() {
            return (labels, nothing());
        }
        let decided = verb.about() == About::Subjects;
        let demands = self.demands.iter().filter(|_| decided);
        let changes = found.values().any(|(b, a)| b.is_some() != a.is_some())
            || demands.clone().any(|d| d.sides.differ());
        if !changes {
            return (labels, nothing());
        }
        budget.spend(found.len() + self.demands.len());
        let mut known = Vec::new();
        for (meaning, (before, after)) in found {
            let Some(pattern) = patterns.get(&meaning) else {
                continue;
            };
            known.push(((*pattern).clone(), before.is_some() != after.is_some()));
            labels.push(Label::Rule {
                meaning,
                before,
                after,
            });
        }
        for (demand, at) in self.demands.iter().filter(|_| decided).zip(0usize..) {
            known.push((demand.pattern.clone(), demand.sides.differ()));
            labels.push(Label::Demand(at));
        }
        let all: Vec<&SubjectPattern> = known.iter().map(|(pattern, _)| pattern).collect();
        let mut labelled = Labelled::new(self.compared(&labels, &all));
        for (pattern, changed) in &known {
            labelled.insert(pattern.tokens(), *changed, &mut self.names);
        }
        if let Ok(fixed) = SubjectPattern::parse(reserved::EXCHANGE) {
            labelled.insert(fixed.tokens(), false, &mut self.names);
            labels.push(Label::Fixed);
        }
        (labels, labelled)
    }
}
