//! API keys, from the command that makes them to the request that brings them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::setup::*;
use serde_json::Value;

const ROUTES: &str = r#"
[[route]]
method = "GET"
path = "/stock/{item}"
mode = "request"
subject = "stock.get"
auth = "key"
scope = "stock:read"

[[route]]
method = "GET"
path = "/stock/{item}/events"
mode = "stream"
subject = "stock.{item}.changed"
auth = "key"
"#;

fn options() -> Options {
    Options {
        routes: Some(ROUTES),
        extra: "[api_keys]\nfile = \"keys.json\"",
        ..Options::default()
    }
}

/// What `gateway key …` says, and its exit code.
fn key(dir: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bulla-gateway"))
        .arg("key")
        .args(arguments)
        .arg("--config")
        .arg(dir.join("gateway.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text.trim().to_owned())
}

pub fn make(edge: &Edge, user: &str, scope: &str) -> (String, String) {
    let dir = edge.dir.path();
    let (code, text) = key(dir, &["new", "--user", user, "--scope", scope, "--json"]);
    assert_eq!(code, 0, "{text}");
    let said: Value = serde_json::from_str(&text).unwrap();
    let part = |name: &str| said[name].as_str().unwrap().to_owned();
    (part("id"), part("key"))
}

async fn ask(edge: &Edge, key: &str) -> reqwest::Response {
    let request = edge.get("/stock/tea").header("x-api-key", key);
    request.send().await.unwrap()
}

/// Waits until a key is answered so.
async fn until(edge: &Edge, key: &str, status: u16) -> Duration {
    let begun = Instant::now();
    while ask(edge, key).await.status() != status {
        assert!(begun.elapsed() < Duration::from_secs(10), "not {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_key_is_its_user_until_it_is_revoked_on_every_node() {
    let first = Edge::with(options()).await;
    // Without a file no key is good, and that is no refusal of the key.
    let missing = first.get("/stock/tea").send().await.unwrap();
    assert_eq!(
        missing.headers()["www-authenticate"],
        "ApiKey realm=\"api\""
    );
    assert_eq!(problem(missing).await, (401, "api-key-required".into()));
    assert_eq!(ask(&first, "bk_0000000000000000_x").await.status(), 503);

    let (id, key_text) = make(&first, "ci", "stock:read stock:write");
    until(&first, &key_text, 200).await;
    let message = first.bus.last();
    let token = transaction(&message);
    assert_eq!(token.principal(), "ci");
    assert_eq!(token.policy_claims().get("scope").unwrap(), "stock:read");
    assert_eq!(
        token.policy_claims().get("idp").unwrap(),
        "urn:bulla:api-keys"
    );
    assert!(!format!("{message:?}", message = message.headers).contains(&key_text));

    // Another node that has the file.
    let second = Edge::beside(first.bus.clone(), options(), Issuer::start().await, |dir| {
        std::os::unix::fs::symlink(first.dir.path().join("keys.json"), dir.join("keys.json"))
            .unwrap();
    })
    .await;
    assert_eq!(ask(&second, &key_text).await.status(), 200);

    let (_, weak) = make(&first, "guest", "");
    until(&first, &weak, 403).await;
    let stream = first
        .get("/stock/tea/events")
        .header("x-api-key", &key_text);
    let mut stream = stream.send().await.unwrap();
    assert_eq!(stream.status(), 200);

    let dir = first.dir.path();
    let (code, list) = key(dir, &["list"]);
    assert_eq!(code, 0);
    assert!(list.contains(&id) && list.contains("ci"), "{list}");
    assert!(!list.contains(&key_text[20..]), "{list}");
    assert_eq!(key(dir, &["revoke", "ffffffffffffffff"]).0, 1);
    assert_eq!(key(dir, &["revoke", &id]).0, 0);
    for node in [&first, &second] {
        let took = until(node, &key_text, 401).await;
        assert!(took < Duration::from_millis(1_500), "{took:?}");
    }
    assert_eq!(
        problem(ask(&first, &key_text).await).await,
        (401, "invalid-api-key".into())
    );
    let ended = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(2), ended)
        .await
        .unwrap();
    let (_, list) = key(dir, &["list", "--json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["state"], "revoked");
    assert_eq!(list[1]["state"], "good");
    // A revoked user is refused whatever he brings.
    let (_, banned) = make(&first, "revoked", "stock:read");
    until(&first, &banned, 403).await;
}

#[tokio::test]
async fn a_file_that_breaks_makes_every_key_unavailable() {
    let edge = Edge::with(options()).await;
    let (_, key_text) = make(&edge, "ci", "stock:read");
    until(&edge, &key_text, 200).await;
    let seen = edge.bus.seen.lock().len();
    std::fs::write(edge.dir.path().join("keys.json"), "{").unwrap();
    until(&edge, &key_text, 503).await;
    std::fs::remove_file(edge.dir.path().join("keys.json")).unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(ask(&edge, &key_text).await.status(), 503);
    assert!(edge.bus.seen.lock().len() >= seen);
}
