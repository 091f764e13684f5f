//! Access tokens.

use crate::issuer::*;
use crate::spellings::assert_unprinted;
use bulla_token::{
    AccessTokenValidator, Algorithm, Blame, PolicyError, TokenError, TypRule, ValidationPolicy,
    unverified_issuer,
};
use data_encoding::BASE64URL_NOPAD as B64;
use serde_json::json;
use std::time::Duration;

fn with_header(changes: serde_json::Value) -> TokenError {
    refusal(&sign(&with(header(), changes), &claims(), &ED.0))
}

fn with_claims(changes: serde_json::Value) -> TokenError {
    refusal(&sign(&header(), &with(claims(), changes), &ED.0))
}

#[test]
fn a_good_token_of_each_algorithm_is_accepted() {
    for (alg, kid, signer) in [
        ("EdDSA", "ed", &ED.0),
        ("Ed25519", "ed", &ED.0),
        ("RS256", "rsa", &RSA.0),
        ("PS256", "pss", &PSS.0),
        ("ES256", "p256", &P256.0),
        ("ES384", "p384", &P384.0),
    ] {
        let token = sign(
            &with(header(), json!({"alg": alg, "kid": kid})),
            &claims(),
            signer,
        );
        let seen = validate(&token).unwrap_or_else(|e| panic!("{alg}: {e}"));
        assert_eq!(seen.principal(), "alice");
        assert_eq!(seen.issuer(), ISSUER);
        assert_eq!(seen.audience(), AUDIENCE);
        assert_eq!(seen.kid(), Some(kid));
        assert_eq!(seen.expires().as_secs(), NOW_SECS + 300);
        assert!(seen.claims().has_scope("orders:write"));
    }
}

#[test]
fn what_a_good_token_says_is_not_printed() {
    let fact = "walrus-of-a-claim";
    let claims = with(claims(), json!({ "tier": fact }));
    let token = sign(&header(), &claims, &ED.0);
    let seen = validate(&token).unwrap();
    assert!(seen.claims().get("tier").is_some());
    let parts = token.split('.').map(str::as_bytes);
    let secrets: Vec<&[u8]> = parts.chain([fact.as_bytes()]).collect();
    assert_unprinted("ValidatedToken", &seen, &secrets);
}

#[test]
fn typ_with_the_media_type_tree_and_in_any_case_is_accepted() {
    for typ in ["application/at+jwt", "AT+JWT", "Application/at+jwt"] {
        let token = sign(&with(header(), json!({"typ": typ})), &claims(), &ED.0);
        assert!(validate(&token).is_ok(), "{typ}");
    }
}

// The serialisation.

#[test]
fn a_token_above_the_size_limit_is_refused_before_anything_is_decoded() {
    let long = "!".repeat(8 * 1024 + 1);
    assert_eq!(
        refusal(&long),
        TokenError::TooLarge {
            limit: 8192,
            actual: 8193
        }
    );
}

#[test]
fn an_empty_token_is_refused() {
    assert_eq!(refusal(""), TokenError::Empty);
}

#[test]
fn a_byte_outside_base64url_and_dots_is_refused() {
    for bad in ["=", "+", "/", " ", "\n", "\t", "\0", "é", ",", ":"] {
        let token = good();
        for at in [0, token.len() / 2, token.len()] {
            let mut spoilt = token.clone();
            spoilt.insert_str(at, bad);
            assert_eq!(refusal(&spoilt), TokenError::ForbiddenByte, "{bad:?}");
        }
    }
}

#[test]
fn padding_is_refused() {
    assert_eq!(refusal(&format!("{}==", good())), TokenError::ForbiddenByte);
}

#[test]
fn base64url_with_stray_trailing_bits_is_refused() {
    // 64 bytes end in a character of which four bits must be zero.
    let token = good();
    let last = token.as_bytes()[token.len() - 1];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.iter().position(|c| *c == last).unwrap();
    let other = char::from(alphabet[at + 1]);
    let spoilt = format!("{}{other}", &token[..token.len() - 1]);
    assert_eq!(refusal(&spoilt), TokenError::NotBase64);
}

