//! Exchanging a user's token for a narrower one, and starting a chain of calls on
//! a user's behalf: request and response as in [RFC 8693], decided here without a
//! clock and without I/O.
//!
//! The subject token does not stand in the request: it travels as the user of the
//! sealed message, where it has been verified, and narrowed by the limits that it
//! came with. So the asker is proven, the request cannot be replayed, and nobody on
//! the way sees a token.
//!
//! [RFC 8693]: https://www.rfc-editor.org/rfc/rfc8693

use std::fmt;
use std::time::Duration;

use bulla_identity::{Claims, UnixMillis, WorkloadId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::registered::{is_name, is_scope};
use crate::transaction::{MAX_REACH, MAX_TRANSACTION_LIFETIME, TransactionClaims, is_vertical};

/// The `grant_type` of an exchange ([RFC 8693 §2.1]).
///
/// [RFC 8693 §2.1]: https://www.rfc-editor.org/rfc/rfc8693#section-2.1
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// The type of transaction tokens, as subject and as what is issued.
pub const TRANSACTION_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:txn_token";

/// The longest request that is looked at, in bytes.
pub const MAX_EXCHANGE_REQUEST: usize = 16 * 1024;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeRequest {
    grant_type: String,
    requested_token_type: String,
    /// The scopes wanted; without it all that the subject has, and none where a
    /// chain is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// The audiences wanted; without it as for the scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reach: Option<Vec<String>>,
    /// The longest life wanted, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    /// On whose behalf a chain is to be started, where there is no subject token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requested_subject: Option<String>,
}

/// What is given. Not to be compared: a token is in it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeResponse {
    /// The new transaction token.
    pub access_token: String,
    /// [`TRANSACTION_TOKEN_TYPE`].
    pub issued_token_type: String,
    /// `N_A`: it is no bearer token of HTTP.
    pub token_type: String,
    /// How long it lives, in seconds.
    pub expires_in: u64,
    /// Its scopes.
    pub scope: String,
}

/// Why there is no new token. [`ExchangeFault::error`] is what the asker learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeFault {
    /// Longer than [`MAX_EXCHANGE_REQUEST`].
    #[error("a request of {actual} bytes where at most {limit} are allowed")]
    TooLarge {
        /// [`MAX_EXCHANGE_REQUEST`].
        limit: usize,
        /// What came.
        actual: usize,
    },
    /// Not the JSON object that belongs here.
    #[error("the request is malformed")]
    Malformed,
    /// Another grant type than [`TOKEN_EXCHANGE`].
    #[error("another grant type")]
    GrantType,
    /// Another token type than [`TRANSACTION_TOKEN_TYPE`].
    #[error("another token type")]
    TokenType,
    /// A scope that is none, or an audience, a name or a life that cannot be.
    #[error("the request's `{0}` cannot be")]
    BadMember(&'static str),
    /// A subject token and a requested subject, or neither.
    #[error("either a subject token or the user on whose behalf a chain is started")]
    Subject,
    /// The subject token has expired, or ends within a second.
    #[error("the subject token has expired")]
    Expired,
    /// A scope that the subject token does not have.
    #[error("a scope beyond the subject token's")]
    ScopeBeyondSubject,
    /// An audience that the subject token does not reach.
    #[error("an audience beyond the subject token's")]
    ReachBeyondSubject,
    /// The policy does not let the asker start a chain for this user.
    #[error("the asker may not start a chain on this user's behalf")]
    MayNotStart,
    /// A scope beyond the asker's grant.
    #[error("a scope beyond what the asker may start with")]
    ScopeBeyondGrant,
    /// An audience beyond the asker's grant.
    #[error("an audience beyond what the asker may start with")]
    ReachBeyondGrant,
}

impl ExchangeFault {
    /// A short stable name for logs and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "exchange_too_large",
            Self::Malformed => "exchange_malformed",
            Self::GrantType => "exchange_grant_type",
            Self::TokenType => "exchange_token_type",
            Self::BadMember(_) => "exchange_bad_member",
            Self::Subject => "exchange_subject",
            Self::Expired => "exchange_subject_expired",
            Self::ScopeBeyondSubject => "exchange_scope_beyond_subject",
            Self::ReachBeyondSubject => "exchange_reach_beyond_subject",
            Self::MayNotStart => "exchange_may_not_start",
            Self::ScopeBeyondGrant => "exchange_scope_beyond_grant",
            Self::ReachBeyondGrant => "exchange_reach_beyond_grant",
        }
    }

    /// The error of [RFC 8693 §2.2.2] and [RFC 6749 §5.2]: all that the asker learns.
    ///
    /// [RFC 8693 §2.2.2]: https://www.rfc-editor.org/rfc/rfc8693#section-2.2.2
    /// [RFC 6749 §5.2]: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
    #[must_use]
    pub const fn error(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } | Self::Malformed | Self::BadMember(_) | Self::Subject => {
                "invalid_request"
            }
            Self::GrantType => "unsupported_grant_type",
            Self::TokenType => "unsupported_token_type",
            Self::Expired => "invalid_grant",
            Self::ScopeBeyondSubject | Self::ScopeBeyondGrant => "invalid_scope",
            Self::ReachBeyondSubject | Self::ReachBeyondGrant => "invalid_target",
            Self::MayNotStart => "unauthorized_client",
        }
    }
}

