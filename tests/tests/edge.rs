//! The edge as a process of its own on a real bus: what the bus tells it while it runs
//! changes what its clients get.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use bulla_envelope::Revoked;
use bulla_gateway::cli::{self, GatewayArgs};
use bulla_keyring::SigningKey;
use bulla_process::LogFormat;
use bulla_sdk::{Client, ContentType, Message, Service, ServiceError};
use bulla_tests::{Bus, access_token, gateway_file, key_set, now, serve_keys};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);
/// Names the configuration of a process that is to be an edge.
const VARIABLE: &str = "BULLA_TEST_EDGE_CONFIG";

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.orders]
attest = [{ nkey = "@orders@" }]

[subject."orders.>"]
user = "required"
[stream.KEPT]
subjects = ["kept.>"]
[subject."kept.>"]
replay = "stream"
max_age = "1h"

[[allow]]
id = "orders-serves"
who = ["orders"]
may = ["serve"]
on = ["orders.get", "orders.count"]
[[allow]]
id = "orders-tells"
who = ["orders"]
may = ["publish"]
on = ["changes.told"]
"#;

/// What the edge may do; some policies below lack a part.
const ASKS: &str = r#"
[[allow]]
id = "edge-asks"
who = ["edge"]
may = ["request"]
on = ["orders.get"]
"#;
const COUNTS: &str = r#"
[[allow]]
id = "edge-counts"
who = ["edge"]
may = ["request"]
on = ["orders.count"]
"#;
const LISTENS: &str = r#"
[[allow]]
id = "edge-listens"
who = ["edge"]
may = ["subscribe"]
on = ["changes.told"]
[[allow]]
id = "edge-reads"
who = ["edge"]
may = ["consume"]
on = ["KEPT.edge"]
"#;

const ROUTES: &str = r#"
[[route]]
method = "GET"
path = "/orders"
subject = "orders.get"
mode = "request"
auth = "jwt"
issuer = "@issuer@"
audience = "https://shop.example"

[[route]]
method = "GET"
path = "/changes"
subject = "changes.told"
mode = "stream"
auth = "jwt"
issuer = "@issuer@"
audience = "https://shop.example"

[[route]]
method = "GET"
path = "/kept"
subject = "kept.changes"
mode = "stream"
auth = "jwt"
issuer = "@issuer@"
audience = "https://shop.example"
"#;
const MORE_ROUTES: &str = r#"
[[route]]
method = "GET"
path = "/count"
subject = "orders.count"
mode = "request"
auth = "jwt"
issuer = "@issuer@"
audience = "https://shop.example"
"#;

