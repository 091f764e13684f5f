//! Sets of subjects, exactly, although their tokens have no end.
//!
//! A map from subjects to values is a tree over tokens: at each place the
//! literals that matter, and one branch for *any other token*. Equal trees are
//! one node, a literal that is like any other token is left out, and a subtree
//! that says the same of every subject beneath it is one node that leads to
//! itself; so equal maps have equal numbers.

use std::collections::HashMap;

use super::walk::Budget;

/// A node of a [`Regions`].
pub(super) type NodeId = u32;

/// One token of a place, as a pattern has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Sym {
    /// A literal, by its number.
    Literal(u32),
    /// Any one token.
    Star,
    /// One or more tokens.
    Rest,
}

/// What matches the pattern and none of the exceptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) pattern: Vec<Sym>,
    pub(super) except: Vec<Vec<Sym>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    /// Of the subject that ends here.
    end: u32,
    /// By literal, sorted.
    literals: Vec<(u32, NodeId)>,
    /// Any other token.
    other: NodeId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    And,
    AndNot,
}

/// Maps from subjects to values; a set is a map to 0 and 1.
#[derive(Debug)]
pub(super) struct Regions {
    nodes: Vec<Node>,
    nothing: Node,
    ids: HashMap<Node, NodeId>,
    uniform: HashMap<u32, NodeId>,
    combined: HashMap<(Op, NodeId, NodeId), NodeId>,
    /// What all of this may still cost.
    pub(super) budget: Budget,
    /// Shapes that may still be listed.
    left: usize,
}

/// No subject; also the value of what is not in a set.
pub(super) const NONE: u32 = 0;
const YES: u32 = 1;

impl Regions {
    /// At most `shapes` are listed, in all.
    pub(super) fn new(budget: Budget, shapes: usize) -> Self {
        let nothing = Node {
            end: NONE,
            literals: Vec::new(),
            other: NONE,
        };
        let mut regions = Self {
            nodes: Vec::new(),
            nothing,
            ids: HashMap::new(),
            uniform: HashMap::new(),
            combined: HashMap::new(),
            budget,
            left: shapes,
        };
        // So that the number of the empty set is 0.
        regions.uniform(NONE);
        regions
    }

    /// Whether the budget did not suffice: what was told since is not to be
    /// relied on.
    pub(super) fn is_cut(&self) -> bool {
        self.left == 0 || self.budget.is_spent()
    }

    /// The same value for what ends here and everything beneath.
    pub(super) fn uniform(&mut self, value: u32) -> NodeId {
        if let Some(id) = self.uniform.get(&value) {
            return *id;
        }
        let id = self.push(Node {
            end: value,
            literals: Vec::new(),
            other: self.next_id(),
        });
        self.uniform.insert(value, id);
        id
    }

    /// A node, in its one form.
    pub(super) fn node(
        &mut self,
        end: u32,
        mut literals: Vec<(u32, NodeId)>,
        other: NodeId,
    ) -> NodeId {
        literals.retain(|(_, child)| *child != other);
        if literals.is_empty() && self.uniform_value(other) == Some(end) {
            return other;
        }
        literals.sort_unstable();
        let node = Node {
            end,
            literals,
            other,
        };
        if let Some(id) = self.ids.get(&node) {
            return *id;
        }
        let id = self.push(node.clone());
        self.ids.insert(node, id);
        id
    }

    /// The set of subjects that `id` maps to `value`.
    pub(super) fn only(&mut self, id: NodeId, value: u32) -> NodeId {
        self.project(id, value, &mut HashMap::new())
    }

    fn project(&mut self, id: NodeId, value: u32, seen: &mut HashMap<NodeId, NodeId>) -> NodeId {
        if let Some(all) = self.uniform_value(id) {
            return self.uniform(u32::from(all == value));
        }
        if let Some(known) = seen.get(&id) {
            return *known;
        }
        let node = self.at(id).clone();
        self.budget.spend(1 + node.literals.len());
        if self.budget.is_spent() {
            return NONE;
        }
        let other = self.project(node.other, value, seen);
        let mut literals = Vec::with_capacity(node.literals.len());
        for (literal, child) in node.literals {
            literals.push((literal, self.project(child, value, seen)));
        }
        let out = self.node(u32::from(node.end == value), literals, other);
        seen.insert(id, out);
        out
    }

