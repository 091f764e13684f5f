//! Set operations on the tokens of subject patterns.
//!
//! bulla-identity compares whole [`SubjectPattern`](bulla_identity::SubjectPattern)s;
//! the compiler also handles token lists that no policy wrote down (the
//! intersection of two patterns, the levels beneath a trailing `*`), which may
//! be longer than a pattern may be.

use bulla_identity::PatternToken;

/// Every subject that matches both, as one token list; `None` if there is none.
///
/// A capture in `left` or `right` comes out as `*`.
pub(crate) fn intersect(
    left: &[PatternToken],
    right: &[PatternToken],
) -> Option<Vec<PatternToken>> {
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let (mut a, mut b) = (left, right);
    loop {
        match (a.split_first(), b.split_first()) {
            (None, None) => return Some(out),
            (Some((PatternToken::Rest, _)), Some(_)) => {
                out.extend(b.iter().map(plain));
                return Some(out);
            }
            (Some(_), Some((PatternToken::Rest, _))) => {
                out.extend(a.iter().map(plain));
                return Some(out);
            }
            (Some((x, more_a)), Some((y, more_b))) => {
                match (x, y) {
                    (PatternToken::Literal(p), PatternToken::Literal(q)) if p != q => return None,
                    (PatternToken::Literal(_), _) => out.push(x.clone()),
                    (_, PatternToken::Literal(_)) => out.push(y.clone()),
                    _ => out.push(PatternToken::Any),
                }
                (a, b) = (more_a, more_b);
            }
            _ => return None,
        }
    }
}

/// Whether every subject that matches `inner` matches `outer`.
pub(crate) fn contains(outer: &[PatternToken], inner: &[PatternToken]) -> bool {
    let mut theirs = inner.iter();
    for ours in outer {
        match (ours, theirs.next()) {
            (PatternToken::Rest, Some(_)) => return true,
            (_, None | Some(PatternToken::Rest)) => return false,
            (PatternToken::Any | PatternToken::Capture(_), Some(_)) => {}
            (PatternToken::Literal(p), Some(PatternToken::Literal(q))) if p == q => {}
            (PatternToken::Literal(_), Some(_)) => return false,
        }
    }
    theirs.next().is_none()
}

/// Whether nats-server's permission index lets an entry `entry` speak for the
/// *subscription* `wanted`: the subscription's wildcards count as ordinary
/// tokens there, so that `foo.*` speaks for `foo.>` (see SPEC, POL-62).
pub(crate) fn speaks_for(entry: &[PatternToken], wanted: &[PatternToken]) -> bool {
    let mut theirs = wanted.iter();
    for ours in entry {
        match (ours, theirs.next()) {
            (_, None) => return false,
            (PatternToken::Rest, Some(_)) => return true,
            (PatternToken::Any | PatternToken::Capture(_), Some(_)) => {}
            (PatternToken::Literal(p), Some(PatternToken::Literal(q))) if p == q => {}
            (PatternToken::Literal(_), Some(_)) => return false,
        }
    }
    theirs.next().is_none()
}

/// The subjects beneath a pattern that ends in one open token: `foo.*` gives
/// `foo.*.>`. `None` for any other pattern.
pub(crate) fn beneath_open_end(tokens: &[PatternToken]) -> Option<Vec<PatternToken>> {
    match tokens.last() {
        Some(PatternToken::Any | PatternToken::Capture(_)) => {
            let mut out: Vec<_> = tokens.iter().map(plain).collect();
            out.push(PatternToken::Rest);
            Some(out)
        }
        _ => None,
    }
}

/// The text that nats-server understands.
pub(crate) fn to_nats(tokens: &[PatternToken]) -> String {
    let mut out = String::new();
    for (i, token) in tokens.iter().enumerate() {
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

fn plain(token: &PatternToken) -> PatternToken {
    match token {
        PatternToken::Capture(_) => PatternToken::Any,
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_identity::SubjectPattern;
    use proptest::prelude::*;

    fn p(text: &str) -> SubjectPattern {
        SubjectPattern::parse(text).unwrap()
    }

    #[test]
    fn intersections_are_exact() {
        for (a, b, want) in [
            ("a.*", "a.b", Some("a.b")),
            ("a.>", "*.b.*", Some("a.b.*")),
            ("a.>", "a.>", Some("a.>")),
            ("a.{x}", "a.{y}", Some("a.*")),
            ("a.b", "a.c", None),
            ("a.>", "a", None),
            ("a.*", "a.*.c", None),
        ] {
            let got = intersect(p(a).tokens(), p(b).tokens()).map(|t| to_nats(&t));
            assert_eq!(got.as_deref(), want, "{a} ∩ {b}");
        }
    }

    #[test]
    fn a_trailing_star_speaks_for_the_full_wildcard() {
        for (entry, wanted, want) in [
            ("foo.*", "foo.>", true),
            ("foo.*", "foo.*", true),
            ("foo.*", "foo.*.>", false),
            ("foo.bar", "foo.*", false),
            ("foo.>", "foo.*.x", true),
            ("foo.*.x", "foo.>", false),
        ] {
            assert_eq!(speaks_for(p(entry).tokens(), p(wanted).tokens()), want);
        }
    }

    fn pattern() -> impl Strategy<Value = SubjectPattern> {
        let token = prop_oneof![Just("a"), Just("b"), Just("*")];
        (proptest::collection::vec(token, 1..5), any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest {
                tokens.pop();
                tokens.push(">");
            }
            p(&tokens.join("."))
        })
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_matching(a in pattern(), b in pattern()) {
            prop_assert_eq!(contains(a.tokens(), b.tokens()), a.contains(&b));
            let both = intersect(a.tokens(), b.tokens());
            prop_assert_eq!(both.is_some(), a.overlaps(&b));
            if let Some(both) = both {
                let both = p(&to_nats(&both));
                prop_assert!(a.contains(&both) && b.contains(&both));
                for subject in ["a", "b", "a.b", "b.a", "a.a.b", "a.b.b.a", "c.b", "a.b.a.b.a"] {
                    prop_assert_eq!(
                        both.matches_str(subject),
                        a.matches_str(subject) && b.matches_str(subject)
                    );
                }
            }
        }
    }
}
