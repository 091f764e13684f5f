//! Transaction tokens, and that neither kind of token passes for the other.

use crate::issuer::*;
use bulla_identity::TrustDomain;
use bulla_token::{
    AccessTokenValidator, MintError, TokenError, TokenSigningKey, TransactionClaims,
    TransactionToken, TypRule, UnverifiedTransaction, ValidationPolicy, mint_transaction_token,
    trust_domain_uri, verify_transaction_token,
};
use data_encoding::BASE64URL_NOPAD as B64;
use serde_json::{Value, json};
use std::time::Duration;

const KID: &str = "00112233445566778899aabbccddeeff";
const SKEW: Duration = Duration::from_secs(5);
const SEED: [u8; 32] = [7; 32];

fn domain() -> TrustDomain {
    TrustDomain::parse("acme.example").unwrap()
}

fn key() -> TokenSigningKey {
    TokenSigningKey::from_seed(SEED)
}

fn wanted() -> TransactionClaims {
    let mut c = TransactionClaims::new("txn-1", "alice", "spiffe://acme.example/gateway");
    c.scope = "orders:read orders:write".into();
    c.context = json!({"tenant": "t1", "roles": ["buyer"]})
        .as_object()
        .unwrap()
        .clone();
    c.request_context = json!({"req_ip": "192.0.2.1"}).as_object().unwrap().clone();
    c.issued = NOW;
    c.expires = NOW.saturating_add(Duration::from_secs(60));
    c
}

fn mint(claims: &TransactionClaims) -> Result<String, MintError> {
    mint_transaction_token(&key(), KID, &domain(), claims)
}

fn verify(token: &str) -> Result<TransactionToken, TokenError> {
    verify_transaction_token(token, key().public(), &domain(), NOW, SKEW)
}

/// A token as anybody with the key could make it, without the minter's checks.
fn forge(header_changes: Value, claim_changes: Value) -> TokenError {
    let uri = trust_domain_uri(&domain());
    let header = json!({"alg": "EdDSA", "typ": "txntoken+jwt", "kid": KID});
    let claims = json!({"iss": uri, "aud": uri, "txn": "t", "sub": "alice", "scope": "a",
        "req_wl": "spiffe://acme.example/gateway", "tctx": {}, "iat": NOW_SECS, "exp": NOW_SECS + 60});
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap();
    let token = sign(
        &with(header, header_changes),
        &with(claims, claim_changes),
        &Signer::Ed(Box::new(pair)),
    );
    match verify(&token) {
        Ok(_) => panic!("the token must be refused"),
        Err(e) => e,
    }
}

#[test]
fn what_is_minted_verifies_and_says_the_same() {
    let token = mint(&wanted()).unwrap();
    let unverified = UnverifiedTransaction::parse(&token).unwrap();
    assert_eq!((unverified.kid(), unverified.text()), (KID, token.as_str()));
    let seen = verify(&token).unwrap();
    assert_eq!(seen.principal(), "alice");
    assert_eq!(seen.txn(), "txn-1");
    assert_eq!(seen.kid(), KID);
    assert_eq!(seen.requesting_workload(), "spiffe://acme.example/gateway");
    assert_eq!(
        seen.scopes().collect::<Vec<_>>(),
        ["orders:read", "orders:write"]
    );
    assert_eq!(seen.expires().as_secs(), NOW_SECS + 60);
    let said = claims_of(&token);
    assert_eq!(said["iss"], json!("spiffe://acme.example"));
    assert_eq!(said["aud"], said["iss"]);
    assert_eq!(said["rctx"], json!({"req_ip": "192.0.2.1"}));
    let header = B64.decode(token.split('.').next().unwrap().as_bytes());
    let header: Value = serde_json::from_slice(&header.unwrap()).unwrap();
    assert_eq!(
        header,
        json!({"alg": "EdDSA", "typ": "txntoken+jwt", "kid": KID})
    );
}

