//! Proofs of possession ([RFC 9449]): a client shows with each request that it holds the
//! key that its access token is bound to.
//!
//! [RFC 9449]: https://www.rfc-editor.org/rfc/rfc9449

use std::fmt;
use std::time::Duration;

use bulla_identity::UnixMillis;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::compact::Compact;
use crate::jwks::Key;
use crate::registered::{required_date, required_string};
use crate::{Algorithm, MAX_TOKEN_BYTES, TokenError, token_digest};

/// The `typ` of a proof.
const TYP: &str = "dpop+jwt";
/// The longest `jti`, in bytes.
const MAX_JTI: usize = 256;

/// What a proof must prove.
#[derive(Clone, Copy)]
pub struct ProofExpectation<'a> {
    /// The method of the request.
    pub method: &'a str,
    /// Where it goes, without query and fragment.
    pub uri: &'a str,
    /// The access token that comes with it.
    pub access_token: &'a str,
    /// The key that the token is bound to: `jkt` of its `cnf`.
    pub thumbprint: &'a str,
    /// By how much `iat` may differ from now.
    pub window: Duration,
}

/// Shows for what a proof is wanted, never the access token.
impl fmt::Debug for ProofExpectation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofExpectation")
            .field("method", &self.method)
            .field("uri", &self.uri)
            .field("thumbprint", &self.thumbprint)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// Why a proof is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It is no sound token of its kind.
    #[error("the proof is no sound token: {0}")]
    Token(#[from] TokenError),
    /// The key that it brings cannot be used, or is no public one.
    #[error("the proof brings no usable public key")]
    Key,
    /// It was made by another key than the access token is bound to.
    #[error("the proof is of another key")]
    OtherKey,
    /// It is for another method.
    #[error("the proof is for another method")]
    Method,
    /// It is for another place.
    #[error("the proof is for another URI")]
    Uri,
    /// It is for another access token.
    #[error("the proof is for another access token")]
    OtherToken,
    /// It was made too long ago, or in the future.
    #[error("the proof was not made now")]
    Time,
}

impl ProofError {
    /// A short stable name for counters and decision logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Token(_) => "proof_malformed",
            Self::Key => "proof_key",
            Self::OtherKey => "proof_other_key",
            Self::Method => "proof_method",
            Self::Uri => "proof_uri",
            Self::OtherToken => "proof_other_token",
            Self::Time => "proof_time",
        }
    }
}

/// Checks a proof, and gives its `jti`: whoever calls it remembers that for twice the
/// window and refuses a second one.
///
/// # Errors
///
/// [`ProofError`]: the first rule that the proof breaks.
pub fn verify_proof(
    proof: &str,
    expected: &ProofExpectation<'_>,
    now: UnixMillis,
) -> Result<String, ProofError> {
    let (compact, jwk) = Compact::parse_with_key(proof, MAX_TOKEN_BYTES)?;
    if !compact.typ_is(TYP) {
        return Err(TokenError::WrongType.into());
    }
    let key = Key::for_algorithm(&jwk, compact.algorithm).ok_or(ProofError::Key)?;
    compact.verify(&key.decoding, key.algorithm)?;
    let print = thumbprint(&jwk).ok_or(ProofError::Key)?;
    if print != expected.thumbprint {
        return Err(ProofError::OtherKey);
    }
    let claims = compact.unverified_claims()?;
    if required_string(&claims, "htm")? != expected.method {
        return Err(ProofError::Method);
    }
    let uri = required_string(&claims, "htu")?;
    let uri = uri.split(['?', '#']).next().unwrap_or_default();
    if uri != expected.uri {
        return Err(ProofError::Uri);
    }
    let digest = BASE64URL_NOPAD.encode(&token_digest(expected.access_token));
    if required_string(&claims, "ath")? != digest {
        return Err(ProofError::OtherToken);
    }
    let made = required_date(&claims, "iat")?;
    let earliest = now.saturating_sub(expected.window);
    if made < earliest || made > now.saturating_add(expected.window) {
        return Err(ProofError::Time);
    }
    let jti = required_string(&claims, "jti")?;
    if jti.len() > MAX_JTI {
        return Err(TokenError::BadClaim("jti").into());
    }
    Ok(jti.to_owned())
}

