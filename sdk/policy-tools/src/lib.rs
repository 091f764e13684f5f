//! What helps people write policies, and decides nothing: their format, a schema for
//! editors, a picture of who talks to whom, and the way from nats-server's own
//! permissions.
//!
//! The language and everything that decides, explains and warns is bulla-policy,
//! which every service links; what only an operator's command line needs is here,
//! so that services do not carry it. Pure as well: text in, text out.

mod format;
mod graph;
mod import;
mod schema;

pub use format::{FormatError, WIDTH, format};
pub use graph::{Channel, Graph, Talk};
pub use import::{ConfigError, ImportError, ImportOptions, Imported, LeftOut, Why, import};
pub use schema::schema;
