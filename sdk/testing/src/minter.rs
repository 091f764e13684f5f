//! A workload that mints users' tokens, as the edge does.

use std::time::Duration;

use bulla_sdk::{Client, ConnectOptions};
use bulla_token::{TokenSigningKey, TransactionClaims, mint_transaction_token};

use crate::{Bus, now};

/// A client of a workload that the policy lets mint (`mints = true`), with the key
/// that it mints with: in the place of the gateway, where a test has none.
#[derive(Debug)]
pub struct Minter {
    /// The client.
    pub client: Client,
    /// The token key, whose public half the client's credential carries.
    pub key: TokenSigningKey,
}

impl Minter {
    /// Connects `workload`.
    pub async fn connect(bus: &Bus, workload: &str) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("random bytes");
        Self::connect_with(bus.connect_options(workload), seed).await
    }

    /// The same with options and a seed of its own.
    pub async fn connect_with(options: ConnectOptions, seed: [u8; 32]) -> Self {
        let options = options.token_key(&seed);
        Self {
            client: Client::connect(options).await.expect("a client"),
            key: TokenSigningKey::from_seed(seed),
        }
    }

    /// A token of a user for a minute: his scopes, with blanks between them, and the
    /// verticals that he reaches.
    #[must_use]
    pub fn token(&self, user: &str, scope: &str, reach: &[&str]) -> String {
        self.token_with(user, |claims| {
            claims.scope = scope.to_owned();
            claims.reach = reach.iter().map(|name| (*name).to_owned()).collect();
        })
    }

    /// A token that says whatever `change` makes of it.
    #[must_use]
    pub fn token_with(&self, user: &str, change: impl FnOnce(&mut TransactionClaims)) -> String {
        let mut claims = TransactionClaims::new("txn-1", user, self.client.workload().as_str());
        claims.issued = now();
        claims.expires = now().saturating_add(Duration::from_secs(60));
        change(&mut claims);
        let policy = self.client.policy();
        let kid = self.client.signing_key().0.to_hex();
        mint_transaction_token(&self.key, &kid, policy.policy().trust_domain(), &claims)
            .expect("sound claims")
    }
}
