//! The decision log, and what no log ever holds.

use crate::setup::*;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::error::Error;
use std::sync::Once;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

pub type Fields = HashMap<String, String>;

static EVENTS: Mutex<Vec<(String, Fields)>> = Mutex::new(Vec::new());
static LISTENING: Once = Once::new();

struct Record;

impl<S: tracing::Subscriber> Layer<S> for Record {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Read(Fields);
        impl Visit for Read {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0.insert(field.name().into(), format!("{value:?}"));
            }
            fn record_str(&mut self, field: &Field, value: &str) {
                self.0.insert(field.name().into(), value.into());
            }
            fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
                let (mut chain, mut next) = (error.to_string(), error.source());
                while let Some(error) = next {
                    chain.push_str(&format!(": {error}"));
                    next = error.source();
                }
                self.0.insert(field.name().into(), chain);
            }
        }
        let mut fields = Read(Fields::new());
        event.record(&mut fields);
        let meta = event.metadata();
        fields.0.insert("level".into(), meta.level().to_string());
        // Only what this project says: hyper's own traces are off in production.
        if meta.target().starts_with("bulla") {
            EVENTS.lock().push((meta.target().into(), fields.0));
        }
    }
}

/// Records every event of the process, once.
pub fn listen() {
    LISTENING.call_once(|| {
        let all = tracing_subscriber::registry().with(Record);
        tracing::subscriber::set_global_default(all).unwrap();
    });
}

fn decisions_of(user: &str) -> Vec<Fields> {
    EVENTS
        .lock()
        .iter()
        .filter(|(target, fields)| target == "bulla::decision" && fields["user"] == user)
        .map(|(_, fields)| fields.clone())
        .collect()
}

/// What the access log says of answers to this address, in order.
pub fn access_of(client: std::net::IpAddr) -> Vec<Fields> {
    let client = client.to_string();
    EVENTS
        .lock()
        .iter()
        .filter(|(target, fields)| target == "bulla::access" && fields["client"] == client)
        .map(|(_, fields)| fields.clone())
        .collect()
}

/// Why there is no new certificate, each time that there was none.
pub fn orders_that_failed() -> Vec<String> {
    EVENTS
        .lock()
        .iter()
        .filter(|(_, fields)| {
            fields
                .get("message")
                .is_some_and(|m| m == "there is no new certificate")
        })
        .map(|(_, fields)| fields["error"].clone())
        .collect()
}

fn decision(id: &str) -> Fields {
    let events = EVENTS.lock();
    let mut found = events
        .iter()
        .filter(|(_, f)| f.get("id").is_some_and(|i| i == id));
    let (target, fields) = found.next().expect("the decision is in the log");
    assert_eq!(target, "bulla::decision");
    assert!(found.next().is_none());
    fields.clone()
}

#[tokio::test]
async fn an_allowed_request_is_one_event_with_every_field() {
    let edge = Edge::start().await;
    let token = edge.issuer.token_with(json!({"sub": "user-allowed"}));
    edge.get("/v1/orders/1")
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    let events = decisions_of("user-allowed");
    assert_eq!(events.len(), 1);
    for (field, value) in [
        ("level", "INFO"),
        ("enforcer", "gateway"),
        ("decision", "allow"),
        ("workload", "gateway"),
        ("verb", "request"),
        ("subject", "orders.get"),
        ("rule", "GET /v1/orders/{id}"),
        ("reason", ""),
    ] {
        assert_eq!(events[0][field], value, "{field}");
    }
    assert_eq!(events[0]["id"].len(), 32);
}

#[tokio::test]
async fn a_denied_request_is_found_by_the_id_that_its_client_was_given() {
    let edge = Edge::start().await;
    let good = edge.issuer.token();
    let poor = edge.issuer.token_with(json!({"scope": ""}));
    let late = edge
        .issuer
        .token_with(json!({"exp": now() - 100, "iat": now() - 200}));
    for (request, reason, user) in [
        (edge.get("/v1/orders/1"), "no_token", ""),
        (
            edge.get("/v1/orders/1").bearer_auth("a.b.c"),
            "token_not_base64url",
            "",
        ),
        (
            edge.get("/v1/orders/1").bearer_auth(late),
            "token_expired",
            "",
        ),
        (
            edge.get("/v1/orders/1").bearer_auth(poor),
            "insufficient_scope",
            "alice",
        ),
        (edge.get("/nowhere").bearer_auth(&good), "unknown_route", ""),
        (
            edge.client.put(edge.url("/v1/orders")).bearer_auth(&good),
            "unknown_method",
            "",
        ),
        (edge.order().header("nats-x", "y"), "internal_header", ""),
    ] {
        let body: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        let event = decision(body["decision_id"].as_str().unwrap());
        assert_eq!(event["level"], "WARN");
        assert_eq!(event["decision"], "deny");
        assert_eq!(event["reason"], reason);
        assert_eq!(event["user"], user);
    }
}

#[tokio::test]
async fn no_event_holds_a_token_or_a_payload() {
    let edge = Edge::start().await;
    let marked = edge
        .issuer
        .token_with(json!({"sub": "leak-test", "tenant": "secret-tenant"}));
    let expired = edge
        .issuer
        .token_with(json!({"exp": now() - 100, "tenant": "secret-tenant"}));
    for token in [
        &marked,
        &expired,
        &format!("{marked}x"),
        &"secret.secret.secret".to_owned(),
    ] {
        let request = edge.client.post(edge.url("/v1/orders")).bearer_auth(token);
        let request = request
            .header("content-type", "application/json")
            .header("x-key", "secret-header");
        request
            .body("{\"pin\":\"secret-pin\"}")
            .send()
            .await
            .unwrap();
    }
    let minted = edge.bus.last().token.unwrap().as_str().to_owned();
    let signature = |t: &str| t.rsplit('.').next().unwrap().to_owned();
    let words = [
        "secret-tenant".into(),
        "secret-pin".into(),
        "secret-header".into(),
        "secret.secret".into(),
        signature(&marked),
        signature(&expired),
        signature(&minted),
    ];
    for (target, fields) in EVENTS.lock().iter() {
        for value in fields.values() {
            for word in &words {
                assert!(
                    !value.contains(word.as_str()),
                    "{target} holds {word}: {value}"
                );
            }
        }
    }
}

#[tokio::test]
async fn answers_are_in_the_access_log_without_what_is_secret() {
    let edge = Edge::with(Options {
        extra: "[log]\naccess = \"fields\"\n",
        ..Options::default()
    })
    .await;
    let token = edge.issuer.token_with(json!({"sub": "user-accessed"}));
    let request = edge.get("/v1/orders/1?fields=secret-query");
    request.bearer_auth(&token).send().await.unwrap();
    let found: Vec<Fields> = EVENTS
        .lock()
        .iter()
        .filter(|(target, fields)| target == "bulla::access" && fields["user"] == "user-accessed")
        .map(|(_, fields)| fields.clone())
        .collect();
    let [only] = &found[..] else {
        panic!("{found:?}");
    };
    for (name, value) in [
        ("method", "GET"),
        ("path", "/v1/orders/1"),
        ("route", "GET /v1/orders/{id}"),
        ("status", "200"),
        ("client", "127.0.0.1"),
    ] {
        assert_eq!(only[name], value, "{name}");
    }
    let all = format!("{only:?}");
    assert!(
        !all.contains("secret-query") && !all.contains(&token),
        "{all}"
    );
}
