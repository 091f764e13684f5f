//! Streams over WebSocket.

use std::time::Duration;

use crate::setup::*;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

const ROUTES: &str = r#"
[[route]]
method = "GET"
path = "/v1/users/{user}/events"
mode = "stream"
subject = "users.{user}.changed"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
heartbeat = "200ms"
streams_per_user = 2
websocket = true

[route.require]
user = "claim.sub"

[[route]]
method = "GET"
path = "/once"
mode = "request"
subject = "plain.get"
auth = "public"

[[route]]
method = "GET"
path = "/plain"
mode = "stream"
subject = "plain.made"
auth = "public"
"#;

async fn edge() -> Edge {
    Edge::with(Options {
        routes: Some(ROUTES),
        issuer: "leeway = \"0s\"",
        extra: "[cors]\norigins = [\"https://app.example\"]",
        ..Options::default()
    })
    .await
}

type Socket = WebSocketStream<TcpStream>;

async fn connect(edge: &Edge, headers: &[(&str, String)]) -> Result<(Socket, HeaderMap), Error> {
    let url = format!("ws://{}/v1/users/alice/events", edge.address);
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (socket, response) = client_async(request, stream).await?;
    Ok((socket, response.headers().clone()))
}

fn bearer(edge: &Edge) -> (&'static str, String) {
    ("authorization", format!("Bearer {}", edge.issuer.token()))
}

/// Offers a protocol, and says which was chosen.
async fn speaking(edge: &Edge, path: &str, protocols: &str) -> (Socket, String) {
    let url = format!("ws://{}{path}", edge.address);
    let mut request = url.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", bearer(edge).1.parse().unwrap());
    headers.insert("sec-websocket-protocol", protocols.parse().unwrap());
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (socket, response) = client_async(request, stream).await.unwrap();
    let chosen = response.headers()["sec-websocket-protocol"].to_str();
    (socket, chosen.unwrap().to_owned())
}

async fn open(edge: &Edge) -> Socket {
    connect(edge, &[bearer(edge)]).await.unwrap().0
}

/// The status with which a handshake is refused.
async fn refused(edge: &Edge, headers: &[(&str, String)]) -> u16 {
    match connect(edge, headers).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

async fn heard(socket: &mut Socket) -> Message {
    let next = tokio::time::timeout(Duration::from_secs(10), socket.next());
    next.await.unwrap().unwrap().unwrap()
}

/// The code with which the edge says goodbye.
async fn goodbye(socket: &mut Socket) -> u16 {
    loop {
        if let Message::Close(frame) = heard(socket).await {
            return frame.unwrap().code.into();
        }
    }
}

#[tokio::test]
async fn events_come_as_messages_and_silence_as_pings() {
    let edge = edge().await;
    let mut socket = open(&edge).await;
    edge.bus.emit("users.bob.changed", "no");
    edge.bus.emit("users.alice.changed", "{\"n\":1}");
    assert_eq!(heard(&mut socket).await, Message::text("{\"n\":1}"));
    assert!(matches!(heard(&mut socket).await, Message::Ping(_)));
    // The library has answered, so the stream goes on however long it is silent.
    for _ in 0..5 {
        assert!(matches!(heard(&mut socket).await, Message::Ping(_)));
    }
    edge.bus.emit("users.alice.changed", "two");
    while heard(&mut socket).await != Message::text("two") {}
}

#[tokio::test]
async fn a_browser_brings_its_token_as_a_protocol() {
    let edge = edge().await;
    let offer = |token: &str| ("sec-websocket-protocol", format!("events, bearer.{token}"));
    let origin = |origin: &str| ("origin", origin.to_owned());
    let token = edge.issuer.token();
    let headers = [offer(&token), origin("https://app.example")];
    let (mut socket, answer) = connect(&edge, &headers).await.unwrap();
    assert_eq!(answer["sec-websocket-protocol"], "events");
    edge.bus.emit("users.alice.changed", "x");
    assert_eq!(heard(&mut socket).await, Message::text("x"));

    let foreign = [offer(&token), origin("https://evil.example")];
    assert_eq!(refused(&edge, &foreign).await, 403);
    assert_eq!(refused(&edge, &[offer(&token), bearer(&edge)]).await, 400);
    assert_eq!(refused(&edge, &[offer("a.b.c")]).await, 401);
    assert_eq!(refused(&edge, &[]).await, 401);
    let two = [
        offer(&token),
        ("sec-websocket-protocol", format!("bearer.{token}")),
    ];
    assert_eq!(refused(&edge, &two).await, 400);
}

#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    let edge = edge().await;
    let (_, token) = bearer(&edge);
    let ask = async |lines: &str| {
        let text = edge
            .raw(&format!(
                "GET /v1/users/alice/events HTTP/1.1\r\nhost: a\r\nauthorization: {token}\r\n\
                 upgrade: websocket\r\n{lines}\r\n\r\n"
            ))
            .await;
        text.lines().next().unwrap_or_default().to_owned()
    };
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    for lines in [
        format!("connection: upgrade\r\n{key}\r\nsec-websocket-version: 12"),
        format!("connection: keep-alive\r\n{key}\r\nsec-websocket-version: 13"),
        "connection: upgrade\r\nsec-websocket-key: dGhl\r\nsec-websocket-version: 13".to_owned(),
        format!("connection: upgrade\r\n{key}\r\n{key}\r\nsec-websocket-version: 13"),
    ] {
        assert_eq!(ask(&lines).await, "HTTP/1.1 400 Bad Request", "{lines}");
    }
    assert!(edge.bus.listeners.lock().is_empty());
}

