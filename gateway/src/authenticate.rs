//! From the `Authorization` header to a validated access token.
//!
//! Validated tokens are kept by SHA-256 of the whole token, the policy (issuer and
//! audiences) and the generation of the issuer's keys; the times are checked again on
//! each use, and no entry outlives the keys that it was validated under. Refused ones
//! are kept apart, so that junk cannot displace good tokens. Those that were used last stand
//! in front of the others, where a look costs next to nothing.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bulla_identity::UnixMillis;
use bulla_token::{
    Blame, TokenError, ValidatedToken, token_digest, unverified_issuer, unverified_key_id,
};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use moka::sync::Cache;

use crate::introspection::{Introspector, Refused, is_opaque};
use crate::routes::TokenPolicy;
use bulla_issuer::{Generation, IssuerKeys};

const MAX_GOOD: u64 = 10_000;
const MAX_GOOD_AGE: Duration = Duration::from_secs(300);
/// Places for those that were used last.
const LATELY: usize = 256;
const MAX_BAD: u64 = 1_000;
const MAX_BAD_AGE: Duration = Duration::from_secs(10);

/// Why a request has no authenticated user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthError {
    /// No `Authorization`, or none of the `Bearer` scheme.
    NoToken,
    /// More than one `Authorization` header.
    Repeated,
    /// The header is not `Bearer` and one token.
    Malformed,
    /// The token is refused.
    Token(TokenError),
    /// The issuer's keys cannot be had.
    NoKeys,
}

impl AuthError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Repeated => "repeated_authorization",
            Self::Malformed => "malformed_authorization",
            Self::Token(error) => error.code(),
            Self::NoKeys => "issuer_keys_unavailable",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CacheKey {
    digest: [u8; 32],
    policy: usize,
    generation: u64,
}

/// A good token, and when it was validated.
struct Good {
    key: CacheKey,
    token: Arc<ValidatedToken>,
    since: UnixMillis,
}

/// Good tokens that were used last, each at the place that its digest draws.
struct Lately([ArcSwapOption<Good>; LATELY]);

impl Lately {
    fn find(&self, key: &CacheKey, now: UnixMillis) -> Option<Arc<ValidatedToken>> {
        let found = self.place(key)?.load();
        let good = found.as_deref()?;
        let is_it = good.key == *key && now.saturating_since(good.since) < MAX_GOOD_AGE;
        is_it.then(|| Arc::clone(&good.token))
    }

    fn put(&self, good: &Arc<Good>) {
        if let Some(place) = self.place(&good.key) {
            place.store(Some(Arc::clone(good)));
        }
    }

    fn place(&self, key: &CacheKey) -> Option<&ArcSwapOption<Good>> {
        let [.., last] = key.digest;
        self.0.get(usize::from(last) % LATELY)
    }
}

/// Validates the tokens of all issuers.
pub(crate) struct Authenticator {
    issuers: Vec<Arc<IssuerKeys>>,
    /// Who is asked about opaque tokens, by the number of the issuer.
    introspectors: Vec<Option<Introspector>>,
    policies: Vec<TokenPolicy>,
    lately: Lately,
    good: Cache<CacheKey, Arc<Good>>,
    bad: Cache<CacheKey, TokenError>,
}

impl Authenticator {
    pub(crate) fn new(
        issuers: Vec<Arc<IssuerKeys>>,
        introspectors: Vec<Option<Introspector>>,
        policies: Vec<TokenPolicy>,
    ) -> Self {
        Self {
            issuers,
            introspectors,
            policies,
            lately: Lately([const { ArcSwapOption::const_empty() }; LATELY]),
            good: Cache::builder()
                .max_capacity(MAX_GOOD)
                .time_to_live(MAX_GOOD_AGE)
                .build(),
            bad: Cache::builder()
                .max_capacity(MAX_BAD)
                .time_to_live(MAX_BAD_AGE)
                .build(),
        }
    }

    /// Whether tokens of some issuer can be validated, if there is any.
    pub(crate) fn ready(&self) -> bool {
        self.issuers.is_empty() || self.issuers.iter().any(|i| i.current().is_some())
    }

    pub(crate) fn issuers(&self) -> &[Arc<IssuerKeys>] {
        &self.issuers
    }

