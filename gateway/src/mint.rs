//! From a validated access token to the transaction token that stands for it.

use std::time::Duration;

use bulla_identity::{TrustDomain, UnixMillis, WorkloadId};
use bulla_token::{
    MAX_TRANSACTION_LIFETIME, MintError, MintedToken, TokenSigningKey, TransactionClaims,
};
use serde_json::{Map, Value};

use crate::bus::TokenKey;
use crate::config::{BusConfig, ISSUER_CONTEXT, TransactionConfig};
use crate::identity::Identity;

/// Mints the tokens of this process.
pub(crate) struct Minter {
    key: TokenSigningKey,
    domain: TrustDomain,
    workload: WorkloadId,
    lifetime: Duration,
    claims: Vec<String>,
}

impl Minter {
    pub(crate) fn new(key: TokenSigningKey, bus: &BusConfig, config: &TransactionConfig) -> Self {
        Self {
            key,
            domain: bus.trust_domain.clone(),
            workload: bus.workload.clone(),
            lifetime: config.lifetime.min(MAX_TRANSACTION_LIFETIME),
            claims: config.claims.clone(),
        }
    }

    /// What a token for one request says: the user, what is left of the scopes, the verticals
    /// that the route reaches, the claims that the configuration lists, and who issued
    /// the client's token (`idp`).
    ///
    /// It ends no later than the client's token, whose leeway is granted too, and than
    /// the credential that publishes our key.
    pub(crate) fn claims(
        &self,
        user: &Identity,
        scopes: &[&str],
        reach: Vec<String>,
        key: &TokenKey,
        leeway: Duration,
        now: UnixMillis,
    ) -> TransactionClaims {
        let mut claims = TransactionClaims::new(
            data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>()),
            user.principal(),
            self.workload.as_str(),
        );
        claims.scope = scopes.join(" ");
        claims.reach = reach;
        claims.context = self.context(user);
        claims.issued = now;
        claims.expires = now.saturating_add(self.lifetime).min(key.ends);
        if let Some(ends) = user.ends() {
            claims.expires = claims.expires.min(ends.saturating_add(leeway));
        }
        claims
    }

    /// The token that says it.
    pub(crate) fn mint(
        &self,
        claims: &TransactionClaims,
        key: &TokenKey,
    ) -> Result<MintedToken, MintError> {
        self.key.mint(&key.kid, &self.domain, claims)
    }

    /// What the token says of the user beside his name and scopes.
    pub(crate) fn context(&self, user: &Identity) -> Map<String, Value> {
        let mut context: Map<String, Value> = self
            .claims
            .iter()
            .filter_map(|name| Some((name.clone(), user.claims().get(name)?.clone())))
            .collect();
        context.insert(ISSUER_CONTEXT.to_owned(), user.issuer().into());
        context
    }
}
