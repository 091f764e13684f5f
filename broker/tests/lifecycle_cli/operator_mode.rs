//! Deployments whose nats-server knows accounts by the JWTs of an operator: of our own, and
//! of one that is there already.

use std::path::Path;

use bulla_identity::{TrustDomain, WorkloadId, WorkloadName};
use bulla_sdk::{Client, ConnectOptions, Message, ServiceError};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::LIMIT;
use super::deployment::{Deployment, bulla, spawn};

const RULES: &str = r#"
[subject."billing.quote"]
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
"#;

pub(crate) async fn good(dir: &Path, words: &[&str]) -> String {
    let (code, text) = bulla(dir, words).await;
    assert_eq!(code, 0, "{words:?}: {text}");
    text
}

pub(crate) async fn two_workloads(dir: &Path) {
    two_workloads_by(dir, RULES).await;
}

pub(crate) async fn two_workloads_by(dir: &Path, rules: &str) {
    for name in ["orders", "billing"] {
        let key = format!("keys/{name}.nk");
        let words = [
            "identity",
            "new",
            name,
            "--out",
            &key,
            "--policy",
            "policy.toml",
        ];
        good(dir, &words).await;
    }
    let policy = std::fs::read_to_string(dir.join("policy.toml")).unwrap();
    std::fs::write(dir.join("policy.toml"), policy + rules).unwrap();
    let words = [
        "policy",
        "apply",
        "--dir",
        ".",
        "policy.toml",
        "--yes",
        "-m",
        "two",
    ];
    good(dir, &words).await;
}

pub(crate) async fn client(dir: &Path, port: u16, name: &str) -> Client {
    let domain = TrustDomain::parse("acme.example").unwrap();
    let id = WorkloadId::new(&domain, &WorkloadName::parse(name).unwrap());
    let seed = dir.join(format!("keys/{name}.nk"));
    let url = format!("tls://127.0.0.1:{port}");
    let options = ConnectOptions::new(url, id, seed, dir.join("trust/root.pub"));
    let options = options.tls_ca_file(dir.join("tls/ca.pem"));
    Client::connect(options).await.unwrap()
}

async fn talk(dir: &Path, port: u16) {
    let (orders, billing) = (
        client(dir, port, "orders").await,
        client(dir, port, "billing").await,
    );
    let double = async |m: Message<u64>| Ok::<_, ServiceError>(m.into_payload() * 2);
    let _service = billing.serve("billing.quote", double).await.unwrap();
    let answer = orders.request::<_, u64>("billing.quote", &6_u64).await;
    assert_eq!(answer.unwrap(), 12);
}

pub(crate) async fn sound(dir: &Path) {
    let (code, text) = bulla(dir, &["doctor", "--dir", ".", "--strict", "--json"]).await;
    let found: Value = serde_json::from_str(&text).unwrap();
    let ill = found["findings"].as_array().unwrap().iter();
    let ill: Vec<_> = ill.filter(|f| f["verdict"] != "sound").collect();
    assert_eq!((code, ill.len()), (0, 0), "{ill:#?}");
}

