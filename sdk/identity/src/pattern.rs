//! Subject patterns: NATS wildcards and named captures.

use std::fmt;
use std::sync::Arc;

use crate::subject::{Subject, SubjectError, check_length, check_literal_token};

/// One token of a [`SubjectPattern`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PatternToken {
    /// Itself.
    Literal(Arc<str>),
    /// `*`: exactly one token.
    Any,
    /// `{name}`: exactly one token, remembered under `name`.
    Capture(Arc<str>),
    /// `>`: one or more tokens; always last.
    Rest,
}

/// A pattern over subjects: `orders.{tenant}.*`, `audit.>`.
///
/// Matching is NATS's own, with `{name}` matching what `*` matches. A value
/// that a capture holds is a piece of a [`Subject`] and so always one token.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectPattern {
    text: Arc<str>,
    tokens: Arc<[PatternToken]>,
}

/// Why a text is no subject pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A literal token breaks a rule of subjects.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// `>` anywhere but at the end.
    #[error("`>` must be the last token")]
    RestNotLast,
    /// `*` or `>` mixed with other characters in one token.
    #[error("`*` and `>` stand for whole tokens: `{token}` mixes them with other characters")]
    PartialWildcard {
        /// The offending token.
        token: String,
    },
    /// A capture that is not `{name}` with a plain name.
    #[error(
        "`{token}` is no capture: write `{{name}}`, a letter followed by letters, digits or `_`, at most 32"
    )]
    Capture {
        /// The offending token.
        token: String,
    },
    /// One name twice in a pattern.
    #[error("the capture `{{{name}}}` appears twice")]
    DuplicateCapture {
        /// The name.
        name: String,
    },
}

impl SubjectPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        check_length(text)?;
        let mut tokens: Vec<PatternToken> = Vec::new();
        for token in text.split('.') {
            if tokens.last() == Some(&PatternToken::Rest) {
                return Err(PatternError::RestNotLast);
            }
            let parsed = parse_token(token)?;
            if let PatternToken::Capture(name) = &parsed
                && tokens.contains(&parsed)
            {
                return Err(PatternError::DuplicateCapture {
                    name: name.to_string(),
                });
            }
            tokens.push(parsed);
        }
        Ok(Self {
            text: text.into(),
            tokens: tokens.into(),
        })
    }

    /// The pattern's text, captures included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its tokens in order; there is at least one.
    #[must_use]
    pub fn tokens(&self) -> &[PatternToken] {
        &self.tokens
    }

    /// The pattern as nats-server understands it: captures become `*`.
    #[must_use]
    pub fn to_nats(&self) -> String {
        let mut out = String::with_capacity(self.text.len());
        for (i, token) in self.tokens.iter().enumerate() {
            if i > 0 {
                out.push('.');
            }
            out.push_str(match token {
                PatternToken::Literal(text) => text,
                PatternToken::Any | PatternToken::Capture(_) => "*",
                PatternToken::Rest => ">",
            });
        }
        out
    }

    /// Whether it matches exactly one subject.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.tokens
            .iter()
            .all(|t| matches!(t, PatternToken::Literal(_)))
    }

    /// The names of its captures, in order.
    pub fn capture_names(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(|t| match t {
            PatternToken::Capture(name) => Some(&**name),
            _ => None,
        })
    }

    /// Whether `subject` matches.
    #[must_use]
    pub fn matches(&self, subject: &Subject) -> bool {
        self.matches_str(subject.as_str())
    }

    /// Whether the literal subject `subject` matches. The caller vouches that
    /// it is literal: a `*` in it is compared as a character.
    #[must_use]
    pub fn matches_str(&self, subject: &str) -> bool {
        let mut given = subject.split('.');
        for token in self.tokens.iter() {
            match (token, given.next()) {
                (PatternToken::Rest, Some(_)) => return true,
                (PatternToken::Any | PatternToken::Capture(_), Some(_)) => {}
                (PatternToken::Literal(want), Some(have)) if **want == *have => {}
                _ => return false,
            }
        }
        given.next().is_none()
    }

    /// The captured tokens by name, in order, if `subject` matches.
    #[must_use]
    pub fn captures<'a>(&'a self, subject: &'a Subject) -> Option<Vec<(&'a str, &'a str)>> {
        if !self.matches(subject) {
            return None;
        }
        let pairs = self.tokens.iter().zip(subject.tokens());
        Some(
            pairs
                .filter_map(|(token, value)| match token {
                    PatternToken::Capture(name) => Some((&**name, value)),
                    _ => None,
                })
                .collect(),
        )
    }

    /// Whether some subject matches both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self.tokens.iter(), other.tokens.iter());
        loop {
            match (left.next(), right.next()) {
                (None, None) => return true,
                (Some(PatternToken::Rest), Some(_)) | (Some(_), Some(PatternToken::Rest)) => {
                    return true;
                }
                (Some(PatternToken::Literal(a)), Some(PatternToken::Literal(b))) if a != b => {
                    return false;
                }
                (Some(_), Some(_)) => {}
                _ => return false,
            }
        }
    }

    /// Whether every subject that matches `other` matches this pattern too.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let mut theirs = other.tokens.iter();
        for ours in self.tokens.iter() {
            match (ours, theirs.next()) {
                (PatternToken::Rest, Some(_)) => return true,
                (_, None | Some(PatternToken::Rest)) => return false,
                (PatternToken::Any | PatternToken::Capture(_), Some(_)) => {}
                (PatternToken::Literal(a), Some(PatternToken::Literal(b))) if a == b => {}
                (PatternToken::Literal(_), Some(_)) => return false,
            }
        }
        theirs.next().is_none()
    }
}

