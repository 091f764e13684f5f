//! Runnable services on Bulla.
//!
//! [`shop`] is the small shop that `bulla dev` starts: `orders` and `billing`.

pub mod shop;