#[test]
fn a_jwe_is_told_from_a_jws() {
    assert_eq!(refusal("a.b.c.d.e"), TokenError::Encrypted);
    let header = json!({"alg": "RSA-OAEP", "enc": "A256GCM", "typ": "at+jwt"}).to_string();
    let jwe = format!("{}.AA.AA.AA.AA", B64.encode(header.as_bytes()));
    assert_eq!(refusal(&jwe), TokenError::Encrypted);
}

#[test]
fn any_other_number_of_parts_is_refused() {
    for bad in ["a", "a.b", "a.b.c.d", "a.b.c.d.e.f", "..", "a..", ".b.c"] {
        assert_eq!(refusal(bad), TokenError::Malformed, "{bad}");
    }
}

#[test]
fn a_token_without_its_signature_is_refused() {
    let token = good();
    let (signed, _) = token.rsplit_once('.').unwrap();
    assert_eq!(refusal(&format!("{signed}.")), TokenError::Malformed);
}

#[test]
fn parts_that_are_no_json_objects_are_refused() {
    for bad in ["", "1", "[]", "\"x\"", "{", "{}{}", "null"] {
        if !bad.is_empty() {
            let token = sign_text(bad, &claims().to_string(), &ED.0);
            assert_eq!(refusal(&token), TokenError::NotJson, "header {bad}");
            let token = sign_text(&header().to_string(), bad, &ED.0);
            assert_eq!(refusal(&token), TokenError::NotJson, "claims {bad}");
        }
    }
}

#[test]
fn a_deeply_nested_token_is_refused() {
    let bomb = format!("{{\"a\":{}{}}}", "[".repeat(3000), "]".repeat(3000));
    let token = sign_text(&header().to_string(), &bomb, &ED.0);
    assert_eq!(refusal(&token), TokenError::NotJson);
}

#[test]
fn duplicate_header_members_are_refused() {
    let text = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"ed","alg":"none"}"#;
    let token = sign_text(text, &claims().to_string(), &ED.0);
    assert_eq!(refusal(&token), TokenError::DuplicateMember);
}

#[test]
fn duplicate_claims_are_refused() {
    let text = claims().to_string();
    let text = format!("{},\"sub\":\"mallory\"}}", &text[..text.len() - 1]);
    let token = sign_text(&header().to_string(), &text, &ED.0);
    assert_eq!(refusal(&token), TokenError::DuplicateMember);
}

#[test]
fn duplicate_members_inside_a_claim_are_refused() {
    let text = claims().to_string();
    let text = format!("{},\"x\":{{\"a\":1,\"a\":2}}}}", &text[..text.len() - 1]);
    let token = sign_text(&header().to_string(), &text, &ED.0);
    assert_eq!(refusal(&token), TokenError::DuplicateMember);
}

// The header.

#[test]
fn alg_none_is_refused_in_any_spelling_with_and_without_a_signature() {
    for alg in ["none", "None", "NONE", "nOnE"] {
        let h = with(header(), json!({"alg": alg}));
        assert_eq!(
            refusal(&sign(&h, &claims(), &Signer::Nobody)),
            TokenError::Unsigned
        );
        assert_eq!(refusal(&sign(&h, &claims(), &ED.0)), TokenError::Unsigned);
    }
}

#[test]
fn hs256_keyed_with_the_public_key_is_refused() {
    let material = [
        B64.decode(ED.1["x"].as_str().unwrap().as_bytes()).unwrap(),
        RSA.1["n"].as_str().unwrap().as_bytes().to_vec(),
        RSA.1.to_string().into_bytes(),
    ];
    for secret in material {
        for kid in ["ed", "rsa"] {
            let h = with(header(), json!({"alg": "HS256", "kid": kid}));
            let token = sign(&h, &claims(), &Signer::Hmac(secret.clone()));
            assert_eq!(refusal(&token), TokenError::Symmetric);
        }
    }
}

