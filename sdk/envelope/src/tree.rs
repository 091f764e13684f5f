//! The hash tree under one signature: RFC 9162 with nodes of 24 bytes. SPEC.md, ENV-20 to
//! ENV-24.
//!
//! ```text
//! leaf = SHA-256(0x00 ‖ version ‖ u32 len(header) ‖ header ‖ SHA-256(body))      32 bytes
//! node = first 24 bytes of SHA-256(0x01 ‖ left ‖ right), left and right of 24 bytes
//! a leaf enters the tree by its first 24 bytes
//! ```
//!
//! Going up level by level, a last node without a neighbour moves up
//! unchanged; that is the tree of [RFC 9162 §2.1.1].
//!
//! [RFC 9162 §2.1.1]: https://www.rfc-editor.org/rfc/rfc9162#section-2.1.1

use crate::LeafHash;
use crate::format::VERSION;
use crate::sha256::{self, digest};

/// Bytes of a node.
pub(crate) const NODE_LEN: usize = 24;

pub(crate) type Node = [u8; NODE_LEN];

/// The leaf of one envelope.
pub(crate) fn leaf(header: &[u8], body: &[u8]) -> LeafHash {
    leaf_over(header, &digest(body))
}

/// The leaf of an envelope of whose body only the hash is known.
pub(crate) fn leaf_over(header: &[u8], body: &[u8; 32]) -> LeafHash {
    LeafHash(Statement::new(header, body).digest())
}

/// The leaves of two envelopes, each given as header and body, for less than twice
/// the price of one.
pub(crate) fn both_leaves(a: (&[u8], &[u8]), b: (&[u8], &[u8])) -> [LeafHash; 2] {
    let [of_a, of_b] = sha256::digest_both(a.1, b.1);
    let (a, b) = (Statement::new(a.0, &of_a), Statement::new(b.0, &of_b));
    let hashes = match (a.blocks(), b.blocks()) {
        (Some(a), Some(b)) => sha256::digest_both_blocks(a, b),
        _ => [a.digest(), b.digest()],
    };
    hashes.map(LeafHash)
}

/// What a leaf is the hash of.
struct Statement {
    /// Laid out in blocks, if it has room here: most headers leave it.
    room: [u8; 384],
    blocks: Option<usize>,
    /// Otherwise as it is.
    long: Vec<u8>,
}

impl Statement {
    fn new(header: &[u8], body: &[u8; 32]) -> Self {
        let header_len = u32::try_from(header.len()).unwrap_or(u32::MAX);
        let [b3, b2, b1, b0] = header_len.to_be_bytes();
        let start = [0x00, VERSION, b3, b2, b1, b0];
        let parts = [&start[..], header, body];
        let mut room = [0; 384];
        let blocks = sha256::lay_out(&mut room, parts);
        let long = match blocks {
            Some(_) => Vec::new(),
            None => parts.concat(),
        };
        Self { room, blocks, long }
    }

    fn blocks(&self) -> Option<&[[u8; 64]]> {
        self.room.as_chunks().0.get(..self.blocks?)
    }

    fn digest(&self) -> [u8; 32] {
        match self.blocks() {
            Some(blocks) => sha256::digest_blocks(blocks),
            None => digest(&self.long),
        }
    }
}

/// The leaf as a node.
pub(crate) fn leaf_node(leaf: &LeafHash) -> Node {
    truncate(&leaf.0)
}

fn node(left: &Node, right: &Node) -> Node {
    truncate(&sha256::digest_blocks(&[node_block(left, right)]))
}

/// Two nodes, each given by what is below it, for less than twice the price of one.
fn both_nodes(a: (&Node, &Node), b: (&Node, &Node)) -> [Node; 2] {
    let (a, b) = (node_block(a.0, a.1), node_block(b.0, b.1));
    sha256::digest_both_blocks(&[a], &[b]).map(|hash| truncate(&hash))
}

/// 49 bytes, which with their padding are one block of SHA-256.
fn node_block(left: &Node, right: &Node) -> [u8; 64] {
    const LEN: usize = 1 + 2 * NODE_LEN;
    const BITS: [u8; 2] = (8 * LEN as u16).to_be_bytes();
    let mut block = [0; 64];
    let [tag, rest @ ..] = &mut block;
    *tag = 0x01;
    if let Some((to, rest)) = rest.split_first_chunk_mut()
        && let Some((also_to, [bit, .., high, low])) = rest.split_first_chunk_mut()
    {
        (*to, *also_to) = (*left, *right);
        *bit = 0x80;
        [*high, *low] = BITS;
    }
    block
}

