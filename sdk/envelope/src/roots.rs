//! What a receiver remembers of batches whose signature it has verified, so
//! that the rest of a batch costs a hash or so each instead of a signature. What is left
//! out never changes a verdict (SPEC.md, ENV-25).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bulla_keyring::Signature;

use crate::tree::{self, Node, Rise};

/// Shards, so that receivers of different senders do not wait for each other.
const SHARDS: usize = 16;
/// Batches that a shard remembers.
const BATCHES_PER_SHARD: usize = 64;
/// Batches of one credential: a flood from one sender forgets its own first.
const BATCHES_PER_CREDENTIAL: usize = 8;
/// Nodes that a shard remembers: about 800 KB, and 13 MB for all shards.
const NODES_PER_SHARD: usize = 1 << 15;

/// Verified batches: roots, and the nodes that were proven below them.
///
/// May be shared by threads. A lock is held for a few hashes at most, never
/// while a signature is verified.
///
/// **Nothing unverified gets in.** A batch is remembered after its signature
/// has verified, under the full hash of the credential, the count and the
/// signature; a node, after a path that contains it has led to that root.
///
/// **Nothing passes that a signature would refuse.** A leaf passes if it meets
/// a node that is known, and the rest of its path is, byte by byte, what is
/// known above. That is the computation of the same root from the same nodes.
/// Whatever else comes is verified in full; a miss is never a refusal.
///
/// **Trust is not remembered.** The caller brings the credential that counts
/// now; a revoked or expired one is not found and thus not brought.
///
/// **Memory is bounded,** for one credential and in all; what does not fit
/// evicts the oldest, and costs its sender a signature, no more. Batches of one
/// are neither looked up nor remembered.
#[derive(Debug, Default)]
pub struct VerifiedRoots {
    shards: [Mutex<Shard>; SHARDS],
}

/// Which batch an envelope claims to be of, and where in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    /// SHA-256 of the whole credential, of one that is verified.
    pub(crate) credential: &'a [u8; 32],
    pub(crate) signature: &'a Signature,
    pub(crate) index: u32,
    pub(crate) count: u32,
    pub(crate) path: &'a [u8],
    pub(crate) leaf: Node,
}

#[derive(Debug, Default)]
struct Shard {
    /// Oldest first.
    batches: VecDeque<Batch>,
    /// In all batches.
    nodes: usize,
    /// Room that is used again.
    scratch: Vec<(usize, Node)>,
}

#[derive(Debug)]
struct Batch {
    credential: [u8; 32],
    count: u32,
    signature: Signature,
    /// By place, leaves first; the last is the root and always known.
    nodes: Vec<Option<Node>>,
}

impl VerifiedRoots {
    /// Nothing remembered yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Batches that are remembered now, for a metric.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.each(|shard| shard.batches.len())
    }

    /// Nodes for which memory is held now, for a metric; 25 bytes each.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.each(|shard| shard.nodes)
    }

    fn each(&self, of: impl Fn(&Shard) -> usize) -> usize {
        self.shards.iter().map(|shard| of(&lock(shard))).sum()
    }

    fn shard(&self, credential: &[u8; 32]) -> Option<MutexGuard<'_, Shard>> {
        let [first, ..] = *credential;
        self.shards.get(usize::from(first) % SHARDS).map(lock)
    }

    /// Whether the claim follows from what has been verified.
    pub(crate) fn recognise(&self, claim: &Claim<'_>) -> bool {
        claim.count > 1
            && claim.index < claim.count
            && self
                .shard(claim.credential)
                .is_some_and(|mut shard| shard.recognise(claim))
    }

    /// Remembers a claim that leads to `root`.
    ///
    /// # Security
    /// The caller has verified the claim's signature over exactly this root.
    pub(crate) fn danger_remember(&self, claim: &Claim<'_>, root: Node) {
        if claim.count > 1
            && let Some(mut shard) = self.shard(claim.credential)
        {
            shard.remember(claim, root);
        }
    }
}

