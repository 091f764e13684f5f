//! A whole bus in a temporary directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Auth, AuthError, ConnectError, jetstream};
use bulla_broker::callout::Group;
use bulla_broker::engine::{Engine, NatsServer};
use bulla_broker::provision::Provision;
use bulla_broker::{BrokerConfig, BrokerError};
use bulla_identity::{WorkloadId, WorkloadName, reserved};
use bulla_keyring::NkeySeed;
use bulla_policy::Policy;
use bulla_process::{CancellationToken, Readiness};
use bulla_sdk::ConnectOptions;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What a bus is made of.
#[derive(Clone, Debug)]
pub struct BusOptions {
    /// The policy. Wherever `"@name@"` stands, the public nkey of the workload
    /// `name` is put, whose seed the harness makes.
    pub policy: String,
    /// How long message credentials are good for.
    pub credential_lifetime: Duration,
    /// One broker for each, in that group.
    pub brokers: Vec<Group>,
    /// For how long brokers go by what they have read without reading it again.
    pub state_max_age: Duration,
    /// Whether nats-server knows accounts by the JWTs of an operator.
    pub operator_mode: bool,
}

impl BusOptions {
    /// One broker, credentials for an hour.
    #[must_use]
    pub fn new(policy: impl Into<String>) -> Self {
        Self {
            policy: policy.into(),
            credential_lifetime: Duration::from_secs(3600),
            brokers: vec![Group::Both],
            state_max_age: Duration::from_secs(60),
            operator_mode: false,
        }
    }
}

/// A running bus. Dropping it kills nats-server and every broker.
#[derive(Debug)]
pub struct Bus {
    brokers: Vec<Option<Broker>>,
    /// Always there but in the middle of a restart.
    server: Option<NatsServer>,
    policy: Policy,
    provision: Provision,
    _dir: TempDir,
}

/// One of the bus's brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerHandle(usize);

#[derive(Debug)]
struct Broker {
    stop: CancellationToken,
    task: JoinHandle<Result<(), BrokerError>>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bus {
    /// A bus with one broker and this policy, see [`BusOptions::policy`].
    pub async fn start(policy: &str) -> Self {
        Self::start_with(BusOptions::new(policy)).await
    }

    /// A bus as `options` say.
    pub async fn start_with(options: BusOptions) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("bulla-bus-")
            .tempdir()
            .expect("a temporary directory");
        let mut provision = Provision::open(dir.path()).expect("a writable directory");
        if options.operator_mode {
            provision = provision.in_operator_mode();
        }
        let text = with_nkeys(&options.policy, &provision);
        let (policy, _) = match provision.sign_policy("policy.toml", &text) {
            Ok(signed) => signed,
            Err(error) => panic!("the test's policy does not load:\n{error}"),
        };
        let config = provision
            .write_server_config(None, &policy)
            .expect("a server configuration");
        let server = engine()
            .await
            .start(&config)
            .await
            .expect("a running nats-server");
        provision
            .write_broker_config(server.client_url(), &policy, options.credential_lifetime)
            .expect("a broker configuration");
        let file = provision.path("broker.toml");
        let text = std::fs::read_to_string(&file).expect("a broker configuration");
        let age = options.state_max_age.as_millis();
        let text = format!("state_max_age = \"{age}ms\"\n{text}");
        std::fs::write(&file, text).expect("a writable directory");
        let mut bus = Self {
            brokers: Vec::new(),
            server: Some(server),
            policy,
            provision,
            _dir: dir,
        };
        for group in options.brokers {
            bus.add_broker(group).await;
        }
        bus
    }

    /// Starts another broker and waits until it is ready.
    pub async fn add_broker(&mut self, group: Group) -> BrokerHandle {
        let mut config =
            BrokerConfig::load(&self.provision.path("broker.toml")).expect("a sound configuration");
        config.group = group;
        let stop = CancellationToken::new();
        let readiness = Readiness::new();
        let mut task = tokio::spawn(bulla_broker::run(config, readiness.clone(), stop.clone()));
        tokio::select! {
            () = readiness.ready() => {}
            result = &mut task => panic!("the broker ended at its start: {result:?}"),
        }
        self.brokers.push(Some(Broker { stop, task }));
        BrokerHandle(self.brokers.len() - 1)
    }

