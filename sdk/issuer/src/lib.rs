//! The public keys of whoever issues tokens: found, fetched, kept fresh. For the
//! edge, whose clients bring tokens, and for brokers, whose workloads do.
//!
//! ```text
//! issuer ──/.well-known/openid-configuration──▶ jwks_uri ──▶ key set ─┐
//!                     or a URL that somebody configured ──▶ key set ──┴▶ IssuerKeys::current
//! ```
//!
//! What it deliberately does not do: it validates no token, and it follows nothing
//! that a token says.

mod discovery;
mod keys;
mod source;

pub use discovery::{UrlError, is_loopback, key_url};
pub use keys::{Generation, IssuerKeys};
pub use source::{CertificateSource, KeySource, KeysAt, SourceError};
