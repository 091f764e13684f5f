//! Sizes, times and numbers that are too much.

use crate::setup::*;
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const IMPATIENT: Options = Options {
    limits: "header_timeout = \"200ms\"\nbody_timeout = \"200ms\"",
    issuer: "",
    listen: "",
    extra: "",
    routes: None,
};

async fn closed_soon(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer))
        .await
        .expect("the edge closes the connection")
        .unwrap_or_default();
    assert!(started.elapsed() < Duration::from_secs(4));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut() {
    let edge = Edge::with(IMPATIENT).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    assert_eq!(closed_soon(&mut stream).await, "");
}

#[tokio::test]
async fn a_head_that_trickles_is_cut() {
    let edge = Edge::with(IMPATIENT).await;
    for begin in [
        "G",
        "GET /health HT",
        "PRI * HTTP/2.0\r\n",
        "GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ",
    ] {
        let mut stream = TcpStream::connect(edge.address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if begin.len() > 20 && writer.write_all(b"a").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = trickle => {}
            read = tokio::time::timeout(Duration::from_secs(5), reader.read_to_end(&mut answer)) => {
                let _ = read.expect("the edge closes the connection");
            }
        }
        assert!(
            !String::from_utf8_lossy(&answer).contains("200 OK"),
            "{begin}"
        );
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_last_request() {
    let edge = Edge::with(IMPATIENT).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(closed_soon(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_trickles_is_408() {
    let edge = Edge::with(IMPATIENT).await;
    let token = edge.issuer.token();
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let head = format!(
        "POST /v1/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = closed_soon(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(
        answer.contains("urn:bulla:problem:request-timeout"),
        "{answer}"
    );
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn nothing_is_read_of_a_body_before_the_user_is_known() {
    let edge = Edge::start().await;
    let head = "POST /v1/orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 100\r\nconnection: close\r\n\r\n";
    let answer = edge.raw(head).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_at_the_limit() {
    let edge = Edge::start().await;
    let token = edge.issuer.token();
    let mut request = format!(
        "POST /v1/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    for _ in 0..20 {
        request.push_str("64\r\n");
        request.push_str(&"x".repeat(100));
        request.push_str("\r\n");
    }
    request.push_str("0\r\n\r\n");
    let answer = edge.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_body_that_says_that_it_is_too_long_is_not_waited_for() {
    let edge = Edge::start().await;
    let token = edge.issuer.token();
    let started = Instant::now();
    // Nothing of it is sent, and nobody tells the client to go on.
    let head = format!(
        "POST /v1/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 1025\r\n\r\n"
    );
    let answer = edge.raw(&head).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_body_at_the_limit_passes() {
    let edge = Edge::start().await;
    let body = format!("{}0", " ".repeat(1023));
    let response = edge.order().body(body).send().await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_get_with_a_body_is_refused() {
    let edge = Edge::start().await;
    let request = edge
        .get("/v1/orders/1")
        .bearer_auth(edge.issuer.token())
        .body("{}");
    let response = request
        .header("content-type", "application/json")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(response).await, (413, "content-too-large".into()));
}

#[tokio::test]
async fn a_head_above_its_limit_is_431() {
    let edge = Edge::with(Options {
        limits: "header_bytes = \"8KiB\"",
        ..Options::default()
    })
    .await;
    let long = "x".repeat(20_000);
    let answer = edge
        .raw(&format!(
            "GET /health HTTP/1.1\r\nhost: x\r\na: {long}\r\n\r\n"
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn too_many_headers_are_431() {
    let edge = Edge::with(Options {
        limits: "headers = 10",
        ..Options::default()
    })
    .await;
    let many: String = (0..11).map(|i| format!("x-{i}: 1\r\n")).collect();
    let answer = edge
        .raw(&format!("GET /health HTTP/1.1\r\nhost: x\r\n{many}\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(edge.bus.untouched());
}

/// Asks for `/health` with these headers over a connection of its own: the status of the
/// answer, and whether there is nothing else.
async fn asked(edge: &Edge, version: Version, headers: &[(String, String)]) -> (u16, bool) {
    let stream = TokioIo::new(TcpStream::connect(edge.address).await.unwrap());
    let mut request = Request::get(edge.url("/health"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = if version == Version::HTTP_2 {
        let executor = TokioExecutor::new();
        let (mut send, connection) = http2::handshake(executor, stream).await.unwrap();
        tokio::spawn(connection);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        send.send_request(request).await.unwrap()
    } else {
        let (mut send, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = request.uri("/health").header("host", "x");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        send.send_request(request).await.unwrap()
    };
    assert_eq!(response.version(), version);
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap();
    (status, body.to_bytes().is_empty())
}

#[tokio::test]
async fn the_limits_of_a_head_hold_over_both_versions() {
    let edge = Edge::with(Options {
        limits: "headers = 10\nheader_bytes = \"8KiB\"",
        ..Options::default()
    })
    .await;
    let numbered = |count: usize| {
        (0..count)
            .map(|n| (format!("x-{n}"), "1".to_owned()))
            .collect::<Vec<_>>()
    };
    let repeated = |name: &str, count: usize| vec![(name.to_owned(), "a=1".to_owned()); count];
    let long = |bytes: usize| vec![("x".to_owned(), "x".repeat(bytes))];
    for version in [Version::HTTP_11, Version::HTTP_2] {
        // With the host, which HTTP/2 calls the authority, one more.
        for (headers, status) in [
            (numbered(9), 200),
            (numbered(10), 431),
            (numbered(40), 431),
            (repeated("x", 9), 200),
            (repeated("x", 10), 431),
            (long(7_000), 200),
            (long(10_000), 431),
        ] {
            let answer = asked(&edge, version, &headers).await;
            let what = format!("{version:?}: {} of {}", headers.len(), headers[0].0);
            assert_eq!(answer, (status, status == 431), "{what}");
        }
    }
    // Cookies are one field, in as many pieces as a client likes.
    let cookies = [repeated("cookie", 20), numbered(8)].concat();
    assert_eq!(asked(&edge, Version::HTTP_2, &cookies).await.0, 200);
    let seen = edge.bus.seen.lock().len();
    assert_eq!(seen, 7);

    // Of those over HTTP/2 the edge has refused three, and the library one.
    let metric = async |line: &str| crate::reload::metric(&edge, line).await;
    for line in [
        "bulla_gateway_refused_total{reason=\"large_head\"} 7\n",
        "bulla_gateway_requests_total{route=\"\",status=\"431\"} 7\n",
    ] {
        assert!(metric(line).await, "{line}");
    }
}

#[tokio::test]
async fn a_uri_above_its_limit_is_414() {
    let edge = Edge::with(Options {
        limits: "uri = 100",
        ..Options::default()
    })
    .await;
    let response = edge
        .get(&format!("/v1/orders/1?fields={}", "x".repeat(100)))
        .send()
        .await
        .unwrap();
    assert_eq!(problem(response).await, (414, "uri-too-long".into()));
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_and_the_others_live() {
    let edge = Edge::with(Options {
        limits: "connections = 1",
        ..Options::default()
    })
    .await;
    let mut first = TcpStream::connect(edge.address).await.unwrap();
    first
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    first.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let mut second = TcpStream::connect(edge.address).await.unwrap();
    assert_eq!(closed_soon(&mut second).await, "");
    let metrics = edge.client.get(format!("http://{}/metrics", edge.admin));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("bulla_gateway_shed_total{reason=\"connections\"} 1"),
        "{metrics}"
    );
    first
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(closed_soon(&mut first).await.contains("HTTP/1.1 200"));
}

#[tokio::test]
async fn metrics_name_routes_and_reasons_and_nothing_that_a_client_chooses() {
    let edge = Edge::start().await;
    edge.order().send().await.unwrap();
    edge.get("/secret-path").send().await.unwrap();
    edge.get("/v1/orders/secret-id")
        .bearer_auth("secret.secret.secret")
        .send()
        .await
        .unwrap();
    let metrics = edge.client.get(format!("http://{}/metrics", edge.admin));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(
        metrics
            .contains("bulla_gateway_requests_total{route=\"POST /v1/orders\",status=\"200\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("bulla_gateway_refused_total{reason=\"unknown_route\"} 1"),
        "{metrics}"
    );
    for word in ["secret", "alice", "orders.create"] {
        assert!(!metrics.contains(word), "{word}: {metrics}");
    }
}

#[tokio::test]
async fn livez_and_readyz_answer_on_the_admin_address_alone() {
    let edge = Edge::start().await;
    edge.order().send().await.unwrap();
    for path in ["/livez", "/readyz"] {
        let response = edge
            .client
            .get(format!("http://{}{path}", edge.admin))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(edge.get(path).send().await.unwrap().status(), 404);
    }
    edge.bus
        .up
        .store(false, std::sync::atomic::Ordering::SeqCst);
    let response = edge
        .client
        .get(format!("http://{}/readyz", edge.admin))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
}