/// The user of the message that asks: what is left of the token after its limits.
#[derive(Clone, Copy)]
pub struct SubjectToken<'a> {
    /// The claims that policies see, narrowed.
    pub claims: &'a Claims,
    /// The id of its call chain, which the new token keeps.
    pub txn: &'a str,
    /// The user.
    pub principal: &'a str,
    /// The workload that the token was minted for, with whose messages its chains
    /// of calls begin. The new token keeps that too: it is nobody else's to begin
    /// one.
    pub requester: &'a str,
    /// When its authority ends.
    pub expires: UnixMillis,
    /// The encrypted claims in it, which the new token keeps.
    pub private: Option<&'a Value>,
}

/// Shows whose chain it is, never what is said of the user.
impl fmt::Debug for SubjectToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectToken")
            .field("txn", &self.txn)
            .field("requester", &self.requester)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What the policy lets a workload start a chain with.
#[derive(Debug, Clone, Copy)]
pub struct StartGrant<'a> {
    /// The scopes at most.
    pub scopes: &'a [&'a str],
    /// The audiences at most.
    pub reach: &'a [&'a str],
    /// Facts that every such user has.
    pub claims: &'a Map<String, Value>,
}

/// When a token may be minted, and until when it may live at most.
#[derive(Debug, Clone, Copy)]
pub struct MintTimes {
    /// The time.
    pub now: UnixMillis,
    /// The end of the credential that it is minted under.
    pub key_ends: UnixMillis,
}

impl ExchangeRequest {
    /// Asks for a token in the place of the message's user's.
    #[must_use]
    pub fn narrower() -> Self {
        Self {
            grant_type: TOKEN_EXCHANGE.to_owned(),
            requested_token_type: TRANSACTION_TOKEN_TYPE.to_owned(),
            scope: None,
            reach: None,
            expires_in: None,
            requested_subject: None,
        }
    }

    /// Asks for a token with which a chain of calls starts on a user's behalf.
    #[must_use]
    pub fn on_behalf_of(user: impl Into<String>) -> Self {
        Self {
            requested_subject: Some(user.into()),
            ..Self::narrower()
        }
    }

