//! `[subject."PATTERN"]`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bulla_identity::{SubjectPattern, WorkloadName, reserved};

use super::reader::{self, Fields, Node};
use super::{SubjectSpec, lint};
use crate::error::Sink;
use crate::problem::Problem;
use crate::requirements::{
    Audiences, Batch, Chain, Cipher, Frames, LONGEST_STREAM_MAX_AGE, Protect, Replay, Replies,
    SHORTEST_MAX_AGE, Stated, Suite, UserRule,
};

const KEYS: &[&str] = &[
    "protect",
    "user",
    "max_age",
    "suite",
    "cipher",
    "open_token",
    "frames",
    "batch",
    "replies",
    "replay",
    "chain",
    "audience",
    "allow_lint",
];

/// The entries, and the audiences that they name, sorted.
pub(super) fn subjects(
    node: Option<Node<'_>>,
    sink: &mut Sink<'_>,
) -> (Vec<SubjectSpec>, Vec<Box<str>>) {
    let mut out = Vec::new();
    let mut named: BTreeMap<Box<str>, Vec<usize>> = BTreeMap::new();
    let Some(table) = node.and_then(|n| reader::table("subject", n, sink)) else {
        return (out, Vec::new());
    };
    for (key, node) in table {
        let pattern = pattern(key.get_ref(), &key.span(), sink);
        let Some(table) = reader::table(key.get_ref(), node, sink) else {
            continue;
        };
        let fields = Fields::new(table, key.span(), "a subject", KEYS, &[], sink);
        let mut stated = stated(&fields, sink);
        if stated.chain == Some(Chain::Proven) {
            if stated.user == Some(UserRule::None) {
                let subject = key.get_ref().to_string();
                sink.report(&key.span(), Problem::ProvenWithoutUser { subject });
            }
            // What is proven is the way of a user's token.
            stated.user = Some(UserRule::Required);
        }
        let audience = audience(&fields, &stated, sink);
        let allow_lint = lint::allowed(&fields, sink);
        let place = |key: &str| fields.get(key).map(|node| node.span());
        if let Some(pattern) = pattern {
            if let Some(audience) = audience {
                named.entry(audience).or_default().push(out.len());
            }
            out.push(SubjectSpec {
                pattern,
                span: key.span(),
                replay_at: place("replay").unwrap_or(key.span()),
                max_age_at: place("max_age").unwrap_or(key.span()),
                place: sink.place_of(key.span().start),
                stated,
                allow_lint,
            });
        }
    }
    if named.len() > Audiences::MOST {
        let problem = Problem::TooManyAudiences {
            limit: Audiences::MOST,
            actual: named.len(),
        };
        sink.report(&(0..0), problem);
        named.clear();
    }
    for (entries, place) in named.values().zip(0u32..) {
        for index in entries {
            if let Some(spec) = out.get_mut(*index) {
                spec.stated.audiences = Audiences::one(place);
            }
        }
    }
    out.sort_by(|a: &SubjectSpec, b| a.pattern.cmp(&b.pattern));
    (out, named.into_keys().collect())
}

/// The vertical that an entry's subjects belong to. Only a user's token reaches
/// one, so it means nothing where there is never a user.
fn audience(fields: &Fields<'_>, stated: &Stated, sink: &mut Sink<'_>) -> Option<Box<str>> {
    let (word, span) = word(fields, "audience", sink)?;
    if stated.protect == Some(Protect::Open) || stated.user == Some(UserRule::None) {
        sink.report(&span, Problem::AudienceWithoutUser);
    }
    vertical(word, &span, sink)
}

/// The name of a vertical: spelt as names of workloads are.
pub(super) fn vertical(word: &str, span: &Range<usize>, sink: &mut Sink<'_>) -> Option<Box<str>> {
    match WorkloadName::parse(word) {
        Ok(name) => Some(name.as_str().into()),
        Err(source) => {
            let name = reader::printable(word);
            sink.report(span, Problem::Name { name, source });
            None
        }
    }
}

/// A list of verticals, sorted; it may be empty, and reaches nothing then.
pub(super) fn verticals(node: Node<'_>, sink: &mut Sink<'_>) -> Vec<Box<str>> {
    let Some(array) = node.get_ref().as_array() else {
        reader::wrong_type("reach", "a list of audiences", node, sink);
        return Vec::new();
    };
    let mut out = Vec::new();
    for node in array.iter() {
        if let Some(word) = reader::text("reach", node, sink)
            && let Some(name) = vertical(word, &node.span(), sink)
        {
            out.push(name);
        }
    }
    out.sort();
    out.dedup();
    out
}

