//! Changes as they are told.

use bulla_identity::WorkloadName;

use super::region::{Shape, Sym};
use super::walk::Literals;
use super::{ChangeKind, RightChange, SubjectSet};
use crate::rule::Verb;

/// A shape in words, without examples.
pub(super) fn place(names: &Literals, shape: &Shape) -> SubjectSet {
    let text = |syms: &[Sym]| {
        let tokens: Vec<&str> = syms
            .iter()
            .map(|sym| match sym {
                Sym::Literal(id) => names.name(*id),
                Sym::Star => "*",
                Sym::Rest => ">",
            })
            .collect();
        tokens.join(".")
    };
    let mut except: Vec<String> = shape.except.iter().map(|e| text(e)).collect();
    except.sort_unstable();
    except.dedup();
    SubjectSet {
        pattern: text(&shape.pattern),
        except,
        tokens: Vec::new(),
        examples: Vec::new(),
    }
}

/// A subject of a shape: every exception has a literal where this has a token
/// that no pattern names; which one, `chosen` may say by place.
pub(super) fn witness(names: &Literals, pattern: &[Sym], chosen: &[(usize, String)]) -> String {
    let fresh = names.fresh();
    let tokens: Vec<&str> = pattern
        .iter()
        .enumerate()
        .map(|(at, sym)| match sym {
            Sym::Literal(id) => names.name(*id),
            Sym::Star | Sym::Rest => {
                let chosen = chosen.iter().find(|(place, _)| *place == at);
                chosen.map_or(fresh.as_str(), |(_, token)| token)
            }
        })
        .collect();
    tokens.join(".")
}

pub(super) fn everywhere() -> SubjectSet {
    SubjectSet {
        pattern: ">".to_owned(),
        except: Vec::new(),
        tokens: Vec::new(),
        examples: Vec::new(),
    }
}

pub(super) fn unknown(
    workloads: &[WorkloadName],
    verb: Verb,
    sets: Vec<SubjectSet>,
) -> RightChange {
    RightChange {
        workloads: workloads.to_vec(),
        verbs: vec![verb],
        kind: ChangeKind::Unknown,
        sets,
        before: None,
        after: None,
        rules: Vec::new(),
        by_requirements: false,
    }
}

/// What is alike but for its sets, and then what is alike but for its verb, is
/// told once.
pub(super) fn joined(changes: Vec<RightChange>) -> Vec<RightChange> {
    let mut out: Vec<RightChange> = Vec::new();
    for change in changes {
        let like = |c: &&mut RightChange| {
            c.workloads == change.workloads
                && c.kind == change.kind
                && c.verbs == change.verbs
                && c.before == change.before
                && c.after == change.after
                && c.rules == change.rules
                && c.by_requirements == change.by_requirements
        };
        match out.iter_mut().rev().find(like) {
            Some(same) => same.sets.extend(change.sets),
            None => out.push(change),
        }
    }
    for change in &mut out {
        change
            .sets
            .sort_by(|a, b| (&a.pattern, &a.tokens).cmp(&(&b.pattern, &b.tokens)));
    }
    let mut by_verb: Vec<RightChange> = Vec::new();
    for change in out {
        let where_to =
            |c: &RightChange| -> Vec<String> { c.sets.iter().map(ToString::to_string).collect() };
        let same = by_verb.iter_mut().rev().find(|c| {
            c.workloads == change.workloads
                && c.kind == change.kind
                && c.before == change.before
                && c.after == change.after
                && c.rules == change.rules
                && c.by_requirements == change.by_requirements
                && where_to(c) == where_to(&change)
        });
        match same {
            Some(same) => same.verbs.extend(change.verbs),
            None => by_verb.push(change),
        }
    }
    by_verb.sort_by(|a, b| (&a.workloads, a.kind, &a.verbs).cmp(&(&b.workloads, b.kind, &b.verbs)));
    by_verb
}