    /// Asks for these scopes and no others.
    #[must_use]
    pub fn scopes<S: AsRef<str>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        let scopes: Vec<_> = scopes.into_iter().map(|s| s.as_ref().to_owned()).collect();
        self.scope = Some(scopes.join(" "));
        self
    }

    /// Asks for these audiences and no others.
    #[must_use]
    pub fn reach<S: AsRef<str>>(mut self, reach: impl IntoIterator<Item = S>) -> Self {
        self.reach = Some(reach.into_iter().map(|s| s.as_ref().to_owned()).collect());
        self
    }

    /// Asks for a life of so many seconds at most.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.expires_in = Some(lifetime.as_secs());
        self
    }

    /// On whose behalf a chain is to be started, if one is.
    #[must_use]
    pub fn requested_subject(&self) -> Option<&str> {
        self.requested_subject.as_deref()
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`ExchangeFault`] names the first thing that does not fit.
    pub fn parse(body: &[u8]) -> Result<Self, ExchangeFault> {
        if body.len() > MAX_EXCHANGE_REQUEST {
            return Err(ExchangeFault::TooLarge {
                limit: MAX_EXCHANGE_REQUEST,
                actual: body.len(),
            });
        }
        let request: Self = serde_json::from_slice(body).map_err(|_| ExchangeFault::Malformed)?;
        if request.grant_type != TOKEN_EXCHANGE {
            return Err(ExchangeFault::GrantType);
        }
        if request.requested_token_type != TRANSACTION_TOKEN_TYPE {
            return Err(ExchangeFault::TokenType);
        }
        if !request.scope.as_deref().is_none_or(is_scope) {
            return Err(ExchangeFault::BadMember("scope"));
        }
        let reach = request.reach.iter().flatten();
        if reach.clone().count() > MAX_REACH || !reach.clone().all(|name| is_vertical(name)) {
            return Err(ExchangeFault::BadMember("reach"));
        }
        if request.expires_in == Some(0) {
            return Err(ExchangeFault::BadMember("expires_in"));
        }
        if !request.requested_subject.as_deref().is_none_or(is_name) {
            return Err(ExchangeFault::BadMember("requested_subject"));
        }
        Ok(request)
    }

    /// The request's body.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut out = json!({
            "grant_type": self.grant_type,
            "requested_token_type": self.requested_token_type,
        });
        for (name, value) in [
            ("scope", self.scope.clone().map(Value::from)),
            ("reach", self.reach.clone().map(Value::from)),
            ("expires_in", self.expires_in.map(Value::from)),
            (
                "requested_subject",
                self.requested_subject.clone().map(Value::from),
            ),
        ] {
            if let (Some(value), Some(map)) = (value, out.as_object_mut()) {
                map.insert(name.to_owned(), value);
            }
        }
        out
    }

    /// What a token says that takes the place of `subject`: nothing that it does
    /// not say, for no longer. That `asker` asked for it is on its record (`rctx`).
    ///
    /// # Security
    /// The new token keeps `txn` and `sub`, so that what revokes the old one revokes
    /// it too, and `req_wl`, so that the asker cannot begin a chain of calls with it.
    ///
    /// # Errors
    /// [`ExchangeFault`]; something beyond the subject token is refused, never
    /// left out in silence.
    pub fn replace(
        &self,
        subject: &SubjectToken<'_>,
        asker: &WorkloadId,
        times: MintTimes,
    ) -> Result<TransactionClaims, ExchangeFault> {
        if self.requested_subject.is_some() {
            return Err(ExchangeFault::Subject);
        }
        let had = subject.claims;
        let scope: Vec<&str> = match &self.scope {
            None => had.scopes().collect(),
            Some(wanted) => words(wanted).collect(),
        };
        if !scope.iter().all(|scope| had.has_scope(scope)) {
            return Err(ExchangeFault::ScopeBeyondSubject);
        }
        let reach: Vec<&str> = match &self.reach {
            None => had.reach().collect(),
            Some(wanted) => wanted.iter().map(String::as_str).collect(),
        };
        if !reach.iter().all(|name| had.reaches(name)) {
            return Err(ExchangeFault::ReachBeyondSubject);
        }
        let mut claims = TransactionClaims::new(subject.txn, subject.principal, subject.requester);
        claims
            .request_context
            .insert("exchanged_by".to_owned(), asker.as_str().into());
        claims.scope = scope.join(" ");
        claims.reach = reach.into_iter().map(str::to_owned).collect();
        claims.context = had
            .as_map()
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "sub" | "scope" | "reach"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        claims.private = subject.private.cloned();
        self.set_times(&mut claims, subject.expires, times)?;
        Ok(claims)
    }

    /// What a token says with which `asker` starts a chain on a user's behalf.
    /// `txn` is the id of the new chain.
    ///
    /// # Errors
    /// [`ExchangeFault`].
    pub fn start(
        &self,
        grant: &StartGrant<'_>,
        asker: &WorkloadId,
        txn: &str,
        times: MintTimes,
    ) -> Result<TransactionClaims, ExchangeFault> {
        let user = self.requested_subject().ok_or(ExchangeFault::Subject)?;
        let scope: Vec<&str> = self
            .scope
            .as_deref()
            .map(words)
            .into_iter()
            .flatten()
            .collect();
        if !scope.iter().all(|scope| grant.scopes.contains(scope)) {
            return Err(ExchangeFault::ScopeBeyondGrant);
        }
        let reach = self.reach.clone().unwrap_or_default();
        if !reach
            .iter()
            .all(|name| grant.reach.contains(&name.as_str()))
        {
            return Err(ExchangeFault::ReachBeyondGrant);
        }
        let mut claims = TransactionClaims::new(txn, user, asker.as_str());
        claims.scope = scope.join(" ");
        claims.reach = reach;
        claims.context = grant.claims.clone();
        self.set_times(&mut claims, times.key_ends, times)?;
        Ok(claims)
    }

    fn set_times(
        &self,
        claims: &mut TransactionClaims,
        ends: UnixMillis,
        times: MintTimes,
    ) -> Result<(), ExchangeFault> {
        let longest = MAX_TRANSACTION_LIFETIME;
        let life = self
            .expires_in
            .map_or(longest, Duration::from_secs)
            .min(longest);
        claims.issued = times.now;
        claims.expires = times.now.saturating_add(life).min(ends).min(times.key_ends);
        // No skew: what has ended is not given a new life.
        if claims.expires.as_secs() <= claims.issued.as_secs() {
            return Err(ExchangeFault::Expired);
        }
        Ok(())
    }
}

impl ExchangeResponse {
    /// The response with a token that was minted of these claims.
    #[must_use]
    pub fn new(token: String, claims: &TransactionClaims) -> Self {
        Self {
            access_token: token,
            issued_token_type: TRANSACTION_TOKEN_TYPE.to_owned(),
            token_type: "N_A".to_owned(),
            expires_in: claims
                .expires
                .as_secs()
                .saturating_sub(claims.issued.as_secs()),
            scope: claims.scope.clone(),
        }
    }
}

/// Shows what was given, not the token.
impl fmt::Debug for ExchangeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeResponse")
            .field("scope", &self.scope)
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

fn words(scope: &str) -> impl Iterator<Item = &str> {
    scope.split(' ').filter(|word| !word.is_empty())
}
