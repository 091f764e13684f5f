//! ENV-25: with remembered batches a receiver accepts what it would accept
//! without, and nothing else.

use bulla_envelope::{Draft, Sealed, SealedEnvelope, VerifiedRoots, VerifyError};
use bytes::Bytes;
use proptest::prelude::*;

use crate::fixture::*;
use crate::oracle::{self, Parts};

fn batch(process: &Process, count: usize) -> Vec<Sealed> {
    let to = subject("orders.created");
    let bodies: Vec<_> = (0..count).map(|n| vec![n as u8; 3]).collect();
    let drafts: Vec<_> = bodies
        .iter()
        .map(|body| {
            let mut draft = Draft::event(&to, NOW, after(30), body);
            draft.token = Some(b"alice");
            (draft, id(7))
        })
        .collect();
    process.sealer().seal_batch(&drafts).unwrap()
}

/// What both ways say of these bytes; they have to say the same.
fn verdict(bytes: Bytes, process: &Process, roots: &VerifiedRoots) -> Result<(), VerifyError> {
    let credential = process.verified();
    let sealed = SealedEnvelope::decode(bytes).unwrap();
    let with = sealed.clone().verify_with(&credential, roots).map(drop);
    let without = sealed.verify(&credential).map(drop);
    assert_eq!(with, without);
    with
}

fn warm(process: &Process, sealed: &[Sealed]) -> VerifiedRoots {
    let roots = VerifiedRoots::new();
    for envelope in sealed {
        assert_eq!(verdict(envelope.bytes.clone(), process, &roots), Ok(()));
    }
    assert_eq!(roots.batches(), usize::from(sealed.len() > 1));
    roots
}

#[test]
fn any_flipped_bit_fails_although_the_batch_is_known() {
    let process = orders();
    for count in [2, 5, 8] {
        let sealed = batch(&process, count);
        let roots = warm(&process, &sealed);
        for envelope in [&sealed[0], &sealed[count - 1]] {
            for byte in 0..envelope.bytes.len() {
                let mut bytes = envelope.bytes.to_vec();
                bytes[byte] ^= 1 << (byte % 8);
                if SealedEnvelope::decode(bytes.clone().into()).is_ok() {
                    assert!(verdict(bytes.into(), &process, &roots).is_err(), "{byte}");
                }
            }
        }
        for envelope in sealed {
            assert_eq!(verdict(envelope.bytes, &process, &roots), Ok(()));
        }
    }
}

/// Forged roots and signatures are as unknown the second time as the first.
#[test]
fn what_does_not_verify_is_not_remembered() {
    let process = orders();
    let sealed = batch(&process, 4);
    let roots = VerifiedRoots::new();
    let mut forged = Parts::of(&sealed[1].bytes);
    forged.body = b"forged".to_vec();
    let by_another = {
        let mut parts = forged.clone();
        parts.signature = oracle::sign_root(
            &billing().message_key(),
            process.credential().hash(),
            4,
            &[0; 24],
        );
        parts
    };
    for _ in 0..3 {
        for parts in [&forged, &by_another] {
            let error = verdict(parts.encode(), &process, &roots);
            assert_eq!(error, Err(VerifyError::BadSignature));
        }
        assert_eq!(roots.batches(), 0);
    }
    // Nor do they spoil what is known afterwards.
    for envelope in &sealed {
        assert_eq!(verdict(envelope.bytes.clone(), &process, &roots), Ok(()));
    }
    assert!(verdict(forged.encode(), &process, &roots).is_err());
}

#[test]
fn a_token_is_compared_although_the_batch_is_known() {
    let process = orders();
    let sealed = batch(&process, 3);
    let roots = warm(&process, &sealed);
    let mut parts = Parts::of(&sealed[1].bytes);
    parts.token = Some(b"bobby".to_vec());
    let error = verdict(parts.encode(), &process, &roots);
    assert_eq!(error, Err(VerifyError::TokenMismatch));
}

/// The credential is the caller's: a known batch is nothing under another.
#[test]
fn a_known_batch_is_bound_to_its_credential() {
    let process = orders();
    let sealed = batch(&process, 3);
    let roots = warm(&process, &sealed);
    // The same message key, issued again.
    let mut again = orders();
    again.token_seed = Some([77; 32]);
    let mut parts = Parts::of(&sealed[1].bytes);
    parts.set(2, oracle::bin(again.credential().id().as_bytes()));
    let error = verdict(parts.encode(), &again, &roots);
    assert_eq!(error, Err(VerifyError::BadSignature));
    let error = verdict(sealed[1].bytes.clone(), &again, &roots);
    assert_eq!(error, Err(VerifyError::WrongCredential));
}

#[test]
fn measure_is_an_upper_bound() {
    let process = orders();
    let sealer = process.sealer();
    let to = subject("orders.created");
    let body = vec![1; 300];
    let mut draft = Draft::event(&to, NOW, after(30), &body);
    draft.token = Some(b"alice");
    let measured = sealer.measure(&draft).unwrap();
    let alone = sealer.seal(&draft, id(1)).unwrap().bytes.len();
    assert!(
        (alone..=alone + 8).contains(&measured),
        "{alone} {measured}"
    );
    let drafts = vec![(draft.clone(), id(1)); 1024];
    for sealed in sealer.seal_batch(&drafts).unwrap() {
        assert!(sealed.bytes.len() <= measured + bulla_envelope::Sealer::BATCH_ROOM);
    }
    draft.content_type = Some("");
    assert_eq!(
        sealer.measure(&draft),
        sealer.seal(&draft, id(1)).map(|_| 0)
    );
}

proptest! {
    /// Any order, any damage, several batches at once: never a difference.
    #[test]
    fn both_ways_always_agree(
        sizes in prop::collection::vec(1usize..12, 1..4),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..7, any::<u8>()), 1..24),
    ) {
        let process = orders();
        let roots = VerifiedRoots::new();
        let all: Vec<Vec<Sealed>> = sizes.iter().map(|count| batch(&process, *count)).collect();
        for (of, at, damage, byte) in picks {
            let sealed = of.get(&all);
            let mut parts = Parts::of(&at.get(sealed).bytes);
            let other = Parts::of(&of.get(&all[0]).bytes);
            match damage {
                0 if !parts.path.is_empty() => {
                    let place = usize::from(byte) % parts.path.len();
                    parts.path[place] ^= 1;
                }
                1 => parts.body.push(byte),
                2 => parts.signature[usize::from(byte) % 64] ^= 1,
                3 => parts.signature = other.signature,
                4 => (parts.index, parts.path) = (other.index, other.path),
                _ => {}
            }
            let bytes = parts.encode();
            if SealedEnvelope::decode(bytes.clone()).is_ok() {
                let _ = verdict(bytes, &process, &roots);
            }
        }
    }
}
