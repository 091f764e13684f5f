//! An index of values by subject pattern.
//!
//! One node per token, so that a look-up costs what the subject's depth costs
//! and not what the number of patterns costs. Neither look-up allocates. The hash
//! is a fast one that can be made to collide: by who writes the policy, not by
//! who sends subjects.

use std::sync::Arc;

use bulla_identity::PatternToken;
use rustc_hash::FxHashMap;

/// Values filed under patterns.
#[derive(Debug)]
pub(crate) struct Trie<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    literals: FxHashMap<Arc<str>, Node<T>>,
    any: Option<Box<Node<T>>>,
    /// Patterns that end here.
    here: Vec<T>,
    /// Patterns that go on with `>`.
    rest: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            literals: FxHashMap::default(),
            any: None,
            here: Vec::new(),
            rest: Vec::new(),
        }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self {
            root: Node::default(),
        }
    }
}

impl<T> Trie<T> {
    /// Files `value` under the pattern `tokens`.
    pub(crate) fn insert(&mut self, tokens: &[PatternToken], value: T) {
        let mut node = &mut self.root;
        for token in tokens {
            node = match token {
                PatternToken::Literal(text) => node.literals.entry(text.clone()).or_default(),
                PatternToken::Any | PatternToken::Capture(_) => node.any.get_or_insert_default(),
                PatternToken::Rest => {
                    node.rest.push(value);
                    return;
                }
            };
        }
        node.here.push(value);
    }

    /// Whether nothing was filed.
    pub(crate) fn is_empty(&self) -> bool {
        let root = &self.root;
        root.literals.is_empty() && root.any.is_none() && root.rest.is_empty()
    }

    /// Calls `found` with every value whose pattern matches the literal `subject`.
    pub(crate) fn matches<'t>(&'t self, subject: &str, found: &mut impl FnMut(&'t T)) {
        self.root.matches(Some(subject), found);
    }

    /// Calls `found` with every value.
    pub(crate) fn each<'t>(&'t self, found: &mut impl FnMut(&'t T)) {
        self.root.everything(found);
    }

    /// Calls `found` with every value whose pattern contains the pattern `tokens`.
    pub(crate) fn containers<'t>(&'t self, tokens: &[PatternToken], found: &mut impl FnMut(&'t T)) {
        self.root.containers(tokens, found);
    }

    /// Whether a pattern was filed that shares a subject with `tokens`.
    pub(crate) fn has_overlap(&self, tokens: &[PatternToken]) -> bool {
        self.root.has_overlap(tokens)
    }

    /// Calls `found` with every value whose pattern shares a subject with `tokens`.
    pub(crate) fn overlaps<'t>(&'t self, tokens: &[PatternToken], found: &mut impl FnMut(&'t T)) {
        self.root.overlaps(tokens, found);
    }
}

impl<T> Node<T> {
    // The depth of both recursions is a pattern's number of tokens, at most 256.
    fn matches<'t>(&'t self, left: Option<&str>, found: &mut impl FnMut(&'t T)) {
        let Some(left) = left else {
            self.here.iter().for_each(found);
            return;
        };
        self.rest.iter().for_each(&mut *found);
        let (token, left) = first_token(left);
        if !self.literals.is_empty()
            && let Some(node) = self.literals.get(token)
        {
            node.matches(left, found);
        }
        if let Some(node) = &self.any {
            node.matches(left, found);
        }
    }

    fn containers<'t>(&'t self, tokens: &[PatternToken], found: &mut impl FnMut(&'t T)) {
        let Some((token, left)) = tokens.split_first() else {
            self.here.iter().for_each(found);
            return;
        };
        self.rest.iter().for_each(&mut *found);
        if let PatternToken::Literal(text) = token
            && let Some(node) = self.literals.get(text)
        {
            node.containers(left, found);
        }
        if *token != PatternToken::Rest
            && let Some(node) = &self.any
        {
            node.containers(left, found);
        }
    }