/// The thumbprint of a key ([RFC 7638 §3]).
///
/// [RFC 7638 §3]: https://www.rfc-editor.org/rfc/rfc7638#section-3
fn thumbprint(jwk: &Map<String, Value>) -> Option<String> {
    let kind = jwk.get("kty")?.as_str()?;
    let members: &[&str] = match kind {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    // In this order, without blanks: what the RFC hashes.
    let mut text = String::from("{");
    for (i, name) in members.iter().enumerate() {
        let value = Value::from(jwk.get(*name)?.as_str()?);
        let comma = if i == 0 { "" } else { "," };
        text.push_str(&format!("{comma}\"{name}\":{value}"));
    }
    text.push('}');
    Some(BASE64URL_NOPAD.encode(&Sha256::digest(text.as_bytes())))
}

impl Key {
    /// The key that a proof brings, bound to the algorithm that it names.
    fn for_algorithm(jwk: &Map<String, Value>, algorithm: Algorithm) -> Option<Self> {
        let mut jwk = jwk.clone();
        match jwk.get("alg") {
            Some(named) if *named != algorithm.as_str() => return None,
            _ => {}
        }
        jwk.insert("alg".to_owned(), algorithm.as_str().into());
        Self::from_jwk(&Value::Object(jwk)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    struct Client(Ed25519KeyPair);

    impl Client {
        fn new() -> Self {
            Self(Ed25519KeyPair::generate().unwrap())
        }

        fn jwk(&self) -> Value {
            let x = BASE64URL_NOPAD.encode(self.0.public_key().as_ref());
            json!({"kty": "OKP", "crv": "Ed25519", "x": x})
        }

        fn print(&self) -> String {
            thumbprint(self.jwk().as_object().unwrap()).unwrap()
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |v: &Value| BASE64URL_NOPAD.encode(v.to_string().as_bytes());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = self.0.sign(signed.as_bytes());
            format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
        }
    }

    const TOKEN: &str = "a.b.c";
    const NOW: u64 = 1_000;

    fn claims() -> Value {
        let ath = BASE64URL_NOPAD.encode(&token_digest(TOKEN));
        json!({"jti": "j1", "htm": "GET", "htu": "https://a.example/x", "iat": NOW, "ath": ath})
    }

    fn judge(proof: &str, print: &str) -> Result<String, ProofError> {
        let expected = ProofExpectation {
            method: "GET",
            uri: "https://a.example/x",
            access_token: TOKEN,
            thumbprint: print,
            window: Duration::from_secs(60),
        };
        verify_proof(proof, &expected, UnixMillis::from_secs(NOW))
    }

    /// The thumbprint of the RFC's own example.
    #[test]
    fn a_thumbprint_is_that_of_rfc_7638() {
        let jwk = json!({"kty": "RSA", "alg": "RS256", "kid": "2011-04-29", "e": "AQAB",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"});
        assert_eq!(
            thumbprint(jwk.as_object().unwrap()).unwrap(),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }

    #[test]
    fn a_proof_counts_for_one_request_with_one_token_by_one_key() {
        let (client, other) = (Client::new(), Client::new());
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": client.jwk()});
        let sound = client.sign(&header, &claims());
        assert_eq!(judge(&sound, &client.print()), Ok("j1".into()));
        assert_eq!(judge(&sound, &other.print()), Err(ProofError::OtherKey));
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            judge(&client.sign(&header, &claims), &client.print())
        };
        assert_eq!(
            with("htu", json!("https://a.example/x?q#f")),
            Ok("j1".into())
        );
        assert_eq!(with("htm", json!("POST")), Err(ProofError::Method));
        assert_eq!(with("htm", json!("get")), Err(ProofError::Method));
        assert_eq!(
            with("htu", json!("https://b.example/x")),
            Err(ProofError::Uri)
        );
        assert_eq!(
            with("htu", json!("https://a.example/x/")),
            Err(ProofError::Uri)
        );
        assert_eq!(with("ath", json!("x")), Err(ProofError::OtherToken));
        assert_eq!(with("iat", json!(NOW - 61)), Err(ProofError::Time));
        assert_eq!(with("iat", json!(NOW + 61)), Err(ProofError::Time));
        for name in ["jti", "htm", "htu", "iat", "ath"] {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(name);
            let outcome = judge(&client.sign(&header, &claims), &client.print());
            assert!(matches!(outcome, Err(ProofError::Token(_))), "{name}");
        }
    }

    #[test]
    fn a_proof_brings_a_public_key_of_its_own_algorithm_and_nothing_else() {
        let (client, other) = (Client::new(), Client::new());
        let judge_header = |header: Value| {
            judge(&client.sign(&header, &claims()), &client.print()).map_err(|e| e.code())
        };
        let header = |changes: Value| {
            let mut header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": client.jwk()});
            for (name, value) in changes.as_object().unwrap() {
                header[name] = value.clone();
            }
            header
        };
        let mut private = client.jwk();
        private["d"] = json!("AAAA");
        let mut named = client.jwk();
        named["alg"] = json!("ES256");
        for (changes, want) in [
            (json!({"typ": "at+jwt"}), "proof_malformed"),
            (json!({"typ": "JWT"}), "proof_malformed"),
            (json!({"jwk": private}), "proof_key"),
            (json!({"jwk": named}), "proof_key"),
            (json!({"jwk": {"kty": "oct", "k": "AAAA"}}), "proof_key"),
            (json!({"jwk": "x"}), "proof_malformed"),
            (json!({"jwk": other.jwk()}), "proof_malformed"),
            (json!({"jku": "https://evil.example"}), "proof_malformed"),
            (json!({"crit": ["x"]}), "proof_malformed"),
            (json!({"alg": "HS256"}), "proof_malformed"),
            (json!({"alg": "none"}), "proof_malformed"),
            (json!({"alg": "ES256"}), "proof_key"),
        ] {
            assert_eq!(
                judge_header(header(changes.clone())),
                Err(want),
                "{changes}"
            );
        }
        let mut without = header(json!({}));
        without.as_object_mut().unwrap().remove("jwk");
        assert_eq!(judge_header(without), Err("proof_malformed"));
    }
}
