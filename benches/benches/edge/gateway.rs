//! The edge as a process of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bulla_gateway::cli::{self, GatewayArgs};
use bulla_tests::Bus;
use clap::Parser;
use tempfile::TempDir;

use super::issuer::{AUDIENCE, Issuer};
use super::peers::{command, free_port};

/// Names the configuration of an edge that this process has to be.
const VARIABLE: &str = "BULLA_BENCH_EDGE";

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// Runs an edge if this process was started to be one.
pub fn process() {
    let Some(config) = std::env::var_os(VARIABLE) else {
        return;
    };
    let config = PathBuf::from(config);
    let arguments = Arguments::parse_from([
        "edge".into(),
        "--until-stdin-closes".into(),
        "--config".into(),
        config.into_os_string(),
    ]);
    let code = cli::run(&arguments.gateway);
    std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
}

/// A running edge; dropping it ends it.
pub struct Gateway {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Gateway {
    /// Starts one on a core, or on any, and waits until it is ready.
    pub async fn start(bus: &Bus, issuer: &Issuer, core: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, admin) = (free_port(), free_port());
        let config = format!(
            r#"
routes = "routes.toml"
[bus]
url = "{}"
workload = "{}"
seed_file = "{}"
trust_root_file = "{}"
[listen]
address = "127.0.0.1:{port}"
[admin]
address = "127.0.0.1:{admin}"
[limits]
connections_per_address = 4096
event_streams = 2000
[[issuer]]
issuer = "{issuer}"
jwks_url = "{issuer}/jwks.json"
"#,
            bus.nats_url(),
            bus.workload("gateway"),
            bus.seed_file("gateway").display(),
            bus.root_file().display(),
            issuer = issuer.url,
        );
        let routes = format!(
            r#"
[profile.users]
auth = "jwt"
issuer = "{issuer}"
audience = "{AUDIENCE}"

[[route]]
profile = "users"
method = "GET"
path = "/kept"
mode = "request"
subject = "echo.kept"
cache = {{ ttl = "5m" }}

[[route]]
method = "GET"
path = "/open"
mode = "request"
subject = "echo.kept"
auth = "public"
cache = {{ ttl = "5m" }}

[[route]]
profile = "users"
method = "GET"
path = "/path"
mode = "request"
subject = "echo.sealed"

[[route]]
profile = "users"
method = "GET"
path = "/events"
mode = "stream"
subject = "told.often"
"#,
            issuer = issuer.url,
        );
        fs::write(dir.path().join("routes.toml"), routes).unwrap();
        let file = dir.path().join("gateway.toml");
        fs::write(&file, config).unwrap();
        let program = std::env::current_exe().unwrap();
        let child = command(&program, core)
            .env(VARIABLE, &file)
            .env("BULLA_LOG", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let gateway = Self {
            child,
            port,
            _dir: dir,
        };
        let ready = format!("http://127.0.0.1:{admin}/readyz");
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = status_of(&ready).await;
            if answer == Some(200) {
                return gateway;
            }
            assert!(Instant::now() < until, "the edge is not ready: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its memory, in MB.
    pub fn rss(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        let kilobytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes * 1_024.0 / 1e6
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status of an answer, if there is one.
async fn status_of(url: &str) -> Option<u16> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    let mut connection = super::path::Connection::open(host).await.ok()?;
    let request = format!("GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n");
    connection.ask(request.as_bytes()).await.ok()
}