    /// Validates `token` under whichever of `policies` is its issuer's.
    pub(crate) async fn validate(
        &self,
        token: &str,
        policies: &[usize],
        now: UnixMillis,
    ) -> Result<Arc<ValidatedToken>, AuthError> {
        if is_opaque(token)
            && let Some((introspector, index, policy)) = self.introspector(policies)
        {
            let asked = introspector.validate(token, (index, &policy.validator), now);
            return Box::pin(asked).await.map_err(|refused| match refused {
                Refused::Token(error) => AuthError::Token(error),
                Refused::NoAnswer => AuthError::NoKeys,
            });
        }
        let (index, policy) = self.choose(token, policies)?;
        let issuer = self.issuers.get(policy.issuer).ok_or(AuthError::NoKeys)?;
        let keys = issuer.available().await.ok_or(AuthError::NoKeys)?;
        match self.with_keys(token, index, policy, &keys, now) {
            Err(TokenError::UnknownKey) => {}
            outcome => return outcome.map_err(AuthError::Token),
        }
        let unknown = AuthError::Token(TokenError::UnknownKey);
        let kid = unverified_key_id(token).ok().flatten().ok_or(unknown)?;
        let newer = Box::pin(issuer.newer_with(&kid, keys.number)).await;
        let newer = newer.ok_or(unknown)?;
        self.with_keys(token, index, policy, &newer, now)
            .map_err(AuthError::Token)
    }

    /// The first of these policies' issuers that says what its opaque tokens are.
    fn introspector(&self, policies: &[usize]) -> Option<(&Introspector, usize, &TokenPolicy)> {
        policies.iter().find_map(|index| {
            let policy = self.policies.get(*index)?;
            let introspector = self.introspectors.get(policy.issuer)?.as_ref()?;
            Some((introspector, *index, policy))
        })
    }

    fn choose(&self, token: &str, policies: &[usize]) -> Result<(usize, &TokenPolicy), AuthError> {
        let wrong = AuthError::Token(TokenError::WrongIssuer);
        let with = |index: usize| self.policies.get(index).map(|policy| (index, policy));
        if let [only] = policies {
            return with(*only).ok_or(wrong);
        }
        let claimed = unverified_issuer(token).map_err(AuthError::Token)?;
        policies
            .iter()
            .filter_map(|index| with(*index))
            .find(|(_, policy)| policy.validator.policy().issuer == claimed)
            .ok_or(wrong)
    }

    fn with_keys(
        &self,
        token: &str,
        index: usize,
        policy: &TokenPolicy,
        keys: &Generation,
        now: UnixMillis,
    ) -> Result<Arc<ValidatedToken>, TokenError> {
        let key = CacheKey {
            digest: token_digest(token),
            policy: index,
            generation: keys.number,
        };
        if let Some(known) = self.lately.find(&key, now) {
            return known.check_times(now).map(|()| known);
        }
        if let Some(good) = self.good.get(&key) {
            self.lately.put(&good);
            let known = Arc::clone(&good.token);
            return known.check_times(now).map(|()| known);
        }
        if let Some(refused) = self.bad.get(&key) {
            return Err(refused);
        }
        match policy.validator.validate(token, &keys.keys, now) {
            Ok(validated) => {
                let token = Arc::new(validated);
                let good = Arc::new(Good {
                    key,
                    token: Arc::clone(&token),
                    since: now,
                });
                self.good.insert(key, good);
                Ok(token)
            }
            Err(error) => {
                // What depends on the time or on other keys is asked anew.
                if error.blame() == Blame::Hostile {
                    self.bad.insert(key, error);
                }
                Err(error)
            }
        }
    }
}

/// How a token is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// By whoever has it.
    Bearer,
    /// With a proof that the key is held that it is bound to.
    Proof,
}

