//! What streams ask of the rest of a policy, and the rest of them.

use std::collections::BTreeMap;

use bulla_identity::{PatternToken, SubjectPattern};

use crate::error::Sink;
use crate::parse::{Parsed, RuleSpec, StreamSpec};
use crate::problem::Problem;
use crate::requirements::Replay;
use crate::rule::{Effect, Verb};
use crate::stream::Retention;
use crate::trie::Trie;

/// Refuses streams, appends and consumers that do not fit together (POL-70 ff.).
pub(crate) fn streams(parsed: &Parsed, sink: &mut Sink<'_>) {
    let mut stored: Trie<(&StreamSpec, &SubjectPattern)> = Trie::default();
    for spec in &parsed.streams {
        for (pattern, span) in &spec.subjects {
            let mut other = None;
            stored.overlaps(pattern.tokens(), &mut |found| {
                other = other.or(Some(*found));
            });
            if let Some((stream, other)) = other {
                let problem = Problem::StreamOverlap {
                    pattern: pattern.to_string(),
                    other: other.to_string(),
                    stream: stream.name.to_string(),
                    place: stream.place.clone(),
                };
                sink.report(span, problem);
            }
            stored.insert(pattern.tokens(), (spec, pattern));
        }
    }
    mirrors(parsed, sink);
    entries(parsed, &stored, sink);
    appends(parsed, &stored, sink);
    consumers(parsed, sink);
}

/// A mirror copies a stream that keeps what it stores.
fn mirrors(parsed: &Parsed, sink: &mut Sink<'_>) {
    for spec in &parsed.streams {
        let Some((origin, span)) = &spec.mirror else {
            continue;
        };
        let can = |s: &StreamSpec| s.retention == Retention::Limits && s.mirror.is_none();
        if !parsed.streams.iter().any(|s| s.name == *origin && can(s)) {
            let origin = origin.to_string();
            sink.report(span, Problem::MirrorOrigin { origin });
        }
    }
}

/// Entries that say `stream` and streams' subjects belong to each other.
fn entries(parsed: &Parsed, stored: &Trie<(&StreamSpec, &SubjectPattern)>, sink: &mut Sink<'_>) {
    let mut stated = Trie::default();
    for spec in &parsed.subjects {
        if spec.stated.replay != Some(Replay::Stream) {
            continue;
        }
        stated.insert(spec.pattern.tokens(), &spec.pattern);
        if spec.stated.max_age.is_none() {
            let problem = Problem::MissingKey {
                table: "a subject with replay = \"stream\"",
                key: "max_age",
            };
            sink.report(&spec.span, problem);
        }
        let mut is_stored = false;
        stored.overlaps(spec.pattern.tokens(), &mut |_| is_stored = true);
        if !is_stored {
            let problem = Problem::StreamMissing {
                subject: spec.pattern.to_string(),
            };
            sink.report(&spec.replay_at, problem);
        }
    }
    for spec in &parsed.streams {
        for (pattern, span) in &spec.subjects {
            let mut is_stated = false;
            stated.overlaps(pattern.tokens(), &mut |entry| {
                is_stated |= entry.contains(pattern);
            });
            if !is_stated {
                let problem = Problem::StreamUnstated {
                    stream: spec.name.to_string(),
                    pattern: pattern.to_string(),
                };
                sink.report(span, problem);
            }
        }
    }
}

fn appends(parsed: &Parsed, stored: &Trie<(&StreamSpec, &SubjectPattern)>, sink: &mut Sink<'_>) {
    for RuleSpec { rule, on_spans, .. } in &parsed.rules {
        if !rule.may_allow(Verb::Append) {
            continue;
        }
        for (pattern, span) in rule.on.iter().zip(on_spans) {
            let mut is_stored = false;
            stored.overlaps(pattern.tokens(), &mut |(_, stream)| {
                is_stored |= stream.contains(pattern);
            });
            if !is_stored {
                let pattern = pattern.to_string();
                sink.report(span, Problem::AppendNowhere { pattern });
            }
        }
    }
}

/// Each consumer is of a declared stream and belongs to one workload, and a
/// work queue has one.
fn consumers(parsed: &Parsed, sink: &mut Sink<'_>) {
    let mut owners: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let name_of = |workload: u32| {
        let spec = parsed.workloads.get(workload as usize);
        spec.map(|w| w.name.to_string()).unwrap_or_default()
    };
    for RuleSpec { rule, on_spans, .. } in &parsed.rules {
        if rule.effect != Effect::Allow || !rule.verbs.contains(Verb::Consume) {
            continue;
        }
        for (pattern, span) in rule.on.iter().zip(on_spans) {
            let Some((stream, consumer)) = named(pattern) else {
                continue;
            };
            let Some(spec) = parsed.streams.iter().find(|s| &*s.name == stream) else {
                let problem = Problem::ConsumerNowhere {
                    stream: stream.to_owned(),
                    consumer: consumer.to_owned(),
                };
                sink.report(span, problem);
                continue;
            };
            if spec.retention == Retention::WorkQueue
                && let Some(((_, other), _)) = owners
                    .range((stream, "")..)
                    .take_while(|((s, _), _)| *s == stream)
                    .find(|((_, c), _)| *c != consumer)
            {
                let problem = Problem::WorkQueueShared {
                    stream: stream.to_owned(),
                    other: (*other).to_owned(),
                    consumer: consumer.to_owned(),
                };
                sink.report(span, problem);
            }
            for workload in &rule.who {
                let owner = *owners.entry((stream, consumer)).or_insert(*workload);
                if owner != *workload {
                    let problem = Problem::ConsumerTwice {
                        consumer: pattern.to_string(),
                        owner: name_of(owner),
                        workload: name_of(*workload),
                    };
                    sink.report(span, problem);
                }
            }
        }
    }
}

/// The stream and the consumer of an allow rule's `STREAM.CONSUMER`.
pub(crate) fn named(pattern: &SubjectPattern) -> Option<(&str, &str)> {
    match pattern.tokens() {
        [
            PatternToken::Literal(stream),
            PatternToken::Literal(consumer),
        ] => Some((stream, consumer)),
        _ => None,
    }
}
