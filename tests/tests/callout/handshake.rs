//! Workloads that connect by the certificate of their TLS connection, on a server
//! that asks every client for one.

use std::path::PathBuf;
use std::time::Duration;

use bulla_broker::BrokerConfig;
use bulla_broker::callout::Group;
use bulla_broker::engine::{Engine, NatsServer};
use bulla_broker::provision::Provision;
use bulla_identity::{TrustDomain, WorkloadId, WorkloadName};
use bulla_process::{CancellationToken, Readiness};
use bulla_sdk::{Client, ConnectError, ConnectOptions, Message, ServiceError};
use bulla_tests::{Pki, SvidFiles};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// A bus whose server wants a certificate of every client.
struct Bus {
    server: NatsServer,
    provision: Provision,
    stop: CancellationToken,
    brokers: Vec<JoinHandle<()>>,
    /// For hosts, brokers and whoever connects by an nkey.
    house: SvidFiles,
    house_ca: PathBuf,
    /// For workloads; the policy names it.
    mesh: Pki,
    /// For workloads elsewhere; the server knows it, the policy does not.
    foreign: Pki,
    dir: tempfile::TempDir,
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.cancel();
        for broker in &self.brokers {
            broker.abort();
        }
    }
}

fn id(name: &str) -> WorkloadId {
    let domain = TrustDomain::parse("acme.example").unwrap();
    WorkloadId::new(&domain, &WorkloadName::parse(name).unwrap())
}

impl Bus {
    async fn start() -> Self {
        Self::start_with(false, &[Group::Both]).await
    }

    async fn start_with(operator_mode: bool, groups: &[Group]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (house, mesh, foreign) = (Pki::new("house"), Pki::new("mesh"), Pki::new("foreign"));
        let mut provision = Provision::open(dir.path()).unwrap();
        if operator_mode {
            provision = provision.in_operator_mode();
        }
        let orders = WorkloadName::parse("orders").unwrap();
        let text = format!(
            r#"
version = 1
trust_domain = "acme.example"
{}
[workload.cart]
attest = [{{ x509 = "mesh" }}]
[workload.orders]
attest = [{{ nkey = "{}" }}]
[[allow]]
id  = "cart-asks"
who = ["cart"]
may = ["request"]
on  = ["orders.create"]
[[allow]]
id  = "orders-serves"
who = ["orders"]
may = ["serve"]
on  = ["orders.create"]
"#,
            mesh.x509("mesh"),
            provision.workload(&orders).unwrap()
        );
        let (policy, _) = provision.sign_policy("policy.toml", &text).unwrap();
        let config = provision.write_server_config(None, &policy).unwrap();
        let files = house
            .issue_host(Duration::from_secs(3_600))
            .write(dir.path(), "house");
        let house_ca = dir.path().join("house-ca.pem");
        std::fs::write(&house_ca, house.pem()).unwrap();
        let all = [house.pem(), mesh.pem(), foreign.pem()].concat();
        let all_ca = dir.path().join("clients-ca.pem");
        std::fs::write(&all_ca, all).unwrap();
        let conf = std::fs::read_to_string(&config.config_file).unwrap();
        let tls = format!(
            "tls {{\n cert_file: {:?}\n key_file: {:?}\n ca_file: {:?}\n verify: true\n}}\njetstream {{",
            files.chain, files.key, all_ca
        );
        std::fs::write(&config.config_file, conf.replacen("jetstream {", &tls, 1)).unwrap();
        let engine = Engine::locate(&|_| {}).await.unwrap();
        let server = engine.start(&config).await.unwrap();
        let url = server.client_url().replace("nats://", "tls://");
        let file = provision
            .write_broker_config(&url, &policy, Duration::from_secs(3_600))
            .unwrap();
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str(&format!(
            "[tls]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
            house_ca, files.chain, files.key
        ));
        std::fs::write(&file, text).unwrap();
        let stop = CancellationToken::new();
        let mut brokers = Vec::new();
        for group in groups {
            let mut broker = BrokerConfig::load(&file).unwrap();
            broker.group = *group;
            let readiness = Readiness::new();
            let running = Box::pin(bulla_broker::run(broker, readiness.clone(), stop.clone()));
            brokers.push(tokio::spawn(async move { running.await.unwrap() }));
            tokio::time::timeout(Duration::from_secs(20), readiness.ready())
                .await
                .unwrap();
        }
        Self {
            server,
            provision,
            stop,
            brokers,
            house: files,
            house_ca,
            mesh,
            foreign,
            dir,
        }
    }