#[test]
fn encryption_algorithms_and_unknown_ones_are_refused() {
    for alg in [
        "RSA1_5",
        "PBES2-HS256+A128KW",
        "dir",
        "A256KW",
        "ES512",
        "ES256K",
        "",
    ] {
        assert_eq!(
            with_header(json!({"alg": alg})),
            TokenError::UnknownAlgorithm,
            "{alg}"
        );
    }
    assert_eq!(
        with_header(json!({"alg": null})),
        TokenError::UnknownAlgorithm
    );
    assert_eq!(
        with_header(json!({"alg": 256})),
        TokenError::UnknownAlgorithm
    );
    assert_eq!(
        with_header(json!({"alg": ["EdDSA"]})),
        TokenError::UnknownAlgorithm
    );
}

#[test]
fn keys_that_the_token_brings_or_points_to_are_refused() {
    let (mallory, jwk) = ed_key("mallory");
    for (name, value) in [
        ("jwk", jwk),
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/cert.pem")),
        ("x5c", json!(["MIIB"])),
    ] {
        let h = with(header(), json!({name: value}));
        for signer in [&mallory, &ED.0] {
            assert_eq!(
                refusal(&sign(&h, &claims(), signer)),
                TokenError::ForbiddenHeader(name)
            );
        }
    }
}

#[test]
fn compression_is_refused() {
    assert_eq!(
        with_header(json!({"zip": "DEF"})),
        TokenError::ForbiddenHeader("zip")
    );
}

#[test]
fn any_crit_is_refused_even_an_empty_or_a_known_one() {
    for crit in [
        json!([]),
        json!(["exp"]),
        json!(["b64"]),
        json!("x"),
        json!(false),
    ] {
        assert_eq!(
            with_header(json!({"crit": crit})),
            TokenError::ForbiddenHeader("crit")
        );
    }
}

#[test]
fn an_unencoded_payload_is_refused() {
    assert_eq!(
        with_header(json!({"b64": false})),
        TokenError::ForbiddenHeader("b64")
    );
}

#[test]
fn members_of_encryption_and_nesting_are_refused() {
    for name in ["enc", "cty", "epk", "p2s", "p2c", "apu", "apv", "iv", "tag"] {
        assert_eq!(
            with_header(json!({name: "x"})),
            TokenError::ForbiddenHeader(name)
        );
    }
}

#[test]
fn a_kid_that_is_no_string_or_out_of_its_limits_is_refused() {
    for kid in [
        json!(1),
        json!(""),
        json!(["ed"]),
        json!({}),
        json!("k".repeat(257)),
    ] {
        assert_eq!(
            with_header(json!({"kid": kid})),
            TokenError::BadHeader("kid")
        );
    }
}

#[test]
fn an_unknown_kid_has_a_reason_of_its_own() {
    let refused = with_header(json!({"kid": "rotated"}));
    assert_eq!(refused, TokenError::UnknownKey);
    assert_eq!(refused.blame(), Blame::Keys);
}

#[test]
fn a_token_without_kid_is_verified_only_by_a_key_that_is_alone_of_its_kind() {
    let token = sign(&with(header(), json!({"kid": null})), &claims(), &ED.0);
    assert!(validate(&token).is_ok());
    let (_, second) = ed_key("ed2");
    let two = key_set(&[&ED.1, &second]);
    assert_eq!(
        validator().validate(&token, &two, NOW).unwrap_err(),
        TokenError::MissingKid
    );
    let none = key_set(&[&RSA.1]);
    assert_eq!(
        validator().validate(&token, &none, NOW).unwrap_err(),
        TokenError::MissingKid
    );
}

