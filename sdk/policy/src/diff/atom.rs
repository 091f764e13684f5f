//! What a decision depends on beside workload, verb and subject.
//!
//! A condition is taken apart into *atoms*, single tests. Two policies are
//! compared over every combination of atoms, first by what single tests of one
//! claim say of each other, which is quick and misses nothing, and where that
//! finds a difference by looking for a message that shows it (`search`).

use std::collections::HashMap;

use bulla_identity::{PatternToken, SubjectPattern, UnixMillis};

use super::value::{Says, Valued, implies};
use crate::circumstances::Networks;
use crate::condition::{ClaimTest, Operand, Test};
use crate::rule::Rule;
use crate::schedule::Schedule;

/// One test; a capture in it is named after the place of its token, `#2`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Atom {
    /// Of a claim of the user.
    Claim(ClaimTest),
    /// A claim of the user is a list that has one of these.
    List {
        claim: Box<str>,
        operands: Box<[Operand]>,
    },
    /// The user's token reaches this audience.
    Reach(Box<str>),
    /// It is before this moment.
    Before(UnixMillis),
    /// It is one of these hours.
    Hours(Schedule),
    /// The client connects from one of these networks.
    From(Networks),
}

/// That an atom holds, or that its claim is of a type that it cannot be asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lit {
    pub(super) atom: u32,
    pub(super) wrong_type: bool,
}

/// One test that has to hold.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// The test.
    pub(super) whole: u32,
    /// The atoms by any one of which it holds.
    pub(super) ways: Vec<u32>,
}

/// The most ways in which a condition is taken apart.
const MOST_WAYS: usize = 64;

/// All of these; sorted. A term without any always holds.
pub(super) type Term = Box<[Lit]>;

/// Every atom and term of two policies, by number.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    atoms: Vec<Atom>,
    ids: HashMap<String, u32>,
    terms: Vec<Term>,
    term_ids: HashMap<Term, u32>,
}

impl Atoms {
    /// The number of an atom; equal atoms have one.
    pub(super) fn id(&mut self, atom: Atom) -> u32 {
        let key = match &atom {
            Atom::Claim(test) => format!("claim {} {test}", test.claim),
            Atom::List { claim, operands } => {
                let test = ClaimTest {
                    claim: claim.clone(),
                    test: Test::Any(operands.clone()),
                };
                format!("list {claim} {test}")
            }
            Atom::Reach(name) => format!("reach {name}"),
            Atom::Before(end) => format!("before {end}"),
            Atom::Hours(hours) => format!("hours {hours}"),
            Atom::From(networks) => format!("from {networks}"),
        };
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = u32::try_from(self.atoms.len()).unwrap_or(u32::MAX);
        self.atoms.push(atom);
        self.ids.insert(key, id);
        id
    }

    /// The parts that all have to hold for a test of a rule's condition to hold.
    pub(super) fn split(&mut self, test: &ClaimTest, pattern: &SubjectPattern) -> Vec<Part> {
        let parts = match &test.test {
            Test::Scopes(scopes) => scopes
                .iter()
                .map(|scope| Test::Scopes([scope.clone()].into()))
                .collect(),
            Test::All(operands) => operands.iter().map(|o| any(vec![o.clone()])).collect(),
            Test::Any(operands) => vec![any(operands.to_vec())],
            Test::Range {
                min: Some(min),
                max: Some(max),
            } => vec![
                Test::Range {
                    min: Some(*min),
                    max: None,
                },
                Test::Range {
                    min: None,
                    max: Some(*max),
                },
            ],
            other => vec![other.clone()],
        };
        parts
            .into_iter()
            .map(|part| self.part(&test.claim, placed(part, pattern)))
            .collect()
    }

