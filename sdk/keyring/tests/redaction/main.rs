//! What is printed of a secret, and of errors about it, holds none of its
//! bytes, in any usual spelling.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

use std::fmt::Debug;

use bulla_identity::NkeyKind;
use bulla_keyring::{
    AuthorityKey, AuthorityRole, AuthoritySeed, CertifiedKey, Cipher, CurveSeed, DataKey,
    ExchangeSecret, KemSecret, KemSuite, NkeySeed, SigningKey,
};
use rcgen::{CertificateParams, KeyPair};

mod spellings;

use spellings::assert_unprinted;

#[track_caller]
fn assert_redacted(what: &str, seed: &[u8; 32], texts: &[&str], debug: &dyn Debug) {
    assert_unprinted(what, debug, &[seed]);
    let debug = format!("{debug:?} {debug:#?}");
    for text in texts {
        // Every stretch of 12 characters of the textual form.
        for window in text.as_bytes().windows(12) {
            let window = std::str::from_utf8(window).unwrap();
            assert!(
                !debug.contains(window),
                "{what} prints a part of its text: {debug}"
            );
        }
    }
}

#[test]
fn debug_of_a_secret_holds_no_key_bytes() {
    let seed: [u8; 32] = std::array::from_fn(|i| 0x91u8.wrapping_mul(i as u8 + 3) ^ 0x5a);

    let key = SigningKey::from_seed(&seed);
    assert_redacted("SigningKey", &seed, &[], &key);

    for kind in [
        NkeyKind::User,
        NkeyKind::Account,
        NkeyKind::Server,
        NkeyKind::Operator,
    ] {
        let nkey = NkeySeed::from_random(kind, &seed).unwrap();
        let text = nkey.to_seed_text();
        assert_redacted("NkeySeed", &seed, &[&text], &nkey);
        assert_redacted("SecretString", &seed, &[&text], &text);
    }

    let curve = CurveSeed::from_random(&seed);
    let text = curve.to_seed_text();
    assert_redacted("CurveSeed", &seed, &[&text], &curve);

    let peer = CurveSeed::from_random(&[9; 32]);
    let shared = curve.shared_with(&peer.public()).unwrap();
    assert_redacted("CurveBox", &seed, &[&text], &shared);
    assert_eq!(
        format!("{shared:?}"),
        format!("CurveBox(with {})", peer.public()),
        "nothing of what the two share"
    );

    for cipher in Cipher::ALL {
        let data = DataKey::from_random(cipher, &seed);
        assert_redacted("DataKey", &seed, &[], &data);
    }

    for suite in KemSuite::ALL {
        let kem = KemSecret::from_seed(suite, &seed);
        assert_redacted("KemSecret", &seed, &[], &kem);
    }

    let exchange = ExchangeSecret::from_seed(&seed);
    assert_redacted("ExchangeSecret", &seed, &[], &exchange);
    let peer = *ExchangeSecret::from_seed(&[9; 32]).public();
    let mac = exchange.mac_key(&peer, &[1; 32], &[2; 32]).unwrap();
    let debug = format!("{mac:?} {mac:#?}");
    assert_eq!(
        debug, "MacKey(…) MacKey(…)",
        "it depends on no byte of the key"
    );

    for role in [
        AuthorityRole::Root,
        AuthorityRole::Policy,
        AuthorityRole::Issuing,
    ] {
        let authority = AuthoritySeed::from_random(role, &seed);
        let text = authority.to_secret_text();
        assert_redacted(
            "AuthoritySeed",
            &seed,
            &[text.split(':').next_back().unwrap()],
            &authority,
        );
    }
}

/// With the key of the file, in both kinds.
#[test]
fn debug_of_a_certified_key_holds_no_key_bytes() {
    for kind in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
        let key = KeyPair::generate_for(kind).unwrap();
        let params = CertificateParams::new(Vec::new()).unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        let der = key.serialize_der();
        let certified = CertifiedKey::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes());
        let certified = certified.unwrap();
        // Algorithm and lengths come first in it; of P-256 the public half last.
        let secrets: Vec<&[u8]> = match der.len() {
            ..100 => vec![&der[der.len() - 32..]],
            _ => vec![&der[36..68]],
        };
        assert_unprinted("CertifiedKey", &certified, &secrets);
        let pem = key.serialize_pem();
        assert_unprinted("CertifiedKey", &certified, &[&pem.as_bytes()[28..]]);
    }
}

/// Every error that reading a secret or using it can give, for texts and keys
/// that are nearly right.
#[test]
fn errors_hold_no_key_bytes() {
    let seed: [u8; 32] = std::array::from_fn(|i| 0x91u8.wrapping_mul(i as u8 + 3) ^ 0x5a);
    let mut errors = Vec::new();
    let mut note = |error: Option<&dyn std::error::Error>| {
        let error = error.unwrap();
        errors.push(format!("{error} {error:?} {error:#?}"));
    };

    let nkey = NkeySeed::from_random(NkeyKind::User, &seed).unwrap();
    let text = nkey.to_seed_text();
    let wrong_kind = CurveSeed::parse(&text).err();
    note(wrong_kind.as_ref().map(|error| error as _));
    let damaged = NkeySeed::parse(&text.replace(&text[40..41], "7")).err();
    note(damaged.as_ref().map(|error| error as _));
    let cut = NkeySeed::parse(&text[..57]).err();
    note(cut.as_ref().map(|error| error as _));

    let authority = AuthoritySeed::from_random(AuthorityRole::Root, &seed);
    let authority = authority.to_secret_text();
    let wrong_role = AuthoritySeed::parse(AuthorityRole::Policy, &authority).err();
    note(wrong_role.as_ref().map(|error| error as _));
    let as_public = AuthorityKey::parse(AuthorityRole::Root, &authority).err();
    note(as_public.as_ref().map(|error| error as _));

    let data = DataKey::from_random(Cipher::Aes256Gcm, &seed);
    let bad = data.open_in_place(&[0; 12], &[], &mut [0; 8], &[0; 16]);
    note(bad.as_ref().err().map(|error| error as _));
    for suite in KemSuite::ALL {
        let kem = KemSecret::from_seed(suite, &seed);
        let mut wrapped = kem.public().wrap(b"", &data, &[1; 64]).unwrap();
        let long = kem.public().wrap(&[0; 20_000], &data, &[1; 64]).err();
        note(long.as_ref().map(|error| error as _));
        let length = kem.unwrap(Cipher::Aes256Gcm, b"", &wrapped[1..]).err();
        note(length.as_ref().map(|error| error as _));
        *wrapped.last_mut().unwrap() ^= 1;
        let changed = kem.unwrap(Cipher::Aes256Gcm, b"", &wrapped).err();
        note(changed.as_ref().map(|error| error as _));
    }
    let exchange = ExchangeSecret::from_seed(&seed);
    let mac = exchange.mac_key(exchange.public(), &[1; 32], &[2; 32]);
    let bad = mac.unwrap().verify(&[b"leaf"], &[0; 32]);
    note(bad.as_ref().err().map(|error| error as _));

    for error in errors {
        let error = format_args!("{error}");
        assert_redacted("an error", &seed, &[&text[2..], &authority[20..]], &error);
    }
}
