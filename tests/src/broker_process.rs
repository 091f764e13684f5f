//! A broker as a process of its own, which can be killed, hung and asked over HTTP.
//!
//! The process is the test's program once more: its binary has a test named
//! [`TEST`] that calls [`broker_process`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bulla_broker::BrokerConfig;
use bulla_broker::callout::Group;
use bulla_broker::provision::Provision;
use bulla_process::{LogFormat, READY_TARGET, Readiness};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Bus;

/// How the test is called that is such a process.
pub const TEST: &str = "broker_process";

/// Runs a broker if this process was started to be one: what [`TEST`] does.
pub fn broker_process() {
    let Some(config) = std::env::var_os(VARIABLE) else {
        return;
    };
    let traces = bulla_process::init_tracing_with_traces(LogFormat::Json, "bulla-broker");
    let traces = traces.expect("the first subscriber");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ended = runtime.block_on(async move {
        let stop = bulla_process::shutdown_signal(true).expect("signal handlers");
        let config = BrokerConfig::load(&PathBuf::from(config)).expect("a sound configuration");
        Box::pin(bulla_broker::run(config, Readiness::new(), stop)).await
    });
    traces.finish();
    if let Err(error) = ended {
        eprintln!("{error}");
        std::process::exit(2);
    }
    std::process::exit(0);
}

/// A running broker. Dropping it kills the process.
#[derive(Debug)]
pub struct BrokerProcess {
    child: Child,
    seen: watch::Receiver<Seen>,
}

/// What its log has said.
#[derive(Debug, Clone, Default)]
struct Seen {
    admin: Option<SocketAddr>,
    is_ready: bool,
    lines: Arc<Vec<String>>,
}

impl BrokerProcess {
    /// Starts one and waits until it is ready.
    pub async fn start(bus: &Bus, group: Group) -> Self {
        let broker = Self::spawn(bus, group).await;
        broker.ready(LIMIT).await;
        broker
    }

    /// The same with more in its environment.
    pub async fn start_with(bus: &Bus, group: Group, variables: &[(&str, &str)]) -> Self {
        let provision = bus.provision();
        let broker = Self::spawn_with(provision, "broker", group, "", variables).await;
        broker.ready(LIMIT).await;
        broker
    }

    /// Starts one and waits until its admin listener listens.
    pub async fn spawn(bus: &Bus, group: Group) -> Self {
        Self::spawn_in(bus.provision(), "broker", group, "").await
    }

    /// The same by the `broker.toml` of this directory, and `more` of it.
    pub async fn spawn_in(provision: &Provision, name: &str, group: Group, more: &str) -> Self {
        Self::spawn_with(provision, name, group, more, &[]).await
    }

    async fn spawn_with(
        provision: &Provision,
        name: &str,
        group: Group,
        more: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let group = match group {
            Group::A => "a",
            Group::B => "b",
            Group::Both => "both",
        };
        let text = std::fs::read_to_string(provision.path("broker.toml"))
            .expect("a broker configuration")
            .replace("group = \"both\"", &format!("group = \"{group}\""));
        let text = format!("{text}\n[admin]\naddress = \"127.0.0.1:0\"\n{more}");
        let file = provision.path(&format!("{name}-{group}.toml"));
        std::fs::write(&file, text).expect("a writable directory");
        // A measurement wants the program as it is built for use.
        let mut command = match std::env::var_os(PROGRAM) {
            Some(bulla) => {
                let mut command = Command::new(bulla);
                command.args([
                    "broker",
                    "--until-stdin-closes",
                    "--log",
                    "json",
                    "--config",
                ]);
                command.arg(&file);
                command
            }
            None => {
                let mut command = Command::new(std::env::current_exe().expect("this program"));
                command.args([TEST, "--exact", "--nocapture"]);
                command
            }
        };
        let mut child = command
            .env(VARIABLE, &file)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a process");
        let output = child.stdout.take().expect("its output");
        let (told, seen) = watch::channel(Seen::default());
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                told.send_modify(|seen| seen.read(&line));
            }
        });
        let broker = Self { child, seen };
        broker.until(LIMIT, |seen| seen.admin.is_some()).await;
        broker
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self, limit: Duration) {
        self.until(limit, |seen| seen.is_ready).await;
    }

    /// Waits until its log holds this.
    pub async fn says(&self, text: &str, limit: Duration) {
        let says = |seen: &Seen| seen.lines.iter().any(|line| line.contains(text));
        self.until(limit, says).await;
    }

    async fn until(&self, limit: Duration, holds: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.clone();
        let waited = timeout(limit, seen.wait_for(holds)).await;
        if !matches!(waited, Ok(Ok(_))) {
            panic!(
                "the broker has not come so far: {:#?}",
                self.seen.borrow().lines
            );
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("a process that runs");
        rustix::process::kill_process(pid, signal).expect("a process of ours");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(LIMIT, self.child.wait()).await;
        ended.expect("a broker that ends").expect("a child of ours")
    }

    /// Status and body of a path of the admin listener.
    pub async fn ask(&self, path: &str) -> (u16, String) {
        let address = self.seen.borrow().admin.expect("an admin listener");
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let mut text = String::new();
        timeout(LIMIT, stream.read_to_string(&mut text))
            .await
            .expect("it answers")
            .expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    /// Its metrics as text.
    pub async fn scrape(&self) -> String {
        let (status, text) = self.ask("/metrics").await;
        assert_eq!(status, 200, "{text}");
        text
    }

    /// The sum of all series of this metric that hold these labels.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.scrape().await;
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
                && labels.iter().all(|label| line.contains(label))
        });
        series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Seen {
    fn read(&mut self, line: &str) {
        Arc::make_mut(&mut self.lines).push(line.to_owned());
        // What the test harness prints stands before the first.
        let json = line.find('{').and_then(|start| line.get(start..));
        let Some(Ok(event)) = json.map(serde_json::from_str::<Value>) else {
            return;
        };
        if event["message"] == "the admin listener listens" {
            self.admin = event["address"].as_str().and_then(|a| a.parse().ok());
        }
        self.is_ready |= event["target"] == READY_TARGET;
    }
}

/// Names the configuration of a process that is to be a broker.
const VARIABLE: &str = "BULLA_TEST_BROKER_CONFIG";

/// Names a `bulla` to run in the place of this program.
const PROGRAM: &str = "BULLA_TEST_BROKER";

const LIMIT: Duration = Duration::from_secs(30);
