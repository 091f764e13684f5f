//! The language, the decisions and the compiled permissions, from outside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod buckets;
mod cases;
mod certificates;
mod chains;
mod circumstances;
mod decisions;
mod diff;
mod files;
mod language;
mod lints;
mod permissions;
mod properties;
mod shop;
mod streams;
mod tables;
mod tokens;
mod vectors;