impl From<&Subject> for SubjectPattern {
    fn from(subject: &Subject) -> Self {
        Self {
            text: subject.as_str().into(),
            tokens: subject
                .tokens()
                .map(|t| PatternToken::Literal(t.into()))
                .collect(),
        }
    }
}

/// The text, shared and not copied.
impl From<&SubjectPattern> for Arc<str> {
    fn from(pattern: &SubjectPattern) -> Self {
        pattern.text.clone()
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

fn parse_token(token: &str) -> Result<PatternToken, PatternError> {
    match token {
        "*" => Ok(PatternToken::Any),
        ">" => Ok(PatternToken::Rest),
        _ if token.contains(['{', '}']) => {
            let name = token
                .strip_prefix('{')
                .and_then(|t| t.strip_suffix('}'))
                .unwrap_or_default();
            let lead = name.starts_with(|c: char| c.is_ascii_alphabetic());
            let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if lead && rest && name.len() <= 32 {
                Ok(PatternToken::Capture(name.into()))
            } else {
                Err(PatternError::Capture {
                    token: token.to_owned(),
                })
            }
        }
        _ if token.contains(['*', '>']) => Err(PatternError::PartialWildcard {
            token: token.to_owned(),
        }),
        _ => {
            check_literal_token(token)?;
            Ok(PatternToken::Literal(token.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(text: &str) -> SubjectPattern {
        SubjectPattern::parse(text).unwrap()
    }

    fn s(text: &str) -> Subject {
        Subject::parse(text).unwrap()
    }

    #[test]
    fn wildcards_match_as_in_nats() {
        for (pattern, subject, want) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("{x}.b", "q.b", true),
        ] {
            assert_eq!(p(pattern).matches(&s(subject)), want, "{pattern} {subject}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for bad in [
            "", ".", "a..b", "a.>.b", ">.a", "a*", "a.b>", "**", "{}", "{1}", "{a-b}", "{a", "a}",
            "x{a}", "{a}.{a}", "a b", "a\0", "ä",
        ] {
            assert!(SubjectPattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn captures_hold_one_token_each() {
        let pattern = p("orders.{tenant}.{id}");
        assert_eq!(
            pattern.captures(&s("orders.t.7")),
            Some(vec![("tenant", "t"), ("id", "7")])
        );
        assert_eq!(pattern.captures(&s("orders.t")), None);
        assert_eq!(pattern.to_nats(), "orders.*.*");
        assert_eq!(
            pattern.capture_names().collect::<Vec<_>>(),
            ["tenant", "id"]
        );
    }

    /// Every subject of up to four tokens over {a, b}.
    fn universe() -> Vec<Subject> {
        let mut all: Vec<String> = vec![];
        let mut level: Vec<String> = vec!["a".into(), "b".into()];
        for _ in 0..4 {
            all.extend(level.iter().cloned());
            level = level
                .iter()
                .flat_map(|t| [format!("{t}.a"), format!("{t}.b")])
                .collect();
        }
        all.iter().map(|t| s(t)).collect()
    }

    fn pattern() -> impl Strategy<Value = SubjectPattern> {
        let token = prop_oneof![Just("a"), Just("b"), Just("*")];
        (proptest::collection::vec(token, 1..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest {
                tokens.pop();
                tokens.push(">");
            }
            p(&tokens.join("."))
        })
    }

    proptest! {
        #[test]
        fn overlap_and_containment_agree_with_brute_force(a in pattern(), b in pattern()) {
            let all = universe();
            let overlap = all.iter().any(|x| a.matches(x) && b.matches(x));
            prop_assert_eq!(a.overlaps(&b), overlap);
            let contained = all.iter().all(|x| !b.matches(x) || a.matches(x));
            // The universe has two letters: `*` and `>` stand for more than it holds.
            if a.contains(&b) {
                prop_assert!(contained);
            } else {
                let foreign = s(&b.to_nats().replace(['*', '>'], "z"));
                let deep = s(&b.to_nats().replace('*', "z").replace('>', "z.z.z.z"));
                prop_assert!(!contained || !a.matches(&foreign) || !a.matches(&deep));
            }
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}") {
            let _ = SubjectPattern::parse(&text);
            let _ = Subject::parse(&text);
        }
    }
}