    fn part(&mut self, claim: &str, test: Test) -> Part {
        let mut atom = |test| {
            self.id(Atom::Claim(ClaimTest {
                claim: claim.into(),
                test,
            }))
        };
        let whole = atom(test.clone());
        let Test::Any(operands) = test else {
            return Part {
                whole,
                ways: vec![whole],
            };
        };
        // The value is one of these, or a list that has one of them.
        let one_of = operands.iter().map(|o| atom(Test::Equals(o.clone())));
        let mut ways: Vec<u32> = one_of.collect();
        ways.push(self.id(Atom::List {
            claim: claim.into(),
            operands,
        }));
        Part { whole, ways }
    }

    /// Every way in which all parts can hold, together with `base`. Beyond
    /// [`MOST_WAYS`] the parts are taken as they are.
    pub(super) fn ways(&self, base: &[Lit], parts: &[Part]) -> Vec<Vec<Lit>> {
        let mut out = vec![base.to_vec()];
        for part in parts {
            let longer = out.iter().flat_map(|known| {
                part.ways.iter().map(|way| {
                    let mut lits = known.clone();
                    lits.push(Lit::holds(*way));
                    lits
                })
            });
            out = longer.filter(|lits| self.possible(lits)).collect();
            if out.len() > MOST_WAYS {
                let whole = parts.iter().map(|part| Lit::holds(part.whole));
                return vec![base.iter().copied().chain(whole).collect()];
            }
        }
        out
    }

    /// What a rule needs to count: `None` if it never does from `now` on.
    pub(super) fn circumstances(&mut self, rule: &Rule, now: UnixMillis) -> Option<Vec<Lit>> {
        let mut out = Vec::new();
        if let Some(end) = rule.expires() {
            if end <= now {
                return None;
            }
            out.push(Lit::holds(self.id(Atom::Before(end))));
        }
        if let Some(hours) = rule.hours() {
            out.push(Lit::holds(self.id(Atom::Hours(hours.clone()))));
        }
        if let Some(networks) = rule.networks() {
            out.push(Lit::holds(self.id(Atom::From(networks.clone()))));
        }
        Some(out)
    }

    pub(super) fn term(&mut self, mut lits: Vec<Lit>) -> u32 {
        lits.sort_unstable();
        lits.dedup();
        let term: Term = lits.into();
        if let Some(id) = self.term_ids.get(&term) {
            return *id;
        }
        let id = u32::try_from(self.terms.len()).unwrap_or(u32::MAX);
        self.terms.push(term.clone());
        self.term_ids.insert(term, id);
        id
    }

    pub(super) fn lits(&self, term: u32) -> &[Lit] {
        self.terms.get(term as usize).map_or(&[], |lits| lits)
    }

    pub(super) fn atom(&self, id: u32) -> Option<&Atom> {
        self.atoms.get(id as usize)
    }

    /// Whether everything in `term` is among `given`, or follows from it.
    pub(super) fn follows(&self, given: &[Lit], term: &[Lit]) -> bool {
        term.iter().all(|want| {
            let holding = || given.iter().filter(|have| !have.wrong_type);
            given.contains(want)
                || if want.wrong_type {
                    holding().any(|have| self.makes_odd(have.atom, want.atom))
                } else {
                    holding().any(|have| self.implies(have.atom, want.atom))
                }
        })
    }

    /// Whether, as far as two tests of one claim tell, all of this can be at once.
    pub(super) fn possible(&self, given: &[Lit]) -> bool {
        given.iter().enumerate().all(|(i, a)| {
            let earlier = || given.iter().take(i);
            let meet = |b: &Lit| match (self.atom(a.atom), self.atom(b.atom)) {
                (Some(Atom::Hours(x)), Some(Atom::Hours(y))) => x.overlaps(y),
                (Some(Atom::From(x)), Some(Atom::From(y))) => x.overlap(y),
                _ => true,
            };
            let pairs = || {
                let values = earlier().filter_map(|b| Some((self.value(a)?, self.value(b)?)));
                values.filter(|(x, y)| x.claim == y.claim)
            };
            earlier().all(meet)
                && pairs().all(|(x, y)| match (x.wrong_type, y.wrong_type) {
                    (true, true) => true,
                    (true, false) => x.may_be_odd_beside(&y),
                    (false, true) => y.may_be_odd_beside(&x),
                    (false, false) => !x.excludes(&y),
                })
        })
    }

