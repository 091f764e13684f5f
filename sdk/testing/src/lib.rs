//! Integration tests of services, on the real parts: nats-server, a broker, a policy.
//!
//! [`Bus`] is a whole bus in a temporary directory: nats-server on a free port,
//! brokers in this process, keys for every workload of the policy. Dropping it ends
//! everything, whatever happened. nats-server is the one that `BULLA_NATS_SERVER`
//! names, or the one of the `PATH`, or is fetched once into Bulla's cache, pinned by
//! its hash.
//!
//! ```toml
//! [dev-dependencies]
//! bulla-testing = "…"
//! ```
//!
//! ```
//! use bulla_sdk::{Client, Message, ServiceError};
//! use bulla_testing::{Bus, Minter};
//!
//! const POLICY: &str = r#"
//!     version = 1
//!     trust_domain = "acme.example"
//!
//!     [workload.edge]
//!     attest = [{ nkey = "@edge@" }]
//!     mints  = true
//!     [workload.greeter]
//!     attest = [{ nkey = "@greeter@" }]
//!
//!     [[allow]]
//!     id  = "greeter-greets"
//!     who = ["greeter"]
//!     may = ["serve"]
//!     on  = ["greet.*"]
//!     [[allow]]
//!     id  = "edge-asks"
//!     who = ["edge"]
//!     may = ["request"]
//!     on  = ["greet.*"]
//!     user = { scope = "greetings" }
//!
//!     [subject."greet.*"]
//!     user = "required"
//! "#;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In a test: #[tokio::test] async fn …
//! let bus = Bus::start(POLICY).await;
//! let greeter = bus.client("greeter").await;
//! let _service = greeter
//!     .serve("greet.*", async |message: Message<String>| {
//!         let user = message.user().map(|user| user.principal().to_owned());
//!         Ok::<_, ServiceError>(format!("{} {}", message.payload(), user.unwrap_or_default()))
//!     })
//!     .await?;
//!
//! let edge = Minter::connect(&bus, "edge").await;
//! let alice = edge.token("alice", "greetings", &[]);
//! let asked = edge.client.message("greet.friends").user_token(alice).payload("hello");
//! assert_eq!(asked.request().await?.decode::<String>()?, "hello alice");
//! # Ok(())
//! # }
//! ```
//!
//! It takes about half a second to start, so tests of one file do well to share one.
//! What needs no server is tested faster with `bulla_sdk::testing::TestBus`.
//!
//! A harness fails loudly: its functions panic instead of returning errors.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness fails by panicking in the test that uses it"
)]

mod bus;
mod minter;

pub use bulla_broker::callout::Group;
pub use bus::{BrokerHandle, Bus, BusOptions, engine, with_nkeys};
pub use minter::Minter;

/// The time.
#[must_use]
pub fn now() -> bulla_identity::UnixMillis {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let millis = since.expect("a time after 1970").as_millis();
    bulla_identity::UnixMillis::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
