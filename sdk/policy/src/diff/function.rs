//! What the rules for one verb say of one subject, as a function of atoms.
//!
//! Of messages with a user, and of messages without, it is: all of `base`, and
//! some term of `allow`, and no term of `deny`. Allow and deny terms both only
//! ever become true by more atoms, so that the question whether one function
//! allows what another does not is settled by the smallest combinations: an
//! allow term by itself, and with one deny term of the other side. No search
//! through all combinations is needed.
//!
//! What is asked here is quick and misses nothing, but takes for possible what two
//! tests of one claim by themselves do not exclude. Where it says yes,
//! [`search`](super::search) looks for a message.

use super::atom::{Atoms, Lit};
use super::walk::Budget;

/// One side of a comparison.
#[derive(Debug, Clone, Default)]
pub(super) struct Function {
    /// `None`: the subject refuses every message with a user.
    pub(super) with_user: Option<Case>,
    /// `None`: the subject refuses every message without one.
    pub(super) without_user: Option<Case>,
}

/// Terms are numbers in [`Atoms`], sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) base: Vec<Lit>,
    pub(super) allow: Vec<u32>,
    pub(super) deny: Vec<u32>,
}

impl Function {
    /// Whether this may allow what `other` refuses. If not, it does not.
    pub(super) fn may_exceed(&self, other: &Self, atoms: &Atoms, budget: &mut Budget) -> bool {
        let mut ask = |mine: &Option<Case>, theirs: &Option<Case>| {
            let Some(mine) = mine else { return false };
            mine.may_exceed(theirs.as_ref(), atoms, budget)
        };
        ask(&self.without_user, &other.without_user) || ask(&self.with_user, &other.with_user)
    }
}

impl Case {
    fn may_exceed(&self, other: Option<&Self>, atoms: &Atoms, budget: &mut Budget) -> bool {
        if other == Some(self) {
            return false;
        }
        for allow in &self.allow {
            budget.spend(1 + self.deny.len());
            if budget.is_spent() {
                return false;
            }
            let alone = merged(&self.base, atoms.lits(*allow));
            // More atoms never undo a deny.
            if !atoms.possible(&alone) || self.denies(&alone, atoms) {
                continue;
            }
            let Some(other) = other else {
                return true;
            };
            let same = other.base == self.base && other.allow.binary_search(allow).is_ok();
            let admits = same && other.deny == self.deny;
            if !admits && !other.admits(&alone, atoms, budget) {
                return true;
            }
            for deny in &other.deny {
                if self.deny.binary_search(deny).is_ok() {
                    continue;
                }
                budget.spend(1 + self.deny.len());
                let both = merged(&alone, atoms.lits(*deny));
                if atoms.possible(&both) && !self.denies(&both, atoms) {
                    return true;
                }
            }
        }
        false
    }

    fn denies(&self, given: &[Lit], atoms: &Atoms) -> bool {
        self.deny
            .iter()
            .any(|term| atoms.follows(given, atoms.lits(*term)))
    }

    fn admits(&self, given: &[Lit], atoms: &Atoms, budget: &mut Budget) -> bool {
        budget.spend(self.allow.len() + self.deny.len());
        atoms.follows(given, &self.base)
            && self
                .allow
                .iter()
                .any(|term| atoms.follows(given, atoms.lits(*term)))
            && !self.denies(given, atoms)
    }
}

fn merged(some: &[Lit], more: &[Lit]) -> Vec<Lit> {
    let mut out = [some, more].concat();
    out.sort_unstable();
    out.dedup();
    out
}
