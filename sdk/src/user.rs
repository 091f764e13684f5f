//! The user on whose behalf a message was sent.

use std::fmt;
use std::sync::Arc;

use bulla_identity::{Claims, UnixMillis, Verified};
use bulla_token::TransactionToken;

/// A user whose transaction token was verified by this process.
///
/// It carries the token itself, so that what a handler sends on can carry it
/// too; nothing hands the token out.
#[derive(Clone)]
pub struct User(Arc<Inner>);

struct Inner {
    verified: Verified<TransactionToken>,
    token: Box<str>,
}

impl User {
    pub(crate) fn new(verified: Verified<TransactionToken>, token: &str) -> Self {
        Self(Arc::new(Inner {
            verified,
            token: token.into(),
        }))
    }

    /// The user's name, the token's `sub`.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.0.verified.principal()
    }

    /// What conditions of the policy see of the user: `sub`, `scope` and the
    /// facts of the token's `tctx`.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        self.0.verified.policy_claims()
    }

    /// Whether the token carries this scope.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.claims().has_scope(scope)
    }

    /// The id of the call chain that the token was minted for.
    #[must_use]
    pub fn transaction(&self) -> &str {
        self.0.verified.txn()
    }

    /// When the token ends.
    #[must_use]
    pub fn expires(&self) -> UnixMillis {
        self.0.verified.expires()
    }

    pub(crate) fn token(&self) -> &str {
        &self.0.token
    }

    pub(crate) fn is_same_token(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.token == other.0.token
    }

    pub(crate) fn verified(&self) -> &TransactionToken {
        &self.0.verified
    }
}

/// Shows whose token it is, never the token.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("principal", &self.principal())
            .field("expires", &self.expires())
            .finish_non_exhaustive()
    }
}