#[test]
fn another_typ_is_refused() {
    for typ in [
        "JWT",
        "jwt",
        "dpop+jwt",
        "logout+jwt",
        "secevent+jwt",
        "at+jwt2",
        "text/at+jwt",
    ] {
        assert_eq!(
            with_header(json!({"typ": typ})),
            TokenError::WrongType,
            "{typ}"
        );
    }
    assert_eq!(with_header(json!({"typ": null})), TokenError::WrongType);
    assert_eq!(with_header(json!({"typ": 1})), TokenError::BadHeader("typ"));
}

#[test]
fn the_plain_jwt_option_takes_jwt_or_nothing_and_no_other_typ() {
    let mut policy = ValidationPolicy::new(ISSUER, AUDIENCE);
    policy.typ = TypRule::AccessTokenOrPlainJwt;
    let validator = AccessTokenValidator::new(policy).unwrap();
    let plain = with(
        claims(),
        json!({"client_id": null, "jti": null, "iat": null}),
    );
    let check = |typ: serde_json::Value| {
        let token = sign(&with(header(), json!({"typ": typ})), &plain, &ED.0);
        validator.validate(&token, &all_keys(), NOW).map(|_| ())
    };
    assert_eq!(check(json!("JWT")), Ok(()));
    assert_eq!(check(json!(null)), Ok(()));
    assert_eq!(
        check(json!("at+jwt")),
        Err(TokenError::MissingClaim("client_id"))
    );
    for typ in [
        "txntoken+jwt",
        "application/txntoken+jwt",
        "dpop+jwt",
        "logout+jwt",
    ] {
        assert_eq!(check(json!(typ)), Err(TokenError::WrongType), "{typ}");
    }
}

// The algorithm and the key.

#[test]
fn an_algorithm_that_is_not_on_the_list_is_refused() {
    let mut policy = ValidationPolicy::new(ISSUER, AUDIENCE);
    policy.algorithms = [Algorithm::Rs256].into();
    let validator = AccessTokenValidator::new(policy).unwrap();
    assert_eq!(
        validator.validate(&good(), &all_keys(), NOW).unwrap_err(),
        TokenError::AlgorithmNotAllowed(Algorithm::EdDsa)
    );
}

#[test]
fn an_algorithm_other_than_the_keys_own_is_refused() {
    // The same RSA key, PKCS#1 where the key is bound to PSS: one algorithm per key.
    let Signer::Pss(pair) = &PSS.0 else { panic!() };
    let pkcs1 = aws_lc_rs::rsa::KeyPair::from_pkcs8(
        aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&**pair)
            .unwrap()
            .as_ref(),
    )
    .unwrap();
    let h = with(header(), json!({"alg": "RS256", "kid": "pss"}));
    let token = sign(&h, &claims(), &Signer::Rsa(Box::new(pkcs1)));
    assert_eq!(
        refusal(&token),
        TokenError::AlgorithmMismatch {
            token: Algorithm::Rs256,
            key: Algorithm::Ps256
        }
    );
    let h = with(header(), json!({"alg": "ES256", "kid": "ed"}));
    assert_eq!(
        refusal(&sign(&h, &claims(), &P256.0)),
        TokenError::AlgorithmMismatch {
            token: Algorithm::Es256,
            key: Algorithm::EdDsa
        }
    );
}

#[test]
fn another_key_under_a_known_kid_is_refused() {
    let (mallory, _) = ed_key("ed");
    assert_eq!(
        refusal(&sign(&header(), &claims(), &mallory)),
        TokenError::BadSignature
    );
}

#[test]
fn any_flipped_bit_of_the_signature_is_refused() {
    let token = good();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = B64.decode(signature.as_bytes()).unwrap();
    for bit in 0..signature.len() * 8 {
        let mut spoilt = signature.clone();
        spoilt[bit / 8] ^= 1 << (bit % 8);
        let token = format!("{signed}.{}", B64.encode(&spoilt));
        assert_eq!(refusal(&token), TokenError::BadSignature, "bit {bit}");
    }
}