    /// The broker that was started as number `index`, from zero.
    #[must_use]
    pub fn broker(&self, index: usize) -> BrokerHandle {
        assert!(index < self.brokers.len(), "there is no broker {index}");
        BrokerHandle(index)
    }

    /// Ends a broker in the middle of whatever it does.
    pub async fn kill_broker(&mut self, broker: BrokerHandle) {
        let mut killed = self.take(broker);
        killed.task.abort();
        let _ = (&mut killed.task).await;
    }

    /// Stops a broker in good order.
    pub async fn stop_broker(&mut self, broker: BrokerHandle) {
        let mut stopped = self.take(broker);
        stopped.stop.cancel();
        timeout(LIMIT, &mut stopped.task)
            .await
            .expect("a broker that stops")
            .expect("a broker that does not panic")
            .expect("a broker that stops in good order");
    }

    fn take(&mut self, broker: BrokerHandle) -> Broker {
        let place = self
            .brokers
            .get_mut(broker.0)
            .expect("a broker of this bus");
        place.take().expect("a broker that still runs")
    }

    /// Stops nats-server and starts it again on the same port, with what it has
    /// stored. Everybody's connection is lost.
    pub async fn restart_server(&mut self) {
        self.restart_server_as(str::to_owned).await;
    }

    /// The same with a configuration that `edit` makes of ours.
    pub async fn restart_server_as(&mut self, edit: impl Fn(&str) -> String) {
        let url = self.nats_url().to_owned();
        let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
        let config = self
            .provision
            .write_server_config(port, &self.policy)
            .expect("a server configuration");
        let text = std::fs::read_to_string(&config.config_file).expect("a configuration");
        std::fs::write(&config.config_file, edit(&text)).expect("a writable directory");
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        let engine = engine().await;
        self.server = Some(engine.start(&config).await.expect("a running nats-server"));
        assert_eq!(self.nats_url(), url, "the port is the same");
    }

    /// nats-server's address for clients.
    #[must_use]
    pub fn nats_url(&self) -> &str {
        self.server().client_url()
    }

    /// nats-server itself.
    #[must_use]
    pub fn server(&self) -> &NatsServer {
        self.server.as_ref().expect("a server that runs")
    }

