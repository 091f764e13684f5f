//! `[bucket.NAME]`, keys of buckets, and streams and buckets by their names.

use std::ops::RangeInclusive;
use std::time::Duration;

use bulla_identity::{PatternToken, SubjectPattern, reserved};

use super::reader::{self, Fields, Node};
use super::{BucketSpec, lint, stream, subject};
use crate::bucket::{Bucket, LONGEST_TTL, MOST_HISTORY, SHORTEST_TTL};
use crate::error::Sink;
use crate::problem::{BucketProblem, Problem};
use crate::requirements::LONGEST_STREAM_MAX_AGE;
use crate::rule::Effect;
use crate::stream::MOST_REPLICAS;

const KEYS: &[&str] = &[
    "history",
    "ttl",
    "max_age",
    "max_bytes",
    "replicas",
    "storage",
    "allow_lint",
];

const LATER: &[(&str, &str)] = &[("mirror", "leave it out: a bucket has one origin")];

pub(super) fn buckets(node: Option<Node<'_>>, sink: &mut Sink<'_>) -> Vec<BucketSpec> {
    let Some(table) = node.and_then(|n| reader::table("bucket", n, sink)) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for (key, node) in table {
        let name: &str = key.get_ref();
        let is_name = stream::is_name(name);
        if !is_name {
            let name = reader::printable(name);
            sink.report(&key.span(), BucketProblem::Name { name }.into());
        } else if reserved::is_reserved_stream(name) {
            let name = name.to_owned();
            sink.report(&key.span(), BucketProblem::Reserved { name }.into());
        }
        let Some(table) = reader::table(name, node, sink) else {
            continue;
        };
        let fields = Fields::new(table, key.span(), "a bucket", KEYS, LATER, sink);
        if let Some((word, span)) = subject::word(&fields, "storage", sink)
            && word != "file"
        {
            subject::unknown("storage", word, "file", &span, sink);
        }
        let bucket = Bucket {
            name: name.into(),
            place: sink.place_of(key.span().start),
            history: whole(&fields, "history", 1..=MOST_HISTORY, "1 and 64", sink).unwrap_or(1),
            ttl: bounded(&fields, "ttl", LONGEST_TTL, "1s and 365d", sink),
            max_age: bounded(
                &fields,
                "max_age",
                LONGEST_STREAM_MAX_AGE,
                "1s and 30d",
                sink,
            ),
            max_bytes: whole(
                &fields,
                "max_bytes",
                1 << 20..=1 << 50,
                "1048576 (1 MiB) and 2^50",
                sink,
            ),
            replicas: whole(&fields, "replicas", 1..=MOST_REPLICAS, "1 and 5", sink).unwrap_or(1),
        };
        if is_name {
            out.push(BucketSpec {
                allow_lint: lint::allowed(&fields, sink),
                span: key.span(),
                bucket,
            });
        }
    }
    out.sort_by(|a, b| a.bucket.name.cmp(&b.bucket.name));
    out
}

fn bounded(
    fields: &Fields<'_>,
    key: &'static str,
    longest: Duration,
    allowed: &'static str,
    sink: &mut Sink<'_>,
) -> Option<Duration> {
    let (word, span) = subject::word(fields, key, sink)?;
    match subject::duration(word) {
        Some(found) if (SHORTEST_TTL..=longest).contains(&found) => Some(found),
        Some(_) => {
            sink.report(&span, BucketProblem::Bounds { key, allowed }.into());
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
    fields: &Fields<'_>,
    key: &'static str,
    bounds: RangeInclusive<u64>,
    allowed: &'static str,
    sink: &mut Sink<'_>,
) -> Option<u64> {
    let node = fields.get(key)?;
    let found = reader::integer(key, node, sink)?;
    if bounds.contains(&found) {
        return Some(found);
    }
    sink.report(&node.span(), BucketProblem::Bounds { key, allowed }.into());
    None
}

/// `BUCKET.KEY`, where the key may be a pattern; in a deny rule the bucket may
/// be `*`.
pub(super) fn key_pattern(
    effect: Effect,
    node: Node<'_>,
    sink: &mut Sink<'_>,
) -> Option<SubjectPattern> {
    let text = reader::text("on", node, sink)?;
    if let Ok(pattern) = SubjectPattern::parse(text)
        && let [bucket, key @ ..] = pattern.tokens()
        && is_store(effect, bucket)
        && !key.is_empty()
        && key.iter().all(is_key_part)
    {
        return Some(pattern);
    }
    let name = reader::printable(text);
    sink.report(&node.span(), BucketProblem::Key { name }.into());
    None
}

/// The name of a stream or of a bucket; in a deny rule it may be `*`.
pub(super) fn store_pattern(
    effect: Effect,
    node: Node<'_>,
    sink: &mut Sink<'_>,
) -> Option<SubjectPattern> {
    let text = reader::text("on", node, sink)?;
    if let Ok(pattern) = SubjectPattern::parse(text)
        && let [store] = pattern.tokens()
        && is_store(effect, store)
    {
        return Some(pattern);
    }
    let name = reader::printable(text);
    sink.report(&node.span(), BucketProblem::Store { name }.into());
    None
}

fn is_store(effect: Effect, token: &PatternToken) -> bool {
    match token {
        PatternToken::Literal(name) => stream::is_name(name),
        PatternToken::Any => effect == Effect::Deny,
        PatternToken::Capture(_) | PatternToken::Rest => false,
    }
}

/// What every client takes for a part of a key.
fn is_key_part(token: &PatternToken) -> bool {
    match token {
        PatternToken::Literal(text) => text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/' | b'=')),
        PatternToken::Any | PatternToken::Capture(_) | PatternToken::Rest => true,
    }
}
