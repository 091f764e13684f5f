//! Revocation on a real bus: of workloads, credentials, users and tokens; how soon
//! everybody obeys, and that nobody forgets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod encrypted;
mod fleet;
mod kinds;
mod lasting;
mod stored;

use std::time::Duration;

use bulla_sdk::Client;
use bulla_tests::{Bus, now};
use bulla_token::{TokenSigningKey, TransactionClaims, mint_transaction_token};

pub(crate) const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.front]
attest = [{ nkey = "@front@" }]
[workload.back]
attest = [{ nkey = "@back@" }]
[workload.late]
attest = [{ nkey = "@late@" }]
# Delivers what others have sealed: whoever runs nats-server could.
[workload.courier]
attest = [{ nkey = "@courier@" }]
# May answer where `back` does, and never does.
[workload.mirror]
attest = [{ nkey = "@mirror@" }]

[subject."secret.>"]
protect = "encrypted"
[stream.ORDERS]
subjects = ["orders.>"]
[subject."orders.>"]
replay = "stream"
max_age = "1h"

[[allow]]
id = "front-speaks"
who = ["front", "courier"]
may = ["publish"]
on = ["news.told", "secret.told"]
[[allow]]
id = "all-ask"
who = ["front", "edge", "courier"]
may = ["request"]
on = ["back.echo"]
[[allow]]
id = "back-answers"
who = ["back", "mirror"]
may = ["serve"]
on = ["back.echo"]
[[allow]]
id = "back-tells"
who = ["back"]
may = ["publish"]
on = ["back.said"]
[[allow]]
id = "listeners"
who = ["back", "late"]
may = ["subscribe"]
on = ["news.told", "secret.told"]
[[allow]]
id = "appends"
who = ["front"]
may = ["append"]
on = ["orders.{id}"]
[[allow]]
id = "consumes"
who = ["back"]
may = ["consume"]
on = ["ORDERS.back"]
"#;

/// Waits for something that other tasks bring about.
#[track_caller]
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let end = tokio::time::Instant::now() + Duration::from_secs(8);
        while !holds() {
            assert!(tokio::time::Instant::now() < end, "not: {at}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What the edge does for a user: a token under its own key, and its client.
pub(crate) struct Edge {
    pub(crate) client: Client,
    key: TokenSigningKey,
}

impl Edge {
    pub(crate) async fn connect(bus: &Bus) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let options = bus.connect_options("edge").token_key(&seed);
        Self {
            client: Client::connect(options).await.unwrap(),
            key: TokenSigningKey::from_seed(seed),
        }
    }

    pub(crate) fn token(&self, user: &str, txn: &str) -> String {
        let mut claims = TransactionClaims::new(txn, user, self.client.workload().as_str());
        claims.issued = now();
        claims.expires = now().saturating_add(Duration::from_secs(60));
        let policy = self.client.policy();
        let domain = policy.policy().trust_domain().clone();
        let kid = self.client.signing_key().0.to_hex();
        mint_transaction_token(&self.key, &kid, &domain, &claims).unwrap()
    }
}
