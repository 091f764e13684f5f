//! Access tokens: the JWT that a client brings from its issuer.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::{Claims, UnixMillis};
use serde_json::{Map, Value};

use crate::compact::Compact;
use crate::json::{JsonError, parse_object};
use crate::registered::{
    audiences, check_times, date, required_date, required_string, scope, string,
};
use crate::{Algorithm, KeySet, MAX_TOKEN_BYTES, PolicyError, TRANSACTION_TYP, TokenError};

/// The longest leeway for clocks that differ.
const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// What `typ` a token must carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TypRule {
    /// [RFC 9068]: `at+jwt` or `application/at+jwt`, and with it the claims
    /// `client_id`, `iat` and `jti`.
    ///
    /// [RFC 9068]: https://www.rfc-editor.org/rfc/rfc9068
    #[default]
    AccessToken,
    /// As above, or `JWT`, or no `typ` at all; `client_id`, `iat` and `jti` may be
    /// absent.
    ///
    /// # Security
    ///
    /// For issuers that do not implement RFC 9068. Nothing but the audience then
    /// tells an access token from an ID token of the same issuer, so the audience
    /// must be the API's own and never a client id.
    AccessTokenOrPlainJwt,
}

/// What an access token must fulfil.
#[derive(Debug, Clone)]
pub struct ValidationPolicy {
    /// The one issuer, compared byte for byte.
    pub issuer: String,
    /// The token's `aud` must contain at least one of these. Never empty.
    pub audiences: Vec<String>,
    /// The algorithms that are allowed.
    pub algorithms: BTreeSet<Algorithm>,
    /// How much the issuer's clock may differ, 60 s at most; 30 to 60 s are usual.
    pub leeway: Duration,
    /// What `typ` a token must carry.
    pub typ: TypRule,
    /// The longest token in bytes; never more than [`MAX_TOKEN_BYTES`].
    pub max_bytes: usize,
}

impl ValidationPolicy {
    /// A policy for one issuer and one audience: every algorithm of this crate,
    /// 30 s of leeway, RFC 9068 tokens only, 8 KiB.
    #[must_use]
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: vec![audience.into()],
            algorithms: Algorithm::ALL.into(),
            leeway: Duration::from_secs(30),
            typ: TypRule::default(),
            max_bytes: MAX_TOKEN_BYTES,
        }
    }
}

/// Validates access tokens against one [`ValidationPolicy`].
#[derive(Debug, Clone)]
pub struct AccessTokenValidator {
    policy: ValidationPolicy,
    issuer: Arc<str>,
}

impl AccessTokenValidator {
    /// Takes a policy that is complete.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] when the issuer, the audiences or the algorithms are empty,
    /// or the leeway is too long.
    pub fn new(policy: ValidationPolicy) -> Result<Self, PolicyError> {
        if policy.issuer.is_empty() {
            return Err(PolicyError::NoIssuer);
        }
        if policy.audiences.is_empty() || policy.audiences.iter().any(String::is_empty) {
            return Err(PolicyError::NoAudience);
        }
        if policy.algorithms.is_empty() {
            return Err(PolicyError::NoAlgorithm);
        }
        if policy.leeway > MAX_LEEWAY {
            return Err(PolicyError::LeewayTooLong {
                limit: MAX_LEEWAY.as_secs(),
                actual: policy.leeway.as_secs(),
            });
        }
        let issuer = Arc::from(policy.issuer.as_str());
        Ok(Self { policy, issuer })
    }

    /// The policy that tokens are held against.
    #[must_use]
    pub fn policy(&self) -> &ValidationPolicy {
        &self.policy
    }

