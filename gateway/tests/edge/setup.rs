//! An edge, its issuer, its bus and a client.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bulla_gateway::{
    Bus, BusError, BusEvent, BusMessage, BusReply, Gateway, GatewayConfig, Objection, RouteTable,
    TokenKey, objections,
};
use bulla_identity::{Subject, TrustDomain, UnixMillis, WorkloadId};
use bulla_policy::Policy;
use bulla_token::{TokenSigningKey, TransactionToken, verify_transaction_token};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD as B64;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const AUDIENCE: &str = "https://api.example";
pub const KID: &str = "00112233445566778899aabbccddeeff";
pub const SEED: [u8; 32] = [3; 32];

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

// The issuer.

/// An issuer whose JWKS endpoint does what it is told.
pub struct Issuer {
    pub url: String,
    pub keys: Arc<Mutex<Vec<IssuerKey>>>,
    /// A whole HTTP answer in place of the key set.
    pub instead: Arc<Mutex<Option<String>>>,
    pub fetches: Arc<AtomicUsize>,
    pub delay: Arc<Mutex<Duration>>,
}

#[derive(Clone)]
pub struct IssuerKey {
    pub kid: String,
    pub pair: Arc<Ed25519KeyPair>,
}

impl IssuerKey {
    pub fn new(kid: &str) -> Self {
        Self {
            kid: kid.into(),
            pair: Arc::new(Ed25519KeyPair::generate().unwrap()),
        }
    }

    pub fn jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid,
            "x": B64.encode(self.pair.public_key().as_ref())})
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        sign_with(header, claims, |m| self.pair.sign(m).as_ref().to_vec())
    }
}

pub fn sign_with(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!(
        "{}.{}",
        B64.encode(header.to_string().as_bytes()),
        B64.encode(claims.to_string().as_bytes())
    );
    let signature = B64.encode(&sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

impl Issuer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            keys: Arc::new(Mutex::new(vec![IssuerKey::new("k1")])),
            instead: Arc::default(),
            fetches: Arc::default(),
            delay: Arc::default(),
        };
        let (keys, instead) = (Arc::clone(&issuer.keys), Arc::clone(&issuer.instead));
        let (fetches, delay) = (Arc::clone(&issuer.fetches), Arc::clone(&issuer.delay));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                fetches.fetch_add(1, Ordering::SeqCst);
                let pause = *delay.lock();
                tokio::time::sleep(pause).await;
                let answer = instead.lock().clone().unwrap_or_else(|| {
                    let set: Vec<Value> = keys.lock().iter().map(IssuerKey::jwk).collect();
                    ok_answer(&json!({ "keys": set }).to_string())
                });
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        issuer
    }

    pub fn key(&self) -> IssuerKey {
        self.keys.lock()[0].clone()
    }

    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    pub fn claims(&self) -> Value {
        json!({"iss": self.url, "aud": AUDIENCE, "sub": "alice", "client_id": "shop", "jti": "j",
            "scope": "orders:read orders:write admin", "tenant": "t1", "iat": now(),
            "exp": now() + 300})
    }

    pub fn header(&self) -> Value {
        json!({"alg": "EdDSA", "typ": "at+jwt", "kid": self.key().kid})
    }

    pub fn token(&self) -> String {
        self.token_with(json!({}))
    }

    pub fn token_with(&self, changes: Value) -> String {
        self.key()
            .sign(&self.header(), &with(self.claims(), changes))
    }
}

pub fn ok_answer(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// `base` with the members of `changes`; null removes.
pub fn with(mut base: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(name);
        } else {
            base[name] = value.clone();
        }
    }
    base
}

// The bus.

type Behaviour =
    Arc<dyn Fn(BusMessage) -> BoxFuture<'static, Result<BusReply, BusError>> + Send + Sync>;

/// To what somebody listens, and where it goes.
type Listener = (Subject, mpsc::Sender<BusEvent>);

