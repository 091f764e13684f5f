//! Names and proofs that every other crate of Bulla speaks in.
//!
//! Pure: no clock, no randomness, no I/O. What is parsed here stays valid: each
//! type has private fields and one strict parser, so code further in never has
//! to ask again whether a subject is literal or a workload name is well formed.
//!
//! ```text
//! TrustDomain ── WorkloadName          spiffe://acme.example/orders
//!        └──────────┴────► WorkloadId ──► WorkloadTag ──► inbox space, broker subjects
//! Subject  (literal)   ◄── matched by ── SubjectPattern (`*`, `>`, `{capture}`)
//! ```
//!
//! What is deliberately absent: policy decisions (bulla-policy), any key
//! material (bulla-keyring; [`Nkey`] is a public key's name only) and any
//! parsing of tokens (bulla-token).
//!
//! ```
//! use bulla_identity::{Subject, SubjectPattern, TrustDomain, WorkloadId, WorkloadName};
//!
//! let domain = TrustDomain::parse("acme.example")?;
//! let orders = WorkloadId::new(&domain, &WorkloadName::parse("orders")?);
//! assert_eq!(orders.as_str(), "spiffe://acme.example/orders");
//!
//! let pattern = SubjectPattern::parse("orders.{tenant}.create")?;
//! let subject = Subject::parse("orders.acme.create")?;
//! assert_eq!(pattern.captures(&subject), Some(vec![("tenant", "acme")]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod claims;
mod nkey;
mod pattern;
pub mod reserved;
mod subject;
mod time;
mod verified;
mod workload;

pub use claims::{Claims, is_reserved_claim};
pub use nkey::{Nkey, NkeyError, NkeyKind};
pub use pattern::{PatternError, PatternToken, SubjectPattern};
pub use subject::{MAX_SUBJECT_LEN, Subject, SubjectError};
pub use time::UnixMillis;
pub use verified::Verified;
pub use workload::{IdentityError, TrustDomain, WorkloadId, WorkloadName, WorkloadTag};
