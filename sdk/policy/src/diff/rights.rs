//! Who may do what, before and after.

use std::collections::HashMap;
use std::sync::Arc;

use bulla_identity::{SubjectPattern, UnixMillis, WorkloadName};

use super::atom::{Atoms, Lit};
use super::example;
use super::function::{Case, Function};
use super::region::{NONE, Regions, Shape};
use super::token::{Captures, Choice};
use super::walk::{Budget, Literals};
use super::words::{everywhere, joined, place, unknown, witness};
use super::world::{Tokens, World, Worlds};
use super::{Allowance, ChangeKind, Example, MOST_PLACES, RightChange, RuleChange, SubjectSet};
use crate::policy::Policy;
use crate::requirements::{Protect, UserRule};
use crate::rule::{Effect, Verb};

mod reading;
mod words;

/// The value of what was not compared.
const UNKNOWN: u32 = 1;
/// The value of the first change.
const FIRST: u32 = 2;

/// The most kinds of change that are told apart for one workload and verb.
const MOST_DELTAS: usize = 2_000;

/// Beyond that, conditions that follow from others are told all the same.
const MOST_WEIGHED: usize = 64;

pub(super) fn compare(
    before: &Policy,
    after: &Policy,
    now: UnixMillis,
    shadow: bool,
    budget: &mut Budget,
) -> Vec<RightChange> {
    let mut comparison = Comparison {
        sides: [before, after],
        now,
        shadow,
        atoms: Atoms::default(),
        names: Literals::default(),
        meanings: Vec::new(),
        meaning_ids: HashMap::new(),
        entries: [Vec::new(), Vec::new()],
        demands: Vec::new(),
    };
    comparison.read();
    let mut out = Vec::new();
    for (rules, workloads) in comparison.groups() {
        for verb in Verb::ALL {
            out.extend(comparison.compare(&rules, &workloads, verb, budget));
        }
    }
    joined(out)
}

/// What one pattern of one rule means, whatever the rule is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Meaning {
    effect: Effect,
    pattern: String,
    /// Where any of these holds, the rule applies.
    terms: Vec<u32>,
    /// The same for a message without a user.
    without_user: Vec<u32>,
    /// The same as `terms`, of which a message can be made.
    exact: Vec<u32>,
    shown: Option<Arc<str>>,
}

/// One pattern of one rule of one side.
struct RuleEntry {
    rule: u32,
    tokens: SubjectPattern,
    meaning: u32,
}

/// What one `[subject]` entry contributes to decisions.
struct DemandEntry {
    pattern: SubjectPattern,
    sides: Sides,
    /// `signed` for everything that is not open: decisions do not tell more.
    protect: Option<Protect>,
    user: Option<UserRule>,
    audiences: Vec<(Lit, Box<str>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sides {
    before: bool,
    after: bool,
}

enum Label {
    Rule {
        meaning: u32,
        before: Option<u32>,
        after: Option<u32>,
    },
    Demand(usize),
    /// Where requirements are fixed, whatever `[subject]` says.
    Fixed,
}

/// A kind of change, by everything that is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Delta {
    kind: ChangeKind,
    before: Option<Allowance>,
    after: Option<Allowance>,
    rules: Vec<RuleChange>,
    by_requirements: bool,
}

/// Rules of one workload, by place in each policy.
type RuleSets = [Vec<u32>; 2];

struct Comparison<'p> {
    sides: [&'p Policy; 2],
    now: UnixMillis,
    /// Whether rules in shadow count as if they were enforced.
    shadow: bool,
    atoms: Atoms,
    names: Literals,
    meanings: Vec<Meaning>,
    meaning_ids: HashMap<Meaning, u32>,
    entries: [Vec<RuleEntry>; 2],
    demands: Vec<DemandEntry>,
}

impl Sides {
    const fn differ(self) -> bool {
        self.before != self.after
    }

