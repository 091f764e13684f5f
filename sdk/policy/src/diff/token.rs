//! Which tokens of a subject are told apart for the sake of captures.
//!
//! A condition compares a claim with a captured token. Mostly that is all that is
//! asked of the claim, and then one token is as good as another. Where the claim
//! is also compared with texts, with beginnings of texts or with another captured
//! token, it counts whether the token is that text, begins so, or is the same
//! token: the claim is *entangled*. Texts are told apart as literals of subjects
//! are; the rest is told as [`TokenFact`]s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bulla_identity::{PatternToken, Subject, SubjectPattern};

use super::atom::{Atom, Atoms, Lit};
use super::claim::after;
use super::walk::Literals;
use super::world::Tokens;
use crate::condition::{Operand, Test};

/// The most choices of tokens that are compared for one kind of subject.
const MOST_CHOICES: usize = 64;

/// Something that is so of tokens of a subject; they are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TokenFact {
    /// These two are the same text, or are not.
    Same {
        /// The first one.
        one: usize,
        /// The other one.
        other: usize,
        /// Whether they are.
        is: bool,
    },
    /// This one begins with a text, or does not.
    Begins {
        /// Which token.
        token: usize,
        /// The text.
        with: String,
        /// Whether it does.
        is: bool,
    },
}

impl TokenFact {
    /// Whether it is so of a subject; not if the subject is too short.
    #[must_use]
    pub fn is_so(&self, subject: &str) -> bool {
        let token = |at: usize| subject.split('.').nth(at.checked_sub(1)?);
        match self {
            Self::Same { one, other, is } => match (token(*one), token(*other)) {
                (Some(one), Some(other)) => (one == other) == *is,
                _ => false,
            },
            Self::Begins {
                token: at,
                with,
                is,
            } => token(*at).is_some_and(|token| token.starts_with(with.as_str()) == *is),
        }
    }
}

impl fmt::Display for TokenFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same { one, other, is } => {
                let not = if *is { "" } else { "not " };
                write!(f, "tokens {one} and {other} {not}the same")
            }
            Self::Begins { token, with, is } => {
                let verb = if *is { "begins" } else { "does not begin" };
                write!(f, "token {token} {verb} with `{with}`")
            }
        }
    }
}

/// What is asked of one claim that is compared with captures.
#[derive(Debug, Default, Clone)]
struct Captured {
    /// The places of the captures, from 0.
    places: BTreeSet<usize>,
    texts: BTreeSet<String>,
    prefixes: BTreeSet<String>,
}

/// The claims that are compared with captures.
#[derive(Debug, Default)]
pub(super) struct Captures {
    claims: BTreeMap<String, Captured>,
}

/// One choice of tokens where any token may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Choice {
    /// What is so of each subject for which it stands.
    pub(super) facts: Vec<TokenFact>,
    /// By place, from 0.
    pub(super) tokens: Vec<(usize, String)>,
}

impl Captures {
    /// Of everything that is asked.
    pub(super) fn of(atoms: &Atoms, asked: impl IntoIterator<Item = Lit>) -> Self {
        let mut out = Self::default();
        for lit in asked {
            match atoms.atom(lit.atom) {
                Some(Atom::Claim(test)) => {
                    let claim = out.claims.entry(test.claim.to_string()).or_default();
                    claim.read(&test.test);
                }
                Some(Atom::Reach(name)) => {
                    let claim = out.claims.entry("reach".to_owned()).or_default();
                    claim.texts.insert(name.to_string());
                }
                _ => {}
            }
        }
        out.claims.retain(|_, claim| !claim.places.is_empty());
        out
    }

    fn entangled(&self) -> impl Iterator<Item = &Captured> {
        self.claims.values().filter(|claim| {
            claim.places.len() > 1 || !claim.texts.is_empty() || !claim.prefixes.is_empty()
        })
    }