#[test]
fn only_a_header_as_it_is_written_here_is_known_without_reading_it() {
    let token = mint(&wanted()).unwrap();
    let known = UnverifiedTransaction::parse_as_minted(&token, KID).unwrap();
    assert_eq!((known.kid(), known.text()), (KID, token.as_str()));
    let seen = known.verify(key().public(), &domain(), NOW, SKEW).unwrap();
    assert_eq!(everything(&seen), everything(&verify(&token).unwrap()));
    let is_known = |token: &str, kid: &str| {
        let known = UnverifiedTransaction::parse_as_minted(token, kid);
        // Whatever is known is what everybody else reads.
        if known.is_some() {
            assert_eq!(UnverifiedTransaction::parse(token).unwrap().kid(), kid);
        }
        known.is_some()
    };
    assert!(!is_known(&token, "another"));
    let (header, rest) = token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let with = |header: &str| format!("{}.{rest}", B64.encode(header.as_bytes()));
    let text = String::from_utf8(B64.decode(header.as_bytes()).unwrap()).unwrap();
    assert!(is_known(&with(&text), KID));
    for other in [
        text.replace("EdDSA", "ES256"),
        text.replace("txntoken+jwt", "at+jwt"),
        text.replace(',', ", "),
        text.replace('}', ",\"jku\":\"https://x.example\"}"),
        text.replace("{\"alg\"", "{\"typ\":\"x\",\"alg\""),
        text.clone() + " ",
        String::new(),
    ] {
        assert!(!is_known(&with(&other), KID), "{other}");
    }
    for broken in [
        String::new(),
        header.to_owned(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!("{header}.{payload}.{payload}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}.{signature}"),
        format!("{header}.{}.{signature}", "e30".repeat(4_096)),
    ] {
        assert!(!is_known(&broken, KID), "{broken}");
    }
    // A name that JSON writes in another way than it is.
    let odd = "a\"b";
    let minted = key().mint(odd, &domain(), &wanted()).unwrap();
    assert!(!is_known(minted.as_str(), odd));
}

/// What a token says, by a reader of its own.
fn claims_of(token: &str) -> Value {
    let payload = B64.decode(token.split('.').nth(1).unwrap().as_bytes());
    serde_json::from_slice(&payload.unwrap()).unwrap()
}

#[test]
fn of_what_was_signed_here_everything_is_asked_but_the_signature() {
    let minted = key().mint(KID, &domain(), &wanted()).unwrap();
    assert_eq!(minted.as_str(), mint(&wanted()).unwrap());
    let check = |under: &TokenSigningKey, domain: &TrustDomain, now| {
        minted.check(under.public(), domain, now, SKEW)
    };
    assert_eq!(check(&key(), &domain(), NOW), Ok(()));
    // Signed here, and yet not under the key that counts.
    let other = TokenSigningKey::from_seed([8; 32]);
    assert_eq!(check(&other, &domain(), NOW), Err(TokenError::BadSignature));
    let elsewhere = TrustDomain::parse("other.example").unwrap();
    assert_eq!(check(&key(), &elsewhere, NOW), Err(TokenError::WrongIssuer));
    let late = NOW.saturating_add(Duration::from_secs(70));
    assert_eq!(check(&key(), &domain(), late), Err(TokenError::Expired));
    assert_eq!(minted.kid(), KID);
    // What it is known to say is what everybody else reads.
    let (text, known) = minted.into_parts();
    let read = verify(&text).unwrap();
    assert_eq!(everything(&known), everything(&read));
}

fn everything(token: &TransactionToken) -> Value {
    json!([
        token.policy_claims().as_map(),
        token.private(),
        token.kid(),
        token.txn(),
        token.principal(),
        token.requesting_workload(),
        token.expires().as_millis(),
        format!("{:?}", token.check_times(NOW.saturating_sub(SKEW), SKEW)),
        format!(
            "{:?}",
            token.check_times(NOW.saturating_sub(SKEW * 2), SKEW)
        ),
    ])
}

#[test]
fn of_what_its_minter_vouches_for_everything_is_asked_but_the_signature() {
    let token = mint(&wanted()).unwrap();
    let (signed, _) = token.rsplit_once('.').unwrap();
    let unsigned = format!("{signed}.{}", B64.encode(&[0; 64]));
    let vouched = |domain: &TrustDomain, now| {
        let unverified = UnverifiedTransaction::parse(&unsigned).unwrap();
        unverified.vouched_for(domain, now, SKEW)
    };
    let read = verify(&token).unwrap();
    let seen = vouched(&domain(), NOW).unwrap();
    assert_eq!(everything(&seen), everything(&read));
    assert_eq!(verify(&unsigned).unwrap_err(), TokenError::BadSignature);
    let elsewhere = TrustDomain::parse("other.example").unwrap();
    let outcome = vouched(&elsewhere, NOW);
    assert_eq!(outcome.unwrap_err(), TokenError::WrongIssuer);
    let late = NOW.saturating_add(Duration::from_secs(70));
    assert_eq!(vouched(&domain(), late).unwrap_err(), TokenError::Expired);
}

#[test]
fn a_policy_sees_sub_scope_and_the_context_and_nothing_else() {
    let seen = verify(&mint(&wanted()).unwrap()).unwrap();
    assert_eq!(
        Value::Object(seen.policy_claims().as_map().clone()),
        json!({"sub": "alice", "scope": "orders:read orders:write", "tenant": "t1", "roles": ["buyer"]})
    );
}

#[test]
fn the_context_never_replaces_a_registered_claim() {
    for name in [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "txn",
        "scope",
        "req_wl",
        "tctx",
        "rctx",
        "purp",
        "act",
        "cnf",
        "client_id",
    ] {
        let mut claims = wanted();
        claims.context.insert(name.into(), json!("admin"));
        assert_eq!(mint(&claims), Err(MintError::ReservedContextName), "{name}");
        let refused = forge(json!({}), json!({"tctx": {name: "admin"}}));
        assert_eq!(refused, TokenError::ReservedContextName, "{name}");
    }
}

#[test]
fn a_missing_scope_is_empty_not_all() {
    let mut claims = wanted();
    claims.scope.clear();
    assert_eq!(verify(&mint(&claims).unwrap()).unwrap().scopes().count(), 0);
}

#[test]
fn a_transaction_token_is_refused_as_an_access_token() {
    // Even where the issuer, the audience and the key would match.
    let uri = trust_domain_uri(&domain());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": KID, "x": B64.encode(key().public().as_bytes())});
    let token = mint(&wanted()).unwrap();
    for typ in [TypRule::AccessToken, TypRule::AccessTokenOrPlainJwt] {
        let mut policy = ValidationPolicy::new(uri.clone(), uri.clone());
        policy.typ = typ;
        let refused = AccessTokenValidator::new(policy)
            .unwrap()
            .validate(&token, &key_set(&[&jwk]), NOW)
            .unwrap_err();
        assert_eq!(refused, TokenError::WrongType);
    }
}

#[test]
fn a_transaction_token_is_refused_as_an_access_token_by_its_audience_too() {
    // The same claims under the other `typ`: the audience still tells them apart.
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": KID, "x": B64.encode(key().public().as_bytes())});
    let uri = trust_domain_uri(&domain());
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap();
    let token = sign(
        &json!({"alg": "EdDSA", "typ": "at+jwt", "kid": KID}),
        &with(claims(), json!({"iss": ISSUER, "aud": uri})),
        &Signer::Ed(Box::new(pair)),
    );
    let refused = validator()
        .validate(&token, &key_set(&[&jwk]), NOW)
        .unwrap_err();
    assert_eq!(refused, TokenError::WrongAudience);
}

#[test]
fn an_access_token_is_refused_as_a_transaction_token() {
    for typ in [json!("at+jwt"), json!("JWT"), json!(null)] {
        assert_eq!(forge(json!({"typ": typ}), json!({})), TokenError::WrongType);
    }
    let outcome = UnverifiedTransaction::parse(&good()).map(|_| ());
    assert_eq!(outcome, Err(TokenError::WrongType));
    assert_eq!(verify(&good()).unwrap_err(), TokenError::WrongType);
}

#[test]
fn an_access_token_is_refused_as_a_transaction_token_by_its_issuer_and_audience_too() {
    assert_eq!(
        forge(json!({}), json!({"iss": ISSUER})),
        TokenError::WrongIssuer
    );
    assert_eq!(
        forge(json!({}), json!({"aud": AUDIENCE})),
        TokenError::WrongAudience
    );
}

#[test]
fn another_trust_domain_is_refused() {
    let other = TrustDomain::parse("evil.example").unwrap();
    let token = mint_transaction_token(&key(), KID, &other, &wanted()).unwrap();
    assert_eq!(verify(&token).unwrap_err(), TokenError::WrongIssuer);
}

#[test]
fn a_second_audience_is_refused() {
    let uri = trust_domain_uri(&domain());
    let refused = forge(
        json!({}),
        json!({"aud": [uri, "https://elsewhere.example"]}),
    );
    assert_eq!(refused, TokenError::WrongAudience);
}

#[test]
fn another_key_is_refused() {
    let token = mint(&wanted()).unwrap();
    let other = TokenSigningKey::from_seed([8; 32]);
    let refused = verify_transaction_token(&token, other.public(), &domain(), NOW, SKEW);
    assert_eq!(refused.unwrap_err(), TokenError::BadSignature);
}

#[test]
fn every_flipped_bit_is_refused() {
    let token = mint(&wanted()).unwrap();
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            if let Ok(spoilt) = String::from_utf8(bytes) {
                assert!(verify(&spoilt).is_err(), "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn only_eddsa_is_taken() {
    for alg in ["RS256", "ES256", "PS512"] {
        let refused = forge(json!({"alg": alg}), json!({}));
        assert_eq!(refused.code(), "token_algorithm_not_allowed");
    }
    assert_eq!(
        forge(json!({"alg": "none"}), json!({})),
        TokenError::Unsigned
    );
    assert_eq!(
        forge(json!({"alg": "HS256"}), json!({})),
        TokenError::Symmetric
    );
}

#[test]
fn a_token_without_kid_is_refused() {
    assert_eq!(
        forge(json!({"kid": null}), json!({})),
        TokenError::MissingKid
    );
}

#[test]
fn keys_that_the_token_brings_are_refused() {
    for name in ["jwk", "jku", "x5u", "x5c", "crit", "zip"] {
        assert_eq!(
            forge(json!({name: "x"}), json!({})),
            TokenError::ForbiddenHeader(name)
        );
    }
}

#[test]
fn its_claims_are_required_and_typed() {
    for name in ["iss", "aud", "txn", "sub", "req_wl", "iat", "exp"] {
        assert_eq!(
            forge(json!({}), json!({name: null})),
            TokenError::MissingClaim(name)
        );
        assert_eq!(
            forge(json!({}), json!({name: {}})),
            TokenError::BadClaim(name)
        );
    }
    for name in ["scope", "tctx", "rctx"] {
        assert_eq!(
            forge(json!({}), json!({name: 1})),
            TokenError::BadClaim(name)
        );
    }
}

#[test]
fn it_lives_five_minutes_at_most() {
    let mut claims = wanted();
    claims.expires = NOW.saturating_add(Duration::from_secs(300));
    assert!(verify(&mint(&claims).unwrap()).is_ok());
    claims.expires = NOW.saturating_add(Duration::from_secs(301));
    assert!(matches!(mint(&claims), Err(MintError::Lifetime { .. })));
    claims.expires = NOW;
    assert!(matches!(mint(&claims), Err(MintError::Lifetime { .. })));
    let refused = forge(json!({}), json!({"exp": NOW_SECS + 301}));
    assert_eq!(refused, TokenError::LivesTooLong);
}

#[test]
fn it_expires_after_the_skew_and_not_before() {
    let token = mint(&wanted()).unwrap();
    let at = |secs| {
        let now = NOW.saturating_add(Duration::from_secs(secs));
        verify_transaction_token(&token, key().public(), &domain(), now, SKEW).map(|_| ())
    };
    assert_eq!(at(64), Ok(()));
    assert_eq!(at(65), Err(TokenError::Expired));
    let early = |secs| {
        let now = NOW.saturating_sub(Duration::from_secs(secs));
        verify_transaction_token(&token, key().public(), &domain(), now, SKEW).map(|_| ())
    };
    assert_eq!(early(5), Ok(()));
    assert_eq!(early(6), Err(TokenError::IssuedInFuture));
    let seen = verify(&token).unwrap();
    assert_eq!(
        seen.check_times(NOW.saturating_add(Duration::from_secs(65)), SKEW),
        Err(TokenError::Expired)
    );
}

#[test]
fn what_receivers_would_refuse_is_not_minted() {
    for spoil in [
        (|c| c.txn.clear()) as fn(&mut TransactionClaims),
        |c| c.principal = "a\nb".into(),
        |c| c.requesting_workload.clear(),
        |c| c.scope = "é".into(),
        |c| c.principal = "x".repeat(600),
    ] {
        let mut claims = wanted();
        spoil(&mut claims);
        assert!(matches!(mint(&claims), Err(MintError::BadClaim(_))));
    }
    let mut claims = wanted();
    claims.context.insert("big".into(), json!("x".repeat(8192)));
    assert!(matches!(mint(&claims), Err(MintError::TooLarge { .. })));
    let mut claims = wanted();
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    claims.context.insert("deep".into(), nested(15));
    assert_eq!(mint(&claims), Err(MintError::BadClaim("tctx")));
    claims.context.insert("deep".into(), nested(14));
    assert!(verify(&mint(&claims).unwrap()).is_ok());
    assert!(mint_transaction_token(&key(), "", &domain(), &wanted()).is_err());
}

#[test]
fn debug_output_shows_no_key_and_no_values() {
    assert_eq!(format!("{:?}", key()), "TokenSigningKey(..)");
    let seen = format!(
        "{:?} {:?}",
        verify(&mint(&wanted()).unwrap()).unwrap(),
        wanted()
    );
    assert!(!seen.contains("alice") && !seen.contains("buyer"), "{seen}");
}

#[test]
fn a_reach_is_a_list_of_names_that_only_the_minter_states() {
    let mut claims = wanted();
    claims.reach = vec!["retail".into(), "back-office".into()];
    let seen = verify(&mint(&claims).unwrap()).unwrap();
    assert_eq!(seen.reach().collect::<Vec<_>>(), ["retail", "back-office"]);
    assert_eq!(
        seen.policy_claims().get("reach"),
        Some(&json!(["retail", "back-office"]))
    );
    let none = verify(&mint(&wanted()).unwrap()).unwrap();
    assert_eq!(none.reach().count(), 0);
    assert_eq!(none.policy_claims().get("reach"), None);

    // Not by what a client's token says.
    let mut copied = wanted();
    copied.context.insert("reach".into(), json!(["retail"]));
    assert_eq!(mint(&copied), Err(MintError::ReservedContextName));
    let too_many = (0..65).map(|n| format!("a{n}")).collect();
    for bad in [vec![String::new()], vec!["Retail".into()], too_many] {
        let mut claims = wanted();
        claims.reach = bad;
        assert_eq!(mint(&claims), Err(MintError::BadClaim("reach")));
    }
    for odd in [
        json!("retail"),
        json!(null),
        json!({"retail": true}),
        json!(["retail", 1]),
        json!([["retail"]]),
        json!(["re tail"]),
        json!(vec!["a"; 65]),
    ] {
        let error = forge(json!({}), json!({"tctx": {"reach": odd}}));
        assert_eq!(error, TokenError::BadClaim("reach"));
    }
}
