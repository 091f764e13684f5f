//! Batch proofs: every place of every size, and what must not pass for one.

use bulla_envelope::{Draft, Sealed, SealedEnvelope};

use crate::fixture::*;
use crate::oracle::{Parts, node, refusal, rfc_path, rfc_root, sign_root};

fn batch(process: &Process, count: usize) -> Vec<Sealed> {
    let subjects: Vec<_> = (0..count).map(|n| subject(&format!("s.{n}"))).collect();
    let bodies: Vec<_> = (0..count).map(|n| vec![n as u8; n]).collect();
    let drafts: Vec<_> = subjects
        .iter()
        .zip(&bodies)
        .map(|(to, body)| (Draft::event(to, NOW, after(30), body), id(7)))
        .collect();
    process.sealer().seal_batch(&drafts).unwrap()
}

fn node_of(sealed: &Sealed) -> [u8; 24] {
    sealed.leaf.0[..24].try_into().unwrap()
}

/// ENV-21 to ENV-23, against the recursive definitions of RFC 9162.
#[test]
fn every_index_of_every_batch_opens_alone() {
    let process = orders();
    let credential = process.verified();
    for count in (1..=64).chain([65, 127, 128, 129, 1024]) {
        let sealed = batch(&process, count);
        let leaves: Vec<_> = sealed.iter().map(node_of).collect();
        let root = rfc_root(&leaves);
        let signature = sign_root(
            &process.message_key(),
            process.credential().hash(),
            count as u32,
            &root,
        );
        let few = if count <= 64 { 1 } else { 41 };
        for (index, envelope) in sealed.iter().enumerate().step_by(few) {
            let parts = Parts::of(&envelope.bytes);
            assert_eq!((parts.index, parts.count), (index as u64, count as u64));
            assert_eq!(parts.path, rfc_path(index, &leaves).concat());
            assert_eq!(parts.signature, signature);
            assert_eq!(parts.leaf(), envelope.leaf);
            assert_eq!(parts.encode(), envelope.bytes, "one encoding only");
            if count <= 16 || index % 9 == 0 {
                let to = format!("s.{index}");
                let opened = open(envelope, &credential, &expect_event(&to));
                assert_eq!(opened.first_message().body.len(), index);
                assert_eq!(opened.first_message().sequence, index as u64);
            }
        }
    }
}

/// ENV-24: up to the sealer's own cap, place by place.
#[test]
fn every_place_of_every_batch_up_to_256_verifies() {
    let process = orders();
    let credential = process.verified();
    let to = subject("a");
    let draft = Draft::event(&to, NOW, after(30), b"x");
    let sealer = process.sealer();
    for count in 1..=256 {
        let batch = vec![(draft.clone(), id(7)); count];
        let sealed = sealer.seal_batch(&batch).unwrap();
        assert_eq!(sealed.len(), count);
        for (place, envelope) in sealed.iter().enumerate() {
            let verified = SealedEnvelope::decode(envelope.bytes.clone())
                .unwrap()
                .verify(&credential);
            assert!(verified.is_ok(), "{place} of {count}");
        }
    }
}

fn verifies(parts: &Parts, process: &Process) -> bool {
    SealedEnvelope::decode(parts.encode())
        .is_ok_and(|sealed| sealed.verify(&process.verified()).is_ok())
}

#[test]
fn another_index_or_count_fails() {
    let process = orders();
    for count in [1, 2, 3, 5, 8] {
        for sealed in batch(&process, count) {
            let genuine = Parts::of(&sealed.bytes);
            assert!(verifies(&genuine, &process));
            for index in 0..10 {
                for other in 0..10 {
                    if (index, other) == (genuine.index, genuine.count) {
                        continue;
                    }
                    let mut parts = genuine.clone();
                    (parts.index, parts.count) = (index, other);
                    assert!(!verifies(&parts, &process), "{index} of {other}");
                }
            }
        }
    }
}

#[test]
fn path_length_follows_from_index_and_count() {
    let process = orders();
    let genuine = Parts::of(&batch(&process, 5)[1].bytes);
    assert_eq!(genuine.path.len(), 3 * 24);
    for len in (0..=5 * 24).filter(|len| *len != 3 * 24) {
        let mut parts = genuine.clone();
        parts.path.resize(len, 0);
        assert_eq!(refusal(parts.encode()), "path_length", "{len}");
    }
    // The last of five has a single neighbour.
    assert_eq!(Parts::of(&batch(&process, 5)[4].bytes).path.len(), 24);
    for (index, count) in [(1, 1), (5, 5), (0, 0), (0, 1025), (1 << 40, 1 << 41)] {
        let mut parts = genuine.clone();
        (parts.index, parts.count) = (index, count);
        assert_eq!(refusal(parts.encode()), "batch_place", "{index} of {count}");
    }
}

