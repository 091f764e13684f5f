//! What helps people write policies, and decides nothing: their format, a schema for
//! editors, a picture of who talks to whom, and the way from nats-server's own
//! permissions; recorded decisions, decided again by a candidate, and grants that
//! nobody uses.
//!
//! The language and everything that decides, explains and warns is bulla-policy,
//! which every service links; what only an operator's command line needs is here,
//! so that services do not carry it. Pure as well: text in, text out.

mod advise;
mod format;
mod graph;
mod import;
mod replay;
mod schema;

pub use advise::{Advice, Advisor, Unused, Used};
pub use format::{FormatError, WIDTH, format};
pub use graph::{Channel, Graph, Talk};
pub use import::{ConfigError, ImportError, ImportOptions, Imported, LeftOut, Why, import};
pub use replay::{Change, Count, Replay, ReplayReport, Unjudged};
pub use schema::schema;