/// A bus that remembers what it was sent and answers as it is told.
#[derive(Clone)]
pub struct TestBus {
    pub seen: Arc<Mutex<Vec<BusMessage>>>,
    behaviour: Arc<Mutex<Behaviour>>,
    pub up: Arc<AtomicBool>,
    /// How long the credential of the token key still lives, in seconds.
    pub key_life: Arc<AtomicU64>,
    pub flushed: Arc<AtomicBool>,
    pub revision: Arc<AtomicU64>,
    pub revoked: Arc<Mutex<Vec<String>>>,
    /// What all edges on this bus remember, by its kind and name.
    pub agreed: Arc<Mutex<HashMap<String, Bytes>>>,
    /// For how long the stream of every subject knows ids.
    pub knows_ids: Arc<Mutex<Option<Duration>>>,
    /// The ids under which messages were published, and whether ids that are there count.
    pub ids: Arc<Mutex<Vec<Option<[u8; 16]>>>>,
    /// After which event streams were opened.
    pub resumed: Arc<Mutex<Vec<Option<u64>>>>,
    /// Who listens to what.
    pub listeners: Arc<Mutex<Vec<Listener>>>,
    /// What routes are held against, if anything.
    pub policy: Arc<Mutex<Option<Policy>>>,
}

pub fn json_reply(body: &str) -> BusReply {
    BusReply {
        payload: Bytes::from(body.to_owned()),
        content_type: "application/json".into(),
        headers: Vec::new(),
    }
}

fn event(payload: &str, place: Option<u64>) -> BusEvent {
    BusEvent::new("text/plain", Bytes::from(payload.to_owned()), place)
}

impl TestBus {
    pub fn new() -> Self {
        Self {
            seen: Arc::default(),
            behaviour: Arc::new(Mutex::new(answering(Ok(json_reply("{\"ok\":true}"))))),
            up: Arc::new(AtomicBool::new(true)),
            key_life: Arc::new(AtomicU64::new(3600)),
            flushed: Arc::default(),
            revision: Arc::default(),
            revoked: Arc::default(),
            agreed: Arc::default(),
            knows_ids: Arc::new(Mutex::new(Some(Duration::from_secs(120)))),
            ids: Arc::default(),
            resumed: Arc::default(),
            listeners: Arc::default(),
            policy: Arc::default(),
        }
    }

    /// Another policy is in force.
    pub fn apply(&self, policy: &str) {
        let policy = Policy::parse("policy.toml", policy).unwrap_or_else(|e| panic!("{e}"));
        *self.policy.lock() = Some(policy);
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    pub fn answer(&self, outcome: Result<BusReply, BusError>) {
        *self.behaviour.lock() = answering(outcome);
    }

    pub fn behave(
        &self,
        f: impl Fn(BusMessage) -> BoxFuture<'static, Result<BusReply, BusError>> + Send + Sync + 'static,
    ) {
        *self.behaviour.lock() = Arc::new(f);
    }

    pub fn last(&self) -> BusMessage {
        self.seen
            .lock()
            .last()
            .expect("the bus was sent something")
            .clone()
    }

    /// Sends an event to those who listen; whoever is behind is dropped, as on the bus.
    pub fn emit(&self, subject: &str, payload: &str) {
        self.listeners.lock().retain(|(listened, sender)| {
            listened.as_str() != subject || sender.try_send(event(payload, None)).is_ok()
        });
    }

    /// The same of an event that a stream stores.
    pub fn emit_stored(&self, subject: &str, payload: &str, place: u64) {
        for (listened, sender) in self.listeners.lock().iter() {
            if listened.as_str() == subject {
                let _ = sender.try_send(event(payload, Some(place)));
            }
        }
    }

    /// The same of one whose content is what a service says that it is.
    pub fn emit_as(&self, subject: &str, content_type: &str, payload: &[u8]) {
        let event = BusEvent::new(content_type, Bytes::copy_from_slice(payload), None);
        for (listened, sender) in self.listeners.lock().iter() {
            if listened.as_str() == subject {
                let _ = sender.try_send(event.clone());
            }
        }
    }

    pub fn untouched(&self) -> bool {
        self.seen.lock().is_empty()
    }
}

fn answering(outcome: Result<BusReply, BusError>) -> Behaviour {
    Arc::new(move |_| {
        let outcome = outcome.clone();
        Box::pin(async move { outcome })
    })
}

impl Bus for TestBus {
    async fn request(&self, message: BusMessage, deadline: Duration) -> Result<BusReply, BusError> {
        self.seen.lock().push(message.clone());
        let answer = (self.behaviour.lock())(message);
        tokio::time::timeout(deadline, answer)
            .await
            .unwrap_or(Err(BusError::Timeout))
    }

