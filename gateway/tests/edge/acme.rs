//! Certificates that the edge asks for itself.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bulla_gateway::{Gateway, GatewayConfig};
use bulla_token::TokenSigningKey;
use tokio_util::sync::CancellationToken;

use crate::acme_authority::{Authority, shown};
use crate::setup::*;

const HOST: &str = "edge.example";

struct Node {
    address: std::net::SocketAddr,
    admin: std::net::SocketAddr,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

async fn start(dir: &Path, authority: &Authority) -> Node {
    let options = Options::default();
    let file = write_config(dir, "http://127.0.0.1:1", &options);
    let text = std::fs::read_to_string(&file).unwrap();
    let acme = format!(
        "[listen.acme]\ndirectory = \"{}/directory\"\ndomains = \"{HOST}\"\nfolder = \"acme\"\n\
         contact = \"mailto:ops@{HOST}\"\naccept_terms = true\n[admin]",
        authority.url
    );
    std::fs::write(&file, text.replace("[admin]", &acme)).unwrap();
    let config = GatewayConfig::load(&file).unwrap_or_else(|e| panic!("{e}"));
    let key = TokenSigningKey::from_seed(SEED);
    let gateway = Gateway::new(config, TestBus::new(), key).await.unwrap();
    let (address, admin) = (gateway.address(), gateway.admin_address().unwrap());
    *authority.edge.lock() = Some(address);
    let stop = CancellationToken::new();
    Node {
        address,
        admin,
        running: tokio::spawn(gateway.run(stop.clone())),
        stop,
    }
}

impl Node {
    async fn health(&self, authority: &Authority) -> Option<u16> {
        let ca = reqwest::Certificate::from_pem(authority.ca.as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([ca])
            .resolve(HOST, self.address)
            .build()
            .unwrap();
        let url = format!("https://{HOST}:{}/health", self.address.port());
        let answer = client.get(url).send().await.ok()?;
        Some(answer.status().as_u16())
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

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_edge_proves_its_host_gets_a_certificate_keeps_it_and_renews_it() {
    let authority = Authority::start(Duration::from_secs(8)).await;
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), &authority).await;
    until("it answers under its certificate", async || {
        node.health(&authority).await == Some(200)
    })
    .await;
    let kept = dir.path().join("acme");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&kept), 0o700);
    for file in ["certificate.pem", "account.json"] {
        assert_eq!(mode(&kept.join(file)), 0o600, "{file}");
    }
    // What an authority is shown is gone, and nobody else gets it.
    assert_eq!(shown(node.address, HOST, b"acme-tls/1").await, None);
    let first = shown(node.address, HOST, b"http/1.1").await.unwrap();
    node.end().await;

    // The next process has it already, and asks anew when a third is left.
    let orders = authority.state.lock().orders;
    let node = start(dir.path(), &authority).await;
    assert_eq!(node.health(&authority).await, Some(200));
    until("it is renewed", async || {
        shown(node.address, HOST, b"http/1.1").await.unwrap() != first
    })
    .await;
    assert_eq!(node.health(&authority).await, Some(200));
    assert!(
        node.metric("certificate_orders_total{outcome=\"ok\"}")
            .await
    );
    {
        let state = authority.state.lock();
        assert!(state.orders > orders);
        assert_eq!(state.accounts, 1);
    }
    node.end().await;
}

#[tokio::test]
async fn without_proof_there_is_no_certificate_and_the_edge_goes_on() {
    let authority = Authority::start(Duration::from_secs(60)).await;
    authority.state.lock().is_confused = true;
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), &authority).await;
    until("it has failed", async || {
        node.metric("certificate_orders_total{outcome=\"failed\"}")
            .await
    })
    .await;
    // It has looked, and seen something else than it wanted.
    assert_eq!(authority.state.lock().proven, Some(false));
    assert_eq!(node.health(&authority).await, None);
    assert!(!dir.path().join("acme/certificate.pem").exists());
    assert_eq!(shown(node.address, HOST, b"acme-tls/1").await, None);
    node.end().await;
}
