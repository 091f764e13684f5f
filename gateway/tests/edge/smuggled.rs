//! The known families of request smuggling, over raw sockets: each payload hides a request
//! for `/health` in what one reader takes for the content of another request. What is odd is
//! refused and the connection closed; what has one meaning keeps it, and the hidden request
//! is never one.

use std::time::{Duration, Instant};

use crate::setup::*;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the edge waits for the next request on a connection that stays open.
const PATIENCE: Duration = Duration::from_secs(2);
const HIDDEN: &str = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";

/// What has to become of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// 400 without a look at any route, and the connection is closed at once.
    Refused,
    /// Closed at once, without an answer or with a refusal.
    Dropped,
    /// One request, answered with this status, and the connection is closed at once: what
    /// comes after it is not believed.
    Ends(u16),
    /// One request, answered with this status: what seems to come after it is its content.
    One(u16),
    /// A request with this status, then one that is refused, and the connection is closed at
    /// once.
    Then400(u16),
    /// So many requests, all good.
    All(usize),
}
use Fate::{All, Dropped, Ends, One, Refused, Then400};

/// A request for an order with these header lines, which say how its content is framed.
fn order(token: &str, lines: &str, content: &str) -> String {
    format!(
        "POST /v1/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\n{lines}\r\n\r\n{content}"
    )
}

