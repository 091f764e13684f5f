//! A workload that mints users' tokens, as the edge does.

use std::time::Duration;

use bulla_keyring::SigningKey;
use bulla_sdk::{Client, ConnectOptions};
use bulla_token::{TokenSigningKey, TransactionClaims, mint_transaction_token};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use crate::{Bus, Cable, now, signing_input};

/// A client with a token key, and what it mints with it.
#[derive(Debug)]
pub struct Minter {
    /// The client.
    pub client: Client,
    /// The token key, whose public half the client's credential carries.
    pub key: TokenSigningKey,
    signer: SigningKey,
}

impl Minter {
    /// Connects `workload`, which the policy lets mint.
    pub async fn connect(bus: &Bus, workload: &str) -> Self {
        Self::connect_with(bus.connect_options(workload)).await
    }

    /// The same through a cable.
    pub async fn connect_behind(bus: &Bus, workload: &str, cable: &Cable) -> Self {
        Self::connect_with(bus.connect_options_behind(cable, workload)).await
    }

    async fn connect_with(options: ConnectOptions) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("random bytes");
        let options = options.token_key(&seed);
        Self {
            client: Client::connect(options).await.expect("a client"),
            signer: SigningKey::from_seed(&seed),
            key: TokenSigningKey::from_seed(seed),
        }
    }

    /// A token of a user for a minute.
    #[must_use]
    pub fn token(&self, user: &str, scope: &str, reach: &[&str]) -> String {
        self.token_with(user, |claims| {
            claims.scope = scope.to_owned();
            claims.reach = reach.iter().map(|name| (*name).to_owned()).collect();
        })
    }

    /// Whatever header and claims, signed by the token key as a JWS is.
    #[must_use]
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let input = signing_input(header, claims);
        let signature = self.signer.sign_text(&input);
        format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_bytes()))
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