#[tokio::test]
async fn a_client_that_speaks_is_told_that_nobody_listens() {
    let edge = edge().await;
    let mut socket = open(&edge).await;
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(goodbye(&mut socket).await, 1008);
    let mut loud = open(&edge).await;
    let _ = loud.send(Message::text("x".repeat(10_000))).await;
    let end = tokio::time::timeout(Duration::from_secs(10), async {
        while let Some(Ok(_)) = loud.next().await {}
    });
    end.await.unwrap();
}

#[tokio::test]
async fn a_socket_ends_with_its_token_its_user_and_the_edge() {
    let edge = edge().await;
    let short = edge.issuer.token_with(json!({"exp": now() + 2}));
    let headers = [("authorization", format!("Bearer {short}"))];
    let (mut ends, _) = connect(&edge, &headers).await.unwrap();
    assert_eq!(goodbye(&mut ends).await, 4401);

    let mut revoked = open(&edge).await;
    edge.bus.revoked.lock().push("alice".into());
    assert_eq!(goodbye(&mut revoked).await, 4403);
    edge.bus.revoked.lock().clear();

    let mut left = open(&edge).await;
    edge.bus.listeners.lock().clear();
    assert_eq!(goodbye(&mut left).await, 1013);

    let mut last = open(&edge).await;
    edge.stop.cancel();
    assert_eq!(goodbye(&mut last).await, 1001);
    drop(last);
    edge.running.await.unwrap();
}

#[tokio::test]
async fn sockets_and_event_streams_of_a_user_are_counted_together() {
    let edge = edge().await;
    let first = open(&edge).await;
    let request = edge.get("/v1/users/alice/events");
    let _second = request
        .bearer_auth(edge.issuer.token())
        .send()
        .await
        .unwrap();
    assert_eq!(refused(&edge, &[bearer(&edge)]).await, 429);
    drop(first);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while connect(&edge, &[bearer(&edge)]).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "no room");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_route_that_does_not_offer_it_speaks_no_websocket() {
    let edge = edge().await;
    let url = format!("ws://{}/plain", edge.address);
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let Err(Error::Http(response)) = client_async(url, stream).await else {
        panic!("it was taken");
    };
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
}