    /// By place, the literals that are to be told apart there: `patterns` are all
    /// that subjects are compared with.
    pub(super) fn literals(
        &self,
        patterns: &[&SubjectPattern],
    ) -> BTreeMap<usize, BTreeSet<String>> {
        let mut out: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for claim in self.entangled() {
            let mut texts: BTreeSet<String> = claim
                .texts
                .iter()
                .filter(|t| is_token(t))
                .cloned()
                .collect();
            if claim.places.len() > 1 {
                // One captured token may be what another one is in some pattern.
                let at = |pattern: &SubjectPattern| -> Vec<PatternToken> {
                    let places = claim.places.iter();
                    places
                        .filter_map(|at| pattern.tokens().get(*at).cloned())
                        .collect()
                };
                let captures = |pattern: &&&SubjectPattern| {
                    let found = at(pattern);
                    found.iter().any(|t| matches!(t, PatternToken::Capture(_)))
                };
                let capturing: Vec<_> = patterns.iter().filter(captures).collect();
                let meets = |pattern: &&&SubjectPattern| {
                    capturing.iter().any(|other| other.overlaps(pattern))
                };
                for token in patterns.iter().filter(meets).flat_map(|p| at(p)) {
                    if let PatternToken::Literal(text) = token {
                        texts.insert(text.to_string());
                    }
                }
            }
            for place in &claim.places {
                out.entry(*place).or_default().extend(texts.iter().cloned());
            }
        }
        out
    }

    /// Every choice of tokens that conditions can tell apart, for subjects of
    /// which the literals at some places are `known`; none if there are too many.
    pub(super) fn choices(
        &self,
        known: &[(usize, u32)],
        names: &Literals,
    ) -> Vec<(Choice, Tokens)> {
        let named: BTreeMap<usize, &str> = known
            .iter()
            .map(|(at, id)| (*at, names.name(*id)))
            .collect();
        let all: BTreeSet<usize> = self
            .claims
            .values()
            .flat_map(|c| c.places.iter().copied())
            .collect();
        let mut base = Tokens::default();
        for at in &all {
            // A token like no other: nothing else is asked of its claim.
            let token = named
                .get(at)
                .map_or_else(|| format!("#{at}"), |name| (*name).to_owned());
            base.know(*at, token);
        }
        let open: BTreeSet<usize> = self
            .entangled()
            .flat_map(|claim| claim.places.iter().copied())
            .filter(|at| !named.contains_key(at))
            .collect();
        let open: Vec<usize> = open.into_iter().collect();
        let mut out = Vec::new();
        for blocks in self.partitions(&open) {
            for begins in self.beginnings(&blocks) {
                let choice = self.choice(&blocks, &begins, names);
                let Some(choice) = choice.filter(|_| out.len() < MOST_CHOICES) else {
                    return Vec::new();
                };
                let mut tokens = base.clone();
                for (at, token) in &choice.tokens {
                    tokens.know(*at, token.clone());
                }
                out.push((choice, tokens));
            }
        }
        out
    }

    fn is_compared(&self, one: usize, other: usize) -> bool {
        let mut claims = self.claims.values();
        claims.any(|claim| claim.places.contains(&one) && claim.places.contains(&other))
    }

    /// Which of these places have the same token: every way that makes a
    /// difference.
    fn partitions(&self, open: &[usize]) -> Vec<Vec<Vec<usize>>> {
        let mut out: Vec<Vec<Vec<usize>>> = vec![Vec::new()];
        for at in open {
            let mut longer = Vec::new();
            for blocks in &out {
                for (i, block) in blocks.iter().enumerate() {
                    if block.iter().any(|other| self.is_compared(*at, *other)) {
                        let mut with = blocks.clone();
                        if let Some(block) = with.get_mut(i) {
                            block.push(*at);
                        }
                        longer.push(with);
                    }
                }
                let mut with = blocks.clone();
                with.push(vec![*at]);
                longer.push(with);
            }
            longer.truncate(MOST_CHOICES + 1);
            out = longer;
        }
        out
    }