#[test]
fn a_signature_of_another_length_is_refused() {
    let token = good();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = B64.decode(signature.as_bytes()).unwrap();
    for other in [
        &signature[..63],
        &signature[..1],
        &[&signature[..], &[0]].concat(),
    ] {
        let token = format!("{signed}.{}", B64.encode(other));
        assert_eq!(refusal(&token), TokenError::BadSignature);
    }
}

#[test]
fn other_claims_under_the_same_signature_are_refused() {
    let token = good();
    let mut parts: Vec<&str> = token.split('.').collect();
    let forged = B64.encode(
        with(claims(), json!({"sub": "root"}))
            .to_string()
            .as_bytes(),
    );
    parts[1] = &forged;
    assert_eq!(refusal(&parts.join(".")), TokenError::BadSignature);
}

// The claims.

#[test]
fn iss_aud_exp_and_sub_are_required() {
    for name in ["iss", "aud", "exp", "sub"] {
        assert_eq!(
            with_claims(json!({name: null})),
            TokenError::MissingClaim(name)
        );
    }
}

#[test]
fn rfc_9068_requires_client_id_iat_and_jti() {
    for name in ["client_id", "iat", "jti"] {
        assert_eq!(
            with_claims(json!({name: null})),
            TokenError::MissingClaim(name)
        );
    }
}

#[test]
fn another_issuer_is_refused_even_if_it_looks_alike() {
    for iss in [
        "https://login.example/",
        "https://LOGIN.example",
        "http://login.example",
        "x",
    ] {
        assert_eq!(with_claims(json!({"iss": iss})), TokenError::WrongIssuer);
    }
    for iss in [json!(true), json!([ISSUER]), json!("")] {
        assert_eq!(
            with_claims(json!({"iss": iss})),
            TokenError::BadClaim("iss")
        );
    }
}

#[test]
fn one_of_several_audiences_is_enough() {
    let token = sign(
        &header(),
        &with(claims(), json!({"aud": ["x", AUDIENCE]})),
        &ED.0,
    );
    assert!(validate(&token).is_ok());
}

#[test]
fn another_audience_is_refused() {
    for aud in [
        json!("https://other.example"),
        json!(["a", "b"]),
        json!("https://api.example/"),
    ] {
        assert_eq!(with_claims(json!({"aud": aud})), TokenError::WrongAudience);
    }
}

#[test]
fn an_audience_of_a_wrong_type_is_refused() {
    for aud in [
        json!(1),
        json!([1, 2]),
        json!([AUDIENCE, 1]),
        json!([]),
        json!({}),
        json!(""),
    ] {
        assert_eq!(
            with_claims(json!({"aud": aud})),
            TokenError::BadClaim("aud")
        );
    }
    let text = claims()
        .to_string()
        .replace(&format!("\"{AUDIENCE}\""), "null");
    let token = sign_text(&header().to_string(), &text, &ED.0);
    assert_eq!(refusal(&token), TokenError::BadClaim("aud"));
}

#[test]
fn a_sub_that_is_no_name_is_refused() {
    for sub in [
        json!(1),
        json!(""),
        json!(["a"]),
        json!("a\nb"),
        json!("a\u{0}"),
        json!("x".repeat(513)),
    ] {
        assert_eq!(
            with_claims(json!({"sub": sub})),
            TokenError::BadClaim("sub")
        );
    }
}

#[test]
fn a_scope_that_is_no_printable_string_is_refused() {
    for scope in [
        json!(["orders:read"]),
        json!(1),
        json!("a\nb"),
        json!("é"),
        json!("x".repeat(4097)),
    ] {
        assert_eq!(
            with_claims(json!({"scope": scope})),
            TokenError::BadClaim("scope")
        );
    }
}

