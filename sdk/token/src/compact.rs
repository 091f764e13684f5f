//! The compact serialisation: three strict parts and a header that asks for
//! nothing special ([RFC 7515 §3.1], [RFC 8725 §3]).
//!
//! [RFC 7515 §3.1]: https://www.rfc-editor.org/rfc/rfc7515#section-3.1
//! [RFC 8725 §3]: https://www.rfc-editor.org/rfc/rfc8725#section-3

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use serde_json::{Map, Value};

use crate::json::{JsonError, parse_object};
use crate::{Algorithm, TokenError};

/// The longest `kid` that is looked up, in bytes.
pub(crate) const MAX_KID_BYTES: usize = 256;

/// Header members that are never accepted, and why they matter.
const FORBIDDEN: [&str; 16] = [
    // Keys that the token itself brings or points to.
    "jwk", "jku", "x5u", "x5c", // Extensions that must be understood: none are.
    "crit", "b64", // Compression, encryption and nesting.
    "zip", "enc", "cty", "epk", "p2s", "p2c", "apu", "apv", "iv", "tag",
];

/// A token whose parts are decoded and whose header is acceptable. Nothing in it
/// is proven.
pub(crate) struct Compact<'a> {
    /// What is signed: header and payload with the dot between them.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
    payload: &'a str,
}

impl<'a> Compact<'a> {
    pub(crate) fn parse(token: &'a str, limit: usize) -> Result<Self, TokenError> {
        Self::parse_header(token, limit, None).map(|(compact, _)| compact)
    }

    /// A token whose header brings its own key: a proof of possession, and nothing else.
    pub(crate) fn parse_with_key(
        token: &'a str,
        limit: usize,
    ) -> Result<(Self, Map<String, Value>), TokenError> {
        let (compact, header) = Self::parse_header(token, limit, Some("jwk"))?;
        match header.get("jwk") {
            Some(Value::Object(jwk)) => Ok((compact, jwk.clone())),
            _ => Err(TokenError::BadHeader("jwk")),
        }
    }

    /// `accepted` is the one member of those forbidden that the header may have.
    fn parse_header(
        token: &'a str,
        limit: usize,
        accepted: Option<&str>,
    ) -> Result<(Self, Map<String, Value>), TokenError> {
        if token.len() > limit {
            return Err(TokenError::TooLarge {
                limit,
                actual: token.len(),
            });
        }
        if token.is_empty() {
            return Err(TokenError::Empty);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if !token.bytes().all(allowed) {
            return Err(TokenError::ForbiddenByte);
        }
        match token.bytes().filter(|b| *b == b'.').count() {
            2 => {}
            4 => return Err(TokenError::Encrypted),
            _ => return Err(TokenError::Malformed),
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if header.is_empty() || payload.is_empty() {
            return Err(TokenError::Malformed);
        }
        let header = object(header)?;
        let algorithm = algorithm(&header)?;
        let mut forbidden = FORBIDDEN.iter().filter(|n| Some(**n) != accepted);
        if let Some(name) = forbidden.find(|n| header.contains_key(**n)) {
            return Err(TokenError::ForbiddenHeader(name));
        }
        if signature.is_empty() {
            return Err(TokenError::Malformed);
        }
        let compact = Self {
            signed,
            signature: decode(signature)?,
            algorithm,
            kid: optional_string(&header, "kid")?,
            typ: optional_string(&header, "typ")?,
            payload,
        };
        Ok((compact, header))
    }

    /// A token with a header that is known as it is written, and so read no further. Nothing
    /// where it is not, or anything is wrong with the token.
    pub(crate) fn parse_known(
        token: &'a str,
        limit: usize,
        algorithm: Algorithm,
        is_known: impl FnOnce(&[u8]) -> bool,
    ) -> Option<Self> {
        if token.len() > limit {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let is_whole = !payload.is_empty() && !payload.contains('.') && !signature.is_empty();
        if !is_whole || !is_known(&decode(header).ok()?) {
            return None;
        }
        Some(Self {
            signed,
            signature: decode(signature).ok()?,
            algorithm,
            kid: None,
            typ: None,
            payload,
        })
    }

    /// The claims, strictly read, proven or not.
    pub(crate) fn unverified_claims(&self) -> Result<Map<String, Value>, TokenError> {
        object(self.payload)
    }

    /// Checks the signature under `key`, which is bound to `algorithm`.
    pub(crate) fn verify(&self, key: &DecodingKey, algorithm: Algorithm) -> Result<(), TokenError> {
        if self.algorithm != algorithm {
            return Err(TokenError::AlgorithmMismatch {
                token: self.algorithm,
                key: algorithm,
            });
        }
        // The provider is named, not looked up: which one is the process's
        // default depends on what other crates enable.
        (DEFAULT_PROVIDER.verifier_factory)(&algorithm.provider(), key)
            .map_err(|_| TokenError::BadSignature)?
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| TokenError::BadSignature)
    }

    /// Whether `typ` is `expected`, with or without `application/`, in any case
    /// ([RFC 7515 §4.1.9]).
    ///
    /// [RFC 7515 §4.1.9]: https://www.rfc-editor.org/rfc/rfc7515#section-4.1.9
    pub(crate) fn typ_is(&self, expected: &str) -> bool {
        self.typ.as_deref().is_some_and(|typ| {
            let short = match typ.split_once('/') {
                Some((tree, rest)) if tree.eq_ignore_ascii_case("application") => rest,
                _ => typ,
            };
            short.eq_ignore_ascii_case(expected)
        })
    }
}

fn algorithm(header: &Map<String, Value>) -> Result<Algorithm, TokenError> {
    match header.get("alg") {
        Some(Value::String(name)) => Algorithm::parse(name),
        _ => Err(TokenError::UnknownAlgorithm),
    }
}

fn optional_string(
    header: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<String>, TokenError> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(s)) if !s.is_empty() && s.len() <= MAX_KID_BYTES => Ok(Some(s.clone())),
        Some(_) => Err(TokenError::BadHeader(name)),
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD
        .decode(part.as_bytes())
        .map_err(|_| TokenError::NotBase64)
}

fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    parse_object(&decode(part)?).map_err(|e| match e {
        JsonError::Duplicate => TokenError::DuplicateMember,
        JsonError::NotObject => TokenError::NotJson,
    })
}
