//! The user of a request, and the transaction token that stands for him.

use std::sync::Arc;
use std::time::Duration;

use bulla_identity::{Subject, UnixMillis};
use bulla_process::Zeroizing;
use bulla_token::ValidatedToken;
use http::request::Parts;
use serde_json::{Map, Value};

use crate::authenticate::{AuthError, bearer};
use crate::bus::Bus;
use crate::handle::Known;
use crate::problem::Problem;
use crate::refusal::{Refusal, deny, refused_token};
use crate::routes::{Access, Route};
use crate::visit::Visit;
use crate::websocket;

impl<B: Bus> Visit<'_, B> {
    /// The user and the scopes that travel on; none on a public route.
    pub(crate) async fn user(
        &self,
        route: &Route,
        head: &Parts,
        known: &mut Known,
        now: UnixMillis,
    ) -> Result<Option<User>, Refusal> {
        let (policies, scopes, optional_scopes, carries_original) = match &route.access {
            Access::Public => return Ok(None),
            Access::Jwt {
                policies,
                scopes,
                optional_scopes,
                carries_original,
                ..
            } => (policies, scopes, optional_scopes, *carries_original),
        };
        let refuse = |error: AuthError| deny(refused_token(error), error.code());
        let token = token(route, head).map_err(refuse)?;
        let validated = self
            .loaded
            .authenticator
            .validate(token, policies, now)
            .await
            .map_err(refuse)?;
        validated.principal().clone_into(&mut known.user);
        validated.issuer().clone_into(&mut known.issuer);
        if self.edge.bus.is_user_revoked(validated.principal()) {
            return Err(deny(Problem::Forbidden, "user_revoked"));
        }
        let claims = validated.claims();
        if !scopes.iter().all(|scope| claims.has_scope(scope)) {
            let problem = Problem::InsufficientScope(scopes.join(" "));
            return Err(deny(problem, "insufficient_scope"));
        }
        let kept = scopes
            .iter()
            .chain(optional_scopes.iter().filter(|s| claims.has_scope(s)))
            .cloned()
            .collect();
        let leeway = policies
            .iter()
            .filter_map(|p| self.loaded.routes.policies().get(*p))
            .map(|p| p.validator.policy())
            .find(|p| p.issuer == validated.issuer())
            .map_or(Duration::ZERO, |p| p.leeway);
        Ok(Some(User {
            validated,
            scopes: kept,
            leeway,
            original: carries_original.then(|| Zeroizing::new(token.to_owned())),
        }))
    }

    /// The token that travels instead of the client's; none on a public route.
    pub(crate) async fn mint(
        &self,
        route: &Route,
        subject: &Subject,
        user: Option<&User>,
        now: UnixMillis,
    ) -> Result<Option<Minted>, Refusal> {
        let Some(user) = user else { return Ok(None) };
        let bus = &self.edge.bus;
        let reach = match &route.access {
            Access::Jwt {
                reach: Some(reach), ..
            } => reach.clone(),
            Access::Jwt { reach: None, .. } | Access::Public => bus.audiences(subject),
        };
        let key = bus.token_key().ok_or(Problem::Unavailable)?;
        let scopes: Vec<&str> = user.scopes.iter().map(String::as_str).collect();
        let refuse = |error| match error {
            // The client's token ends within a second.
            bulla_token::MintError::Lifetime { .. } => deny(Problem::InvalidToken, "token_expired"),
            bulla_token::MintError::BadClaim(_)
            | bulla_token::MintError::ReservedContextName
            | bulla_token::MintError::TooLarge { .. } => {
                tracing::warn!(%error, "no transaction token for a valid access token");
                deny(Problem::Forbidden, "cannot_mint")
            }
        };
        let (minter, validated) = (&self.edge.minter, &user.validated);
        let mut claims = minter
            .claims(validated, &scopes, reach, &key, user.leeway, now)
            .map_err(refuse)?;
        let hidden = bus.hide_claims(&claims.txn, &claims.principal, &mut claims.context);
        claims.private = hidden.await?;
        let token = minter.mint(&claims, &key).map_err(refuse)?;
        Ok(Some(Minted {
            token,
            claims: claims.context,
        }))
    }
}

/// The client's token: in `Authorization`, or where a browser cannot set that, among the
/// protocols of a WebSocket.
fn token<'h>(route: &Route, head: &'h Parts) -> Result<&'h str, AuthError> {
    let is_socket = route.stream.is_some_and(|s| s.websocket) && websocket::is_asked(&head.headers);
    let offered = if is_socket {
        websocket::token(&head.headers)?
    } else {
        None
    };
    match (bearer(&head.headers), offered) {
        (Err(AuthError::NoToken), Some(offered))
            if !head.headers.contains_key(http::header::AUTHORIZATION) =>
        {
            Ok(offered)
        }
        (_, Some(_)) => Err(AuthError::Repeated),
        (bearer, None) => bearer,
    }
}

/// A transaction token, and what it says openly of its user.
pub(crate) struct Minted {
    pub(crate) token: String,
    pub(crate) claims: Map<String, Value>,
}

/// Who asks.
pub(crate) struct User {
    pub(crate) validated: Arc<ValidatedToken>,
    pub(crate) scopes: Vec<String>,
    pub(crate) leeway: Duration,
    /// The token itself, where the route hands it on.
    pub(crate) original: Option<Zeroizing<String>>,
}

impl User {
    /// Whether a claim of the token is this text, or a list that has it.
    pub(crate) fn claims(&self, claim: &str, text: &str) -> bool {
        if claim == "sub" {
            return self.validated.principal() == text;
        }
        match self.validated.claims().get(claim) {
            Some(Value::String(said)) => said == text,
            Some(Value::Array(said)) => said.iter().any(|s| s.as_str() == Some(text)),
            _ => false,
        }
    }

    /// The OAuth client that the token was issued to; empty if the token does not say.
    pub(crate) fn client(&self) -> &str {
        let claims = self.validated.claims();
        let named = claims.get("client_id").or_else(|| claims.get("azp"));
        named.and_then(Value::as_str).unwrap_or_default()
    }
}
