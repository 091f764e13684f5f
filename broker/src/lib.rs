//! The authorizing plugin for nats-server, and the operator's command line.

pub mod callout;
mod clock;
mod decision;
pub mod engine;
pub mod nats_config;
