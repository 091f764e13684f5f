//! Key sets ([RFC 7517]): which keys of an issuer are used, each bound to one
//! algorithm.
//!
//! [RFC 7517]: https://www.rfc-editor.org/rfc/rfc7517

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature as primitive;
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use crate::compact::MAX_KID_BYTES;
use crate::json::{JsonError, parse_object};
use crate::{Algorithm, JwksError, TokenError};

/// The largest key set that is looked at, in bytes.
pub const MAX_JWKS_BYTES: usize = 256 * 1024;
/// The most keys that a set may have.
pub const MAX_JWKS_KEYS: usize = 100;

const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;

/// Why one key of a set is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IgnoredKey {
    /// `use` is not `sig`, or `key_ops` does not say `verify`.
    NotForSignatures,
    /// A shared secret (`kty` is `oct`): it has no place in a published set.
    Symmetric,
    /// It carries private members: whoever read the set can sign with it.
    PrivateMaterial,
    /// `kty`, `crv` or `alg` is unknown here.
    Unsupported,
    /// `alg` does not go with `kty` or `crv`.
    AlgorithmMismatch,
    /// RSA below 2048 or above 8192 bits, or with a weak exponent.
    WeakRsa,
    /// A member is missing, of a wrong type or length, or no point on its curve.
    Malformed,
    /// Two different keys share this `kid`: none of them is used.
    ConflictingKid,
    /// The same key once more.
    Repeated,
}

impl IgnoredKey {
    /// A short stable name for logs and counters.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotForSignatures => "key_not_for_signatures",
            Self::Symmetric => "key_symmetric",
            Self::PrivateMaterial => "key_private_material",
            Self::Unsupported => "key_unsupported",
            Self::AlgorithmMismatch => "key_algorithm_mismatch",
            Self::WeakRsa => "key_weak_rsa",
            Self::Malformed => "key_malformed",
            Self::ConflictingKid => "key_conflicting_kid",
            Self::Repeated => "key_repeated",
        }
    }
}

/// The usable keys of one issuer.
///
/// - Each key is bound to exactly one algorithm: its `alg`, or what follows from
///   its curve. An RSA key without `alg` is bound to RS256.
/// - Keys are found by `kid`. A token without one is verified only when exactly
///   one key of its algorithm is in the set; a token with one never falls back to
///   a key without.
/// - Keys that cannot be used are left out and counted ([`KeySet::ignored`]). A
///   set without a usable key is an error, so that it cannot displace a good one.
///
/// Equality compares ids, algorithms and key bytes.
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<Key>,
    by_kid: HashMap<Arc<str>, usize>,
    ignored: BTreeMap<IgnoredKey, usize>,
}

#[derive(Clone)]
pub(crate) struct Key {
    kid: Option<Arc<str>>,
    pub(crate) algorithm: Algorithm,
    material: Vec<u8>,
    pub(crate) decoding: DecodingKey,
}

