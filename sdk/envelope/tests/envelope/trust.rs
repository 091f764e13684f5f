//! Bundles and policies: signed by the right key, for here and now, never older.

use std::time::Duration;

use bulla_envelope::{IssuingKey, SignedPolicy, SuccessionError, TrustBundle, TrustError};
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
        root().verifying_key(),
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
        TrustBundle::open(&bytes, other.verifying_key(), &domain(), NOW, SKEW).unwrap_err(),
        TrustError::BadSignature
    );
    let foreign = TrustDomain::parse("evil.example").unwrap();
    assert_eq!(
        TrustBundle::open(&bytes, root().verifying_key(), &foreign, NOW, SKEW).unwrap_err(),
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
            &[0x97, 0x01][..],
            &string("acme.example"),
            &uint(1),
            &uint(NOW.as_millis()),
            &uint(after(60).as_millis()),
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
