//! `[stream.NAME]`, and consumers by their names.

use std::ops::Range;
use std::time::Duration;

use bulla_identity::{PatternToken, SubjectPattern, reserved};

use super::reader::{self, Fields, Node};
use super::{StreamSpec, lint, subject};
use crate::error::Sink;
use crate::problem::Problem;
use crate::requirements::LONGEST_STREAM_MAX_AGE;
use crate::rule::Effect;
use crate::stream::{
    DEFAULT_DUPLICATES, LONGEST_DUPLICATES, LONGEST_KEPT, MOST_REPLICAS, Retention,
    SHORTEST_DUPLICATES,
};

const KEYS: &[&str] = &[
    "subjects",
    "mirror",
    "retention",
    "max_age",
    "duplicates",
    "max_bytes",
    "replicas",
    "storage",
    "allow_lint",
];

const LATER: &[(&str, &str)] = &[("sources", "leave it out: a source gets new timestamps")];

/// What a mirror has from its stream, and does not say itself.
const NOT_OF_MIRRORS: &[&str] = &["subjects", "retention", "duplicates"];

pub(super) fn streams(node: Option<Node<'_>>, sink: &mut Sink<'_>) -> Vec<StreamSpec> {
    let Some(table) = node.and_then(|n| reader::table("stream", n, sink)) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for (key, node) in table {
        let name: &str = key.get_ref();
        let is_name = is_name(name);
        if !is_name {
            let name = reader::printable(name);
            sink.report(&key.span(), Problem::StreamName { name });
        } else if reserved::is_reserved_stream(name) {
            let name = name.to_owned();
            sink.report(&key.span(), Problem::StreamReserved { name });
        }
        let Some(table) = reader::table(name, node, sink) else {
            continue;
        };
        let fields = Fields::new(table, key.span(), "a stream", KEYS, LATER, sink);
        let mirror = subject::word(&fields, "mirror", sink);
        let mut subjects = Vec::new();
        let listed = if mirror.is_some() {
            for key in NOT_OF_MIRRORS {
                if let Some(node) = fields.get(key) {
                    sink.report(&node.span(), Problem::MirrorSays { key });
                }
            }
            None
        } else {
            fields.need("subjects", sink)
        };
        if let Some(node) = listed {
            for node in reader::list("subjects", "a list of subject patterns", node, sink) {
                if let Some(pattern) = stored_pattern(node, sink) {
                    subjects.push((pattern, node.span()));
                }
            }
        }
        if let Some((word, span)) = subject::word(&fields, "storage", sink)
            && word != "file"
        {
            subject::unknown("storage", word, "file", &span, sink);
        }
        const RETENTION: &[Retention] =
            &[Retention::Limits, Retention::WorkQueue, Retention::Interest];
        let retention = subject::one_of(
            &fields,
            "retention",
            "limits, workqueue, interest",
            RETENTION,
            Retention::as_str,
            sink,
        );
        let ages = SHORTEST_DUPLICATES..=LONGEST_KEPT;
        let windows = SHORTEST_DUPLICATES..=LONGEST_DUPLICATES;
        let spec = StreamSpec {
            name: name.into(),
            span: key.span(),
            place: sink.place_of(key.span().start),
            allow_lint: lint::allowed(&fields, sink),
            subjects,
            mirror: mirror.map(|(origin, span)| (origin.into(), span)),
            retention: retention.unwrap_or(Retention::Limits),
            max_age: bounded(&fields, "max_age", ages, "1m and 365d", sink),
            duplicates: bounded(&fields, "duplicates", windows, "1m and 1h", sink)
                .unwrap_or(DEFAULT_DUPLICATES),
            max_bytes: fields
                .get("max_bytes")
                .and_then(|node| whole(node, "max_bytes", 1 << 20..=1 << 50, sink)),
            replicas: fields
                .get("replicas")
                .and_then(|node| whole(node, "replicas", 1..=MOST_REPLICAS, sink))
                .unwrap_or(1),
        };
        debug_assert!(LONGEST_STREAM_MAX_AGE <= LONGEST_KEPT);
        if is_name {
            out.push(spec);
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

/// What a stream or a consumer of one may be called: nats-server takes more,
/// but neither dots nor anything that a file system minds.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn stored_pattern(node: Node<'_>, sink: &mut Sink<'_>) -> Option<SubjectPattern> {
    let text = reader::text("subjects", node, sink)?;
    let pattern = subject::pattern(text, &node.span(), sink)?;
    if !matches!(pattern.tokens().first(), Some(PatternToken::Literal(_))) {
        let pattern = pattern.to_string();
        sink.report(&node.span(), Problem::WildcardFirst { pattern });
        return None;
    }
    Some(pattern)
}

/// `STREAM.CONSUMER`; in a deny rule either may be `*`.
pub(super) fn consumer_pattern(
    effect: Effect,
    node: Node<'_>,
    sink: &mut Sink<'_>,
) -> Option<SubjectPattern> {
    let text = reader::text("on", node, sink)?;
    let is_part = |token: &PatternToken| match token {
        PatternToken::Literal(name) => is_name(name),
        PatternToken::Any => effect == Effect::Deny,
        PatternToken::Capture(_) | PatternToken::Rest => false,
    };
    match SubjectPattern::parse(text) {
        Ok(pattern) if pattern.tokens().len() == 2 && pattern.tokens().iter().all(is_part) => {
            Some(pattern)
        }
        _ => {
            let name = reader::printable(text);
            sink.report(&node.span(), Problem::ConsumerName { name });
            None
        }
    }
}

fn bounded(
    fields: &Fields<'_>,
    key: &'static str,
    bounds: std::ops::RangeInclusive<Duration>,
    allowed: &'static str,
    sink: &mut Sink<'_>,
) -> Option<Duration> {
    let (word, span): (&str, Range<usize>) = subject::word(fields, key, sink)?;
    match subject::duration(word) {
        Some(found) if bounds.contains(&found) => Some(found),
        Some(_) => {
            sink.report(&span, Problem::StreamBounds { key, allowed });
            None
        }
        None => {
            let text = reader::printable(word);
            sink.report(&span, Problem::Duration { text });
            None
        }
    }
}

fn whole(
    node: Node<'_>,
    key: &'static str,
    bounds: std::ops::RangeInclusive<u64>,
    sink: &mut Sink<'_>,
) -> Option<u64> {
    let found = reader::integer(key, node, sink)?;
    if bounds.contains(&found) {
        return Some(found);
    }
    let allowed = if key == "replicas" {
        "1 and 5"
    } else {
        "1048576 (1 MiB) and 2^50"
    };
    sink.report(&node.span(), Problem::StreamBounds { key, allowed });
    None
}
