//! `[subject."PATTERN"]`.

use std::ops::Range;
use std::time::Duration;

use bulla_identity::{SubjectPattern, reserved};

use super::SubjectSpec;
use super::reader::{self, Fields, Node};
use crate::error::Sink;
use crate::problem::Problem;
use crate::requirements::{LONGEST_MAX_AGE, Protect, SHORTEST_MAX_AGE, Stated, UserRule};

const KEYS: &[&str] = &[
    "protect", "user", "max_age", "replay", "chain", "frames", "replies",
];

const LATER: &[(&str, &str)] = &[
    (
        "audience",
        "leave it out: who may be reached is said by the rules",
    ),
    (
        "open_token",
        "leave it out: the user is protected as the body is",
    ),
    ("batch", "leave it out"),
    ("suite", "leave it out"),
];

pub(super) fn subjects(node: Option<Node<'_>>, sink: &mut Sink<'_>) -> Vec<SubjectSpec> {
    let Some(table) = node.and_then(|n| reader::table("subject", n, sink)) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for (key, node) in table {
        let pattern = pattern(key.get_ref(), &key.span(), sink);
        let Some(table) = reader::table(key.get_ref(), node, sink) else {
            continue;
        };
        let fields = Fields::new(table, key.span(), "a subject", KEYS, LATER, sink);
        let stated = stated(&fields, sink);
        fixed(&fields, sink);
        if let Some(pattern) = pattern {
            out.push(SubjectSpec {
                pattern,
                span: key.span(),
                stated,
            });
        }
    }
    out.sort_by(|a, b| a.pattern.cmp(&b.pattern));
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
    let mut stated = Stated::default();
    if let Some((word, span)) = word(fields, "protect", sink) {
        stated.protect = match word {
            "open" => Some(Protect::Open),
            "signed" => Some(Protect::Signed),
            "encrypted" => Some(Protect::Encrypted),
            _ => unknown("protect", word, "open, signed, encrypted", &span, sink),
        };
    }
    if let Some((word, span)) = word(fields, "user", sink) {
        stated.user = match word {
            "none" => Some(UserRule::None),
            "optional" => Some(UserRule::Optional),
            "required" => Some(UserRule::Required),
            _ => unknown("user", word, "none, optional, required", &span, sink),
        };
    }
    if let Some((word, span)) = word(fields, "max_age", sink) {
        match duration(word) {
            Some(age) if (SHORTEST_MAX_AGE..=LONGEST_MAX_AGE).contains(&age) => {
                stated.max_age = Some(age);
            }
            Some(_) => sink.report(&span, Problem::MaxAge),
            None => {
                let text = reader::printable(word);
                sink.report(&span, Problem::Duration { text });
            }
        }
    }
    stated
}

/// Keys that have one value in this version: the others are refused, because
/// accepting them would promise what nobody keeps.
fn fixed(fields: &Fields<'_>, sink: &mut Sink<'_>) {
    for (key, only, later, instead) in [
        (
            "replay",
            "window",
            &["shared", "stream"][..],
            "write \"window\": each receiving process accepts a message at most once",
        ),
        (
            "chain",
            "reported",
            &["proven"][..],
            "write \"reported\": earlier hops are named, not proven",
        ),
        (
            "frames",
            "off",
            &["auto"][..],
            "write \"off\": every message travels alone",
        ),
        ("replies", "signed", &["mac"][..], "write \"signed\""),
    ] {
        let Some((word, span)) = word(fields, key, sink) else {
            continue;
        };
        if later.contains(&word) {
            let what = format!("{key} = \"{word}\"");
            sink.report(&span, Problem::Unsupported { what, instead });
        } else if word != only {
            unknown::<()>(key, word, only, &span, sink);
        }
    }
}

fn word<'d>(
    fields: &Fields<'d>,
    key: &'static str,
    sink: &mut Sink<'_>,
) -> Option<(&'d str, Range<usize>)> {
    let node = fields.get(key)?;
    Some((reader::text(key, node, sink)?, node.span()))
}

fn unknown<T>(
    key: &'static str,
    word: &str,
    allowed: &'static str,
    span: &Range<usize>,
    sink: &mut Sink<'_>,
) -> Option<T> {
    let value = reader::printable(word);
    let problem = Problem::UnknownValue {
        key,
        value,
        allowed,
    };
    sink.report(span, problem);
    None
}

/// A whole number with `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
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
        for bad in [
            "",
            "s",
            "30",
            "-1s",
            "1.5s",
            "1 s",
            "1d",
            "99999999999999999999s",
            "ä",
        ] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
        assert_eq!(duration("18446744073709551615h"), None);
    }
}
