//! The token attack table: nothing of it reaches the bus.

use crate::setup::*;
use aws_lc_rs::hmac;
use aws_lc_rs::signature::KeyPair as _;
use bulla_token::{TokenSigningKey, TransactionClaims, mint_transaction_token};
use data_encoding::BASE64URL_NOPAD as B64;
use serde_json::{Value, json};
use std::time::Duration;

async fn refused(edge: &Edge, token: &str) {
    let response = edge
        .get("/v1/orders/1")
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    let header = response.headers()["www-authenticate"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(header, "Bearer realm=\"api\", error=\"invalid_token\"");
    // Outside uniform: whatever is wrong with a token, the answer is the same.
    assert_eq!(problem(response).await, (401, "invalid-token".into()));
    assert!(edge.bus.untouched());
}

async fn refused_claims(changes: Value) {
    let edge = Edge::start().await;
    refused(&edge, &edge.issuer.token_with(changes)).await;
}

async fn refused_header(changes: Value) {
    let edge = Edge::start().await;
    let header = with(edge.issuer.header(), changes);
    let token = edge.issuer.key().sign(&header, &edge.issuer.claims());
    refused(&edge, &token).await;
}

#[tokio::test]
async fn a_good_token_passes_again_and_again() {
    let edge = Edge::start().await;
    let token = edge.issuer.token();
    for _ in 0..3 {
        let request = edge.get("/v1/orders/1").bearer_auth(&token);
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn alg_none_is_refused() {
    let edge = Edge::start().await;
    for alg in ["none", "None", "NONE"] {
        let header = with(edge.issuer.header(), json!({"alg": alg}));
        refused(
            &edge,
            &sign_with(&header, &edge.issuer.claims(), |_| Vec::new()),
        )
        .await;
        refused(
            &edge,
            &edge.issuer.key().sign(&header, &edge.issuer.claims()),
        )
        .await;
    }
}

#[tokio::test]
async fn hs256_with_the_public_key_is_refused() {
    let edge = Edge::start().await;
    let header = with(edge.issuer.header(), json!({"alg": "HS256"}));
    let key = edge.issuer.key();
    for secret in [
        key.pair.public_key().as_ref().to_vec(),
        key.jwk().to_string().into_bytes(),
    ] {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let token = sign_with(&header, &edge.issuer.claims(), |m| {
            hmac::sign(&secret, m).as_ref().to_vec()
        });
        refused(&edge, &token).await;
    }
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    refused_claims(json!({"exp": now() - 31, "iat": now() - 400})).await;
}

#[tokio::test]
async fn a_cached_token_is_refused_once_it_has_expired() {
    let edge = Edge::with(Options {
        issuer: "leeway = \"0s\"",
        ..Options::default()
    })
    .await;
    // Two seconds are left: the transaction token of the first request needs one.
    let token = edge.issuer.token_with(json!({"exp": now() + 3}));
    let ask = || edge.get("/v1/orders/1").bearer_auth(&token).send();
    assert_eq!(ask().await.unwrap().status(), 200);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while ask().await.unwrap().status() == 200 {
        assert!(
            std::time::Instant::now() < deadline,
            "the token never expired"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ask().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_token_before_its_time_is_refused() {
    refused_claims(json!({"nbf": now() + 120})).await;
    refused_claims(json!({"iat": now() + 120})).await;
}

#[tokio::test]
async fn another_audience_is_refused() {
    refused_claims(json!({"aud": "https://other.example"})).await;
    refused_claims(json!({"aud": null})).await;
}

#[tokio::test]
async fn another_issuer_is_refused() {
    refused_claims(json!({"iss": "https://evil.example"})).await;
}

#[tokio::test]
async fn a_missing_subject_is_refused() {
    refused_claims(json!({"sub": null})).await;
}

#[tokio::test]
async fn another_typ_is_refused() {
    refused_header(json!({"typ": "JWT"})).await;
    refused_header(json!({"typ": null})).await;
}

#[tokio::test]
async fn attack_11_keys_that_the_token_brings_or_points_to_are_refused_without_a_request() {
    let edge = Edge::start().await;
    assert_eq!(
        edge.get("/v1/orders/1")
            .bearer_auth(edge.issuer.token())
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    edge.bus.seen.lock().clear();
    let elsewhere = Issuer::start().await;
    let mallory = IssuerKey::new("m");
    for extra in [
        json!({"jwk": mallory.jwk()}),
        json!({"jku": format!("{}/jwks.json", elsewhere.url)}),
        json!({"x5u": elsewhere.url}),
        json!({"kid": format!("{}/jwks.json", elsewhere.url), "jku": elsewhere.url}),
    ] {
        let header = with(edge.issuer.header(), extra);
        refused(&edge, &mallory.sign(&header, &edge.issuer.claims())).await;
    }
    let foreign = with(edge.issuer.claims(), json!({"iss": elsewhere.url}));
    refused(&edge, &elsewhere.key().sign(&elsewhere.header(), &foreign)).await;
    assert_eq!(elsewhere.fetches(), 0);
}

#[tokio::test]
async fn compression_and_critical_extensions_are_refused() {
    refused_header(json!({"zip": "DEF"})).await;
    refused_header(json!({"crit": ["exp"]})).await;
}

#[tokio::test]
async fn an_oversized_token_is_refused() {
    let edge = Edge::start().await;
    refused(
        &edge,
        &edge.issuer.token_with(json!({"pad": "x".repeat(8000)})),
    )
    .await;
}

#[tokio::test]
async fn a_forged_signature_is_refused_and_does_not_displace_the_good_token() {
    let edge = Edge::start().await;
    let mallory = IssuerKey {
        kid: "k1".into(),
        ..IssuerKey::new("k1")
    };
    refused(
        &edge,
        &mallory.sign(&edge.issuer.header(), &edge.issuer.claims()),
    )
    .await;
    let response = edge
        .get("/v1/orders/1")
        .bearer_auth(edge.issuer.token())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_transaction_token_is_refused_as_an_access_token() {
    let edge = Edge::start().await;
    let mut claims = TransactionClaims::new("t", "alice", "spiffe://acme.example/gateway");
    claims.scope = "orders:read".into();
    claims.issued = bulla_identity::UnixMillis::from_secs(now());
    claims.expires = bulla_identity::UnixMillis::from_secs(now() + 60);
    let domain = bulla_identity::TrustDomain::parse("acme.example").unwrap();
    let key = TokenSigningKey::from_seed(SEED);
    refused(
        &edge,
        &mint_transaction_token(&key, KID, &domain, &claims).unwrap(),
    )
    .await;
    // Not even the one that the edge itself has just made.
    edge.get("/v1/orders/1")
        .bearer_auth(edge.issuer.token())
        .send()
        .await
        .unwrap();
    let own = edge.bus.last().token.unwrap().as_str().to_owned();
    edge.bus.seen.lock().clear();
    refused(&edge, &own).await;
}

#[tokio::test]
async fn attack_21_two_authorization_headers_are_refused_and_the_connection_closed() {
    let edge = Edge::start().await;
    let token = edge.issuer.token();
    for (second, path) in [
        ("Bearer x", "/v1/orders/1"),
        (&*format!("Bearer {token}"), "/v1/orders/1"),
        ("Basic a", "/health"),
    ] {
        let answer = edge
            .raw(&format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nauthorization: {second}\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("error=\"invalid_request\""), "{answer}");
        assert!(
            answer.to_ascii_lowercase().contains("connection: close"),
            "{answer}"
        );
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_token_in_the_query_is_no_token() {
    let edge = Edge::start().await;
    let path = format!("/v1/orders/1?access_token={}", edge.issuer.token());
    let response = edge.get(&path).send().await.unwrap();
    assert_eq!(problem(response).await, (401, "unauthorized".into()));
}

#[tokio::test]
async fn a_scope_is_a_whole_word() {
    let edge = Edge::start().await;
    for scope in [
        "orders:readx",
        "xorders:read",
        "orders",
        "orders:*",
        "ORDERS:READ",
        "",
    ] {
        let token = edge.issuer.token_with(json!({"scope": scope}));
        let response = edge
            .get("/v1/orders/1")
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        assert_eq!(
            problem(response).await,
            (403, "insufficient-scope".into()),
            "{scope}"
        );
    }
    let token = edge.issuer.token_with(json!({"scope": null}));
    let response = edge
        .get("/v1/orders/1")
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 403);
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_token_for_one_audience_does_not_open_a_route_of_another() {
    let routes = r#"
[[route]]
method = "GET"
path = "/a"
subject = "a.get"
mode = "request"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"

[[route]]
method = "GET"
path = "/b"
subject = "b.get"
mode = "request"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://b.example"
"#;
    let edge = Edge::with(Options {
        routes: Some(routes),
        ..Options::default()
    })
    .await;
    let token = edge.issuer.token();
    // The first use puts it into the cache of validated tokens.
    for (path, status) in [("/a", 200), ("/b", 401), ("/a", 200)] {
        let response = edge.get(path).bearer_auth(&token).send().await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
}

/// Every rule of [RFC 8725] and of this crate's README that a token can break by itself, on
/// one edge, signed by the issuer's own key wherever a signature can be made.
///
/// [RFC 8725]: https://www.rfc-editor.org/rfc/rfc8725
#[tokio::test]
async fn every_row_of_the_table_of_token_attacks_is_refused() {
    let edge = Edge::start().await;
    let key = edge.issuer.key();
    let (good_header, good_claims) = (edge.issuer.header(), edge.issuer.claims());
    let signed = |header: &str, claims: &str| {
        let text = format!(
            "{}.{}",
            B64.encode(header.as_bytes()),
            B64.encode(claims.as_bytes())
        );
        let signature = key.pair.sign(text.as_bytes());
        format!("{text}.{}", B64.encode(signature.as_ref()))
    };
    let (header, claims) = (good_header.to_string(), good_claims.to_string());
    let sound = signed(&header, &claims);
    let ask = edge.get("/v1/orders/1").bearer_auth(&sound).send();
    assert_eq!(ask.await.unwrap().status(), 200);
    let mut table: Vec<(String, String)> = Vec::new();
    let mut row = |what: &str, token: String| table.push((what.to_owned(), token));

    for changes in [
        json!({"alg": "RSA1_5"}),
        json!({"alg": "PBES2-HS256+A128KW", "p2c": 100_000_000, "p2s": "AAAA"}),
        json!({"alg": "dir"}),
        json!({"alg": "ES512"}),
        json!({"alg": "eddsa"}),
        json!({"alg": ["EdDSA"]}),
        json!({"alg": null}),
        json!({"zip": "DEF"}),
        json!({"enc": "A256GCM"}),
        json!({"cty": "JWT"}),
        json!({"crit": ["exp"]}),
        json!({"crit": []}),
        json!({"b64": false}),
        json!({"epk": {}}),
        json!({"p2c": 1}),
        json!({"kid": 1}),
        json!({"kid": ""}),
        json!({"kid": "k".repeat(300)}),
        json!({"typ": "dpop+jwt"}),
        json!({"typ": "txntoken+jwt"}),
    ] {
        let header = with(good_header.clone(), changes.clone());
        row(
            &format!("header {changes}"),
            signed(&header.to_string(), &claims),
        );
    }
    for changes in [
        json!({"exp": "2030-01-01"}),
        json!({"exp": now() as f64 + 300.5}),
        json!({"exp": -1}),
        json!({"exp": 1e30}),
        json!({"exp": null}),
        json!({"exp": true}),
        json!({"nbf": "soon"}),
        json!({"iat": "now"}),
        json!({"iat": null}),
        json!({"jti": null}),
        json!({"client_id": null}),
        json!({"aud": []}),
        json!({"aud": [1]}),
        json!({"aud": {"a": AUDIENCE}}),
        json!({"aud": [AUDIENCE, 1]}),
        json!({"sub": 1}),
        json!({"sub": ""}),
        json!({"sub": "a\nb"}),
        json!({"iss": [edge.issuer.url]}),
        json!({"iss": format!("{}/", edge.issuer.url)}),
        json!({"scope": ["orders:read"]}),
        json!({"scope": "orders:read\u{0}"}),
    ] {
        let claims = with(good_claims.clone(), changes.clone());
        row(
            &format!("claims {changes}"),
            signed(&header, &claims.to_string()),
        );
    }
    let twice = |text: &str, member: &str| format!("{{{member},{}", &text[1..]);
    row(
        "two algorithms",
        signed(&twice(&header, "\"alg\":\"none\""), &claims),
    );
    row(
        "two users",
        signed(&header, &twice(&claims, "\"sub\":\"mallory\"")),
    );
    row(
        "two users, one escaped",
        signed(&header, &twice(&claims, "\"s\\u0075b\":\"mallory\"")),
    );
    row("claims are a list", signed(&header, "[]"));
    row("claims and more", signed(&header, &format!("{claims}{{}}")));
    row("claims of nothing", signed(&header, ""));
    row(
        "deep claims",
        signed(
            &header,
            &twice(
                &claims,
                &format!("\"x\":{}{}", "[".repeat(200), "]".repeat(200)),
            ),
        ),
    );
    row(
        "a token in a token",
        signed(
            &with(good_header.clone(), json!({"cty": "JWT"})).to_string(),
            &sound,
        ),
    );
    row("five parts", format!("{sound}.x.y"));
    row("two parts", sound.rsplit_once('.').unwrap().0.to_owned());
    row(
        "no signature",
        format!("{}.", sound.rsplit_once('.').unwrap().0),
    );
    row("padded", format!("{sound}="));
    row("other alphabet", sound.replacen('.', "+.", 1));
    row("a byte more", format!("{sound}A"));
    let json = json!({"payload": "x", "protected": "y", "signature": "z"}).to_string();
    row("JSON serialisation", json.replace('"', "'"));
    for (what, token) in table {
        let request = edge
            .get("/v1/orders/1")
            .header("authorization", format!("Bearer {token}"));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401, "{what}");
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
        assert!(
            challenge.contains("error=\"invalid_token\""),
            "{what}: {challenge}"
        );
    }
    assert_eq!(edge.bus.seen.lock().len(), 1);
}
