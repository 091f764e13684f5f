//! Whether a rule's `network` can be enforced (POL-105).
//!
//! Only nats-server sees where a connection comes from. So what a rule grants
//! for some networks must stand in its lists for those alone: where another
//! rule opens the same subjects from elsewhere, the endpoints would have to tell
//! the two apart, and cannot.

use crate::error::Sink;
use crate::parse::{Parsed, RuleSpec};
use crate::permissions::siblings;
use crate::problem::Problem;
use crate::rule::{Effect, Rule, Verb};
use crate::trie::Trie;

#[derive(Clone, Copy)]
struct Granted<'p> {
    spec: &'p RuleSpec,
    on: usize,
}

pub(crate) fn networks(parsed: &Parsed, sink: &mut Sink<'_>) {
    let bound = |spec: &&RuleSpec| spec.rule.networks().is_some();
    // Only policies that name networks pay for the rest.
    if !parsed.rules.iter().any(|spec| bound(&spec)) {
        return;
    }
    let mut granted: Trie<Granted<'_>> = Trie::default();
    for spec in &parsed.rules {
        if spec.rule.effect == Effect::Allow && !spec.rule.shadow {
            for (on, pattern) in spec.rule.on.iter().enumerate() {
                granted.insert(pattern.tokens(), Granted { spec, on });
            }
        }
    }
    for spec in parsed.rules.iter().filter(bound) {
        let rule = &spec.rule;
        if rule.effect == Effect::Deny {
            if rule.user.is_some() {
                sink.report(&spec.span, Problem::NetworkOnUserDeny);
            }
            continue;
        }
        for (on, (pattern, at)) in rule.on.iter().zip(&spec.on_spans).enumerate() {
            let mut first: Option<(&Rule, Verb, u32)> = None;
            granted.overlaps(pattern.tokens(), &mut |other| {
                let Some((verb, workload)) = bypass(rule, on, other) else {
                    return;
                };
                let other = &other.spec.rule;
                if first.is_none_or(|(held, ..)| other.id < held.id) {
                    first = Some((other, verb, workload));
                }
            });
            if let Some((other, verb, workload)) = first {
                let named = parsed.workloads.get(workload as usize);
                let problem = Problem::NetworkBypassed {
                    workload: named.map(|w| w.name.to_string()).unwrap_or_default(),
                    rule: rule.id.to_string(),
                    verb,
                    pattern: pattern.to_string(),
                    other: other.id.to_string(),
                    place: other.place.clone(),
                };
                sink.report(at, problem);
            }
        }
    }
}

/// A verb of `rule` that its workload could exercise from everywhere, because
/// `other` opens its subjects in nats-server, and that the endpoints would allow
/// for the sake of `rule` alone.
fn bypass(rule: &Rule, on: usize, other: &Granted<'_>) -> Option<(Verb, u32)> {
    let their_on = other.on;
    let other = &other.spec.rule;
    if other.id == rule.id || other.networks() == rule.networks() {
        return None;
    }
    let shared = rule
        .who
        .iter()
        .find(|w| other.who.binary_search(w).is_ok())?;
    // The same patterns have the same captures.
    let same_user = other.user == rule.user && rule.on.get(on) == other.on.get(their_on);
    let verb = rule.verbs().find(|verb| {
        let gives_itself = other.verbs.contains(*verb) && (other.user.is_none() || same_user);
        let opens =
            other.verbs.contains(*verb) || siblings(*verb).iter().any(|v| other.verbs.contains(*v));
        opens && !gives_itself
    })?;
    Some((verb, *shared))
}
