//! `bulla doctor` on a bus that is sound, and on ones that are broken on purpose: each
//! check is shown to fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bulla_broker::BrokerConfig;
use bulla_broker::callout::Group;
use bulla_broker::engine::{Engine, NatsServer};
use bulla_broker::provision::Provision;
use bulla_process::{CancellationToken, Readiness};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.orders]
attest = [{ nkey = "@orders@" }]
[workload.billing]
attest = [{ nkey = "@billing@" }]

[stream.ORDERS]
subjects = ["orders.{id}.created"]
[subject."orders.{id}.created"]
replay = "stream"
max_age = "1h"
[bucket.PRICES]

[[allow]]
id = "orders-asks"
who = ["orders"]
may = ["request"]
on = ["billing.quote"]
[[allow]]
id = "billing-serves"
who = ["billing"]
may = ["serve"]
on = ["billing.quote"]
[[allow]]
id = "orders-listens"
who = ["orders"]
may = ["subscribe"]
on = ["news.{kind}"]
[[allow]]
id = "orders-appends"
who = ["orders"]
may = ["append"]
on = ["orders.{id}.created"]
[[allow]]
id = "billing-consumes"
who = ["billing"]
may = ["consume"]
on = ["ORDERS.billing"]
[[allow]]
id = "billing-reads"
who = ["billing"]
may = ["read"]
on = ["PRICES.>"]
"#;

