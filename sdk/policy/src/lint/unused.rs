//! Lints of what nobody uses, and of one side without the other.

use std::collections::BTreeSet;

use bulla_identity::{PatternToken, SubjectPattern};

use super::{Found, Home, LintCode};
use crate::check::named_consumer;
use crate::parse::{Parsed, RuleSpec, StreamSpec};
use crate::rule::{About, Effect, Verb};
use crate::trie::Trie;

pub(super) fn lints(parsed: &Parsed) -> Vec<Found> {
    let mut out = workloads(parsed);
    out.extend(
        parsed
            .groups
            .iter()
            .filter(|group| !group.used)
            .map(|group| {
                let name = &group.name;
                Found {
                    code: LintCode::UnusedGroup,
                    span: group.span.clone(),
                    home: Home::Policy,
                    message: format!("nothing names the group `{name}`"),
                    remedy: format!("take it out, or name it as \"group:{name}\""),
                }
            }),
    );
    let authorities = parsed.authorities.iter().filter(|one| !one.used);
    out.extend(authorities.map(|one| {
        let name = &one.name;
        Found {
            code: LintCode::UnusedAuthority,
            span: one.span.clone(),
            home: Home::Policy,
            message: format!("no workload names the authority `{name}`"),
            remedy: format!("take it out, or name it as {{ x509 = \"{name}\" }}"),
        }
    }));
    let issuers = parsed.issuers.iter().filter(|one| !one.used);
    out.extend(issuers.map(|one| {
        let name = &one.name;
        Found {
            code: LintCode::UnusedAuthority,
            span: one.span.clone(),
            home: Home::Policy,
            message: format!("no workload names the issuer `{name}`"),
            remedy: format!("take it out, or name it as {{ jwt = \"{name}\" }}"),
        }
    }));
    let sides = Sides::of(parsed);
    out.extend(subjects(parsed, &sides));
    out.extend(streams(parsed, &sides));
    out.extend(buckets(parsed, &sides));
    out.extend(one_sided(parsed, &sides));
    out
}

fn workloads(parsed: &Parsed) -> Vec<Found> {
    let mut named: BTreeSet<u32> = BTreeSet::new();
    for spec in written(parsed) {
        named.extend(&spec.rule.who);
    }
    for claim in &parsed.private {
        named.extend(&claim.readers);
    }
    let workloads = parsed.workloads.iter().enumerate().zip(0u32..);
    workloads
        .filter(|((_, spec), index)| !spec.exchanges && !spec.discovers && !named.contains(index))
        .map(|((at, spec), _)| Found {
            code: LintCode::UnusedWorkload,
            span: spec.span.clone(),
            home: Home::Workload(at),
            message: format!("no rule names the workload `{}`", spec.name),
            remedy: "take it out, or write a rule for it".to_owned(),
        })
        .collect()
}

/// The rules that stand in the text.
fn written(parsed: &Parsed) -> impl Iterator<Item = &RuleSpec> {
    let rules = parsed.rules.iter();
    rules.filter(|spec| !spec.rule.id.starts_with('('))
}

/// Who sends and receives where, whoever it is.
struct Sides {
    published: Trie<()>,
    subscribed: Trie<()>,
    requested: Trie<()>,
    served: Trie<()>,
    appended: Trie<()>,
    /// Of every allow rule, in shadow or not.
    granted: Trie<()>,
    /// Streams of which somebody has a consumer.
    consumed: BTreeSet<String>,
    /// Buckets of which somebody reads or writes keys.
    kept: BTreeSet<String>,
}

impl Sides {
    fn of(parsed: &Parsed) -> Self {
        let mut sides = Self {
            published: Trie::default(),
            subscribed: Trie::default(),
            requested: Trie::default(),
            served: Trie::default(),
            appended: Trie::default(),
            granted: Trie::default(),
            consumed: BTreeSet::new(),
            kept: BTreeSet::new(),
        };
        // Each pattern once for each verb: that is what keeps look-ups short.
        let mut seen: BTreeSet<(Verb, &SubjectPattern)> = BTreeSet::new();
        let mut granted: BTreeSet<&SubjectPattern> = BTreeSet::new();
        for RuleSpec { rule, .. } in written(parsed) {
            if rule.effect != Effect::Allow || rule.who.is_empty() {
                continue;
            }
            for pattern in &rule.on {
                if rule.verbs.about() == Some(About::Subjects) && granted.insert(pattern) {
                    sides.granted.insert(pattern.tokens(), ());
                }
                if rule.is_shadow() {
                    continue;
                }
                for verb in rule.verbs.iter() {
                    if let (About::Keys, Some(PatternToken::Literal(bucket))) =
                        (verb.about(), pattern.tokens().first())
                    {
                        sides.kept.insert(bucket.to_string());
                    } else if verb == Verb::Consume {
                        if let Some((stream, _)) = named_consumer(pattern) {
                            sides.consumed.insert(stream.to_owned());
                        }
                    } else if seen.insert((verb, pattern))
                        && let Some(trie) = sides.of_verb(verb)
                    {
                        trie.insert(pattern.tokens(), ());
                    }
                }
            }
        }
        sides
    }

