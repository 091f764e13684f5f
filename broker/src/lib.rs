//! The authorizing plugin for nats-server, and the operator's command line.

pub mod engine;
pub mod nats_config;
