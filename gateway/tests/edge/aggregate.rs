//! One request, several services, one answer.

use crate::setup::*;
use bulla_gateway::{BusError, BusMessage, BusReply};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const ROUTES: &str = r#"
[[route]]
method = "GET"
path = "/v1/overview/{id}"
mode = "aggregate"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
scope = "orders:read"
timeout = "2s"

[[route.part]]
name = "order"
subject = "orders.get"

[[route.part]]
name = "bill"
subject = "billing.{id}.get"
optional = true
timeout = "200ms"
"#;

type Reply = Result<BusReply, BusError>;

/// An edge whose services answer as `reply` says of the first token of the subject.
async fn with(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Edge {
    let edge = Edge::with(Options {
        routes: Some(ROUTES),
        ..Options::default()
    })
    .await;
    edge.bus.behave(move |message: BusMessage| {
        let service = message
            .subject
            .as_str()
            .split('.')
            .next()
            .unwrap()
            .to_owned();
        let reply = reply(&service);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            reply
        })
    });
    edge
}

fn ask(edge: &Edge) -> reqwest::RequestBuilder {
    edge.get("/v1/overview/7").bearer_auth(edge.issuer.token())
}

#[tokio::test]
async fn all_parts_are_asked_at_once_each_with_its_own_token() {
    let edge = with(|service| Ok(json_reply(&format!("{{\"from\":\"{service}\"}}")))).await;
    let started = Instant::now();
    let response = ask(&edge).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        body,
        json!({"order": {"from": "orders"}, "bill": {"from": "billing"}})
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    let seen = edge.bus.seen.lock().clone();
    let mut subjects: Vec<&str> = seen.iter().map(|m| m.subject.as_str()).collect();
    subjects.sort_unstable();
    assert_eq!(subjects, ["billing.7.get", "orders.get"]);
    let txn: Vec<String> = seen
        .iter()
        .map(|m| transaction(m).txn().to_owned())
        .collect();
    assert_ne!(txn[0], txn[1]);
    for message in &seen {
        let token = transaction(message);
        let orders = message.subject.as_str() == "orders.get";
        // The reach of its own subject only.
        assert_eq!(token.reach().count(), usize::from(orders));
        let payload: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(payload, json!({"id": "7"}));
    }
}

#[tokio::test]
async fn an_optional_part_that_fails_is_missing_and_said_to_be() {
    for bad in [
        Err(BusError::NoResponders),
        Err(BusError::Timeout),
        Err(BusError::Denied { decision: None }),
        Ok(json_reply("no json")),
        Ok(BusReply {
            payload: "<a/>".into(),
            content_type: "text/html".into(),
            headers: Vec::new(),
        }),
    ] {
        let edge = with(move |service| match service {
            "billing" => bad.clone(),
            _ => Ok(json_reply("1")),
        })
        .await;
        let response = ask(&edge).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body, json!({"order": 1, "missing": ["bill"]}));
    }
}

#[tokio::test]
async fn a_part_that_must_be_there_is_the_answer_when_it_fails() {
    let not_found = {
        let mut reply = json_reply("{}");
        reply.headers.push(("http-status".into(), "404".into()));
        Ok(reply)
    };
    for (reply, status) in [
        (Err(BusError::NoResponders), 503),
        (Err(BusError::Denied { decision: None }), 403),
        (not_found, 404),
        (Ok(json_reply("no json")), 502),
    ] {
        let edge = with(move |service| match service {
            "orders" => reply.clone(),
            _ => Ok(json_reply("1")),
        })
        .await;
        let response = ask(&edge).send().await.unwrap();
        assert_eq!(problem(response).await.0, status);
    }
}

#[tokio::test]
async fn a_slow_optional_part_is_waited_for_as_long_as_it_says() {
    let edge = Edge::with(Options {
        routes: Some(ROUTES),
        ..Options::default()
    })
    .await;
    let asked = Arc::new(AtomicUsize::new(0));
    edge.bus.behave({
        let asked = Arc::clone(&asked);
        move |message| {
            asked.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                if message.subject.as_str().starts_with("billing") {
                    std::future::pending::<()>().await;
                }
                Ok(json_reply("1"))
            })
        }
    });
    let started = Instant::now();
    let body: Value = ask(&edge).send().await.unwrap().json().await.unwrap();
    assert_eq!(body, json!({"order": 1, "missing": ["bill"]}));
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(started.elapsed() < Duration::from_millis(1_900));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn who_may_not_ask_asks_nobody() {
    let edge = with(|_| Ok(json_reply("1"))).await;
    let request = edge.get("/v1/overview/7").send();
    assert_eq!(request.await.unwrap().status(), 401);
    let token = edge.issuer.token_with(json!({"scope": "none"}));
    let request = edge.get("/v1/overview/7").bearer_auth(token).send();
    assert_eq!(request.await.unwrap().status(), 403);
    assert!(edge.bus.untouched());
}