/// A bus whose server configuration was changed by hand.
struct Bus {
    dir: TempDir,
    server: NatsServer,
    provision: Provision,
    broker: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Bus {
    async fn start(change: impl FnOnce(String, &Provision) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let provision = Provision::open(dir.path()).unwrap();
        let mut text = POLICY.to_owned();
        for name in ["orders", "billing"] {
            let nkey = nkey(&provision, name);
            text = text.replace(&format!("@{name}@"), &nkey);
        }
        let (policy, _) = provision.sign_policy("policy.toml", &text).unwrap();
        let config = provision.write_server_config(None, &policy).unwrap();
        let conf = std::fs::read_to_string(&config.config_file).unwrap();
        std::fs::write(&config.config_file, change(conf, &provision)).unwrap();
        let engine = Engine::locate(&|_| {}).await.unwrap();
        let server = engine.start(&config).await.unwrap();
        let hour = Duration::from_secs(3_600);
        provision
            .write_broker_config(server.client_url(), &policy, hour)
            .unwrap();
        Self {
            dir,
            server,
            provision,
            broker: None,
        }
    }

    async fn with_broker(mut self, group: Group) -> Self {
        let mut config = BrokerConfig::load(&self.provision.path("broker.toml")).unwrap();
        config.group = group;
        let (stop, readiness) = (CancellationToken::new(), Readiness::new());
        let running = Box::pin(bulla_broker::run(config, readiness.clone(), stop.clone()));
        let task = tokio::spawn(async move { running.await.unwrap() });
        tokio::time::timeout(Duration::from_secs(20), readiness.ready())
            .await
            .unwrap();
        self.broker = Some((stop, task));
        self
    }

    async fn stop_broker(&mut self) {
        let (stop, task) = self.broker.take().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    /// What the doctor finds: its exit code, and of each check the verdict and what
    /// was seen.
    async fn examine(&self, more: &[&str]) -> (i32, BTreeMap<String, (String, String)>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulla"));
        command.args(["doctor", "--json", "--dir"]);
        command.arg(self.dir.path()).args(more);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let whole: Value = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        let findings = whole["findings"].as_array().unwrap().iter().map(|finding| {
            let of = |key: &str| finding[key].as_str().unwrap().to_owned();
            (of("check"), (of("verdict"), of("seen")))
        });
        (output.status.code().unwrap(), findings.collect())
    }
}

fn nkey(provision: &Provision, name: &str) -> String {
    let name = bulla_identity::WorkloadName::parse(name).unwrap();
    provision.workload(&name).unwrap().to_string()
}

#[track_caller]
fn assert_verdicts(findings: &BTreeMap<String, (String, String)>, verdict: &str, checks: &[&str]) {
    for check in checks {
        let (found, seen) = &findings[*check];
        assert_eq!(found, verdict, "{check}: {seen}\n{findings:#?}");
    }
}

const ALL: [&str; 16] = [
    "strangers",
    "nonce",
    "version",
    "tls",
    "admitted",
    "inboxes",
    "system",
    "callout",
    "jetstream",
    "wildcards",
    "queues",
    "clock",
    "server_replies",
    "streams",
    "brokers",
    "monitoring",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_bus_is_sound_in_all_of_it() {
    let bus = Bus::start(|conf, _| conf)
        .await
        .with_broker(Group::Both)
        .await;
    let (code, findings) = bus.examine(&["--strict"]).await;
    assert_verdicts(&findings, "sound", &ALL);
    assert_eq!((code, findings.len()), (0, ALL.len()));
    // The human's view says the same.
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulla"));
    command.args(["doctor", "--dir"]).arg(bus.dir.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let text = String::from_utf8(output.await.unwrap().stdout).unwrap();
    assert!(
        text.contains("16 sound, 0 ill, 0 could not be tried"),
        "{text}"
    );
    // Nothing of it is left.
    let left = bus.provision.path("jetstream");
    assert!(!tree(&left).contains("BULLA_DOCTOR"), "{}", tree(&left));
}

fn tree(path: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(path) else {
        return String::new();
    };
    let of =
        |entry: std::fs::DirEntry| format!("{}\n{}", entry.path().display(), tree(&entry.path()));
    entries.map(|entry| of(entry.unwrap())).collect()
}

/// Workloads as users of the configuration, without any permissions, an account for
/// whoever comes, monitoring for all, one group of brokers.
#[tokio::test(flavor = "multi_thread")]
async fn users_beside_the_callout_are_found() {
    let open = |conf: String, provision: &Provision| {
        let (orders, billing) = (nkey(provision, "orders"), nkey(provision, "billing"));
        let users = format!("APP {{\n    users: [ {{ nkey: {orders} }}, {{ nkey: {billing} }} ]\n");
        let bypass = format!("auth_users: [ {orders}, {billing}, ");
        let conf = conf
            .replace("APP {\n", &users)
            .replace("auth_users: [ ", &bypass);
        format!("http: \"0.0.0.0:-1\"\nno_auth_user: {orders}\n{conf}")
    };
    let mut bus = Bus::start(open).await.with_broker(Group::A).await;
    // A stream that somebody has changed.
    let js = std::fs::read_to_string(bus.provision.path("keys/broker-js.nk")).unwrap();
    loosen(bus.server.client_url(), js.trim()).await;
    let (code, findings) = bus.examine(&[]).await;
    assert_eq!(code, 1);
    assert_verdicts(
        &findings,
        "ill",
        &[
            "strangers",
            "inboxes",
            "system",
            "callout",
            "jetstream",
            "wildcards",
            "queues",
            "streams",
            "brokers",
            "monitoring",
        ],
    );
    assert_verdicts(&findings, "sound", &["nonce", "admitted", "clock"]);
    assert!(
        findings["streams"].1.contains("remembers ids"),
        "{findings:#?}"
    );

    // And then nobody speaks any more.
    bus.stop_broker().await;
    let (_, findings) = bus.examine(&[]).await;
    assert_verdicts(&findings, "ill", &["clock", "brokers"]);
}

async fn loosen(url: &str, seed: &str) {
    let js = jetstream(url, seed).await;
    let mut stream = js.get_stream("ORDERS").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.duplicate_window = Duration::from_secs(1);
    config.discard = async_nats::jetstream::stream::DiscardPolicy::Old;
    js.update_stream(&config).await.unwrap();
}

async fn jetstream(url: &str, seed: &str) -> async_nats::jetstream::Context {
    let options = async_nats::ConnectOptions::with_nkey(seed.to_owned());
    async_nats::jetstream::new(options.connect(url).await.unwrap())
}

/// One account for everything: answers of JetStream become commands.
#[tokio::test(flavor = "multi_thread")]
async fn streams_beside_workloads_are_found() {
    let one_account = |conf: String, provision: &Provision| {
        let seed_of = |file: &str| {
            let text = std::fs::read_to_string(provision.path(file)).unwrap();
            bulla_keyring::NkeySeed::parse(text.trim())
                .unwrap()
                .public()
        };
        let (orders, billing) = (nkey(provision, "orders"), nkey(provision, "billing"));
        let (js, sys) = (seed_of("keys/broker-js.nk"), seed_of("keys/broker-sys.nk"));
        let listen = conf.lines().filter(|line| {
            ["host:", "port:", "server_name:"]
                .iter()
                .any(|key| line.starts_with(key))
        });
        let listen: Vec<_> = listen.collect();
        let pulls = "permissions: { publish: [\"$JS.API.DIRECT.GET.BULLA_CTL.>\", \"$JS.API.CONSUMER.MSG.NEXT.>\"], subscribe: [\"_INBOX.none\"] }";
        format!(
            "{}\njetstream {{ store_dir: \"{}\" }}\nsystem_account: SYS\naccounts {{\n\
             ONE {{ jetstream: enabled, users: [ {{ nkey: {js} }}, {{ nkey: {orders}, {pulls} }}, {{ nkey: {billing}, {pulls} }} ] }}\n\
             SYS {{ users: [ {{ nkey: {sys} }} ] }}\n}}\n",
            listen.join("\n"),
            provision.path("jetstream").display(),
        )
    };
    let bus = Bus::start(one_account).await;
    let js = std::fs::read_to_string(bus.provision.path("keys/broker-js.nk")).unwrap();
    let control = async_nats::jetstream::stream::Config {
        name: "BULLA_CTL".to_owned(),
        subjects: vec!["$BULLA.CTL.>".to_owned()],
        allow_direct: true,
        ..Default::default()
    };
    let js = jetstream(bus.server.client_url(), js.trim()).await;
    js.create_stream(control).await.unwrap();
    let (orders, billing) = (
        bus.provision.path("keys/orders.nk"),
        bus.provision.path("keys/billing.nk"),
    );
    let (orders, billing) = (
        format!("orders={}", orders.display()),
        format!("billing={}", billing.display()),
    );
    let (code, findings) = bus.examine(&["--as", &orders, "--as", &billing]).await;
    assert_eq!(code, 1);
    assert_verdicts(&findings, "ill", &["server_replies", "brokers"]);
    assert_verdicts(
        &findings,
        "sound",
        &["strangers", "nonce", "inboxes", "system", "monitoring"],
    );
}

/// A server that asks nobody for anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_users_is_found() {
    let bus = Bus::start(|conf, _| {
        let listen = conf
            .lines()
            .filter(|line| line.starts_with("host:") || line.starts_with("port:"));
        listen.collect::<Vec<_>>().join("\n")
    })
    .await;
    let orders = format!("orders={}", bus.provision.path("keys/orders.nk").display());
    let billing = format!(
        "billing={}",
        bus.provision.path("keys/billing.nk").display()
    );
    let (code, findings) = bus.examine(&["--as", &orders, "--as", &billing]).await;
    assert_eq!(code, 1);
    assert_verdicts(
        &findings,
        "ill",
        &[
            "strangers",
            "nonce",
            "inboxes",
            "system",
            "callout",
            "jetstream",
            "wildcards",
        ],
    );
    let strict = bus
        .examine(&["--strict", "--as", &orders, "--as", &billing])
        .await;
    assert_eq!(strict.0, 1);
}

/// Seeds of workloads that nobody knows: nothing of what they would try is called sound.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_turned_away_is_a_finding() {
    let bus = Bus::start(|conf, _| conf)
        .await
        .with_broker(Group::Both)
        .await;
    let seed = bus.dir.path().join("keys/stranger.nk");
    std::fs::copy(bus.provision.path("keys/broker-sys.nk"), &seed).unwrap();
    let stranger = format!("billing={}", seed.display());
    let orders = format!("orders={}", bus.provision.path("keys/orders.nk").display());
    std::fs::write(&seed, {
        let random = [7; 32];
        let seed = bulla_keyring::NkeySeed::from_random(bulla_identity::NkeyKind::User, &random);
        seed.unwrap().to_seed_text().to_string()
    })
    .unwrap();
    let (code, findings) = bus.examine(&["--as", &orders, "--as", &stranger]).await;
    assert_eq!(code, 1);
    assert_verdicts(&findings, "ill", &["admitted"]);
    assert_verdicts(&findings, "unknown", &["inboxes", "queues"]);

    // Beside two that get in it is the only finding: nobody is tried against himself.
    let stranger = stranger.replace("billing=", "archive=");
    let billing = bus.provision.path("keys/billing.nk");
    let billing = format!("billing={}", billing.display());
    let as_all = ["--as", &stranger, "--as", &orders, "--as", &billing];
    let (_, findings) = bus.examine(&as_all).await;
    assert_verdicts(&findings, "ill", &["admitted"]);
    assert_verdicts(&findings, "sound", &["inboxes", "queues", "server_replies"]);
}
