//! A deployment that is to last, from `bulla broker init` on: a real nats-server with
//! TLS, a broker, the operator's commands, and what the runbook says of them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bulla_broker::engine::Engine;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::{BULLA, LIMIT};

/// A port that is free, with those that follow from it.
fn port() -> u16 {
    for _ in 0..64 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if port < 61_000 && is_free(port + 2_000) && is_free(port + 4_000) {
            return port;
        }
    }
    panic!("no port is free");
}

pub(crate) struct Deployment {
    home: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) server: Child,
    pub(crate) broker: Child,
}

pub(crate) async fn bulla(dir: &Path, words: &[&str]) -> (i32, String) {
    let output = Command::new(BULLA)
        .args(words)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

pub(crate) fn spawn(program: &Path, words: &[&str], dir: &Path, log: &str) -> Child {
    let log = std::fs::File::create(dir.join(log)).unwrap();
    Command::new(program)
        .args(words)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

impl Deployment {
    pub(crate) async fn start() -> Self {
        Self::start_as(&[]).await
    }

    pub(crate) async fn start_as(more: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let port = port();
        let init = ["broker", "init", "--dir", ".", "--domain", "acme.example"];
        let init = [&init[..], more].concat();
        let at = port.to_string();
        let (code, text) = bulla(home.path(), &[&init[..], &["--port", &at]].concat()).await;
        assert_eq!(code, 0, "{text}");
        let engine = Engine::locate(&|_| {}).await.unwrap();
        let conf = ["--config", "nats-server.conf"];
        let server = spawn(engine.binary(), &conf, home.path(), "server.log");
        let broker = Self::spawn_broker(home.path());
        let this = Self {
            home,
            port,
            server,
            broker,
        };
        this.until_up().await;
        this
    }

    /// nats-server and the broker begin anew, as an init system has them do.
    pub(crate) async fn restart(&mut self) {
        self.server.kill().await.unwrap();
        let engine = Engine::locate(&|_| {}).await.unwrap();
        let conf = ["--config", "nats-server.conf"];
        self.server = spawn(engine.binary(), &conf, self.home.path(), "server.log");
        drop(self.broker.stdin.take());
        self.broker.wait().await.unwrap();
        self.broker = Self::spawn_broker(self.home.path());
        self.until_up().await;
    }

    pub(crate) fn spawn_broker(dir: &Path) -> Child {
        let words = ["broker", "--config", "broker.toml", "--until-stdin-closes"];
        spawn(Path::new(BULLA), &words, dir, "broker.log")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir().join(name)).unwrap_or_default()
    }

    pub(crate) async fn until_up(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let (code, text) = bulla(self.dir(), &["policy", "status", "--dir", "."]).await;
            if code == 0 && text.contains("broker") {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{text}\n{}\n{}",
                self.log("broker.log"),
                self.log("server.log")
            );
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files_below(&path));
        } else {
            out.push(path);
        }
    }
    out
}