/// A pattern outside the reserved spaces, as far as its first token tells.
pub(super) fn pattern(
    text: &str,
    span: &Range<usize>,
    sink: &mut Sink<'_>,
) -> Option<SubjectPattern> {
    match SubjectPattern::parse(text) {
        Ok(pattern) if reserved::is_reserved(text) || text.starts_with('_') => {
            let pattern = pattern.to_string();
            sink.report(span, Problem::Reserved { pattern });
            None
        }
        Ok(pattern) => Some(pattern),
        Err(source) => {
            let pattern = text.chars().take(80).collect();
            sink.report(span, Problem::Pattern { pattern, source });
            None
        }
    }
}

fn stated(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Stated {
    const PROTECT: &[Protect] = &[Protect::Open, Protect::Signed, Protect::Encrypted];
    const USER: &[UserRule] = &[UserRule::None, UserRule::Optional, UserRule::Required];
    const REPLAY: &[Replay] = &[Replay::Window, Replay::Shared, Replay::Stream];
    let user = one_of(
        fields,
        "user",
        "none, optional, required",
        USER,
        UserRule::as_str,
        sink,
    );
    let protect = one_of(
        fields,
        "protect",
        "open, signed, encrypted",
        PROTECT,
        Protect::as_str,
        sink,
    );
    let replay = one_of(
        fields,
        "replay",
        "window, shared, stream",
        REPLAY,
        Replay::as_str,
        sink,
    );
    Stated {
        protect,
        user,
        chain: one_of(
            fields,
            "chain",
            "reported, proven",
            &[Chain::Reported, Chain::Proven],
            Chain::as_str,
            sink,
        ),
        max_age: max_age(fields, replay, sink),
        suite: one_of(
            fields,
            "suite",
            "xwing, x25519",
            &[Suite::XWing, Suite::X25519],
            Suite::as_str,
            sink,
        ),
        cipher: one_of(
            fields,
            "cipher",
            "any, chacha20-poly1305, aes-256-gcm",
            &[Cipher::Any, Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm],
            Cipher::as_str,
            sink,
        ),
        open_token: fields
            .get("open_token")
            .and_then(|node| reader::boolean("open_token", node, sink)),
        frames: one_of(
            fields,
            "frames",
            "auto, off",
            &[Frames::Auto, Frames::Off],
            Frames::as_str,
            sink,
        ),
        batch: one_of(
            fields,
            "batch",
            "shared, per-subject",
            &[Batch::Shared, Batch::PerSubject],
            Batch::as_str,
            sink,
        ),
        replies: one_of(
            fields,
            "replies",
            "signed, mac",
            &[Replies::Signed, Replies::Mac],
            Replies::as_str,
            sink,
        ),
        replay,
        audiences: Audiences::default(),
    }
}

/// The value among `values` whose word stands under `key`.
pub(super) fn one_of<T: Copy>(
    fields: &Fields<'_>,
    key: &'static str,
    allowed: &'static str,
    values: &[T],
    as_str: impl Fn(T) -> &'static str,
    sink: &mut Sink<'_>,
) -> Option<T> {
    let (word, span) = word(fields, key, sink)?;
    let found = values.iter().copied().find(|v| as_str(*v) == word);
    if found.is_none() {
        unknown(key, word, allowed, &span, sink);
    }
    found
}

/// What is out of bounds everywhere is refused here; what needs a stream is
/// checked once every entry is known.
fn max_age(fields: &Fields<'_>, replay: Option<Replay>, sink: &mut Sink<'_>) -> Option<Duration> {
    let (word, span) = word(fields, "max_age", sink)?;
    let Some(age) = duration(word) else {
        let text = reader::printable(word);
        sink.report(&span, Problem::Duration { text });
        return None;
    };
    if (SHORTEST_MAX_AGE..=LONGEST_STREAM_MAX_AGE).contains(&age) {
        return Some(age);
    }
    let longest = match replay {
        Some(Replay::Stream) => "30d",
        Some(Replay::Window | Replay::Shared) | None => "15m",
    };
    sink.report(&span, Problem::MaxAge { longest });
    None
}

pub(super) fn word<'d>(
    fields: &Fields<'d>,
    key: &'static str,
    sink: &mut Sink<'_>,
) -> Option<(&'d str, Range<usize>)> {
    let node = fields.get(key)?;
    Some((reader::text(key, node, sink)?, node.span()))
}

pub(super) fn unknown(
    key: &'static str,
    word: &str,
    allowed: &'static str,
    span: &Range<usize>,
    sink: &mut Sink<'_>,
) {
    let value = reader::printable(word);
    let problem = Problem::UnknownValue {
        key,
        value,
        allowed,
    };
    sink.report(span, problem);
}

/// A whole number with `ms`, `s`, `m`, `h` or `d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        assert_eq!(duration("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(duration("2d"), Some(Duration::from_secs(172_800)));
        for bad in [
            "",
            "s",
            "30",
            "-1s",
            "1.5s",
            "1 s",
            "1w",
            "99999999999999999999s",
            "ä",
        ] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
        assert_eq!(duration("18446744073709551615h"), None);
    }
}
