//! Is there a message that one side allows and the other refuses?
//!
//! A function of [`function`](super::function) is asked for by what has to be
//! true, one allow term with all of its base, and by terms none of which may be.
//! Of these a message is made ([`world`](super::world)); where a term is true of
//! it that may not be, one of the term's literals has to be false: each is tried
//! in turn. So a message is found if there is one, and if none is found there is
//! none.

use super::atom::Lit;
use super::function::{Case, Function};
use super::walk::Budget;
use super::world::{Known, World, Worlds};

impl Worlds<'_> {
    /// A message that `mine` allows and `theirs` refuses. Nothing also where the
    /// budget is spent.
    pub(super) fn between(
        &self,
        mine: &Function,
        theirs: &Function,
        budget: &mut Budget,
    ) -> Option<World> {
        self.case(mine, theirs, false, budget)
            .or_else(|| self.case(mine, theirs, true, budget))
    }

    fn case(
        &self,
        mine: &Function,
        theirs: &Function,
        user: bool,
        budget: &mut Budget,
    ) -> Option<World> {
        let of = |function: &Function| {
            if user {
                function.with_user.clone()
            } else {
                function.without_user.clone()
            }
        };
        let (mine, theirs) = (of(mine)?, of(theirs));
        let denied: Vec<&[Lit]> = mine.deny.iter().map(|t| self.atoms.lits(*t)).collect();
        for allow in &mine.allow {
            let must = [&*mine.base, self.atoms.lits(*allow)].concat();
            let Some(theirs) = &theirs else {
                let found = self.find(&must, &denied, user, budget);
                if found.is_some() {
                    return found;
                }
                continue;
            };
            let found = self.refused(&must, *allow, theirs, &denied, user, budget);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// A message of which `must` is true and none of `denied`, and which `theirs`
    /// refuses: for want of an allow term, or of its base, or for a deny term.
    fn refused(
        &self,
        must: &[Lit],
        allow: u32,
        theirs: &Case,
        denied: &[&[Lit]],
        user: bool,
        budget: &mut Budget,
    ) -> Option<World> {
        let allows_too = theirs.allow.binary_search(&allow).is_ok();
        if !allows_too {
            let theirs = theirs.allow.iter().map(|t| self.atoms.lits(*t));
            let never: Vec<&[Lit]> = denied.iter().copied().chain(theirs).collect();
            let found = self.find(must, &never, user, budget);
            if found.is_some() {
                return found;
            }
        }
        for lit in theirs.base.iter().filter(|lit| !must.contains(lit)) {
            let alone = [*lit];
            let never: Vec<&[Lit]> = denied.iter().copied().chain([&alone[..]]).collect();
            let found = self.find(must, &never, user, budget);
            if found.is_some() {
                return found;
            }
        }
        for term in &theirs.deny {
            let term = self.atoms.lits(*term);
            if denied.contains(&term) {
                continue;
            }
            let both = [must, term].concat();
            let found = self.find(&both, denied, user, budget);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn find(
        &self,
        must: &[Lit],
        never: &[&[Lit]],
        user: bool,
        budget: &mut Budget,
    ) -> Option<World> {
        let mut known: Vec<Known> = Vec::with_capacity(must.len());
        for lit in must {
            let known_lit = Known {
                lit: *lit,
                is: true,
            };
            if !known.contains(&known_lit) {
                known.push(known_lit);
            }
        }
        self.step(&mut known, never, user, budget)
    }

    fn step(
        &self,
        known: &mut Vec<Known>,
        never: &[&[Lit]],
        user: bool,
        budget: &mut Budget,
    ) -> Option<World> {
        // A value is looked for by trying some dozens.
        budget.spend(20 + 10 * known.len() + never.len());
        if budget.is_spent() {
            return None;
        }
        let world = self.with(known, user)?;
        let is_true = |term: &&&[Lit]| term.iter().all(|lit| self.is_true(*lit, &world));
        let Some(wrong) = never.iter().find(is_true) else {
            return Some(world);
        };
        let before = known.len();
        for lit in *wrong {
            let [holds, fails] = [true, false].map(|is| Known { lit: *lit, is });
            if known.contains(&holds) {
                continue;
            }
            known.push(fails);
            let found = self.step(known, never, user, budget);
            if found.is_some() {
                return found;
            }
            // The next one is tried where this one is true.
            known.pop();
            known.push(holds);
        }
        known.truncate(before);
        None
    }
}
