//! Heads of which no request comes are in the access log and in the metrics all the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::decisions::access_of;
use crate::setup::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

/// Sends bytes from an address of its own, by which its answer is found in the log, and
/// returns the status of each answer.
async fn send(edge: &Edge, from: Ipv4Addr, bytes: &[u8]) -> Vec<String> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut stream = socket.connect(edge.address).await.unwrap();
    // The edge may close it before all of it is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("the edge closes the connection");
    let answer = String::from_utf8_lossy(&answer);
    let statuses = answer.match_indices("HTTP/1.1 ");
    statuses
        .map(|(at, found)| answer[at + found.len()..][..3].to_owned())
        .collect()
}

const GOOD: &str = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_head_that_the_library_refuses_is_in_the_access_log_and_counted() {
    let edge = Edge::with(Options {
        limits: "header_bytes = \"256KiB\"\nheaders = 10\nuri = \"64KiB\"\nheader_timeout = \"300ms\"",
        extra: "[log]\naccess = \"fields\"\n",
        ..Options::default()
    })
    .await;
    let long = "x".repeat(300 << 10);
    let many: String = (0..11).map(|i| format!("x-{i}: 1\r\n")).collect();
    let rows: Vec<(&str, String, &[&str])> = vec![
        ("malformed_head", "GET /\0secret\r\n\r\n".into(), &["400"]),
        ("malformed_head", "\x16\x03\x01\x02secret".into(), &["400"]),
        (
            "malformed_head",
            "GET /secret HTTP/1.1\r\nhost : x\r\n\r\n".into(),
            &["400"],
        ),
        (
            "malformed_head",
            "POST /secret HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\n".into(),
            &["400"],
        ),
        (
            "malformed_head",
            format!("{GOOD}secret\r\n\r\n"),
            &["200", "400"],
        ),
        // Without an answer there is nothing to log; it is counted.
        (
            "malformed_head",
            format!("{GOOD}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            &["200"],
        ),
        (
            "framed_twice",
            "POST /secret HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
                .into(),
            &["400"],
        ),
        // Nobody reads on where a connection is closed.
        (
            "framed_twice",
            "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n\
             GET / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n"
                .into(),
            &["200"],
        ),
        (
            "large_head",
            format!("GET /secret HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
            &["431"],
        ),
        (
            "large_head",
            format!("GET /secret HTTP/1.1\r\nhost: x\r\nx: {long}"),
            &["431"],
        ),
        (
            "large_head",
            format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", &long[..70_000]),
            &["414"],
        ),
        // No answer either, and nothing that was refused.
        ("", "GET /secret HTTP/1.1\r\nhost".into(), &[]),
        ("", GOOD.to_owned(), &["200"]),
    ];
    let mut counted = std::collections::HashMap::<&str, u32>::new();
    for (number, (reason, bytes, statuses)) in rows.iter().enumerate() {
        let from = Ipv4Addr::new(127, 0, 77, u8::try_from(number + 1).unwrap());
        let answered = send(&edge, from, bytes.as_bytes()).await;
        assert_eq!(answered, *statuses, "{bytes:?}");
        *counted.entry(reason).or_default() += 1;

        let logged = access_of(IpAddr::V4(from));
        let said: Vec<&str> = logged.iter().map(|event| &*event["status"]).collect();
        assert_eq!(said, *statuses, "{bytes:?}");
        for event in logged {
            assert!(!format!("{event:?}").contains("secret"), "{event:?}");
            if event["status"] != "200" {
                assert!(!event.contains_key("path"), "{event:?}");
                assert_eq!(event["route"], "");
            }
        }
    }
    for (reason, count) in counted {
        let line = format!("bulla_gateway_refused_total{{reason=\"{reason}\"}} {count}\n");
        let is_there = crate::reload::metric(&edge, &line).await;
        assert_eq!(is_there, !reason.is_empty(), "{line}");
    }
    for (status, count) in [(400, 6), (431, 2), (414, 1)] {
        let line =
            format!("bulla_gateway_requests_total{{route=\"\",status=\"{status}\"}} {count}\n");
        assert!(crate::reload::metric(&edge, &line).await, "{line}");
    }
}
