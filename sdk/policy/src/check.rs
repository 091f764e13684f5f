//! Checks between the parts of a policy: what one says against another.

mod buckets;
mod chains;
mod networks;
mod readers;
mod replay;
mod streams;

pub(crate) use buckets::buckets;
use chains::stored;
pub(crate) use networks::networks;
pub(crate) use readers::readers;
pub(crate) use replay::replay;
pub(crate) use streams::{named as named_consumer, streams};

use crate::error::Sink;
use crate::parse::{Parsed, RuleSpec, SubjectSpec};
use crate::problem::Problem;
use crate::requirements::{Cipher, Protect, UserRule};
use crate::rule::About;
use crate::trie::Trie;
use crate::warning::Warning;

/// What loads and may not mean what its author thinks (POL-28, POL-83).
pub(crate) fn warnings(parsed: &Parsed) -> Vec<Warning> {
    let mut out = replay::warnings(parsed);
    out.extend(chains::warnings(parsed));
    out.sort_by(|a, b| a.place().cmp(b.place()));
    out
}

/// Refuses demands that contradict each other: on the user (POL-23, POL-24), and for a
/// cipher (POL-22).
pub(crate) fn subjects(parsed: &Parsed, sink: &mut Sink<'_>) {
    let mut index = Trie::default();
    for (i, spec) in parsed.subjects.iter().enumerate() {
        index.insert(spec.pattern.tokens(), i);
    }
    let neighbours = |tokens: &[bulla_identity::PatternToken]| {
        let mut found = Vec::new();
        index.overlaps(tokens, &mut |i| found.push(*i));
        found.sort_unstable();
        found
            .into_iter()
            .filter_map(|i| parsed.subjects.get(i).map(|spec| (i, spec)))
            .collect::<Vec<_>>()
    };

    for (i, one) in parsed.subjects.iter().enumerate() {
        if let Some(says) = named_cipher(one) {
            for (_, other) in neighbours(one.pattern.tokens()) {
                // Said once, where the later one stands.
                if let Some(other_says) = named_cipher(other)
                    && other_says != says
                    && other.span.start < one.span.start
                {
                    let problem = Problem::CipherContradiction {
                        one: other.pattern.to_string(),
                        one_says: other_says,
                        other: one.pattern.to_string(),
                        other_says: says,
                    };
                    sink.report(&one.span, problem);
                }
            }
        }
        if one.stated.protect == Some(Protect::Open)
            && matches!(
                one.stated.user,
                Some(UserRule::Optional | UserRule::Required)
            )
        {
            let problem = Problem::UserOnOpen {
                subject: one.pattern.to_string(),
                demand: one.pattern.to_string(),
            };
            sink.report(&one.span, problem);
        }
        // Only entries that take part in a contradiction look around.
        if !matches!(one.stated.user, Some(UserRule::Required)) {
            continue;
        }
        let around = neighbours(one.pattern.tokens());
        for (j, other) in around.iter().filter(|(j, _)| *j != i) {
            debug_assert_ne!(*j, i);
            if other.stated.user == Some(UserRule::None) {
                let problem = Problem::UserContradiction {
                    one: other.pattern.to_string(),
                    other: one.pattern.to_string(),
                };
                sink.report(&one.span, problem);
            }
            let weak = one.stated.protect.is_none_or(|p| p == Protect::Open);
            if weak && stays_open(other, &around) {
                let problem = Problem::UserOnOpen {
                    subject: other.pattern.to_string(),
                    demand: one.pattern.to_string(),
                };
                sink.report(&one.span, problem);
            }
        }
    }

    // Keys of buckets may read like subjects, and have demands of their own.
    let is_asked = |spec: &&RuleSpec| {
        spec.rule.user.is_some() && spec.rule.verbs.about() == Some(About::Subjects)
    };
    for RuleSpec { rule, on_spans, .. } in parsed.rules.iter().filter(is_asked) {
        for (pattern, span) in rule.on.iter().zip(on_spans) {
            let around = neighbours(pattern.tokens());
            let shielded = around.iter().any(|(_, s)| {
                s.stated.protect > Some(Protect::Open) && s.pattern.contains(pattern)
            });
            for (_, subject) in &around {
                if !shielded && stays_open(subject, &around) {
                    let problem = Problem::ConditionOnOpen {
                        pattern: pattern.to_string(),
                        subject: subject.pattern.to_string(),
                    };
                    sink.report(span, problem);
                }
                let none = subject.stated.user == Some(UserRule::None);
                if none && subject.pattern.contains(pattern) {
                    let problem = Problem::ConditionOnNone {
                        pattern: pattern.to_string(),
                        subject: subject.pattern.to_string(),
                    };
                    sink.report(span, problem);
                }
            }
        }
    }
}

/// The cipher that an entry asks for, if it is not any.
fn named_cipher(spec: &SubjectSpec) -> Option<Cipher> {
    spec.stated.cipher.filter(|cipher| *cipher != Cipher::Any)
}

/// Whether an entry says `open` and no other entry raises all of it.
fn stays_open(spec: &SubjectSpec, around: &[(usize, &SubjectSpec)]) -> bool {
    spec.stated.protect == Some(Protect::Open)
        && !around.iter().any(|(_, other)| {
            other.stated.protect > Some(Protect::Open) && other.pattern.contains(&spec.pattern)
        })
}
