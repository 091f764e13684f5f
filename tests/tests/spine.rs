//! The whole path: an HTTP client, the edge, sealed messages, an enforcing
//! broker and nats-server, two services and back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "spine/telemetry.rs"]
mod telemetry;

use std::time::Duration;

use aws_lc_rs::hmac;
use bulla_tests::{KID, Shop, now, signing_input};
use data_encoding::BASE64URL_NOPAD;
use futures_util::StreamExt;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

async fn problem(response: Response, status: u16, kind: &str) -> Value {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let text = response.text().await.unwrap();
    for word in ["orders.create", "billing", "nats", "spiffe", "gateway"] {
        assert!(!text.contains(word), "a problem names `{word}`: {text}");
    }
    let body: Value = serde_json::from_str(&text).unwrap();
    assert!(body["type"].as_str().unwrap().ends_with(kind), "{body}");
    assert!(body["decision_id"].is_string(), "{body}");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_from_http_over_two_hops_and_back() {
    let shop = Shop::open().await;
    let mut created = shop.bus.tap("orders.created").await;
    let response = shop.order(Some(&shop.token("alice", "orders:write"))).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let order: Value = response.json().await.unwrap();
    // The price was made by `billing` for alice, whom only `orders` talked to.
    assert_eq!(order["customer"], "alice");
    assert_eq!(order["total_cents"], 120);
    assert_eq!(
        location,
        format!("/v1/orders/{}", order["id"].as_str().unwrap())
    );
    let event = tokio::time::timeout(Duration::from_secs(5), created.next())
        .await
        .unwrap()
        .unwrap();
    assert!(bulla_envelope::SealedEnvelope::decode(event.payload).is_ok());

    let reader = shop.token("alice", "orders:read");
    let same: Value = shop.get(&location, &reader).await.json().await.unwrap();
    assert_eq!(same, order);
    // Somebody else's order does not exist for bob.
    problem(
        shop.get(&location, &shop.token("bob", "orders:read")).await,
        404,
        "not-found",
    )
    .await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_token_stays_at_the_edge() {
    let shop = Shop::open().await;
    let mut tap = shop.bus.tap("orders.create").await;
    let token = shop.token("alice", "orders:write orders:admin");
    assert_eq!(shop.order(Some(&token)).await.status(), StatusCode::CREATED);
    let message = tokio::time::timeout(Duration::from_secs(5), tap.next())
        .await
        .unwrap()
        .unwrap();
    let signature = token.rsplit('.').next().unwrap().as_bytes();
    let holds = |needle: &[u8]| message.payload.windows(needle.len()).any(|w| w == needle);
    assert!(!holds(signature), "the access token is on the bus");
    // The transaction token has only the scope that the route needs.
    assert!(!holds(BASE64URL_NOPAD.encode(b"orders:admin").as_bytes()));
    assert!(
        message.headers.is_none(),
        "nothing travels outside of the envelope"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_trace_goes_on_through_every_hop() {
    let shop = Shop::open().await;
    let mut taps = [
        shop.bus.tap("orders.create").await,
        shop.bus.tap("billing.quote").await,
        shop.bus.tap("orders.created").await,
    ];
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let response = shop
        .http
        .post(format!("{}/v1/orders", shop.url))
        .bearer_auth(shop.token("alice", "orders:write"))
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .json(&json!({"item": "clay", "quantity": 3}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let id = data_encoding::HEXLOWER.decode(trace.as_bytes()).unwrap();
    for tap in &mut taps {
        let message = tap.next().await.unwrap();
        assert!(
            message.payload.windows(16).any(|w| w == id),
            "{}",
            message.subject
        );
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_gets_the_answer_of_the_outcome_table() {
    let shop = Shop::open().await;
    let anonymous = shop.order(None).await;
    assert_eq!(
        anonymous.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .split(' ')
            .next(),
        Some("Bearer")
    );
    problem(anonymous, 401, "unauthorized").await;
    problem(
        shop.order(Some(&shop.token("bob", "orders:read"))).await,
        403,
        "insufficient-scope",
    )
    .await;
    problem(
        shop.order(Some(&shop.token("mallory", "orders:write")))
            .await,
        403,
        "forbidden",
    )
    .await;
    problem(
        shop.get("/v1/nothing", &shop.token("a", "x")).await,
        404,
        "not-found",
    )
    .await;
    problem(
        shop.get("/v1/orders", &shop.token("a", "x")).await,
        405,
        "method-not-allowed",
    )
    .await;
    let invalid = shop
        .http
        .post(format!("{}/v1/orders", shop.url))
        .bearer_auth(shop.token("alice", "orders:write"))
        .json(&json!({"item": "", "quantity": 0}))
        .send()
        .await
        .unwrap();
    problem(invalid, 422, "invalid-content").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_10_every_bad_token_is_401_on_the_whole_path() {
    let shop = Shop::open().await;
    let good = shop.claims("alice", "orders:write");
    let with = |path: &str, value: Value| {
        let mut claims = good.clone();
        claims[path] = value;
        shop.sign(&claims)
    };
    let expired = with("exp", json!(now().as_secs() - 120));
    let audience = with("aud", json!("https://other.example"));
    let issuer = with("iss", json!("https://evil.example"));
    let none = format!(
        "{}.",
        signing_input(&json!({"alg": "none", "typ": "at+jwt", "kid": KID}), &good)
    );
    let input = signing_input(&json!({"alg": "HS256", "typ": "at+jwt", "kid": KID}), &good);
    let secret = hmac::Key::new(hmac::HMAC_SHA256, shop.key.verifying_key().as_bytes());
    let confused = format!(
        "{input}.{}",
        BASE64URL_NOPAD.encode(hmac::sign(&secret, input.as_bytes()).as_ref())
    );
    let mut stranger = shop.sign(&good);
    stranger.replace_range(stranger.rfind('.').unwrap() + 1.., &"A".repeat(86));
    for (name, token) in [
        ("expired", expired),
        ("wrong audience", audience),
        ("wrong issuer", issuer),
        ("alg none", none),
        ("HS256 with the public key", confused),
        ("forged signature", stranger),
        ("not a token", "x".to_owned()),
    ] {
        let response = shop.order(Some(&token)).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{name}");
        let challenge = response.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(challenge.contains("invalid_token"), "{name}: {challenge}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_10_a_transaction_token_is_no_access_token() {
    let shop = Shop::open().await;
    let mut tap = shop.bus.tap("orders.create").await;
    assert_eq!(
        shop.order(Some(&shop.token("alice", "orders:write")))
            .await
            .status(),
        StatusCode::CREATED
    );
    let message = tap.next().await.unwrap();
    let text = String::from_utf8_lossy(&message.payload).into_owned();
    let start = text.find("eyJ").unwrap();
    let token: String = text[start..]
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .collect();
    assert_eq!(token.split('.').count(), 3, "a transaction token was found");
    problem(shop.order(Some(&token)).await, 401, "invalid-token").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_event_is_202() {
    let shop = Shop::open().await;
    let mut tap = shop.bus.tap("orders.noted").await;
    let response = shop
        .http
        .post(format!("{}/v1/notes", shop.url))
        .bearer_auth(shop.token("alice", ""))
        .json(&json!({"note": "hello"}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let event = tokio::time::timeout(Duration::from_secs(5), tap.next())
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&event.payload).into_owned();
    assert!(
        text.contains(r#"{"note":"hello"}"#),
        "the body travels byte for byte"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_service_the_edge_says_503() {
    let shop = Shop::open().await;
    let token = shop.token("alice", "orders:write");
    shop.orders_stop.cancel();
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let response = shop.order(Some(&token)).await;
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            problem(response, 503, "unavailable").await;
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{}", response.status());
    }
    shop.close().await;
}