fn truncate(hash: &[u8; 32]) -> Node {
    let mut node = [0; NODE_LEN];
    for (to, from) in node.iter_mut().zip(hash) {
        *to = *from;
    }
    node
}

/// A whole tree, as the signer has it.
pub(crate) struct Tree {
    /// Leaves first, the root alone last.
    levels: Vec<Vec<Node>>,
}

impl Tree {
    /// The tree over at least one leaf.
    pub(crate) fn new(leaves: Vec<Node>) -> Self {
        let mut levels = Vec::with_capacity(11);
        let mut level = leaves;
        while level.len() > 1 {
            let mut above = Vec::with_capacity(level.len().div_ceil(2));
            let (fours, rest) = level.as_chunks::<4>();
            for [a, b, c, d] in fours {
                above.extend(both_nodes((a, b), (c, d)));
            }
            above.extend(rest.chunks(2).filter_map(|pair| match pair {
                [left, right] => Some(node(left, right)),
                [alone] => Some(*alone),
                _ => None,
            }));
            levels.push(std::mem::replace(&mut level, above));
        }
        levels.push(level);
        Self { levels }
    }

    pub(crate) fn root(&self) -> Node {
        self.levels
            .last()
            .and_then(|level| level.first())
            .copied()
            .unwrap_or_default()
    }

    /// The neighbours from a leaf up to the root, one after the other.
    pub(crate) fn path(&self, index: usize) -> impl Iterator<Item = &Node> {
        self.levels
            .iter()
            .enumerate()
            .filter_map(move |(height, level)| level.get((index >> height) ^ 1))
    }
}

/// The number of nodes in the path of a leaf; it follows from index and count.
///
/// Up to where the leaf's way meets the last leaf's, each level has a neighbour;
/// above, only where the way comes from the right.
pub(crate) const fn path_len(index: u32, count: u32) -> usize {
    let apart = u32::BITS - (index ^ count.saturating_sub(1)).leading_zeros();
    let above = match index.checked_shr(apart) {
        Some(above) => above.count_ones(),
        None => 0,
    };
    (apart + above) as usize
}

/// The root that a leaf and its path lead to; nothing if the path's length is
/// not the one that index and count demand, or index is not below count.
pub(crate) fn root(leaf: Node, index: u32, count: u32, path: &[u8]) -> Option<Node> {
    if index >= count {
        return None;
    }
    let mut rise = Rise::new(leaf, index, count, path);
    while !rise.is_root() {
        let neighbour = rise.neighbour()?;
        rise.hash(neighbour.map(|(_, node)| node));
    }
    rise.is_complete().then_some(rise.node)
}

/// The number of places in a tree, its leaves and root among them.
pub(crate) fn nodes(count: u32) -> usize {
    let mut count = count as usize;
    let mut nodes = count;
    while count > 1 {
        count = count.div_ceil(2);
        nodes += count;
    }
    nodes
}

/// The way from a leaf up to the root, a level at a time.
///
/// Places count the nodes of the tree level by level, leaves first, so that
/// the root has the last.
pub(crate) struct Rise<'a> {
    node: Node,
    index: u32,
    /// Nodes on this level.
    count: u32,
    /// The place of this level's first node.
    base: usize,
    /// What is left of it.
    path: &'a [u8],
}

impl<'a> Rise<'a> {
    pub(crate) const fn new(leaf: Node, index: u32, count: u32, path: &'a [u8]) -> Self {
        Self {
            node: leaf,
            index,
            count,
            base: 0,
            path,
        }
    }

    /// The node on this level; only [`Rise::hash`] keeps it up to date.
    pub(crate) const fn node(&self) -> Node {
        self.node
    }

    pub(crate) const fn place(&self) -> usize {
        self.base + self.index as usize
    }

    pub(crate) const fn is_root(&self) -> bool {
        self.count <= 1
    }

    /// Whether this is the root and all of the path was used.
    pub(crate) const fn is_complete(&self) -> bool {
        self.count == 1 && self.index == 0 && self.path.is_empty()
    }

    /// The neighbour that the path names for this level, with its place; none
    /// inside if this is a last node without one, none at all if the path ends.
    pub(crate) fn neighbour(&self) -> Option<Option<(usize, &'a Node)>> {
        let index = self.index ^ 1;
        if index >= self.count {
            return Some(None);
        }
        let (node, _) = self.path.split_first_chunk::<NODE_LEN>()?;
        Some(Some((self.base + index as usize, node)))
    }

