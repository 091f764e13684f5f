//! An issuer with a key of each kind, and the tokens that it signed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use bulla_tests::{now, serve_keys, signing_input};
use data_encoding::BASE64URL_NOPAD as B64;
use serde_json::{Value, json};
use tempfile::TempDir;

pub const AUDIENCE: &str = "https://bench.example";

/// By which algorithm a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Rs256,
    Es256,
    EdDsa,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "rs256",
            Self::Es256 => "es256",
            Self::EdDsa => "eddsa",
        }
    }

    fn algorithm(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A running issuer.
pub struct Issuer {
    pub url: String,
    /// Its keys, as Envoy wants them too.
    pub key_set: String,
    rsa: RsaKeyPair,
    ecdsa: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
    random: SystemRandom,
    dir: TempDir,
}

impl Issuer {
    pub async fn start() -> Self {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let ecdsa = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let ed25519 = Ed25519KeyPair::generate().unwrap();
        let (n, e) = modulus_and_exponent(rsa.public_key().as_der().unwrap().as_ref());
        let point = ecdsa.public_key().as_ref();
        let key_set = json!({"keys": [
            {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "rs256",
                "n": B64.encode(&n), "e": B64.encode(&e)},
            {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "es256",
                "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "eddsa",
                "x": B64.encode(ed25519.public_key().as_ref())},
        ]});
        let url = serve_keys(&key_set).await;
        Self {
            url,
            key_set: key_set.to_string(),
            rsa,
            ecdsa,
            ed25519,
            random: SystemRandom::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A token of a user's, for an hour.
    pub fn token(&self, kind: Kind, user: usize) -> String {
        let header = json!({"alg": kind.algorithm(), "typ": "at+jwt", "kid": kind.name()});
        let at = now().as_secs();
        let claims: Value = json!({"iss": self.url, "aud": AUDIENCE, "sub": format!("user-{user}"),
            "client_id": "bench", "jti": format!("{}-{user}", kind.name()), "scope": "orders:read",
            "iat": at, "exp": at + 3_600});
        let signed = signing_input(&header, &claims);
        let signature = match kind {
            Kind::Rs256 => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa
                    .sign(
                        &RSA_PKCS1_SHA256,
                        &self.random,
                        signed.as_bytes(),
                        &mut signature,
                    )
                    .unwrap();
                signature
            }
            Kind::Es256 => {
                let signature = self.ecdsa.sign(&self.random, signed.as_bytes()).unwrap();
                signature.as_ref().to_vec()
            }
            Kind::EdDsa => self.ed25519.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", B64.encode(&signature))
    }

    /// A file with so many distinct tokens, one a line.
    pub fn token_file(&self, kind: Kind, count: usize) -> PathBuf {
        let file = self.dir.path().join(format!("{}-{count}", kind.name()));
        if !file.exists() {
            let mut text = String::new();
            for user in 0..count {
                let _ = writeln!(text, "{}", self.token(kind, user));
            }
            fs::write(&file, text).unwrap();
        }
        file
    }
}

/// The two integers of a `SubjectPublicKeyInfo` of RSA.
fn modulus_and_exponent(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    // SEQUENCE { SEQUENCE { algorithm }, BIT STRING { SEQUENCE { INTEGER n, INTEGER e } } }
    let (_, spki, _) = element(der);
    let (_, _, rest) = element(spki);
    let (_, bits, _) = element(rest);
    let (_, integers, _) = element(&bits[1..]);
    let (_, n, rest) = element(integers);
    let (_, e, _) = element(rest);
    let plain = |integer: &[u8]| match integer {
        [0, rest @ ..] => rest.to_vec(),
        all => all.to_vec(),
    };
    (plain(n), plain(e))
}

/// (tag, content, what comes after it)
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, begin) = match der[1] {
        short @ 0..128 => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 0x7f);
            let digits = &der[2..2 + bytes];
            let length = digits.iter().fold(0, |n, b| n << 8 | usize::from(*b));
            (length, 2 + bytes)
        }
    };
    let end = begin + length;
    (der[0], &der[begin..end], &der[end..])
}
