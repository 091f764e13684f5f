//! `Idempotency-Key`, and quotas that nodes share.

use std::time::Duration;

use crate::setup::*;
use bulla_gateway::BusError;
use serde_json::{Value, json};

const ROUTES: &str = r#"
[[route]]
method = "POST"
path = "/v1/orders"
subject = "orders.placed"
mode = "publish"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
idempotency = { life = "1h" }

[[route]]
method = "PUT"
path = "/v1/orders"
subject = "orders.placed"
mode = "publish"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
idempotency = { required = true }

[[route]]
method = "GET"
path = "/health"
subject = "health.ask"
mode = "request"
auth = "public"
rates = ["together"]
"#;

const RATES: &str = "[[rate]]\nname = \"together\"\nby = \"ip\"\nquota = 10\nwindow = \"1h\"\nshared = true\n\
    [[rate]]\nname = \"alone\"\nby = \"ip\"\nquota = 100\nwindow = \"1h\"\n";

fn options() -> Options {
    Options {
        routes: Some(ROUTES),
        extra: RATES,
        ..Options::default()
    }
}

async fn edge() -> Edge {
    Edge::with(options()).await
}

/// Another node on the same bus, with the same issuer.
async fn beside(edge: &Edge) -> Edge {
    let issuer = Issuer {
        url: edge.issuer.url.clone(),
        keys: edge.issuer.keys.clone(),
        instead: edge.issuer.instead.clone(),
        fetches: edge.issuer.fetches.clone(),
        delay: edge.issuer.delay.clone(),
    };
    Edge::beside(edge.bus.clone(), options(), issuer, |_| {}).await
}

async fn post(edge: &Edge, key: &str, body: &Value) -> reqwest::Response {
    post_as(edge, "alice", key, body).await
}

async fn post_as(edge: &Edge, user: &str, key: &str, body: &Value) -> reqwest::Response {
    let token = edge.issuer.token_with(json!({ "sub": user }));
    let request = edge.client.post(edge.url("/v1/orders"));
    let request = request.bearer_auth(token).header("idempotency-key", key);
    request.json(body).send().await.unwrap()
}

fn published(edge: &Edge) -> usize {
    edge.bus.ids.lock().len()
}

