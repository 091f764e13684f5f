//! Brokers while they run: they follow what is in force, say how they are, and can be
//! killed, hung and replaced.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod availability;
mod cluster;
mod follow;
mod hostile;
mod observability;
mod operator_mode;
mod traces;

/// This program again, as a broker: see [`bulla_tests::BrokerProcess`].
#[test]
fn broker_process() {
    bulla_tests::broker_process();
}
