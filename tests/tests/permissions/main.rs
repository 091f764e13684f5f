//! What the policy compiles to, tried on a live nats-server.
//!
//! The clients speak the raw protocol: a hostile client is not bound to what a
//! client library lets it send, and each verdict comes back in order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod buckets;
mod client;
mod dice;
mod differential;
mod import;
mod keys;
mod live;
mod traps;