#[tokio::test]
async fn what_broker_init_writes_is_private_and_never_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let init = [
        "broker",
        "init",
        "--dir",
        "bus",
        "--domain",
        "acme.example",
        "--nodes",
        "3",
        "--brokers",
        "2",
    ];
    let (code, text) = bulla(dir, &init).await;
    assert_eq!(code, 0, "{text}");
    for path in files_below(&dir.join("bus")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".nk") || name.ends_with(".key") {
            use std::os::unix::fs::MetadataExt as _;
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600, "{name}");
        }
    }
    let read = |name: &str| std::fs::read_to_string(dir.join("bus").join(name)).unwrap();
    let conf = read("n2/nats-server.conf");
    for part in [
        "max_control_line: 32KB",
        "xkey: \"X",
        "http: \"127.0.0.1:8223\"",
        "min_version: \"1.3\"",
        "ping_interval: \"1s\"",
        "nats-route://127.0.0.1:6224",
        "allowed_accounts: [ APP ]",
    ] {
        assert!(conf.contains(part), "{part}: {conf}");
    }
    for absent in ["mqtt {", "websocket {", "no_auth_user", "leafnodes"] {
        assert!(!conf.contains(absent), "{absent}");
    }
    assert!(read("broker.toml").contains("group = \"a\""));
    assert!(read("broker-b.toml").contains("group = \"b\""));
    // nats-server itself takes each of them.
    let engine = Engine::locate(&|_| {}).await.unwrap();
    for node in ["n1", "n2", "n3"] {
        let conf = dir.join("bus").join(node).join("nats-server.conf");
        let tested = Command::new(engine.binary())
            .arg("-t")
            .arg("--config")
            .arg(&conf)
            .output()
            .await
            .unwrap();
        assert!(tested.status.success(), "{tested:?}");
    }

    let check = ["broker", "init", "--dir", "bus", "--check"];
    let (code, text) = bulla(dir, &check).await;
    assert_eq!(code, 0, "{text}");
    let before = read("n1/nats-server.conf");
    let (code, text) = bulla(dir, &init).await;
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("nothing is overwritten"), "{text}");
    assert_eq!(read("n1/nats-server.conf"), before);

    // What was changed by hand is told, and what others can read.
    std::fs::write(
        dir.join("bus/n1/nats-server.conf"),
        before.replace("32KB", "4KB"),
    )
    .unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    let wide = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(dir.join("bus/keys/xkey.nk"), wide).unwrap();
    let (code, text) = bulla(dir, &[&check[..], &["--json"]].concat()).await;
    assert_eq!(code, 2, "a key that others can read is not used: {text}");
    let narrow = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(dir.join("bus/keys/xkey.nk"), narrow).unwrap();
    let wide = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(dir.join("bus/tls/n1.key"), wide).unwrap();
    let (code, text) = bulla(dir, &[&check[..], &["--json"]].concat()).await;
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 1, "{text}");
    assert_eq!(found["problems"].as_array().unwrap().len(), 2, "{text}");
    let (_, text) = bulla(
        dir,
        &[
            "broker",
            "init",
            "--dir",
            "bus",
            "--print",
            "n1/nats-server.conf",
        ],
    )
    .await;
    assert_eq!(text, before);
}

/// Every `sh` block of the runbook is run, in its order, on a deployment that
/// `bulla broker init` made.
#[tokio::test]
async fn the_runbook_is_what_happens() {
    let mut deployment = Deployment::start().await;
    let dir = deployment.dir().to_owned();
    let runbook = include_str!("../../RUNBOOK.md");
    let bin = Path::new(BULLA).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut preamble = String::new();
    let mut ran = 0;
    let mut rest = runbook;
    while let Some((_, after)) = rest.split_once("```sh\n") {
        let (block, after) = after.split_once("```").unwrap();
        rest = after;
        if block.starts_with("export ") {
            preamble.push_str(block);
            continue;
        }
        // nats-server is told of other keys.
        if block.starts_with("bulla broker init --dir . --check") {
            deployment.restart().await;
        }
        // The broker comes back between two blocks, as it may at any time.
        if block.starts_with("bulla policy status") {
            // In good order, as an init system stops it.
            drop(deployment.broker.stdin.take());
            deployment.broker.wait().await.unwrap();
            deployment.broker = Deployment::spawn_broker(&dir);
            deployment.until_up().await;
        }
        for line in block.lines().filter(|line| !line.trim().is_empty()) {
            let output = Command::new("sh")
                .arg("-ec")
                .arg(format!("{preamble}{line}"))
                .env("PATH", &path)
                .env("BROKER_PID", deployment.broker.id().unwrap().to_string())
                .env("NATS_PID", deployment.server.id().unwrap().to_string())
                .env(
                    "BULLA_NATS_URL",
                    format!("tls://127.0.0.1:{}", deployment.port),
                )
                .current_dir(&dir)
                .stdin(Stdio::null())
                .output()
                .await
                .unwrap();
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            assert!(
                output.status.success(),
                "`{line}`: {text}\n{}",
                deployment.log("broker.log")
            );
            ran += 1;
        }
    }
    assert!(ran > 40, "{ran}");
}

