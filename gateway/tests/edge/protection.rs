//! Who is let in, how often, and with what: rates, networks, proxies, CORS, JSON and
//! schemas, priorities, breakers.

use crate::setup::*;
use bulla_gateway::{BusError, BusReply};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn with_extra(extra: &'static str) -> Edge {
    Edge::with(Options {
        extra,
        ..Options::default()
    })
    .await
}

async fn metrics(edge: &Edge) -> String {
    let request = edge.client.get(format!("http://{}/metrics", edge.admin));
    request.send().await.unwrap().text().await.unwrap()
}

fn header<'r>(response: &'r reqwest::Response, name: &str) -> &'r str {
    response
        .headers()
        .get(name)
        .unwrap_or_else(|| panic!("no {name}"))
        .to_str()
        .unwrap()
}

// Rates.

const BY_USER: &str = r#"rates = ["per-user"]
[[rate]]
name = "per-user"
by = ["user"]
quota = 2
window = "1h"
"#;

#[tokio::test]
async fn a_user_has_a_quota_and_is_told_what_is_left() {
    let edge = with_extra(BY_USER).await;
    let first = edge.order().send().await.unwrap();
    assert_eq!(first.status(), 200);
    assert_eq!(
        header(&first, "ratelimit-policy"),
        "\"per-user\";q=2;w=3600"
    );
    assert_eq!(header(&first, "ratelimit"), "\"per-user\";r=1;t=1800");
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
    let third = edge.order().send().await.unwrap();
    assert!(header(&third, "ratelimit").starts_with("\"per-user\";r=0;t="));
    let wait: u64 = header(&third, "retry-after").parse().unwrap();
    assert!((1_790..=1_800).contains(&wait), "{wait}");
    assert!(
        metrics(&edge)
            .await
            .contains("refused_total{reason=\"rate_limited\"} 1")
    );
    assert_eq!(problem(third).await, (429, "too-many-requests".into()));
    let refused: Value = edge.order().send().await.unwrap().json().await.unwrap();
    assert_eq!(refused["violated-policies"], json!(["per-user"]));
    // Another user, and a route without users.
    let bob = edge.issuer.token_with(json!({"sub": "bob"}));
    let request = edge.get("/v1/orders/1").bearer_auth(bob);
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_has_no_valid_token_does_not_spend_a_users_quota() {
    let edge = with_extra(BY_USER).await;
    let forged = format!("{}x", edge.issuer.token());
    for _ in 0..5 {
        let request = edge.get("/v1/orders/1").bearer_auth(&forged);
        let response = request.send().await.unwrap();
        assert!(response.headers().get("ratelimit").is_none());
        assert_eq!(problem(response).await.0, 401);
    }
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_address_is_counted_whatever_it_asks_for() {
    let edge = with_extra(
        "rates = [\"per-ip\"]\n[[rate]]\nname = \"per-ip\"\nby = \"ip\"\nquota = 4\nwindow = \"1h\"\n",
    )
    .await;
    assert_eq!(edge.get("/nothing").send().await.unwrap().status(), 404);
    assert_eq!(edge.get("/v1/orders").send().await.unwrap().status(), 405);
    assert_eq!(edge.get("/v1/orders/1").send().await.unwrap().status(), 401);
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 200);
    for path in ["/nothing", "/v1/orders/1", "/health"] {
        let response = edge.get(path).send().await.unwrap();
        assert_eq!(problem(response).await.0, 429, "{path}");
    }
}

// Addresses.

const PROXIED: &str = r#"[clients]
trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"]
forwarded = "x-forwarded-for"
deny = ["203.0.113.66"]
"#;

#[tokio::test]
async fn networks_are_judged_by_what_trusted_proxies_say() {
    let edge = with_extra(PROXIED).await;
    let status = async |value: &str| {
        let request = edge.get("/health").header("x-forwarded-for", value);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("203.0.113.1").await, 200);
    assert_eq!(status("203.0.113.66").await, 403);
    // What the client itself wrote stands on the left and counts for nothing.
    assert_eq!(status("203.0.113.66, 203.0.113.1, 10.0.0.1").await, 200);
    assert_eq!(status("203.0.113.1, 203.0.113.66").await, 403);
    // Nobody knows who it is.
    assert_eq!(status("nonsense").await, 403);
    let response = edge.get("/health").send().await.unwrap();
    assert_eq!(problem(response).await, (403, "forbidden".into()));
}

#[tokio::test]
async fn a_client_that_is_no_proxy_cannot_say_where_it_comes_from() {
    let edge = with_extra(
        "[clients]\ntrusted_proxies = [\"10.0.0.0/8\"]\nforwarded = \"forwarded\"\nallow = [\"203.0.113.0/24\"]\n",
    )
    .await;
    let sent = edge
        .get("/health")
        .header("forwarded", "for=203.0.113.1")
        .send();
    assert!(sent.await.is_err(), "the connection is closed at once");
    assert!(
        metrics(&edge)
            .await
            .contains("shed_total{reason=\"network\"} 1")
    );
}

#[tokio::test]
async fn a_route_has_networks_of_its_own() {
    const ROUTES: &str = "[[route]]\nmethod = \"GET\"\npath = \"/in\"\nsubject = \"a\"\nmode = \"request\"\nauth = \"public\"\nallow = [\"127.0.0.1\"]\n[[route]]\nmethod = \"GET\"\npath = \"/out\"\nsubject = \"a\"\nmode = \"request\"\nauth = \"public\"\nallow = [\"192.0.2.0/24\"]\n";
    let edge = Edge::with(Options {
        routes: Some(ROUTES),
        ..Options::default()
    })
    .await;
    assert_eq!(edge.get("/in").send().await.unwrap().status(), 200);
    let response = edge.get("/out").send().await.unwrap();
    assert_eq!(problem(response).await, (403, "forbidden".into()));
}

const PROXY_PROTOCOL: &str = r#"[clients]
trusted_proxies = ["127.0.0.0/8"]
proxy_protocol = true
deny = ["203.0.113.66"]
"#;

fn version_2(source: [u8; 4], command: u8) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, 0x11, 0, 12]);
    bytes.extend(source);
    bytes.extend([127, 0, 0, 1, 0x12, 0x34, 0x1f, 0x90]);
    bytes
}

