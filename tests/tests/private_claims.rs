//! Claims of a user that only some workloads can read, inside a token that all can.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use bulla_sdk::{
    Client, Exchange, Message, PrivateClaimError, RequestError, Service, ServiceError,
};
use bulla_tests::{Bus, Minter};
use serde_json::{Map, Value, json};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.broker]
attest = [{ nkey = "@broker@" }]
mints = true
exchanges = true
[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.orders]
attest = [{ nkey = "@orders@" }]
[workload.billing]
attest = [{ nkey = "@billing@" }]
[workload.support]
attest = [{ nkey = "@support@" }]
[workload.absent]
attest = [{ nkey = "@absent@" }]

[claims.email]
readers = ["billing", "support"]
[claims.iban]
readers = ["billing"]
[claims.diagnosis]
readers = ["absent"]

[[allow]]
id = "asks"
who = ["edge", "orders"]
may = ["request"]
on = ["orders.show", "billing.show", "support.show", "orders.swap"]
[[allow]]
id = "orders-serves"
who = ["orders"]
may = ["serve"]
on = ["orders.>"]
[[allow]]
id = "billing-serves"
who = ["billing"]
may = ["serve"]
on = ["billing.show"]
[[allow]]
id = "support-serves"
who = ["support"]
may = ["serve"]
on = ["support.show"]
"#;

struct Scene {
    bus: Bus,
    edge: Minter,
    orders: Client,
    billing: Client,
    _services: Vec<Service>,
}

/// What a service sees of the user.
fn shown(message: &Message<String>) -> Result<Value, ServiceError> {
    let user = message.user().unwrap();
    let private = |name: &str| match user.private::<Value>(name) {
        Ok(value) => value.unwrap_or(Value::Null),
        Err(error) => json!(error.to_string()),
    };
    Ok(json!({
        "email": private("email"), "iban": private("iban"), "diagnosis": private("diagnosis"),
        "tenant": user.claims().get("tenant"), "clear": user.claims().get("email"),
    }))
}

impl Scene {
    async fn start() -> Self {
        let bus = Bus::start(POLICY).await;
        let (orders, billing) = (bus.client("orders").await, bus.client("billing").await);
        let support = bus.client("support").await;
        let mut services = Vec::new();
        for (client, subject) in [
            (&orders, "orders.show"),
            (&billing, "billing.show"),
            (&support, "support.show"),
        ] {
            let handler = async |m: Message<String>| shown(&m);
            services.push(client.serve(subject, handler).await.unwrap());
        }
        Self {
            edge: Minter::connect(&bus, "edge").await,
            bus,
            orders,
            billing,
            _services: services,
        }
    }

    /// A token as the edge mints it.
    async fn token(&self, txn: &str, user: &str) -> String {
        let mut context = facts();
        let client = &self.edge.client;
        let private = client.hide_claims(txn, user, &mut context).await.unwrap();
        assert_eq!(Value::Object(context.clone()), json!({"tenant": "t1"}));
        self.minted(txn, user, private)
    }

    fn minted(&self, txn: &str, user: &str, private: Option<Value>) -> String {
        self.edge.token_with(user, |claims| {
            claims.txn = txn.to_owned();
            claims.context = json!({"tenant": "t1"}).as_object().unwrap().clone();
            claims.private = private;
        })
    }

    async fn ask(&self, subject: &str, token: &str) -> Result<Value, RequestError> {
        let message = self.edge.client.message(subject).payload("x");
        Ok(message.user_token(token).request().await?.decode()?)
    }
}

fn facts() -> Map<String, Value> {
    json!({
        "tenant": "t1", "email": "alice@example.com", "iban": {"iban": "DE02"},
        "diagnosis": "nobody's business",
    })
    .as_object()
    .unwrap()
    .clone()
}

/// What a token says to everybody who holds it.
fn readable(token: &str) -> String {
    let payload = token.split('.').nth(1).unwrap();
    let payload = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes());
    String::from_utf8(payload.unwrap()).unwrap()
}

