//! The example shop on a bus: an HTTP edge, two services, and an issuer of
//! access tokens, all in this process.

use std::time::Duration;

use bulla_examples::shop;
use bulla_gateway::{Gateway, GatewayConfig, SealedBus};
use bulla_keyring::SigningKey;
use bulla_process::CancellationToken;
use bulla_sdk::Client;
use bulla_token::TokenSigningKey;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{Bus, access_token, gateway_file, key_set, now, serve_keys};

/// What the shop's workloads may do.
pub const SHOP_POLICY: &str = r#"
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

/// The example shop: an edge, two services, an issuer of access tokens.
#[derive(Debug)]
pub struct Shop {
    /// The bus.
    pub bus: Bus,
    /// The issuer of access tokens, and where its keys are.
    pub issuer: String,
    /// The issuer's key.
    pub key: SigningKey,
    /// Where the edge listens.
    pub url: String,
    /// Where it answers its administrators.
    pub admin_url: String,
    /// An HTTP client.
    pub http: reqwest::Client,
    stop: CancellationToken,
    /// Ends the service `orders`.
    pub orders_stop: CancellationToken,
    tasks: JoinSet<()>,
    _dir: TempDir,
}

impl Shop {
    /// The shop, open for business.
    pub async fn open() -> Self {
        Box::pin(Self::open_with(Bus::start(SHOP_POLICY).await)).await
    }

    /// The shop on a bus of its own kind.
    pub async fn open_with(bus: Bus) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let key = SigningKey::from_seed(&[3; 32]);
        let issuer = serve_keys(&key_set(&key)).await;

        let orders_stop = stop.child_token();
        let (options, until) = (bus.connect_options("orders"), orders_stop.clone());
        tasks.spawn(async move { shop::orders::run(options, until).await.unwrap() });
        let (options, until) = (bus.connect_options("billing"), stop.clone());
        tasks.spawn(async move { shop::billing::run(options, until).await.unwrap() });

        let dir = tempfile::tempdir().unwrap();
        let routes = ROUTES.replace("@issuer@", &issuer);
        std::fs::write(dir.path().join("routes.toml"), routes).unwrap();
        let mut config = gateway_file(&bus, "gateway", "127.0.0.1:0", &issuer);
        config.push_str("[admin]\naddress = \"127.0.0.1:0\"\n");
        let path = dir.path().join("gateway.toml");
        std::fs::write(&path, config).unwrap();
        let config = GatewayConfig::load(&path).unwrap();
        let options = bus.connect_options("gateway").token_key(&[5; 32]);
        let client = Client::connect(options).await.unwrap();
        let bus_of_edge = SealedBus::new(client);
        let gateway = Gateway::new(config, bus_of_edge, TokenSigningKey::from_seed([5; 32]))
            .await
            .unwrap();
        let url = format!("http://{}", gateway.address());
        let admin_url = format!("http://{}", gateway.admin_address().unwrap());
        tasks.spawn(gateway.run(stop.clone()));

        let shop = Self {
            bus,
            issuer,
            key,
            url,
            admin_url,
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

    /// Claims of an access token that the edge takes.
    #[must_use]
    pub fn claims(&self, user: &str, scope: &str) -> Value {
        let now = now().as_secs();
        json!({
            "iss": self.issuer, "aud": "https://shop.example", "sub": user, "scope": scope,
            "client_id": "test", "jti": "j", "iat": now, "exp": now + 300,
        })
    }

    /// An access token.
    #[must_use]
    pub fn token(&self, user: &str, scope: &str) -> String {
        self.sign(&self.claims(user, scope))
    }

    /// A token with whatever claims.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        access_token(&self.key, claims)
    }

    /// Orders three of clay.
    pub async fn order(&self, token: Option<&str>) -> Response {
        self.order_item("clay", token).await
    }

    /// Orders three of something.
    pub async fn order_item(&self, item: &str, token: Option<&str>) -> Response {
        let mut request = self.http.post(format!("{}/v1/orders", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request
            .json(&json!({"item": item, "quantity": 3}))
            .send()
            .await
            .unwrap()
    }

    /// Gets a path of the edge.
    pub async fn get(&self, path: &str, token: &str) -> Response {
        self.http
            .get(format!("{}{path}", self.url))
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
    }

    /// Ends everything.
    pub async fn close(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                assert!(error.is_cancelled(), "{error}");
            }
        }
    }
}
