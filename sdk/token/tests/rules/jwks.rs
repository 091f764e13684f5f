//! Key sets.

use crate::issuer::*;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use bulla_token::{IgnoredKey, JwksError, KeySet, MAX_JWKS_BYTES};
use serde_json::{Value, json};

fn parse(keys: &[Value]) -> Result<KeySet, JwksError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

/// Why `key` is left out of a set that has one good key besides.
fn left_out(key: Value) -> IgnoredKey {
    let set = parse(&[ED.1.clone(), key]).unwrap();
    assert_eq!(set.len(), 1);
    let mut reasons = set.ignored().iter();
    let (why, count) = reasons.next().unwrap();
    assert_eq!((*count, reasons.next()), (1, None));
    *why
}

#[test]
fn each_kind_of_key_is_read() {
    let set = all_keys();
    assert_eq!(
        set.key_ids().collect::<Vec<_>>(),
        ["rsa", "pss", "p256", "p384", "ed"]
    );
    assert!(set.contains("rsa") && !set.contains("x"));
    assert!(set.ignored().is_empty());
}

#[test]
fn the_document_is_read_strictly() {
    assert_eq!(KeySet::parse(b""), Err(JwksError::NotJson));
    assert_eq!(KeySet::parse(b"[]"), Err(JwksError::NotJson));
    assert_eq!(KeySet::parse(b"{}"), Err(JwksError::NoKeys));
    assert_eq!(KeySet::parse(b"{\"keys\":1}"), Err(JwksError::NoKeys));
    assert_eq!(
        KeySet::parse(b"{\"keys\":[],\"keys\":[]}"),
        Err(JwksError::DuplicateMember)
    );
    let key = ED.1.to_string();
    let twice = format!(
        "{{\"keys\":[{},\"kid\":\"other\"}}]}}",
        &key[..key.len() - 1]
    );
    assert_eq!(
        KeySet::parse(twice.as_bytes()),
        Err(JwksError::DuplicateMember)
    );
}

#[test]
fn size_and_number_are_capped() {
    let big = vec![b' '; MAX_JWKS_BYTES + 1];
    assert!(matches!(
        KeySet::parse(&big),
        Err(JwksError::TooLarge { .. })
    ));
    let many = vec![ED.1.clone(); 101];
    assert_eq!(
        parse(&many),
        Err(JwksError::TooManyKeys {
            limit: 100,
            actual: 101
        })
    );
}

#[test]
fn a_set_without_a_usable_key_is_an_error() {
    assert_eq!(parse(&[]), Err(JwksError::NoUsableKey { ignored: 0 }));
    let encryption = with(ED.1.clone(), json!({"use": "enc"}));
    assert_eq!(
        parse(&[encryption]),
        Err(JwksError::NoUsableKey { ignored: 1 })
    );
}

#[test]
fn keys_for_encryption_are_left_out() {
    for change in [
        json!({"use": "enc"}),
        json!({"use": "tls"}),
        json!({"key_ops": ["encrypt"]}),
    ] {
        assert_eq!(
            left_out(with(P256.1.clone(), change)),
            IgnoredKey::NotForSignatures
        );
    }
}

#[test]
fn symmetric_keys_are_left_out() {
    for key in [
        json!({"kty": "oct", "k": "c2VjcmV0", "kid": "s"}),
        json!({"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"}),
        with(P256.1.clone(), json!({"alg": "HS256"})),
    ] {
        assert_eq!(left_out(key), IgnoredKey::Symmetric);
    }
}

#[test]
fn keys_with_private_members_are_left_out() {
    for member in ["d", "p", "q", "dp", "dq", "qi", "oth"] {
        let key = with(RSA.1.clone(), json!({member: "AQ"}));
        assert_eq!(left_out(key), IgnoredKey::PrivateMaterial);
    }
}

#[test]
fn unknown_kinds_curves_and_algorithms_are_left_out() {
    for key in [
        with(ED.1.clone(), json!({"kty": "XYZ"})),
        with(ED.1.clone(), json!({"crv": "Ed448"})),
        with(ED.1.clone(), json!({"crv": "X25519"})),
        with(P256.1.clone(), json!({"crv": "P-521", "alg": null})),
        with(P256.1.clone(), json!({"crv": "secp256k1", "alg": null})),
        with(RSA.1.clone(), json!({"alg": "RSA-OAEP"})),
        with(RSA.1.clone(), json!({"alg": "none"})),
    ] {
        assert_eq!(left_out(key.clone()), IgnoredKey::Unsupported, "{key}");
    }
}

