//! The user of a request, and the transaction token that stands for him.

use std::time::Duration;

use bulla_identity::{Subject, UnixMillis};
use bulla_process::Zeroizing;
use bulla_sdk::MintedToken;
use http::request::Parts;
use serde_json::{Map, Value};

use crate::api_keys::KeyError;
use crate::authenticate::{AuthError, Scheme, access_token};
use crate::bus::Bus;
use crate::handle::{Known, Peer};
use crate::identity::Identity;
use crate::origin::check_origin;
use crate::possession::Brought;
use crate::problem::Problem;
use crate::refusal::{Refusal, deny, refused_certificate, refused_key, refused_token};
use crate::routes::{Access, Route};
use crate::visit::Visit;
use crate::websocket;

impl<B: Bus> Visit<'_, B> {
    /// The user and the scopes that travel on; none on a public route.
    pub(crate) async fn user(
        &self,
        route: &Route,
        (head, peer): (&Parts, &Peer),
        known: &mut Known,
        now: UnixMillis,
    ) -> Result<Option<User>, Refusal> {
        let Some(rights) = route.access.rights() else {
            return Ok(None);
        };
        let proven = match &route.access {
            Access::Public => return Ok(None),
            Access::Jwt {
                policies,
                carries_original,
                ..
            } => {
                let policies = (&**policies, *carries_original);
                self.bearer(route, (head, peer), policies, now).await?
            }
            Access::Key(_) => self.holder(head, now)?,
            Access::Certificate(_) => self.certified(head, peer, now)?,
        };
        let identity = &proven.identity;
        known.identity = Some(identity.clone());
        if self.edge.bus.is_user_revoked(identity.principal()) {
            return Err(deny(Problem::Forbidden, "user_revoked"));
        }
        let is_revoked = |id| self.edge.bus.is_token_revoked(id);
        if identity.token_id().is_some_and(is_revoked) {
            return Err(deny(Problem::InvalidToken, "token_revoked"));
        }
        let claims = identity.claims();
        if !rights.scopes.iter().all(|scope| claims.has_scope(scope)) {
            let problem = Problem::InsufficientScope(rights.scopes.join(" "));
            return Err(deny(problem, "insufficient_scope"));
        }
        let optional = rights.optional_scopes.iter();
        let kept = rights
            .scopes
            .iter()
            .chain(optional.filter(|s| claims.has_scope(s)))
            .cloned()
            .collect();
        Ok(Some(User {
            scopes: kept,
            ..proven
        }))
    }

    /// Whoever brings an access token.
    async fn bearer(
        &self,
        route: &Route,
        (head, peer): (&Parts, &Peer),
        (policies, carries_original): (&[usize], bool),
        now: UnixMillis,
    ) -> Result<User, Refusal> {
        let refuse = |error: AuthError| deny(refused_token(error), error.code());
        let (scheme, token) = token(route, head).map_err(refuse)?;
        let validated = self
            .loaded
            .authenticator
            .validate(token, policies, now)
            .await
            .map_err(refuse)?;
        let policy = policies
            .iter()
            .filter_map(|p| self.loaded.routes.policies().get(*p))
            .find(|p| p.validator.policy().issuer == validated.issuer());
        let leeway = policy.map_or(Duration::ZERO, |p| p.validator.policy().leeway);
        let brought = Brought {
            scheme,
            token,
            claims: validated.claims(),
            must_be_bound: policy.is_some_and(|p| p.must_be_bound),
        };
        self.check_possession(head, peer, brought, now).await?;
        Ok(User {
            identity: Identity::Token(validated),
            scopes: Vec::new(),
            leeway,
            original: carries_original.then(|| Zeroizing::new(token.to_owned())),
        })
    }

    /// Whoever brings an API key.
    fn holder(&self, head: &Parts, now: UnixMillis) -> Result<User, Refusal> {
        let keys = self.loaded.api_keys.as_ref();
        let found = match keys {
            Some(keys) => keys.user(&head.headers, now),
            None => Err(KeyError::Unavailable),
        };
        let key = found.map_err(|error| deny(refused_key(error), error.code()))?;
        Ok(User {
            identity: Identity::Key(key),
            scopes: Vec::new(),
            leeway: Duration::ZERO,
            original: None,
        })
    }

    /// Whoever showed a certificate that is listed, and no page of another origin.
    fn certified(&self, head: &Parts, peer: &Peer, now: UnixMillis) -> Result<User, Refusal> {
        check_origin(&head.headers, self.loaded)?;
        let clients = &self.loaded.certificates;
        let known = clients.find(peer.certificate.as_ref(), now);
        let known = known.map_err(|error| deny(refused_certificate(error), error.code()))?;
        Ok(User {
            identity: Identity::Certificate(known),
            scopes: Vec::new(),
            leeway: Duration::ZERO,
            original: None,
        })
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
        let reach = route
            .access
            .rights()
            .and_then(|rights| rights.reach.clone());
        let reach = reach.unwrap_or_else(|| bus.audiences(subject));
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
        let (minter, identity) = (&self.edge.minter, &user.identity);
        let mut claims = minter.claims(identity, &scopes, reach, &key, user.leeway, now);
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
fn token<'h>(route: &Route, head: &'h Parts) -> Result<(Scheme, &'h str), AuthError> {
    let is_socket = route.stream.is_some_and(|s| s.websocket) && websocket::is_asked(head);
    let offered = if is_socket {
        websocket::token(&head.headers)?
    } else {
        None
    };
    match (access_token(&head.headers), offered) {
        (Err(AuthError::NoToken), Some(offered))
            if !head.headers.contains_key(http::header::AUTHORIZATION) =>
        {
            Ok((Scheme::Bearer, offered))
        }
        (_, Some(_)) => Err(AuthError::Repeated),
        (brought, None) => brought,
    }
}

/// A transaction token, and what it says openly of its user.
pub(crate) struct Minted {
    pub(crate) token: MintedToken,
    pub(crate) claims: Map<String, Value>,
}

/// Who asks.
pub(crate) struct User {
    pub(crate) identity: Identity,
    pub(crate) scopes: Vec<String>,
    pub(crate) leeway: Duration,
    /// The token itself, where the route hands it on.
    pub(crate) original: Option<Zeroizing<String>>,
}

impl User {
    /// Whether a claim of the token is this text, or a list that has it.
    pub(crate) fn claims(&self, claim: &str, text: &str) -> bool {
        if claim == "sub" {
            return self.identity.principal() == text;
        }
        match self.identity.claims().get(claim) {
            Some(Value::String(said)) => said == text,
            Some(Value::Array(said)) => said.iter().any(|s| s.as_str() == Some(text)),
            _ => false,
        }
    }

    /// The OAuth client that the token was issued to; empty if the token does not say.
    pub(crate) fn client(&self) -> &str {
        let claims = self.identity.claims();
        let named = claims.get("client_id").or_else(|| claims.get("azp"));
        named.and_then(Value::as_str).unwrap_or_default()
    }
}
