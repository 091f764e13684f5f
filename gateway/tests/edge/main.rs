//! The edge on real sockets: a real issuer, real tokens, and a bus that is told what
//! to answer. The whole path, with the real bus, is tested elsewhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod acme;
mod acme_authority;
mod aggregate;
mod api_keys;
mod cache;
mod certificates;
mod command;
mod configuration;
mod decisions;
mod drain;
mod exchange;
mod idempotency;
mod introspection;
mod keys;
mod limits;
mod outcomes;
mod pebble;
mod possession;
mod presentation;
mod protection;
mod reload;
mod setup;
mod smuggled;
mod smuggled_h2;
mod smuggling;
mod sockets;
mod streams;
mod table;
mod tls;
mod tokens;
mod under_policy;
mod unread;