    const fn has(self, side: usize) -> bool {
        if side == 0 { self.before } else { self.after }
    }
}

impl Comparison<'_> {
    fn compare(
        &mut self,
        rules: &RuleSets,
        workloads: &[WorkloadName],
        verb: Verb,
        budget: &mut Budget,
    ) -> Vec<RightChange> {
        let (labels, labelled) = self.label(rules, verb, budget);
        if !labelled.is_changed() {
            return Vec::new();
        }
        let mut regions = Regions::new(budget.part(), MOST_PLACES);
        let mut deltas = Deltas::default();
        let map = labelled.map(&mut regions, UNKNOWN, &mut |found, known, budget| {
            self.value(found, known, &labels, &mut deltas, budget)
        });
        let mut out = Vec::new();
        for value in regions.values(map) {
            if value == NONE {
                continue;
            }
            let set = regions.only(map, value);
            let shapes = regions.shapes(set);
            if regions.is_cut() {
                out.push(unknown(workloads, verb, vec![everywhere()]));
                break;
            }
            let told = value
                .checked_sub(FIRST)
                .and_then(|at| deltas.all.get(at as usize));
            let Some(told) = told else {
                out.push(unknown(workloads, verb, self.places(&shapes)));
                continue;
            };
            for (choice, delta) in told {
                let mut sets = self.places(&shapes);
                let mut proven = true;
                for (place, shape) in sets.iter_mut().zip(&shapes) {
                    let found = labelled.matching(&shape.pattern);
                    let found = found.iter().filter_map(|l| labels.get(*l as usize));
                    let found: Vec<&Label> = found.collect();
                    let subject = witness(&self.names, &shape.pattern, &choice.tokens);
                    place.tokens.clone_from(&choice.facts);
                    let budget = &mut regions.budget;
                    match self.examples(&subject, &found, workloads, verb, budget) {
                        Some(examples) => place.examples = examples,
                        None => proven = false,
                    }
                }
                // What the engine does not bear out is no finding.
                if !proven {
                    out.push(unknown(workloads, verb, sets));
                    continue;
                }
                out.push(RightChange {
                    workloads: workloads.to_vec(),
                    verbs: vec![verb],
                    kind: delta.kind,
                    sets,
                    before: delta.before.clone(),
                    after: delta.after.clone(),
                    rules: delta.rules.clone(),
                    by_requirements: delta.by_requirements,
                });
            }
        }
        budget.give_back(&regions.budget);
        out
    }

    /// What the labels that match a subject make of it, of which the literals at
    /// some places are `known`.
    fn value(
        &self,
        found: &[u32],
        known: &[(usize, u32)],
        labels: &[Label],
        deltas: &mut Deltas,
        budget: &mut Budget,
    ) -> u32 {
        budget.spend(1 + found.len());
        let labels: Vec<&Label> = found
            .iter()
            .filter_map(|l| labels.get(*l as usize))
            .collect();
        let [before, after] = [0, 1].map(|side| self.function(side, &labels));
        let may = [
            after.may_exceed(&before, &self.atoms, budget),
            before.may_exceed(&after, &self.atoms, budget),
        ];
        if may == [false, false] && !budget.is_spent() {
            return NONE;
        }
        let sides = [0, 1].map(|side| self.exact_function(side, &labels));
        let captures = Captures::of(&self.atoms, self.asked(labels.iter().copied()));
        let choices = captures.choices(known, &self.names);
        let mut kinds = Vec::with_capacity(choices.len());
        for (choice, tokens) in choices {
            kinds.push((choice, self.kind(may, &sides, &tokens, budget)));
        }
        if budget.is_spent() || deltas.all.len() >= MOST_DELTAS || kinds.is_empty() {
            return UNKNOWN;
        }
        let alike = kinds.first().map(|(_, kind)| *kind);
        if let Some(kind) = alike.filter(|kind| kinds.iter().all(|(_, other)| other == kind)) {
            // Then it does not matter which tokens they are.
            kinds = vec![(Choice::default(), kind)];
        }
        let told: Told = kinds
            .into_iter()
            .filter_map(|(choice, kind)| Some((choice, self.delta(kind?, &labels))))
            .collect();
        if told.is_empty() {
            return NONE;
        }
        deltas.number(told)
    }

    /// How a right changed on subjects with these tokens, if it did.
    fn kind(
        &self,
        may: [bool; 2],
        [before, after]: &[Function; 2],
        tokens: &Tokens,
        budget: &mut Budget,
    ) -> Option<ChangeKind> {
        let worlds = self.worlds(tokens);
        let [gives, takes] = may;
        let gives = gives && worlds.between(after, before, budget).is_some();
        let takes = takes && worlds.between(before, after, budget).is_some();
        let nothing = Function::default();
        let mut ever = |side| worlds.between(side, &nothing, budget).is_some();
        match (gives, takes) {
            (false, false) => None,
            (true, true) => Some(ChangeKind::Changed),
            (true, false) if ever(before) => Some(ChangeKind::Widened),
            (true, false) => Some(ChangeKind::Gained),
            (false, true) if ever(after) => Some(ChangeKind::Narrowed),
            (false, true) => Some(ChangeKind::Lost),
        }
    }

    fn delta(&self, kind: ChangeKind, labels: &[&Label]) -> Delta {
        let demands = labels.iter().filter_map(|l| match l {
            Label::Demand(at) => self.demands.get(*at),
            _ => None,
        });
        let fixed = labels.iter().any(|l| matches!(l, Label::Fixed));
        Delta {
            kind,
            before: (kind != ChangeKind::Gained).then(|| self.allowance(0, labels)),
            after: (kind != ChangeKind::Lost).then(|| self.allowance(1, labels)),
            rules: self.rule_changes(labels),
            by_requirements: !fixed && demands.into_iter().any(|d| d.sides.differ()),
        }
    }

    fn worlds<'a>(&'a self, tokens: &'a Tokens) -> Worlds<'a> {
        Worlds {
            atoms: &self.atoms,
            tokens,
            now: self.now,
        }
    }

