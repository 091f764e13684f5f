//! The audit log: entries, hash chains, signed heads, verification. Pure.
//!
//! Every process that enforces writes a chain of its own: each entry names the
//! hash of the one before it, and every few seconds the writer signs how far its
//! chain goes. The rules are numbered in SPEC.md (`AUD-1` …).
//!
//! ```text
//! entry 1 ◄── entry 2 ◄── … ◄── head ◄── entry n+1 …      prev = SHA-256(tag ‖ line)
//!                               └─ signature by the writer's message key
//! ```
//!
//! An entry is one line of JSON, and the bytes of the line are what is hashed: an
//! exported log is the very lines that were written, and nothing is encoded anew
//! before it is verified.
//!
//! What is deliberately absent: clocks, I/O, queues (those are bulla-sdk's), and
//! any secrecy: whoever may read the stream reads the entries.
//!
//! ```
//! use bulla_audit::{Chain, Entry, Event, Verifier, Writer};
//! use bulla_identity::UnixMillis;
//!
//! let writer = Writer::broker([7; 8]);
//! let mut chain = Chain::new(writer);
//! let now = UnixMillis::from_secs(1_800_000_000);
//! let first = chain.append(now, &Event::stop())?;
//! let second = chain.append(now, &Event::stop())?;
//!
//! let mut verifier = Verifier::new(None);
//! verifier.entry(second.as_bytes(), None);
//! let report = verifier.finish(true);
//! assert_eq!(report.findings[0].fault.code(), "missing_start");
//! # let _ = (first, Entry::decode(second.as_bytes())?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod chain;
mod entry;
mod event;
mod head;
mod trust;
mod verify;

pub use chain::{Chain, ChainError};
pub use entry::{Entry, EntryError, EntryHash, MAX_ENTRY, Writer, WriterError, WriterKind};
pub use event::{
    BundleInForce, ConnectionEnded, CredentialIssued, Event, Gap, Key, OverQuota, PolicyInForce,
    RevocationsInForce, Sealed, Started, Stopped, TokenMinted, Uses, pseudonym,
};
pub use head::HeadStatement;
pub use trust::{KeyFault, Trust};
pub use verify::{Fault, Finding, Report, Verifier, WriterReport};
