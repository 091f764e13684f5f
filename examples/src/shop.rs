//! A small shop: `orders` takes orders and asks `billing` for a quote on behalf
//! of the same user; `billing` also listens to what was ordered.
//!
//! ```text
//! gateway ── orders.create ──► orders ── billing.quote ──► billing
//!                                └────── orders.created ────►┘
//! ```

pub mod billing;
pub mod orders;

use bulla_sdk::{ConnectError, SubscribeError};
use serde::{Deserialize, Serialize};

/// What a client orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// The article's name.
    pub item: String,
    /// How many; at least one.
    pub quantity: u32,
}

/// An order as it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name.
    pub id: String,
    /// The article's name.
    pub item: String,
    /// How many.
    pub quantity: u32,
    /// The user who ordered.
    pub customer: String,
    /// The price of all of it, in cents.
    pub total_cents: u64,
}

/// Which order to look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderQuery {
    /// Its name.
    pub id: String,
}

/// What a quote is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteRequest {
    /// The article's name.
    pub item: String,
    /// How many.
    pub quantity: u32,
}

/// A price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The price of all of it, in cents.
    pub total_cents: u64,
    /// The user for whom it was calculated.
    pub customer: String,
}

/// Why a service of the shop could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShopError {
    /// It could not connect.
    #[error("cannot connect to the bus")]
    Connect(#[from] ConnectError),
    /// It may not listen where it wants to.
    #[error("cannot listen")]
    Subscribe(#[from] SubscribeError),
}
