//! Replies that are given again: to the same user, for a while, under the same policy.

use crate::setup::*;
use bulla_gateway::BusError;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const ROUTES: &str = r#"
[[route]]
method = "GET"
path = "/v1/orders/{id}"
subject = "orders.get"
mode = "request"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
scope = "orders:read"
optional_scope = "admin"
query = ["a", "b"]
forward_headers = ["accept-language"]
response_headers = ["etag", "cache-control"]
cache = { ttl = "1s" }

[[route]]
method = "GET"
path = "/news"
subject = "news.get"
mode = "request"
auth = "public"
cache = { ttl = "60s" }

[[route]]
method = "GET"
path = "/prices"
subject = "prices.get"
mode = "request"
auth = "public"
cache = { ttl = "60s", invalidated_by = "prices.changed" }
compress = true

[[route]]
method = "GET"
path = "/stock"
subject = "stock.get"
mode = "request"
auth = "public"
cache = { ttl = "60s", invalidated_by = "prices.changed" }
"#;

/// An edge whose service numbers its replies.
async fn numbered() -> (Edge, Arc<AtomicUsize>) {
    let edge = Edge::with(Options {
        routes: Some(ROUTES),
        ..Options::default()
    })
    .await;
    let count = Arc::new(AtomicUsize::new(0));
    edge.bus.behave({
        let count = Arc::clone(&count);
        move |_| {
            let n = count.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(json_reply(&n.to_string()))
            })
        }
    });
    (edge, count)
}

async fn body(request: reqwest::RequestBuilder) -> String {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.text().await.unwrap()
}

#[tokio::test]
async fn the_same_request_of_the_same_user_gets_the_same_reply_for_a_while() {
    let (edge, _) = numbered().await;
    let ask = |path: &str| edge.get(path).bearer_auth(edge.issuer.token());
    assert_eq!(body(ask("/v1/orders/1?a=1&b=2")).await, "0");
    assert_eq!(body(ask("/v1/orders/1?b=2&a=1")).await, "0");
    let response = ask("/v1/orders/1?a=1&b=2").send().await.unwrap();
    assert_eq!(response.headers()["cache-control"], "private, max-age=1");
    assert_eq!(response.headers()["age"], "0");
    let varies: Vec<_> = response.headers().get_all("vary").iter().collect();
    assert_eq!(varies, ["authorization", "accept-language"]);
    assert_eq!(body(ask("/v1/orders/2?a=1&b=2")).await, "1");
    assert_eq!(body(ask("/v1/orders/1?a=2&b=1")).await, "2");
    let german = ask("/v1/orders/1?a=1&b=2").header("accept-language", "de");
    assert_eq!(body(german).await, "3");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(body(ask("/v1/orders/1?a=1&b=2")).await, "4");
}

