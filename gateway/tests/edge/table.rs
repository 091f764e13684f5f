//! The table of problems in the README, row by row, and that no answer whatever says
//! anything of the bus.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use bulla_gateway::{BusError, Gateway, GatewayConfig, ServiceFault};
use bulla_token::TokenSigningKey;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::certificates::{Pki, Secure};
use crate::setup::*;

/// Words of the bus, and of nothing that a client should know: subjects of the routes, this
/// workload, and what NATS and Bulla call things.
const WORDS: [&str; 10] = [
    "quagmire",
    "stock.get",
    "health.ask",
    "walrus",
    "spiffe",
    "acme.example",
    "nats",
    "_inbox",
    "bulla",
    "gateway",
];

const ROUTES: &str = r#"
[profile.users]
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
mode = "request"

[[route]]
profile = "users"
method = "POST"
path = "/orders"
subject = "quagmire.make"
scope = "orders:write"
body = 64
request_schema = "order.json"

[[route]]
profile = "users"
method = "GET"
path = "/orders/{id}"
version = "1"
subject = "quagmire.{id}.get"
query = ["fields"]
timeout = "200ms"

[[route]]
profile = "users"
method = "PUT"
path = "/orders"
mode = "publish"
subject = "quagmire.placed"
idempotency = { life = "1h" }

[[route]]
profile = "users"
method = "GET"
path = "/events"
mode = "stream"
subject = "quagmire.told"

[[route]]
method = "GET"
path = "/stock"
mode = "request"
subject = "quagmire.stock"
auth = "key"

[[route]]
method = "GET"
path = "/rated"
mode = "request"
subject = "quagmire.rated"
auth = "public"
rates = ["once"]
"#;

const EXTRA: &str = r#"
[[rate]]
name = "once"
by = "ip"
quota = 1
window = "1h"
[api_keys]
file = "keys.json"
[api]
public_url = "https://api.example"
version_header = "api-version"
default_version = "1"
openapi = true
docs = true
"#;

/// An edge whose workload has a name of its own.
async fn walrus() -> Edge {
    let dir = tempfile::TempDir::new().unwrap();
    let issuer = Issuer::start().await;
    let options = Options {
        routes: Some(ROUTES),
        extra: EXTRA,
        limits: "requests = 1\nevent_streams = 1\nbody_timeout = \"300ms\"\nuri = 200",
        ..Options::default()
    };
    let schema = json!({"type": "object", "properties": {"item": {"type": "string"}}});
    std::fs::write(dir.path().join("order.json"), schema.to_string()).unwrap();
    let file = write_config(dir.path(), &issuer.url, &options);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("example/gateway", "example/walrus")).unwrap();
    let config = GatewayConfig::load(&file).unwrap_or_else(|e| panic!("{e}"));
    let bus = TestBus::new();
    let key = TokenSigningKey::from_seed(SEED);
    let gateway = Gateway::new(config, bus.clone(), key).await.unwrap();
    let (address, admin) = (gateway.address(), gateway.admin_address().unwrap());
    let stop = CancellationToken::new();
    Edge {
        address,
        admin,
        issuer,
        bus,
        running: tokio::spawn(gateway.run(stop.clone())),
        stop,
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
        dir,
    }
}

/// What was answered, whole.
#[derive(Default)]
struct Answers {
    problems: BTreeSet<(String, u16)>,
    texts: Vec<String>,
}

impl Answers {
    async fn of(&mut self, request: reqwest::RequestBuilder) -> u16 {
        self.is(request.send().await.unwrap()).await
    }

    async fn is(&mut self, answer: reqwest::Response) -> u16 {
        let status = answer.status().as_u16();
        let head = format!("{status} {:?}", answer.headers());
        let body = answer.text().await.unwrap();
        self.problem(&body, status);
        self.texts.push(format!("{head}\n{body}"));
        status
    }

    fn raw(&mut self, answer: String) {
        let status = answer.get(9..12).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        self.problem(&body, status);
        self.texts.push(answer);
    }

    fn problem(&mut self, body: &str, status: u16) {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        if let Some(name) = body["type"].as_str() {
            let (_, name) = name.split_once("/docs#").unwrap();
            self.problems.insert((name.to_owned(), status));
        }
    }
}

/// The rows of the table: type and status.
fn table() -> BTreeSet<(String, u16)> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, rows) = readme.split_once("| type | status | when |\n").unwrap();
    let rows = rows
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (
            cells[1].trim_matches('`').to_owned(),
            cells[2].parse().unwrap(),
        )
    })
    .collect()
}

