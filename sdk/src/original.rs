//! The token that the user's client itself sent, handed on by the edge where a
//! route says `carry = "original"` (ENV-114).
//!
//! It is no authority on the bus: decisions go by the transaction token alone. It
//! travels encrypted beside that token, never in it, from the workload that minted
//! the transaction token to those that may receive the message, and no further by
//! itself.

use std::fmt;

use bulla_envelope::OpenedEnvelope;
use bulla_identity::WorkloadId;
use bulla_keyring::constant_time_eq;
use bulla_policy::{Protect, Requirements};
use zeroize::Zeroizing;

use crate::refusal::UserRefusal;
use crate::user::User;

/// The user's client's own token, as it came to the edge. Never printed.
#[derive(Clone)]
pub struct OriginalToken(Zeroizing<String>);

impl OriginalToken {
    pub(crate) fn new(token: String) -> Self {
        Self(Zeroizing::new(token))
    }

    /// The token itself, for a call to the outside that needs it.
    ///
    /// # Security
    /// Whoever holds it can do, outside this bus, all that the client can.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// In a time that tells nothing of where two differ.
impl PartialEq for OriginalToken {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl Eq for OriginalToken {}

impl fmt::Debug for OriginalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OriginalToken(..)")
    }
}

/// Whether messages of such a subject may carry one: only where it is encrypted,
/// with the transaction token.
pub(crate) fn may_travel(requirements: &Requirements) -> bool {
    requirements.protect == Protect::Encrypted && !requirements.open_token
}

/// The one that a message carries.
pub(crate) fn of_message(
    opened: &OpenedEnvelope,
    requirements: &Requirements,
    user: Option<&User>,
    sender: &WorkloadId,
) -> Result<Option<OriginalToken>, UserRefusal> {
    let Some(original) = opened.original_token() else {
        return Ok(None);
    };
    if !may_travel(requirements) {
        return Err(UserRefusal::OriginalNotAllowed);
    }
    // Nobody else has seen it together with the user.
    if user.is_none_or(|user| user.minter() != sender.as_str()) {
        return Err(UserRefusal::OriginalForeign);
    }
    let text = std::str::from_utf8(&original).map_err(|_| UserRefusal::NotText)?;
    Ok(Some(OriginalToken::new(text.to_owned())))
}