    /// The files of the bus.
    #[must_use]
    pub fn provision(&self) -> &Provision {
        &self.provision
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// A workload's id.
    #[must_use]
    pub fn workload(&self, name: &str) -> WorkloadId {
        WorkloadId::new(self.policy.trust_domain(), &workload_name(name))
    }

    /// The file with a workload's nkey seed.
    #[must_use]
    pub fn seed_file(&self, name: &str) -> PathBuf {
        self.provision.seed_file(&workload_name(name))
    }

    /// The file with the trust root's public key.
    #[must_use]
    pub fn root_file(&self) -> PathBuf {
        self.provision.root_file()
    }

    /// The policy's text with every `"@name@"` replaced.
    #[must_use]
    pub fn with_nkeys(&self, policy: &str) -> String {
        with_nkeys(policy, &self.provision)
    }

    /// A workload's nkey seed.
    #[must_use]
    pub fn seed(&self, name: &str) -> NkeySeed {
        read_seed(&self.seed_file(name))
    }

    /// What the SDK needs to connect as this workload.
    #[must_use]
    pub fn connect_options(&self, workload: &str) -> ConnectOptions {
        ConnectOptions::new(
            self.nats_url(),
            self.workload(workload),
            self.seed_file(workload),
            self.root_file(),
        )
        .clock_skew(SKEW)
    }

    /// A client of the SDK.
    pub async fn client(&self, workload: &str) -> bulla_sdk::Client {
        bulla_sdk::Client::connect(self.connect_options(workload))
            .await
            .unwrap_or_else(|error| panic!("`{workload}` cannot connect: {error:?}"))
    }

    /// Signs a policy as the next revision and puts it onto the control stream;
    /// clients go by it some milliseconds later.
    pub async fn publish_policy(&self, policy: &str) {
        let text = self.with_nkeys(policy);
        if let Err(error) = self.provision().sign_policy("policy.toml", &text) {
            panic!("the test's policy does not load:\n{error}");
        }
        let signed = std::fs::read(self.provision().path("trust/policy")).expect("a signed policy");
        self.replace_control_record(reserved::CTL_POLICY, signed.into())
            .await;
    }

    /// Writes to the control stream whatever is given, as somebody who holds a
    /// broker's connection could.
    pub async fn replace_control_record(&self, subject: &str, record: Bytes) {
        let context = jetstream::new(self.js_client().await);
        let ack = context
            .publish(subject.to_owned(), record)
            .await
            .expect("the control stream");
        ack.await.expect("an acknowledgement");
    }

    /// A plain NATS client that holds a workload's key and does nothing else
    /// that Bulla does. Its inbox is the half that its peers reply to.
    pub async fn raw_client(&self, name: &str) -> async_nats::Client {
        self.raw_client_with(name, self.seed(name))
            .await
            .expect("a workload may connect")
    }

    /// The same with any seed, for connections that should be refused.
    ///
    /// # Errors
    /// If the connection is refused.
    pub async fn raw_client_with(
        &self,
        name: &str,
        seed: NkeySeed,
    ) -> Result<async_nats::Client, ConnectError> {
        let inbox = reserved::inbox_peers(self.workload(name).tag());
        self.connect(seed, None, inbox).await
    }

    /// A client in the account `SYS`, to look at the server.
    pub async fn sys_client(&self) -> async_nats::Client {
        self.broker_client("broker-sys").await
    }

    /// A client in the account `JS`, to look at the streams.
    pub async fn js_client(&self) -> async_nats::Client {
        self.broker_client("broker-js").await
    }

    /// A client that logs in as one of the broker's own users: `broker-auth`,
    /// `broker-js` or `broker-sys`.
    pub async fn broker_client(&self, name: &str) -> async_nats::Client {
        let seed = read_seed(&self.provision.path(&format!("keys/{name}.nk")));
        let jwt = self.provision.path(&format!("keys/{name}.jwt"));
        let jwt = std::fs::read_to_string(jwt).ok();
        self.connect(seed, jwt, "_INBOX".to_owned())
            .await
            .expect("a broker's user may connect")
    }

    async fn connect(
        &self,
        seed: NkeySeed,
        jwt: Option<String>,
        inbox: String,
    ) -> Result<async_nats::Client, ConnectError> {
        let seed = Arc::new(seed);
        async_nats::ConnectOptions::with_auth_callback(move |nonce| {
            let (seed, jwt) = (Arc::clone(&seed), jwt.clone());
            async move {
                let signature = seed.sign_nonce(&nonce).map_err(AuthError::new)?;
                let mut auth = Auth::new();
                if jwt.is_none() {
                    auth.nkey = Some(seed.public().to_string());
                }
                auth.jwt = jwt;
                auth.signature = Some(signature.as_bytes().to_vec());
                Ok(auth)
            }
        })
        .custom_inbox_prefix(inbox)
        .max_reconnects(1)
        .connect(self.nats_url())
        .await
    }
}

/// Every `"@name@"` of the policy becomes a public nkey.
#[must_use]
pub fn with_nkeys(policy: &str, provision: &Provision) -> String {
    let mut text = String::new();
    let mut rest = policy;
    while let Some((before, after)) = rest.split_once("\"@") {
        let (name, after) = after.split_once("@\"").expect("a closing `@\"`");
        let nkey = provision
            .workload(&workload_name(name))
            .expect("a workload's key");
        text.push_str(before);
        text.push_str(&format!("\"{nkey}\""));
        rest = after;
    }
    text.push_str(rest);
    text
}

fn workload_name(name: &str) -> WorkloadName {
    WorkloadName::parse(name).expect("a workload's name")
}

fn read_seed(path: &std::path::Path) -> NkeySeed {
    let text = bulla_process::secret_file::read_line(path).expect("a seed file");
    NkeySeed::parse(&text).expect("a seed")
}

/// The nats-server of this machine's tests: found, or installed.
pub async fn engine() -> &'static Engine {
    static ENGINE: OnceCell<Engine> = OnceCell::const_new();
    ENGINE
        .get_or_init(|| async {
            let engine = Engine::locate(&|line| eprintln!("{line}")).await;
            engine.unwrap_or_else(|error| panic!("no nats-server for the tests: {error}"))
        })
        .await
}

const LIMIT: Duration = Duration::from_secs(10);
/// Clocks agree here: one machine.
const SKEW: Duration = Duration::from_millis(100);