#[tokio::test]
async fn every_row_of_the_table_is_met_and_no_answer_tells_anything_of_the_bus() {
    let edge = walrus().await;
    let mut said = Answers::default();
    let token = edge.issuer.token();
    let post = |body: &str| {
        let request = edge.client.post(edge.url("/orders")).bearer_auth(&token);
        let request = request.header("content-type", "application/json");
        request.body(body.to_owned())
    };
    let get = |path: &str| edge.get(path).bearer_auth(&token);
    let fault = |kind| BusError::Service {
        kind,
        message: "about the request".into(),
    };
    assert_eq!(said.of(post("{}")).await, 200);
    // What the request itself is.
    said.of(get("/a%2fb")).await;
    said.of(post("{\"a\":1,\"a\":2}")).await;
    said.of(get("/orders/1").header("nats-x", "y")).await;
    said.of(get("/orders/1").header("api-version", "9")).await;
    said.of(get("/nothing")).await;
    said.of(edge.client.delete(edge.url("/orders"))).await;
    said.of(get(&format!("/orders/1?fields={}", "x".repeat(200))))
        .await;
    said.of(post(&" ".repeat(65))).await;
    said.of(post("{}").header("content-encoding", "gzip")).await;
    said.of(post("{\"item\":1}")).await;
    // Who sends it.
    said.of(edge.get("/orders/1")).await;
    said.of(edge.get("/orders/1").bearer_auth("a.b.c")).await;
    let other = edge
        .issuer
        .token_with(json!({"aud": "https://other.example"}));
    said.of(edge.get("/orders/1").bearer_auth(other)).await;
    let bound = json!({"cnf": {"jkt": "A".repeat(43)}});
    let dpop = format!("DPoP {}", edge.issuer.token_with(bound));
    let proof = edge.get("/orders/1").header("authorization", dpop);
    said.of(proof.header("dpop", "a.b.c")).await;
    let poor = edge.issuer.token_with(json!({"scope": "orders:read"}));
    let post_as = |token: String| edge.client.post(edge.url("/orders")).bearer_auth(token);
    said.of(post_as(poor)).await;
    let revoked = edge.issuer.token_with(json!({"sub": "revoked"}));
    said.of(post_as(revoked)).await;
    let (_, key) = crate::api_keys::make(&edge, "carol", "none");
    let stock = |key: &str| edge.get("/stock").header("x-api-key", key);
    let mut status = 0;
    for _ in 0..200 {
        status = said.of(stock(&key)).await;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status, 200);
    said.of(edge.get("/stock")).await;
    said.of(stock(&format!("{key}x"))).await;
    // How often it is sent, and how slowly.
    said.of(edge.get("/rated")).await;
    said.of(edge.get("/rated")).await;
    let stream = get("/events").send().await.unwrap();
    said.of(get("/events")).await;
    drop(stream);
    let mut slow = TcpStream::connect(edge.address).await.unwrap();
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    said.raw(answer);
    // What the bus and the service say.
    for outcome in [
        Err(BusError::NoResponders),
        Err(BusError::Disconnected),
        Err(BusError::Denied { decision: None }),
        Err(BusError::TooLarge),
        Err(BusError::BadReply),
        Err(fault(ServiceFault::Invalid)),
        Err(fault(ServiceFault::NotFound)),
        Err(fault(ServiceFault::Conflict)),
        Err(fault(ServiceFault::Forbidden)),
        Err(fault(ServiceFault::Unavailable)),
        Err(fault(ServiceFault::Internal)),
    ] {
        edge.bus.answer(outcome);
        said.of(post("{}")).await;
    }
    edge.bus.behave(|_| Box::pin(std::future::pending()));
    said.of(get("/orders/1")).await;
    let put = |key: &str, body: Value| {
        let request = edge.client.put(edge.url("/orders")).bearer_auth(&token);
        request.header("idempotency-key", key).json(&body)
    };
    *edge.bus.knows_ids.lock() = None;
    edge.bus.answer(Err(BusError::Timeout));
    said.of(put("lost", json!({}))).await;
    said.of(put("lost", json!({}))).await;
    edge.bus.answer(Ok(json_reply("{}")));
    assert_eq!(said.of(put("k", json!({}))).await, 202);
    said.of(put("k", json!({"item": "tea"}))).await;
    let (entered, mut inside) = tokio::sync::mpsc::channel(1);
    edge.bus.behave(move |_| {
        let entered = entered.clone();
        Box::pin(async move {
            entered.send(()).await.unwrap();
            std::future::pending().await
        })
    });
    let hanging = tokio::spawn(post("{}").send());
    inside.recv().await.unwrap();
    said.of(post("{}")).await;
    hanging.abort();
    let _ = hanging.await;
    // What HTTP alone does not allow.
    for raw in [
        "GET / HTTP/1.1\r\nx\r\n\r\n".to_owned(),
        format!(
            "GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n",
            "x".repeat(20_000)
        ),
    ] {
        said.raw(edge.raw(&raw).await);
    }
    // Who is known by a certificate.
    let pki = Pki::new();
    let secure = Secure::start(&pki).await;
    let (stranger, _) = pki.made(vec![], None);
    for identity in [None, Some(&*stranger)] {
        let request = secure.client(identity).get(secure.url("/stock/tea"));
        said.of(request).await;
    }

    let rows = table();
    let missing: Vec<_> = rows.difference(&said.problems).collect();
    assert!(missing.is_empty(), "not met: {missing:?}");
    let unknown: Vec<_> = said.problems.difference(&rows).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");

    // What the edge says of itself.
    let mut page = String::new();
    for path in ["/openapi.json", "/docs"] {
        let answer = edge.get(path).send().await.unwrap();
        assert_eq!(said.is(answer).await, 200);
        page.clone_from(said.texts.last().unwrap());
    }
    for (name, _) in &rows {
        assert!(page.contains(&format!("id=\"{name}\"")), "{name}");
    }
    for text in &said.texts {
        let small = text.to_ascii_lowercase();
        for word in WORDS {
            assert!(!small.contains(word), "`{word}` in {text}");
        }
    }
    // Labels are for operators, and are no place for subjects and people either.
    let metrics = edge.client.get(format!("http://{}/metrics", edge.admin));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("bulla_gateway_requests_total{route=\"POST /orders\",status=\"422\"}")
    );
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let labels = line.split_once('{').map_or("", |(_, labels)| labels);
        for word in WORDS.into_iter().chain(["alice", "carol", "tea"]) {
            assert!(
                !labels.to_ascii_lowercase().contains(word),
                "`{word}` in {line}"
            );
        }
    }
}

