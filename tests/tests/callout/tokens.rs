//! Workloads that connect by tokens of a real issuer: an HTTP server with a
//! description and a key set.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_envelope::RequestDraft;
use bulla_identity::{WorkloadId, reserved};
use bulla_keyring::SigningKey;
use bulla_sdk::broker_protocol::{Challenge, Issued};
use bulla_sdk::{Client, ConnectError, ConnectOptions, Message, ServiceError};
use bulla_tests::{Bus, BusOptions, now, signing_input};
use data_encoding::BASE64URL_NOPAD;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// An OpenID issuer, as far as its keys are concerned.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<(String, SigningKey)>>>,
    serving: JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(vec![("k1".to_owned(), key(1))]));
        let (base, shown) = (url.clone(), Arc::clone(&keys));
        let serving = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = vec![0; 2048];
                let read = socket.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let body = if head.contains("/.well-known/openid-configuration") {
                    json!({ "issuer": base, "jwks_uri": format!("{base}/keys") })
                } else {
                    let keys = shown.lock().unwrap();
                    let keys = keys.iter().map(|(kid, key)| {
                        let x = BASE64URL_NOPAD.encode(key.verifying_key().as_bytes());
                        json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "x": x })
                    });
                    json!({ "keys": keys.collect::<Vec<_>>() })
                };
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, keys, serving }
    }

    /// A token of a service account for this long, by the newest key.
    fn token(&self, account: &str, life: Duration) -> String {
        let secs = now().as_secs();
        let claims = json!({
            "iss": self.url, "aud": ["bulla"], "sub": account,
            "iat": secs, "nbf": secs, "exp": secs + life.as_secs(),
        });
        self.sign(&claims)
    }

    fn sign(&self, claims: &Value) -> String {
        let keys = self.keys.lock().unwrap();
        let (kid, key) = keys.last().unwrap();
        let input = signing_input(&json!({ "alg": "EdDSA", "kid": kid }), claims);
        let signature = BASE64URL_NOPAD.encode(key.sign_text(&input).as_bytes());
        format!("{input}.{signature}")
    }
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_seed(&[byte; 32])
}

const ACCOUNT: &str = "system:serviceaccount:shop:checkout";

fn policy(issuer: &Issuer) -> String {
    format!(
        r#"
version = 1
trust_domain = "acme.example"

[jwt.cluster]
issuer = "{}"
audience = "bulla"

[workload.checkout]
attest = [{{ jwt = "cluster", k8s = "shop/checkout", vouches = true }}]
[workload.orders]
attest = [{{ nkey = "@orders@" }}]

# Sees what whoever runs nats-server sees.
[workload.wiretap]
attest = [{{ nkey = "@wiretap@" }}]

[subject."orders.secret"]
protect = "encrypted"

[[allow]]
id  = "wiretap-listens"
who = ["wiretap"]
may = ["subscribe"]
on  = ["orders.create"]

[[allow]]
id  = "checkout-asks"
who = ["checkout"]
may = ["request"]
on  = ["orders.>"]

[[allow]]
id  = "orders-serves"
who = ["orders"]
may = ["serve"]
on  = ["orders.>"]
"#,
        issuer.url
    )
}

struct Scene {
    issuer: Issuer,
    bus: Bus,
    dir: tempfile::TempDir,
    orders: Client,
    _service: bulla_sdk::Service,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(edit: impl FnOnce(&mut BusOptions)) -> Self {
        let issuer = Issuer::start().await;
        let mut options = BusOptions::new(policy(&issuer));
        edit(&mut options);
        let bus = Bus::start_with(options).await;
        let orders = bus.client("orders").await;
        let service = orders
            .serve("orders.>", async |order: Message<String>| {
                Ok::<_, ServiceError>(format!(
                    "{} of {}",
                    order.payload(),
                    order.sender().workload().path()
                ))
            })
            .await
            .unwrap();
        Self {
            issuer,
            bus,
            dir: tempfile::tempdir().unwrap(),
            orders,
            _service: service,
        }
    }

    fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    fn write(&self, token: &str) {
        let part = self.dir.path().join("part");
        std::fs::write(&part, token).unwrap();
        std::fs::rename(part, self.token_file()).unwrap();
    }