/// A used, an expired and a foreign invitation are refused, each with its own reason;
/// who has seen one on its way can do nothing with it.
#[tokio::test]
async fn an_invitation_is_good_once_and_for_a_while() {
    let deployment = Deployment::start().await;
    let dir = deployment.dir();
    let url = format!("tls://127.0.0.1:{}", deployment.port);
    let join = async |invitation: &str, out: &str| {
        let to = ["--nats-url", &url, "--tls-ca-file", "tls/ca.pem"];
        bulla(
            dir,
            &[&["identity", "join", invitation, "--out", out][..], &to].concat(),
        )
        .await
    };
    let invite = async |out: &str, life: &str| {
        let words = [
            "identity", "invite", "orders", "--dir", ".", "--out", out, "--for", life,
        ];
        let (code, text) = bulla(dir, &words).await;
        assert_eq!(code, 0, "{text}");
    };
    let refused = async |invitation: &str, reason: &str| {
        let (code, text) = join(invitation, "never.nk").await;
        assert_eq!(code, 2, "{text}");
        assert!(!dir.join("never.nk").exists());
        // The reason is in the audit log, and told to nobody else.
        assert!(!text.contains(reason), "{text}");
        let query = ["audit", "query", "--since", "10m", "--json", "--dir", "."];
        let deadline = Instant::now() + LIMIT;
        loop {
            let (_, entries) = bulla(dir, &query).await;
            if entries.contains(reason) {
                return;
            }
            assert!(Instant::now() < deadline, "{reason}: {text}\n{entries}");
            sleep(Duration::from_millis(300)).await;
        }
    };
    invite("a", "1h").await;
    let (code, text) = join("a", "a.nk").await;
    assert_eq!(code, 0, "{text}\n{}", deployment.log("broker.log"));
    refused("a", "invitation_used").await;

    invite("b", "1s").await;
    sleep(Duration::from_millis(1_500)).await;
    refused("b", "invitation_expired").await;

    invite("c", "1h").await;
    let text = std::fs::read_to_string(dir.join("c")).unwrap();
    let (shown, _) = text.trim_end().split_once('\n').unwrap();
    let secret = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(dir.join(name), text).unwrap();
        let narrow = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(dir.join(name), narrow).unwrap();
    };
    // Seen, but without its key.
    let other = std::fs::read_to_string(dir.join("a.nk")).unwrap();
    secret("seen", &format!("{shown}\n{other}"));
    refused("seen", "invitation_not_held").await;
    // By another policy key, for the same trust domain.
    let elsewhere = Deployment::start().await;
    let words = [
        "identity", "invite", "orders", "--dir", ".", "--out", "foreign",
    ];
    assert_eq!(bulla(elsewhere.dir(), &words).await.0, 0);
    let foreign = std::fs::read_to_string(elsewhere.dir().join("foreign")).unwrap();
    secret("foreign", &foreign);
    refused("foreign", "invitation_foreign").await;

    let collect = [
        "identity",
        "collect",
        "--policy",
        "policy.toml",
        "--dir",
        ".",
        "--json",
    ];
    let (code, text) = bulla(dir, &collect).await;
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, found["added"].as_array().unwrap().len()),
        (0, 1),
        "{text}"
    );
    let nkey = found["added"][0]["nkey"].as_str().unwrap();
    let policy = std::fs::read_to_string(dir.join("policy.toml")).unwrap();
    assert!(policy.contains(nkey), "{policy}");
    let (_, text) = bulla(dir, &collect).await;
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["added"].as_array().unwrap().len(), 0, "{text}");
}
