//! An issuer that can be told to misbehave.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use bulla_identity::UnixMillis;
use bulla_token::{AccessTokenValidator, KeySet, TokenError, ValidatedToken, ValidationPolicy};
use data_encoding::BASE64URL_NOPAD as B64;
use serde_json::{Value, json};
use std::sync::LazyLock;

pub const ISSUER: &str = "https://login.example";
pub const AUDIENCE: &str = "https://api.example";
pub const NOW_SECS: u64 = 1_800_000_000;
pub const NOW: UnixMillis = UnixMillis::from_secs(NOW_SECS);

pub enum Signer {
    Rsa(Box<RsaKeyPair>),
    Pss(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
    Ed(Box<Ed25519KeyPair>),
    Hmac(Vec<u8>),
    Nobody,
}

impl Signer {
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match self {
            Signer::Rsa(k) => {
                let mut out = vec![0; k.public_modulus_len()];
                k.sign(&RSA_PKCS1_SHA256, &rng, message, &mut out).unwrap();
                out
            }
            Signer::Pss(k) => {
                let mut out = vec![0; k.public_modulus_len()];
                k.sign(&RSA_PSS_SHA256, &rng, message, &mut out).unwrap();
                out
            }
            Signer::Ec(k) => k.sign(&rng, message).unwrap().as_ref().to_vec(),
            Signer::Ed(k) => k.sign(message).as_ref().to_vec(),
            Signer::Hmac(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message)
                .as_ref()
                .to_vec(),
            Signer::Nobody => Vec::new(),
        }
    }
}

pub static RSA: LazyLock<(Signer, Value)> = LazyLock::new(|| {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let jwk = rsa_jwk(&pair, "rsa", "RS256");
    (Signer::Rsa(Box::new(pair)), jwk)
});
pub static PSS: LazyLock<(Signer, Value)> = LazyLock::new(|| {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let jwk = rsa_jwk(&pair, "pss", "PS256");
    (Signer::Pss(Box::new(pair)), jwk)
});
pub static P256: LazyLock<(Signer, Value)> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let jwk = ec_jwk(&pair, "p256", "P-256", "ES256", 32);
    (Signer::Ec(Box::new(pair)), jwk)
});
pub static P384: LazyLock<(Signer, Value)> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let jwk = ec_jwk(&pair, "p384", "P-384", "ES384", 48);
    (Signer::Ec(Box::new(pair)), jwk)
});
pub static ED: LazyLock<(Signer, Value)> = LazyLock::new(|| ed_key("ed"));

pub fn ed_key(kid: &str) -> (Signer, Value) {
    let pair = Ed25519KeyPair::generate().unwrap();
    let x = B64.encode(pair.public_key().as_ref());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": kid, "x": x});
    (Signer::Ed(Box::new(pair)), jwk)
}

pub fn rsa_jwk(pair: &RsaKeyPair, kid: &str, alg: &str) -> Value {
    use aws_lc_rs::signature::RsaPublicKeyComponents;
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    json!({"kty": "RSA", "alg": alg, "use": "sig", "kid": kid,
        "n": B64.encode(&public.n), "e": B64.encode(&public.e)})
}

fn ec_jwk(pair: &EcdsaKeyPair, kid: &str, crv: &str, alg: &str, size: usize) -> Value {
    let point = pair.public_key().as_ref();
    json!({"kty": "EC", "crv": crv, "alg": alg, "kid": kid,
        "x": B64.encode(&point[1..=size]), "y": B64.encode(&point[1 + size..])})
}

pub fn key_set(keys: &[&Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

pub fn all_keys() -> KeySet {
    key_set(&[&RSA.1, &PSS.1, &P256.1, &P384.1, &ED.1])
}

pub fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "ed"})
}

pub fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "scope": "orders:read orders:write",
        "client_id": "shop", "jti": "j1", "iat": NOW_SECS - 10, "exp": NOW_SECS + 300})
}

/// `base` with the members of `changes`; null removes.
pub fn with(mut base: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(name);
        } else {
            base[name] = value.clone();
        }
    }
    base
}

pub fn sign(header: &Value, claims: &Value, signer: &Signer) -> String {
    sign_text(&header.to_string(), &claims.to_string(), signer)
}

pub fn sign_text(header: &str, claims: &str, signer: &Signer) -> String {
    let signed = format!(
        "{}.{}",
        B64.encode(header.as_bytes()),
        B64.encode(claims.as_bytes())
    );
    let signature = B64.encode(&signer.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

pub fn good() -> String {
    sign(&header(), &claims(), &ED.0)
}

pub fn validator() -> AccessTokenValidator {
    AccessTokenValidator::new(ValidationPolicy::new(ISSUER, AUDIENCE)).unwrap()
}

pub fn validate(token: &str) -> Result<ValidatedToken, TokenError> {
    validator().validate(token, &all_keys(), NOW)
}

pub fn refusal(token: &str) -> TokenError {
    validate(token).expect_err("the token must be refused")
}