type Sent = BoxBody<Bytes, Infallible>;

/// The rows that a client brings about by itself hold over HTTP/2 too, and there each ends
/// its own request and no other.
#[tokio::test]
async fn the_rows_of_a_client_alone_hold_over_http_2() {
    let edge = walrus().await;
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (mut send, connection) = hyper::client::conn::http2::handshake::<_, _, Sent>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let bearer = format!("Bearer {}", edge.issuer.token());
    let poor = edge.issuer.token_with(json!({"scope": "orders:read"}));
    let (poor, bad) = (format!("Bearer {poor}"), "Bearer a.b.c".to_owned());
    let long = format!("/orders/1?fields={}", "x".repeat(200));
    let json = Some("application/json");
    let full = |text: &str| Full::new(Bytes::from(text.to_owned())).boxed();
    let slow = || {
        let first = Frame::data(Bytes::from_static(b"{"));
        let first = stream::iter([Ok::<_, Infallible>(first)]);
        BoxBody::new(StreamBody::new(first.chain(stream::pending())))
    };
    let nothing = || full("");
    for (method, path, bearer, content_type, body, expected) in [
        ("POST", "/orders", &*bearer, json, full("{}"), (200, "")),
        (
            "GET",
            "/a%2fb",
            &bearer,
            None,
            nothing(),
            (400, "bad-request"),
        ),
        (
            "GET",
            "/orders/..",
            &bearer,
            None,
            nothing(),
            (400, "bad-request"),
        ),
        (
            "GET",
            "/orders/1?x=y",
            &bearer,
            None,
            nothing(),
            (400, "bad-request"),
        ),
        (
            "POST",
            "/orders",
            &bearer,
            json,
            full("{"),
            (400, "bad-request"),
        ),
        (
            "GET",
            "/orders/1",
            "",
            None,
            nothing(),
            (401, "unauthorized"),
        ),
        (
            "GET",
            "/orders/1",
            &bad,
            None,
            nothing(),
            (401, "invalid-token"),
        ),
        (
            "POST",
            "/orders",
            &poor,
            json,
            full("{}"),
            (403, "insufficient-scope"),
        ),
        (
            "GET",
            "/nothing",
            &bearer,
            None,
            nothing(),
            (404, "not-found"),
        ),
        (
            "DELETE",
            "/orders",
            &bearer,
            None,
            nothing(),
            (405, "method-not-allowed"),
        ),
        (
            "POST",
            "/orders",
            &bearer,
            json,
            slow(),
            (408, "request-timeout"),
        ),
        (
            "POST",
            "/orders",
            &bearer,
            json,
            full(&" ".repeat(65)),
            (413, "content-too-large"),
        ),
        (
            "GET",
            "/orders/1",
            &bearer,
            json,
            full("{}"),
            (413, "content-too-large"),
        ),
        (
            "GET",
            &long,
            &bearer,
            None,
            nothing(),
            (414, "uri-too-long"),
        ),
        (
            "POST",
            "/orders",
            &bearer,
            Some("text/xml"),
            full("<a/>"),
            (415, "unsupported-media-type"),
        ),
        (
            "POST",
            "/orders",
            &bearer,
            json,
            full("{\"item\":1}"),
            (422, "invalid-content"),
        ),
        ("POST", "/orders", &bearer, json, full("{}"), (200, "")),
    ] {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://x{path}"));
        if !bearer.is_empty() {
            request = request.header("authorization", bearer);
        }
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let what = format!("{method} {path}");
        let answer = send.send_request(request.body(body).unwrap()).await;
        let answer = answer.unwrap_or_else(|e| panic!("{what}: {e}"));
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let name = body["type"].as_str().unwrap_or_default();
        let name = name.split_once('#').map_or("", |(_, name)| name);
        assert_eq!((status, name), expected, "{what}");
    }
    assert!(!connection.is_finished());
}