    /// The same function as [`Comparison::function`], of which messages can be
    /// made.
    fn exact_function(&self, side: usize, labels: &[&Label]) -> Function {
        let (mut allow, mut deny) = (Vec::new(), Vec::new());
        for meaning in self.meanings_of(side, labels) {
            match meaning.effect {
                Effect::Allow => allow.extend(&meaning.exact),
                Effect::Deny => deny.extend(&meaning.exact),
            }
        }
        for terms in [&mut allow, &mut deny] {
            terms.sort_unstable();
            terms.dedup();
        }
        let mut function = self.function(side, labels);
        let cases = [&mut function.with_user, &mut function.without_user];
        for case in cases.into_iter().flatten() {
            case.allow.clone_from(&allow);
            case.deny.clone_from(&deny);
        }
        function
    }

    fn function(&self, side: usize, labels: &[&Label]) -> Function {
        let (user, audiences) = self.demanded(side, labels);
        let mut with_user = Case {
            base: audiences.iter().map(|a| a.0).collect(),
            ..Case::default()
        };
        with_user.base.sort_unstable();
        let mut without_user = Case::default();
        for meaning in self.meanings_of(side, labels) {
            let (all, none) = match meaning.effect {
                Effect::Allow => (&mut with_user.allow, &mut without_user.allow),
                Effect::Deny => (&mut with_user.deny, &mut without_user.deny),
            };
            all.extend(&meaning.terms);
            none.extend(&meaning.without_user);
        }
        for terms in [
            &mut with_user.allow,
            &mut with_user.deny,
            &mut without_user.allow,
            &mut without_user.deny,
        ] {
            terms.sort_unstable();
            terms.dedup();
        }
        Function {
            with_user: (user != UserRule::None).then_some(with_user),
            without_user: (user != UserRule::Required).then_some(without_user),
        }
    }

    /// Whether a user is demanded, and what its token has to reach.
    fn demanded(&self, side: usize, labels: &[&Label]) -> (UserRule, Vec<&(Lit, Box<str>)>) {
        let mut stated = (None, None);
        let mut audiences: Vec<&(Lit, Box<str>)> = Vec::new();
        for label in labels {
            match label {
                Label::Fixed => return (UserRule::Optional, Vec::new()),
                Label::Demand(at) => {
                    if let Some(demand) = self.demands.get(*at).filter(|d| d.sides.has(side)) {
                        stated = (stated.0.max(demand.protect), stated.1.max(demand.user));
                        audiences.extend(&demand.audiences);
                    }
                }
                Label::Rule { .. } => {}
            }
        }
        audiences.sort_unstable();
        audiences.dedup();
        let user = match stated {
            (Some(Protect::Open), _) => UserRule::None,
            (_, user) => user.unwrap_or(UserRule::Optional),
        };
        (user, audiences)
    }

    fn meanings_of<'a>(
        &'a self,
        side: usize,
        labels: &'a [&Label],
    ) -> impl Iterator<Item = &'a Meaning> {
        labels.iter().filter_map(move |label| match label {
            Label::Rule {
                meaning,
                before,
                after,
            } => {
                let here = if side == 0 { before } else { after };
                here.and_then(|_| self.meanings.get(*meaning as usize))
            }
            Label::Demand(_) | Label::Fixed => None,
        })
    }

    /// A message for each direction in which the right changed on `subject`;
    /// nothing if the engine does not say of one what was found.
    fn examples(
        &self,
        subject: &str,
        labels: &[&Label],
        workloads: &[WorkloadName],
        verb: Verb,
        budget: &mut Budget,
    ) -> Option<Vec<Example>> {
        let asked = example::Asked {
            sides: self.sides,
            who: workloads.first()?,
            verb,
            now: self.now,
            shadow: self.shadow,
        };
        let tokens = Tokens::of(subject);
        let worlds = self.worlds(&tokens);
        let [before, after] = [0, 1].map(|side| self.exact_function(side, labels));
        let gives = worlds.between(&after, &before, budget);
        let takes = worlds.between(&before, &after, budget);
        let messages = [(gives, true), (takes, false)].into_iter();
        let found = messages.filter_map(|(world, allowed): (Option<World>, bool)| {
            let world = world?;
            Some(asked.example(subject, &world, allowed))
        });
        found.collect()
    }

    fn places(&self, shapes: &[Shape]) -> Vec<SubjectSet> {
        shapes.iter().map(|s| place(&self.names, s)).collect()
    }
}

/// What is told of a subject; where conditions tell tokens apart, for each choice
/// of them that changes anything.
type Told = Vec<(Choice, Delta)>;

/// Each kind of change by its number.
#[derive(Default)]
struct Deltas {
    all: Vec<Told>,
    ids: HashMap<Told, u32>,
}

impl Deltas {
    fn number(&mut self, told: Told) -> u32 {
        if let Some(id) = self.ids.get(&told) {
            return *id;
        }
        let id = u32::try_from(self.all.len())
            .unwrap_or(u32::MAX)
            .saturating_add(FIRST);
        self.all.push(told.clone());
        self.ids.insert(told, id);
        id
    }
}
