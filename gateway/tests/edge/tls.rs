//! TLS with a real handshake.

use crate::setup::*;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const LISTEN: &str = "tls_cert_file = \"cert.pem\"\ntls_key_file = \"key.pem\"";

fn write(dir: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    std::fs::write(dir.join("cert.pem"), &cert).unwrap();
    std::fs::write(dir.join("key.pem"), key).unwrap();
    std::fs::set_permissions(dir.join("key.pem"), Permissions::from_mode(0o600)).unwrap();
    cert
}

async fn edge() -> (Edge, String) {
    let mut cert = String::new();
    let options = Options {
        listen: LISTEN,
        limits: "header_timeout = \"1s\"",
        ..Options::default()
    };
    let edge = Edge::with_issuer(options, Issuer::start().await, |dir| cert = write(dir)).await;
    (edge, cert)
}

fn client(cert: &str, edge: &Edge) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(cert.as_bytes()).unwrap()])
        .resolve("localhost", edge.address)
}

fn url(edge: &Edge, path: &str) -> String {
    format!("https://localhost:{}{path}", edge.address.port())
}

#[tokio::test]
async fn requests_pass_through_tls() {
    let (edge, cert) = edge().await;
    let client = client(&cert, &edge).build().unwrap();
    let request = client
        .get(url(&edge, "/v1/orders/7"))
        .bearer_auth(edge.issuer.token());
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["strict-transport-security"],
        "max-age=31536000"
    );
    assert_eq!(transaction(&edge.bus.last()).principal(), "alice");
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_certificate_does_not_connect() {
    let (edge, _) = edge().await;
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let client = client(&other.cert.pem(), &edge).build().unwrap();
    assert!(client.get(url(&edge, "/health")).send().await.is_err());
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_not_answered() {
    let (edge, _) = edge().await;
    let answer = edge.raw("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!answer.contains("HTTP/1.1"), "{answer}");
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut() {
    let (edge, _) = edge().await;
    assert_eq!(edge.raw("").await, "");
}

/// A connection that is for one protocol.
async fn connect(edge: &Edge, cert: &str, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(cert.as_bytes()).unwrap())
        .unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(edge.address).await.unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
        .unwrap()
}

/// TLS says goodbye to a client that is gone, which fails; the refusal counts all the same.
#[tokio::test]
async fn a_head_is_counted_though_whoever_sent_it_is_gone() {
    let (edge, cert) = edge().await;
    for count in 1..=20 {
        let mut stream = connect(&edge, &cert, b"http/1.1").await;
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        // All that the edge has said by now is read, so that the connection is closed, and
        // reset only when more comes.
        let mut answer = Vec::new();
        while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
        stream.write_all(b"GET /\0\r\n\r\n").await.unwrap();
        drop(stream);
        let line = format!("bulla_gateway_refused_total{{reason=\"malformed_head\"}} {count}\n");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !crate::reload::metric(&edge, &line).await {
            assert!(Instant::now() < deadline, "{line}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn http2_is_chosen_by_alpn_and_old_tls_is_refused() {
    let (edge, cert) = edge().await;
    let stream = connect(&edge, &cert, b"h2").await;
    let tls = stream.get_ref().1;
    assert_eq!(tls.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(
        tls.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    let group = tls.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);

    let (mut send, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(url(&edge, "/v1/orders/7"))
        .header("authorization", format!("Bearer {}", edge.issuer.token()))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = send.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.version(), http::Version::HTTP_2);
    let request = http::Request::get(url(&edge, "/v1/orders/7"))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = send.send_request(request).await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(response.headers().get("connection").is_none());
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::TempDir::new().unwrap();
    write(dir.path());
    std::fs::set_permissions(dir.path().join("key.pem"), Permissions::from_mode(0o644)).unwrap();
    let options = Options {
        listen: LISTEN,
        ..Options::default()
    };
    let file = write_config(dir.path(), "http://127.0.0.1:1", &options);
    let config = bulla_gateway::GatewayConfig::load(&file).unwrap();
    let key = bulla_token::TokenSigningKey::from_seed(SEED);
    let refused = bulla_gateway::Gateway::new(config, TestBus::new(), key).await;
    assert!(matches!(
        refused.err(),
        Some(bulla_gateway::StartError::Tls(
            bulla_gateway::TlsError::KeyFile(_)
        ))
    ));
}

/// The certificate that a new connection is shown.
async fn shown(edge: &Edge, only_tls12: bool) -> Option<Vec<u8>> {
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    use std::sync::Arc;
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(edge.dir.path().join("cert.pem")).unwrap();
    roots
        .add(CertificateDer::from_pem_slice(&pem).unwrap())
        .unwrap();
    let versions: &[&rustls::SupportedProtocolVersion] = if only_tls12 {
        &[&rustls::version::TLS12]
    } else {
        rustls::DEFAULT_VERSIONS
    };
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(edge.address).await.unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
        .ok()?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    Some(certificates[0].to_vec())
}

#[tokio::test]
async fn a_new_certificate_is_shown_after_a_reload_and_a_broken_one_never() {
    let (edge, _) = edge().await;
    let old = shown(&edge, false).await.unwrap();
    write(edge.dir.path());
    crate::reload::reloaded(async || shown(&edge, false).await.is_some_and(|new| new != old)).await;
    let new = shown(&edge, false).await.unwrap();
    let good = std::fs::read(edge.dir.path().join("cert.pem")).unwrap();
    std::fs::write(edge.dir.path().join("cert.pem"), "nonsense").unwrap();
    let refused = "bulla_gateway_reloads_total{outcome=\"refused\"}";
    crate::reload::reloaded(async || crate::reload::metric(&edge, refused).await).await;
    std::fs::write(edge.dir.path().join("cert.pem"), good).unwrap();
    assert_eq!(shown(&edge, false).await.unwrap(), new);
}

#[tokio::test]
async fn tls_1_2_is_refused_where_the_configuration_says_so() {
    let (edge, _) = edge().await;
    assert!(shown(&edge, true).await.is_some());
    let options = Options {
        listen: "tls_cert_file = \"cert.pem\"\ntls_key_file = \"key.pem\"\ntls_min_version = \"1.3\"",
        ..Options::default()
    };
    let strict = Edge::with_issuer(options, Issuer::start().await, |dir| {
        write(dir);
    })
    .await;
    assert!(shown(&strict, false).await.is_some());
    assert!(shown(&strict, true).await.is_none());
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_its_session() {
    use rustls::HandshakeKind;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (edge, cert) = edge().await;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(cert.as_bytes()).unwrap())
        .unwrap();
    let (tls12, tls13) = (&rustls::version::TLS12, &rustls::version::TLS13);
    // Of one who takes no tickets nothing is kept.
    for (version, takes_tickets) in [(tls13, true), (tls12, true), (tls12, false)] {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.enable_early_data = true;
        if !takes_tickets {
            let ids = rustls::client::Tls12Resumption::SessionIdOnly;
            config.resumption = rustls::client::Resumption::default().tls12_resumption(ids);
        }
        let config = Arc::new(config);
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let mut kinds = Vec::new();
        for time in 0..2 {
            if time == 1 && takes_tickets {
                // Each connection of another client would push one out that is kept here.
                for _ in 0..300 {
                    shown(&edge, false).await.unwrap();
                }
                // What comes before the handshake's end could be sent again by anybody.
                let name = ServerName::try_from("localhost").unwrap();
                let mut again = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
                assert!(again.early_data().is_none());
            }
            let stream = tokio::net::TcpStream::connect(edge.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = connector.connect(name, stream).await.unwrap();
            // Tickets come after the handshake.
            stream
                .write_all(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{version:?}");
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        let resumed = kinds[1] == HandshakeKind::Resumed;
        assert_eq!(resumed, takes_tickets, "{version:?}");
        assert_ne!(kinds[0], HandshakeKind::Resumed, "{version:?}");
    }
}