#[tokio::test]
async fn nobody_gets_what_another_user_was_told() {
    let (edge, _) = numbered().await;
    let ask = |changes| {
        let token = edge.issuer.token_with(changes);
        edge.get("/v1/orders/1").bearer_auth(token)
    };
    assert_eq!(body(ask(json!({}))).await, "0");
    // Another user, other scopes, another claim that policies may ask for.
    assert_eq!(body(ask(json!({"sub": "bob"}))).await, "1");
    assert_eq!(body(ask(json!({"scope": "orders:read"}))).await, "2");
    assert_eq!(body(ask(json!({"tenant": "t2"}))).await, "3");
    // A token more or less does not matter.
    assert_eq!(body(ask(json!({"jti": "another"}))).await, "0");
    // Who may not ask is not told either.
    for (changes, status) in [
        (json!({"exp": 1}), 401),
        (json!({"scope": "none"}), 403),
        (json!({"sub": "revoked"}), 403),
    ] {
        assert_eq!(ask(changes).send().await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn another_policy_means_another_reply() {
    let (edge, _) = numbered().await;
    let ask = || edge.get("/v1/orders/1").bearer_auth(edge.issuer.token());
    assert_eq!(body(ask()).await, "0");
    edge.bus.revision.store(2, Ordering::SeqCst);
    edge.bus.answer(Err(BusError::Denied { decision: None }));
    assert_eq!(ask().send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_client_that_has_the_reply_is_not_sent_it_again() {
    let (edge, count) = numbered().await;
    let first = edge.get("/news").send().await.unwrap();
    assert_eq!(first.headers()["cache-control"], "public, max-age=60");
    let tag = first.headers()["etag"].clone();
    let again = edge.get("/news").header("if-none-match", tag);
    let again = again.send().await.unwrap();
    assert_eq!(again.status(), 304);
    assert_eq!(again.text().await.unwrap(), "");
    let other = edge.get("/news").header("if-none-match", "\"other\"");
    assert_eq!(body(other).await, "0");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn of_many_who_ask_at_once_one_asks_the_service() {
    let (edge, count) = numbered().await;
    let all = (0..20).map(|_| tokio::spawn(edge.get("/news").send()));
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap().unwrap().text().await.unwrap(), "0");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_fails_or_is_forbidden_to_keep_is_not_kept() {
    let (edge, _) = numbered().await;
    let ask = || edge.get("/v1/orders/1").bearer_auth(edge.issuer.token());
    edge.bus.answer(Err(BusError::Timeout));
    assert_eq!(ask().send().await.unwrap().status(), 504);
    let mut reply = json_reply("1");
    reply.headers.push(("http-status".into(), "404".into()));
    edge.bus.answer(Ok(reply));
    assert_eq!(ask().send().await.unwrap().status(), 404);
    let mut reply = json_reply("1");
    let no_store = ("cache-control".to_owned(), "no-store, max-age=0".to_owned());
    reply.headers.push(no_store);
    edge.bus.answer(Ok(reply));
    assert_eq!(body(ask()).await, "1");
    edge.bus.answer(Ok(json_reply("2")));
    assert_eq!(body(ask()).await, "2");
    edge.bus.answer(Ok(json_reply("3")));
    assert_eq!(body(ask()).await, "2");
}

/// Waits until the edge listens for changes.
async fn heard(edge: &Edge) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while edge.bus.listeners.lock().is_empty() {
        assert!(std::time::Instant::now() < deadline, "nobody listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It has begun an era once it hears.
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn an_event_forgets_the_replies_of_every_route_that_names_it() {
    let (edge, _) = numbered().await;
    heard(&edge).await;
    assert_eq!(body(edge.get("/prices")).await, "0");
    assert_eq!(body(edge.get("/stock")).await, "1");
    assert_eq!(body(edge.get("/news")).await, "2");
    assert_eq!(body(edge.get("/prices")).await, "0");
    edge.bus.emit("prices.changed", "{}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(body(edge.get("/prices")).await, "3");
    assert_eq!(body(edge.get("/stock")).await, "4");
    assert_eq!(body(edge.get("/news")).await, "2");
    // What is asked when the event comes is not kept for those who ask after it.
    edge.bus.emit("prices.changed", "{}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let asked = tokio::spawn(edge.get("/prices").send());
    tokio::time::sleep(Duration::from_millis(10)).await;
    edge.bus.emit("prices.changed", "{}");
    let first = asked.await.unwrap().unwrap().text().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_ne!(body(edge.get("/prices")).await, first);
}

#[tokio::test]
async fn nothing_is_kept_while_nobody_hears_of_changes() {
    let (edge, _) = numbered().await;
    heard(&edge).await;
    assert_eq!(body(edge.get("/prices")).await, "0");
    assert_eq!(body(edge.get("/prices")).await, "0");
    edge.bus.listeners.lock().clear();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(body(edge.get("/prices")).await, "1");
    assert_eq!(body(edge.get("/prices")).await, "2");
}

#[tokio::test]
async fn only_a_route_that_says_so_packs_its_replies() {
    let (edge, _) = numbered().await;
    heard(&edge).await;
    let text = format!("\"{}\"", "tea ".repeat(1_000));
    edge.bus.answer(Ok(json_reply(&text)));
    let ask = async |path: &str, takes: &str| {
        let request = edge.get(path).header("accept-encoding", takes);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let header = |name: &str| {
            let value = answer.headers().get(name);
            value.map_or("", |v| v.to_str().unwrap()).to_owned()
        };
        let (coding, tag) = (header("content-encoding"), header("etag"));
        (coding, tag, answer.bytes().await.unwrap())
    };
    let (coding, tag, bytes) = ask("/prices", "gzip, br").await;
    assert_eq!(coding, "gzip");
    assert!(tag.starts_with("W/\""), "{tag}");
    assert!(bytes.len() < 200 && bytes.starts_with(&[0x1f, 0x8b]));
    let (coding, plain, bytes) = ask("/prices", "br").await;
    assert_eq!((coding.as_str(), bytes.len()), ("", text.len()));
    assert_eq!(format!("W/{plain}"), tag);
    let (coding, _, bytes) = ask("/stock", "gzip").await;
    assert_eq!((coding.as_str(), bytes.len()), ("", text.len()));
    let known = edge.get("/prices").header("if-none-match", tag);
    let known = known
        .header("accept-encoding", "gzip")
        .send()
        .await
        .unwrap();
    assert_eq!(known.status(), 304);
    assert!(!known.headers().contains_key("content-encoding"));
}