    async fn publish(
        &self,
        message: BusMessage,
        id: Option<[u8; 16]>,
        deadline: Duration,
    ) -> Result<(), BusError> {
        self.ids.lock().push(id);
        self.request(message, deadline).await.map(|_| ())
    }

    fn knows_ids_for(&self, _: &Subject) -> Option<Duration> {
        *self.knows_ids.lock()
    }

    async fn agree(
        &self,
        kind: &str,
        name: &[&[u8]],
        value: &[u8],
        _: Duration,
    ) -> Result<Option<Bytes>, BusError> {
        if !self.ready() {
            return Err(BusError::Disconnected);
        }
        match self.agreed.lock().entry(format!("{kind} {name:?}")) {
            Entry::Occupied(first) => Ok(Some(first.get().clone())),
            Entry::Vacant(free) => {
                free.insert(Bytes::copy_from_slice(value));
                Ok(None)
            }
        }
    }

    async fn agreed(
        &self,
        kind: &str,
        name: &[&[u8]],
        _: Duration,
    ) -> Result<Option<Bytes>, BusError> {
        Ok(self.agreed.lock().get(&format!("{kind} {name:?}")).cloned())
    }

    async fn listen(
        &self,
        subject: &Subject,
        after: Option<u64>,
    ) -> Result<mpsc::Receiver<BusEvent>, BusError> {
        self.resumed.lock().push(after);
        let (sender, receiver) = mpsc::channel(4);
        self.listeners.lock().push((subject.clone(), sender));
        Ok(receiver)
    }

    /// As a policy would say that gives orders to retail.
    fn audiences(&self, subject: &Subject) -> Vec<String> {
        let is_order = subject.as_str().starts_with("orders.");
        is_order.then(|| "retail".to_owned()).into_iter().collect()
    }

    fn policy_revision(&self) -> u64 {
        self.revision.load(Ordering::SeqCst)
    }

    fn objections(&self, routes: &RouteTable) -> Vec<Objection> {
        let policy = self.policy.lock();
        policy
            .as_ref()
            .map(|policy| objections(routes, policy, &edge_id()))
            .unwrap_or_default()
    }

    fn is_user_revoked(&self, principal: &str) -> bool {
        principal == "revoked" || self.revoked.lock().iter().any(|r| r == principal)
    }

    fn is_token_revoked(&self, id: &str) -> bool {
        self.revoked.lock().iter().any(|r| r == id)
    }

    /// No policy here calls a claim private.
    async fn hide_claims(
        &self,
        _: &str,
        _: &str,
        _: &mut serde_json::Map<String, Value>,
    ) -> Result<Option<Value>, BusError> {
        Ok(None)
    }

