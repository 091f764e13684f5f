//! JWTs and key sets: as they come, or two lines of JSON that are signed here.

use std::sync::LazyLock;
use std::time::Duration;

use bulla_token::{
    AccessTokenValidator, KeySet, ValidationPolicy, unverified_issuer, unverified_key_id,
    unverified_kid, verify_transaction_token,
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
        assert!(unverified_kid(&token).is_err(), "one token of two kinds");
    }
}

pub fn transaction(data: &[u8]) {
    let Some(token) = token(data) else {
        return;
    };
    let public = SHOP.token_key.verifying_key().as_bytes();
    let skew = Duration::from_secs(5);
    if let Ok(valid) = verify_transaction_token(&token, public, &SHOP.domain, SHOP.now, skew) {
        assert!(!valid.principal().is_empty());
        assert!(unverified_kid(&token).is_ok());
        assert!(
            VALIDATOR.validate(&token, &KEYS, SHOP.now).is_err(),
            "one token of two kinds"
        );
    }
}

pub fn key_set(data: &[u8]) {
    if let Ok(keys) = KeySet::parse(data) {
        assert!(keys.key_ids().count() <= keys.len());
        assert!(keys.key_ids().all(|kid| keys.contains(kid)));
        let _ = keys.ignored();
    }
}
