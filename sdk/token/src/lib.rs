//! Tokens of users: validating the client's JWT, and the transaction token that
//! stands for it on the bus.
//!
//! Two kinds of token, and neither is ever taken for the other:
//!
//! ```text
//!   client ──access token──▶ edge ──transaction token──▶ bus
//!            typ at+jwt        │     typ txntoken+jwt
//!            aud = this API    │     iss = aud = spiffe://<trust domain>
//!            key: JWKS of      │     key: the minting process's, named by
//!                 the issuer   │          its message credential
//!                 AccessTokenValidator    mint_transaction_token
//!                                         verify_transaction_token
//! ```
//!
//! This crate is pure: no clock, no random numbers, no network. `now` is an
//! argument, key sets are parsed from bytes that somebody else fetched.
//!
//! # What is refused
//!
//! The signature itself is checked by `jsonwebtoken` on aws-lc. Everything else
//! is done here, stricter than a general library may be, following [RFC 8725]:
//! bytes outside base64url, JWE, `none`, every HMAC algorithm, `zip`, `crit`,
//! keys carried or pointed to by the token (`jwk`, `jku`, `x5u`, `x5c`), members
//! that occur twice, dates that are not whole non-negative seconds, a missing
//! `iss`, `aud`, `exp` or `sub`, an algorithm other than the key's own.
//!
//! # What it deliberately does not do
//!
//! No fetching of keys, no caching, no opaque tokens, no encrypted tokens, no
//! shared-secret tokens.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use bulla_identity::{TrustDomain, UnixMillis};
//! use bulla_token::{
//!     mint_transaction_token, verify_transaction_token, TokenSigningKey, TransactionClaims,
//! };
//!
//! let domain = TrustDomain::parse("acme.example")?;
//! let key = TokenSigningKey::from_seed([7; 32]);
//! let now = UnixMillis::from_millis(1_800_000_000_000);
//! let mut claims = TransactionClaims::new("txn-1", "alice", "spiffe://acme.example/gateway");
//! claims.scope = "orders:read".into();
//! claims.expires = now.saturating_add(Duration::from_secs(60));
//! claims.issued = now;
//! let token = mint_transaction_token(&key, "00112233445566778899aabbccddeeff", &domain, &claims)?;
//!
//! let seen = verify_transaction_token(&token, key.public(), &domain, now, Duration::from_secs(5))?;
//! assert_eq!(seen.principal(), "alice");
//! assert!(seen.policy_claims().has_scope("orders:read"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [RFC 8725]: https://www.rfc-editor.org/rfc/rfc8725

mod access;
mod algorithm;
mod compact;
mod dpop;
mod error;
mod exchange;
mod json;
mod jwks;
mod registered;
mod transaction;

pub use access::{
    AccessTokenValidator, TypRule, ValidatedToken, ValidationPolicy, unverified_issuer,
    unverified_key_id,
};
pub use algorithm::Algorithm;
pub use dpop::{ProofError, ProofExpectation, verify_proof};
pub use error::{Blame, JwksError, MintError, PolicyError, TokenError};
pub use exchange::{
    ExchangeFault, ExchangeRequest, ExchangeResponse, MAX_EXCHANGE_REQUEST, MintTimes, StartGrant,
    SubjectToken, TOKEN_EXCHANGE, TRANSACTION_TOKEN_TYPE,
};
pub use jwks::{IgnoredKey, KeySet, MAX_JWKS_BYTES, MAX_JWKS_KEYS};
pub use transaction::{
    MAX_REACH, MAX_TRANSACTION_LIFETIME, MintedToken, TRANSACTION_TYP, TokenSigningKey,
    TransactionClaims, TransactionToken, UnverifiedTransaction, is_reserved_context_name,
    mint_transaction_token, trust_domain_uri, verify_transaction_token,
};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// SHA-256 of a whole token: what caches are keyed by, and what the signed
/// header of an envelope carries.
///
/// # Security
///
/// It covers every byte, the signature included, so that a token with another
/// signature is another token.
#[must_use]
pub fn token_digest(token: &str) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(token.as_bytes()).into()
}
