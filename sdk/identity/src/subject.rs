//! Literal NATS subjects.

use std::fmt;
use std::sync::Arc;

/// Longest subject or pattern in bytes that Bulla accepts.
///
/// nats-server itself is bounded only by its control line; a fixed bound keeps
/// headers small and every index over subjects bounded.
pub const MAX_SUBJECT_LEN: usize = 512;

/// A literal NATS subject: never a JWT `sub`, never a pattern.
///
/// Stricter than nats-server on purpose: printable ASCII tokens without `*`,
/// `>`, `{`, `}`, so that nothing that arrives can be mistaken for a wildcard
/// or a capture anywhere further in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

/// Why a text is no literal subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Longer than [`MAX_SUBJECT_LEN`].
    #[error("the subject is {actual} bytes long; at most {limit} are allowed")]
    TooLong {
        /// The most bytes allowed.
        limit: usize,
        /// The bytes found.
        actual: usize,
    },
    /// An empty subject, or two dots in a row, or a dot at an end.
    #[error("the subject has an empty token; tokens are separated by single dots")]
    EmptyToken,
    /// A character that no literal subject holds.
    #[error("the subject holds `{}`, which no literal subject may", .found.escape_default())]
    Character {
        /// The offending character.
        found: char,
    },
}

impl Subject {
    /// Reads a literal subject.
    ///
    /// # Errors
    /// [`SubjectError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        check_length(text)?;
        if !is_literal(text) {
            for token in text.split('.') {
                check_literal_token(token)?;
            }
        }
        Ok(Self(text.into()))
    }

    /// The subject's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its tokens in order; there is at least one and none is empty.
    pub fn tokens(&self) -> std::str::Split<'_, char> {
        self.0.split('.')
    }
}

/// The text, shared and not copied.
impl From<&Subject> for Arc<str> {
    fn from(subject: &Subject) -> Self {
        subject.0.clone()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

pub(crate) fn check_length(text: &str) -> Result<(), SubjectError> {
    match text.len() {
        actual if actual > MAX_SUBJECT_LEN => Err(SubjectError::TooLong {
            limit: MAX_SUBJECT_LEN,
            actual,
        }),
        _ => Ok(()),
    }
}

/// Whether nothing is wrong with any of its tokens: each message has a subject, and
/// most a reply subject, so it looks at all bytes alike and at many at once. What is
/// wrong is found by [`check_literal_token`].
fn is_literal(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_bad =
        |b: u8| !b.is_ascii_graphic() | (b == b'*') | (b == b'>') | (b == b'{') | (b == b'}');
    // Without a way out: that is what makes it quick.
    let any_bad = bytes.iter().fold(false, |any, b| any | is_bad(*b));
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    let any_empty = pairs.fold(false, |any, (a, b)| any | ((*a == b'.') & (*b == b'.')));
    let ends = [bytes.first(), bytes.last()];
    let is_open = ends.iter().any(|end| matches!(end, None | Some(b'.')));
    !(any_bad | any_empty | is_open)
}

pub(crate) fn check_literal_token(token: &str) -> Result<(), SubjectError> {
    if token.is_empty() {
        return Err(SubjectError::EmptyToken);
    }
    let bad = |c: &char| !c.is_ascii_graphic() || matches!(c, '*' | '>' | '{' | '}');
    match token.chars().find(bad) {
        Some(found) => Err(SubjectError::Character { found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_subjects_parse() {
        for good in [
            "a",
            "a.b.c",
            "$SYS.x",
            "_INBOX.9.p.x",
            "orders.create-1",
            "a:b",
            "a/b",
        ] {
            assert_eq!(Subject::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = "a".repeat(MAX_SUBJECT_LEN + 1);
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "*",
            ">",
            "a.*",
            "a.>",
            "a*b",
            "a>b",
            "{x}",
            "a.{x}",
            "a b",
            "a\tb",
            "a\r\nb",
            "a\0",
            "ä",
            "a.\u{ff0e}b",
            long.as_str(),
        ] {
            assert!(Subject::parse(bad).is_err(), "{bad:?}");
        }
    }
}
