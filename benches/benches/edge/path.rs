//! The whole path: HTTP to the edge, sealed to a service, and back.

use std::io;
use std::time::{Duration, Instant};

use bulla_benches::{Report, nanos};
use bulla_sdk::{Client, ContentType, Message, Reply, Service, ServiceError};
use bulla_tests::Bus;
use bytes::Bytes;
use futures_util::StreamExt as _;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::gateway::Gateway;
use super::issuer::{Issuer, Kind};
use super::peers::{Asked, Envoy};
use super::running::missing;
use super::{ROUNDS, compare};

/// Requests one after the other in a round.
const REQUESTS: usize = 1_500;
/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
const BODY: Bytes = Bytes::from_static(b"{\"user\":\"somebody\"}");

/// Services that answer always the same, sealed and raw.
pub async fn serve(bus: &Bus) -> Vec<Service> {
    let pong = bus.client("pong").await;
    let mut services = Vec::new();
    for subject in ["echo.sealed", "echo.kept"] {
        let service = pong
            .serve_raw(subject, async |_: Message<Bytes>| {
                Ok::<_, ServiceError>(Reply::bytes(ContentType::Json, BODY))
            })
            .await
            .unwrap();
        services.push(service);
    }
    let raw = bus.raw_client("pong").await;
    let mut requests = raw
        .queue_subscribe("raw.echo", "pong".into())
        .await
        .unwrap();
    raw.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                let _ = raw.publish(reply, BODY).await;
            }
        }
    });
    services
}

/// A service that speaks HTTP, as small as it can be.
async fn http_service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
        BODY.len(),
        String::from_utf8_lossy(&BODY)
    );
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut heard = Vec::new();
                loop {
                    let mut buffer = [0; 4_096];
                    match socket.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(count) => heard.extend_from_slice(&buffer[..count]),
                    }
                    while let Some(end) = heard.windows(4).position(|w| w == b"\r\n\r\n") {
                        heard.drain(..end + 4);
                        if socket.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    port
}

/// A connection over which one request goes after the other.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; 16_384],
        })
    }

    /// Sends a request and reads its answer, whose status is returned.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        let mut read = 0;
        loop {
            let reading = self.stream.read(&mut self.buffer[read..]);
            let count = tokio::time::timeout(PATIENCE, reading).await??;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read += count;
            if let Some(status) = whole(&self.buffer[..read]) {
                return Ok(status);
            }
        }
    }

    /// Sends a request and waits for the first bytes of its answer.
    pub async fn begin(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        let reading = self.stream.read(&mut self.buffer);
        tokio::time::timeout(PATIENCE, reading).await?.map(drop)
    }
}

/// The status of an answer, once all of it is there.
fn whole(bytes: &[u8]) -> Option<u16> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    (bytes.len() >= end + length.unwrap_or(0)).then(|| head.get(9..12)?.parse().ok())?
}

async fn http_latency(port: u16, token: &str) -> f64 {
    let mut connection = Connection::open(&format!("127.0.0.1:{port}"))
        .await
        .unwrap();
    let request = format!("GET /path HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    for _ in 0..REQUESTS {
        let start = Instant::now();
        let status = connection.ask(request.as_bytes()).await.unwrap();
        histogram.record(nanos(start)).unwrap();
        assert_eq!(status, 200);
    }
    median_micros(&histogram)
}

async fn sealed_latency(ping: &Client) -> f64 {
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    for _ in 0..REQUESTS {
        let start = Instant::now();
        let message = ping.message("echo.sealed").bytes(ContentType::Json, BODY);
        message.request().await.unwrap();
        histogram.record(nanos(start)).unwrap();
    }
    median_micros(&histogram)
}

async fn raw_latency(ping: &async_nats::Client) -> f64 {
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    for _ in 0..REQUESTS {
        let start = Instant::now();
        ping.request("raw.echo", BODY).await.unwrap();
        histogram.record(nanos(start)).unwrap();
    }
    median_micros(&histogram)
}

fn median_micros(histogram: &Histogram<u64>) -> f64 {
    histogram.value_at_quantile(0.5) as f64 / 1_000.0
}

pub async fn measure(report: &mut Report, bus: &Bus, issuer: &Issuer) {
    let (ping, raw) = (bus.client("ping").await, bus.raw_client("ping").await);
    let edge = Gateway::start(bus, issuer, None).await;
    let envoy = match missing("envoy") {
        true => None,
        false => Some(Envoy::start(issuer, Some(http_service().await)).await),
    };
    let token = issuer.token(Kind::Rs256, 0);
    let (mut beside_raw, mut added, mut beside_envoy) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let sealed = sealed_latency(&ping).await;
        let through = http_latency(edge.port(), &token).await;
        let plain = raw_latency(&raw).await;
        let theirs = match &envoy {
            Some(envoy) => http_latency(envoy.port(), &token).await,
            None => f64::NAN,
        };
        eprintln!(
            "edge.path, round {round}: through the edge {through:.0} µs, sealed {sealed:.0} µs, raw {plain:.0} µs, Envoy {theirs:.0} µs"
        );
        // The first round warms up.
        if round > 0 {
            beside_raw.push((through, plain));
            added.push(through - sealed);
            beside_envoy.push((through, theirs));
        }
    }
    report.compare("edge.path.p50", "us", &beside_raw);
    report.add("edge.path.added_p50", "us", added);
    if let Some(envoy) = &envoy {
        report.compare("edge.path.envoy_p50", "us", &beside_envoy);
        if !missing("wrk") && !missing("taskset") {
            let tokens = issuer.token_file(Kind::Rs256, 1);
            let ours = Asked::new(&edge.url("/path"), Some(&tokens), 1);
            let theirs = Asked::new(&envoy.url("/path"), Some(&tokens), 1);
            compare(report, "edge.path.rate", &ours, &theirs).await;
        }
    }
}
