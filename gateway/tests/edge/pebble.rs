//! The edge's certificate by Pebble, the server that Let's Encrypt has for tests of clients: it
//! checks what theirs checks, and now and then refuses a good nonce. Where it is not installed
//! (Debian's package `pebble`) nothing is proven here, and one line says so.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulla_gateway::{Gateway, GatewayConfig};
use bulla_token::TokenSigningKey;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::acme_authority::{shown, trusting};
use crate::setup::*;

const HOST: &str = "edge.example";

/// A process that ends with the test.
struct Process(Child);

impl Process {
    /// None if there is no such program.
    fn start(program: &str, change: impl FnOnce(&mut Command)) -> Option<Self> {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        change(&mut command);
        match command.spawn() {
            Ok(child) => Some(Self(child)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("{program}: {error}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address that nobody has.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

struct Pebble {
    directory: String,
    /// Where it says what its roots are.
    management: SocketAddr,
    /// Where it is told at which address every host is.
    hosts: SocketAddr,
    /// What signed the certificate of its own listeners.
    ca: String,
    _processes: [Process; 2],
}

impl Pebble {
    /// One that finds the edge at this port, whatever the host, whose certificates live so long,
    /// and which refuses so many percent of good nonces. None if it is not installed.
    fn start(dir: &Path, edge: SocketAddr, life: Duration, refused: u8) -> Option<Self> {
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(authority, key);
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let own = own.signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join("pebble.pem"), own.pem()).unwrap();
        std::fs::write(dir.join("pebble.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.join("pebble-ca.pem"), &ca).unwrap();

        let (listen, management) = (free(), free());
        let (names, hosts) = (free(), free());
        let config = json!({"pebble": {
            "listenAddress": listen,
            "managementListenAddress": management,
            "certificate": dir.join("pebble.pem"),
            "privateKey": dir.join("pebble.key"),
            "httpPort": 1,
            "tlsPort": edge.port(),
            "certificateValidityPeriod": life.as_secs(),
        }});
        let file = dir.join("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        // What it asks where a host is.
        let resolver = Process::start("pebble-challtestsrv", |command| {
            for (name, value) in [
                ("-dns01", names.to_string().as_str()),
                ("-management", &hosts.to_string()),
                ("-defaultIPv6", ""),
                ("-http01", ""),
                ("-https01", ""),
                ("-tlsalpn01", ""),
            ] {
                command.args([name, value]);
            }
        })?;
        let pebble = Process::start("pebble", |command| {
            command
                .args(["-strict", "-dnsserver", &names.to_string(), "-config"])
                .arg(&file)
                .env("PEBBLE_VA_NOSLEEP", "1")
                // Each order proves anew.
                .env("PEBBLE_AUTHZREUSE", "0")
                .env("PEBBLE_WFE_NONCEREJECT", refused.to_string());
        })?;
        Some(Self {
            directory: format!("https://localhost:{}/dir", listen.port()),
            management,
            hosts,
            ca,
            _processes: [resolver, pebble],
        })
    }

    /// It finds every host at this address.
    async fn look_at(&self, address: IpAddr) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/set-default-ipv4", self.hosts);
        let request = client.post(url).json(&json!({"ip": address}));
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// The root above the certificates that it issues.
    async fn root(&self) -> reqwest::Certificate {
        let ca = reqwest::Certificate::from_pem(self.ca.as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([ca]);
        let client = client.build().unwrap();
        let url = format!("https://localhost:{}/roots/0", self.management.port());
        let root = until("it is there", async || client.get(&url).send().await.ok()).await;
        reqwest::Certificate::from_pem(&root.bytes().await.unwrap()).unwrap()
    }
}

async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = found().await {
            return found;
        }
        let failed = crate::decisions::orders_that_failed();
        assert!(Instant::now() < deadline, "{what} {failed:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Node {
    admin: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Node {
    async fn start(dir: &Path, address: SocketAddr, directory: &str) -> Self {
        let file = write_config(dir, "http://127.0.0.1:1", &Options::default());
        let text = std::fs::read_to_string(&file).unwrap();
        let acme = format!(
            "[listen.acme]\ndirectory = \"{directory}\"\ndomains = \"{HOST}\"\nfolder = \"acme\"\n\
             ca_file = \"pebble-ca.pem\"\ncontact = \"mailto:ops@{HOST}\"\naccept_terms = true\n[admin]"
        );
        let listen = format!("[listen]\naddress = \"{address}\"");
        let text = text.replace("[listen]\naddress = \"127.0.0.1:0\"", &listen);
        std::fs::write(&file, text.replace("[admin]", &acme)).unwrap();
        let config = GatewayConfig::load(&file).unwrap_or_else(|e| panic!("{e}"));
        let key = TokenSigningKey::from_seed(SEED);
        let gateway = Gateway::new(config, TestBus::new(), key).await.unwrap();
        assert_eq!(gateway.address(), address);
        let admin = gateway.admin_address().unwrap();
        let stop = CancellationToken::new();
        Self {
            admin,
            running: tokio::spawn(gateway.run(stop.clone())),
            stop,
        }
    }

    async fn metric(&self, line: &str) -> bool {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/metrics", self.admin);
        let text = client.get(url).send().await.unwrap().text().await.unwrap();
        text.contains(line)
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_gets_its_certificate_by_pebble_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let address = free();
    let Some(pebble) = Pebble::start(dir.path(), address, Duration::from_secs(86_400), 5) else {
        println!("there is no pebble here: no certificate was asked of it");
        return;
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([pebble.root().await])
        .resolve(HOST, address)
        .build()
        .unwrap();
    let url = format!("https://{HOST}:{}/health", address.port());
    let health = async || {
        let answer = client.get(&url).send().await.ok()?;
        Some(answer.status().as_u16())
    };

    let node = Node::start(dir.path(), address, &pebble.directory).await;
    let status = until("it answers under its certificate", health).await;
    assert_eq!(status, 200);
    let first = shown(address, HOST, b"http/1.1").await.unwrap();
    node.end().await;

    // The next process goes on with it, and needs nobody for that.
    let directory = pebble.directory.clone();
    drop(pebble);
    let node = Node::start(dir.path(), address, &directory).await;
    assert_eq!(health().await, Some(200));
    assert_eq!(shown(address, HOST, b"http/1.1").await.unwrap(), first);
    node.end().await;
}

/// Who answers for the host with a proof of something else. Says so when it is asked.
async fn impostor(address: SocketAddr) -> mpsc::Receiver<()> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[7; 32])];
    let certificate = params.self_signed(&key).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = provider.key_provider.load_private_key(key).unwrap();
    // Not looked at here: nobody but an authority takes such a certificate.
    let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let (asked, told) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if acceptor.accept(stream).await.is_ok() {
                let _ = asked.try_send(());
            }
        }
    });
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn pebble_renews_under_open_connections_and_is_not_fooled() {
    crate::decisions::listen();
    let dir = tempfile::tempdir().unwrap();
    let address = free();
    let Some(pebble) = Pebble::start(dir.path(), address, Duration::from_secs(9), 0) else {
        println!("there is no pebble here: no certificate was asked of it");
        return;
    };
    pebble.root().await;
    let node = Node::start(dir.path(), address, &pebble.directory).await;
    let leaf = async || shown(address, HOST, b"http/1.1").await;
    let first = until("there is a certificate", leaf).await;
    let mut open = trusting(address, HOST, b"http/1.1").await.unwrap();
    let mut ask = async || {
        let request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
        open.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert!(open.read_buf(&mut answer).await.unwrap() > 0);
        }
        String::from_utf8(answer).unwrap()
    };
    assert!(ask().await.starts_with("HTTP/1.1 200"));

    // When two thirds of its life are over there is another one, for new connections.
    let renewed = async || leaf().await.filter(|leaf| *leaf != first);
    let second = until("it is renewed", renewed).await;
    assert!(ask().await.starts_with("HTTP/1.1 200"));

    // Whoever is asked next cannot prove anything: the one that is there goes on.
    let elsewhere = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), address.port()));
    let mut asked = impostor(elsewhere).await;
    pebble.look_at(elsewhere.ip()).await;
    until("it has failed", async || {
        let line = "certificate_orders_total{outcome=\"failed\"} 1\n";
        node.metric(line).await.then_some(())
    })
    .await;
    assert!(asked.try_recv().is_ok(), "somebody else was asked");
    assert_eq!(leaf().await.unwrap(), second);
    let kept = std::fs::read_to_string(dir.path().join("acme/certificate.pem")).unwrap();
    let kept = CertificateDer::from_pem_slice(kept.as_bytes()).unwrap();
    assert_eq!(&*kept, second);
    assert!(ask().await.starts_with("HTTP/1.1 200"));
    let failed = crate::decisions::orders_that_failed();
    let unauthorized = |why: &String| why.ends_with("(urn:ietf:params:acme:error:unauthorized)");
    assert!(failed.iter().any(unauthorized), "{failed:?}");
    node.end().await;
}