    fn has_overlap(&self, tokens: &[PatternToken]) -> bool {
        let Some((token, left)) = tokens.split_first() else {
            return !self.here.is_empty();
        };
        !self.rest.is_empty()
            || match token {
                PatternToken::Literal(text) => {
                    let literal = self.literals.get(text);
                    let mut nodes = literal.into_iter().chain(self.any.as_deref());
                    nodes.any(|node| node.has_overlap(left))
                }
                PatternToken::Any | PatternToken::Capture(_) => {
                    self.children().any(|node| node.has_overlap(left))
                }
                // Whatever stands below is longer.
                PatternToken::Rest => self.children().next().is_some(),
            }
    }

    fn overlaps<'t>(&'t self, tokens: &[PatternToken], found: &mut impl FnMut(&'t T)) {
        let Some((token, left)) = tokens.split_first() else {
            self.here.iter().for_each(found);
            return;
        };
        self.rest.iter().for_each(&mut *found);
        match token {
            PatternToken::Literal(text) => {
                if let Some(node) = self.literals.get(text) {
                    node.overlaps(left, found);
                }
                if let Some(node) = &self.any {
                    node.overlaps(left, found);
                }
            }
            PatternToken::Any | PatternToken::Capture(_) => {
                for node in self.children() {
                    node.overlaps(left, found);
                }
            }
            PatternToken::Rest => {
                for node in self.children() {
                    node.everything(found);
                }
            }
        }
    }

    fn everything<'t>(&'t self, found: &mut impl FnMut(&'t T)) {
        self.here.iter().for_each(&mut *found);
        self.rest.iter().for_each(&mut *found);
        for node in self.children() {
            node.everything(found);
        }
    }

    fn children(&self) -> impl Iterator<Item = &Self> {
        self.literals.values().chain(self.any.as_deref())
    }
}

/// The first token of a subject, and what follows its dot. Tokens are short: a
/// plain loop is faster than a search that prepares itself.
fn first_token(subject: &str) -> (&str, Option<&str>) {
    let at = subject.bytes().position(|byte| byte == b'.');
    match at.and_then(|at| Some((subject.get(..at)?, subject.get(at + 1..)?))) {
        Some((token, left)) => (token, Some(left)),
        None => (subject, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_identity::SubjectPattern;
    use proptest::prelude::*;

    fn pattern() -> impl Strategy<Value = SubjectPattern> {
        let token = prop_oneof![Just("a"), Just("b"), Just("*"), Just("{c}")];
        (
            token,
            proptest::collection::vec("[ab*]", 0..4),
            any::<bool>(),
        )
            .prop_map(|(first, more, rest)| {
                let mut tokens = vec![first.to_owned()];
                tokens.extend(more);
                if rest {
                    tokens.push(">".to_owned());
                }
                SubjectPattern::parse(&tokens.join(".")).unwrap()
            })
    }

    proptest! {
        #[test]
        fn look_ups_agree_with_a_scan(
            patterns in proptest::collection::vec(pattern(), 0..12),
            subject in "[abc](\\.[abc]){0,4}",
            other in pattern(),
        ) {
            let mut trie = Trie::default();
            for (i, pattern) in patterns.iter().enumerate() {
                trie.insert(pattern.tokens(), i);
            }
            let collect = |visit: &dyn Fn(&mut Vec<usize>)| {
                let mut got = Vec::new();
                visit(&mut got);
                got.sort_unstable();
                got
            };
            let scan = |keep: &dyn Fn(&SubjectPattern) -> bool| -> Vec<usize> {
                (0..patterns.len()).filter(|i| keep(&patterns[*i])).collect()
            };
            prop_assert_eq!(
                collect(&|got| trie.matches(&subject, &mut |i| got.push(*i))),
                scan(&|p| p.matches_str(&subject))
            );
            prop_assert_eq!(
                collect(&|got| trie.overlaps(other.tokens(), &mut |i| got.push(*i))),
                scan(&|p| p.overlaps(&other))
            );
            prop_assert_eq!(
                collect(&|got| trie.containers(other.tokens(), &mut |i| got.push(*i))),
                scan(&|p| p.contains(&other))
            );
            prop_assert_eq!(
                trie.has_overlap(other.tokens()),
                patterns.iter().any(|p| p.overlaps(&other))
            );
        }
    }
}
