//! What the processes of a workload agree upon: under each name the first value that any
//! of them wrote.
//!
//! It lies beneath the workload's own tag, where nats-server lets nobody else write, and
//! ends by itself. So two processes that do the same thing at once can tell which of them
//! was first, and one can go on where another stopped.

use std::fmt;
use std::time::Duration;

use bulla_identity::reserved;
use bytes::Bytes;

use crate::claims::{ClaimError, ClaimKey, Claims, Shelf};
use crate::client::Client;

/// The most bytes that a value has.
pub const MAX_AGREED: usize = 256;

/// What came of it.
#[derive(Clone, PartialEq, Eq)]
pub enum Agreed {
    /// Nothing was there: now this value is.
    First,
    /// A process of this workload, or this one earlier, wrote this value before.
    Before(Bytes),
}

/// Shows which it was and how long, never the value.
impl fmt::Debug for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("First"),
            Self::Before(value) => f
                .debug_struct("Before")
                .field("len", &value.len())
                .finish_non_exhaustive(),
        }
    }
}

/// Why it is not known what the processes agree upon. What it was for must not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgreeError {
    /// The value is longer than [`MAX_AGREED`].
    #[error("the value has {actual} bytes, {MAX_AGREED} are possible")]
    TooLarge {
        /// Its length in bytes.
        actual: usize,
    },
    /// It would have to be remembered for longer than nats-server does for this workload.
    #[error("it would have to be remembered for too long")]
    TooLong,
    /// Too much is remembered already.
    #[error("too much is remembered already")]
    Full,
    /// No word from the stream that remembers, or none that makes sense. It may have been
    /// remembered all the same.
    #[error("no word from the stream that remembers it")]
    Unreachable,
}

impl AgreeError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "agreement_too_large",
            Self::TooLong => "agreement_too_long",
            Self::Full => "agreements_full",
            Self::Unreachable => "agreement_unreachable",
        }
    }
}

impl From<ClaimError> for AgreeError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Full => Self::Full,
            ClaimError::TooLong => Self::TooLong,
            ClaimError::Unreachable(_)
            | ClaimError::Refused { .. }
            | ClaimError::Malformed
            | ClaimError::Ended => Self::Unreachable,
        }
    }
}

impl Client {
    /// Writes `value` under a name, unless a process of this workload has written one
    /// there; whichever was first stands for `life`, and nobody replaces it.
    ///
    /// `kind` and `parts` are the name; two names of different kinds or parts never meet.
    /// Up to 15 minutes are possible for every workload; longer, up to 31 days, for one
    /// that mints tokens (`mints` in the policy), as an edge does.
    ///
    /// # Security
    /// A value is neither signed nor encrypted: it is as trustworthy as nats-server and
    /// whoever holds its streams. It is no place for secrets.
    ///
    /// # Errors
    /// [`AgreeError`]: nothing is known then.
    pub async fn agree(
        &self,
        kind: &str,
        parts: &[&[u8]],
        value: &[u8],
        life: Duration,
    ) -> Result<Agreed, AgreeError> {
        if value.len() > MAX_AGREED {
            return Err(AgreeError::TooLarge {
                actual: value.len(),
            });
        }
        let key = ClaimKey::of(&format!("agreed:{kind}"), parts);
        let claims = &self.shared().claims;
        agree(claims, shelf_for(life), key, value, life).await
    }

    /// What stands under a name that was written for `life`.
    ///
    /// # Errors
    /// [`AgreeError`]: nothing is known then.
    pub async fn agreed(
        &self,
        kind: &str,
        parts: &[&[u8]],
        life: Duration,
    ) -> Result<Option<Bytes>, AgreeError> {
        let key = ClaimKey::of(&format!("agreed:{kind}"), parts);
        let claims = &self.shared().claims;
        Ok(claims.read(shelf_for(life), key).await?)
    }
}

/// Once more where the first value ended between the two questions.
async fn agree(
    claims: &Claims,
    shelf: Shelf,
    key: ClaimKey,
    value: &[u8],
    life: Duration,
) -> Result<Agreed, AgreeError> {
    for _ in 0..2 {
        if let Some(agreed) = claims.first(shelf, key, value, life).await? {
            return Ok(agreed);
        }
    }
    Err(AgreeError::Unreachable)
}

const fn shelf_for(life: Duration) -> Shelf {
    if life.as_secs() <= SHORT.as_secs() {
        Shelf::Sent
    } else {
        Shelf::Stored
    }
}

/// What lives no longer lies with what is sent and handled soon.
const SHORT: Duration = Duration::from_secs(15 * 60);
const _: () = assert!(SHORT.as_secs() < reserved::CLAIM_LIFE.as_secs());
