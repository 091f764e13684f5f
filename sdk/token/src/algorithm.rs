//! The signature algorithms that exist here: no HMAC, no `none`.

use std::fmt;

use crate::TokenError;

/// An asymmetric JWS algorithm ([RFC 7518 §3.1], [RFC 8037], [RFC 9864]).
///
/// What is not listed cannot be configured.
///
/// [RFC 7518 §3.1]: https://www.rfc-editor.org/rfc/rfc7518#section-3.1
/// [RFC 8037]: https://www.rfc-editor.org/rfc/rfc8037
/// [RFC 9864]: https://www.rfc-editor.org/rfc/rfc9864
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519. `EdDSA` and `Ed25519` name it alike; Ed448 does not exist here.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// Its name in a JOSE header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of that name, compared byte for byte.
    ///
    /// # Errors
    ///
    /// [`TokenError::Unsigned`] for `none` in any spelling, [`TokenError::Symmetric`]
    /// for HMAC, [`TokenError::UnknownAlgorithm`] otherwise.
    pub fn parse(name: &str) -> Result<Self, TokenError> {
        if let Some(found) = Self::ALL.into_iter().find(|a| a.as_str() == name) {
            return Ok(found);
        }
        if name == "Ed25519" {
            return Ok(Self::EdDsa);
        }
        if name.eq_ignore_ascii_case("none") {
            return Err(TokenError::Unsigned);
        }
        if name.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("hs")) {
            return Err(TokenError::Symmetric);
        }
        Err(TokenError::UnknownAlgorithm)
    }

    pub(crate) const fn provider(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Rs384 => jsonwebtoken::Algorithm::RS384,
            Self::Rs512 => jsonwebtoken::Algorithm::RS512,
            Self::Ps256 => jsonwebtoken::Algorithm::PS256,
            Self::Ps384 => jsonwebtoken::Algorithm::PS384,
            Self::Ps512 => jsonwebtoken::Algorithm::PS512,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Es384 => jsonwebtoken::Algorithm::ES384,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_case_matters() {
        for a in Algorithm::ALL {
            assert_eq!(Algorithm::parse(a.as_str()), Ok(a));
            assert!(Algorithm::parse(&a.as_str().to_ascii_lowercase()).is_err());
        }
        assert_eq!(Algorithm::parse("Ed25519"), Ok(Algorithm::EdDsa));
    }

    #[test]
    fn none_and_hmac_have_reasons_of_their_own() {
        for n in ["none", "None", "NONE", "nOnE"] {
            assert_eq!(Algorithm::parse(n), Err(TokenError::Unsigned));
        }
        for n in ["HS256", "HS384", "HS512", "hs256"] {
            assert_eq!(Algorithm::parse(n), Err(TokenError::Symmetric));
        }
        for n in [
            "",
            "ES512",
            "ES256K",
            "RSA1_5",
            "PBES2-HS256+A128KW",
            "dir",
            "Ed448",
        ] {
            assert_eq!(
                Algorithm::parse(n),
                Err(TokenError::UnknownAlgorithm),
                "{n}"
            );
        }
    }
}
