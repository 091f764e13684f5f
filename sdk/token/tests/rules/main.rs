//! The rules of tokens, each by its own name; failures outnumber passes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod access;
mod exchange;
mod issuer;
mod jwks;
mod properties;
mod redaction;
#[path = "../../../keyring/tests/redaction/spellings.rs"]
mod spellings;
mod transaction;
mod vectors;
