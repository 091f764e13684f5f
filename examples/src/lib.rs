//! Small services on Bulla, each one idea. They are run by `tests/examples.rs`, all on
//! one bus under [policy.toml](https://docs.rs/crate/bulla-examples/latest/source/policy.toml),
//! and are short because everything that is not their idea is done for them.
//!
//! | module | shows |
//! |---|---|
//! | [`hello`] | telling and hearing, and who spoke |
//! | [`quotes`] | a service with two endpoints, state, and errors that its callers get |
//! | [`hops`] | a user who travels over three hops, with less and less that he may do |
//! | [`mailer`] | a durable worker: back-off, and dead letters for what cannot be done |
//! | [`tenants`] | an encrypted stream on which each tenant writes beneath its own subjects |
//! | [`switches`] | configuration in a sealed bucket: set, followed, and by whom |
//! | [`moving`] | the way from async-nats: sealed and plain side by side |
//! | [`layers`] | tower's time-outs, limits, load shedding and retries |
//! | [`shop`] | two services behind the gateway, which `bulla dev` starts |

pub mod hello;
pub mod hops;
pub mod layers;
pub mod mailer;
pub mod moving;
pub mod quotes;
pub mod shop;
pub mod switches;
pub mod tenants;
