//! The auth callout: nats-server asks about every connection, we answer with
//! that workload's permissions.
//!
//! ```text
//! $SYS.REQ.USER.AUTH ─► group bulla-a ─► one broker ─┐
//!                    └► group bulla-b ─► one broker ─┴► the first answer wins
//! ```
//!
//! A member of a queue group that hangs takes its share with it, so there are
//! two groups and every request reaches one member of each. A broker that is
//! not ready stays silent and never denies.
//!
//! Nothing here does I/O between question and answer.

mod admissions;
mod answer;
mod attest;
mod decide;
mod deny_reason;
mod joining;
mod kept;
mod nonces;
mod proof;
mod questions;
mod request;
mod servers;
mod ticket;
mod token_keys;
mod tokens;

use std::str::FromStr;

pub use admissions::{AdmissionError, Admissions};
pub(crate) use admissions::{MARK, Standing};
pub use answer::{ACCOUNT, Placement};
pub use decide::Callout;
pub(crate) use deny_reason::DenyReason;
pub(crate) use questions::{Questions, WAITING, subscribe};
pub(crate) use token_keys::TokenKeys;
pub(crate) use tokens::prove_workload;

/// Which queue groups a broker joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Group {
    /// The first.
    A,
    /// The second.
    B,
    /// Both: right for a broker that is alone. The second copy of a request is
    /// recognised and not answered again.
    #[default]
    Both,
}

impl Group {
    pub(crate) fn queues(self) -> &'static [&'static str] {
        match self {
            Self::A => &["bulla-a"],
            Self::B => &["bulla-b"],
            Self::Both => &["bulla-a", "bulla-b"],
        }
    }
}

impl FromStr for Group {
    type Err = UnknownGroup;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "a" => Ok(Self::A),
            "b" => Ok(Self::B),
            "both" => Ok(Self::Both),
            other => Err(UnknownGroup(other.to_owned())),
        }
    }
}

/// Neither `a`, `b` nor `both`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown broker group `{0}`: use `a`, `b` or `both`")]
pub struct UnknownGroup(String);
