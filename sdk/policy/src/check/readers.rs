//! Whether who is to read something encrypted can be encrypted to (POL-185).

use bulla_identity::SubjectPattern;

use super::stored;
use crate::error::Sink;
use crate::parse::{Parsed, RuleSpec};
use crate::problem::AttestProblem;
use crate::requirements::Protect;
use crate::rule::{Effect, Verb};
use crate::trie::Trie;

pub(crate) fn readers(parsed: &Parsed, sink: &mut Sink<'_>) {
    let keyless = |index: &u32| {
        let workload = parsed.workloads.get(*index as usize)?;
        workload.attestors.nkeys.is_empty().then_some(workload)
    };
    // Only policies with such workloads pay for the rest.
    if !parsed
        .workloads
        .iter()
        .any(|w| w.attestors.nkeys.is_empty())
    {
        return;
    }
    let mut encrypted: Trie<&SubjectPattern> = Trie::default();
    for spec in &parsed.subjects {
        if spec.stated.protect == Some(Protect::Encrypted) {
            encrypted.insert(spec.pattern.tokens(), &spec.pattern);
        }
    }
    let first = |received: &SubjectPattern| {
        let mut found: Option<&SubjectPattern> = None;
        encrypted.overlaps(received.tokens(), &mut |pattern: &&SubjectPattern| {
            if found.is_none_or(|held| pattern.to_string() < held.to_string()) {
                found = Some(pattern);
            }
        });
        found
    };
    for RuleSpec { rule, on_spans, .. } in &parsed.rules {
        if rule.effect != Effect::Allow {
            continue;
        }
        let Some(workload) = rule.who.iter().find_map(keyless) else {
            continue;
        };
        for (pattern, span) in rule.on.iter().zip(on_spans) {
            let mut found = None;
            if rule.may_allow(Verb::Subscribe) || rule.may_allow(Verb::Serve) {
                found = first(pattern);
            }
            if found.is_none() && rule.may_allow(Verb::Consume) {
                found = stored(parsed, pattern).find_map(first);
            }
            if let Some(subject) = found {
                let problem = AttestProblem::NoKeyToRead {
                    workload: workload.name.to_string(),
                    subject: subject.to_string(),
                };
                sink.report(span, problem.into());
            }
        }
    }
    for claim in &parsed.private {
        if let Some(workload) = claim.readers.iter().find_map(keyless) {
            let problem = AttestProblem::NoKeyForClaim {
                workload: workload.name.to_string(),
                claim: claim.name.to_string(),
            };
            sink.report(&workload.span, problem.into());
        }
    }
}
