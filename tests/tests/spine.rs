//! The whole path: an HTTP client, the edge, sealed messages, an enforcing
//! broker and nats-server, two services and back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use aws_lc_rs::hmac;
use bulla_examples::shop;
use bulla_gateway::{Gateway, GatewayConfig};
use bulla_keyring::SigningKey;
use bulla_process::CancellationToken;
use bulla_sdk::Client;
use bulla_tests::{Bus, now};
use bulla_token::TokenSigningKey;
use data_encoding::BASE64URL_NOPAD;
use futures_util::StreamExt;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const POLICY: &str = r#"
version = 1
trust_domain = "shop.example"

[workload.gateway]
attest = [{ nkey = "@gateway@" }]
mints = true
[workload.orders]
attest = [{ nkey = "@orders@" }]
[workload.billing]
attest = [{ nkey = "@billing@" }]
[workload.wiretap]
attest = [{ nkey = "@wiretap@" }]

[subject."orders.>"]
user = "required"
[subject."billing.>"]
user = "required"

[[allow]]
id = "edge-creates"
who = ["gateway"]
may = ["request"]
on = ["orders.create"]
user = { scope = "orders:write" }
[[allow]]
id = "edge-reads"
who = ["gateway"]
may = ["request"]
on = ["orders.get"]
user = { scope = "orders:read" }
[[allow]]
id = "edge-notes"
who = ["gateway"]
may = ["publish"]
on = ["orders.noted"]
[[allow]]
id = "orders-serves"
who = ["orders"]
may = ["serve"]
on = ["orders.create", "orders.get"]
[[allow]]
id = "orders-asks-and-tells"
who = ["orders"]
may = ["request", "publish"]
on = ["billing.quote", "orders.created"]
[[allow]]
id = "billing-serves"
who = ["billing"]
may = ["serve"]
on = ["billing.quote"]
[[allow]]
id = "billing-listens"
who = ["billing", "wiretap"]
may = ["subscribe"]
on = ["orders.created", "orders.noted"]
[[allow]]
id = "wiretap-listens"
who = ["wiretap"]
may = ["subscribe"]
on = ["billing.quote", "orders.create"]
# A user whom only the policy knows to refuse.
[[deny]]
id = "banned"
who = ["gateway"]
may = ["request"]
on = ["orders.create"]
user = { sub = "mallory" }
"#;

const ROUTES: &str = r#"
[[route]]
method = "POST"
path = "/v1/orders"
subject = "orders.create"
mode = "request"
auth = "jwt"
issuer = "@issuer@"
audience = "https://shop.example"
scope = "orders:write"

[[route]]
method = "GET"
path = "/v1/orders/{id}"
subject = "orders.get"
mode = "request"
auth = "jwt"
issuer = "@issuer@"
audience = "https://shop.example"
scope = "orders:read"

[[route]]
method = "POST"
path = "/v1/notes"
subject = "orders.noted"
mode = "publish"
auth = "jwt"
issuer = "@issuer@"
audience = "https://shop.example"
"#;

const KID: &str = "k1";

struct Shop {
    bus: Bus,
    issuer: String,
    key: SigningKey,
    url: String,
    http: reqwest::Client,
    stop: CancellationToken,
    orders_stop: CancellationToken,
    tasks: JoinSet<()>,
    _dir: TempDir,
}

impl Shop {
    async fn open() -> Self {
        let bus = Bus::start(POLICY).await;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let key = SigningKey::from_seed(&[3; 32]);
        let issuer = serve_keys(&key, &mut tasks, stop.clone()).await;

        let orders_stop = stop.child_token();
        let (options, until) = (bus.connect_options("orders"), orders_stop.clone());
        tasks.spawn(async move { shop::orders::run(options, until).await.unwrap() });
        let (options, until) = (bus.connect_options("billing"), stop.clone());
        tasks.spawn(async move { shop::billing::run(options, until).await.unwrap() });

        let dir = tempfile::tempdir().unwrap();
        let routes = ROUTES.replace("@issuer@", &issuer);
        std::fs::write(dir.path().join("routes.toml"), routes).unwrap();
        let config = format!(
            r#"
            routes = "routes.toml"
            [bus]
            url = "{}"
            workload = "{}"
            seed_file = "{}"
            trust_root_file = "{}"
            [listen]
            address = "127.0.0.1:0"
            [[issuer]]
            issuer = "{issuer}"
            jwks_url = "{issuer}/jwks.json"
            "#,
            bus.nats_url(),
            bus.workload("gateway"),
            bus.seed_file("gateway").display(),
            bus.root_file().display(),
        );
        let path = dir.path().join("gateway.toml");
        std::fs::write(&path, config).unwrap();
        let config = GatewayConfig::load(&path).unwrap();
        let options = bus.connect_options("gateway").token_key(&[5; 32]);
        let client = Client::connect(options).await.unwrap();
        let gateway = Gateway::new(config, client, TokenSigningKey::from_seed([5; 32]))
            .await
            .unwrap();
        let url = format!("http://{}", gateway.address());
        tasks.spawn(gateway.run(stop.clone()));

        let shop = Self {
            bus,
            issuer,
            key,
            url,
            http: reqwest::Client::new(),
            stop,
            orders_stop,
            tasks,
            _dir: dir,
        };
        // Open when it can be bought from.
        let token = shop.token("opener", "orders:write");
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let response = shop.order(Some(&token)).await;
            if response.status() == StatusCode::CREATED {
                return shop;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "still {}",
                response.status()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn claims(&self, user: &str, scope: &str) -> Value {
        let now = now().as_secs();
        json!({
            "iss": self.issuer, "aud": "https://shop.example", "sub": user, "scope": scope,
            "client_id": "test", "jti": "j", "iat": now, "exp": now + 300,
        })
    }

    fn token(&self, user: &str, scope: &str) -> String {
        self.sign(&self.claims(user, scope))
    }

    fn sign(&self, claims: &Value) -> String {
        let input = signing_input(
            &json!({"alg": "EdDSA", "typ": "at+jwt", "kid": KID}),
            claims,
        );
        let signature = self.key.sign_text(&input);
        format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_bytes()))
    }

    async fn order(&self, token: Option<&str>) -> Response {
        let mut request = self.http.post(format!("{}/v1/orders", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request
            .json(&json!({"item": "clay", "quantity": 3}))
            .send()
            .await
            .unwrap()
    }

    async fn get(&self, path: &str, token: &str) -> Response {
        self.http
            .get(format!("{}{path}", self.url))
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
    }

    async fn close(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                assert!(error.is_cancelled(), "{error}");
            }
        }
    }
}

fn signing_input(header: &Value, claims: &Value) -> String {
    let encode = |v: &Value| BASE64URL_NOPAD.encode(v.to_string().as_bytes());
    format!("{}.{}", encode(header), encode(claims))
}

/// A JWKS endpoint on a real socket, for as long as the test runs.
async fn serve_keys(key: &SigningKey, tasks: &mut JoinSet<()>, stop: CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = json!({"keys": [{
        "kty": "OKP", "crv": "Ed25519", "kid": KID, "alg": "EdDSA", "use": "sig",
        "x": BASE64URL_NOPAD.encode(key.verifying_key().as_bytes()),
    }]})
    .to_string();
    tasks.spawn(async move {
        loop {
            let mut socket = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted.unwrap().0,
            };
            let response = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let mut head = [0; 2048];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(response.as_bytes()).await;
        }
    });
    url
}

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