impl KeySet {
    /// Reads a JWKS document.
    ///
    /// # Errors
    ///
    /// See [`JwksError`]: the document is refused as a whole when it is too large,
    /// is not strict JSON, or holds no usable key.
    pub fn parse(bytes: &[u8]) -> Result<Self, JwksError> {
        if bytes.len() > MAX_JWKS_BYTES {
            return Err(JwksError::TooLarge {
                limit: MAX_JWKS_BYTES,
                actual: bytes.len(),
            });
        }
        let document = parse_object(bytes).map_err(|e| match e {
            JsonError::Duplicate => JwksError::DuplicateMember,
            JsonError::NotObject => JwksError::NotJson,
        })?;
        let Some(Value::Array(entries)) = document.get("keys") else {
            return Err(JwksError::NoKeys);
        };
        if entries.len() > MAX_JWKS_KEYS {
            return Err(JwksError::TooManyKeys {
                limit: MAX_JWKS_KEYS,
                actual: entries.len(),
            });
        }
        let mut ignored = BTreeMap::new();
        let mut ignore = |why| *ignored.entry(why).or_insert(0) += 1;
        let mut keys: Vec<Key> = Vec::new();
        for entry in entries {
            match Key::from_jwk(entry) {
                Ok(key) if keys.contains(&key) => ignore(IgnoredKey::Repeated),
                Ok(key) => keys.push(key),
                Err(why) => ignore(why),
            }
        }
        let conflicts =
            |kid: &Arc<str>| keys.iter().filter(|k| k.kid.as_ref() == Some(kid)).count() > 1;
        let conflicting: Vec<Arc<str>> = keys
            .iter()
            .filter_map(|k| k.kid.clone())
            .filter(conflicts)
            .collect();
        keys.retain(|k| {
            let keep = !k.kid.as_ref().is_some_and(|kid| conflicting.contains(kid));
            if !keep {
                ignore(IgnoredKey::ConflictingKid);
            }
            keep
        });
        if keys.is_empty() {
            return Err(JwksError::NoUsableKey {
                ignored: ignored.values().sum(),
            });
        }
        let by_kid = keys
            .iter()
            .enumerate()
            .filter_map(|(i, k)| Some((k.kid.clone()?, i)))
            .collect();
        Ok(Self {
            keys,
            by_kid,
            ignored,
        })
    }

    /// How many keys can be used; never zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a set is never empty")]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key of that id can be used.
    #[must_use]
    pub fn contains(&self, kid: &str) -> bool {
        self.by_kid.contains_key(kid)
    }

    /// The ids of the usable keys, in the order of the document.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|k| k.kid.as_deref())
    }

    /// How many keys were left out, by reason.
    #[must_use]
    pub fn ignored(&self) -> &BTreeMap<IgnoredKey, usize> {
        &self.ignored
    }

    pub(crate) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, TokenError> {
        if let Some(kid) = kid {
            return self
                .by_kid
                .get(kid)
                .and_then(|i| self.keys.get(*i))
                .ok_or(TokenError::UnknownKey);
        }
        let mut fitting = self.keys.iter().filter(|k| k.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(TokenError::MissingKid),
        }
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

impl Eq for KeySet {}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("key_ids", &self.key_ids().collect::<Vec<_>>())
            .field("ignored", &self.ignored)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.kid == other.kid
            && self.algorithm == other.algorithm
            && self.material == other.material
    }
}

impl Key {
    pub(crate) fn from_jwk(entry: &Value) -> Result<Self, IgnoredKey> {
        let jwk = entry.as_object().ok_or(IgnoredKey::Malformed)?;
        check_purpose(jwk)?;
        let named = match text(jwk, "alg")? {
            None => None,
            Some(name) => match Algorithm::parse(name) {
                Ok(algorithm) => Some(algorithm),
                Err(TokenError::Symmetric) => return Err(IgnoredKey::Symmetric),
                Err(_) => return Err(IgnoredKey::Unsupported),
            },
        };
        let kid = match text(jwk, "kid")? {
            None => None,
            Some(kid) if !kid.is_empty() && kid.len() <= MAX_KID_BYTES => Some(Arc::from(kid)),
            Some(_) => return Err(IgnoredKey::Malformed),
        };
        let kind = text(jwk, "kty")?.ok_or(IgnoredKey::Malformed)?;
        if kind == "oct" {
            return Err(IgnoredKey::Symmetric);
        }
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"]
            .iter()
            .any(|m| jwk.contains_key(*m))
        {
            return Err(IgnoredKey::PrivateMaterial);
        }
        let (algorithm, material, decoding) = match kind {
            "RSA" => rsa(jwk, named)?,
            "EC" => elliptic(jwk, named)?,
            "OKP" => edwards(jwk, named)?,
            _ => return Err(IgnoredKey::Unsupported),
        };
        Ok(Self {
            kid,
            algorithm,
            material,
            decoding,
        })
    }
}

type Parts = (Algorithm, Vec<u8>, DecodingKey);

