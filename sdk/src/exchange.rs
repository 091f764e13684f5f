//! Exchanging the user's token for a narrower one, and starting a chain of calls
//! on a user's behalf.

use std::time::Duration;

use bulla_identity::reserved;
use bulla_token::{ExchangeRequest, ExchangeResponse, TRANSACTION_TOKEN_TYPE};

use crate::client::Client;
use crate::clock;
use crate::context::Context;
use crate::error::RequestError;
use crate::user::User;

/// What to ask the broker for; [`Client::exchange`] asks.
#[derive(Debug, Clone)]
pub struct Exchange {
    request: ExchangeRequest,
    user: Option<User>,
}

impl Exchange {
    /// A token in the place of the user's on whose behalf this code runs: with no
    /// more scopes, reach and time. Whoever gets it has nothing to widen, unlike
    /// somebody who gets the whole token under limits. It counts in no proven chain
    /// of calls: those go by the token that they began with.
    #[must_use]
    pub fn narrower() -> Self {
        Self {
            request: ExchangeRequest::narrower(),
            user: None,
        }
    }

    /// A token for a chain of calls that starts here, on behalf of a user who is
    /// not there: for jobs. The policy says for whom, and with what, this workload
    /// may. It has no scope and reaches nothing unless that is asked for.
    #[must_use]
    pub fn on_behalf_of(user: impl Into<String>) -> Self {
        Self {
            request: ExchangeRequest::on_behalf_of(user),
            user: None,
        }
    }

    /// The token of this user in place of the running handler's.
    #[must_use]
    pub fn of(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// These scopes and no others. One that the user does not have is refused.
    #[must_use]
    pub fn scopes<S: AsRef<str>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.request = self.request.scopes(scopes);
        self
    }

    /// These audiences and no others. One that the token does not reach is refused.
    #[must_use]
    pub fn reach<S: AsRef<str>>(mut self, reach: impl IntoIterator<Item = S>) -> Self {
        self.request = self.request.reach(reach);
        self
    }

    /// For so long at most, in whole seconds; five minutes where nothing is said.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.request = self.request.lifetime(lifetime);
        self
    }
}

/// Why there is no new token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// There is no user whose token could be exchanged.
    #[error("no user: run it in the context of a message, or name the user")]
    NoUser,
    /// The broker could not be asked, or refused. What it refused is named by the
    /// words of [RFC 8693]: `invalid_scope`, `invalid_target`, `invalid_grant`,
    /// `unauthorized_client`, `invalid_request`.
    ///
    /// [RFC 8693]: https://www.rfc-editor.org/rfc/rfc8693
    #[error("the exchange was refused, or nobody offers it")]
    Request(#[from] RequestError),
    /// The answer is not what was asked for.
    #[error("the broker's answer is not the token that was asked for")]
    Answer,
    /// The new token does not verify.
    #[error("the new token is refused: {reason}")]
    Token {
        /// The reason's stable name.
        reason: &'static str,
    },
}

impl ExchangeError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoUser => "exchange_no_user",
            Self::Request(_) => "exchange_request",
            Self::Answer => "exchange_answer",
            Self::Token { reason } => reason,
        }
    }
}

impl Client {
    /// Asks the broker for another token of a user. The request is sealed: the
    /// token is encrypted on the way, the asker proven, and nobody can ask again
    /// with what was recorded.
    ///
    /// ```no_run
    /// # use bulla_sdk::{Client, Exchange};
    /// # async fn handler(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// // For a partner's service: it may read, and has nothing else to spend.
    /// let reader = client
    ///     .exchange(Exchange::narrower().scopes(["orders:read"]).reach(["partner"]))
    ///     .await?;
    /// client.message("partner.import").user(reader).request().await?;
    ///
    /// // A job that no request started.
    /// let job = Exchange::on_behalf_of("batch:nightly").scopes(["reports:write"]);
    /// let context = bulla_sdk::Context::default().with_user(client.exchange(job).await?);
    /// # drop(context);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn exchange(&self, exchange: Exchange) -> Result<User, ExchangeError> {
        let Exchange { request, user } = exchange;
        let subject = match request.requested_subject() {
            Some(_) => None,
            None => user.or_else(|| Context::current().user().cloned()),
        };
        let message = self.message(reserved::EXCHANGE).json(&request.to_json());
        let message = match (&subject, request.requested_subject()) {
            (Some(user), _) => message.user(user.clone()),
            (None, Some(_)) => message.without_user(),
            (None, None) => return Err(ExchangeError::NoUser),
        };
        let response = message.request().await?;
        let response: ExchangeResponse = response.decode().map_err(|_| ExchangeError::Answer)?;
        if response.issued_token_type != TRANSACTION_TOKEN_TYPE {
            return Err(ExchangeError::Answer);
        }
        let shared = self.shared();
        let verified = shared
            .users
            .verify(&shared.control, &response.access_token, clock::now())
            .await;
        let given = verified.map_err(|refusal| ExchangeError::Token {
            reason: refusal.code(),
        })?;
        let principal = match (&subject, request.requested_subject()) {
            (Some(user), _) => user.principal(),
            (None, wanted) => wanted.unwrap_or_default(),
        };
        // Only a chain that starts here begins with us.
        let begins = subject
            .as_ref()
            .map_or(self.workload().as_str(), User::minter);
        let is_ours = given.minter() == begins;
        // The broker says so too; a token that says more is none that we want.
        let is_narrower = subject.as_ref().is_none_or(|had| {
            given.scopes().all(|scope| had.has_scope(scope))
                && given
                    .claims()
                    .reach()
                    .all(|name| had.claims().reaches(name))
                && given.expires() <= had.expires()
                && given.transaction() == had.transaction()
        });
        if is_ours && is_narrower && given.principal() == principal {
            Ok(given)
        } else {
            Err(ExchangeError::Answer)
        }
    }
}