/// A message whose leaf's input is chosen so that it looks like an inner node
/// must not be provable, nor an inner node pass for a leaf.
#[test]
fn an_inner_node_is_no_leaf() {
    let process = orders();
    let sealed = batch(&process, 4);
    let leaves: Vec<_> = sealed.iter().map(node_of).collect();
    let inner = node(&leaves[0], &leaves[1]);
    let neighbour = node(&leaves[2], &leaves[3]);
    assert_eq!(rfc_root(&leaves), node(&inner, &neighbour));
    // With the shorter path from the inner node up, nothing opens: its place
    // would be index 0 of 2, but the signature binds the count of 4.
    let mut parts = Parts::of(&sealed[0].bytes);
    (parts.index, parts.count) = (0, 2);
    parts.path = neighbour.to_vec();
    assert!(!verifies(&parts, &process));
    // And 49 bytes of node input are not a header that decodes.
    let mut header = vec![0x01];
    header.extend_from_slice(&leaves[0]);
    header.extend_from_slice(&leaves[1]);
    let bytes = Parts::of(&sealed[0].bytes).encode_with_header(&header);
    assert!(SealedEnvelope::decode(bytes).is_err());
}

#[test]
fn a_signature_is_worth_nothing_elsewhere() {
    let process = orders();
    // The same message key under another credential.
    let mut other_issue = orders();
    other_issue.token_seed = Some([77; 32]);
    assert_ne!(other_issue.credential().id(), process.credential().id());
    let sealed = batch(&process, 3);
    let mut parts = Parts::of(&sealed[1].bytes);
    parts.set(
        2,
        crate::oracle::bin(other_issue.credential().id().as_bytes()),
    );
    let moved = SealedEnvelope::decode(parts.encode()).unwrap();
    assert_eq!(
        moved
            .clone()
            .verify(&process.verified())
            .unwrap_err()
            .code(),
        "wrong_credential"
    );
    assert_eq!(
        moved.verify(&other_issue.verified()).unwrap_err().code(),
        "bad_signature"
    );

    // The 16 bytes on the wire changed nothing, the signature binds the whole
    // hash: re-signed for another credential's hash it fails too.
    let parts =
        Parts::of(&sealed[1].bytes).sign(&process.message_key(), other_issue.credential().hash());
    assert!(!verifies(&parts, &process));
    let parts = parts.sign(&process.message_key(), process.credential().hash());
    assert!(verifies(&parts, &process));

    // Another workload's key.
    let parts = parts.sign(&billing().message_key(), process.credential().hash());
    assert!(!verifies(&parts, &process));

    // A signature from another batch of the same sealer.
    let sealer = process.sealer();
    let to = subject("a");
    let draft = Draft::event(&to, NOW, after(30), b"");
    let one = sealer.seal_batch(&vec![(draft.clone(), id(1)); 2]).unwrap();
    let two = sealer.seal_batch(&vec![(draft, id(1)); 2]).unwrap();
    let mut parts = Parts::of(&one[0].bytes);
    parts.signature = Parts::of(&two[0].bytes).signature;
    assert!(!verifies(&parts, &process));
}

#[test]
fn spliced_bodies_tokens_and_paths_fail() {
    let process = orders();
    let to = subject("a");
    let mut draft = Draft::event(&to, NOW, after(30), b"one");
    draft.token = Some(b"alice");
    let mut other = Draft::event(&to, NOW, after(30), b"two");
    other.token = Some(b"bob");
    let sealed = process
        .sealer()
        .seal_batch(&[(draft, id(1)), (other, id(2))])
        .unwrap();
    let (one, two) = (Parts::of(&sealed[0].bytes), Parts::of(&sealed[1].bytes));

    let mut parts = one.clone();
    parts.body = two.body.clone();
    assert!(!verifies(&parts, &process));
    let mut parts = one.clone();
    parts.path = two.path.clone();
    assert!(!verifies(&parts, &process));
    let mut parts = one.clone();
    parts.token = two.token.clone();
    let error = SealedEnvelope::decode(parts.encode())
        .unwrap()
        .verify(&process.verified())
        .unwrap_err();
    assert_eq!(error.code(), "token_mismatch");
    parts.token = None;
    assert_eq!(refusal(parts.encode()), "token_presence");
    let mut parts = one;
    parts.remove(11);
    assert_eq!(refusal(parts.encode()), "token_presence");
}

/// Hashed together they are what they are apart, whichever of both is not what was signed.
#[test]
fn two_that_are_hashed_together_are_judged_apart() {
    let process = orders();
    let credential = process.verified();
    let sealed = batch(&process, 70);
    let forged = |at: usize| {
        let mut parts = Parts::of(&sealed[at].bytes);
        parts.body[at / 2] ^= 1;
        parts.encode()
    };
    for (a, b) in [(3, 4), (4, 3), (1, 69), (60, 64), (33, 33)] {
        for (bend_a, bend_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let bytes_of = |at: usize, bend| match bend {
                true => forged(at),
                false => sealed[at].bytes.clone(),
            };
            let mut of_a = SealedEnvelope::decode(bytes_of(a, bend_a)).unwrap();
            let mut of_b = SealedEnvelope::decode(bytes_of(b, bend_b)).unwrap();
            assert!(!of_a.is_hashed() && !of_b.is_hashed());
            of_a.hash_both(&mut of_b);
            assert!(of_a.is_hashed() && of_b.is_hashed());
            for (envelope, at, is_bent) in [(of_a, a, bend_a), (of_b, b, bend_b)] {
                match envelope.verify(&credential) {
                    Ok(authentic) => {
                        assert!(!is_bent, "{at} passed");
                        assert_eq!(authentic.leaf(), sealed[at].leaf);
                    }
                    Err(error) => assert!(is_bent, "{at}: {error}"),
                }
            }
        }
    }
}
