//! Bundles and policies: signed by the right key, for here and now, never older.

use std::time::Duration;

use bulla_envelope::{
    FormerRoot, IssuingKey, SignedPolicy, SuccessionError, TrustBundle, TrustError,
};
use bulla_identity::TrustDomain;
use bulla_keyring::{SigningKey, Tag};

use crate::fixture::*;
use crate::oracle::{bin, string, uint};

fn root() -> SigningKey {
    SigningKey::from_seed(&ROOT)
}

fn open_at(bytes: &[u8], seconds: i64) -> Result<TrustBundle, TrustError> {
    TrustBundle::open(
        bytes,
        &[*root().verifying_key()],
        &domain(),
        after(seconds),
        SKEW,
    )
    .map(|bundle| bundle.into_inner())
}

fn policy(revision: u64, text: &str) -> SignedPolicy {
    SignedPolicy {
        trust_domain: domain(),
        revision,
        issued_at: NOW,
        comment: String::new(),
        text: text.to_owned(),
    }
}

#[test]
fn a_bundle_survives_the_wire_in_any_order_of_keys() {
    let mut bundle = unsigned_bundle();
    for n in 30..34 {
        bundle.issuing.push(IssuingKey {
            key: *SigningKey::from_seed(&[n; 32]).verifying_key(),
            expires_at: after(60),
        });
    }
    let bytes = bundle.sign(&root()).unwrap();
    bundle.issuing.reverse();
    assert_eq!(bundle.sign(&root()).unwrap(), bytes);
    let opened = open_at(&bytes, 0).unwrap();
    assert_eq!(opened.issuing.len(), 5);
    assert_eq!(opened.version, 7);
    assert_eq!(opened.policy_keys, bundle.policy_keys);
}

#[test]
fn a_bundle_is_for_one_root_one_domain_one_time() {
    let bytes = unsigned_bundle().sign(&root()).unwrap();
    assert!(open_at(&bytes, -3605).is_ok());
    assert_eq!(open_at(&bytes, -3606), Err(TrustError::Future));
    assert!(open_at(&bytes, 30 * 24 * 3600 + 5).is_ok());
    assert_eq!(
        open_at(&bytes, 30 * 24 * 3600 + 6),
        Err(TrustError::Expired)
    );
    let other = SigningKey::from_seed(&POLICY);
    assert_eq!(
        TrustBundle::open(&bytes, &[*other.verifying_key()], &domain(), NOW, SKEW).unwrap_err(),
        TrustError::UnknownRoot
    );
    let foreign = TrustDomain::parse("evil.example").unwrap();
    assert_eq!(
        TrustBundle::open(&bytes, &[*root().verifying_key()], &foreign, NOW, SKEW).unwrap_err(),
        TrustError::ForeignDomain
    );
}

#[test]
fn every_flipped_bit_of_a_bundle_and_a_policy_fails() {
    let bundle = bundle();
    let mut bytes = unsigned_bundle().sign(&root()).unwrap();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(open_at(&bytes, 0).is_err(), "bit {bit} of the bundle");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    let key = SigningKey::from_seed(&POLICY);
    let mut bytes = policy(1, "version = 1").sign(&key).unwrap();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(
            SignedPolicy::open(&bytes, &bundle, NOW, SKEW).is_err(),
            "bit {bit}"
        );
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes.push(0);
    assert!(SignedPolicy::open(&bytes, &bundle, NOW, SKEW).is_err());
}

#[test]
fn what_the_root_would_not_be_believed_is_not_signed() {
    let mut bundle = unsigned_bundle();
    bundle.issuing[0].expires_at = bundle
        .issued_at
        .saturating_add(Duration::from_secs(7 * 24 * 3600 + 1));
    assert_eq!(bundle.sign(&root()), Err(TrustError::IssuingLifeTooLong));
    let mut bundle = unsigned_bundle();
    bundle.policy_keys.push(bundle.policy_keys[0]);
    assert_eq!(bundle.sign(&root()), Err(TrustError::KeyOrder));
    let mut bundle = unsigned_bundle();
    bundle.expires_at = after(-3601);
    assert_eq!(bundle.sign(&root()), Err(TrustError::Expired));
}