    fn options(&self, file: &Path) -> ConnectOptions {
        ConnectOptions::by_token(
            self.bus.nats_url(),
            WorkloadId::parse("spiffe://acme.example/checkout").unwrap(),
            file,
            self.bus.root_file(),
        )
        .clock_skew(Duration::from_millis(50))
    }

    async fn connect(&self) -> Result<Client, ConnectError> {
        // The broker may still be fetching keys.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match Client::connect(self.options(&self.token_file())).await {
                Err(ConnectError::Unauthorized { .. } | ConnectError::Timeout { .. })
                    if Instant::now() < deadline =>
                {
                    sleep(Duration::from_millis(100)).await;
                }
                other => return other,
            }
        }
    }
}

async fn ask(client: &Client, subject: &str) -> Result<String, bulla_sdk::RequestError> {
    client.request(subject, &"a pear".to_owned()).await
}

#[tokio::test]
async fn a_workload_without_a_key_of_its_own_talks_and_ends_with_its_token() {
    let scene = Scene::start().await;
    scene.write(&scene.issuer.token(ACCOUNT, Duration::from_secs(6)));
    let ends = Instant::now() + Duration::from_secs(6);
    let checkout = scene.connect().await.unwrap();
    let answer = ask(&checkout, "orders.create").await.unwrap();
    assert_eq!(answer, "a pear of checkout");
    // It encrypts, and answers are encrypted to its process.
    assert_eq!(ask(&checkout, "orders.secret").await.unwrap(), answer);

    // Its credential ends no later than the token that a broker saw.
    let mut seen = scene.bus.tap("orders.create").await;
    ask(&checkout, "orders.create").await.unwrap();
    let envelope = seen.next().await.unwrap().payload;
    let credential = scene.bus.credential_of(&envelope).await;
    let left = credential.expires_at().saturating_since(now());
    assert!(left <= Duration::from_secs(6), "{left:?}");

    // The connection ends with the token, and the next one is by the next token.
    scene.write(&scene.issuer.token(ACCOUNT, Duration::from_secs(600)));
    tokio::time::sleep_until(ends + Duration::from_secs(1)).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = ask(&checkout, "orders.create").await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    drop(scene.orders);
}

#[tokio::test]
async fn a_key_that_the_issuer_replaced_is_found_and_other_accounts_stay_out() {
    let scene = Scene::start().await;
    scene.write(&scene.issuer.token(ACCOUNT, Duration::from_secs(600)));
    let checkout = scene.connect().await.unwrap();
    ask(&checkout, "orders.create").await.unwrap();

    scene
        .issuer
        .keys
        .lock()
        .unwrap()
        .push(("k2".to_owned(), key(2)));
    scene.write(&scene.issuer.token(ACCOUNT, Duration::from_secs(600)));
    // The first one that names it makes the broker look.
    let second = scene.connect().await.unwrap();
    ask(&second, "orders.create").await.unwrap();

    for (name, claims) in [
        (
            "another account",
            json!({ "sub": "system:serviceaccount:shop:cart" }),
        ),
        ("another audience", json!({ "aud": "api" })),
        ("an ended one", json!({ "exp": now().as_secs() - 1 })),
    ] {
        let secs = now().as_secs();
        let mut all = json!({
            "iss": scene.issuer.url, "aud": "bulla", "sub": ACCOUNT, "exp": secs + 60,
        });
        for (key, value) in claims.as_object().unwrap() {
            all[key] = value.clone();
        }
        scene.write(&scene.issuer.sign(&all));
        let outcome = Client::connect(scene.options(&scene.token_file())).await;
        assert!(
            matches!(outcome, Err(ConnectError::Unauthorized { .. })),
            "{name}: {:?}",
            outcome.err()
        );
    }
}

