//! The user on whose behalf a message was sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{Limits, LimitsError};
use bulla_identity::{Claims, UnixMillis, Verified};
use bulla_token::{SubjectToken, TransactionToken};
use serde::de::DeserializeOwned;

use crate::private_claims::Opened;
use crate::refusal::UserRefusal;

/// A user whose transaction token was verified by this process, under the limits
/// with which the token came.
///
/// What it says is what is left of the token: scopes, reach and claims are the
/// narrowed ones. It carries the token itself, so that what a handler sends on
/// can carry it too, under limits that are at least as narrow; nothing hands the
/// token out.
#[derive(Clone)]
pub struct User {
    token: Arc<Token>,
    narrowed: Option<Arc<Narrowed>>,
}

struct Token {
    verified: Verified<TransactionToken>,
    text: Box<str>,
    private: Opened,
}

/// What limits leave of it.
struct Narrowed {
    limits: Limits,
    /// The limits as an envelope carries them.
    encoded: Box<[u8]>,
    claims: Claims,
}

/// A user without a scope that the work needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the user does not have the scope `{scope}`")]
pub struct MissingScope {
    scope: String,
}

impl MissingScope {
    /// The scope that is missing.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }
}

/// Why a private claim is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrivateClaimError {
    /// It could not be read; perhaps later, if the key could not be had.
    #[error("the user's private claims cannot be read: {reason}")]
    Unreadable {
        /// The reason's stable name.
        reason: &'static str,
    },
    /// It is of another type.
    #[error("the private claim is of another type")]
    Type,
}

impl User {
    pub(crate) fn new(
        verified: Verified<TransactionToken>,
        text: Box<str>,
        private: Opened,
    ) -> Self {
        Self {
            token: Arc::new(Token {
                verified,
                private,
                text,
            }),
            narrowed: None,
        }
    }

    /// The user's name, the token's `sub`.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.token.verified.principal()
    }

    /// What conditions of the policy see of the user: `sub`, `scope` and the
    /// facts of the token's `tctx`, as far as limits leave them.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        match &self.narrowed {
            Some(narrowed) => &narrowed.claims,
            None => self.token.verified.policy_claims(),
        }
    }

    /// The scopes that the user has here.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.claims().scopes()
    }

    /// Whether the user has this scope here.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.claims().has_scope(scope)
    }

    /// Asks for a scope, in a handler that needs more than the policy asked for.
    ///
    /// # Errors
    /// [`MissingScope`], which a handler may answer with as it is: the caller
    /// learns that it is forbidden.
    pub fn require_scope(&self, scope: &str) -> Result<(), MissingScope> {
        if self.has_scope(scope) {
            Ok(())
        } else {
            Err(MissingScope {
                scope: scope.to_owned(),
            })
        }
    }

    /// A claim that the policy calls private, if this workload is one of its readers
    /// and the token says it. None for everybody else. Limits do not touch it, and no
    /// condition of the policy sees it.
    ///
    /// # Errors
    /// [`PrivateClaimError`] if it may be there and could not be read, or is no `T`.
    pub fn private<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, PrivateClaimError> {
        let private = &self.token.private;
        match (private.claims.get(name), private.fault) {
            (Some(value), _) => T::deserialize(value)
                .map(Some)
                .map_err(|_| PrivateClaimError::Type),
            (None, Some(reason)) => Err(PrivateClaimError::Unreadable { reason }),
            (None, None) => Ok(None),
        }
    }

    /// The id of the call chain that the token was minted for.
    #[must_use]
    pub fn transaction(&self) -> &str {
        self.token.verified.txn()
    }

    /// When the user's authority ends: with the token, or where limits end it.
    #[must_use]
    pub fn expires(&self) -> UnixMillis {
        let token = self.token.verified.expires();
        let limits = self.narrowed.as_ref().and_then(|n| n.limits.end());
        limits.map_or(token, |end| end.min(token))
    }

    /// What was taken off the token on its way here, and by [`User::narrowed`].
    #[must_use]
    pub fn limits(&self) -> Limits {
        let narrowed = self.narrowed.as_ref();
        narrowed.map_or_else(Limits::none, |narrowed| narrowed.limits.clone())
    }

    /// The same user with less authority. What was taken away before stays away,
    /// whatever `limits` say.
    ///
    /// # Errors
    /// [`LimitsError::TooLarge`] if all limits together take too much room.
    pub fn narrowed(&self, limits: &Limits) -> Result<Self, LimitsError> {
        let limits = self.limits().and(limits);
        let Some(encoded) = limits.encode()? else {
            return Ok(self.clone());
        };
        let claims = limits.apply(self.token.verified.policy_claims());
        Ok(Self {
            token: Arc::clone(&self.token),
            narrowed: Some(Arc::new(Narrowed {
                limits,
                encoded: encoded.into(),
                claims,
            })),
        })
    }

    /// What an exchange may give a replacement of: what is left of the token.
    #[must_use]
    pub fn as_subject_token(&self) -> SubjectToken<'_> {
        SubjectToken {
            claims: self.claims(),
            txn: self.transaction(),
            principal: self.principal(),
            requester: self.minter(),
            expires: self.expires(),
            private: self.token.verified.private(),
        }
    }

    pub(crate) fn token(&self) -> &str {
        &self.token.text
    }

    /// The limits that go with the token.
    pub(crate) fn encoded_limits(&self) -> Option<&[u8]> {
        self.narrowed.as_ref().map(|narrowed| &*narrowed.encoded)
    }

    /// The workload that minted the token, and begins the chains of calls that it
    /// counts in.
    pub(crate) fn minter(&self) -> &str {
        self.token.verified.requesting_workload()
    }

    /// The user before anything was taken off the token.
    pub(crate) fn whole(&self) -> Self {
        Self {
            token: Arc::clone(&self.token),
            narrowed: None,
        }
    }

    pub(crate) fn has_same_token(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.token, &other.token) || self.token() == other.token()
    }

    /// Whether an envelope says the same of both.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.has_same_token(other) && self.encoded_limits() == other.encoded_limits()
    }

    /// Asks before each use whether it is in its time.
    pub(crate) fn check_times(&self, now: UnixMillis, skew: Duration) -> Result<(), UserRefusal> {
        self.token.verified.check_times(now, skew)?;
        match self.narrowed.as_ref().and_then(|n| n.limits.end()) {
            Some(end) if end.saturating_add(skew) < now => Err(UserRefusal::LimitsEnded),
            _ => Ok(()),
        }
    }
}

/// Shows whose token it is, never the token.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("principal", &self.principal())
            .field("expires", &self.expires())
            .field("is_narrowed", &self.narrowed.is_some())
            .finish_non_exhaustive()
    }
}