#[test]
fn a_root_signed_bundle_with_disordered_or_unsound_keys_is_refused() {
    let sign = |keys: &[[u8; 32]]| {
        let statement = [
            &[0x99, 0x01][..],
            &string("acme.example"),
            &uint(1),
            &uint(NOW.as_millis()),
            &uint(after(60).as_millis()),
            &bin(root().verifying_key().as_bytes()),
            &[0x90],
            &[0x90, 0x90 + keys.len() as u8],
            &keys.iter().flat_map(|key| bin(key)).collect::<Vec<_>>(),
        ]
        .concat();
        let signature = root().sign(Tag::TrustBundle, &[&statement]);
        [&[0x92][..], &bin(&statement), &bin(signature.as_bytes())].concat()
    };
    let mut keys =
        [30, 31, 32].map(|n| *SigningKey::from_seed(&[n; 32]).verifying_key().as_bytes());
    keys.sort_unstable();
    assert!(open_at(&sign(&keys), 0).is_ok());
    keys.swap(0, 1);
    assert_eq!(open_at(&sign(&keys), 0), Err(TrustError::KeyOrder));
    assert_eq!(open_at(&sign(&[keys[0]; 2]), 0), Err(TrustError::KeyOrder));
    assert_eq!(open_at(&sign(&[[0; 32]]), 0), Err(TrustError::Key));
}

/// Attack 30: an older bundle or policy never comes back.
#[test]
fn rollback_and_equivocation_are_refused() {
    let held = unsigned_bundle();
    let offered = |version, policy_keys: &[_]| TrustBundle {
        version,
        policy_keys: policy_keys.to_vec(),
        ..unsigned_bundle()
    };
    let keys = &held.policy_keys;
    assert_eq!(offered(8, keys).check_succession(&held), Ok(()));
    assert_eq!(offered(7, keys).check_succession(&held), Ok(()));
    assert_eq!(
        offered(6, keys).check_succession(&held),
        Err(SuccessionError::Rollback {
            held: 7,
            offered: 6
        })
    );
    assert_eq!(
        offered(7, &[]).check_succession(&held),
        Err(SuccessionError::Equivocation { version: 7 })
    );
    let held = policy(3, "a");
    assert_eq!(policy(4, "b").check_succession(&held), Ok(()));
    assert_eq!(
        policy(3, "b").check_succession(&held).unwrap_err().code(),
        "equivocation"
    );
    assert_eq!(
        policy(2, "a").check_succession(&held).unwrap_err().code(),
        "rollback"
    );
}

#[test]
fn a_policy_is_by_a_policy_key_of_the_bundle() {
    let bundle = bundle();
    let open = |bytes: &[u8]| SignedPolicy::open(bytes, &bundle, NOW, SKEW).map(|p| p.into_inner());
    let text = "version = 1\n".repeat(10_000);
    let genuine = policy(5, &text);
    let bytes = genuine.sign(&SigningKey::from_seed(&POLICY)).unwrap();
    assert_eq!(open(&bytes), Ok(genuine));
    // Neither the root nor a broker may write policy.
    for seed in [ROOT, ISSUING] {
        let bytes = policy(5, "x").sign(&SigningKey::from_seed(&seed)).unwrap();
        assert_eq!(open(&bytes), Err(TrustError::UnknownKey));
    }
    let foreign = SignedPolicy {
        trust_domain: TrustDomain::parse("evil.example").unwrap(),
        ..policy(5, "x")
    };
    let bytes = foreign.sign(&SigningKey::from_seed(&POLICY)).unwrap();
    assert_eq!(open(&bytes), Err(TrustError::ForeignDomain));
    let future = SignedPolicy {
        issued_at: after(6),
        ..policy(5, "x")
    };
    let bytes = future.sign(&SigningKey::from_seed(&POLICY)).unwrap();
    assert_eq!(open(&bytes), Err(TrustError::Future));
    // Nothing is judged by a bundle that has expired.
    let bytes = policy(5, "x")
        .sign(&SigningKey::from_seed(&POLICY))
        .unwrap();
    assert_eq!(
        SignedPolicy::open(&bytes, &bundle, after(31 * 24 * 3600), SKEW).unwrap_err(),
        TrustError::Expired
    );
    let too_long = policy(5, &"x".repeat(8 * 1024 * 1024));
    assert_eq!(
        too_long
            .sign(&SigningKey::from_seed(&POLICY))
            .unwrap_err()
            .code(),
        "too_large"
    );
}

/// A bundle's bytes never pass for a policy's or a credential's, even under one key.
#[test]
fn statements_of_one_kind_never_pass_for_another() {
    let key = root();
    let statement = b"same bytes";
    let signature = key.sign(Tag::TrustBundle, &[statement]);
    for tag in Tag::ALL.into_iter().filter(|tag| *tag != Tag::TrustBundle) {
        assert!(
            key.verifying_key()
                .verify(tag, &[statement], &signature)
                .is_err()
        );
    }
}

fn root_of(n: u8) -> SigningKey {
    SigningKey::from_seed(&[100 + n; 32])
}