/// In operator mode, with two brokers: the connection of who came by a token is asked about
/// anew with each policy and goes on; it ends with its token, and when its workload has to go.
#[tokio::test]
async fn in_operator_mode_who_came_by_a_token_is_asked_about_anew_and_stays() {
    let scene = Scene::start_with(|options| {
        options.operator_mode = true;
        options.brokers = vec![Group::A, Group::B];
    })
    .await;
    scene.write(&scene.issuer.token(ACCOUNT, Duration::from_secs(9)));
    let ends = Instant::now() + Duration::from_secs(9);
    let checkout = scene.connect().await.unwrap();
    assert_eq!(
        ask(&checkout, "orders.create").await.unwrap(),
        "a pear of checkout"
    );
    assert!(ask(&checkout, "bills.list").await.is_err());
    let (before, _) = connection_of(&scene.bus, "checkout").await;

    // It gets another right, as it is.
    let more = policy(&scene.issuer).replace("\"orders.>\"]", "\"orders.>\", \"bills.list\"]");
    scene.bus.publish_policy(&more).await;
    let deadline = Instant::now() + Duration::from_secs(6);
    let echo = async |m: Message<String>| Ok::<_, ServiceError>(m.into_payload());
    let _bills = loop {
        match scene.orders.serve("bills.list", echo).await {
            Ok(service) => break service,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(50)).await;
    };
    while let Err(error) = ask(&checkout, "bills.list").await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    let (after, number) = connection_of(&scene.bus, "checkout").await;
    assert_eq!((before, number), (after, 1), "it was not disconnected");

    // Asked about or not, its token's end is the connection's.
    scene.write(&scene.issuer.token(ACCOUNT, Duration::from_secs(600)));
    tokio::time::sleep_until(ends + Duration::from_secs(1)).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = ask(&checkout, "orders.create").await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    let (renewed, _) = connection_of(&scene.bus, "checkout").await;
    assert_ne!(renewed, after, "it outlived its token");

    scene.bus.revoke_workload("checkout").await;
    let deadline = Instant::now() + Duration::from_secs(3);
    while connection_of(&scene.bus, "checkout").await.1 > 0 {
        assert!(Instant::now() < deadline, "it is revoked and stays");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The number that nats-server gave a workload's newest connection, and how many there are.
async fn connection_of(bus: &Bus, workload: &str) -> (u64, usize) {
    let sys = bus.sys_client().await;
    let question = json!({ "auth": true, "limit": 1024 });
    let answer = sys
        .request("$SYS.REQ.SERVER.PING.CONNZ", question.to_string().into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    let list = answer["data"]["connections"].as_array().unwrap();
    let is_its = |c: &&Value| {
        let user = c["authorized_user"].as_str().unwrap_or_default();
        user.split('~').next() == Some(workload)
    };
    let its = list.iter().filter(is_its);
    let cids: Vec<u64> = its.map(|c| c["cid"].as_u64().unwrap()).collect();
    (cids.iter().copied().max().unwrap_or(0), cids.len())
}

/// A broker vouches for what it sees, not for a connection of some time ago: who is
/// connected by a token has to show it again for each credential.
#[tokio::test]
async fn a_broker_vouches_for_tokens_that_it_sees() {
    let scene = Scene::start().await;
    let token = scene.issuer.token(ACCOUNT, Duration::from_secs(600));
    scene.write(&token);
    drop(scene.connect().await.unwrap());
    let id = WorkloadId::parse("spiffe://acme.example/checkout").unwrap();
    let raw = async_nats::ConnectOptions::with_token(token.clone())
        .custom_inbox_prefix(reserved::inbox_server(id.tag()))
        .connect(scene.bus.nats_url())
        .await
        .unwrap();
    let ask = async |token: Option<&str>| {
        let subject = reserved::broker_challenge(id.tag());
        let answer = raw.request(subject, vec![0x90].into()).await.unwrap();
        let challenge = Challenge::decode(&answer.payload).unwrap();
        let message_key = key(9);
        let draft = RequestDraft {
            workload: &id,
            message_key: &message_key,
            process_keys: None,
            token_key: None,
            instance: [1; 16],
            challenge: challenge.challenge,
            requested_at: now(),
        };
        let mut headers = async_nats::HeaderMap::new();
        if let Some(token) = token {
            headers.insert(reserved::WORKLOAD_TOKEN, token);
        }
        let subject = reserved::broker_credential(id.tag(), &challenge.broker_id);
        let answer = raw.request_with_headers(subject, headers, draft.sign(None).into());
        Issued::decode(&answer.await.unwrap().payload).unwrap()
    };
    let other = scene
        .issuer
        .token("system:serviceaccount:shop:cart", Duration::from_secs(600));
    for wrong in [None, Some("a.b.c"), Some(&*other)] {
        assert!(matches!(ask(wrong).await, Issued::Refused(_)), "{wrong:?}");
    }
    assert!(matches!(ask(Some(&token)).await, Issued::Credential(_)));
}
