//! Opaque tokens, about which their issuer is asked.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;

use crate::setup::*;
use serde_json::{Value, json};

async fn edge() -> Edge {
    let issuer = Issuer::start().await;
    // The configuration is read before the edge has the issuer's place: it is the same.
    let keys = format!(
        "introspection = {{ url = \"{}/introspect\", client_id = \"edge\", client_secret_file = \"secret\" }}",
        issuer.url
    );
    let options = Options {
        issuer: Box::leak(keys.into_boxed_str()),
        ..Options::default()
    };
    let edge = Edge::with_issuer(options, issuer, |dir| {
        let file = dir.join("secret");
        std::fs::write(&file, "s3cret").unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    })
    .await;
    // Its keys are there; from now on it is asked about tokens.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while ask(&edge, &edge.issuer.token()).await != 200 {
        assert!(std::time::Instant::now() < deadline, "no keys");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    edge.bus.seen.lock().clear();
    edge.issuer.fetches.store(0, Ordering::SeqCst);
    edge
}

fn says(edge: &Edge, changes: Value) {
    let answer = json!({"active": true, "sub": "alice", "aud": AUDIENCE, "exp": now() + 60,
        "scope": "orders:read", "client_id": "shop", "tenant": "t1"});
    *edge.issuer.instead.lock() = Some(ok_answer(&with(answer, changes).to_string()));
}

async fn ask(edge: &Edge, token: &str) -> u16 {
    let request = edge.get("/v1/orders/7").bearer_auth(token);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn an_opaque_token_is_what_its_issuer_says() {
    let edge = edge().await;
    says(&edge, json!({}));
    assert_eq!(ask(&edge, "opaque-1").await, 200);
    let token = transaction(&edge.bus.last());
    assert_eq!(token.principal(), "alice");
    assert_eq!(token.policy_claims().get("tenant").unwrap(), "t1");
    // Many at once ask one question, and it is remembered.
    let asked = (0..8).map(|_| ask(&edge, "opaque-2"));
    assert_eq!(futures_util::future::join_all(asked).await, [200; 8]);
    assert_eq!(ask(&edge, "opaque-2").await, 200);
    assert_eq!(edge.issuer.fetches(), 2);
    for (n, (changes, status)) in [
        (json!({"active": false}), 401),
        (json!({"aud": "https://other.example"}), 401),
        (json!({"aud": null}), 401),
        (json!({"exp": null}), 401),
        (json!({"exp": now() - 90}), 401),
        (json!({"iss": "https://evil.example"}), 401),
        (json!({"scope": "none"}), 403),
        (json!({"sub": "revoked"}), 403),
        (json!({"cnf": {"jkt": "x"}}), 401),
    ]
    .into_iter()
    .enumerate()
    {
        says(&edge, changes.clone());
        assert_eq!(ask(&edge, &format!("other-{n}")).await, status, "{changes}");
    }
    // A refusal is remembered too, for a while.
    says(&edge, json!({"active": false}));
    assert_eq!(ask(&edge, "gone").await, 401);
    let before = edge.issuer.fetches();
    says(&edge, json!({}));
    assert_eq!(ask(&edge, "gone").await, 401);
    assert_eq!(edge.issuer.fetches(), before);
}

#[tokio::test]
async fn without_an_answer_nobody_passes() {
    let edge = edge().await;
    for answer in [
        "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        "HTTP/1.1 302 Go\r\nlocation: http://evil.example\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        ok_answer(&"x".repeat(70_000)),
        String::new(),
    ] {
        *edge.issuer.instead.lock() = Some(answer.clone());
        let head = answer.lines().next().unwrap_or_default().to_owned();
        assert_eq!(ask(&edge, "opaque").await, 503, "{head}");
    }
    *edge.issuer.instead.lock() = Some(ok_answer("[]"));
    assert_eq!(ask(&edge, "opaque-2").await, 401);
    assert!(edge.bus.untouched());
    // An outage is not remembered.
    says(&edge, json!({}));
    assert_eq!(ask(&edge, "opaque").await, 200);
}

#[tokio::test]
async fn a_token_that_can_be_read_is_never_asked_about() {
    let edge = edge().await;
    says(&edge, json!({}));
    let forged = format!("{}x", edge.issuer.token());
    assert_eq!(ask(&edge, &forged).await, 401);
    assert_eq!(ask(&edge, &edge.issuer.token()).await, 200);
    assert_eq!(ask(&edge, &"x".repeat(5_000)).await, 401);
    assert_eq!(edge.issuer.fetches(), 0);
}
