//! What HTTP/2 can say and HTTP/1.1 cannot: frames made by hand, because no client would
//! send them. In a bridge that writes them down as HTTP/1.1 they would become other headers
//! or another request; here they are malformed, and their stream ends.

use std::time::Duration;

use crate::setup::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What became of the stream.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The stream or the connection ended, and nothing was answered.
    Ended,
    /// Answered with this status; 0 is one that HPACK has no number for.
    Answered(u16),
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A string of HPACK as it is, without Huffman's code.
fn text(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match text.len() {
        short @ 0..127 => bytes.push(u8::try_from(short).unwrap()),
        long => {
            bytes.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
    }
    bytes.extend(text);
    bytes
}

/// A block of headers in which each stands as a literal that is not indexed.
fn block(headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        block.extend(text(name));
        block.extend(text(value));
    }
    block
}

/// Opens a connection and sends frames.
async fn open(edge: &Edge, frames: &[Vec<u8>]) -> TcpStream {
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frames.concat());
    stream.write_all(&bytes).await.unwrap();
    stream
}

/// Opens a connection, sends the frames of stream 1, and waits for what becomes of it.
async fn send(edge: &Edge, frames: &[Vec<u8>]) -> Outcome {
    let mut stream = open(edge, frames).await;
    let answer = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return Outcome::Ended;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if stream.read_exact(&mut payload).await.is_err() {
                return Outcome::Ended;
            }
            match (head[3], payload.first()) {
                (RESET | GO_AWAY, _) => return Outcome::Ended,
                // The static table's `:status`.
                (HEADERS, Some(0x88)) => return Outcome::Answered(200),
                (HEADERS, Some(0x8c)) => return Outcome::Answered(400),
                (HEADERS, Some(0x8d)) => return Outcome::Answered(404),
                (HEADERS, _) => return Outcome::Answered(0),
                _ => {}
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), answer);
    answer.await.expect("the stream comes to an end")
}

type Header<'a> = (&'a [u8], &'a [u8]);

/// A good order, as headers.
fn good(bearer: &str) -> Vec<Header<'_>> {
    vec![
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/v1/orders"),
        (b":authority", b"x"),
        (b"authorization", bearer.as_bytes()),
        (b"content-type", b"application/json"),
    ]
}