    /// Whether the term can be true of a message without a user, and what is
    /// left of it then.
    pub(super) fn without_user(&self, term: &[Lit]) -> Option<Vec<Lit>> {
        let mut out = Vec::new();
        for lit in term {
            match self.atom(lit.atom)? {
                Atom::Claim(test) if test.test == Test::Present(false) && !lit.wrong_type => {}
                Atom::Claim(_) | Atom::List { .. } | Atom::Reach(_) => return None,
                Atom::Before(_) | Atom::Hours(_) | Atom::From(_) => out.push(*lit),
            }
        }
        out.sort_unstable();
        Some(out)
    }

    /// Whether some rule asks from where a client connects.
    pub(super) fn has_networks(&self) -> bool {
        self.atoms.iter().any(|atom| matches!(atom, Atom::From(_)))
    }

    fn value(&self, lit: &Lit) -> Option<Valued<'_>> {
        let (claim, says) = match self.atom(lit.atom)? {
            Atom::Claim(test) => (&test.claim, Says::Test(&test.test)),
            Atom::List { claim, .. } => (claim, Says::List),
            Atom::Reach(_) | Atom::Before(_) | Atom::Hours(_) | Atom::From(_) => return None,
        };
        Some(Valued {
            claim,
            says,
            wrong_type: lit.wrong_type,
        })
    }

    /// Whether `one` holds only of values that `other` cannot be asked of.
    fn makes_odd(&self, one: u32, other: u32) -> bool {
        let pair = self
            .value(&Lit::holds(one))
            .zip(self.value(&Lit::wrong(other)));
        pair.is_some_and(|(x, y)| x.claim == y.claim && y.is_odd_beside(&x))
    }

    fn implies(&self, one: u32, other: u32) -> bool {
        match (self.atom(one), self.atom(other)) {
            (Some(Atom::Claim(x)), Some(Atom::Claim(y))) => {
                x.claim == y.claim && implies(&x.test, &y.test)
            }
            (
                Some(Atom::List { claim, operands }),
                Some(Atom::List {
                    claim: of,
                    operands: list,
                }),
            ) => claim == of && operands.iter().all(|o| list.contains(o)),
            (Some(Atom::List { claim, operands }), Some(Atom::Claim(test))) => {
                *claim == test.claim && implies(&Test::Any(operands.clone()), &test.test)
            }
            (Some(Atom::Before(x)), Some(Atom::Before(y))) => x <= y,
            (Some(Atom::Hours(x)), Some(Atom::Hours(y))) => x.within(y),
            (Some(Atom::From(x)), Some(Atom::From(y))) => x.within(y),
            _ => false,
        }
    }
}

impl Lit {
    pub(super) const fn holds(atom: u32) -> Self {
        Self {
            atom,
            wrong_type: false,
        }
    }

    pub(super) const fn wrong(atom: u32) -> Self {
        Self {
            atom,
            wrong_type: true,
        }
    }
}

/// `any`, its operands in one order.
fn any(mut operands: Vec<Operand>) -> Test {
    operands.sort_by_cached_key(ToString::to_string);
    operands.dedup();
    Test::Any(operands.into())
}

/// The test with its captures named after their places.
fn placed(test: Test, pattern: &SubjectPattern) -> Test {
    let place = |operand: Operand| match operand {
        Operand::Capture(name) => {
            let at = pattern
                .tokens()
                .iter()
                .position(|t| matches!(t, PatternToken::Capture(n) if **n == *name));
            match at {
                Some(at) => Operand::Capture(format!("#{at}").into()),
                None => Operand::Capture(name),
            }
        }
        other => other,
    };
    match test {
        Test::Equals(operand) => Test::Equals(place(operand)),
        Test::Any(operands) => any(operands.into_iter().map(place).collect()),
        Test::All(operands) => Test::All(operands.into_iter().map(place).collect()),
        other => other,
    }
}