    /// Every value that some subject is mapped to.
    pub(super) fn values(&self, id: NodeId) -> Vec<u32> {
        let (mut seen, mut open) = (vec![false; self.nodes.len()], vec![id]);
        let mut out = Vec::new();
        while let Some(id) = open.pop() {
            if seen
                .get_mut(id as usize)
                .is_none_or(|s| std::mem::replace(s, true))
            {
                continue;
            }
            let node = self.at(id);
            out.push(node.end);
            open.push(node.other);
            open.extend(node.literals.iter().map(|(_, child)| *child));
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// A list of shapes that together are exactly the set `id`, or a part of it
    /// if the list [is cut](Self::is_cut).
    pub(super) fn shapes(&mut self, id: NodeId) -> Vec<Shape> {
        let mut out = Vec::new();
        if self.is_cut() || id == NONE {
            return out;
        }
        if self.uniform_value(id) == Some(YES) {
            out.push(Shape::plain(Vec::new()));
            out.push(Shape::plain(vec![Sym::Rest]));
            return self.counted(out);
        }
        let node = self.at(id).clone();
        if node.end == YES {
            out.push(Shape::plain(Vec::new()));
        }
        // What any token leads to, and then what single literals add and take.
        let mut wide = if self.is_nearly_all(node.other) {
            self.nearly_all(node.other)
        } else {
            let mut below = self.shapes(node.other);
            below.iter_mut().for_each(|s| s.put_before(Sym::Star));
            below
        };
        let mut single = Vec::new();
        for (literal, child) in node.literals {
            let more = self.combine(Op::AndNot, child, node.other);
            let less = self.combine(Op::AndNot, node.other, child);
            let mut restored = NONE;
            if less != NONE {
                for shape in &mut wide {
                    let here = self.below(&shape.pattern);
                    let lost = self.combine(Op::And, here, less);
                    for hole in self.shapes(lost) {
                        // Without its own exceptions it is too large; what it
                        // takes too much is told by itself.
                        for part in &hole.except {
                            let part = self.pattern(part);
                            let part = self.combine(Op::And, part, child);
                            restored = self.union(restored, part);
                        }
                        let mut except = hole.pattern;
                        except.insert(0, Sym::Literal(literal));
                        shape.except.push(except);
                    }
                }
            }
            let all = self.union(more, restored);
            for mut shape in self.shapes(all) {
                shape.put_before(Sym::Literal(literal));
                single.push(shape);
            }
        }
        out.append(&mut wide);
        out.append(&mut single);
        self.counted(out)
    }

    /// Whether every subject is in it that has only tokens which no pattern names.
    fn is_nearly_all(&self, id: NodeId) -> bool {
        let node = self.at(id);
        node.end == YES && (node.other == id || self.is_nearly_all(node.other))
    }

    /// Such a set, as what one more token leads to: `>` but for some.
    fn nearly_all(&mut self, id: NodeId) -> Vec<Shape> {
        let mut shape = Shape::plain(vec![Sym::Rest]);
        let all = self.uniform(YES);
        let gone = self.combine(Op::AndNot, all, id);
        let mut restored = NONE;
        for hole in self.shapes(gone) {
            for part in &hole.except {
                let part = self.pattern(part);
                let part = self.combine(Op::And, part, id);
                restored = self.union(restored, part);
            }
            let mut except = hole.pattern;
            except.insert(0, Sym::Star);
            shape.except.push(except);
        }
        let mut out = vec![shape];
        for mut shape in self.shapes(restored) {
            shape.put_before(Sym::Star);
            out.push(shape);
        }
        out
    }

    fn counted(&mut self, shapes: Vec<Shape>) -> Vec<Shape> {
        let parts: usize = shapes.iter().map(|s| 1 + s.except.len()).sum();
        self.budget.spend(parts);
        self.left = self.left.saturating_sub(parts);
        shapes
    }

    fn union(&mut self, one: NodeId, other: NodeId) -> NodeId {
        if one == NONE {
            return other;
        }
        if other == NONE {
            return one;
        }
        // one ∪ other = all ∖ ((all ∖ one) ∖ other)
        let all = self.uniform(YES);
        let neither = self.combine(Op::AndNot, all, one);
        let neither = self.combine(Op::AndNot, neither, other);
        self.combine(Op::AndNot, all, neither)
    }

    /// What a pattern that starts with a wildcard leaves to match after its
    /// first token.
    fn below(&mut self, pattern: &[Sym]) -> NodeId {
        match pattern.split_first() {
            Some((Sym::Rest, _)) => self.uniform(YES),
            Some((_, left)) => self.pattern(left),
            None => NONE,
        }
    }

    fn pattern(&mut self, pattern: &[Sym]) -> NodeId {
        let all = self.uniform(YES);
        let mut id = match pattern.last() {
            Some(Sym::Rest) => all,
            _ => self.node(YES, Vec::new(), NONE),
        };
        for sym in pattern.iter().rev() {
            id = match sym {
                Sym::Rest | Sym::Star => self.node(NONE, Vec::new(), id),
                Sym::Literal(literal) => self.node(NONE, vec![(*literal, id)], NONE),
            };
        }
        id
    }

    fn combine(&mut self, op: Op, a: NodeId, b: NodeId) -> NodeId {
        if let (Some(x), Some(y)) = (self.uniform_value(a), self.uniform_value(b)) {
            return self.uniform(op.of(x, y));
        }
        if a == NONE || (b == NONE && op == Op::And) {
            return NONE;
        }
        if let Some(known) = self.combined.get(&(op, a, b)) {
            return *known;
        }
        let (x, y) = (self.at(a).clone(), self.at(b).clone());
        self.budget.spend(1 + x.literals.len() + y.literals.len());
        if self.budget.is_spent() {
            return NONE;
        }
        let other = self.combine(op, x.other, y.other);
        let mut names: Vec<u32> = x.literals.iter().chain(&y.literals).map(|l| l.0).collect();
        names.sort_unstable();
        names.dedup();
        let mut literals = Vec::with_capacity(names.len());
        for name in names {
            let child = self.combine(op, x.child(name), y.child(name));
            literals.push((name, child));
        }
        let out = self.node(op.of(x.end, y.end), literals, other);
        self.combined.insert((op, a, b), out);
        out
    }

    fn uniform_value(&self, id: NodeId) -> Option<u32> {
        let node = self.at(id);
        (node.other == id && node.literals.is_empty()).then_some(node.end)
    }

    fn at(&self, id: NodeId) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&self.nothing)
    }

