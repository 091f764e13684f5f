//! Keys and the primitives that use them.
//!
//! This is the only crate that imports signature and encryption primitives.
//! Everything above it speaks of a [`SigningKey`], a [`Tag`] and a
//! [`Signature`], never of a curve. Pure: random bytes are arguments.
//!
//! ```text
//! SigningKey ── sign(Tag, parts) ──► Signature ──► VerifyingKey::verify(Tag, parts)   Bulla's statements
//!     └──────── sign_text(text) ───► Signature ──► VerifyingKey::verify_text          NATS nonces, JWTs
//! NkeySeed  = a SigningKey in NATS's textual form (`SU…`, `SA…`, …)
//! CurveSeed = an X25519 key (`SX…`) for the auth callout's sealed boxes
//!     └─ shared_with(a server's) ─► CurveBox: seal, open, as often as that server asks
//!
//! DataKey ── seal_in_place(Nonce of a NonceLane) ──► open_in_place          bodies
//!    └────── KemPublic::wrap ──► KemSecret::unwrap                           to each recipient
//! CertifiedKey ── sign(Tag, parts) ──► CertificateChain::verify(authorities)  a workload vouches
//! ExchangeSecret × ExchangePublic ──► MacKey ── mac ──► verify              replies to one requester
//! ```
//!
//! A statement of Bulla and a text that NATS or a JWT library has signed can
//! never be one another: see [`Tag`].
//!
//! What is deliberately absent: reading key files (bulla-process), what is said
//! about keys (bulla-envelope), and any export of a secret but the textual seed.
//!
//! ```
//! use bulla_keyring::{SigningKey, Tag};
//!
//! let key = SigningKey::from_seed(&[7; 32]);
//! let signature = key.sign(Tag::Policy, &[b"revision 1"]);
//! assert!(key.verifying_key().verify(Tag::Policy, &[b"revision 1"], &signature).is_ok());
//! assert!(key.verifying_key().verify(Tag::TrustBundle, &[b"revision 1"], &signature).is_err());
//! ```

mod anchors;
mod at_rest;
mod authority;
mod certificate;
mod certificate_names;
mod certified_key;
mod cipher_suite;
mod curve;
mod data_key;
mod exchange;
mod hash;
mod kdf;
mod kem;
mod kem_suite;
mod montgomery;
mod nkey_seed;
mod nonce;
mod secret_string;
mod seed_text;
mod signing;
#[cfg(test)]
#[path = "../tests/redaction/spellings.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests take more of it")]
mod spellings;
mod tag;

pub use anchors::Anchors;
pub use authority::{AuthorityKey, AuthorityKeyError, AuthorityRole, AuthoritySeed, MAX_PINNED};
pub use certificate::{
    AuthoritiesError, CertificateAuthorities, CertificateChain, CertificateError, ChainSize,
    MAX_AUTHORITIES, MAX_CHAIN, MAX_CHAIN_BYTES, VerifiedLeaf,
};
pub use certificate_names::CertificateNames;
pub use certified_key::{CertifiedKey, CertifiedKeyError, SigningError};
pub use cipher_suite::{Cipher, CipherSuite};
pub use curve::{BoxError, CurveBox, CurveSeed};
pub use data_key::{BadCiphertext, DataKey, TAG_LEN};
pub use exchange::{BadMac, ExchangeError, ExchangePublic, ExchangeSecret, MacKey};
pub use hash::{DataKeyId, KemKeyId, KeyId, constant_time_eq, sha256};
pub use kem::{KemKeyError, KemPublic, KemSecret, MAX_WRAP_INFO_LEN, WrapError};
pub use kem_suite::KemSuite;
pub use nkey_seed::{MAX_NONCE_LEN, NkeySeed, ServerNonceError};
pub use nonce::{NONCE_LEN, Nonce, NonceError, NonceLane, NonceLanes, Nonces};
pub use secret_string::SecretString;
pub use seed_text::SeedError;
pub use signing::{BadSignature, KeyError, Signature, SigningKey, VerifyingKey};
pub use tag::Tag;
