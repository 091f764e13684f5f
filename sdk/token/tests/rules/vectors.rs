//! External vectors: what others found out about parsing tokens and key sets.

use crate::issuer::NOW;
use bulla_identity::UnixMillis;
use bulla_token::{
    AccessTokenValidator, Algorithm, KeySet, ProofError, ProofExpectation, TokenError, TypRule,
    ValidationPolicy, unverified_issuer, verify_proof,
};
use data_encoding::BASE64URL_NOPAD as B64;
use serde_json::{Value, json};
use std::time::Duration;

fn vectors(file: &str) -> Option<Value> {
    let Some(dir) = std::env::var_os("BULLA_VECTORS") else {
        println!("BULLA_VECTORS is not set: external vectors jwt/{file} were not run");
        return None;
    };
    let path = std::path::Path::new(&dir).join("jwt").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(serde_json::from_str(&text).unwrap())
}

fn cases(vectors: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let cases = vectors["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    cases.iter().map(|c| (c["name"].as_str().unwrap_or(""), c))
}

fn lenient(issuer: &str, audience: &str) -> AccessTokenValidator {
    let mut policy = ValidationPolicy::new(issuer, audience);
    policy.typ = TypRule::AccessTokenOrPlainJwt;
    AccessTokenValidator::new(policy).unwrap()
}

fn a_key_set() -> KeySet {
    crate::issuer::all_keys()
}

#[test]
fn jwt_parse_cases() {
    let Some(vectors) = vectors("jwt_parse_cases.json") else {
        return;
    };
    for (name, case) in cases(&vectors) {
        let token = case["token"].as_str().unwrap();
        let refused = lenient("https://example.com", "aud1")
            .validate(token, &a_key_set(), NOW)
            .unwrap_err();
        // Nothing here is signed by a key of ours, so a token that reads well gets as
        // far as the key; what a parser is expected to refuse must not.
        let got_to_the_key = matches!(refused, TokenError::UnknownKey | TokenError::MissingKid)
            || refused == TokenError::BadSignature;
        if case["parse"] == json!(true) {
            // We are stricter in two: HS256 is never read, and long tokens are capped.
            let strict = matches!(refused, TokenError::Symmetric | TokenError::TooLarge { .. });
            assert!(got_to_the_key || strict, "{name}: {refused:?}");
        } else {
            // Payload types are only looked at once the signature holds.
            let payload = case["status"].as_str().unwrap().starts_with("JwtPayload");
            assert!(!got_to_the_key || payload, "{name}: {refused:?}");
        }
    }
}

/// The payloads of the cases above, signed by us: now the claims decide.
#[test]
fn jwt_parse_cases_with_payloads_signed_by_a_known_key() {
    let Some(vectors) = vectors("jwt_parse_cases.json") else {
        return;
    };
    for (name, case) in cases(&vectors) {
        let status = case["status"].as_str().unwrap();
        if !status.starts_with("JwtPayloadParseError") || status.ends_with("BadBase64") {
            continue;
        }
        let payload = case["token"].as_str().unwrap().split('.').nth(1).unwrap();
        let payload = String::from_utf8(B64.decode(payload.as_bytes()).unwrap()).unwrap();
        // Complete what the case leaves out, so that only its own defect remains.
        let text = match serde_json::from_str::<Value>(&payload) {
            Ok(mut claims) => {
                for (name, value) in crate::issuer::claims().as_object().unwrap() {
                    if claims.get(name).is_none() && name != "iss"
                        || name == "iss" && claims.get("iss").is_none_or(Value::is_string)
                    {
                        claims[name] = value.clone();
                    }
                }
                claims.to_string()
            }
            Err(_) => payload,
        };
        let token = crate::issuer::sign_text(
            &crate::issuer::header().to_string(),
            &text,
            &crate::issuer::ED.0,
        );
        let refused = crate::issuer::refusal(&token);
        assert!(
            matches!(refused, TokenError::BadClaim(_) | TokenError::NotJson),
            "{name}: {refused:?}"
        );
    }
}

#[test]
fn jwks_parse_cases() {
    let Some(vectors) = vectors("jwks_parse_cases.json") else {
        return;
    };
    for (name, case) in cases(&vectors) {
        let parsed = KeySet::parse(case["jwks_text"].as_str().unwrap().as_bytes());
        if case["ok"] == json!(false) {
            assert!(parsed.is_err(), "{name}: {parsed:?}");
            continue;
        }
        match parsed {
            Ok(set) => {
                if let Some(usable) = case["usable_keys"].as_u64() {
                    let left_out: usize = set.ignored().values().sum();
                    assert!(set.len() as u64 <= usable, "{name}");
                    assert!(set.len() + left_out >= usable as usize, "{name}");
                }
            }
            // Curves, certificates and odd keys that others take and we do not.
            Err(e) => println!("{name}: refused here, accepted there: {e}"),
        }
    }
}

#[test]
fn eddsa_jwks_verify() {
    let Some(vectors) = vectors("eddsa_jwks_verify.json") else {
        return;
    };
    for (name, case) in cases(&vectors) {
        let Some(token) = case["token"].as_str() else {
            continue;
        };
        let keys = KeySet::parse(case["jwks"].to_string().as_bytes()).unwrap();
        let outcome = lenient("https://example.com", "a").validate(token, &keys, NOW);
        // The tokens have neither `aud` nor `exp`: the first claim that is missing is
        // how a good signature shows.
        let signature_was_good = matches!(outcome, Err(TokenError::MissingClaim("aud")));
        let expected = match name {
            // Here a token's kid decides, and a missing one needs a single key.
            "NoKidOK" | "PubkeyNoKidOK" => false,
            _ => case["valid"] == json!(true),
        };
        assert_eq!(signature_was_good, expected, "{name}: {outcome:?}");
    }
}

#[test]
fn hostile_literals() {
    for file in ["golang_jwt_literals.json", "pyjwt_literals.json"] {
        let Some(vectors) = vectors(file) else { return };
        for (name, case) in cases(&vectors) {
            let token = case["token"].as_str().unwrap();
            let refused = lenient("x", "y")
                .validate(token, &a_key_set(), NOW)
                .unwrap_err();
            let _ = unverified_issuer(token);
            if token.starts_with("eyJhbGciOiJIUzI1NiI") {
                assert_eq!(refused, TokenError::Symmetric, "{name}");
            }
        }
    }
}

#[test]
fn jwt_time_cases() {
    let Some(vectors) = vectors("jwt_time_cases.json") else {
        return;
    };
    for (_, case) in cases(&vectors) {
        // A token without `exp` is never accepted here.
        if case.get("drop").is_some() {
            continue;
        }
        let mut policy = ValidationPolicy::new(crate::issuer::ISSUER, crate::issuer::AUDIENCE);
        policy.leeway = std::time::Duration::from_secs(case["skew"].as_u64().unwrap());
        policy.algorithms = [Algorithm::EdDsa].into();
        let claims = crate::issuer::with(
            crate::issuer::claims(),
            json!({"exp": vectors["exp"], "nbf": vectors["nbf"], "iat": 1_600_000_000}),
        );
        let token = crate::issuer::sign(&crate::issuer::header(), &claims, &crate::issuer::ED.0);
        let now = UnixMillis::from_secs(case["now"].as_u64().unwrap());
        let outcome = AccessTokenValidator::new(policy)
            .unwrap()
            .validate(&token, &a_key_set(), now)
            .map(|_| ());
        let expected = match case["result"].as_str().unwrap() {
            "ok" => Ok(()),
            "expired" => Err(TokenError::Expired),
            _ => Err(TokenError::NotYetValid),
        };
        assert_eq!(outcome, expected, "{case}");
    }
}

#[test]
fn rfc9449_proofs() {
    let Some(vectors) = vectors("../rfc/rfc9449_dpop.json") else {
        return;
    };
    let token = vectors["access_tokens"][0]["token"].as_str().unwrap();
    let mut bound = 0;
    for case in vectors["cases"].as_array().unwrap() {
        let (payload, proof) = (&case["payload"], case["token"].as_str().unwrap());
        let (Some(method), Some(uri)) = (payload["htm"].as_str(), payload["htu"].as_str()) else {
            continue;
        };
        let made = UnixMillis::from_secs(payload["iat"].as_u64().unwrap());
        let expected = ProofExpectation {
            method,
            uri,
            access_token: token,
            thumbprint: case["jkt"].as_str().unwrap(),
            window: Duration::from_secs(60),
        };
        let outcome = verify_proof(proof, &expected, made);
        // Proofs for a token endpoint bind no access token yet.
        if payload["ath"].is_null() {
            assert!(outcome.is_err(), "{payload}");
            continue;
        }
        bound += 1;
        assert_eq!(outcome.as_deref(), Ok(payload["jti"].as_str().unwrap()));
        let late = made.saturating_add(Duration::from_secs(61));
        assert_eq!(verify_proof(proof, &expected, late), Err(ProofError::Time));
        for (other, why) in [
            (
                ProofExpectation {
                    method: "PUT",
                    ..expected
                },
                ProofError::Method,
            ),
            (
                ProofExpectation {
                    uri: "https://a.example/",
                    ..expected
                },
                ProofError::Uri,
            ),
            (
                ProofExpectation {
                    access_token: "x",
                    ..expected
                },
                ProofError::OtherToken,
            ),
            (
                ProofExpectation {
                    thumbprint: "x",
                    ..expected
                },
                ProofError::OtherKey,
            ),
        ] {
            assert_eq!(verify_proof(proof, &other, made), Err(why));
        }
    }
    assert!(bound > 0, "a proof that binds an access token");
}