    fn ready(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    fn token_key(&self) -> Option<TokenKey> {
        self.ready().then(|| TokenKey {
            kid: KID.to_owned(),
            ends: UnixMillis::from_secs(now() + self.key_life.load(Ordering::SeqCst)),
        })
    }

    async fn flush(&self) {
        self.flushed.store(true, Ordering::SeqCst);
    }
}

pub fn edge_id() -> WorkloadId {
    WorkloadId::parse("spiffe://acme.example/gateway").unwrap()
}

pub fn transaction(message: &BusMessage) -> TransactionToken {
    let token = message.token.as_ref().expect("the message has a token");
    verify_transaction_token(
        token.as_str(),
        TokenSigningKey::from_seed(SEED).public(),
        &TrustDomain::parse("acme.example").unwrap(),
        UnixMillis::from_secs(now()),
        Duration::from_secs(5),
    )
    .unwrap()
}

// The edge.

pub const ROUTES: &str = r#"
[[route]]
method = "POST"
path = "/v1/orders"
subject = "orders.create"
mode = "request"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
scope = "orders:write"
body = 1024
forward_headers = ["accept-language"]

[[route]]
method = "GET"
path = "/v1/orders/{id}"
subject = "orders.get"
mode = "request"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
scope = "orders:read"
optional_scope = "orders:write"
query = ["fields"]
timeout = "300ms"
response_headers = ["etag"]

[[route]]
method = "DELETE"
path = "/v1/orders/{id}"
subject = "orders.{id}.delete"
mode = "publish"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
scope = "orders:write"

[[route]]
method = "GET"
path = "/health"
subject = "health.ask"
mode = "request"
auth = "public"
"#;

pub struct Edge {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub issuer: Issuer,
    pub bus: TestBus,
    pub stop: CancellationToken,
    pub running: JoinHandle<()>,
    pub client: reqwest::Client,
    pub dir: TempDir,
}

/// What differs from the usual edge.
#[derive(Default)]
pub struct Options {
    pub limits: &'static str,
    pub issuer: &'static str,
    pub listen: &'static str,
    pub extra: &'static str,
    pub routes: Option<&'static str>,
}

pub fn write_config(dir: &Path, issuer: &str, options: &Options) -> std::path::PathBuf {
    let text = format!(
        "routes = \"routes.toml\"\n\
         {extra}\n\
         [bus]\nurl = \"nats://127.0.0.1:1\"\nworkload = \"spiffe://acme.example/gateway\"\n\
         seed_file = \"g.nk\"\ntrust_root_file = \"r.pub\"\n\
         [listen]\naddress = \"127.0.0.1:0\"\n{listen}\n\
         [admin]\naddress = \"127.0.0.1:0\"\n\
         [limits]\n{limits}\n\
         [transaction]\nclaims = [\"tenant\"]\n\
         [[issuer]]\nissuer = \"{issuer}\"\njwks_url = \"{issuer}/jwks.json\"\n{issuer_keys}\n",
        extra = options.extra,
        listen = options.listen,
        limits = options.limits,
        issuer_keys = options.issuer,
    );
    let file = dir.join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    let routes = options.routes.unwrap_or(ROUTES).replace("@ISSUER@", issuer);
    std::fs::write(dir.join("routes.toml"), routes).unwrap();
    file
}

impl Edge {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        Self::with_issuer(options, Issuer::start().await, |_| {}).await
    }

    pub async fn with_issuer(
        options: Options,
        issuer: Issuer,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        Self::beside(TestBus::new(), options, issuer, prepare).await
    }

    /// Another node of the edge on a bus that is there.
    pub async fn beside(
        bus: TestBus,
        options: Options,
        issuer: Issuer,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        super::decisions::listen();
        let dir = TempDir::new().unwrap();
        prepare(dir.path());
        let file = write_config(dir.path(), &issuer.url, &options);
        let config = GatewayConfig::load(&file).unwrap_or_else(|e| panic!("{e}"));
        let gateway = Gateway::new(config, bus.clone(), TokenSigningKey::from_seed(SEED))
            .await
            .unwrap();
        let (address, admin) = (gateway.address(), gateway.admin_address().unwrap());
        let stop = CancellationToken::new();
        Self {
            address,
            admin,
            issuer,
            bus,
            running: tokio::spawn(gateway.run(stop.clone())),
            stop,
            client: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            dir,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(self.url(path))
    }

    /// `POST /v1/orders` with a good token and body.
    pub fn order(&self) -> reqwest::RequestBuilder {
        self.client
            .post(self.url("/v1/orders"))
            .bearer_auth(self.issuer.token())
            .header("content-type", "application/json")
            .body("{\"item\":\"tea\"}")
    }

    /// Sends bytes as they are, and returns all that comes back until the edge closes.
    pub async fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), reading)
            .await
            .expect("the edge closes the connection")
            .unwrap_or_default();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

/// A problem's status and type, after checking everything that all problems share.
pub async fn problem(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    assert_eq!(response.headers()["cache-control"], "no-store");
    let text = response.text().await.unwrap();
    for word in [
        "orders.create",
        "orders.get",
        "nats",
        "spiffe",
        "_INBOX",
        "subject",
        "gateway",
    ] {
        assert!(!text.contains(word), "`{word}` leaks: {text}");
    }
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["status"], json!(status));
    assert!(
        body["decision_id"]
            .as_str()
            .is_some_and(|id| !id.is_empty())
    );
    assert!(body["title"].is_string());
    let name = body["type"].as_str().unwrap();
    let name = name.strip_prefix("urn:bulla:problem:").unwrap();
    (status, name.to_owned())
}