async fn send(edge: &Edge, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for part in parts {
        let _ = stream.write_all(part).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("the edge closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

const ASK: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn the_proxy_protocol_says_who_is_at_the_other_end() {
    let edge = with_extra(PROXY_PROTOCOL).await;
    let good = version_2([203, 0, 113, 1], 0x21);
    let bad = version_2([203, 0, 113, 66], 0x21);
    let local = version_2([203, 0, 113, 66], 0x20);
    let ok = [
        vec![&b"PROXY TCP4 203.0.113.1 127.0.0.1 4660 8080\r\n"[..], ASK],
        // In pieces, and with the request in the same piece.
        vec![
            &b"PROXY TCP4 203."[..],
            b"0.113.1 127.0.0.1 4660 8080\r\nGET /health HT",
            b"TP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        ],
        vec![&good[..7], &good[7..], ASK],
        // The proxy's own question.
        vec![&local[..], ASK],
        vec![&b"PROXY UNKNOWN\r\n"[..], ASK],
    ];
    for parts in ok {
        let answer = send(&edge, &parts).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{parts:?}: {answer}");
    }
    let refused = [
        vec![&b"PROXY TCP4 203.0.113.66 127.0.0.1 4660 8080\r\n"[..], ASK],
        vec![&bad[..], ASK],
        // Without the header, or with one that is none.
        vec![ASK],
        vec![&b"PROXY TCP9 1.2.3.4 127.0.0.1 1 2\r\n"[..], ASK],
        vec![&b"PROXY TCP4 1.2.3.4\r\n"[..], ASK],
        vec![&b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c0123456789ab"[..], ASK],
        vec![&[b'P'; 4_000][..]],
    ];
    for parts in refused {
        assert_eq!(send(&edge, &parts).await, "", "{parts:?}");
    }
}

#[tokio::test]
async fn who_is_no_proxy_cannot_use_its_protocol() {
    let edge =
        with_extra("[clients]\ntrusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = true\n").await;
    let header = &b"PROXY TCP4 203.0.113.1 127.0.0.1 4660 8080\r\n"[..];
    assert_eq!(send(&edge, &[header, ASK]).await, "");
    assert!(
        metrics(&edge)
            .await
            .contains("shed_total{reason=\"not_a_proxy\"} 1")
    );
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let edge = Edge::with(Options {
        limits: "connections_per_address = 2",
        ..Options::default()
    })
    .await;
    let mut first = TcpStream::connect(edge.address).await.unwrap();
    let second = TcpStream::connect(edge.address).await.unwrap();
    first.write_all(&ASK[..20]).await.unwrap();
    assert_eq!(send(&edge, &[ASK]).await, "");
    drop(second);
    first.write_all(&ASK[20..]).await.unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let counted = "shed_total{reason=\"connections_per_address\"} 1";
    assert!(metrics(&edge).await.contains(counted));
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let edge = Edge::with(Options {
        limits: "write_timeout = \"200ms\"",
        ..Options::default()
    })
    .await;
    let large = "x".repeat(4 << 20);
    edge.bus.answer(Ok(BusReply {
        payload: large.into(),
        content_type: "text/plain".into(),
        headers: Vec::new(),
    }));
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    // More answers than all buffers between us hold.
    for _ in 0..8 {
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while !metrics(&edge).await.contains("bulla_gateway_connections 0") {
        assert!(Instant::now() < deadline, "still connected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// Browsers.

const CORS: &str = r#"[cors]
origins = ["https://app.example", "https://*.shop.example"]
headers = ["authorization", "content-type"]
expose = ["etag"]
max_age = "10m"
"#;

#[tokio::test]
async fn a_preflight_is_answered_without_a_token() {
    let edge = with_extra(CORS).await;
    let ask = |origin: &str, method: &str, path: &str| {
        edge.client
            .request(reqwest::Method::OPTIONS, edge.url(path))
            .header("origin", origin)
            .header("access-control-request-method", method)
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            )
    };
    let response = ask("https://a.shop.example", "POST", "/v1/orders")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 204);
    assert_eq!(
        header(&response, "access-control-allow-origin"),
        "https://a.shop.example"
    );
    assert_eq!(header(&response, "access-control-allow-methods"), "POST");
    assert_eq!(
        header(&response, "access-control-allow-headers"),
        "authorization, content-type"
    );
    assert_eq!(header(&response, "access-control-max-age"), "600");
    for (origin, method) in [
        ("https://evil.example", "POST"),
        ("https://app.example", "PUT"),
        ("null", "POST"),
    ] {
        let response = ask(origin, method, "/v1/orders").send().await.unwrap();
        assert_eq!(response.status(), 204);
        assert!(
            !response
                .headers()
                .contains_key("access-control-allow-origin"),
            "{origin}"
        );
    }
    let response = ask("https://app.example", "GET", "/nothing")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(response).await.0, 404);
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn answers_and_problems_can_be_read_by_the_origins_that_may() {
    let edge = with_extra(CORS).await;
    for (request, status) in [(edge.order(), 200), (edge.get("/v1/orders/1"), 401)] {
        let response = request
            .header("origin", "https://app.example")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(
            header(&response, "access-control-allow-origin"),
            "https://app.example"
        );
        assert_eq!(header(&response, "access-control-expose-headers"), "etag");
        assert_eq!(header(&response, "vary"), "Origin");
    }
    let response = edge
        .order()
        .header("origin", "https://evil.example")
        .send()
        .await
        .unwrap();
    assert!(
        !response
            .headers()
            .contains_key("access-control-allow-origin")
    );
}

#[tokio::test]
async fn without_cors_nothing_is_said_about_origins() {
    let edge = Edge::start().await;
    let response = edge
        .order()
        .header("origin", "https://app.example")
        .send()
        .await
        .unwrap();
    for name in response.headers().keys() {
        assert!(!name.as_str().starts_with("access-control"), "{name}");
    }
}

#[tokio::test]
async fn every_answer_tells_browsers_to_do_nothing_with_it() {
    let edge = Edge::start().await;
    for path in ["/health", "/nothing", "/v1/orders/1"] {
        let response = edge.get(path).send().await.unwrap();
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        assert_eq!(header(&response, "x-frame-options"), "DENY");
        assert_eq!(header(&response, "referrer-policy"), "no-referrer");
        assert_eq!(
            header(&response, "content-security-policy"),
            "default-src 'none'; frame-ancestors 'none'"
        );
        // Means nothing without TLS.
        assert!(!response.headers().contains_key("strict-transport-security"));
    }
}

// Content.

#[tokio::test]
async fn a_json_body_is_json_not_too_deep_and_says_nothing_twice() {
    let edge = Edge::with(Options {
        limits: "json_depth = 3",
        ..Options::default()
    })
    .await;
    assert_eq!(
        edge.order().body("[[[1]]]").send().await.unwrap().status(),
        200
    );
    for (body, reason) in [
        ("[[[[1]]]]", "json_too_deep"),
        ("{\"a\":1,\"a\":2}", "json_member_repeated"),
        ("{\"a\":1", "malformed_json"),
        ("<order/>", "malformed_json"),
    ] {
        let response = edge.order().body(body).send().await.unwrap();
        assert_eq!(
            problem(response).await,
            (400, "bad-request".into()),
            "{body}"
        );
        let counted = format!("refused_total{{reason=\"{reason}\"}}");
        assert!(metrics(&edge).await.contains(&counted), "{reason}");
    }
    assert_eq!(edge.bus.seen.lock().len(), 1);
}

#[tokio::test]
async fn a_packed_body_is_not_unpacked_but_refused() {
    let edge = Edge::start().await;
    let response = edge
        .order()
        .header("content-encoding", "gzip")
        .send()
        .await
        .unwrap();
    assert_eq!(
        problem(response).await,
        (415, "unsupported-media-type".into())
    );
    assert!(edge.bus.untouched());
}

const SCHEMAS: &str = r#"
[[route]]
method = "POST"
path = "/v1/orders"
subject = "orders.create"
mode = "request"
auth = "public"
request_schema = "order.json"
response_schema = "made.json"

[[route]]
method = "GET"
path = "/v1/orders/{id}"
subject = "orders.get"
mode = "request"
auth = "public"
query = ["limit"]
request_schema = "get.json"
"#;

async fn with_schemas() -> Edge {
    let options = Options {
        routes: Some(SCHEMAS),
        ..Options::default()
    };
    let write = |dir: &Path| {
        let order = json!({"type": "object", "required": ["item"],
            "properties": {"item": {"type": "string", "maxLength": 8}, "count": {"type": "integer"}}});
        let made = json!({"type": "object", "required": ["id"]});
        let get = json!({"properties": {"limit": {"pattern": "^[0-9]{1,3}$"}}});
        for (name, schema) in [
            ("order.json", order),
            ("made.json", made),
            ("get.json", get),
        ] {
            std::fs::write(dir.join(name), schema.to_string()).unwrap();
        }
    };
    Edge::with_issuer(options, Issuer::start().await, write).await
}

#[tokio::test]
async fn content_that_is_not_what_the_schema_says_is_422() {
    let edge = with_schemas().await;
    edge.bus.answer(Ok(json_reply("{\"id\":1}")));
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
    let response = edge
        .order()
        .body("{\"item\":\"a-secret-word\",\"count\":\"x\"}")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 422);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["type"], "urn:bulla:problem:invalid-content");
    let pointers: Vec<&str> = body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(pointers, ["/count", "/item"]);
    assert!(!body.to_string().contains("secret"), "{body}");
    assert_eq!(edge.bus.seen.lock().len(), 1);
}

#[tokio::test]
async fn parameters_are_checked_by_the_schema_too() {
    let edge = with_schemas().await;
    let status = async |path: &str| edge.get(path).send().await.unwrap().status().as_u16();
    assert_eq!(status("/v1/orders/1?limit=20").await, 200);
    assert_eq!(status("/v1/orders/1?limit=all").await, 422);
}

#[tokio::test]
async fn a_reply_that_is_not_what_the_schema_says_is_502() {
    let edge = with_schemas().await;
    for reply in ["{\"name\":1}", "nonsense"] {
        edge.bus.answer(Ok(json_reply(reply)));
        let response = edge.order().send().await.unwrap();
        assert_eq!(problem(response).await, (502, "bad-reply".into()));
    }
    // An error of the service is its own to say.
    let mut reply = json_reply("{\"why\":1}");
    reply.headers.push(("http-status".into(), "409".into()));
    edge.bus.answer(Ok(reply));
    assert_eq!(edge.order().send().await.unwrap().status(), 409);
}

// Too much.

#[tokio::test]
async fn less_important_routes_are_turned_away_first() {
    const ROUTES: &str = "[[route]]\nmethod = \"GET\"\npath = \"/low\"\nsubject = \"a.low\"\nmode = \"request\"\nauth = \"public\"\npriority = \"low\"\n[[route]]\nmethod = \"GET\"\npath = \"/high\"\nsubject = \"a.high\"\nmode = \"request\"\nauth = \"public\"\npriority = \"high\"\n";
    let edge = Edge::with(Options {
        limits: "requests = 4",
        routes: Some(ROUTES),
        ..Options::default()
    })
    .await;
    let (entered, mut inside) = tokio::sync::mpsc::channel(10);
    let release = tokio_util::sync::CancellationToken::new();
    edge.bus.behave({
        let release = release.clone();
        move |_| {
            let (entered, release) = (entered.clone(), release.clone());
            Box::pin(async move {
                let _ = entered.send(()).await;
                release.cancelled().await;
                Ok(json_reply("{}"))
            })
        }
    });
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(tokio::spawn(edge.get("/high").send()));
        inside.recv().await.unwrap();
    }
    let response = edge.get("/low").send().await.unwrap();
    assert_eq!(header(&response, "retry-after"), "1");
    assert_eq!(problem(response).await, (503, "overloaded".into()));
    assert!(
        metrics(&edge)
            .await
            .contains("shed_total{reason=\"priority_low\"} 1")
    );
    running.push(tokio::spawn(edge.get("/high").send()));
    inside.recv().await.unwrap();
    let response = edge.get("/high").send().await.unwrap();
    assert_eq!(problem(response).await, (503, "overloaded".into()));
    release.cancel();
    for one in running {
        assert_eq!(one.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(edge.get("/low").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn where_nobody_answers_nobody_is_asked_for_a_while() {
    let edge = with_extra("[breaker]\nfailures = 3\npause = \"300ms\"\n").await;
    edge.bus.answer(Err(BusError::Timeout));
    for _ in 0..3 {
        assert_eq!(edge.order().send().await.unwrap().status(), 504);
    }
    let response = edge.order().send().await.unwrap();
    assert_eq!(header(&response, "retry-after"), "1");
    assert_eq!(problem(response).await, (503, "unavailable".into()));
    assert_eq!(edge.bus.seen.lock().len(), 3);
    // The others go on.
    edge.bus.answer(Ok(json_reply("{}")));
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 200);
    let deadline = Instant::now() + Duration::from_secs(5);
    while edge.order().send().await.unwrap().status() != 200 {
        assert!(Instant::now() < deadline, "closed for good");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn errors_of_a_service_do_not_open_its_breaker() {
    let edge = with_extra("[breaker]\nfailures = 2\n").await;
    for error in [BusError::BadReply, BusError::Denied { decision: None }] {
        edge.bus.answer(Err(error));
        for _ in 0..4 {
            edge.order().send().await.unwrap();
        }
    }
    edge.bus.answer(Ok(json_reply("{}")));
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
}
