//! Envoy, nginx and wrk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::issuer::{AUDIENCE, Issuer};
use super::running::{Running, command, free_port};
use super::{ASKED_FOR, CLIENT, MANY, SERVER};

/// A server that is another program and listens on a port.
struct Peer {
    port: u16,
    _running: Running,
}

impl Peer {
    async fn start(what: &'static str, command: &mut Command, port: u16, dir: TempDir) -> Self {
        let running = Running::start(what, command, dir);
        Self {
            port,
            _running: running.ready(port, None).await,
        }
    }
}

/// Envoy with one worker, which asks for tokens of the issuer.
pub struct Envoy(Peer);

impl Envoy {
    /// It answers itself, or passes on to a service that listens on a port.
    pub async fn start(issuer: &Issuer, service: Option<u16>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let file = dir.path().join("envoy.json");
        fs::write(&file, envoy(issuer, port, service).to_string()).unwrap();
        let mut command = command("envoy", service.is_none().then_some(SERVER));
        command
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "-l",
                "error",
                "-c",
            ])
            .arg(&file);
        Self(Peer::start("envoy", &mut command, port, dir).await)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.0.port)
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }
}

fn envoy(issuer: &Issuer, port: u16, service: Option<u16>) -> Value {
    let socket =
        |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let route = match service {
        None => json!({"match": {"prefix": "/"}, "direct_response":
            {"status": 200, "body": {"inline_string": "{\"user\":\"somebody\"}"}}}),
        Some(_) => json!({"match": {"prefix": "/"}, "route": {"cluster": "service"}}),
    };
    let extension = "type.googleapis.com/envoy.extensions.filters";
    let authn = json!({
        "@type": format!("{extension}.http.jwt_authn.v3.JwtAuthentication"),
        "providers": {"issuer": {
            "issuer": issuer.url, "audiences": [AUDIENCE],
            "local_jwks": {"inline_string": issuer.key_set},
            "jwt_cache_config": {"jwt_cache_size": 2 * MANY, "jwt_max_token_size": 8192},
        }},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
    });
    let router = json!({"@type": format!("{extension}.http.router.v3.Router")});
    let manager = json!({
        "@type": format!("{extension}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "edge",
        "route_config": {"virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.jwt_authn", "typed_config": authn},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    });
    let mut clusters = Vec::new();
    if let Some(port) = service {
        clusters.push(
            json!({"name": "service", "type": "STATIC", "load_assignment": {
            "cluster_name": "service", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": socket(port)}}]}]}}),
        );
    }
    json!({"static_resources": {
        "listeners": [{"address": socket(port), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
        "clusters": clusters,
    }})
}

/// nginx, which answers without looking. One process: a worker of its own would outlive a
/// master that is killed.
pub struct Nginx(Peer);

impl Nginx {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let at = dir.path().display();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr crit;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 100000000;\n\
             client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
             uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
             server {{ listen 127.0.0.1:{port};\n\
             location / {{ default_type application/json; return 200 '{{\"user\":\"somebody\"}}'; }} }} }}\n"
        );
        let file = dir.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = command("/usr/sbin/nginx", Some(SERVER));
        command.args(["-e", "stderr", "-c"]).arg(&file);
        Self(Peer::start("nginx", &mut command, port, dir).await)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.0.port)
    }
}

/// A server that wrk asks, with tokens in turn.
pub struct Asked {
    url: String,
    script: PathBuf,
    tokens: usize,
    _dir: TempDir,
}

/// How much longer than it was told wrk may take.
const WRK_PATIENCE: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Requests in a second.
    pub rate: f64,
    /// In µs.
    pub p50: u64,
    pub p99: u64,
}

const SCRIPT: &str = r#"
local requests, turn = {}, 0
init = function(args)
  local file = TOKENS
  if file == "" then
    requests[1] = wrk.format("GET")
  else
    for token in io.lines(file) do
      requests[#requests + 1] = wrk.format("GET", nil, { authorization = "Bearer " .. token })
    end
  end
end
request = function()
  turn = turn % #requests + 1
  return requests[turn]
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("\nOUTCOME %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"#;

impl Asked {
    pub fn new(url: &str, tokens: Option<&Path>, count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("ask.lua");
        let file = tokens.map_or_else(String::new, |file| file.display().to_string());
        fs::write(&script, SCRIPT.replace("TOKENS", &format!("{file:?}"))).unwrap();
        Self {
            url: url.to_owned(),
            script,
            tokens: count,
            _dir: dir,
        }
    }

    /// Until every token was validated once.
    pub async fn warm(&self) {
        let mut asked = 0.0;
        let until = Instant::now() + Duration::from_secs(60);
        while asked < 2.0 * self.tokens as f64 {
            assert!(Instant::now() < until, "it does not get warm");
            asked += self.ask(Duration::from_secs(1)).await.rate;
        }
    }

    pub async fn measure(&self) -> Outcome {
        self.ask(ASKED_FOR).await
    }

    async fn ask(&self, time: Duration) -> Outcome {
        let mut wrk = command("wrk", Some(CLIENT));
        wrk.args(["-t1", "-c32", "--latency", "-d"])
            .arg(format!("{}s", time.as_secs()))
            .arg("-s")
            .arg(&self.script)
            .arg(&self.url);
        let mut wrk = tokio::process::Command::from(wrk);
        let output = wrk.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(time + WRK_PATIENCE, output).await;
        let output = output.unwrap_or_else(|_| panic!("wrk hangs at {}", self.url));
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("OUTCOME "));
        let line = line.unwrap_or_else(|| panic!("wrk says: {text}"));
        let numbers: Vec<u64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        let [requests, micros, p50, p99, errors] = numbers[..] else {
            panic!("wrk says: {text}");
        };
        assert_eq!(errors, 0, "of {requests} requests to {}", self.url);
        Outcome {
            rate: requests as f64 * 1e6 / micros as f64,
            p50,
            p99,
        }
    }
}
