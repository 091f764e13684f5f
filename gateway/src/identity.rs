//! Who a client is, however he has proven it.

use std::sync::Arc;

use bulla_identity::{Claims, UnixMillis};
use bulla_token::ValidatedToken;

use crate::api_keys::{self, ApiKey};
use crate::certificates::{self, CertifiedClient};

/// Who a client is.
#[derive(Clone)]
pub(crate) enum Identity {
    /// The user of an access token.
    Token(Arc<ValidatedToken>),
    /// The user of an API key.
    Key(Arc<ApiKey>),
    /// The user of a certificate.
    Certificate(CertifiedClient),
}

impl Identity {
    /// Who says so.
    pub(crate) fn issuer(&self) -> &str {
        match self {
            Self::Token(token) => token.issuer(),
            Self::Key(_) => api_keys::ISSUER,
            Self::Certificate(_) => certificates::ISSUER,
        }
    }

    /// The user's name.
    pub(crate) fn principal(&self) -> &str {
        match self {
            Self::Token(token) => token.principal(),
            Self::Key(key) => &key.user,
            Self::Certificate(known) => &known.client.user,
        }
    }

    /// What is said of him.
    pub(crate) fn claims(&self) -> &Claims {
        match self {
            Self::Token(token) => token.claims(),
            Self::Key(key) => &key.claims,
            Self::Certificate(known) => &known.client.claims,
        }
    }

    /// The id of the token itself; nothing of what has none.
    pub(crate) fn token_id(&self) -> Option<&str> {
        match self {
            Self::Token(token) => token.claims().get("jti")?.as_str(),
            Self::Key(_) | Self::Certificate(_) => None,
        }
    }

    /// When it ends, without leeway; nothing for what does not end by itself.
    pub(crate) fn ends(&self) -> Option<UnixMillis> {
        match self {
            Self::Token(token) => Some(token.expires()),
            Self::Key(key) => key.ends(),
            Self::Certificate(known) => Some(known.ends()),
        }
    }
}
