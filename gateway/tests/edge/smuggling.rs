//! Bytes that two parsers would read differently: refused, or the connection ends so
//! that nothing hidden is ever taken for a second request.

use crate::setup::*;

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

#[tokio::test]
async fn content_length_beside_transfer_encoding_is_refused_and_nothing_after_it_is_believed() {
    let edge = Edge::start().await;
    let hidden = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let token = edge.issuer.token();
    let common = format!(
        "POST /v1/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
    );
    for framing in [
        // CL.TE: who goes by the length sees one body, who goes by chunks two requests.
        format!(
            "content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
            hidden.len() + 5
        ),
        format!(
            "transfer-encoding: chunked\r\ncontent-length: {}\r\n\r\n0\r\n\r\n{hidden}",
            hidden.len() + 5
        ),
        // TE.CL.
        format!(
            "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n{hidden}"
        ),
    ] {
        let answer = edge.raw(&format!("{common}{framing}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(answers(&answer), 1, "{answer}");
        assert!(
            answer.to_ascii_lowercase().contains("connection: close"),
            "{answer}"
        );
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn other_transfer_encodings_are_refused() {
    let edge = Edge::start().await;
    for encoding in [
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "chunked\r\ntransfer-encoding: chunked",
        "xchunked",
        "chunked\r\ntransfer-encoding: identity",
        "\x0bchunked",
    ] {
        let answer = edge
            .raw(&format!(
                "POST /v1/orders HTTP/1.1\r\nhost: x\r\ntransfer-encoding: {encoding}\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{encoding}: {answer}");
        assert_eq!(answers(&answer), 1, "{encoding}: {answer}");
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn different_or_odd_content_lengths_are_refused() {
    let edge = Edge::start().await;
    for length in [
        "4\r\ncontent-length: 5",
        "+4",
        "-1",
        "4, 5",
        "0x4",
        "4 4",
        "99999999999999999999",
    ] {
        let answer = edge
            .raw(&format!(
                "POST /v1/orders HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\nabcdefgh"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{length}: {answer}");
        assert_eq!(answers(&answer), 1, "{length}: {answer}");
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn folded_and_malformed_header_lines_are_refused() {
    let edge = Edge::start().await;
    let token = edge.issuer.token();
    for lines in [
        format!("authorization: Bearer\r\n {token}"),
        format!("x: y\r\n\tauthorization: Bearer {token}"),
        format!("authorization : Bearer {token}"),
        "x\r\n".to_owned(),
        ": y".to_owned(),
        "a b: c".to_owned(),
        "x: a\0b".to_owned(),
    ] {
        let answer = edge
            .raw(&format!(
                "GET /health HTTP/1.1\r\nhost: x\r\n{lines}\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{lines}: {answer}");
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_missing_second_or_absolute_host_is_refused() {
    let edge = Edge::start().await;
    for head in [
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET http://evil.example/health HTTP/1.1\r\nhost: x\r\n\r\n",
        "CONNECT evil.example:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let answer = edge.raw(head).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head}: {answer}");
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn headers_of_the_bus_are_refused_and_none_is_ever_forwarded() {
    let edge = Edge::start().await;
    for name in [
        "Bulla-Kid",
        "nats-msg-id",
        "Nats-Expected-Stream",
        "bulla-user",
        "NATS-X",
    ] {
        let response = edge.order().header(name, "x").send().await.unwrap();
        assert_eq!(
            problem(response).await,
            (400, "bad-request".into()),
            "{name}"
        );
    }
    assert!(edge.bus.untouched());
    let request = edge
        .order()
        .header("http-path-id", "9")
        .header("http-status", "200")
        .header("x-user", "root");
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert!(
        edge.bus.last().headers.is_empty(),
        "{:?}",
        edge.bus.last().headers
    );
}

#[tokio::test]
async fn malformed_paths_are_refused_before_any_route() {
    let edge = Edge::start().await;
    for path in [
        "/v1/../v1/orders/1",
        "/v1/./orders/1",
        "/v1//orders/1",
        "/v1/orders/1/",
        "/v1/orders/%2e%2e",
        "/v1%2forders/1",
        "/v1/orders/1%00",
        "/v1/orders/1%0d%0a",
        "/v1/orders/%",
        "/v1/orders/%zz",
        "/v1/orders\\1",
    ] {
        let token = edge.issuer.token();
        let answer = edge
            .raw(&format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn any_bytes_leave_the_edge_alive() {
    let edge = Edge::start().await;
    let mut state = 0x1234_5678_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    for _ in 0..100 {
        let mut bytes = b"POST /v1/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_vec();
        for _ in 0..1 + next() % 6 {
            let at = next() as usize % bytes.len();
            bytes[at] = (next() >> 8) as u8;
        }
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(edge.address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(
            std::time::Duration::from_secs(5),
            stream.read_to_end(&mut answer),
        )
        .await;
    }
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
}
