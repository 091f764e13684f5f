//! Events of the bus as server-sent events.

use crate::setup::*;
use serde_json::json;
use std::time::{Duration, Instant};

const ROUTES: &str = r#"
[[route]]
method = "GET"
path = "/v1/users/{user}/events"
mode = "stream"
subject = "users.{user}.changed"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
scope = "orders:read"
heartbeat = "200ms"
streams_per_user = 2

[route.require]
user = "claim.sub"

[[route]]
method = "GET"
path = "/news"
mode = "stream"
subject = "news.made"
auth = "public"
heartbeat = "60s"
"#;

async fn edge() -> Edge {
    Edge::with(Options {
        routes: Some(ROUTES),
        issuer: "leeway = \"0s\"",
        ..Options::default()
    })
    .await
}

async fn open(edge: &Edge) -> reqwest::Response {
    let request = edge.get("/v1/users/alice/events");
    request
        .bearer_auth(edge.issuer.token())
        .send()
        .await
        .unwrap()
}

/// Reads until `wanted` has come.
async fn read_until(response: &mut reqwest::Response, wanted: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while let Some(chunk) = response.chunk().await.unwrap() {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            if text.contains(wanted) {
                return;
            }
        }
        panic!("ended without `{wanted}`: {text}");
    };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .unwrap();
    text
}

/// How long it takes until the stream has ended.
async fn ended(mut response: reqwest::Response) -> Duration {
    let started = Instant::now();
    let reading = async { while let Ok(Some(_)) = response.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("the stream ends");
    started.elapsed()
}

async fn open_streams(edge: &Edge) -> String {
    let request = edge.client.get(format!("http://{}/metrics", edge.admin));
    let text = request.send().await.unwrap().text().await.unwrap();
    let line = text
        .lines()
        .find(|l| l.starts_with("bulla_gateway_streams "));
    line.unwrap().to_owned()
}

#[tokio::test]
async fn events_come_as_they_happen_and_silence_is_filled() {
    let edge = edge().await;
    let mut stream = open(&edge).await;
    assert_eq!(stream.status(), 200);
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.headers()["cache-control"], "no-store");
    read_until(&mut stream, "retry: 2000\n\n").await;
    edge.bus.emit("users.alice.changed", "{\"n\":1}");
    edge.bus.emit("users.bob.changed", "{\"n\":2}");
    edge.bus.emit("users.alice.changed", "{\n\"n\":3}");
    let text = read_until(&mut stream, "3}\n\n").await;
    assert_eq!(text, "data: {\"n\":1}\n\ndata: {\ndata: \"n\":3}\n\n");
    read_until(&mut stream, ":\n\n").await;
    assert_eq!(open_streams(&edge).await, "bulla_gateway_streams 1");
}