/// (name, payload, fate)
fn payloads(token: &str) -> Vec<(String, String, Fate)> {
    let mut all: Vec<(String, String, Fate)> = Vec::new();
    let mut add = |name: &str, payload: String, fate: Fate| {
        all.push((name.to_owned(), payload, fate));
    };
    let chunks = format!("0\r\n\r\n{HIDDEN}");
    let length = chunks.len();

    // CL.TE, TE.CL and CL.CL: what says twice how long it is.
    for (name, lines) in [
        (
            "CL.TE",
            format!("content-length: {length}\r\ntransfer-encoding: chunked"),
        ),
        (
            "TE.CL",
            "transfer-encoding: chunked\r\ncontent-length: 5".to_owned(),
        ),
        (
            "TE.CL with two lengths",
            format!("content-length: 5\r\ntransfer-encoding: chunked\r\ncontent-length: {length}"),
        ),
        (
            "TE.CL in other letters",
            "Transfer-ENCODING:chunked\r\nCONTENT-length:5".to_owned(),
        ),
        (
            "CL.TE where both mean the same",
            format!(
                "content-length: {}\r\ntransfer-encoding: chunked",
                length + 7
            ),
        ),
        (
            "the same length twice",
            "content-length: 2\r\ncontent-length: 2".to_owned(),
        ),
    ] {
        let content = format!("2\r\n{{}}\r\n{chunks}");
        add(name, order(token, &lines, &content), Refused);
    }
    let twice = "transfer-encoding: chunked\r\ncontent-length: 5";
    let last = order(token, twice, "2\r\n{}\r\n0\r\n\r\n");
    let after = |before: &str| format!("{before}{last}");
    for (name, before) in [
        (
            "content of a length",
            order(token, "content-length: 2", "{}"),
        ),
        (
            "chunks",
            order(
                token,
                "transfer-encoding: chunked",
                "1;a\r\n{\r\n1\r\n}\r\n0\r\nx: y\r\n\r\n",
            ),
        ),
    ] {
        add(&format!("TE.CL after {name}"), after(&before), Then400(200));
        let plain = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        // Neither the content nor what comes after it is taken for more than it is.
        let seen = format!("{before}{before}{plain}");
        add(&format!("{name}, and again"), seen, All(3));
    }

    // TE.TE: an encoding that one reader knows and the other does not.
    for lines in [
        "transfer-encoding: chunked\r\ntransfer-encoding: x",
        "transfer-encoding: x\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunkedx",
        "transfer-encoding: chunked;q=1",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: ,chunked",
        "transfer-encoding: \x0bchunked",
        "transfer-encoding: chunked\x0c",
        "transfer-encoding: ch\u{fc}nked",
        "transfer-encoding:",
        "transfer-encoding : chunked",
        "transfer-encoding\t: chunked",
        " transfer-encoding: chunked",
        "x: y\r\n transfer-encoding: chunked",
        "transfer-encoding:\r\n chunked",
        "transfer-encoding:\n chunked",
        "x: y\rtransfer-encoding: chunked",
        "transfer-encoding\0: chunked",
        "transfer-encoding: chunked\0",
    ] {
        let with_length = format!("{lines}\r\ncontent-length: {length}");
        let name = format!("TE.TE {lines:?}");
        add(&name, order(token, &with_length, &chunks), Refused);
        let name = format!("TE.TE without a length {lines:?}");
        add(&name, order(token, lines, &chunks), Refused);
    }

    // Lengths that two readers would read differently.
    for value in [
        "4\r\ncontent-length: 5",
        "4,4",
        "4, 5",
        "+4",
        "-0",
        "0x4",
        "4;",
        "4 0",
        "4.0",
        "1e1",
        "\x0b4",
        "",
        "18446744073709551616",
        "99999999999999999999999999999999",
    ] {
        let name = format!("length {value:?}");
        let lines = format!("content-length: {value}");
        add(&name, order(token, &lines, HIDDEN), Refused);
    }

    // CL.0: content where a route has none.
    for (name, head, status) in [
        ("CL.0 on a route without content", "GET /health", 413),
        ("CL.0 where nothing is", "GET /nothing", 404),
        ("CL.0 with another method", "DELETE /health", 405),
    ] {
        let payload = format!(
            "{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{HIDDEN}",
            HIDDEN.len()
        );
        add(name, payload, One(status));
    }

    // Chunks: sizes, extensions and ends that two readers would read differently.
    let chunked = "transfer-encoding: chunked";
    for (name, content) in [
        (
            "a size that overflows",
            "10000000000000002\r\n{}\r\n0\r\n\r\n",
        ),
        ("a size that is negative", "-2\r\n{}\r\n0\r\n\r\n"),
        ("a size with a plus", "+2\r\n{}\r\n0\r\n\r\n"),
        ("a size with 0x", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("a size with an underscore", "0_2\r\n{}\r\n0\r\n\r\n"),
        ("no size", "\r\n{}\r\n0\r\n\r\n"),
        ("a size that ends in a line feed", "2\n{}\r\n0\r\n\r\n"),
        ("a size that ends in a return", "2\r{}\r\n0\r\n\r\n"),
        ("an extension with a line feed", "2;a\nb\r\n{}\r\n0\r\n\r\n"),
        ("content longer than its size", "2\r\n{}x\r\n0\r\n\r\n"),
        ("content without its end", "2\r\n{}0\r\n\r\n"),
        ("content that ends in a line feed", "2\r\n{}\n0\r\n\r\n"),
        ("an end in line feeds", "2\r\n{}\r\n0\n\n"),
    ] {
        let content = format!("{content}{HIDDEN}");
        add(
            &format!("chunks: {name}"),
            order(token, chunked, &content),
            Ends(400),
        );
    }
    let flood = format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "a".repeat(64 << 10));
    add(
        "chunks: an extension without end",
        order(token, chunked, &flood),
        Ends(400),
    );
    let trailer = "2\r\n{}\r\n0\r\ncontent-length: 40\r\nhost: y\r\nnats-x: 1\r\n\r\n";
    add(
        "chunks: a trailer",
        order(token, chunked, trailer),
        One(200),
    );

    // Lines of the head.
    for (name, head) in [
        ("two spaces", "GET  /health HTTP/1.1"),
        ("a tab", "GET\t/health\tHTTP/1.1"),
        ("a space at the end", "GET /health HTTP/1.1 "),
        ("a version that is none", "GET /health HTTP/1.2"),
        ("another version", "GET /health HTTP/2.0"),
        ("a version in small letters", "GET /health http/1.1"),
        ("two targets", "GET /health /x HTTP/1.1"),
        ("a method that is none", "GE(T /health HTTP/1.1"),
        ("a target of another host", "GET http://y/health HTTP/1.1"),
        ("a target that is no path", "GET health HTTP/1.1"),
        ("a null in the target", "GET /heal\0th HTTP/1.1"),
    ] {
        let payload = format!("{head}\r\nhost: x\r\n\r\n{HIDDEN}");
        add(&format!("head: {name}"), payload, Refused);
    }
    for (name, lines) in [
        ("a space before the colon", "x : y"),
        ("a name in two", "x y: z"),
        ("a line without a colon", "x"),
        ("a line without a name", ": y"),
        ("a folded line", "x: y\r\n z: a"),
        ("a return alone", "x: y\rz: a"),
        ("a null", "x: y\0"),
        ("a second host", "host: y"),
        ("a host with a space before it", " host: y"),
        ("a name of letters that are none", "h\u{f6}st: y"),
    ] {
        let payload = format!("GET /v1/orders/1 HTTP/1.1\r\nhost: x\r\n{lines}\r\n\r\n{HIDDEN}");
        add(&format!("line: {name}"), payload, Refused);
    }

    // Other versions, and ways to another protocol.
    let old = format!("POST /v1/orders HTTP/1.0\r\nconnection: keep-alive\r\n{chunked}\r\n\r\n");
    add("HTTP/1.0 with chunks", format!("{old}{chunks}"), Refused);
    add("HTTP/0.9", "GET /health\r\n\r\n".to_owned(), Refused);
    for upgrade in ["h2c", "HTTP/2.0", "websocket, h2c", "TLS/1.0"] {
        let payload = format!(
            "GET /v1/orders/1 HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\n\
             upgrade: {upgrade}\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
        );
        // Nothing but WebSocket is spoken after HTTP, so it is a request as any other.
        add(&format!("upgrade to {upgrade}"), payload, One(401));
    }
    let preface = "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n";
    add(
        "a preface that is none",
        format!("{preface}{HIDDEN}"),
        Dropped,
    );

    // Who is told to go on before it is known who asks would hide a request behind the wait.
    let expecting = format!(
        "POST /v1/orders HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        HIDDEN.len()
    );
    add(
        "an expectation without a token",
        expecting.clone(),
        Ends(401),
    );
    add(
        "an expectation that is not waited for",
        format!("{expecting}{HIDDEN}"),
        One(401),
    );
    all
}