/// What a panicking thread left is sound: nodes are entered when all is proven.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn recognise(&mut self, claim: &Claim<'_>) -> bool {
        let Some(batch) = self.batches.iter_mut().rev().find(|b| b.is_of(claim)) else {
            return false;
        };
        self.scratch.clear();
        let mut rise = Rise::new(claim.leaf, claim.index, claim.count, claim.path);
        // Up to a node that is known; at the latest that is the root.
        loop {
            match batch.known(rise.place()) {
                Some(known) if *known == rise.node() => break,
                Some(_) => return false,
                None if rise.is_root() => return false,
                None => {}
            }
            self.scratch.push((rise.place(), rise.node()));
            let Some(neighbour) = rise.neighbour() else {
                return false;
            };
            self.scratch
                .extend(neighbour.map(|(place, node)| (place, *node)));
            rise.hash(neighbour.map(|(_, node)| node));
        }
        // Above it, everything is known and has to be the same.
        while !rise.is_root() {
            match rise.neighbour() {
                None => return false,
                Some(Some((place, node))) if batch.known(place) != Some(node) => return false,
                Some(_) => rise.step(),
            }
        }
        if !rise.is_complete() {
            return false;
        }
        for (place, node) in self.scratch.drain(..) {
            batch.learn(place, node);
        }
        true
    }

    fn remember(&mut self, claim: &Claim<'_>, root: Node) {
        let held = self.batches.iter().position(|b| b.is_of(claim));
        let index = match held {
            // Another thread was faster.
            Some(index) => index,
            None => self.make_room(claim, root),
        };
        let Some(batch) = self.batches.get_mut(index) else {
            return;
        };
        if batch.nodes.last() != Some(&Some(root)) {
            return;
        }
        let mut rise = Rise::new(claim.leaf, claim.index, claim.count, claim.path);
        while !rise.is_root() {
            let Some(neighbour) = rise.neighbour() else {
                return;
            };
            batch.learn(rise.place(), rise.node());
            if let Some((place, node)) = neighbour {
                batch.learn(place, *node);
            }
            rise.hash(neighbour.map(|(_, node)| node));
        }
    }

    /// Evicts what has to go, and appends the batch with its root alone.
    fn make_room(&mut self, claim: &Claim<'_>, root: Node) -> usize {
        let needed = tree::nodes(claim.count);
        let own = |batch: &Batch| batch.credential == *claim.credential;
        while self.batches.iter().filter(|b| own(b)).count() >= BATCHES_PER_CREDENTIAL {
            let oldest = self.batches.iter().position(own);
            self.evict(oldest.unwrap_or(0));
        }
        while !self.batches.is_empty()
            && (self.batches.len() >= BATCHES_PER_SHARD || self.nodes + needed > NODES_PER_SHARD)
        {
            self.evict(0);
        }
        let mut nodes = vec![None; needed];
        if let Some(last) = nodes.last_mut() {
            *last = Some(root);
        }
        self.nodes += needed;
        self.batches.push_back(Batch {
            credential: *claim.credential,
            count: claim.count,
            signature: *claim.signature,
            nodes,
        });
        self.batches.len() - 1
    }

    fn evict(&mut self, index: usize) {
        if let Some(gone) = self.batches.remove(index) {
            self.nodes -= gone.nodes.len();
        }
    }
}

impl Batch {
    fn is_of(&self, claim: &Claim<'_>) -> bool {
        self.signature == *claim.signature
            && self.count == claim.count
            && self.credential == *claim.credential
    }

    fn known(&self, place: usize) -> Option<&Node> {
        self.nodes.get(place)?.as_ref()
    }

