//! The edge's certificate by Pebble, the server that Let's Encrypt has for tests of clients: it
//! checks what theirs checks, and now and then refuses a good nonce. Where it is not installed
//! (Debian's package `pebble`) nothing is proven here, and one line says so.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulla_gateway::{Gateway, GatewayConfig};
use bulla_token::TokenSigningKey;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::acme_authority::shown;
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
    /// What signed the certificate of its own listeners.
    ca: String,
    _processes: [Process; 2],
}

impl Pebble {
    /// One that finds the edge at this port, whatever the host.
    fn start(dir: &Path, edge: SocketAddr) -> Option<Self> {
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

        let (listen, management, names) = (free(), free(), free());
        let config = json!({"pebble": {
            "listenAddress": listen,
            "managementListenAddress": management,
            "certificate": dir.join("pebble.pem"),
            "privateKey": dir.join("pebble.key"),
            "httpPort": 1,
            "tlsPort": edge.port(),
        }});
        let file = dir.join("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        // What it asks where a host is.
        let resolver = Process::start("pebble-challtestsrv", |command| {
            for (name, value) in [
                ("-dns01", names.to_string().as_str()),
                ("-management", &free().to_string()),
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
                .env("PEBBLE_WFE_NONCEREJECT", "25");
        })?;
        Some(Self {
            directory: format!("https://localhost:{}/dir", listen.port()),
            management,
            ca,
            _processes: [resolver, pebble],
        })
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
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn start(
    dir: &Path,
    address: SocketAddr,
    directory: &str,
) -> (CancellationToken, JoinHandle<()>) {
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
    let stop = CancellationToken::new();
    (stop.clone(), tokio::spawn(gateway.run(stop)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_gets_its_certificate_by_pebble_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let address = free();
    let Some(pebble) = Pebble::start(dir.path(), address) else {
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

    let (stop, running) = start(dir.path(), address, &pebble.directory).await;
    let status = until("it answers under its certificate", health).await;
    assert_eq!(status, 200);
    let first = shown(address, HOST, b"http/1.1").await.unwrap();
    stop.cancel();
    running.await.unwrap();

    // The next process goes on with it, and needs nobody for that.
    let directory = pebble.directory.clone();
    drop(pebble);
    let (stop, running) = start(dir.path(), address, &directory).await;
    assert_eq!(health().await, Some(200));
    assert_eq!(shown(address, HOST, b"http/1.1").await.unwrap(), first);
    stop.cancel();
    running.await.unwrap();
}
