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
        let mut open = Vec::new();
        for user in 0..STREAMS {
            let host = format!("127.0.0.1:{}", edge.port());
            let mut connection = Connection::open(&host).await.unwrap();
            let token = issuer.token(Kind::EdDsa, user);
            let request =
                format!("GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
            connection.begin(request.as_bytes()).await.unwrap();
            open.push(connection);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let with = edge.rss();
        eprintln!("edge.rss, round {round}: idle {before:.1} MB, with streams {with:.1} MB");
        idle.push(before);
        more.push(with - before);
    }
    report.add("edge.rss_idle", "MB", idle);
    report.add("edge.rss_sse_1000", "MB", more);
}
