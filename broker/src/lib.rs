//! The authorizing plugin for nats-server, and the operator's command line.

mod broker;
pub mod callout;
pub mod cli;
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
pub use connection::ConnectionError;
pub use control::StreamError;
pub use trust::TrustFault;
