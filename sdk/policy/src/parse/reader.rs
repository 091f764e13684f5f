//! Typed access to TOML values, with an error for everything unexpected.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Sink;
use crate::problem::Problem;

pub(super) type Node<'d> = &'d Spanned<DeValue<'d>>;

/// A table whose keys are all known.
#[derive(Clone)]
pub(super) struct Fields<'d> {
    table: &'d DeTable<'d>,
    span: Range<usize>,
    name: &'static str,
}

impl<'d> Fields<'d> {
    /// Takes a table apart: a key that is in neither list is an error, and so
    /// is one in `later`, which comes with what to write instead.
    ///
    /// `span` is where a missing key is reported.
    pub(super) fn new(
        table: &'d DeTable<'d>,
        span: Range<usize>,
        name: &'static str,
        allowed: &'static [&'static str],
        later: &[(&str, &'static str)],
        sink: &mut Sink<'_>,
    ) -> Self {
        for key in table.keys() {
            let word: &str = key.get_ref();
            if allowed.contains(&word) {
                continue;
            }
            let problem = match later.iter().find(|(name, _)| *name == word) {
                Some((_, instead)) => Problem::Unsupported {
                    what: word.to_owned(),
                    instead,
                },
                None => Problem::UnknownKey {
                    table: name,
                    key: printable(word),
                    similar: similar(word, allowed.iter().copied()),
                    allowed,
                },
            };
            sink.report(&key.span(), problem);
        }
        Self { table, span, name }
    }

    /// A table whose keys have been looked at already.
    pub(super) fn of_known(table: &'d DeTable<'d>, span: Range<usize>, name: &'static str) -> Self {
        Self { table, span, name }
    }

    pub(super) fn get(&self, key: &str) -> Option<Node<'d>> {
        self.table.get(key)
    }

    pub(super) fn need(&self, key: &'static str, sink: &mut Sink<'_>) -> Option<Node<'d>> {
        let found = self.table.get(key);
        if found.is_none() {
            let problem = Problem::MissingKey {
                table: self.name,
                key,
            };
            sink.report(&self.span, problem);
        }
        found
    }
}

pub(super) fn text<'d>(key: &str, node: Node<'d>, sink: &mut Sink<'_>) -> Option<&'d str> {
    let found = node.get_ref().as_str();
    if found.is_none() {
        wrong_type(key, "a string", node, sink);
    }
    found
}

pub(super) fn boolean(key: &str, node: Node<'_>, sink: &mut Sink<'_>) -> Option<bool> {
    let found = node.get_ref().as_bool();
    if found.is_none() {
        wrong_type(key, "true or false", node, sink);
    }
    found
}

/// A number that is not negative.
pub(super) fn integer(key: &str, node: Node<'_>, sink: &mut Sink<'_>) -> Option<u64> {
    let found = match node.get_ref() {
        DeValue::Integer(int) => u64::from_str_radix(int.as_str(), int.radix()).ok(),
        _ => None,
    };
    if found.is_none() {
        wrong_type(key, "a whole number that is not negative", node, sink);
    }
    found
}

/// The elements of a non-empty list.
pub(super) fn list<'d>(
    key: &'static str,
    expected: &'static str,
    node: Node<'d>,
    sink: &mut Sink<'_>,
) -> Vec<Node<'d>> {
    let Some(array) = node.get_ref().as_array() else {
        wrong_type(key, expected, node, sink);
        return Vec::new();
    };
    if array.iter().next().is_none() {
        sink.report(&node.span(), Problem::EmptyList { key });
    }
    array.iter().collect()
}

pub(super) fn table<'d>(key: &str, node: Node<'d>, sink: &mut Sink<'_>) -> Option<&'d DeTable<'d>> {
    let found = node.get_ref().as_table();
    if found.is_none() {
        wrong_type(key, "a table", node, sink);
    }
    found
}

pub(super) fn wrong_type(key: &str, expected: &'static str, node: Node<'_>, sink: &mut Sink<'_>) {
    let found = match node.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    let problem = Problem::WrongType {
        key: printable(key),
        expected,
        found,
    };
    sink.report(&node.span(), problem);
}

/// A word of the file as it can stand in a message.
pub(super) fn printable(word: &str) -> String {
    let mut out: String = word.chars().take(80).collect();
    if out.len() < word.len() {
        out.push('…');
    }
    out.escape_debug().to_string()
}

/// The candidate that a typing error most likely meant.
pub(super) fn similar<'c>(
    word: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    if word.len() > 64 {
        return None;
    }
    candidates
        .filter(|c| c.len().abs_diff(word.len()) <= 2)
        .map(|c| (distance(word, c), c))
        .filter(|(d, c)| *d <= 2 && *d < c.len())
        .min()
        .map(|(_, c)| c)
}

/// Insertions, deletions and replacements between two short words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, pair) in b.chars().zip(row.windows(2)) {
            let (diagonal, up) = match pair {
                [diagonal, up] => (*diagonal, *up),
                _ => break,
            };
            left = (diagonal + usize::from(x != y)).min(up + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_recognised() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "ab"), 2);
        let keys = ["protect", "user", "max_age"];
        assert_eq!(similar("protec", keys.into_iter()), Some("protect"));
        assert_eq!(similar("maxage", keys.into_iter()), Some("max_age"));
        assert_eq!(similar("zzz", keys.into_iter()), None);
    }
}
