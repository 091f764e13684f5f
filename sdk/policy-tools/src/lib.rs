//! What helps people write policies, and decides nothing: their format.
//!
//! The language and everything that decides, explains and warns is bulla-policy,
//! which every service links; what only an operator's command line needs is here,
//! so that services do not carry it. Pure as well: text in, text out.

mod format;

pub use format::{FormatError, WIDTH, format};