    fn of_verb(&mut self, verb: Verb) -> Option<&mut Trie<()>> {
        match verb {
            Verb::Publish => Some(&mut self.published),
            Verb::Subscribe => Some(&mut self.subscribed),
            Verb::Request => Some(&mut self.requested),
            Verb::Serve => Some(&mut self.served),
            Verb::Append => Some(&mut self.appended),
            Verb::Consume | Verb::Read | Verb::Write | Verb::Manage => None,
        }
    }

    /// Whether anybody may be at the other end.
    fn is_met(&self, parsed: &Parsed, verb: Verb, pattern: &SubjectPattern) -> bool {
        let tokens = pattern.tokens();
        match verb {
            Verb::Publish => self.subscribed.has_overlap(tokens),
            Verb::Request => self.served.has_overlap(tokens),
            Verb::Serve => self.requested.has_overlap(tokens),
            Verb::Subscribe => {
                self.published.has_overlap(tokens) || self.appended.has_overlap(tokens)
            }
            Verb::Append => {
                self.subscribed.has_overlap(tokens)
                    || parsed.streams.iter().any(|stream| {
                        self.consumed.contains(&*stream.name)
                            && stored(parsed, stream).any(|stored| stored.overlaps(pattern))
                    })
            }
            // Whether anybody appends is told of the stream; operators have keys of
            // buckets read and written too.
            Verb::Consume | Verb::Read | Verb::Write | Verb::Manage => true,
        }
    }
}

/// What a stream stores, or the one that it copies.
fn stored<'p>(
    parsed: &'p Parsed,
    stream: &'p StreamSpec,
) -> impl Iterator<Item = &'p SubjectPattern> {
    let origin = stream.mirror.as_ref().and_then(|(name, _)| {
        let mut streams = parsed.streams.iter();
        streams.find(|other| other.name == *name)
    });
    let subjects = origin.unwrap_or(stream).subjects.iter();
    subjects.map(|(pattern, _)| pattern)
}

fn subjects<'p>(parsed: &'p Parsed, sides: &'p Sides) -> impl Iterator<Item = Found> + 'p {
    let entries = parsed.subjects.iter().enumerate();
    entries
        .filter(|(_, spec)| !sides.granted.has_overlap(spec.pattern.tokens()))
        .map(|(at, spec)| Found {
            code: LintCode::UnusedSubject,
            span: spec.span.clone(),
            home: Home::Subject(at),
            message: format!("no rule lets anybody send or receive on `{}`", spec.pattern),
            remedy: "take the entry out, or mend the spelling of one side".to_owned(),
        })
}

fn streams<'p>(parsed: &'p Parsed, sides: &'p Sides) -> impl Iterator<Item = Found> + 'p {
    let streams = parsed.streams.iter().enumerate();
    streams
        .filter(|(_, spec)| !stored(parsed, spec).any(|p| sides.appended.has_overlap(p.tokens())))
        .map(|(at, spec)| Found {
            code: LintCode::UnusedStream,
            span: spec.span.clone(),
            home: Home::Stream(at),
            message: format!("no rule lets anybody append to the stream `{}`", spec.name),
            remedy: "take it out, or write the rule".to_owned(),
        })
}

fn buckets<'p>(parsed: &'p Parsed, sides: &'p Sides) -> impl Iterator<Item = Found> + 'p {
    let buckets = parsed.buckets.iter().enumerate();
    buckets
        .filter(|(_, spec)| !sides.kept.contains(&*spec.bucket.name))
        .map(|(at, spec)| Found {
            code: LintCode::UnusedBucket,
            span: spec.span.clone(),
            home: Home::Bucket(at),
            message: format!(
                "no rule lets anybody read or write keys of the bucket `{}`",
                spec.bucket.name
            ),
            remedy: "take it out, or write the rule".to_owned(),
        })
}

fn one_sided(parsed: &Parsed, sides: &Sides) -> Vec<Found> {
    let mut out = Vec::new();
    for (at, spec) in parsed.rules.iter().enumerate() {
        let rule = &spec.rule;
        if rule.id.starts_with('(') || rule.effect != Effect::Allow {
            continue;
        }
        for (pattern, span) in rule.on.iter().zip(&spec.on_spans) {
            for verb in rule.verbs.iter() {
                if sides.is_met(parsed, verb, pattern) {
                    continue;
                }
                let sends = matches!(verb, Verb::Publish | Verb::Request | Verb::Append);
                let (code, other) = match (sends, verb) {
                    (true, Verb::Request) => (LintCode::NobodyReceives, "serve"),
                    (true, Verb::Append) => (LintCode::NobodyReceives, "consume or subscribe to"),
                    (true, _) => (LintCode::NobodyReceives, "subscribe to"),
                    (false, Verb::Serve) => (LintCode::NobodySends, "request"),
                    (false, _) => (LintCode::NobodySends, "publish or append to"),
                };
                out.push(Found {
                    code,
                    span: span.clone(),
                    home: Home::Rule(at),
                    message: format!(
                        "rule `{}` lets {verb} on `{pattern}`, and no rule lets anybody {other} it",
                        rule.id
                    ),
                    remedy: "write the rule of the other side, or mend the spelling of one"
                        .to_owned(),
                });
            }
        }
    }
    out
}