    fn url(&self) -> String {
        self.server.client_url().replace("nats://", "tls://")
    }

    async fn orders(&self) -> Client {
        let name = WorkloadName::parse("orders").unwrap();
        let options = ConnectOptions::new(
            self.url(),
            id("orders"),
            self.provision.seed_file(&name),
            self.provision.root_file(),
        )
        .certificate(&self.house.chain, &self.house.key)
        .tls_ca_file(&self.house_ca)
        .clock_skew(Duration::from_millis(50));
        Client::connect(options).await.unwrap()
    }

    fn by(&self, files: &SvidFiles) -> ConnectOptions {
        ConnectOptions::by_certificate(
            self.url(),
            id("cart"),
            &files.chain,
            &files.key,
            self.provision.root_file(),
        )
        .tls_ca_file(&self.house_ca)
        .clock_skew(Duration::from_millis(50))
    }
}

#[tokio::test]
async fn a_certificate_of_the_handshake_admits_its_workload_and_bounds_the_session() {
    bounds_the_session(Bus::start().await).await;
}

/// nats-server's accounts are JWTs, and two brokers answer.
#[tokio::test]
async fn in_operator_mode_a_certificate_of_the_handshake_does_the_same() {
    bounds_the_session(Bus::start_with(true, &[Group::A, Group::B]).await).await;
}

async fn bounds_the_session(bus: Bus) {
    // An nkey connects on the same port: there the certificate is only the door's.
    let orders = bus.orders().await;
    let _service = orders
        .serve("orders.create", async |order: Message<String>| {
            Ok::<_, ServiceError>(format!("for {}", order.sender().workload().path()))
        })
        .await
        .unwrap();
    let svid = bus.mesh.issue(&id("cart"), Duration::from_secs(5));
    let files = svid.write(bus.dir.path(), "cart");
    let ends = Instant::now() + Duration::from_secs(5);
    let cart = Client::connect(bus.by(&files)).await.unwrap();
    let ask = async || {
        cart.request::<_, String>("orders.create", &"x".to_owned())
            .await
    };
    assert_eq!(ask().await.unwrap(), "for cart");

    // The session ends with the certificate; the next one is by what lies there then.
    bus.mesh
        .issue(&id("cart"), Duration::from_secs(600))
        .write(bus.dir.path(), "cart");
    tokio::time::sleep_until(ends + Duration::from_secs(1)).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = ask().await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_workload_admits_nobody() {
    let bus = Bus::start().await;
    let (domain, hour) = ("acme.example", Duration::from_secs(3_600));
    let elsewhere = WorkloadId::parse("spiffe://other.example/cart").unwrap();
    for (name, svid) in [
        (
            "an authority that the policy does not list",
            bus.foreign.issue(&id("cart"), hour),
        ),
        (
            "a workload that does not connect so",
            bus.mesh.issue(&id("orders"), hour),
        ),
        (
            "a workload that there is not",
            bus.mesh.issue(&id("pears"), hour),
        ),
        ("another trust domain", bus.mesh.issue(&elsewhere, hour)),
        ("a host and no workload", bus.mesh.issue_host(hour)),
    ] {
        let files = svid.write(bus.dir.path(), "wrong");
        let outcome = Client::connect(bus.by(&files)).await;
        assert!(
            matches!(outcome, Err(ConnectError::Unauthorized { .. })),
            "{name} of {domain}: {:?}",
            outcome.err()
        );
    }
}
