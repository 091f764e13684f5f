//! `[[allow]]` and `[[deny]]`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bulla_identity::{PatternToken, SubjectPattern};

use super::reader::{self, Fields, Node};
use super::workload::Names;
use super::{MAX_GRANTS, PrivateSpec, RuleSpec, bucket, condition, lint, stream, subject, when};
use crate::error::Sink;
use crate::problem::Problem;
use crate::rule::{About, Effect, Rule, Verb, VerbSet};
use crate::source::Place;

const KEYS: &[&str] = &[
    "id",
    "who",
    "may",
    "on",
    "user",
    "expires",
    "time",
    "network",
    "break_glass",
    "shadow",
    "allow_lint",
];

pub(super) fn rules(
    allow: Option<Node<'_>>,
    deny: Option<Node<'_>>,
    names: &Names,
    private: &[PrivateSpec],
    sink: &mut Sink<'_>,
) -> Vec<RuleSpec> {
    let mut out: Vec<RuleSpec> = Vec::new();
    let mut grants = 0usize;
    for (key, effect, node) in [
        ("allow", Effect::Allow, allow),
        ("deny", Effect::Deny, deny),
    ] {
        let Some(node) = node else { continue };
        let Some(array) = node.get_ref().as_array() else {
            reader::wrong_type(key, "a list of tables: write [[allow]]", node, sink);
            continue;
        };
        for node in array.iter() {
            let Some(spec) = rule(effect, node, names, private, sink) else {
                continue;
            };
            grants = grants.saturating_add(spec.rule.who.len().saturating_mul(spec.rule.on.len()));
            if grants > MAX_GRANTS {
                let problem = Problem::TooManyGrants {
                    limit: MAX_GRANTS,
                    actual: grants,
                };
                sink.report(&spec.span, problem);
                return out;
            }
            out.push(spec);
        }
    }
    unique_ids(&out, sink);
    out.sort_by(|a, b| a.rule.id.cmp(&b.rule.id));
    out
}

fn rule(
    effect: Effect,
    node: Node<'_>,
    names: &Names,
    private: &[PrivateSpec],
    sink: &mut Sink<'_>,
) -> Option<RuleSpec> {
    let name = match effect {
        Effect::Allow => "an allow rule",
        Effect::Deny => "a deny rule",
    };
    let table = reader::table(name, node, sink)?;
    let fields = Fields::new(table, node.span(), name, KEYS, &[], sink);
    let (id, id_span) = match fields.need("id", sink) {
        Some(node) => (id(node, sink), node.span()),
        None => (None, node.span()),
    };
    let who = match fields.need("who", sink) {
        Some(node) => names.who("who", node, sink),
        None => Vec::new(),
    };
    let verbs = match fields.need("may", sink) {
        Some(node) => {
            let verbs = verbs(node, sink);
            not_mixed(verbs, &node.span(), sink);
            verbs
        }
        None => VerbSet::default(),
    };
    let mut on = Vec::new();
    let mut on_spans = Vec::new();
    if let Some(node) = fields.need("on", sink) {
        for node in reader::list("on", "a list of subject patterns", node, sink) {
            let pattern = match verbs.about() {
                Some(About::Consumers) => stream::consumer_pattern(effect, node, sink),
                Some(About::Keys) => bucket::key_pattern(effect, node, sink),
                Some(About::Stores) => bucket::store_pattern(effect, node, sink),
                Some(About::Subjects) | None => on_pattern(effect, node, sink),
            };
            if let Some(pattern) = pattern {
                on.push(pattern);
                on_spans.push(node.span());
            }
        }
    }
    let user = fields.get("user").map(|node| {
        for verb in [Verb::Subscribe, Verb::Consume, Verb::Read, Verb::Manage] {
            if verbs.contains(verb) {
                sink.report(&node.span(), Problem::ConditionOnSubscribe { verb });
            }
        }
        condition::condition(node, &on, private, sink)
    });
    let flag = |key, sink: &mut Sink<'_>| {
        let node = fields.get(key)?;
        reader::boolean(key, node, sink)?.then(|| node.span())
    };
    let break_glass = flag("break_glass", sink);
    if let Some(at) = &break_glass {
        if effect == Effect::Deny {
            sink.report(at, Problem::BreakGlassDeny);
        } else if fields.get("expires").is_none() {
            sink.report(at, Problem::BreakGlassForEver);
        }
    }
    Some(RuleSpec {
        rule: Rule {
            id: id.unwrap_or_default(),
            place: sink.place_of(id_span.start),
            effect,
            verbs,
            who,
            on,
            user,
            when: when::when(&fields, sink),
            break_glass: break_glass.is_some(),
            shadow: flag("shadow", sink).is_some(),
        },
        span: id_span,
        on_spans,
        allow_lint: lint::allowed(&fields, sink),
    })
}

fn id(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Arc<str>> {
    let text = reader::text("id", node, sink)?;
    let lead = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if lead && text.len() <= 128 && text.chars().all(rest) {
        Some(text.into())
    } else {
        let id = reader::printable(text);
        sink.report(&node.span(), Problem::RuleId { id });
        None
    }
}

fn verbs(node: Node<'_>, sink: &mut Sink<'_>) -> VerbSet {
    let mut out = VerbSet::default();
    for node in reader::list("may", "a list of verbs", node, sink) {
        let Some(word) = reader::text("may", node, sink) else {
            continue;
        };
        match Verb::parse(word) {
            Some(verb) => out.insert(verb),
            None => {
                let verb = reader::printable(word);
                sink.report(&node.span(), Problem::UnknownVerb { verb });
            }
        }
    }
    out
}

/// A rule is about one kind of thing, which its `on` names.
fn not_mixed(verbs: VerbSet, span: &Range<usize>, sink: &mut Sink<'_>) {
    let mut all = verbs.iter();
    if let Some(verb) = all.next()
        && let Some(other) = all.find(|other| other.about() != verb.about())
    {
        sink.report(span, Problem::MixedVerbs { verb, other });
    }
}

fn on_pattern(effect: Effect, node: Node<'_>, sink: &mut Sink<'_>) -> Option<SubjectPattern> {
    let text = reader::text("on", node, sink)?;
    let span: Range<usize> = node.span();
    let pattern = subject::pattern(text, &span, sink)?;
    let literal = matches!(pattern.tokens().first(), Some(PatternToken::Literal(_)));
    if effect == Effect::Allow && !literal {
        let pattern = pattern.to_string();
        sink.report(&span, Problem::WildcardFirst { pattern });
        return None;
    }
    Some(pattern)
}

fn unique_ids(rules: &[RuleSpec], sink: &mut Sink<'_>) {
    let mut by_place: Vec<&RuleSpec> = rules.iter().filter(|s| !s.rule.id.is_empty()).collect();
    by_place.sort_by_key(|s| s.span.start);
    let mut first: HashMap<&str, &Place> = HashMap::new();
    for spec in by_place {
        match first.get(&*spec.rule.id) {
            Some(place) => {
                let problem = Problem::RuleIdTwice {
                    id: spec.rule.id.to_string(),
                    place: (*place).clone(),
                };
                sink.report(&spec.span, problem);
            }
            None => {
                first.insert(&spec.rule.id, &spec.rule.place);
            }
        }
    }
}
