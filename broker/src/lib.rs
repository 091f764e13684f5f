//! The authorizing plugin for nats-server, and the operator's command line.
//!
//! ```text
//!                 asks about every connection
//! nats-server ── $SYS.REQ.USER.AUTH ─────────────► callout   (account AUTH)
//!             ◄─ permissions, compiled from the policy ─┘
//!
//! workload ───── $BULLA.BROKER.<tag>.… ──────────► control   (account JS)
//!          ◄──── message credential ────────────────────┘
//!                 BULLA_CTL: trust bundle, policy, credentials, republished as news
//! ```
//!
//! No message of a workload ever passes through here, and no broker holds the
//! trust root, the policy key or a workload's key. State is what lies on the
//! control stream, so any number of brokers run side by side.
//!
//! - [`run`] is one broker; [`callout`] and the control plane are its parts.
//! - [`engine`], [`nats_config`] and [`provision`] get a nats-server and its
//!   files for `bulla dev` and for tests.
//! - [`cli`] is the program `bulla`.
//!
//! What it deliberately does not do: it proxies nothing, decides nothing about
//! single messages (the SDK does, with the same policy), and keeps no list of
//! connections.

mod audit;
mod audit_quota;
mod broker;
mod buckets;
mod bus_user;
pub mod callout;
mod census;
pub mod cli;
mod clock;
mod config;
mod connection;
mod control;
mod decision;
mod deployment;
mod dev;
mod doctor;
mod durable;
pub mod engine;
mod exchange;
mod files;
mod fitness;
mod follow;
mod history;
mod invitation;
mod issuing;
mod kick;
mod metrics;
mod nats_accounts;
pub mod nats_config;
mod nats_jwt;
mod operator_client;
mod probe;
pub mod provision;
#[cfg(test)]
mod redaction;
mod report;
mod seen;
mod spans;
#[cfg(test)]
#[path = "../../sdk/keyring/tests/redaction/spellings.rs"]
#[allow(unreachable_pub, reason = "the tests of other crates take it too")]
mod spellings;
mod stored;
mod trial;
mod trust;
pub mod trust_dir;

pub use broker::{BrokerError, Outlook, run};
pub use bus_user::{BusUser, BusUserError};
pub use config::{
    BrokerConfig, BrokerKeys, ConfigError, OnChange, OperatorMode, Origin, Setting, TrustFiles,
};
pub use connection::ConnectionError;
pub use control::{AuditRetention, StreamError};
pub use issuing::{IssuingKeys, IssuingKeysError};
pub use trust::TrustFault;