    fn learn(&mut self, place: usize, node: Node) {
        if let Some(known) = self.nodes.get_mut(place) {
            known.get_or_insert(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    /// A batch as its receiver sees it, with a signature that is any bytes.
    struct Sample {
        credential: [u8; 32],
        signature: Signature,
        leaves: Vec<Node>,
        paths: Vec<Vec<u8>>,
        root: Node,
    }

    impl Sample {
        fn new(credential: [u8; 32], n: u32, count: u32) -> Self {
            let leaves: Vec<Node> = (0..count)
                .map(|i| {
                    let mut leaf = [0; tree::NODE_LEN];
                    leaf[..4].copy_from_slice(&n.to_be_bytes());
                    leaf[4..8].copy_from_slice(&i.to_be_bytes());
                    leaf
                })
                .collect();
            let tree = Tree::new(leaves.clone());
            let mut signature = [0; 64];
            signature[..4].copy_from_slice(&n.to_be_bytes());
            Self {
                credential,
                signature: Signature::from_bytes(signature),
                paths: (0..leaves.len())
                    .map(|i| tree.path(i).flatten().copied().collect())
                    .collect(),
                leaves,
                root: tree.root(),
            }
        }

        fn claim(&self, index: usize) -> Claim<'_> {
            Claim {
                credential: &self.credential,
                signature: &self.signature,
                index: u32::try_from(index).unwrap(),
                count: u32::try_from(self.leaves.len()).unwrap(),
                path: &self.paths[index],
                leaf: self.leaves[index],
            }
        }

        fn remember(&self, roots: &VerifiedRoots, index: usize) {
            roots.danger_remember(&self.claim(index), self.root);
        }
    }

    fn credential(shard: u8, n: u32) -> [u8; 32] {
        let mut hash = [shard; 32];
        hash[1..5].copy_from_slice(&n.to_be_bytes());
        hash
    }

    #[test]
    fn one_of_a_batch_proves_the_rest_in_any_order() {
        for count in 2..=33u32 {
            for first in [0, count / 2, count - 1] {
                for step in [1, 3, 7] {
                    let sample = Sample::new([1; 32], 1, count);
                    let roots = VerifiedRoots::new();
                    assert!(!roots.recognise(&sample.claim(0)), "nothing is known yet");
                    sample.remember(&roots, first as usize);
                    for i in 0..count {
                        let index = (first + i * step) % count;
                        assert!(roots.recognise(&sample.claim(index as usize)));
                    }
                }
            }
        }
    }

    /// ENV-25: every part of the key is compared, and every node above.
    #[test]
    fn whatever_differs_is_not_recognised() {
        for count in 2..=17u32 {
            let sample = Sample::new([1; 32], 1, count);
            let roots = VerifiedRoots::new();
            for index in 0..count as usize {
                sample.remember(&roots, index);
            }
            for index in 0..count as usize {
                let genuine = sample.claim(index);
                assert!(roots.recognise(&genuine));
                let mut other = [1; 32];
                other[31] = 2;
                let claim = Claim {
                    credential: &other,
                    ..genuine
                };
                assert!(!roots.recognise(&claim), "credential");
                let signature = Signature::from_bytes([9; 64]);
                let claim = Claim {
                    signature: &signature,
                    ..genuine
                };
                assert!(!roots.recognise(&claim), "signature");
                for (other_index, other_count) in (0..20).flat_map(|i| (0..20).map(move |n| (i, n)))
                {
                    if (other_index, other_count) != (genuine.index, genuine.count) {
                        let claim = Claim {
                            index: other_index,
                            count: other_count,
                            ..genuine
                        };
                        assert!(!roots.recognise(&claim), "{other_index} of {other_count}");
                    }
                }
                let mut leaf = genuine.leaf;
                leaf[23] ^= 1;
                assert!(!roots.recognise(&Claim { leaf, ..genuine }), "leaf");
                for byte in 0..genuine.path.len() {
                    let mut path = genuine.path.to_vec();
                    path[byte] ^= 0x80;
                    let claim = Claim {
                        path: &path,
                        ..genuine
                    };
                    assert!(!roots.recognise(&claim), "path byte {byte}");
                }
                let longer = [genuine.path, &[0; tree::NODE_LEN]].concat();
                for path in [&longer[..], &longer[..genuine.path.len() - 1], &[]] {
                    assert!(!roots.recognise(&Claim { path, ..genuine }), "path length");
                }
            }
        }
    }

    /// A path that failed has taught nothing.
    #[test]
    fn nothing_is_learned_from_what_is_not_recognised() {
        let sample = Sample::new([1; 32], 1, 8);
        let roots = VerifiedRoots::new();
        sample.remember(&roots, 0);
        // A forged leaf and neighbour in a corner of which nothing is known.
        let (forged, neighbour) = ([0xaa; tree::NODE_LEN], [0xbb; tree::NODE_LEN]);
        let path = [&neighbour, &sample.paths[6][tree::NODE_LEN..]].concat();
        let claim = Claim {
            leaf: forged,
            path: &path,
            ..sample.claim(6)
        };
        for _ in 0..2 {
            assert!(!roots.recognise(&claim));
        }
        assert!(roots.recognise(&sample.claim(6)));
        assert!(roots.recognise(&sample.claim(7)));
    }

    #[test]
    fn one_sender_evicts_its_own_oldest() {
        let roots = VerifiedRoots::new();
        let neighbour = Sample::new(credential(3, 0), 1, 4);
        neighbour.remember(&roots, 0);
        let flood: Vec<_> = (0..1_000)
            .map(|n| Sample::new(credential(3, 1), n, 2))
            .collect();
        for sample in &flood {
            sample.remember(&roots, 0);
        }
        assert_eq!(roots.batches(), 1 + BATCHES_PER_CREDENTIAL);
        assert!(
            roots.recognise(&neighbour.claim(3)),
            "another sender's stays"
        );
        let known = |s: &&Sample| roots.recognise(&s.claim(1));
        assert_eq!(flood.iter().filter(known).count(), BATCHES_PER_CREDENTIAL);
        assert!(known(&flood.last().unwrap()), "the newest is there");
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        // The smallest batches meet the one bound, the largest the other.
        for counts in [[2, 2], [1_024, 1_024], [2, 1_024]] {
            let roots = VerifiedRoots::new();
            for n in 0..200u32 {
                for shard in [0, 1, 16] {
                    let count = counts[n as usize % 2];
                    Sample::new(credential(shard, n), n, count).remember(&roots, 0);
                }
                for shard in &roots.shards {
                    let shard = lock(shard);
                    assert!(shard.batches.len() <= BATCHES_PER_SHARD);
                    assert!(shard.nodes <= NODES_PER_SHARD);
                    let held: usize = shard.batches.iter().map(|b| b.nodes.len()).sum();
                    assert_eq!(held, shard.nodes);
                    assert!(shard.scratch.capacity() <= 64);
                }
            }
            assert!(roots.nodes() <= 2 * NODES_PER_SHARD, "two shards were used");
        }
    }

    #[test]
    fn a_batch_of_one_takes_no_room() {
        let roots = VerifiedRoots::new();
        let sample = Sample::new([1; 32], 1, 1);
        sample.remember(&roots, 0);
        assert_eq!(roots.batches(), 0);
        assert!(!roots.recognise(&sample.claim(0)));
    }
}