fn request(headers: &[Header<'_>], content: &[u8]) -> Vec<Vec<u8>> {
    vec![
        frame(HEADERS, END_HEADERS, 1, &block(headers)),
        frame(DATA, END_STREAM, 1, content),
    ]
}

#[tokio::test]
async fn attack_21_no_header_of_http_2_becomes_another_one() {
    let edge = Edge::start().await;
    let bearer = format!("Bearer {}", edge.issuer.token());
    let sound = send(&edge, &request(&good(&bearer), b"{}")).await;
    assert_eq!(sound, Outcome::Answered(200));
    let with_length = [&good(&bearer)[..], &[(b"content-length", b"2")]].concat();
    let sound = send(&edge, &request(&with_length, b"{}")).await;
    assert_eq!(sound, Outcome::Answered(200));
    edge.bus.seen.lock().clear();

    let hidden: &[u8] = b"a\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let added: &[Header<'_>] = &[
        // Ends of lines, in values and names.
        (b"x", b"a\r\nhost: y"),
        (b"x", hidden),
        (b"x", b"a\nhost: y"),
        (b"x", b"a\rhost: y"),
        (b"x", b"a\0"),
        (b"x\r\nhost", b"y"),
        (b"x: y\r\nhost", b"y"),
        (b"x y", b"z"),
        (b"x:", b"z"),
        (b"", b"z"),
        (b"Host", b"y"),
        (b"X-Upper", b"y"),
        // What frames content in HTTP/1.1.
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"connection", b"keep-alive"),
        (b"connection", b"content-length"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"h2c"),
        (b"te", b"chunked"),
        (b"content-length", b"1"),
        (b"content-length", b"3"),
        (b"content-length", b"40"),
        (b"content-length", b"-2"),
        (b"content-length", b"+2"),
        (b"content-length", b"2, 2"),
        (b"content-length", b"x"),
        // Pseudo-headers: after others, again, unknown, and of answers.
        (b":path", b"/health"),
        (b":method", b"GET"),
        (b":authority", b"y"),
        (b":scheme", b"https"),
        (b":status", b"200"),
        (b":x", b"y"),
        (b":", b"y"),
        // Another host than the authority.
        (b"host", b"y"),
    ];
    let mut wrong = Vec::new();
    let mut judge = |what: String, outcome: Outcome| match outcome {
        Outcome::Ended | Outcome::Answered(400) => {}
        other @ Outcome::Answered(_) => wrong.push(format!("{what}: {other:?}")),
    };
    for (name, value) in added {
        let headers = [&good(&bearer)[..], &[(*name, *value)]].concat();
        let outcome = send(&edge, &request(&headers, b"{}")).await;
        let what = format!("{}: {}", name.escape_ascii(), value.escape_ascii());
        judge(what, outcome);
    }
    let two_lengths: &[Header<'_>] = &[(b"content-length", b"2"), (b"content-length", b"40")];
    let headers = [&good(&bearer)[..], two_lengths].concat();
    judge(
        "two lengths".to_owned(),
        send(&edge, &request(&headers, b"{}")).await,
    );

    // Pseudo-headers with other values, each in its own place.
    let pseudo: &[Header<'_>] = &[
        (b":path", b""),
        (b":path", b"health"),
        (b":path", b"*"),
        (b":path", b"/v1/orders HTTP/1.1\r\nx: y"),
        (b":path", b"/v1/orders /health"),
        (b":path", b"http://y/v1/orders"),
        (b":path", b"//y/v1/orders"),
        (b":path", b"/v1/../v1/orders"),
        (b":path", b"/v1/orders\0"),
        (b":method", b""),
        (b":method", b"POST /health HTTP/1.1\r\nx: y\r\n\r\n"),
        (b":method", b"POST "),
        (b":method", b"CONNECT"),
        (b":scheme", b"http://y/?"),
        (b":authority", b"x\r\ny: z"),
        (b":authority", b"user@x"),
        (b":authority", b"x/health"),
    ];
    for (name, value) in pseudo {
        let mut headers = good(&bearer);
        for header in &mut headers {
            if header.0 == *name {
                header.1 = value;
            }
        }
        let what = format!("{} = {}", name.escape_ascii(), value.escape_ascii());
        judge(what, send(&edge, &request(&headers, b"{}")).await);
    }
    for missing in [&b":path"[..], b":method", b":scheme"] {
        let headers: Vec<_> = good(&bearer)
            .into_iter()
            .filter(|h| h.0 != missing)
            .collect();
        let what = format!("without {}", missing.escape_ascii());
        judge(what, send(&edge, &request(&headers, b"{}")).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(edge.bus.untouched());

    // A trailer says nothing, whatever it is called. The library takes no notice of
    // pseudo-headers there, and no trailer goes any further.
    let trailers: &[&[Header<'_>]] = &[
        &[(b":path", b"/health"), (b"nats-x", b"y")],
        &[(b":method", b"GET"), (b":authority", b"y")],
        &[(b":status", b"200")],
        &[(b"content-length", b"40"), (b"authorization", b"Bearer x")],
        &[(b"host", b"y"), (b"accept-language", b"y")],
    ];
    for trailer in trailers {
        edge.bus.seen.lock().clear();
        let frames = [
            frame(HEADERS, END_HEADERS, 1, &block(&good(&bearer))),
            frame(DATA, 0, 1, b"{}"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailer)),
        ];
        let outcome = send(&edge, &frames).await;
        let seen = edge.bus.seen.lock();
        match outcome {
            Outcome::Ended => assert!(seen.is_empty()),
            Outcome::Answered(status) => {
                assert_eq!((status, seen.len()), (200, 1));
                assert_eq!(seen[0].subject.as_str(), "orders.create");
                assert_eq!(&seen[0].payload[..], b"{}");
                assert!(seen[0].headers.is_empty());
            }
        }
    }
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_head_above_its_limit_is_refused_over_http_2() {
    let edge = Edge::with(Options {
        limits: "header_bytes = \"8KiB\"",
        ..Options::default()
    })
    .await;
    let bearer = format!("Bearer {}", edge.issuer.token());
    for (long, refused) in [(4_000, false), (10_000, true)] {
        edge.bus.seen.lock().clear();
        let long = "x".repeat(long);
        let headers = [&good(&bearer)[..], &[(b"a", long.as_bytes())]].concat();
        let outcome = send(&edge, &request(&headers, b"{}")).await;
        // 431 has no number in HPACK.
        let expected = Outcome::Answered(if refused { 0 } else { 200 });
        assert_eq!(outcome, expected, "{}", long.len());
        assert_eq!(edge.bus.untouched(), refused);
    }
}

#[tokio::test]
async fn heads_that_http_2_refuses_are_counted_when_their_connection_has_ended() {
    let edge = Edge::with(Options {
        limits: "header_bytes = \"8KiB\"",
        ..Options::default()
    })
    .await;
    let head = |stream, headers: &[Header<'_>]| {
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(headers))
    };
    let health: &[Header<'_>] = &[
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/health"),
        (b":authority", b"x"),
    ];
    let malformed = [health, &[(b"connection", b"close")]].concat();
    let long = [health, &[(b"x", &[b'x'; 9_000])]].concat();
    // Each connection, how many heads were refused, and whether it was broken.
    let good = || head(1, health);
    let rows = [
        (vec![good(), head(3, health)], 0, false),
        (vec![head(1, &malformed), head(3, health)], 1, false),
        (vec![good(), head(3, &long)], 1, false),
        (
            vec![good(), head(3, &malformed), head(5, &malformed)],
            2,
            false,
        ),
        // What HPACK has no entry for, and content of no stream. With the connection ends
        // whatever has just come.
        (
            vec![frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0x7f])],
            1,
            true,
        ),
        (vec![frame(DATA, 0, 9, b"x")], 0, true),
        // One head in the middle of another.
        (
            vec![frame(HEADERS, 0, 1, &block(health)), head(3, health)],
            1,
            true,
        ),
    ];
    let (mut heads, mut broken) = (0, 0);
    for (number, (frames, refused, breaks)) in rows.into_iter().enumerate() {
        let frames = [&frames[..], &[frame(PING, 0, 0, b"all read")]].concat();
        let mut stream = open(&edge, &frames).await;
        // Until all of it has been read, or nobody reads any more.
        let mut heard = Vec::new();
        while !heard.windows(8).any(|bytes| bytes == b"all read") {
            let reading = stream.read_buf(&mut heard);
            let reading = tokio::time::timeout(Duration::from_secs(5), reading);
            match reading.await.expect("it answers") {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        drop(stream);
        heads += refused;
        broken += u32::from(breaks);
        let mut lines = Vec::new();
        if heads > 0 {
            lines.push(format!(
                "bulla_gateway_refused_total{{reason=\"http2_head\"}} {heads}\n"
            ));
        }
        if broken > 0 {
            lines.push(format!(
                "bulla_gateway_shed_total{{reason=\"http2\"}} {broken}\n"
            ));
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        for line in lines {
            while !crate::reload::metric(&edge, &line).await {
                assert!(tokio::time::Instant::now() < deadline, "{number}: {line}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        if heads == 0 {
            assert!(!crate::reload::metric(&edge, "http2").await, "{number}");
        }
    }
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_is_counted() {
    let edge = Edge::start().await;
    let health: &[Header<'_>] = &[
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/health"),
        (b":authority", b"x"),
    ];
    // Each is asked for and given up at once, so that never many are open.
    let flood: Vec<Vec<u8>> = (0..200)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(health));
            [head, frame(RESET, 0, stream, &8_u32.to_be_bytes())]
        })
        .collect();
    let mut stream = open(&edge, &flood).await;
    let mut heard = Vec::new();
    let reading = stream.read_to_end(&mut heard);
    let ended = tokio::time::timeout(Duration::from_secs(5), reading).await;
    assert!(ended.is_ok(), "the connection ends");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let line = "bulla_gateway_shed_total{reason=\"http2\"} 1\n";
    while !crate::reload::metric(&edge, line).await {
        assert!(tokio::time::Instant::now() < deadline, "{line}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nobody else notices.
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
}
