//! The authorizing plugin for nats-server, and the operator's command line.

mod broker;
pub mod callout;
mod clock;
mod config;
mod connection;
mod control;
mod decision;
mod dev;
pub mod engine;
pub mod nats_config;
pub mod provision;
mod trust;

pub use broker::{BrokerError, run};
pub use config::{BrokerConfig, BrokerKeys, ConfigError};