/// The access token of a request ([RFC 6750 §2.1], [RFC 9449 §7.1]): one header, one token.
///
/// [RFC 6750 §2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
/// [RFC 9449 §7.1]: https://www.rfc-editor.org/rfc/rfc9449#section-7.1
pub(crate) fn access_token(headers: &HeaderMap) -> Result<(Scheme, &str), AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::NoToken)?;
    if values.next().is_some() {
        return Err(AuthError::Repeated);
    }
    let value = value.to_str().map_err(|_| AuthError::Malformed)?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    let scheme = if scheme.eq_ignore_ascii_case("bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case("dpop") {
        Scheme::Proof
    } else {
        return Err(AuthError::NoToken);
    };
    let is_token = |b: u8| {
        b.is_ascii_alphanumeric() | matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
    };
    // Of all bytes, so that many are looked at in one step.
    let is_good = token.bytes().fold(true, |good, b| good & is_token(b));
    if token.is_empty() || !is_good {
        return Err(AuthError::Malformed);
    }
    Ok((scheme, token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    /// A validator for one issuer, its keys, and a token that ends at 1,000 s.
    fn known_issuer() -> (Authenticator, Generation, String) {
        use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
        use bulla_token::{AccessTokenValidator, KeySet, ValidationPolicy};
        use data_encoding::BASE64URL_NOPAD as B64;
        use serde_json::json;
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = B64.encode(pair.public_key().as_ref());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"});
        let claims = json!({"iss": "i", "aud": "a", "sub": "s", "client_id": "c", "jti": "j",
            "iat": 100, "exp": 1_000});
        let part = |json: &serde_json::Value| B64.encode(json.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let token = format!(
            "{signed}.{}",
            B64.encode(pair.sign(signed.as_bytes()).as_ref())
        );
        let validator = AccessTokenValidator::new(ValidationPolicy::new("i", "a")).unwrap();
        let policy = TokenPolicy {
            issuer: 0,
            must_be_bound: false,
            validator: Arc::new(validator),
        };
        let keys = Generation {
            keys: KeySet::parse(set.to_string().as_bytes()).unwrap(),
            number: 1,
            fetched: std::time::Instant::now(),
        };
        (
            Authenticator::new(Vec::new(), Vec::new(), vec![policy]),
            keys,
            token,
        )
    }

    #[test]
    fn the_times_of_a_cached_token_are_checked_on_each_use() {
        let (known, keys, token) = known_issuer();
        let at = |secs| {
            let now = UnixMillis::from_secs(secs);
            let policy = known.policies.first().unwrap();
            known.with_keys(&token, 0, policy, &keys, now).map(|_| ())
        };
        assert_eq!(at(500), Ok(()));
        assert_eq!(known.good.iter().count(), 1);
        assert_eq!(at(1_029), Ok(()));
        assert_eq!(at(1_030), Err(TokenError::Expired));
        assert_eq!(at(10), Err(TokenError::IssuedInFuture));
        assert_eq!(at(500), Ok(()));
    }

    #[test]
    fn a_token_that_was_used_lately_is_found_at_once_until_it_is_old() {
        let (known, keys, token) = known_issuer();
        let policy = known.policies.first().unwrap();
        let at = UnixMillis::from_secs;
        // Validated, then found among all, then in front.
        for secs in [500, 501, 502] {
            known.with_keys(&token, 0, policy, &keys, at(secs)).unwrap();
        }
        let key = CacheKey {
            digest: token_digest(&token),
            policy: 0,
            generation: keys.number,
        };
        assert!(known.lately.find(&key, at(799)).is_some());
        assert!(known.lately.find(&key, at(800)).is_none());
        for other in [
            CacheKey { policy: 1, ..key },
            CacheKey {
                generation: keys.number + 1,
                ..key
            },
            CacheKey {
                digest: token_digest("another"),
                ..key
            },
        ] {
            assert!(known.lately.find(&other, at(502)).is_none());
        }
    }

    #[test]
    fn refused_tokens_are_kept_apart_from_good_ones_and_only_if_they_stay_refused() {
        let (known, keys, token) = known_issuer();
        let policy = known.policies.first().unwrap();
        let with = |token: &str, secs| {
            let now = UnixMillis::from_secs(secs);
            known.with_keys(token, 0, policy, &keys, now).map(|_| ())
        };
        // An early token becomes valid; a forged one never does.
        assert_eq!(with(&token, 10), Err(TokenError::IssuedInFuture));
        assert_eq!(with(&token, 500), Ok(()));
        let (signed, _) = token.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", "A".repeat(86));
        for _ in 0..2 {
            assert_eq!(with(&forged, 500), Err(TokenError::BadSignature));
        }
        assert_eq!(
            (known.good.iter().count(), known.bad.iter().count()),
            (1, 1)
        );
    }

    #[test]
    fn one_bearer_token_is_taken() {
        for text in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
            assert_eq!(
                access_token(&headers(&[text])),
                Ok((Scheme::Bearer, "a.b.c"))
            );
        }
    }

    #[test]
    fn a_token_with_a_proof_says_so() {
        let brought = headers(&["DPoP a.b.c"]);
        assert_eq!(access_token(&brought), Ok((Scheme::Proof, "a.b.c")));
    }

    #[test]
    fn anything_else_is_refused() {
        let of = |values: &[&str]| access_token(&headers(values)).unwrap_err();
        assert_eq!(of(&[]), AuthError::NoToken);
        assert_eq!(of(&["Basic YTpi"]), AuthError::NoToken);
        assert_eq!(of(&["a.b.c"]), AuthError::NoToken);
        assert_eq!(of(&["Bearer a", "Bearer a"]), AuthError::Repeated);
        assert_eq!(of(&["Bearer a", "Basic b"]), AuthError::Repeated);
        for bad in [
            "Bearer",
            "Bearer ",
            "Bearer  a",
            "Bearer a b",
            "Bearer a,b",
            "Bearer a, Bearer b",
        ] {
            assert_eq!(of(&[bad]), AuthError::Malformed, "{bad}");
        }
    }
}