    fn next_id(&self) -> NodeId {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    fn push(&mut self, node: Node) -> NodeId {
        let id = self.next_id();
        self.nodes.push(node);
        id
    }
}

impl Op {
    const fn of(self, a: u32, b: u32) -> u32 {
        match self {
            Self::And => a & b,
            Self::AndNot => a & (b ^ YES),
        }
    }
}

impl Node {
    fn child(&self, literal: u32) -> NodeId {
        match self.literals.binary_search_by_key(&literal, |l| l.0) {
            Ok(at) => self.literals.get(at).map_or(self.other, |l| l.1),
            Err(_) => self.other,
        }
    }
}

impl Shape {
    fn plain(pattern: Vec<Sym>) -> Self {
        Self {
            pattern,
            except: Vec::new(),
        }
    }

    fn put_before(&mut self, sym: Sym) {
        self.pattern.insert(0, sym);
        self.except.iter_mut().for_each(|e| e.insert(0, sym));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &[Sym], subject: &[u32]) -> bool {
        match (pattern.split_first(), subject.split_first()) {
            (None, None) => true,
            (Some((Sym::Rest, _)), Some(_)) => true,
            (Some((Sym::Star, p)), Some((_, s))) => matches(p, s),
            (Some((Sym::Literal(l), p)), Some((t, s))) => l == t && matches(p, s),
            _ => false,
        }
    }

    fn syms() -> impl Strategy<Value = Vec<Sym>> {
        let sym = prop_oneof![2 => (0u32..2).prop_map(Sym::Literal), 1 => Just(Sym::Star)];
        (proptest::collection::vec(sym, 1..4), any::<bool>()).prop_map(|(mut syms, rest)| {
            if rest {
                syms.pop();
                syms.push(Sym::Rest);
            }
            syms
        })
    }

    /// Every subject of one to four tokens; 2 is a token that no pattern names.
    fn universe() -> Vec<Vec<u32>> {
        let mut all = Vec::new();
        let mut level: Vec<Vec<u32>> = vec![vec![]];
        for _ in 0..4 {
            level = level
                .iter()
                .flat_map(|s| (0..3).map(move |t| [s.clone(), vec![t]].concat()))
                .collect();
            all.extend(level.iter().cloned());
        }
        all
    }

    proptest! {
        #[test]
        fn shapes_are_exactly_the_set(
            steps in proptest::collection::vec((syms(), any::<bool>()), 1..8),
        ) {
            let mut regions = Regions::new(Budget::new(10_000_000), 100_000);
            let mut set = NONE;
            for (pattern, add) in &steps {
                let one = regions.pattern(pattern);
                set = if *add {
                    regions.union(set, one)
                } else {
                    regions.combine(Op::AndNot, set, one)
                };
            }
            let shapes = regions.shapes(set);
            prop_assert!(!regions.is_cut());
            for subject in universe() {
                let want = steps.iter().fold(false, |inside, (pattern, add)| {
                    if matches(pattern, &subject) { *add } else { inside }
                });
                let got = shapes.iter().any(|s| {
                    matches(&s.pattern, &subject)
                        && !s.except.iter().any(|e| matches(e, &subject))
                });
                prop_assert_eq!(got, want, "{:?} in {:?}", subject, shapes);
            }
        }
    }
}