    /// Validates `token` under the keys of the issuer.
    ///
    /// Checked in this order: size, bytes, parts, header, `typ`, algorithm, key,
    /// signature, claims, times.
    ///
    /// # Errors
    ///
    /// The first rule that the token breaks. [`TokenError::UnknownKey`] is the one
    /// for which fetching the key set again can help.
    pub fn validate(
        &self,
        token: &str,
        keys: &KeySet,
        now: UnixMillis,
    ) -> Result<ValidatedToken, TokenError> {
        let compact = Compact::parse(token, self.policy.max_bytes.min(MAX_TOKEN_BYTES))?;
        let is_access_token = self.check_typ(&compact)?;
        if !self.policy.algorithms.contains(&compact.algorithm) {
            return Err(TokenError::AlgorithmNotAllowed(compact.algorithm));
        }
        let key = keys.find(compact.kid.as_deref(), compact.algorithm)?;
        compact.verify(&key.decoding, key.algorithm)?;

        let claims = compact.unverified_claims()?;
        if required_string(&claims, "iss")? != self.policy.issuer {
            return Err(TokenError::WrongIssuer);
        }
        self.finish(claims, (is_access_token, compact.kid), now)
    }

    /// What holds of every token's claims, wherever they come from.
    fn finish(
        &self,
        claims: Map<String, Value>,
        (is_access_token, kid): (bool, Option<String>),
        now: UnixMillis,
    ) -> Result<ValidatedToken, TokenError> {
        let audience = audiences(&claims)?
            .into_iter()
            .find(|a| self.policy.audiences.iter().any(|p| p == a))
            .ok_or(TokenError::WrongAudience)?
            .to_owned();
        required_string(&claims, "sub")?;
        scope(&claims)?;
        let expires = required_date(&claims, "exp")?;
        let not_before = date(&claims, "nbf")?;
        let issued = date(&claims, "iat")?;
        for name in ["client_id", "jti"] {
            string(&claims, name)?;
        }
        if is_access_token {
            for name in ["client_id", "iat", "jti"] {
                if !claims.contains_key(name) {
                    return Err(TokenError::MissingClaim(name));
                }
            }
        }
        let validated = ValidatedToken {
            claims: Claims::from_map(claims),
            issuer: Arc::clone(&self.issuer),
            audience,
            kid,
            expires,
            not_before,
            issued,
            leeway: self.policy.leeway,
        };
        validated.check_times(now)?;
        Ok(validated)
    }

    /// Takes what the issuer says of an opaque token ([RFC 7662 §2.2]). The same holds of
    /// it as of a token's own claims; `iss` may be absent, since the issuer was asked.
    ///
    /// [RFC 7662 §2.2]: https://www.rfc-editor.org/rfc/rfc7662#section-2.2
    ///
    /// # Errors
    ///
    /// [`TokenError::Inactive`], or the first rule that the answer breaks.
    pub fn validate_introspection(
        &self,
        answer: &[u8],
        now: UnixMillis,
    ) -> Result<ValidatedToken, TokenError> {
        let claims = parse_object(answer).map_err(|e| match e {
            JsonError::Duplicate => TokenError::DuplicateMember,
            JsonError::NotObject => TokenError::NotJson,
        })?;
        match claims.get("active") {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Err(TokenError::Inactive),
            Some(_) => return Err(TokenError::BadClaim("active")),
            None => return Err(TokenError::MissingClaim("active")),
        }
        if string(&claims, "iss")?.is_some_and(|iss| iss != self.policy.issuer) {
            return Err(TokenError::WrongIssuer);
        }
        self.finish(claims, (false, None), now)
    }

    /// Whether the token is one of RFC 9068.
    fn check_typ(&self, compact: &Compact<'_>) -> Result<bool, TokenError> {
        if compact.typ_is(TRANSACTION_TYP) {
            return Err(TokenError::WrongType);
        }
        if compact.typ_is("at+jwt") {
            return Ok(true);
        }
        match self.policy.typ {
            TypRule::AccessTokenOrPlainJwt if compact.typ.is_none() || compact.typ_is("jwt") => {
                Ok(false)
            }
            TypRule::AccessToken | TypRule::AccessTokenOrPlainJwt => Err(TokenError::WrongType),
        }
    }
}

/// An access token whose signature, audience and times have been checked. Only
/// [`AccessTokenValidator::validate`] makes one.
#[derive(Clone)]
pub struct ValidatedToken {
    claims: Claims,
    issuer: Arc<str>,
    audience: String,
    kid: Option<String>,
    expires: UnixMillis,
    not_before: Option<UnixMillis>,
    issued: Option<UnixMillis>,
    leeway: Duration,
}

