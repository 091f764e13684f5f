//! A collector of traces: takes what exporters send over OTLP, HTTP and protobuf, on a
//! real socket, and nothing but its path and content type.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A collector, for as long as the test's runtime runs.
#[derive(Debug, Clone)]
pub struct Collector {
    url: String,
    collected: Arc<Mutex<Vec<(String, Span)>>>,
}

impl Collector {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let collector = Self {
            url: format!("http://{}", listener.local_addr().expect("its address")),
            collected: Arc::default(),
        };
        let taking = collector.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(taking.clone().take(socket));
            }
        });
        collector
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All spans so far, each with the name of the service that sent it.
    #[must_use]
    pub fn spans(&self) -> Vec<(String, Span)> {
        self.collected.lock().expect("no panic holds it").clone()
    }

    async fn take(self, mut socket: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            let Some((head, body)) = request(&bytes) else {
                let mut part = [0; 16 * 1024];
                match socket.read(&mut part).await {
                    Ok(read) if read > 0 => bytes.extend_from_slice(&part[..read]),
                    _ => return,
                }
                continue;
            };
            assert!(head.starts_with("post /v1/traces "), "{head}");
            let kind = "content-type: application/x-protobuf";
            assert!(head.contains(kind), "{head}");
            let sent = ExportTraceServiceRequest::decode(body).expect("a request of OTLP");
            self.keep(sent.resource_spans);
            let answer = format!("HTTP/1.1 200 OK\r\n{kind}\r\ncontent-length: 0\r\n\r\n");
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            bytes.clear();
        }
    }
}

impl Collector {
    fn keep(&self, sent: Vec<ResourceSpans>) {
        let mut collected = self.collected.lock().expect("no panic holds it");
        for resource in sent {
            let service = service(&resource);
            let spans = resource.scope_spans.into_iter().flat_map(|s| s.spans);
            collected.extend(spans.map(|span| (service.clone(), span)));
        }
    }
}

fn service(resource: &ResourceSpans) -> String {
    let attributes = resource.resource.iter().flat_map(|r| &r.attributes);
    let mut named = attributes.filter(|attribute| attribute.key == "service.name");
    let value = named.next().and_then(|named| named.value.clone()?.value);
    match value {
        Some(any_value::Value::StringValue(name)) => name,
        _ => String::new(),
    }
}

/// Head, in small letters, and body of a request that is there in whole.
fn request(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?;
    let body = &bytes[end + 4..];
    let length: usize = length.trim().parse().ok()?;
    (body.len() == length).then_some((head, body))
}