/// Not a test: the edge, if this process was started to be one.
#[test]
fn edge_process() {
    let Some(config) = std::env::var_os(VARIABLE) else {
        return;
    };
    let code = cli::run(&GatewayArgs {
        config: config.into(),
        command: None,
        log: LogFormat::Json,
        until_stdin_closes: true,
    });
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

/// A bus with an edge in a process of its own, an issuer, and a service.
struct Shop {
    bus: Bus,
    issuer: String,
    key: SigningKey,
    url: String,
    http: reqwest::Client,
    orders: Client,
    dir: TempDir,
    _service: Service,
    _edge: Child,
}

impl Shop {
    async fn open() -> Self {
        let bus = Bus::start(&format!("{POLICY}{ASKS}{LISTENS}")).await;
        let key = SigningKey::from_seed(&[3; 32]);
        let issuer = serve_keys(&key_set(&key)).await;
        let orders = bus.client("orders").await;
        let service = orders
            .serve("orders.get", async |_: Message<Value>| {
                Ok::<_, ServiceError>(json!({ "orders": ["tea"] }))
            })
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        write_routes(dir.path(), ROUTES, &issuer);
        let text = gateway_file(&bus, "edge", "127.0.0.1:0", &issuer);
        let file = dir.path().join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        let mut edge = Command::new(std::env::current_exe().unwrap())
            .args(["edge_process", "--exact", "--nocapture"])
            .env(VARIABLE, &file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(edge.stdout.take().unwrap()).lines();
        let address = timeout(LIMIT, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let json = line.find('{').and_then(|start| line.get(start..));
                if let Some(Ok(event)) = json.map(serde_json::from_str::<Value>)
                    && event["message"] == "the gateway listens"
                {
                    return event["address"].as_str().unwrap().to_owned();
                }
            }
            panic!("the edge ended");
        })
        .await
        .expect("an edge that listens");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let shop = Self {
            bus,
            issuer,
            key,
            url: format!("http://{address}"),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            orders,
            dir,
            _service: service,
            _edge: edge,
        };
        shop.until("/orders", "warm", 200).await;
        shop
    }

    fn token(&self, id: &str) -> String {
        let at = now().as_secs();
        let claims = json!({"iss": self.issuer, "aud": "https://shop.example", "sub": "alice",
            "client_id": "c", "jti": id, "iat": at, "exp": at + 300});
        access_token(&self.key, &claims)
    }

    async fn get(&self, path: &str, token_id: &str) -> reqwest::Response {
        let request = self.http.get(format!("{}{path}", self.url));
        request
            .bearer_auth(self.token(token_id))
            .send()
            .await
            .unwrap()
    }

    /// Asks until it is answered so; how long that took.
    async fn until(&self, path: &str, token_id: &str, status: u16) -> Duration {
        let started = Instant::now();
        loop {
            let got = self.get(path, token_id).await.status().as_u16();
            if got == status {
                return started.elapsed();
            }
            assert!(started.elapsed() < LIMIT, "{path} is {got}, not {status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn listen(&self, token_id: &str) -> Events {
        self.listen_to("/changes", token_id).await
    }

    async fn listen_to(&self, path: &str, token_id: &str) -> Events {
        let response = self.get(path, token_id).await;
        assert_eq!(response.status(), 200);
        let mut events = Events(response);
        assert_eq!(events.next().await.as_deref(), Some("retry: 2000\n\n"));
        events
    }
}

struct Events(reqwest::Response);

impl Events {
    /// What comes next of the stream; nothing once it has ended.
    async fn next(&mut self) -> Option<String> {
        let chunk = timeout(LIMIT, self.0.chunk()).await.expect("something");
        let chunk = chunk.ok().flatten()?;
        Some(String::from_utf8(chunk.to_vec()).unwrap())
    }

    /// How long it takes until the stream has ended.
    async fn ended(mut self) -> Duration {
        let started = Instant::now();
        while self.next().await.is_some() {
            assert!(started.elapsed() < LIMIT, "the stream goes on");
        }
        started.elapsed()
    }
}

fn write_routes(dir: &Path, routes: &str, issuer: &str) {
    let routes = routes.replace("@issuer@", issuer);
    std::fs::write(dir.join("routes.toml"), routes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_policy_has_the_edge_read_its_routes_and_ends_what_it_no_longer_allows() {
    let shop = Shop::open().await;
    let counts = shop
        .orders
        .serve("orders.count", async |_: Message<Value>| {
            Ok::<_, ServiceError>(1)
        });
    let _counts = counts.await.unwrap();
    let listening = shop.listen("a").await;
    let reading = shop.listen_to("/kept", "a").await;
    // Written for the next policy: nothing happens before that comes.
    let routes = format!("{ROUTES}{MORE_ROUTES}");
    write_routes(shop.dir.path(), &routes, &shop.issuer);
    assert_eq!(shop.get("/count", "a").await.status(), 404);
    shop.bus
        .publish_policy(&format!("{POLICY}{ASKS}{COUNTS}{LISTENS}"))
        .await;
    shop.until("/count", "a", 200).await;
    assert_eq!(shop.get("/orders", "a").await.status(), 200);

    // Without the right to listen and to ask, what is open ends, and neither begins anew.
    shop.bus.publish_policy(&format!("{POLICY}{COUNTS}")).await;
    let (live, stored) = tokio::join!(listening.ended(), reading.ended());
    assert!(
        live.max(stored) < Duration::from_secs(5),
        "{live:?} {stored:?}"
    );
    shop.until("/orders", "a", 403).await;
    for path in ["/changes", "/kept"] {
        assert_eq!(shop.get(path, "a").await.status(), 403, "{path}");
    }
    // What is still allowed goes on.
    shop.until("/count", "a", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_publishes_reaches_a_browser_as_text_or_as_base64() {
    let shop = Shop::open().await;
    let mut listening = shop.listen("a").await;
    // MessagePack, which services publish unless they say otherwise.
    let change = json!({"order": 7, "is": ["paid", null, -1.5], "by": {"name": "Zoë\n"}});
    shop.orders.publish("changes.told", &change).await.unwrap();
    let told = listening.next().await.unwrap();
    let data = told.strip_prefix("data: ").unwrap().trim_end();
    assert_eq!(serde_json::from_str::<Value>(data).unwrap(), change);
    let message = shop.orders.message("changes.told");
    let binary = message.bytes(ContentType::parse("image/png"), vec![0xff, 0, 10, 10]);
    binary.publish().await.unwrap();
    let told = listening.next().await.unwrap();
    assert_eq!(told, "event: base64\ndata: /wAKCg==\n\n");
    let message = shop.orders.message("changes.told");
    let text = message.bytes(ContentType::parse("text/plain"), b"a\n\nid: 1\nb".to_vec());
    text.publish().await.unwrap();
    let told = listening.next().await.unwrap();
    assert_eq!(told, "data: a\ndata: \ndata: id: 1\ndata: b\n\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_by_its_id_ends_what_it_began_and_opens_nothing() {
    let shop = Shop::open().await;
    let (stolen, mut good) = (shop.listen("stolen").await, shop.listen("good").await);
    assert_eq!(shop.get("/orders", "stolen").await.status(), 200);
    shop.bus.revoke(Revoked::Token("stolen".to_owned())).await;
    let took = stolen.ended().await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    for path in ["/orders", "/changes"] {
        let refused = shop.get(path, "stolen").await;
        assert_eq!(refused.status(), 401, "{path}");
        let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
    // The same user's other token, and what it has begun.
    assert_eq!(shop.get("/orders", "good").await.status(), 200);
    shop.orders.publish("changes.told", &1).await.unwrap();
    assert_eq!(good.next().await.as_deref(), Some("data: 1\n\n"));
    // A user takes all his tokens along.
    shop.bus.revoke(Revoked::User("alice".to_owned())).await;
    assert!(good.ended().await < Duration::from_secs(3));
    assert_eq!(shop.get("/orders", "good").await.status(), 403);
}