#[test]
fn an_expired_token_is_refused_after_the_leeway_and_not_before() {
    let at = |secs: u64| {
        let c = with(
            claims(),
            json!({"exp": NOW_SECS - secs, "iat": NOW_SECS - 500}),
        );
        validate(&sign(&header(), &c, &ED.0)).map(|_| ())
    };
    assert_eq!(at(29), Ok(()));
    assert_eq!(at(30), Err(TokenError::Expired));
    assert_eq!(at(400), Err(TokenError::Expired));
}

#[test]
fn a_token_before_its_time_is_refused_beyond_the_leeway() {
    let at = |name: &'static str, secs: u64| {
        let c = with(claims(), json!({name: NOW_SECS + secs}));
        validate(&sign(&header(), &c, &ED.0)).map(|_| ())
    };
    assert_eq!(at("nbf", 30), Ok(()));
    assert_eq!(at("nbf", 31), Err(TokenError::NotYetValid));
    assert_eq!(at("iat", 30), Ok(()));
    assert_eq!(at("iat", 31), Err(TokenError::IssuedInFuture));
}

#[test]
fn dates_that_are_not_whole_seconds_are_refused() {
    for name in ["exp", "nbf", "iat"] {
        for bad in [
            "1800000300.5",
            "1.8e9",
            "2.001e+206",
            "-1",
            "\"1800000300\"",
            "true",
            "[]",
            "{}",
            "253402300800",
            "18446744073709551615",
            "18446744073709551616",
            "null",
        ] {
            let base = with(claims(), json!({name: null})).to_string();
            let text = format!("{},\"{name}\":{bad}}}", &base[..base.len() - 1]);
            let refused = refusal(&sign_text(&header().to_string(), &text, &ED.0));
            assert_eq!(refused, TokenError::BadClaim(name), "{name} = {bad}");
        }
        let base = with(claims(), json!({name: null})).to_string();
        let text = format!("{},\"{name}\":1e999}}", &base[..base.len() - 1]);
        let refused = refusal(&sign_text(&header().to_string(), &text, &ED.0));
        assert_eq!(refused, TokenError::NotJson);
    }
}

#[test]
fn a_kept_token_is_refused_once_it_has_expired() {
    let seen = validate(&good()).unwrap();
    let later = |secs| NOW.saturating_add(Duration::from_secs(secs));
    assert_eq!(seen.check_times(later(329)), Ok(()));
    assert_eq!(seen.check_times(later(330)), Err(TokenError::Expired));
}

// The policy.

#[test]
fn a_policy_without_issuer_audience_or_algorithm_is_refused() {
    let make = |change: fn(&mut ValidationPolicy)| {
        let mut policy = ValidationPolicy::new(ISSUER, AUDIENCE);
        change(&mut policy);
        AccessTokenValidator::new(policy).map(|_| ()).unwrap_err()
    };
    assert_eq!(make(|p| p.issuer.clear()), PolicyError::NoIssuer);
    assert_eq!(make(|p| p.audiences.clear()), PolicyError::NoAudience);
    assert_eq!(
        make(|p| p.audiences.push(String::new())),
        PolicyError::NoAudience
    );
    assert_eq!(make(|p| p.algorithms.clear()), PolicyError::NoAlgorithm);
    assert_eq!(
        make(|p| p.leeway = Duration::from_secs(61)),
        PolicyError::LeewayTooLong {
            limit: 60,
            actual: 61
        }
    );
}

#[test]
fn the_unverified_issuer_is_read_strictly() {
    assert_eq!(unverified_issuer(&good()), Ok(ISSUER.to_owned()));
    assert_eq!(unverified_issuer("a.b"), Err(TokenError::Malformed));
    let token = sign(&header(), &with(claims(), json!({"iss": 1})), &ED.0);
    assert_eq!(unverified_issuer(&token), Err(TokenError::BadClaim("iss")));
}

#[test]
fn debug_output_shows_no_token_and_no_values() {
    let token = good();
    let seen = format!("{:?}", validate(&token).unwrap());
    assert!(
        !seen.contains("alice") && !seen.contains("orders:read"),
        "{seen}"
    );
}