#[tokio::test]
async fn what_is_asked_twice_is_done_once_on_whichever_node() {
    let first = edge().await;
    let second = beside(&first).await;
    let tea = json!({"item": "tea"});
    let answer = post(&first, "k1", &tea).await;
    assert_eq!(answer.status(), 202);
    assert!(!answer.headers().contains_key("idempotency-replayed"));
    for node in [&first, &second] {
        let again = post(node, "k1", &tea).await;
        assert_eq!(again.status(), 202);
        assert_eq!(again.headers()["idempotency-replayed"], "true");
    }
    assert_eq!(published(&first), 1);
    // The same key for something else.
    for node in [&first, &second] {
        let other = post(node, "k1", &json!({"item": "milk"})).await;
        assert_eq!(problem(other).await, (422, "idempotency-mismatch".into()));
    }
    assert_eq!(published(&first), 1);
    assert_eq!(post(&second, "k2", &tea).await.status(), 202);
    assert_eq!(published(&first), 2);
    let ids = first.bus.ids.lock().clone();
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn attack_27_a_key_of_one_user_never_meets_anothers() {
    let edge = edge().await;
    let (tea, milk) = (json!({"item": "tea"}), json!({"item": "milk"}));
    assert_eq!(post_as(&edge, "mallory", "k", &milk).await.status(), 202);
    let answer = post_as(&edge, "alice", "k", &tea).await;
    assert_eq!(answer.status(), 202);
    assert!(!answer.headers().contains_key("idempotency-replayed"));
    assert_eq!(published(&edge), 2);
    // Nor that of another route.
    let request = edge.client.put(edge.url("/v1/orders"));
    let request = request.bearer_auth(edge.issuer.token());
    let other = request.header("idempotency-key", "k").json(&milk);
    assert_eq!(other.send().await.unwrap().status(), 202);
    assert_eq!(published(&edge), 3);
    let ids = edge.bus.ids.lock().clone();
    assert!(ids.iter().all(Option::is_some));
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
}

#[tokio::test]
async fn an_attempt_whose_answer_was_lost_is_repeated_under_its_id() {
    let edge = edge().await;
    let tea = json!({"item": "tea"});
    edge.bus.answer(Err(BusError::Timeout));
    assert_eq!(post(&edge, "k", &tea).await.status(), 504);
    edge.bus.answer(Ok(json_reply("{}")));
    let again = post(&edge, "k", &tea).await;
    assert_eq!(again.status(), 202);
    assert!(!again.headers().contains_key("idempotency-replayed"));
    let ids = edge.bus.ids.lock().clone();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    let done = post(&edge, "k", &tea).await;
    assert_eq!(done.headers()["idempotency-replayed"], "true");
}

#[tokio::test]
async fn what_cannot_be_told_any_more_is_not_done_again() {
    let edge = edge().await;
    let tea = json!({"item": "tea"});
    for forgets in [None, Some(Duration::from_secs(5))] {
        *edge.bus.knows_ids.lock() = forgets;
        let key = format!("k{}", forgets.is_some());
        edge.bus.answer(Err(BusError::Timeout));
        assert_eq!(post(&edge, &key, &tea).await.status(), 504);
        edge.bus.answer(Ok(json_reply("{}")));
        let before = published(&edge);
        let again = post(&edge, &key, &tea).await;
        assert_eq!(problem(again).await, (409, "idempotency-unknown".into()));
        assert_eq!(published(&edge), before);
    }
}

#[tokio::test]
async fn a_key_may_be_asked_for_and_is_one_plain_text() {
    let edge = edge().await;
    let put = edge.client.put(edge.url("/v1/orders"));
    let put = put.bearer_auth(edge.issuer.token()).json(&json!({}));
    let answer = put.send().await.unwrap();
    assert_eq!(problem(answer).await, (400, "bad-request".into()));
    assert_eq!(post(&edge, "a b", &json!({})).await.status(), 400);
    assert_eq!(post(&edge, "", &json!({})).await.status(), 400);
    assert!(edge.bus.untouched());
    // Where it is not asked for, a request without one is sent as it is.
    let request = edge.client.post(edge.url("/v1/orders"));
    let request = request.bearer_auth(edge.issuer.token()).json(&json!({}));
    assert_eq!(request.send().await.unwrap().status(), 202);
    assert_eq!(*edge.bus.ids.lock(), [None]);
}

#[tokio::test]
async fn nothing_is_sent_that_the_bus_cannot_remember() {
    let edge = edge().await;
    edge.bus
        .up
        .store(false, std::sync::atomic::Ordering::SeqCst);
    let status = post(&edge, "k", &json!({})).await.status();
    assert_eq!(status, 503);
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn nodes_share_a_quota_and_no_more_than_it_passes() {
    let first = edge().await;
    let second = beside(&first).await;
    let mut passed = 0;
    for _ in 0..12 {
        for node in [&first, &second] {
            let answer = node.get("/health").send().await.unwrap();
            match answer.status().as_u16() {
                200 => passed += 1,
                429 => {
                    let wait = answer.headers()["retry-after"].to_str().unwrap().to_owned();
                    assert!(wait.parse::<u64>().unwrap() <= 3600, "{wait}");
                    let limit = answer.headers()["ratelimit"].to_str().unwrap();
                    assert!(limit.starts_with("\"together\";r=0;t="), "{limit}");
                }
                other => panic!("{other}"),
            }
        }
    }
    assert_eq!(passed, 10);
}

#[tokio::test]
async fn what_nobody_can_count_does_not_pass() {
    let edge = edge().await;
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 200);
    edge.bus
        .up
        .store(false, std::sync::atomic::Ordering::SeqCst);
    let seen = edge.bus.seen.lock().len();
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 503);
    assert_eq!(edge.bus.seen.lock().len(), seen);
}