#[test]
fn an_algorithm_that_does_not_go_with_the_key_is_left_out() {
    for key in [
        with(RSA.1.clone(), json!({"alg": "ES256"})),
        with(P256.1.clone(), json!({"alg": "RS256"})),
        with(P256.1.clone(), json!({"alg": "ES384"})),
        with(ED.1.clone(), json!({"alg": "ES256"})),
    ] {
        assert_eq!(left_out(key), IgnoredKey::AlgorithmMismatch);
    }
}

#[test]
fn weak_rsa_keys_are_left_out() {
    let n = RSA.1["n"].as_str().unwrap();
    for change in [
        json!({"n": &n[..300]}),
        json!({"n": ""}),
        json!({"e": "AQ"}),
        json!({"e": "Ag"}),
        json!({"e": ""}),
        json!({"e": "AQAAAAAB"}),
    ] {
        assert_eq!(
            left_out(with(RSA.1.clone(), change.clone())),
            IgnoredKey::WeakRsa,
            "{change}"
        );
    }
    let long = "_".repeat(1400);
    assert_eq!(
        left_out(with(RSA.1.clone(), json!({"n": long}))),
        IgnoredKey::WeakRsa
    );
}

#[test]
fn malformed_keys_are_left_out() {
    for key in [
        json!(1),
        json!({}),
        with(P256.1.clone(), json!({"x": null})),
        with(P256.1.clone(), json!({"y": 5})),
        with(P256.1.clone(), json!({"x": "AA"})),
        with(P256.1.clone(), json!({"y": P256.1["x"]})),
        with(P256.1.clone(), json!({"x": "~~"})),
        with(ED.1.clone(), json!({"x": "AAAA"})),
        with(ED.1.clone(), json!({"crv": null})),
        with(ED.1.clone(), json!({"kid": 7})),
        with(ED.1.clone(), json!({"kid": ""})),
        with(RSA.1.clone(), json!({"e": null})),
        with(RSA.1.clone(), json!({"n": "a+b="})),
    ] {
        assert_eq!(left_out(key.clone()), IgnoredKey::Malformed, "{key}");
    }
}

#[test]
fn two_keys_under_one_kid_are_both_left_out_and_a_repeated_one_counts_once() {
    let (_, other) = ed_key("ed");
    let set = parse(&[ED.1.clone(), RSA.1.clone(), other]).unwrap();
    assert_eq!(set.key_ids().collect::<Vec<_>>(), ["rsa"]);
    assert_eq!(set.ignored()[&IgnoredKey::ConflictingKid], 2);
    assert_eq!(left_out(ED.1.clone()), IgnoredKey::Repeated);
}

#[test]
fn an_encryption_key_may_share_the_kid_of_a_signing_key() {
    let encryption = with(RSA.1.clone(), json!({"use": "enc", "kid": "ed"}));
    assert_eq!(left_out(encryption), IgnoredKey::NotForSignatures);
}

#[test]
fn an_rsa_key_without_alg_is_bound_to_rs256() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let jwk = with(rsa_jwk(&pair, "plain", "RS256"), json!({"alg": null}));
    let keys = key_set(&[&jwk]);
    let h = with(header(), json!({"alg": "PS256", "kid": "plain"}));
    let pss = sign(&h, &claims(), &Signer::Pss(Box::new(pair)));
    assert_eq!(
        validator().validate(&pss, &keys, NOW).unwrap_err().code(),
        "token_algorithm_mismatch"
    );
}

#[test]
fn sets_are_equal_when_their_keys_are() {
    assert_eq!(all_keys(), all_keys());
    let (_, other) = ed_key("ed");
    assert_ne!(key_set(&[&ED.1]), key_set(&[&other]));
}

#[test]
fn debug_shows_ids_and_no_material() {
    let shown = format!("{:?}", key_set(&[&ED.1]));
    assert!(shown.contains("\"ed\"") && !shown.contains(ED.1["x"].as_str().unwrap()));
}
