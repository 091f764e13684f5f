//! A secret's `Debug` output holds none of its bytes, in any usual spelling.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use bulla_identity::NkeyKind;
use bulla_keyring::{
    AuthorityRole, AuthoritySeed, CurveSeed, DataKey, ExchangeSecret, KemSecret, KemSuite,
    NkeySeed, SigningKey,
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
