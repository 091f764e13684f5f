//! `bulla audit` on a running `bulla dev`: what an operator asks, and what he finds
//! when somebody has been at the log.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const BULLA: &str = env!("CARGO_BIN_EXE_bulla");
const LIMIT: Duration = Duration::from_secs(60);

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

struct Dev {
    _child: Child,
    dir: tempfile::TempDir,
    instance: Value,
}

impl Dev {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(BULLA);
        command.arg("dev").arg("--dir").arg(dir.path());
        for option in ["--gateway-port", "--nats-port", "--issuer-port"] {
            command.arg(option).arg(free_port().to_string());
        }
        let log = std::fs::File::create(dir.path().join("screen")).unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let end = Instant::now() + LIMIT;
        loop {
            let text = std::fs::read(dir.path().join("dev.json")).unwrap_or_default();
            if let Ok(instance) = serde_json::from_slice(&text) {
                return Self {
                    _child: child,
                    dir,
                    instance,
                };
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            assert!(Instant::now() < end, "it is not ready");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    async fn bulla(&self, words: &[&str]) -> Output {
        let output = Command::new(BULLA)
            .args(words)
            .arg("--dir")
            .arg(self.dir())
            .env_remove("BULLA_NATS_URL")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(LIMIT, output).await.unwrap().unwrap()
    }

    async fn token(&self, scope: &str) -> String {
        let words = ["dev", "token", "--sub", "alice", "--scope", scope];
        let output = self.bulla(&words).await;
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What the gateway answers to an order with this scope.
    async fn order(&self, scope: &str) -> Value {
        let url = format!(
            "{}/v1/orders",
            self.instance["gateway_url"].as_str().unwrap()
        );
        let client = reqwest::Client::new();
        let request = client
            .post(url)
            .bearer_auth(self.token(scope).await)
            .json(&json!({ "item": "clay", "quantity": 1 }));
        let answer = request.send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn js(&self) -> jetstream::Context {
        let seed = std::fs::read_to_string(self.dir().join("keys/broker-js.nk")).unwrap();
        let url = self.instance["nats_url"].as_str().unwrap();
        let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
        jetstream::new(options.connect(url).await.unwrap())
    }

    /// Waits until a command succeeds.
    async fn until(&self, words: &[&str]) -> Output {
        let end = Instant::now() + LIMIT;
        loop {
            let output = self.bulla(words).await;
            if output.status.code() == Some(0) {
                return output;
            }
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(Instant::now() < end, "{words:?}: {text}");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_finds_out_why_and_whether_anybody_was_at_the_log() {
    let dev = Dev::start().await;
    let denied = dev.order("orders:read").await;
    assert!(dev.order("orders:write").await["decision_id"].is_null());
    let id = denied["decision_id"].as_str().unwrap().to_owned();

    // Why?
    let explained = text(&dev.until(&["audit", "explain", &id]).await);
    for part in [
        "denied",
        &id,
        "gateway",
        "orders.create",
        "insufficient_scope",
    ] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    let output = dev.bulla(&["audit", "explain", &id[..8], "--json"]).await;
    let value: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(value["decisions"][0]["decision"]["id"], id);
    assert!(value["decisions"][0]["decision"]["user"]["pseudonym"].is_string());
    let nothing = dev.bulla(&["audit", "explain", "00000000"]).await;
    assert_eq!(nothing.status.code(), Some(1));
    let usage = dev.bulla(&["audit", "explain", "xyz"]).await;
    assert_eq!(usage.status.code(), Some(2));

    // Which?
    let query = [
        "audit",
        "query",
        "--decision",
        "deny",
        "--user",
        "alice",
        "--json",
    ];
    let output = dev.bulla(&query).await;
    let lines = text(&output);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        lines.lines().all(|line| line.starts_with("{\"v\":1,")),
        "{lines}"
    );
    assert!(lines.contains(&id), "{lines}");
    let query = ["audit", "query", "--decision", "deny", "--user", "bob"];
    assert_eq!(dev.bulla(&query).await.status.code(), Some(1));
    let query = [
        "audit",
        "query",
        "--verb",
        "connect",
        "--workload",
        "orders",
    ];
    let shown = text(&dev.bulla(&query).await);
    assert!(
        shown.contains("allow") && shown.contains("callout"),
        "{shown}"
    );

    // What happens now?
    let words = ["audit", "tail", "--decision", "deny", "--limit", "1"];
    let tail = dev.bulla(&words);
    let order = async {
        sleep(Duration::from_millis(800)).await;
        dev.order("nothing").await
    };
    let (tail, order) = tokio::join!(tail, order);
    assert!(text(&tail).contains(order["decision_id"].as_str().unwrap()));

    // Is it whole?
    dev.until(&["audit", "query", "--event", "head", "--json"])
        .await;
    let output = dev.bulla(&["audit", "verify"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("whole"));
    let heads = dev.dir().join("heads.jsonl");
    let log = dev.dir().join("log.jsonl");
    let (heads, log) = (heads.to_str().unwrap(), log.to_str().unwrap());
    std::fs::write(
        heads,
        dev.bulla(&["audit", "export", "--heads"]).await.stdout,
    )
    .unwrap();
    let exported = dev.bulla(&["audit", "export"]).await.stdout;
    std::fs::write(log, &exported).unwrap();
    for more in [&["--head", heads][..], &["--file", log, "--head", heads]] {
        let words = [&["audit", "verify"], more].concat();
        let output = dev.bulla(&words).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    // The file answers the same questions.
    let output = dev.bulla(&["audit", "explain", &id, "--file", log]).await;
    assert_eq!(output.status.code(), Some(0));

    // What would a new policy have decided?
    let policy = std::fs::read_to_string(dev.dir().join("policy.toml")).unwrap();
    let rules = |more: &str, name: &str| {
        let path = dev.dir().join(name);
        std::fs::write(&path, policy.clone() + more).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let same = rules("", "same.toml");
    let output = dev.bulla(&["policy", "replay", &same, "--file", log]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("nothing changes"));
    let closed = rules(
        "\n[[deny]]\nid = \"closed\"\nwho = [\"gateway\"]\nmay = [\"request\"]\non = [\"orders.create\"]\n",
        "closed.toml",
    );
    let words = ["policy", "replay", &closed, "--file", log, "--json"];
    let output = dev.bulla(&words).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let value: Value = serde_json::from_str(&text(&output)).unwrap();
    let change = &value["changes"][0];
    assert_eq!(change["to"], "deny", "{value}");
    assert_eq!(change["rule_before"], "edge-creates-orders");
    assert_eq!(change["rule_now"], "closed");
    assert_eq!(change["reason"], "denied_by_rule");

    // Which grants does nobody use?
    let spare = rules(
        "\n[[allow]]\nid = \"spare\"\nwho = [\"orders\"]\nmay = [\"publish\"]\non = [\"orders.spare\"]\n",
        "spare.toml",
    );
    let words = [
        "policy", "advise", "--policy", &spare, "--file", log, "--json",
    ];
    let output = dev.bulla(&words).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let value: Value = serde_json::from_str(&text(&output)).unwrap();
    let unused = value["unused"].as_array().unwrap();
    let spare = unused.iter().find(|grant| grant["rule"] == "spare");
    let spare = spare.unwrap_or_else(|| panic!("{value}"));
    assert_eq!(spare["workload"], "orders");
    assert_eq!(spare["whole_rule"], true);
    assert_eq!(value["silent_workloads"], json!([]));
    let output = dev
        .bulla(&["policy", "replay", "none.toml", "--file", log])
        .await;
    assert_eq!(output.status.code(), Some(2));

    // An exported file is altered.
    let altered = String::from_utf8(exported).unwrap();
    let altered = altered.replace("insufficient_scope", "insufficient_scopf");
    std::fs::write(log, altered).unwrap();
    let output = dev
        .bulla(&["audit", "verify", "--file", log, "--json"])
        .await;
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(value["ok"], false);
    assert_eq!(value["findings"][0]["code"], "altered");

    // Somebody with every right makes the stream anew without that denial, and
    // without all that came after.
    let js = dev.js().await;
    let mut stream = js.get_stream("BULLA_AUDIT").await.unwrap();
    let info = stream.info().await.unwrap().clone();
    let consumer = stream
        .create_consumer(consumer::pull::OrderedConfig::default())
        .await
        .unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut kept = Vec::new();
    while let Some(Ok(message)) = messages.next().await {
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        kept.push((message.subject.clone(), payload));
        if message.info().unwrap().stream_sequence >= info.state.last_sequence {
            break;
        }
    }
    js.delete_stream("BULLA_AUDIT").await.unwrap();
    js.create_stream(info.config.clone()).await.unwrap();
    let writer = kept
        .iter()
        .find(|(_, payload)| payload.contains(&id))
        .unwrap()
        .0
        .clone();
    for (subject, payload) in kept {
        let lines: Vec<&str> = payload.lines().filter(|line| !line.contains(&id)).collect();
        if !lines.is_empty() {
            let sent = js.publish(subject, lines.join("\n").into()).await.unwrap();
            sent.await.unwrap();
        }
    }
    let output = dev.bulla(&["audit", "verify", "--json"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let value: Value = serde_json::from_str(&text(&output)).unwrap();
    let codes: Vec<_> = value["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| writer.ends_with(f["writer"].as_str().unwrap()))
        .map(|f| f["code"].as_str().unwrap())
        .collect();
    assert!(codes.contains(&"removed"), "{codes:?}");
    assert!(text(&dev.bulla(&["audit", "verify"]).await).contains("removed"));

    // All of it is gone: only heads that were kept tell.
    js.delete_stream("BULLA_AUDIT").await.unwrap();
    js.create_stream(info.config.clone()).await.unwrap();
    let output = dev
        .bulla(&["audit", "verify", "--head", heads, "--json"])
        .await;
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_str(&text(&output)).unwrap();
    let findings = value["findings"].as_array().unwrap();
    assert!(findings.iter().any(|f| f["code"] == "truncated"), "{value}");
}