#[tokio::test]
async fn a_client_that_comes_back_says_after_which_event() {
    let edge = edge().await;
    let mut stream = open(&edge).await;
    read_until(&mut stream, "retry").await;
    edge.bus.emit_stored("users.alice.changed", "a", 41);
    let text = read_until(&mut stream, "data: a\n\n").await;
    assert_eq!(text, "id: 41\ndata: a\n\n");
    drop(stream);
    let back = async |id: &str| {
        let request = edge.get("/v1/users/alice/events");
        let request = request.bearer_auth(edge.issuer.token());
        let answer = request.header("last-event-id", id).send().await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!(back("41").await, 200);
    for bad in ["-1", "+1", "x", "1.5", "99999999999999999999999", "1, 2"] {
        assert_eq!(back(bad).await, 400, "{bad}");
    }
    assert_eq!(*edge.bus.resumed.lock(), [None, Some(41)]);
    // Where a page can set no header, and the browser adds one when it comes back.
    let begin = async |query: &str, header: Option<&str>| {
        let request = edge.get(&format!("/v1/users/alice/events?{query}"));
        let mut request = request.bearer_auth(edge.issuer.token());
        if let Some(header) = header {
            request = request.header("last-event-id", header);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(begin("last_event_id=7", None).await, 200);
    assert_eq!(begin("last_event_id=7", Some("9")).await, 200);
    assert_eq!(begin("last_event_id=", None).await, 200);
    for bad in [
        "last_event_id=x",
        "last_event_id=-1",
        "last_event_id=1&last_event_id=2",
        "after=7",
    ] {
        assert_eq!(begin(bad, None).await, 400, "{bad}");
    }
    let resumed = edge.bus.resumed.lock().clone();
    assert_eq!(resumed[2..], [Some(7), Some(9), None]);
}

#[tokio::test]
async fn what_is_no_text_is_told_as_text_all_the_same() {
    let edge = edge().await;
    let mut stream = open(&edge).await;
    read_until(&mut stream, "retry").await;
    let packed = b"\x82\xa1a\x01\xa1b\xc0";
    edge.bus
        .emit_as("users.alice.changed", "application/msgpack", packed);
    let text = read_until(&mut stream, "\n\n").await;
    assert_eq!(text, "data: {\"a\":1,\"b\":null}\n\n");
    edge.bus
        .emit_as("users.alice.changed", "image/png", b"\n\n\x00");
    let text = read_until(&mut stream, "\n\n").await;
    assert_eq!(text, "event: base64\ndata: CgoA\n\n");
}

#[tokio::test]
async fn who_may_not_listen_does_not() {
    let edge = edge().await;
    let status =
        async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    assert_eq!(status(edge.get("/v1/users/alice/events")).await, 401);
    let bob = edge
        .get("/v1/users/bob/events")
        .bearer_auth(edge.issuer.token());
    assert_eq!(status(bob).await, 403);
    let token = edge.issuer.token_with(json!({"scope": "none"}));
    let without = edge.get("/v1/users/alice/events").bearer_auth(token);
    assert_eq!(status(without).await, 403);
    let token = edge.issuer.token();
    let raised = edge.get("/v1/users/*/events").bearer_auth(token);
    assert_eq!(status(raised).await, 404);
    assert!(edge.bus.listeners.lock().is_empty());
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let edge = edge().await;
    let token = edge.issuer.token_with(json!({"exp": now() + 2}));
    let request = edge.get("/v1/users/alice/events").bearer_auth(token);
    let stream = request.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let took = ended(stream).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(took > Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn a_stream_ends_within_a_second_when_its_user_is_revoked() {
    let edge = edge().await;
    let mut stream = open(&edge).await;
    read_until(&mut stream, "retry").await;
    edge.bus.revoked.lock().push("alice".into());
    let took = ended(stream).await;
    assert!(took < Duration::from_millis(1_500), "{took:?}");
}

#[tokio::test]
async fn a_stream_ends_when_the_bus_gives_it_up() {
    let edge = edge().await;
    let mut stream = open(&edge).await;
    read_until(&mut stream, "retry").await;
    edge.bus.listeners.lock().clear();
    ended(stream).await;
}

#[tokio::test]
async fn a_user_has_so_many_streams_and_a_closed_one_makes_room() {
    let edge = edge().await;
    let (first, _second) = (open(&edge).await, open(&edge).await);
    let third = open(&edge).await;
    assert_eq!(third.headers()["retry-after"], "1");
    assert_eq!(problem(third).await, (429, "too-many-streams".into()));
    // Others are not in the way.
    assert_eq!(edge.get("/news").send().await.unwrap().status(), 200);
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(10);
    while open(&edge).await.status() != 200 {
        assert!(Instant::now() < deadline, "no room");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn streams_do_not_hold_the_edge_up() {
    let edge = edge().await;
    let mut stream = open(&edge).await;
    read_until(&mut stream, "retry").await;
    let started = Instant::now();
    edge.stop.cancel();
    ended(stream).await;
    edge.running.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn streams_are_not_requests_in_work() {
    let edge = Edge::with(Options {
        routes: Some(ROUTES),
        limits: "requests = 1\nevent_streams = 3",
        ..Options::default()
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(edge.get("/news").send().await.unwrap());
    }
    assert!(open.iter().all(|stream| stream.status() == 200));
    let fourth = edge.get("/news").send().await.unwrap();
    assert_eq!(problem(fourth).await, (429, "too-many-streams".into()));
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs in a process of its own, which nothing else uses.
#[tokio::test]
async fn measured_alone() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    if std::env::var_os("BULLA_MEASURE_STREAMS").is_none() {
        return;
    }
    let edge = Edge::with(Options {
        routes: Some(ROUTES),
        limits: "connections_per_address = 2000\nevent_streams = 2000\nheader_timeout = \"60s\"",
        ..Options::default()
    })
    .await;
    let open = async |user: usize| {
        let name = format!("user{user}");
        let token = edge.issuer.token_with(json!({ "sub": name }));
        let mut stream = tokio::net::TcpStream::connect(edge.address).await.unwrap();
        let request = format!(
            "GET /v1/users/{name}/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"retry: 2000\n\n\r\n") {
            let mut part = [0; 1024];
            let read = stream.read(&mut part).await.unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&part[..read]);
        }
        stream
    };
    // What the first ones bring along is not counted.
    let mut all = Vec::new();
    for user in 0..50 {
        all.push(open(user).await);
    }
    let before = resident();
    for user in 50..1_050 {
        all.push(open(user).await);
    }
    let grown = resident().saturating_sub(before);
    assert_eq!(open_streams(&edge).await, "bulla_gateway_streams 1050");
    println!("1,000 idle streams take {} KiB, {before} KiB before", grown);
    assert!(grown < 40 * 1024, "{grown} KiB");
}

#[test]
fn a_thousand_idle_streams_fit_into_40_mib() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "streams::measured_alone", "--nocapture"])
        .env("BULLA_MEASURE_STREAMS", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|l| l.contains("idle streams take"));
    println!("{}", line.unwrap_or(&text));
    assert!(output.status.success(), "{text}");
}

#[tokio::test]
async fn a_token_that_is_revoked_by_its_id_counts_no_more_and_ends_its_streams() {
    let edge = edge().await;
    let asks = async |id: &str| {
        let token = edge.issuer.token_with(json!({ "jti": id }));
        let request = edge.get("/v1/users/alice/events").bearer_auth(token);
        request.send().await.unwrap()
    };
    let (stolen, good) = (asks("stolen").await, asks("good").await);
    assert_eq!(
        (stolen.status().as_u16(), good.status().as_u16()),
        (200, 200)
    );
    edge.bus.revoked.lock().push("stolen".into());
    assert!(ended(stolen).await < Duration::from_secs(1));
    let refused = asks("stolen").await;
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains("invalid_token"), "{challenge}");
    assert_eq!(refused.status(), 401);
    // The same user's other token.
    assert_eq!(open_streams(&edge).await, "bulla_gateway_streams 1");
    assert_eq!(asks("other").await.status(), 200);
    drop(good);
}