/// [ENV-113]
#[tokio::test(flavor = "multi_thread")]
async fn private_claims_are_read_by_their_readers_and_by_nobody_else() {
    let scene = Scene::start().await;
    let token = scene.token("txn-1", "alice").await;
    let all = readable(&token);
    assert!(all.contains("t1") && all.contains("\"private\""), "{all}");
    for secret in ["alice@", "DE02", "nobody's"] {
        assert!(!all.contains(secret), "{all}");
    }
    let show = async |subject: &str| scene.ask(subject, &token).await.unwrap();
    let tenant = json!("t1");
    assert_eq!(
        show("orders.show").await,
        json!({"email": null, "iban": null, "diagnosis": null, "tenant": tenant, "clear": null})
    );
    let email = json!("alice@example.com");
    assert_eq!(
        show("support.show").await,
        json!({"email": email, "iban": null, "diagnosis": null, "tenant": tenant, "clear": null})
    );
    let seen = show("billing.show").await;
    assert_eq!(
        seen,
        json!({"email": email, "iban": {"iban": "DE02"}, "diagnosis": null,
            "tenant": tenant, "clear": null})
    );
    // Who is to read it and has published no key: nobody reads it, and it is counted.
    assert!(scene.edge.client.stats().recipients_without_key() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_13_private_claims_mean_nothing_in_another_token() {
    let scene = Scene::start().await;
    let mut context = facts();
    let client = &scene.edge.client;
    let private = client
        .hide_claims("txn-1", "alice", &mut context)
        .await
        .unwrap();
    // Alice's claims in Bob's token, and in another chain of Alice's.
    for (txn, user) in [("txn-1", "bob"), ("txn-2", "alice")] {
        let token = scene.minted(txn, user, private.clone());
        let seen = scene.ask("billing.show", &token).await.unwrap();
        let unreadable = PrivateClaimError::Unreadable {
            reason: "bad_ciphertext",
        };
        assert_eq!(seen["email"], json!(unreadable.to_string()), "{txn} {user}");
    }
    let token = scene.minted("txn-1", "alice", private);
    let seen = scene.ask("billing.show", &token).await.unwrap();
    assert_eq!(seen["email"], json!("alice@example.com"));
    // What is none is not read as one, and harms nothing else.
    for odd in [json!("x"), json!([{"suite": 1}]), json!([[]])] {
        let token = scene.minted("txn-1", "alice", Some(odd));
        let seen = scene.ask("billing.show", &token).await.unwrap();
        assert_eq!(seen["tenant"], json!("t1"));
        assert!(
            seen["email"].as_str().unwrap().contains("malformed"),
            "{seen}"
        );
    }
    let _ = &scene.billing;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_claims_come_along_through_an_exchange() {
    let scene = Scene::start().await;
    let client = scene.orders.clone();
    let _service = scene
        .orders
        .serve("orders.swap", move |_: Message<String>| {
            let client = client.clone();
            async move {
                let end = tokio::time::Instant::now() + Duration::from_secs(8);
                let user = loop {
                    match client.exchange(Exchange::narrower()).await {
                        Ok(user) => break user,
                        // The broker serves once it has a credential of its own.
                        Err(error) => assert!(tokio::time::Instant::now() < end, "{error:?}"),
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                };
                let message = client.message("billing.show").payload("x").user(user);
                Ok::<_, ServiceError>(message.request().await?.decode::<Value>()?)
            }
        })
        .await
        .unwrap();
    let token = scene.token("txn-1", "alice").await;
    let message = scene.edge.client.message("orders.swap").payload("x");
    let message = message.timeout(Duration::from_secs(10)).user_token(&token);
    let seen: Value = message.request().await.unwrap().decode().unwrap();
    assert_eq!(seen["email"], json!("alice@example.com"));
    assert_eq!(seen["tenant"], json!("t1"));
    drop(scene.bus);
}
