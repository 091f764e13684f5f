//! What is printed of a secret, and of errors about it, holds none of its
//! bytes, in any usual spelling.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use bulla_identity::NkeyKind;
use bulla_keyring::{
    AuthorityKey, AuthorityRole, AuthoritySeed, CurveSeed, DataKey, ExchangeSecret, KemSecret,
    KemSuite, NkeySeed, SigningKey,
};
use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

fn assert_redacted(what: &str, seed: &[u8; 32], texts: &[&str], debug: &str) {
    let decimal = format!("{:?}", &seed[..4]);
    for spelling in [
        HEXLOWER.encode(&seed[..6]),
        HEXUPPER.encode(&seed[..6]),
        BASE64.encode(&seed[..9]),
        BASE64URL_NOPAD.encode(&seed[..9]),
        BASE32_NOPAD.encode(&seed[..10]),
        decimal.trim_matches(['[', ']']).to_owned(),
    ] {
        assert!(
            !debug.contains(&spelling),
            "{what} prints its secret: {debug}"
        );
    }
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
    assert_redacted("SigningKey", &seed, &[], &format!("{key:?} {key:#?}"));

    for kind in [
        NkeyKind::User,
        NkeyKind::Account,
        NkeyKind::Server,
        NkeyKind::Operator,
    ] {
        let nkey = NkeySeed::from_random(kind, &seed).unwrap();
        let text = nkey.to_seed_text();
        assert_redacted("NkeySeed", &seed, &[&text], &format!("{nkey:?} {nkey:#?}"));
        assert_redacted(
            "SecretString",
            &seed,
            &[&text],
            &format!("{text:?} {text:#?}"),
        );
    }

    let curve = CurveSeed::from_random(&seed);
    let text = curve.to_seed_text();
    assert_redacted(
        "CurveSeed",
        &seed,
        &[&text],
        &format!("{curve:?} {curve:#?}"),
    );

    let data = DataKey::from_random(&seed);
    assert_redacted("DataKey", &seed, &[], &format!("{data:?} {data:#?}"));

    for suite in KemSuite::ALL {
        let kem = KemSecret::from_seed(suite, &seed);
        assert_redacted("KemSecret", &seed, &[], &format!("{kem:?} {kem:#?}"));
    }

    let exchange = ExchangeSecret::from_seed(&seed);
    assert_redacted(
        "ExchangeSecret",
        &seed,
        &[],
        &format!("{exchange:?} {exchange:#?}"),
    );
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
        let debug = format!("{authority:?} {authority:#?}");
        assert_redacted(
            "AuthoritySeed",
            &seed,
            &[text.split(':').next_back().unwrap()],
            &debug,
        );
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

    let data = DataKey::from_random(&seed);
    let bad = data.open_in_place(&[0; 12], &[], &mut [0; 8], &[0; 16]);
    note(bad.as_ref().err().map(|error| error as _));
    for suite in KemSuite::ALL {
        let kem = KemSecret::from_seed(suite, &seed);
        let mut wrapped = kem.public().wrap(b"", &data, &[1; 64]).unwrap();
        let long = kem.public().wrap(&[0; 20_000], &data, &[1; 64]).err();
        note(long.as_ref().map(|error| error as _));
        let length = kem.unwrap(b"", &wrapped[1..]).err();
        note(length.as_ref().map(|error| error as _));
        *wrapped.last_mut().unwrap() ^= 1;
        let changed = kem.unwrap(b"", &wrapped).err();
        note(changed.as_ref().map(|error| error as _));
    }
    let exchange = ExchangeSecret::from_seed(&seed);
    let mac = exchange.mac_key(exchange.public(), &[1; 32], &[2; 32]);
    let bad = mac.unwrap().verify(&[b"leaf"], &[0; 32]);
    note(bad.as_ref().err().map(|error| error as _));

    for error in errors {
        assert_redacted("an error", &seed, &[&text[2..], &authority[20..]], &error);
    }
}
