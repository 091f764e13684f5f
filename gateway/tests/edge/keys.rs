//! The keys of the issuer: rotation, cooldown, staleness, and who may be asked.

use crate::setup::*;
use serde_json::json;
use std::time::Duration;

const FAST: &str = "refresh = \"1h\"\ncooldown = \"60s\"\nmax_stale = \"2h\"";

async fn status(edge: &Edge, token: &str) -> u16 {
    let request = edge.get("/v1/orders/1").bearer_auth(token);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_rotated_key_is_fetched_when_the_first_token_names_it() {
    let edge = Edge::with(Options {
        issuer: FAST,
        ..Options::default()
    })
    .await;
    assert_eq!(status(&edge, &edge.issuer.token()).await, 200);
    *edge.issuer.keys.lock() = vec![IssuerKey::new("k2"), edge.issuer.key()];
    assert_eq!(status(&edge, &edge.issuer.token()).await, 200);
    assert_eq!(edge.issuer.fetches(), 2);
}

#[tokio::test]
async fn a_token_of_a_key_that_was_removed_is_refused_though_it_was_cached() {
    let edge = Edge::with(Options {
        issuer: FAST,
        ..Options::default()
    })
    .await;
    let old = edge.issuer.token();
    assert_eq!(status(&edge, &old).await, 200);
    *edge.issuer.keys.lock() = vec![IssuerKey::new("k2")];
    // A token of the new key makes the edge fetch.
    assert_eq!(status(&edge, &edge.issuer.token()).await, 200);
    assert_eq!(status(&edge, &old).await, 401);
}

#[tokio::test]
async fn a_key_that_was_replaced_under_its_kid_verifies_nothing_any_more() {
    let edge = Edge::with(Options {
        issuer: FAST,
        ..Options::default()
    })
    .await;
    let old = edge.issuer.token();
    assert_eq!(status(&edge, &old).await, 200);
    *edge.issuer.keys.lock() = vec![IssuerKey::new("k1"), IssuerKey::new("k2")];
    let second = edge.issuer.keys.lock()[1].clone();
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k2"});
    assert_eq!(
        status(&edge, &second.sign(&header, &edge.issuer.claims())).await,
        200
    );
    assert_eq!(status(&edge, &old).await, 401);
}

#[tokio::test]
async fn unknown_kids_cause_one_fetch_for_each_cooldown_and_evict_nothing() {
    let edge = Edge::with(Options {
        issuer: FAST,
        ..Options::default()
    })
    .await;
    let good = edge.issuer.token();
    assert_eq!(status(&edge, &good).await, 200);
    let mallory = IssuerKey::new("m");
    for i in 0..20 {
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": format!("junk-{i}")});
        assert_eq!(
            status(&edge, &mallory.sign(&header, &edge.issuer.claims())).await,
            401
        );
    }
    assert_eq!(edge.issuer.fetches(), 2);
    assert_eq!(status(&edge, &good).await, 200);
}

#[tokio::test]
async fn a_cooldown_is_kept_when_the_fetch_fails_and_the_keys_stay() {
    let edge = Edge::with(Options {
        issuer: FAST,
        ..Options::default()
    })
    .await;
    let good = edge.issuer.token();
    assert_eq!(status(&edge, &good).await, 200);
    *edge.issuer.instead.lock() = Some("HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n".into());
    let mallory = IssuerKey::new("m");
    for i in 0..5 {
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": format!("junk-{i}")});
        assert_eq!(
            status(&edge, &mallory.sign(&header, &edge.issuer.claims())).await,
            401
        );
    }
    assert_eq!(edge.issuer.fetches(), 2);
    assert_eq!(status(&edge, &good).await, 200);
}

#[tokio::test]
async fn a_failed_fetch_does_not_lock_a_good_new_key_out() {
    let short = "refresh = \"1h\"\ncooldown = \"100ms\"\nmax_stale = \"2h\"";
    let edge = Edge::with(Options {
        issuer: short,
        ..Options::default()
    })
    .await;
    assert_eq!(status(&edge, &edge.issuer.token()).await, 200);
    *edge.issuer.keys.lock() = vec![IssuerKey::new("k2")];
    *edge.issuer.instead.lock() = Some("HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n".into());
    let token = edge.issuer.token();
    assert_eq!(status(&edge, &token).await, 401);
    *edge.issuer.instead.lock() = None;
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while status(&edge, &token).await != 200 {
        assert!(
            std::time::Instant::now() < deadline,
            "the new key stays locked out"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn requests_that_wait_for_the_same_key_share_one_fetch() {
    let edge = Edge::with(Options {
        issuer: FAST,
        ..Options::default()
    })
    .await;
    assert_eq!(status(&edge, &edge.issuer.token()).await, 200);
    *edge.issuer.keys.lock() = vec![IssuerKey::new("k2")];
    *edge.issuer.delay.lock() = Duration::from_millis(200);
    let token = edge.issuer.token();
    let asked: Vec<_> = (0..10).map(|_| status(&edge, &token)).collect();
    let statuses = futures_util::future::join_all(asked).await;
    assert_eq!(statuses, [200; 10]);
    assert_eq!(edge.issuer.fetches(), 2);
}

#[tokio::test]
async fn a_set_without_usable_keys_does_not_displace_a_good_one() {
    let short = "refresh = \"1s\"\ncooldown = \"100ms\"\nmax_stale = \"1h\"";
    let edge = Edge::with(Options {
        issuer: short,
        ..Options::default()
    })
    .await;
    let good = edge.issuer.token();
    assert_eq!(status(&edge, &good).await, 200);
    for bad in [
        "{}",
        "{\"keys\":[]}",
        "<html>",
        "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}",
    ] {
        *edge.issuer.instead.lock() = Some(ok_answer(bad));
        let before = edge.issuer.fetches();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while edge.issuer.fetches() == before {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(status(&edge, &good).await, 200, "{bad}");
    }
}

#[tokio::test]
async fn attack_20_keys_lapse_when_the_issuer_is_gone_for_too_long() {
    let short = "refresh = \"1s\"\ncooldown = \"100ms\"\nmax_stale = \"1s\"";
    let edge = Edge::with(Options {
        issuer: short,
        ..Options::default()
    })
    .await;
    let good = edge.issuer.token();
    assert_eq!(status(&edge, &good).await, 200);
    *edge.issuer.instead.lock() = Some("HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n".into());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while status(&edge, &good).await == 200 {
        assert!(
            std::time::Instant::now() < deadline,
            "the keys never lapsed"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let response = edge
        .get("/v1/orders/1")
        .bearer_auth(&good)
        .send()
        .await
        .unwrap();
    assert_eq!(problem(response).await, (503, "unavailable".into()));
}

#[tokio::test]
async fn an_issuer_that_comes_late_is_found() {
    let issuer = Issuer::start().await;
    *issuer.instead.lock() = Some("HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n".into());
    let short = Options {
        issuer: "cooldown = \"100ms\"",
        ..Options::default()
    };
    let edge = Edge::with_issuer(short, issuer, |_| {}).await;
    let good = edge.issuer.token();
    assert_eq!(status(&edge, &good).await, 503);
    let ready = edge.client.get(format!("http://{}/readyz", edge.admin));
    assert_eq!(ready.send().await.unwrap().status(), 503);
    *edge.issuer.instead.lock() = None;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while status(&edge, &good).await != 200 {
        assert!(
            std::time::Instant::now() < deadline,
            "the issuer is never asked again"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Issuer::start().await;
    let issuer = Issuer::start().await;
    *issuer.keys.lock() = elsewhere.keys.lock().clone();
    *issuer.instead.lock() = Some(format!(
        "HTTP/1.1 302 Found\r\nlocation: {}/jwks.json\r\ncontent-length: 0\r\n\r\n",
        elsewhere.url
    ));
    let edge = Edge::with_issuer(Options::default(), issuer, |_| {}).await;
    assert_eq!(status(&edge, &edge.issuer.token()).await, 503);
    assert_eq!(elsewhere.fetches(), 0);
}

#[tokio::test]
async fn an_endless_key_set_is_not_read_to_its_end() {
    let issuer = Issuer::start().await;
    let body = format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(300 * 1024));
    *issuer.instead.lock() = Some(ok_answer(&body));
    let edge = Edge::with_issuer(Options::default(), issuer, |_| {}).await;
    assert_eq!(status(&edge, &edge.issuer.token()).await, 503);
}

#[tokio::test]
async fn one_issuers_kid_is_never_looked_up_among_anothers() {
    let routes = r#"
[[route]]
method = "GET"
path = "/v1/orders/{id}"
subject = "orders.get"
mode = "request"
auth = "jwt"
issuer = ["@ISSUER@", "@OTHER@"]
audience = "https://api.example"
"#;
    let other = Issuer::start().await;
    let dir_options = Options {
        routes: Some(Box::leak(
            routes.replace("@OTHER@", &other.url).into_boxed_str(),
        )),
        issuer: Box::leak(
            format!(
                "[[issuer]]\nissuer = \"{0}\"\njwks_url = \"{0}/jwks.json\"",
                other.url
            )
            .into_boxed_str(),
        ),
        ..Options::default()
    };
    let edge = Edge::with(dir_options).await;
    // Both call their key `k1`.
    assert_eq!(status(&edge, &edge.issuer.token()).await, 200);
    assert_eq!(status(&edge, &other.token()).await, 200);
    let idp = transaction(&edge.bus.last());
    assert_eq!(idp.policy_claims().get("idp"), Some(&json!(other.url)));
    // Signed by one, claiming the other.
    let claims = with(edge.issuer.claims(), json!({"iss": other.url}));
    assert_eq!(
        status(
            &edge,
            &edge.issuer.key().sign(&edge.issuer.header(), &claims)
        )
        .await,
        401
    );
}

#[tokio::test]
async fn an_issuer_is_found_by_its_description_which_has_to_be_its_own() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let routes = "[[route]]\nmethod = \"GET\"\npath = \"/v1/orders/{id}\"\nsubject = \"orders.get\"\nmode = \"request\"\nauth = \"jwt\"\nissuer = \"@OTHER@\"\naudience = \"https://api.example\"\n";
    for (its_own, wanted) in [(true, 200), (false, 503)] {
        let keys = Issuer::start().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/realm", listener.local_addr().unwrap());
        let named = if its_own {
            &*url
        } else {
            "https://evil.example"
        };
        let description = json!({"issuer": named, "jwks_uri": format!("{}/keys", keys.url)});
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let is_asked =
                    head[..read].starts_with(b"GET /realm/.well-known/openid-configuration ");
                let answer = if is_asked {
                    ok_answer(&description.to_string())
                } else {
                    "HTTP/1.1 404 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned()
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let edge = Edge::with(Options {
            routes: Some(Box::leak(routes.replace("@OTHER@", &url).into_boxed_str())),
            issuer: Box::leak(format!("[[issuer]]\nissuer = \"{url}\"").into_boxed_str()),
            ..Options::default()
        })
        .await;
        let claims = with(keys.claims(), json!({ "iss": url }));
        let token = keys.key().sign(&keys.header(), &claims);
        assert_eq!(status(&edge, &token).await, wanted);
        assert_eq!(keys.fetches() > 0, its_own);
    }
}
