//! A new configuration while the edge runs: all of it, or nothing.

use crate::setup::*;
use bulla_gateway::{BusError, BusMessage};
use serde_json::json;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Tells this process, and with it every edge in it, to read its configuration again.
fn hang_up() {
    let id = std::process::id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-HUP", &id])
        .status();
    assert!(sent.unwrap().success());
}

pub async fn metric(edge: &Edge, line: &str) -> bool {
    let request = edge.client.get(format!("http://{}/metrics", edge.admin));
    let text = request.send().await.unwrap().text().await.unwrap();
    text.contains(line)
}

/// Sends SIGHUP until `done`.
pub async fn reloaded(mut done: impl AsyncFnMut() -> bool) {
    let _handled = signal(SignalKind::hangup()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done().await {
        assert!(Instant::now() < deadline, "not reloaded");
        hang_up();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_sighup_brings_new_routes_and_takes_old_ones() {
    let edge = Edge::start().await;
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 200);
    let routes = ROUTES
        .replace("@ISSUER@", &edge.issuer.url)
        .replace("\"/health\"", "\"/status\"");
    fs::write(edge.dir.path().join("routes.toml"), routes).unwrap();
    reloaded(async || edge.get("/status").send().await.unwrap().status() == 200).await;
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 404);
    // Keys and tokens that are known stay known.
    let fetches = edge.issuer.fetches();
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
    assert_eq!(edge.issuer.fetches(), fetches);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_changes_nothing() {
    let edge = Edge::start().await;
    let broken = ROUTES
        .replace("@ISSUER@", &edge.issuer.url)
        .replace("\"/health\"", "\"/status\"")
        .replace("auth = \"public\"", "auth = \"pubic\"");
    fs::write(edge.dir.path().join("routes.toml"), broken).unwrap();
    let refused = "bulla_gateway_reloads_total{outcome=\"refused\"}";
    reloaded(async || metric(&edge, refused).await).await;
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 200);
    assert_eq!(edge.get("/status").send().await.unwrap().status(), 404);
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_reload_fills_no_bucket() {
    let edge = Edge::with(Options {
        extra: "rates = [\"once\"]\n[[rate]]\nname = \"once\"\nby = \"ip\"\nquota = 1\nwindow = \"1h\"\n",
        ..Options::default()
    })
    .await;
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 200);
    let good = "bulla_gateway_reloads_total{outcome=\"ok\"}";
    reloaded(async || metric(&edge, good).await).await;
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 429);
}

#[tokio::test]
async fn where_nobody_answered_before_a_reload_nobody_is_asked_after_it() {
    let edge = Edge::with(Options {
        extra: "[breaker]\nfailures = 2\npause = \"60s\"\n",
        ..Options::default()
    })
    .await;
    edge.bus.answer(Err(BusError::NoResponders));
    for _ in 0..2 {
        assert_eq!(edge.order().send().await.unwrap().status(), 503);
    }
    edge.bus.answer(Ok(json_reply("{}")));
    assert_eq!(edge.order().send().await.unwrap().status(), 503);
    let asked = edge.bus.seen.lock().len();
    assert_eq!(asked, 2);
    // By SIGHUP, and because of a new policy.
    let good = "bulla_gateway_reloads_total{outcome=\"ok\"}";
    reloaded(async || metric(&edge, good).await).await;
    assert_eq!(edge.order().send().await.unwrap().status(), 503);
    let text = fs::read_to_string(edge.dir.path().join("routes.toml")).unwrap();
    let routes = text.replace("\"/health\"", "\"/status\"");
    fs::write(edge.dir.path().join("routes.toml"), routes).unwrap();
    edge.bus.revision.fetch_add(1, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(20);
    while edge.get("/status").send().await.unwrap().status() != 200 {
        assert!(Instant::now() < deadline, "not reloaded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(edge.order().send().await.unwrap().status(), 503);
    let orders = |m: &&BusMessage| m.subject.as_str() == "orders.create";
    assert_eq!(edge.bus.seen.lock().iter().filter(orders).count(), asked);
    // One that breaks in another way begins anew.
    let file = edge.dir.path().join("gateway.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("failures = 2", "failures = 3")).unwrap();
    reloaded(async || edge.order().send().await.unwrap().status() == 200).await;
}

#[tokio::test]
async fn a_new_issuer_is_asked_for_its_keys() {
    let edge = Edge::start().await;
    let other = Issuer::start().await;
    let file = edge.dir.path().join("gateway.toml");
    let text = fs::read_to_string(&file).unwrap();
    let added = format!(
        "[[issuer]]\nissuer = \"{0}\"\njwks_url = \"{0}/jwks.json\"\n",
        other.url
    );
    fs::write(&file, format!("{text}{added}")).unwrap();
    let routes = ROUTES.replace("@ISSUER@", &other.url);
    fs::write(edge.dir.path().join("routes.toml"), routes).unwrap();
    let status = async |token: String| {
        let request = edge.get("/v1/orders/1").bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    reloaded(async || status(other.token()).await == 200).await;
    assert_eq!(status(edge.issuer.token()).await, 401);
    assert_eq!(status(other.token_with(json!({"aud": "x"}))).await, 401);
}
