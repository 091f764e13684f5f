//! The hash tree under one signature: RFC 9162 with nodes of 24 bytes.
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

use sha2::{Digest, Sha256};

use crate::LeafHash;
use crate::format::VERSION;

/// Bytes of a node.
pub(crate) const NODE_LEN: usize = 24;

pub(crate) type Node = [u8; NODE_LEN];

/// The leaf of one envelope.
pub(crate) fn leaf(header: &[u8], body: &[u8]) -> LeafHash {
    let body: [u8; 32] = Sha256::digest(body).into();
    let len = u32::try_from(header.len()).unwrap_or(u32::MAX);
    let mut hash = Sha256::new();
    hash.update([0x00, VERSION]);
    hash.update(len.to_be_bytes());
    hash.update(header);
    hash.update(body);
    LeafHash(hash.finalize().into())
}

/// The leaf as a node.
pub(crate) fn leaf_node(leaf: &LeafHash) -> Node {
    truncate(&leaf.0)
}

fn node(left: &Node, right: &Node) -> Node {
    // 49 bytes: one compression of SHA-256.
    let hash: [u8; 32] = Sha256::new()
        .chain_update([0x01])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into();
    truncate(&hash)
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
            let above = level
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => node(left, right),
                    [alone, ..] => *alone,
                    [] => [0; NODE_LEN],
                })
                .collect();
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
pub(crate) fn path_len(index: u32, count: u32) -> usize {
    let (mut index, mut count) = (index, count);
    let mut len = 0;
    while count > 1 {
        len += usize::from(index ^ 1 < count);
        index >>= 1;
        count = count.div_ceil(2);
    }
    len
}

/// The root that a leaf and its path lead to; nothing if the path's length is
/// not the one that index and count demand, or index is not below count.
pub(crate) fn root(leaf: Node, index: u32, count: u32, path: &[u8]) -> Option<Node> {
    if index >= count {
        return None;
    }
    let (mut index, mut count) = (index, count);
    let (mut root, mut path) = (leaf, path);
    while count > 1 {
        if index ^ 1 < count {
            let (neighbour, rest) = path.split_first_chunk::<NODE_LEN>()?;
            root = if index & 1 == 0 {
                node(&root, neighbour)
            } else {
                node(neighbour, &root)
            };
            path = rest;
        }
        index >>= 1;
        count = count.div_ceil(2);
    }
    path.is_empty().then_some(root)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