fn check_purpose(jwk: &Map<String, Value>) -> Result<(), IgnoredKey> {
    if text(jwk, "use")?.is_some_and(|u| u != "sig") {
        return Err(IgnoredKey::NotForSignatures);
    }
    match jwk.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(ops)) if ops.iter().any(|o| o == "verify") => Ok(()),
        Some(Value::Array(_)) => Err(IgnoredKey::NotForSignatures),
        Some(_) => Err(IgnoredKey::Malformed),
    }
}

fn rsa(jwk: &Map<String, Value>, named: Option<Algorithm>) -> Result<Parts, IgnoredKey> {
    let algorithm = match named {
        None => Algorithm::Rs256,
        Some(
            a @ (Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512),
        ) => a,
        Some(Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa) => {
            return Err(IgnoredKey::AlgorithmMismatch);
        }
    };
    let modulus = without_leading_zeros(bytes(jwk, "n")?);
    let exponent = without_leading_zeros(bytes(jwk, "e")?);
    let bits = modulus.first().map_or(0, |first| {
        modulus.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or(0)
    });
    let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    let usable_exponent = odd(&exponent) && exponent.len() <= 4 && exponent != [1];
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) || !odd(&modulus) || !usable_exponent {
        return Err(IgnoredKey::WeakRsa);
    }
    primitive::RsaPublicKeyComponents {
        n: &modulus,
        e: &exponent,
    }
    .to_parsed_public_key(&primitive::RSA_PKCS1_2048_8192_SHA256)
    .map_err(|_| IgnoredKey::Malformed)?;
    let decoding = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
    let material = [modulus, exponent].concat();
    Ok((algorithm, material, decoding))
}

fn elliptic(jwk: &Map<String, Value>, named: Option<Algorithm>) -> Result<Parts, IgnoredKey> {
    let curve = text(jwk, "crv")?.ok_or(IgnoredKey::Malformed)?;
    let (algorithm, size, point): (_, _, &'static dyn primitive::VerificationAlgorithm) =
        match curve {
            "P-256" => (Algorithm::Es256, 32, &primitive::ECDSA_P256_SHA256_FIXED),
            "P-384" => (Algorithm::Es384, 48, &primitive::ECDSA_P384_SHA384_FIXED),
            _ => return Err(IgnoredKey::Unsupported),
        };
    if named.is_some_and(|a| a != algorithm) {
        return Err(IgnoredKey::AlgorithmMismatch);
    }
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != size || y.len() != size {
        return Err(IgnoredKey::Malformed);
    }
    let mut material = vec![4];
    material.extend(x);
    material.extend(y);
    // Refuses what does not lie on the curve.
    primitive::ParsedPublicKey::new(point, &material).map_err(|_| IgnoredKey::Malformed)?;
    let decoding = DecodingKey::from_ec_der(&material);
    Ok((algorithm, material, decoding))
}

fn edwards(jwk: &Map<String, Value>, named: Option<Algorithm>) -> Result<Parts, IgnoredKey> {
    if named.is_some_and(|a| a != Algorithm::EdDsa) {
        return Err(IgnoredKey::AlgorithmMismatch);
    }
    match text(jwk, "crv")? {
        Some("Ed25519") => {}
        Some(_) => return Err(IgnoredKey::Unsupported),
        None => return Err(IgnoredKey::Malformed),
    }
    let material = bytes(jwk, "x")?;
    if material.len() != 32 {
        return Err(IgnoredKey::Malformed);
    }
    primitive::ParsedPublicKey::new(&primitive::ED25519, &material)
        .map_err(|_| IgnoredKey::Malformed)?;
    let decoding = DecodingKey::from_ed_der(&material);
    Ok((Algorithm::EdDsa, material, decoding))
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, IgnoredKey> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(_) => Err(IgnoredKey::Malformed),
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, IgnoredKey> {
    let encoded = text(jwk, name)?.ok_or(IgnoredKey::Malformed)?;
    BASE64URL_NOPAD
        .decode(encoded.as_bytes())
        .map_err(|_| IgnoredKey::Malformed)
}

fn without_leading_zeros(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    number.drain(..zeros);
    number
}