/// Version `version` by the last of these roots, each of which vouches for the next.
fn rooted(version: u64, roots: &[u8]) -> TrustBundle {
    let vouch = |pair: &[u8]| {
        let next = *root_of(pair[1]).verifying_key();
        FormerRoot::vouch(&domain(), &root_of(pair[0]), &next)
    };
    TrustBundle {
        version,
        root: *root_of(roots[roots.len() - 1]).verifying_key(),
        former_roots: roots.windows(2).map(vouch).collect(),
        ..unsigned_bundle()
    }
}

fn open_with(bundle: &TrustBundle, by: u8, pins: &[u8]) -> Result<TrustBundle, TrustError> {
    let bytes = bundle.sign(&root_of(by))?;
    let pins: Vec<_> = pins.iter().map(|n| *root_of(*n).verifying_key()).collect();
    TrustBundle::open(&bytes, &pins, &domain(), NOW, SKEW).map(|bundle| bundle.into_inner())
}

/// ENV-58: who pins the old root follows it to the new one; who pins the new
/// one needs nobody's word.
#[test]
fn a_new_root_is_followed_from_every_pin_on_the_way() {
    let bundle = rooted(8, &[1, 2, 3]);
    for pin in [1, 2, 3] {
        assert_eq!(open_with(&bundle, 3, &[pin]).as_ref(), Ok(&bundle));
    }
    assert_eq!(open_with(&bundle, 3, &[4]), Err(TrustError::UnknownRoot));
    assert_eq!(open_with(&bundle, 3, &[]), Err(TrustError::UnknownRoot));
    // A root signs its own bundles only.
    assert_eq!(open_with(&bundle, 1, &[1]), Err(TrustError::BadSignature));
}

#[test]
fn a_root_that_nobody_vouches_for_is_not_followed() {
    let mut forged = rooted(8, &[1, 2]);
    // The thief's key in the honest chain, and the honest word for another.
    let word = rooted(8, &[1, 3]).former_roots;
    forged.former_roots = word;
    assert_eq!(open_with(&forged, 2, &[1]), Err(TrustError::RootSuccession));
    let mut circle = rooted(8, &[1, 2]);
    circle.root = *root_of(1).verifying_key();
    assert_eq!(open_with(&circle, 1, &[1]), Err(TrustError::RootTwice));
}

#[test]
fn a_root_that_was_replaced_does_not_come_back() {
    let held = rooted(8, &[1, 2]);
    let succession = |version, roots: &[u8]| rooted(version, roots).check_succession(&held);
    assert_eq!(succession(9, &[1, 2]), Ok(()));
    assert_eq!(succession(9, &[2]), Ok(()));
    assert_eq!(succession(9, &[2, 3]), Ok(()));
    // However high the number, and also by another successor.
    for roots in [&[1][..], &[1, 3], &[3]] {
        let refused = succession(99, roots).unwrap_err();
        assert_eq!(refused, SuccessionError::RootRollback);
        assert_eq!(refused.code(), "root_rollback");
    }
}

/// What an outside signer signs gives the same bundle, and another signature none.
#[test]
fn bundles_and_policies_can_be_signed_elsewhere() {
    let bundle = rooted(8, &[1, 2]);
    // The bytes are what `SigningKey` would sign: the tag and the statement.
    let sign = |tag: Tag, message: &[u8]| {
        let statement = message.strip_prefix(tag.as_bytes()).unwrap();
        root_of(2).sign(tag, &[statement])
    };
    let signature = sign(Tag::TrustBundle, &bundle.to_sign().unwrap());
    let signed = bundle.signed(&signature).unwrap();
    assert_eq!(signed, bundle.sign(&root_of(2)).unwrap());
    let other = root_of(2).sign(Tag::TrustBundle, &[b"something else"]);
    assert_eq!(bundle.signed(&other), Err(TrustError::BadSignature));

    let (one, two) = (root_of(2), root_of(3));
    let (one, two) = (one.verifying_key(), two.verifying_key());
    let word = sign(
        Tag::RootSuccession,
        &FormerRoot::to_sign(&domain(), one, two),
    );
    let vouched = FormerRoot::vouched(&domain(), one, two, word).unwrap();
    assert_eq!(vouched, FormerRoot::vouch(&domain(), &root_of(2), two));
    assert_eq!(
        FormerRoot::vouched(&domain(), one, two, other),
        Err(TrustError::RootSuccession)
    );

    let policy = policy(3, "version = 1");
    let signature = sign(Tag::Policy, &policy.to_sign(one));
    assert_eq!(policy.signed(one, &signature), policy.sign(&root_of(2)));
    assert_eq!(policy.signed(one, &other), Err(TrustError::BadSignature));
}