#[tokio::test]
async fn a_deployment_in_operator_mode_is_sound_and_two_services_talk() {
    let mut deployment = Deployment::start_as(&["--operator", "--pushed"]).await;
    let dir = deployment.dir().to_owned();
    two_workloads(&dir).await;
    talk(&dir, deployment.port).await;
    sound(&dir).await;
    good(&dir, &["broker", "init", "--dir", ".", "--check"]).await;

    // Another stream: what it stores is pushed, and nobody is disconnected.
    let policy = std::fs::read_to_string(dir.join("policy.toml")).unwrap();
    let stream = "[stream.BILLS]\nsubjects = [\"bills.{id}\"]\n\
                  [subject.\"bills.{id}\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n\
                  [[allow]]\nid = \"billing-files\"\nwho = [\"billing\"]\nmay = [\"append\"]\non = [\"bills.{id}\"]\n";
    std::fs::write(dir.join("policy.toml"), policy + stream).unwrap();
    let (code, text) = bulla(&dir, &["broker", "init", "--dir", ".", "--check"]).await;
    assert_eq!(code, 1, "{text}");
    for file in ["JS.jwt", "APP.jwt", "nats-server.conf"] {
        assert!(text.contains(file), "{file}: {text}");
    }
    assert!(
        !text.contains("AUTH.jwt"),
        "what has not changed stays: {text}"
    );
    let billing = client(&dir, deployment.port, "billing").await;
    let words = [
        "policy",
        "apply",
        "--dir",
        ".",
        "policy.toml",
        "--yes",
        "-m",
        "bills",
    ];
    good(&dir, &words).await;
    good(&dir, &["broker", "init", "--dir", ".", "--update"]).await;
    good(&dir, &["broker", "push", "--dir", "."]).await;
    let deadline = Instant::now() + LIMIT;
    loop {
        match billing.append("bills.1", "12").await {
            Ok(_) => break,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        sleep(std::time::Duration::from_millis(100)).await;
    }

    // The key that signs the callout's answers, while everything runs.
    let (old, key) = (dir.join("keys/callout-old.nk"), dir.join("keys/callout.nk"));
    std::fs::rename(&key, &old).unwrap();
    good(
        &dir,
        &["broker", "key", "issuer", "--out", "keys/callout.nk"],
    )
    .await;
    good(&dir, &["broker", "init", "--dir", ".", "--update"]).await;
    good(&dir, &["broker", "push", "--dir", "."]).await;
    drop(deployment.broker.stdin.take());
    deployment.broker.wait().await.unwrap();
    deployment.broker = Deployment::spawn_broker(&dir);
    deployment.until_up().await;
    talk(&dir, deployment.port).await;
    // Asked about anew under the new key; then the old one can go.
    assert!(billing.is_connected());
    std::fs::remove_file(&old).unwrap();
    good(&dir, &["broker", "init", "--dir", ".", "--update"]).await;

    // The key that signs accounts for the operator. Those that the old one signed are what
    // nodes have when they start, and count until the new ones are pushed.
    let key = dir.join("nats/operator-signing.nk");
    let old = dir.join("nats/operator-signing-old.nk");
    std::fs::rename(&key, &old).unwrap();
    let words = [
        "broker",
        "key",
        "operator",
        "--out",
        "nats/operator-signing.nk",
    ];
    good(&dir, &words).await;
    good(&dir, &["broker", "init", "--dir", ".", "--update"]).await;
    // Its node does not trust that key yet: it stores what is pushed, says that all is well,
    // and goes by what it had. That is told.
    let (code, text) = bulla(&dir, &["broker", "push", "--dir", "."]).await;
    assert!(code == 1 && text.contains("not taken by n1"), "{text}");
    talk(&dir, deployment.port).await;
    deployment.restart().await;
    deployment.until_up().await;
    talk(&dir, deployment.port).await;
    good(&dir, &["broker", "push", "--dir", "."]).await;
    std::fs::remove_file(&old).unwrap();
    good(&dir, &["broker", "init", "--dir", ".", "--update"]).await;
    deployment.restart().await;
    deployment.until_up().await;
    talk(&dir, deployment.port).await;
    sound(&dir).await;
}

/// What the operator of nats-servers that are there already has to do.
#[tokio::test]
async fn an_operator_that_is_there_already_takes_the_accounts_under_his_name() {
    // His servers, with nothing of ours: what `--operator` makes stands for it.
    let other = Deployment::start_as(&["--operator", "--pushed"]).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let at = |name: &str| other.dir().join(name).display().to_string();
    let port = other.port.to_string();
    let init = [
        "broker",
        "init",
        "--dir",
        ".",
        "--domain",
        "acme.example",
        "--port",
        &port,
        "--operator-seed",
        &at("nats/operator-signing.nk"),
        "--system-creds",
        &at("keys/broker-sys.nk"),
        "--tls-ca",
        &at("tls/ca.pem"),
    ];
    let text = good(dir, &init).await;
    assert!(text.contains("bulla broker push"), "{text}");
    for absent in [
        "nats-server.conf",
        "nats/operator.nk",
        "tls/ca.key",
        "keys/broker-sys.nk",
    ] {
        assert!(!dir.join(absent).exists(), "{absent}");
    }
    // The server learns the accounts while it runs, and the sentinel by a reload.
    let conf = std::fs::read_to_string(other.dir().join("nats-server.conf")).unwrap();
    let settings = std::fs::read_to_string(dir.join("nats/settings.conf")).unwrap();
    let sentinel = settings
        .lines()
        .find(|line| line.starts_with("default_sentinel"));
    let kept = conf
        .lines()
        .filter(|line| !line.starts_with("default_sentinel"));
    let kept: Vec<_> = kept.chain(sentinel).collect();
    std::fs::write(other.dir().join("nats-server.conf"), kept.join("\n")).unwrap();
    let text = good(dir, &["broker", "push", "--dir", ".", "--json"]).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["accounts"].as_array().unwrap().len(), 3, "{text}");
    let pid = other.server.id().unwrap().to_string();
    let reload = Command::new("kill").args(["-HUP", &pid]).status().await;
    assert!(reload.unwrap().success());
    let words = ["broker", "--config", "broker.toml", "--until-stdin-closes"];
    let _broker = spawn(Path::new(super::BULLA), &words, dir, "broker.log");
    let deadline = Instant::now() + LIMIT;
    while bulla(dir, &["policy", "status", "--dir", "."]).await.0 != 0 {
        let log = std::fs::read_to_string(dir.join("broker.log")).unwrap();
        assert!(Instant::now() < deadline, "{log}");
        sleep(std::time::Duration::from_millis(200)).await;
    }
    std::fs::create_dir(dir.join("tls")).ok();
    std::fs::copy(other.dir().join("tls/ca.pem"), dir.join("tls/ca.pem")).unwrap();
    two_workloads(dir).await;
    talk(dir, other.port).await;
    let words = [
        "doctor",
        "--dir",
        ".",
        "--sys-seed-file",
        &at("keys/broker-sys.nk"),
        "--strict",
    ];
    good(dir, &words).await;
}