    /// The beginnings that are told apart at these places, none of them included.
    fn prefixes(&self, block: &[usize]) -> Vec<&str> {
        let claims = self
            .entangled()
            .filter(|c| block.iter().any(|at| c.places.contains(at)));
        let mut out: Vec<&str> = claims
            .flat_map(|c| c.prefixes.iter().map(String::as_str))
            .filter(|prefix| is_token(prefix))
            .collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// For each block the longest beginning that its token has.
    fn beginnings(&self, blocks: &[Vec<usize>]) -> Vec<Vec<Option<&str>>> {
        let mut out: Vec<Vec<Option<&str>>> = vec![Vec::new()];
        for block in blocks {
            let prefixes = self.prefixes(block);
            let ways = || prefixes.iter().copied().map(Some).chain([None]);
            let longer = out.iter().flat_map(|known| {
                ways().map(move |way| {
                    let mut with = known.clone();
                    with.push(way);
                    with
                })
            });
            out = longer.take(MOST_CHOICES + 1).collect();
        }
        out
    }

    fn choice(
        &self,
        blocks: &[Vec<usize>],
        begins: &[Option<&str>],
        names: &Literals,
    ) -> Option<Choice> {
        let mut taken: Vec<String> = names.all().map(str::to_owned).collect();
        taken.extend(self.claims.values().flat_map(|c| c.texts.iter().cloned()));
        let mut out = Choice::default();
        for (block, begin) in blocks.iter().zip(begins) {
            let prefixes = self.prefixes(block);
            let all: Vec<String> = prefixes.iter().map(|p| (*p).to_owned()).collect();
            let token = after(begin.unwrap_or_default(), &taken, &all)?;
            if !is_token(&token) {
                return None;
            }
            taken.push(token.clone());
            for at in block {
                out.tokens.push((*at, token.clone()));
            }
            let first = *block.first()?;
            let mut fact = |with: &str, is| {
                out.facts.push(TokenFact::Begins {
                    token: first + 1,
                    with: with.to_owned(),
                    is,
                });
            };
            if let Some(begin) = begin {
                fact(begin, true);
            }
            let from = begin.unwrap_or_default();
            for with in prefixes
                .iter()
                .filter(|p| p.len() > from.len() && p.starts_with(from))
            {
                fact(with, false);
            }
        }
        let place = |at: usize| blocks.iter().position(|block| block.contains(&at));
        let open: BTreeSet<usize> = blocks.iter().flatten().copied().collect();
        for one in &open {
            for other in open.iter().filter(|other| *other > one) {
                if self.is_compared(*one, *other) {
                    out.facts.push(TokenFact::Same {
                        one: one + 1,
                        other: other + 1,
                        is: place(*one) == place(*other),
                    });
                }
            }
        }
        out.tokens.sort_unstable();
        out.facts.sort_unstable();
        Some(out)
    }
}

impl Captured {
    fn read(&mut self, test: &Test) {
        match test {
            Test::Equals(operand) => self.operand(operand),
            Test::Any(operands) | Test::All(operands) => {
                operands.iter().for_each(|o| self.operand(o));
            }
            Test::Prefix(prefix) => {
                self.prefixes.insert(prefix.to_string());
            }
            Test::Scopes(_) | Test::Range { .. } | Test::Present(_) => {}
        }
    }

    fn operand(&mut self, operand: &Operand) {
        match operand {
            Operand::Text(text) => {
                self.texts.insert(text.to_string());
            }
            Operand::Capture(name) => {
                let place = name.strip_prefix('#');
                let place = place.and_then(|at| at.parse::<usize>().ok());
                self.places.extend(place);
            }
            Operand::Number(_) | Operand::Bool(_) => {}
        }
    }
}

/// Whether a token of a subject can be this text.
fn is_token(text: &str) -> bool {
    !text.contains('.') && Subject::parse(text).is_ok()
}