#[tokio::test]
async fn any_bytes_after_the_handshake_leave_the_edge_alive() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let edge = edge().await;
    let (_, token) = bearer(&edge);
    let head = format!(
        "GET /v1/users/alice/events HTTP/1.1\r\nhost: a\r\nauthorization: {token}\r\nupgrade: websocket\r\n\
         connection: upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    );
    let mut state: u64 = 1;
    let mut random = move || {
        // xorshift: the same bytes in each run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    for round in 0..40 {
        let mut stream = TcpStream::connect(edge.address).await.unwrap();
        let mut bytes = head.clone().into_bytes();
        for _ in 0..1 + round * 8 {
            bytes.extend_from_slice(&random());
        }
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), reading)
            .await
            .expect("the edge ends it");
        assert!(answer.starts_with(b"HTTP/1.1 "), "{round}");
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let mut socket = loop {
        match connect(&edge, &[bearer(&edge)]).await {
            Ok((socket, _)) => break socket,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    edge.bus.emit("users.alice.changed", "still here");
    assert_eq!(heard(&mut socket).await, Message::text("still here"));
}

#[tokio::test]
async fn a_page_goes_on_where_it_stopped_by_the_numbers_of_events() {
    let edge = edge().await;
    let path = "/v1/users/alice/events?last_event_id=18446744073709551615";
    let (mut socket, chosen) = speaking(&edge, path, "events.numbered, events").await;
    assert_eq!(chosen, "events.numbered");
    assert_eq!(*edge.bus.resumed.lock(), [Some(u64::MAX)]);
    edge.bus
        .emit_stored("users.alice.changed", "a \"b\"", u64::MAX);
    let said = json!({"id": u64::MAX.to_string(), "data": "a \"b\""});
    assert_eq!(next_object(&mut socket).await, said);
    let octets = "application/octet-stream";
    edge.bus.emit_as("users.alice.changed", octets, b"\x00\xff");
    assert_eq!(next_object(&mut socket).await, json!({"base64": "AP8="}));
    // The one that the client would rather have.
    let (_, chosen) = speaking(
        &edge,
        "/v1/users/alice/events",
        "x, events, events.numbered",
    )
    .await;
    assert_eq!(chosen, "events");
}

async fn next_object(socket: &mut Socket) -> serde_json::Value {
    loop {
        if let Message::Text(text) = heard(socket).await {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

#[tokio::test]
async fn message_pack_comes_as_json_and_bytes_as_bytes() {
    let edge = edge().await;
    let mut socket = open(&edge).await;
    let packed = b"\x81\xa1a\x92\x01\xc3";
    edge.bus
        .emit_as("users.alice.changed", "application/msgpack", packed);
    assert_eq!(heard(&mut socket).await, Message::text("{\"a\":[1,true]}"));
    edge.bus.emit_as("users.alice.changed", "image/png", b"png");
    assert_eq!(heard(&mut socket).await, Message::binary(&b"png"[..]));
}

/// A connection of HTTP/2 that knows that the edge opens WebSockets on it.
async fn http2(edge: &Edge) -> hyper::client::conn::http2::SendRequest<Full<bytes::Bytes>> {
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // With the first answer the client knows the edge's settings.
    let request = hyper::Request::get(edge.url("/once"));
    let answer = sender.send_request(request.body(Full::default()).unwrap());
    assert_eq!(answer.await.unwrap().status(), 200);
    sender
}

fn connecting(edge: &Edge, path: &str) -> hyper::http::request::Builder {
    hyper::Request::connect(edge.url(path))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
}

#[tokio::test]
async fn a_websocket_is_a_stream_of_an_http2_connection() {
    let edge = edge().await;
    let mut sender = http2(&edge).await;
    let path = "/v1/users/alice/events";
    let request = connecting(&edge, path)
        .header("authorization", bearer(&edge).1)
        .header("sec-websocket-protocol", "events")
        .body(Full::default())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "events");
    let upgraded = hyper::upgrade::on(answer).await.unwrap();
    let stream = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    edge.bus.emit("users.alice.changed", "over two");
    let said = tokio::time::timeout(Duration::from_secs(10), socket.next());
    assert_eq!(
        said.await.unwrap().unwrap().unwrap(),
        Message::text("over two")
    );
    // Other requests go on beside it.
    let request = hyper::Request::get(edge.url("/once"));
    let beside = sender.send_request(request.body(Full::default()).unwrap());
    assert_eq!(beside.await.unwrap().status(), 200);

    // The same rules as everywhere.
    let token = bearer(&edge).1;
    for (path, headers, status) in [
        (path, vec![], 401),
        (
            "/v1/users/bob/events",
            vec![("authorization", &*token)],
            403,
        ),
        (
            path,
            vec![
                ("authorization", &*token),
                ("origin", "https://evil.example"),
            ],
            403,
        ),
        // Where there is no WebSocket no answer may say that there is one.
        ("/plain", vec![], 405),
        ("/once", vec![], 405),
        ("/none", vec![], 404),
    ] {
        let mut request = connecting(&edge, path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    // A version that nobody speaks, and another protocol.
    let request = connecting(&edge, path)
        .header("authorization", &token)
        .header("sec-websocket-version", "12")
        .body(Full::default())
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 400);
    let request = hyper::Request::connect(edge.url(path))
        .extension(hyper::ext::Protocol::from_static("connect-udp"))
        .header("authorization", &token)
        .body(Full::default())
        .unwrap();
    let other = sender.send_request(request).await.unwrap();
    assert!(other.status().is_client_error(), "{}", other.status());

    edge.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(frame) = message {
                return frame.unwrap().code.into();
            }
        }
        0_u16
    });
    assert_eq!(ended.await.unwrap(), 1001);
    drop((socket, sender));
    edge.running.await.unwrap();
}
