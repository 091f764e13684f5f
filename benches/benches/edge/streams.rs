//! What an edge holds: idle, and with a thousand streams.

use std::time::Duration;

use bulla_benches::Report;
use bulla_tests::Bus;

use super::gateway::Gateway;
use super::issuer::{Issuer, Kind};
use super::path::Connection;

const STREAMS: usize = 1_000;
const ROUNDS: usize = 3;

pub async fn measure(report: &mut Report, bus: &Bus, issuer: &Issuer) {
    let (mut idle, mut more) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let edge = Gateway::start(bus, issuer, None).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = edge.rss();
        // At once: on a subject that no stream stores each waits until what was sent
        // before it came, and may have been seen by an earlier one, is too old.
        let tokens = (0..STREAMS).map(|user| issuer.token(Kind::EdDsa, user));
        let host = format!("127.0.0.1:{}", edge.port());
        let open = tokens.map(|token| {
            let host = host.clone();
            async move {
                let mut connection = Connection::open(&host).await.unwrap();
                let request = format!(
                    "GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
                );
                connection.begin(request.as_bytes()).await.unwrap();
                connection
            }
        });
        let open = futures_util::future::join_all(open).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let with = edge.rss();
        eprintln!("edge.rss, round {round}: idle {before:.1} MB, with streams {with:.1} MB");
        idle.push(before);
        more.push(with - before);
        drop(open);
    }
    report.add("edge.rss_idle", "MB", idle);
    report.add("edge.rss_sse_1000", "MB", more);
}
