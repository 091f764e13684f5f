//! End-to-end tests on a real nats-server, and their harness.
//!
//! [`Bus`] is a whole bus in a temporary directory: nats-server on a free port,
//! brokers in this process, keys for every workload of the policy. Dropping it
//! ends everything, whatever happened.
//!
//! ```no_run
//! # async fn test() {
//! let bus = bulla_tests::Bus::start(r#"
//!     version = 1
//!     trust_domain = "acme.example"
//!
//!     [workload.orders]
//!     attest = [{ nkey = "@orders@" }]
//!
//!     [[allow]]
//!     id  = "orders-tell"
//!     who = ["orders"]
//!     may = ["publish"]
//!     on  = ["orders.created"]
//! "#).await;
//! let client = bus.raw_client("orders").await;
//! # }
//! ```
//!
//! A harness fails loudly: its functions panic instead of returning errors.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness fails by panicking in the test that uses it"
)]

mod broker_process;
mod bus;
mod cable;
mod cluster;
mod collector;
mod dissected;
mod edge_setup;
mod events;
mod forger;
mod minter;
mod operator;
mod pki;
mod raw_socket;
mod sealed;
mod shop;
mod trusted;

pub use broker_process::{BrokerProcess, TEST as BROKER_PROCESS_TEST, broker_process};
pub use bulla_testing::{BrokerHandle, BusOptions};
pub use bus::Bus;
pub use cable::Cable;
pub use cluster::{Cluster, NODES};
pub use collector::Collector;
pub use dissected::{Dissected, bin, uint};
pub use edge_setup::{KID, access_token, gateway_file, key_set, serve_keys, signing_input};
pub use events::{Fields, events, listen};
pub use forger::{Forger, leaf_of, now};
pub use minter::Minter;
pub use operator::{BROKER, LIFE, Operator};
pub use pki::{Pki, Svid, SvidFiles};
pub use raw_socket::RawSocket;
pub use shop::{SHOP_POLICY, Shop};