/// A head that frames its content twice is one however it is cut into packets.
#[tokio::test]
async fn attack_21_a_head_in_pieces_is_refused_like_a_whole_one() {
    let edge = Edge::start().await;
    let payload = order(
        &edge.issuer.token(),
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "2\r\n{}\r\n0\r\n\r\n",
    );
    let at = payload.find("content-length").unwrap();
    for cuts in [vec![1], vec![23], vec![24], vec![at], vec![at + 3], {
        (1..payload.len() - 12).step_by(7).collect()
    }] {
        let mut stream = TcpStream::connect(edge.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut from = 0;
        for cut in cuts.iter().copied().chain([payload.len()]) {
            if stream
                .write_all(&payload.as_bytes()[from..cut])
                .await
                .is_err()
            {
                break;
            }
            from = cut;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), reading)
            .await
            .expect("the edge closes the connection");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400"), "{cuts:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    assert!(edge.bus.untouched());
}

/// What came back, and how long the connection was open.
async fn send(edge: &Edge, payload: &str) -> (String, Duration) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    // The edge may close it before all of it is written.
    let _ = stream.write_all(payload.as_bytes()).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("the edge closes the connection");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer, started.elapsed())
}

#[tokio::test]
async fn attack_21_no_known_smuggling_payload_hides_a_request() {
    let edge = Edge::with(Options {
        limits: "header_timeout = \"2s\"",
        ..Options::default()
    })
    .await;
    let token = edge.issuer.token();
    // The keys are fetched, so that no row waits for them.
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
    edge.bus.seen.lock().clear();
    let payloads = payloads(&token);
    let outcomes = join_all(payloads.iter().map(|(_, payload, _)| send(&edge, payload))).await;
    let mut wrong = Vec::new();
    for ((name, _, fate), (answer, open)) in payloads.iter().zip(outcomes) {
        let answers: Vec<u16> = answer
            .match_indices("HTTP/1.1 ")
            .map(|(at, found)| {
                let status = answer[at + found.len()..].get(..3);
                status.unwrap_or_default().parse().unwrap_or_default()
            })
            .collect();
        let at_once = open < PATIENCE / 2;
        let good = match fate {
            Refused => answers == [400] && at_once,
            Dropped => answers.iter().all(|status| *status == 400) && at_once,
            Ends(status) => answers == [*status] && at_once,
            One(status) => answers == [*status],
            Then400(status) => answers == [*status, 400] && at_once,
            All(count) => answers == vec![200; *count] && at_once,
        };
        if !good {
            wrong.push(format!("{name}: {fate:?}, but {answers:?} after {open:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let refused = "bulla_gateway_refused_total{reason=\"framed_twice\"}";
    assert!(crate::reload::metric(&edge, refused).await);
    let seen = edge.bus.seen.lock();
    for message in seen.iter() {
        if message.subject.as_str() == "health.ask" {
            continue;
        }
        assert_eq!(message.subject.as_str(), "orders.create");
        assert_eq!(&message.payload[..], b"{}");
        assert!(message.headers.is_empty(), "{:?}", message.headers);
    }
}
