//! JWTs and key sets: as they come, or two lines of JSON that are signed here.

use std::sync::LazyLock;
use std::time::Duration;

use bulla_identity::{Claims, WorkloadId};
use bulla_keyring::sha256;
use bulla_token::{
    AccessTokenValidator, ExchangeRequest, KeySet, MintTimes, ProofExpectation, StartGrant,
    SubjectToken, UnverifiedTransaction, ValidationPolicy, unverified_issuer, unverified_key_id,
    verify_proof, verify_transaction_token,
};
use data_encoding::BASE64URL_NOPAD;

use super::shop::SHOP;

/// A token of the header and the claims that two lines hold, signed by the token
/// key; anything else as it is.
fn token(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    let Some((header, claims)) = text.split_once('\n') else {
        return Some(text.to_owned());
    };
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = BASE64URL_NOPAD.encode(SHOP.token_key.sign_text(&signed).as_bytes());
    Some(format!("{signed}.{signature}"))
}

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let x = BASE64URL_NOPAD.encode(SHOP.token_key.verifying_key().as_bytes());
    let document = format!(
        r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"k","x":"{x}"}}]}}"#
    );
    KeySet::parse(document.as_bytes()).expect("a key set")
});

static VALIDATOR: LazyLock<AccessTokenValidator> = LazyLock::new(|| {
    AccessTokenValidator::new(ValidationPolicy::new("https://issuer.example", "shop"))
        .expect("a policy")
});

pub fn access(data: &[u8]) {
    let Some(token) = token(data) else {
        return;
    };
    let issuer = unverified_issuer(&token);
    let _ = unverified_key_id(&token);
    if let Ok(valid) = VALIDATOR.validate(&token, &KEYS, SHOP.now) {
        assert_eq!(issuer.as_deref(), Ok("https://issuer.example"));
        assert_eq!(valid.audience(), "shop");
        assert!(!valid.principal().is_empty());
        assert!(valid.check_times(SHOP.now).is_ok());
        assert!(
            UnverifiedTransaction::parse(&token).is_err(),
            "one token of two kinds"
        );
    }
}

pub fn transaction(data: &[u8]) {
    let Some(token) = token(data) else {
        return;
    };
    let public = SHOP.token_key.verifying_key();
    let skew = Duration::from_secs(5);
    if let Ok(valid) = verify_transaction_token(&token, public, &SHOP.domain, SHOP.now, skew) {
        assert!(!valid.principal().is_empty());
        assert!(UnverifiedTransaction::parse(&token).is_ok());
        assert!(
            VALIDATOR.validate(&token, &KEYS, SHOP.now).is_err(),
            "one token of two kinds"
        );
    }
}

/// What comes to the edge beside access tokens: behind an `i` what an issuer says of an
/// opaque token, else a proof of possession, in which `@x@` is the key that signs it.
pub fn edge(data: &[u8]) {
    if let Some((b'i', answer)) = data.split_first() {
        if let Ok(valid) = VALIDATOR.validate_introspection(answer, SHOP.now) {
            assert_eq!(valid.audience(), "shop");
            assert!(!valid.principal().is_empty());
            assert!(valid.check_times(SHOP.now).is_ok());
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let x = BASE64URL_NOPAD.encode(SHOP.token_key.verifying_key().as_bytes());
    let Some(proof) = token(text.replace("@x@", &x).as_bytes()) else {
        return;
    };
    let key = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    let expected = ProofExpectation {
        method: "GET",
        uri: "https://api.example/v1/orders",
        access_token: "token",
        thumbprint: &BASE64URL_NOPAD.encode(&sha256(&[key.as_bytes()])),
        window: Duration::from_secs(60),
    };
    if let Ok(jti) = verify_proof(&proof, &expected, SHOP.now) {
        assert!(jti.len() <= 256);
        let other = ProofExpectation {
            access_token: "another",
            ..expected
        };
        assert!(
            verify_proof(&proof, &other, SHOP.now).is_err(),
            "it binds no token"
        );
        let validated = VALIDATOR.validate(&proof, &KEYS, SHOP.now);
        assert!(validated.is_err(), "one token of two kinds");
    }
}

pub fn key_set(data: &[u8]) {
    if let Ok(keys) = KeySet::parse(data) {
        assert!(keys.key_ids().count() <= keys.len());
        assert!(keys.key_ids().all(|kid| keys.contains(kid)));
        let _ = keys.ignored();
    }
}

/// A request for a narrower token, of a token that says little.
pub fn exchange(data: &[u8]) {
    let Ok(request) = ExchangeRequest::parse(data) else {
        return;
    };
    let again = request.to_json().to_string();
    assert_eq!(
        ExchangeRequest::parse(again.as_bytes()).as_ref(),
        Ok(&request)
    );
    let claims = serde_json::json!({"sub": "alice", "scope": "a b", "reach": ["ops"]});
    let claims = Claims::from_map(claims.as_object().expect("an object").clone());
    let asker = WorkloadId::parse("spiffe://acme.example/front").expect("a workload");
    let times = MintTimes {
        now: SHOP.now,
        key_ends: SHOP.now.saturating_add(Duration::from_secs(200)),
    };
    let subject = SubjectToken {
        claims: &claims,
        txn: "t",
        principal: "alice",
        requester: "spiffe://acme.example/edge",
        expires: SHOP.now.saturating_add(Duration::from_secs(100)),
        private: None,
    };
    let replaced = request.replace(&subject, &asker, times);
    assert!(replaced.is_err() || request.requested_subject().is_none());
    if let Ok(new) = replaced {
        assert!(
            new.scope
                .split_whitespace()
                .all(|scope| claims.has_scope(scope))
        );
        assert!(new.reach.iter().all(|name| claims.reaches(name)));
        assert!(new.expires <= subject.expires && new.principal == "alice");
    }
    let facts = serde_json::Map::new();
    let grant = StartGrant {
        scopes: &["a"],
        reach: &[],
        claims: &facts,
    };
    if let Ok(new) = request.start(&grant, &asker, "t", times) {
        assert!(matches!(&*new.scope, "" | "a") || new.scope.split(' ').all(|s| s == "a"));
        assert!(new.reach.is_empty() && new.expires <= times.key_ends);
        assert_eq!(Some(&*new.principal), request.requested_subject());
    }
}
