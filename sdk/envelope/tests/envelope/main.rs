//! Sealing and opening from outside the crate, rule by rule of SPEC.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    unreachable_pub,
    missing_docs
)]

mod ancestry;
mod batch;
mod check;
mod credential;
mod encoding;
mod encryption;
mod fixture;
mod frame;
mod heads;
mod oracle;
mod redaction;
mod roots;
mod roundtrip;
#[path = "../../../keyring/tests/redaction/spellings.rs"]
mod spellings;
mod trust;