impl ValidatedToken {
    /// All claims of the token.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The user: the `sub` claim.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.claims.principal().unwrap_or_default()
    }

    /// Who issued it: the policy's issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The first of its audiences that the policy names.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// The id of the key that signed it.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// When it expires, without leeway.
    #[must_use]
    pub fn expires(&self) -> UnixMillis {
        self.expires
    }

    /// Checks the times once more: whoever keeps a validated token asks before each use.
    ///
    /// # Errors
    ///
    /// [`TokenError::Expired`], [`TokenError::NotYetValid`] or [`TokenError::IssuedInFuture`].
    pub fn check_times(&self, now: UnixMillis) -> Result<(), TokenError> {
        check_times(now, self.leeway, self.expires, self.not_before, self.issued)
    }
}

impl fmt::Debug for ValidatedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidatedToken")
            .field("claims", &self.claims)
            .field("issuer", &self.issuer)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The `iss` of a token that nothing has been checked of: only good for choosing
/// which of the configured issuers' policies and keys to hold it against.
///
/// # Errors
///
/// As for [`AccessTokenValidator::validate`], up to the header; and a missing or
/// malformed `iss`.
pub fn unverified_issuer(token: &str) -> Result<String, TokenError> {
    let claims = Compact::parse(token, MAX_TOKEN_BYTES)?.unverified_claims()?;
    Ok(required_string(&claims, "iss")?.to_owned())
}

/// The `kid` of a token that nothing has been checked of: only good for asking
/// whether a key set that is fetched again has come to hold it.
///
/// # Errors
///
/// As for [`AccessTokenValidator::validate`], up to the header.
pub fn unverified_key_id(token: &str) -> Result<Option<String>, TokenError> {
    Compact::parse(token, MAX_TOKEN_BYTES).map(|compact| compact.kid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_issuer_says_of_a_token_is_held_to_the_rules_of_tokens() {
        let policy = ValidationPolicy::new("https://i.example", "api");
        let validator = AccessTokenValidator::new(policy).unwrap();
        let judge = |changes: Value| {
            let mut answer = json!({"active": true, "sub": "alice", "aud": ["api", "b"],
                "scope": "a b", "exp": 1_100});
            for (name, value) in changes.as_object().unwrap() {
                match value {
                    Value::Null => drop(answer.as_object_mut().unwrap().remove(name)),
                    value => answer[name] = value.clone(),
                }
            }
            let now = UnixMillis::from_secs(1_000);
            let judged = validator.validate_introspection(answer.to_string().as_bytes(), now);
            judged.map(|token| token.principal().to_owned())
        };
        assert_eq!(judge(json!({})), Ok("alice".into()));
        assert_eq!(
            judge(json!({"iss": "https://i.example"})),
            Ok("alice".into())
        );
        for (changes, want) in [
            (json!({"active": false}), TokenError::Inactive),
            (json!({"active": null}), TokenError::MissingClaim("active")),
            (json!({"active": "true"}), TokenError::BadClaim("active")),
            (
                json!({"iss": "https://evil.example"}),
                TokenError::WrongIssuer,
            ),
            (json!({"aud": "other"}), TokenError::WrongAudience),
            (json!({"aud": null}), TokenError::MissingClaim("aud")),
            (json!({"sub": null}), TokenError::MissingClaim("sub")),
            (json!({"exp": null}), TokenError::MissingClaim("exp")),
            (json!({"exp": 900}), TokenError::Expired),
            (json!({"exp": "1100"}), TokenError::BadClaim("exp")),
            (json!({"nbf": 1_200}), TokenError::NotYetValid),
        ] {
            assert_eq!(judge(changes.clone()), Err(want), "{changes}");
        }
        let now = UnixMillis::from_secs(1_000);
        for text in ["", "[]", "{\"active\":false,\"active\":true}"] {
            let judged = validator.validate_introspection(text.as_bytes(), now);
            assert!(judged.is_err(), "{text}");
        }
    }
}
