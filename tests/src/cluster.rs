//! Three nats-servers in a cluster on this machine, with brokers as processes.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_broker::engine::{EngineConfig, NatsServer};
use bulla_broker::provision::Provision;
use bulla_identity::{WorkloadId, WorkloadName};
use bulla_policy::Policy;
use bulla_sdk::ConnectOptions;
use bulla_testing::{engine, with_nkeys};
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::BrokerProcess;

/// Nodes of a cluster.
pub const NODES: usize = 3;

/// A running cluster. Dropping it kills every node.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Option<NatsServer>>,
    policy: Policy,
    provision: Provision,
    _dir: TempDir,
}

impl Cluster {
    /// Three nodes with this policy, see [`crate::BusOptions::policy`], and no broker.
    pub async fn start(policy: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("bulla-cluster-")
            .tempdir()
            .expect("a temporary directory");
        let provision = Provision::open(dir.path()).expect("a writable directory");
        let text = with_nkeys(policy, &provision);
        let (policy, _) = match provision.sign_policy("policy.toml", &text) {
            Ok(signed) => signed,
            Err(error) => panic!("the test's policy does not load:\n{error}"),
        };
        let base = provision
            .write_server_config(None, &policy)
            .expect("a server configuration");
        let base = std::fs::read_to_string(&base.config_file).expect("a configuration");
        let routes: [u16; NODES] = std::array::from_fn(|_| free_port());
        let starts = (0..NODES).map(|node| start_node(&provision, &base, node, routes));
        let nodes = join_all(starts).await.into_iter().map(Some).collect();
        Self {
            nodes,
            policy,
            provision,
            _dir: dir,
        }
    }

    /// A broker that connects to this node first, and keeps its streams on all.
    pub async fn broker(&self, node: usize, group: Group) -> BrokerProcess {
        self.provision
            .write_broker_config(self.url(node), &self.policy, Duration::from_secs(3600))
            .expect("a broker configuration");
        let file = format!("node-{node}");
        let replicas = format!("\n[streams]\nreplicas = {NODES}\n");
        let broker = BrokerProcess::spawn_in(&self.provision, &file, group, &replicas).await;
        broker.ready(Duration::from_secs(60)).await;
        broker
    }

    /// The address of a node that runs.
    #[must_use]
    pub fn url(&self, node: usize) -> &str {
        self.nodes[node].as_ref().expect("it runs").client_url()
    }

    /// How a workload connects, to this node first.
    #[must_use]
    pub fn connect_options(&self, node: usize, workload: &str) -> ConnectOptions {
        let name = WorkloadName::parse(workload).expect("a workload's name");
        ConnectOptions::new(
            self.url(node),
            WorkloadId::new(self.policy.trust_domain(), &name),
            self.seed_file(&name),
            self.provision.root_file(),
        )
        .clock_skew(Duration::from_millis(100))
    }

    fn seed_file(&self, name: &WorkloadName) -> PathBuf {
        self.provision.seed_file(name)
    }

    /// The node of this name, as the servers name each other.
    #[must_use]
    pub fn node_named(&self, name: &str) -> usize {
        let number = name.strip_prefix("node-").and_then(|n| n.parse().ok());
        number.expect("a node of ours")
    }

    /// The files of the cluster.
    #[must_use]
    pub fn provision(&self) -> &Provision {
        &self.provision
    }

    /// Kills a node at once.
    pub async fn kill(&mut self, node: usize) {
        let mut server = self.nodes[node].take().expect("it runs");
        server.kill();
        let _ = server.exited().await;
    }
}

async fn start_node(
    provision: &Provision,
    base: &str,
    node: usize,
    ports: [u16; NODES],
) -> NatsServer {
    let name = format!("node-{node}");
    let store = provision.path("jetstream").join(&name);
    let routes: Vec<String> = ports
        .iter()
        .map(|port| format!("\"nats://127.0.0.1:{port}\""))
        .collect();
    let port = ports[node];
    let whole = provision.path("jetstream");
    let text = base
        .replace("\"bulla-dev\"", &format!("\"{name}\""))
        .replace(&*whole.to_string_lossy(), &store.to_string_lossy())
        .replace("ping_interval: \"10s\"", "ping_interval: \"1s\"");
    let text = format!(
        "{text}\ncluster {{\n  name: bulla\n  listen: \"127.0.0.1:{port}\"\n  routes: [ {} ]\n}}\n",
        routes.join(", ")
    );
    let config = EngineConfig {
        config_file: provision.path(&format!("{name}.conf")),
        log_file: provision.path(&format!("logs/{name}.log")),
        run_dir: provision.path("run"),
    };
    std::fs::write(&config.config_file, text).expect("a writable directory");
    engine()
        .await
        .start(&config)
        .await
        .expect("a running nats-server")
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
