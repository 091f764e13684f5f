//! The edge as a process of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use bulla_gateway::cli::{self, GatewayArgs};
use bulla_tests::{Bus, gateway_file};
use clap::Parser;

use super::issuer::{AUDIENCE, Issuer};
use super::running::{Running, command, free_port};

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
    running: Running,
    port: u16,
}

impl Gateway {
    /// Starts one on a core, or on any, and waits until it is ready.
    pub async fn start(bus: &Bus, issuer: &Issuer, core: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, admin) = (free_port(), free_port());
        let listen = format!("127.0.0.1:{port}");
        let mut config = gateway_file(bus, "gateway", &listen, &issuer.url);
        config.push_str(&format!(
            "[admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [limits]\nconnections_per_address = 4096\nevent_streams = 2000\n"
        ));
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
        let mut command = command(&program, core);
        command.env(VARIABLE, &file).env("BULLA_LOG", "error");
        let running = Running::start("the edge", command.stdin(Stdio::piped()), dir);
        let ready = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n";
        Self {
            running: running.ready(admin, Some(ready)).await,
            port,
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
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        let kilobytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes * 1_024.0 / 1e6
    }
}
