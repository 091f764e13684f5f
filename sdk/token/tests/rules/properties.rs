//! Whatever the input: no panic, and nothing but the true token passes.

use crate::issuer::*;
use bulla_identity::TrustDomain;
use bulla_token::{
    KeySet, TokenSigningKey, UnverifiedTransaction, unverified_issuer, verify_transaction_token,
};
use data_encoding::BASE64URL_NOPAD as B64;
use proptest::prelude::*;
use std::time::Duration;

fn try_everything(token: &str) -> bool {
    let domain = TrustDomain::parse("acme.example").unwrap();
    let _ = unverified_issuer(token);
    let _ =
        UnverifiedTransaction::parse(token).map(|t| t.vouched_for(&domain, NOW, Duration::ZERO));
    let key = TokenSigningKey::from_seed([9; 32]);
    let txn = verify_transaction_token(token, key.public(), &domain, NOW, Duration::from_secs(5));
    txn.is_ok() || validate(token).is_ok()
}

fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        "[a-z]{0,6}".prop_map(|s| format!("\"{s}\"")),
        Just("\"EdDSA\"".to_owned()),
        Just("\"at+jwt\"".to_owned()),
    ];
    let names = prop_oneof![
        Just("alg"),
        Just("typ"),
        Just("kid"),
        Just("exp"),
        Just("aud"),
        Just("iss"),
        Just("sub"),
        Just("crit"),
        Just("tctx"),
        Just("keys"),
        Just("kty"),
        Just("x"),
        Just("n"),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::vec((names.clone(), inner), 0..6).prop_map(|v| {
                let members: Vec<_> = v.iter().map(|(n, x)| format!("\"{n}\":{x}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_refused_without_a_panic(token in ".{0,300}") {
        prop_assert!(!try_everything(&token));
    }

    #[test]
    fn any_three_parts_are_refused_without_a_panic(h in json_text(), c in json_text(), s in "[A-Za-z0-9_-]{0,90}") {
        let token = format!("{}.{}.{s}", B64.encode(h.as_bytes()), B64.encode(c.as_bytes()));
        prop_assert!(!try_everything(&token));
    }

    #[test]
    fn any_signed_claims_never_panic(c in json_text()) {
        let _ = try_everything(&sign_text(&header().to_string(), &c, &ED.0));
    }

    #[test]
    fn any_change_of_one_byte_is_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let token = good();
        let at = at.index(token.len());
        let mut bytes = token.clone().into_bytes();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        if let Ok(spoilt) = String::from_utf8(bytes) {
            prop_assert!(!try_everything(&spoilt));
        }
    }

    #[test]
    fn any_key_set_is_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = KeySet::parse(&bytes);
    }

    #[test]
    fn any_json_key_set_is_read_or_refused_without_a_panic(text in json_text()) {
        let _ = KeySet::parse(text.as_bytes());
        let _ = KeySet::parse(format!("{{\"keys\":[{text}]}}").as_bytes());
    }
}