    /// Goes up, hashing with the neighbour that [`Rise::neighbour`] gave.
    pub(crate) fn hash(&mut self, neighbour: Option<&Node>) {
        if let Some(neighbour) = neighbour {
            self.node = if self.index & 1 == 0 {
                node(&self.node, neighbour)
            } else {
                node(neighbour, &self.node)
            };
        }
        self.step();
    }

    /// Goes up without a hash.
    pub(crate) fn step(&mut self) {
        if self.index ^ 1 < self.count {
            self.path = self.path.get(NODE_LEN..).unwrap_or_default();
        }
        self.base += self.count as usize;
        self.index >>= 1;
        self.count = self.count.div_ceil(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the format says them, from the parts and by the library.
    #[test]
    fn hashes_are_those_of_the_format() {
        use sha2::{Digest, Sha256};
        let of = |parts: &[&[u8]]| -> [u8; 32] { Sha256::digest(parts.concat()).into() };
        let bytes: Vec<u8> = (0..=255u8).cycle().take(2_000).collect();
        for header in (0..450).chain([1_100, 2_000]) {
            let (header, body) = (&bytes[..header], &bytes[header / 2..][..header / 3]);
            let len = u32::try_from(header.len()).unwrap().to_be_bytes();
            let expected = of(&[&[0, VERSION], &len, header, &of(&[body])]);
            assert_eq!(leaf(header, body).0, expected);
            let other = (&bytes[..118], &bytes[..256]);
            let alone = leaf(other.0, other.1);
            assert_eq!(
                both_leaves((header, body), other),
                [LeafHash(expected), alone]
            );
            assert_eq!(
                both_leaves(other, (header, body)),
                [alone, LeafHash(expected)]
            );
        }
        let (left, right) = ([3; NODE_LEN], [9; NODE_LEN]);
        assert_eq!(node(&left, &right), of(&[&[1], &left, &right])[..NODE_LEN]);
        assert_ne!(node(&left, &right), node(&right, &left));
    }

    fn leaves(count: u8) -> Vec<Node> {
        (0..count).map(|n| [n; NODE_LEN]).collect()
    }

    /// The decoder refuses these too; the tree does not rely on it.
    #[test]
    fn no_root_for_a_wrong_place_or_path() {
        for count in 1..=9u8 {
            let all = leaves(count);
            let tree = Tree::new(all.clone());
            let count = u32::from(count);
            for (index, leaf) in (0..count).zip(all) {
                let path: Vec<u8> = tree.path(index as usize).flatten().copied().collect();
                assert_eq!(path.len(), path_len(index, count) * NODE_LEN);
                assert_eq!(root(leaf, index, count, &path), Some(tree.root()));
                let longer = [&path[..], &[0; NODE_LEN]].concat();
                for wrong in [&longer[..], &longer[..path.len() + 1]] {
                    assert_eq!(root(leaf, index, count, wrong), None);
                }
                for len in 0..path.len() {
                    assert_eq!(root(leaf, index, count, &path[..len]), None);
                }
                for outside in [count, count + 1, u32::MAX] {
                    assert_eq!(root(leaf, outside, count, &path), None);
                }
            }
        }
        assert_eq!(root([0; NODE_LEN], 0, 0, &[]), None);
    }

    #[test]
    fn a_path_has_as_many_nodes_as_there_are_neighbours() {
        for count in 1..=300u32 {
            let tree = Tree::new(vec![[0; NODE_LEN]; count as usize]);
            for index in 0..count {
                let path = tree.path(index as usize).count();
                assert_eq!(path_len(index, count), path, "{index} of {count}");
            }
        }
    }

    #[test]
    fn places_are_those_of_the_levels() {
        for count in 1..=70u32 {
            let tree = Tree::new(vec![[0; NODE_LEN]; count as usize]);
            let levels: usize = tree.levels.iter().map(Vec::len).sum();
            assert_eq!(nodes(count), levels);
            for index in 0..count {
                let path: Vec<u8> = tree.path(index as usize).flatten().copied().collect();
                let mut rise = Rise::new([0; NODE_LEN], index, count, &path);
                assert_eq!(rise.place(), index as usize);
                while !rise.is_root() {
                    rise.step();
                }
                assert!(rise.is_complete());
                assert_eq!(rise.place() + 1, levels, "the root has the last place");
            }
        }
    }
}
