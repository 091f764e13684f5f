//! Whether the chains that a policy wants proven can be.

use std::collections::HashMap;

use bulla_identity::SubjectPattern;

use super::named_consumer;
use crate::parse::{Parsed, RuleSpec, SubjectSpec};
use crate::requirements::Chain;
use crate::rule::Verb;
use crate::trie::Trie;
use crate::warning::Warning;

const SENDING: [Verb; 3] = [Verb::Publish, Verb::Request, Verb::Append];

/// Who may send where a chain is to be proven, and never has one to show
/// (POL-83). One warning for each rule.
pub(super) fn warnings(parsed: &Parsed) -> Vec<Warning> {
    let ways = Ways::of(parsed);
    if ways.proven.is_empty() {
        return Vec::new();
    }
    let mut provers = HashMap::new();
    let mut out = Vec::new();
    for spec in &parsed.rules {
        if !SENDING.into_iter().any(|verb| spec.rule.may_allow(verb)) {
            continue;
        }
        let wanted = spec
            .rule
            .on
            .iter()
            .find_map(|pattern| ways.proven_at(pattern));
        let Some(wanted) = wanted else { continue };
        let stuck = spec.rule.who.iter().find(|workload| {
            !*provers
                .entry(**workload)
                .or_insert_with(|| ways.can_prove(parsed, **workload))
        });
        if let Some(stuck) = stuck.and_then(|index| parsed.workloads.get(*index as usize)) {
            out.push(Warning::chain_cannot_be_proven(
                &spec.rule,
                stuck.name.as_str(),
                &wanted.pattern,
                &wanted.place,
            ));
        }
    }
    out
}

struct Ways<'p> {
    /// Where chains are proven.
    proven: Trie<&'p SubjectSpec>,
    /// What those with whom chains begin may request, and send otherwise.
    first_requests: Trie<()>,
    first_events: Trie<()>,
}

impl<'p> Ways<'p> {
    fn of(parsed: &'p Parsed) -> Self {
        let mut ways = Self {
            proven: Trie::default(),
            first_requests: Trie::default(),
            first_events: Trie::default(),
        };
        for spec in &parsed.subjects {
            if spec.stated.chain == Some(Chain::Proven) {
                ways.proven.insert(spec.pattern.tokens(), spec);
            }
        }
        // Only policies that prove chains pay for the rest.
        if ways.proven.is_empty() {
            return ways;
        }
        for RuleSpec { rule, .. } in &parsed.rules {
            if !rule.who.iter().any(|workload| begins(parsed, *workload)) {
                continue;
            }
            for pattern in &rule.on {
                if rule.may_allow(Verb::Request) {
                    ways.first_requests.insert(pattern.tokens(), ());
                }
                if rule.may_allow(Verb::Publish) || rule.may_allow(Verb::Append) {
                    ways.first_events.insert(pattern.tokens(), ());
                }
            }
        }
        ways
    }

    /// The first entry by place that wants chains proven on some of `pattern`.
    fn proven_at(&self, pattern: &SubjectPattern) -> Option<&'p SubjectSpec> {
        let mut first: Option<&SubjectSpec> = None;
        self.proven.overlaps(pattern.tokens(), &mut |spec| {
            if first.is_none_or(|first| spec.span.start < first.span.start) {
                first = Some(spec);
            }
        });
        first
    }

    /// Whether a workload begins chains, or may receive something that is the first
    /// message of a chain or comes with a proven one.
    fn can_prove(&self, parsed: &Parsed, workload: u32) -> bool {
        begins(parsed, workload)
            || parsed.rules.iter().any(|RuleSpec { rule, .. }| {
                rule.who.binary_search(&workload).is_ok()
                    && rule.on.iter().any(|pattern| {
                        (rule.may_allow(Verb::Serve) && self.leads(pattern, &self.first_requests))
                            || (rule.may_allow(Verb::Subscribe)
                                && self.leads(pattern, &self.first_events))
                            || (rule.may_allow(Verb::Consume)
                                && stored(parsed, pattern)
                                    .any(|stored| self.leads(stored, &self.first_events)))
                    })
            })
    }

    fn leads(&self, received: &SubjectPattern, first: &Trie<()>) -> bool {
        let mut found = self.proven_at(received).is_some();
        first.overlaps(received.tokens(), &mut |()| found = true);
        found
    }
}

/// Whether chains begin with a workload: it mints, or brokers mint for it.
fn begins(parsed: &Parsed, workload: u32) -> bool {
    let spec = parsed.workloads.get(workload as usize);
    spec.is_some_and(|workload| workload.mints || workload.starts.is_some())
}

/// What the stream of a consumer stores, or the one that it mirrors.
pub(super) fn stored<'p>(
    parsed: &'p Parsed,
    consumer: &SubjectPattern,
) -> impl Iterator<Item = &'p SubjectPattern> {
    let named = |name: &str| parsed.streams.iter().find(|stream| &*stream.name == name);
    let stream = named_consumer(consumer).and_then(|(stream, _)| named(stream));
    let origin = stream.and_then(|stream| named(&stream.mirror.as_ref()?.0));
    origin
        .or(stream)
        .into_iter()
        .flat_map(|stream| stream.subjects.iter().map(|(pattern, _)| pattern))
}
