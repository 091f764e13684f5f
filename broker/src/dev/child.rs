//! Children of `bulla dev`: this same program with other arguments.
//!
//! A child logs JSON lines on stdout; its lines go to a log file, its decisions
//! and its troubles to the screen. It stops when its standard input ends, so
//! it cannot outlive us.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bulla_process::{READY_TARGET, Readiness};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::screen::Screen;

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    pid: u32,
    pipe: Option<ChildStdin>,
    child: Child,
    readers: Vec<JoinHandle<()>>,
    ready: Readiness,
    log_file: PathBuf,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    /// Starts `bulla` with these arguments.
    pub(super) fn spawn(
        name: &'static str,
        arguments: impl IntoIterator<Item = OsString>,
        log_dir: &Path,
        screen: &Screen,
    ) -> Result<Self, ChildError> {
        let failed = |source| ChildError::Spawn { name, source };
        let log_file = log_dir.join(format!("{name}.log"));
        let log = Arc::new(Mutex::new(File::create(&log_file).map_err(failed)?));
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C on the terminal is for us alone: we stop them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let ready = Readiness::new();
        let sink = LineSink {
            name,
            log,
            last_lines: Arc::clone(&last_lines),
            ready: ready.clone(),
            screen: screen.clone(),
        };
        let readers = [
            child
                .stdout
                .take()
                .map(|out| tokio::spawn(read_lines(out, sink.clone()))),
            child
                .stderr
                .take()
                .map(|err| tokio::spawn(read_lines(err, sink))),
        ];
        Ok(Self {
            name,
            pid: child.id().unwrap_or_default(),
            pipe: child.stdin.take(),
            child,
            readers: readers.into_iter().flatten().collect(),
            ready,
            log_file,
            last_lines,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns when the child says that it is ready.
    pub(super) async fn ready(&mut self) -> Result<(), ChildError> {
        let ready = self.ready.clone();
        tokio::select! {
            biased;
            () = ready.ready() => Ok(()),
            error = self.exited() => Err(error),
            () = tokio::time::sleep(READY_LIMIT) => Err(ChildError::NotReady {
                name: self.name,
                seconds: READY_LIMIT.as_secs(),
                last_lines: self.last_lines(),
                log_file: self.log_file.clone(),
            }),
        }
    }

    /// Returns when the child has ended, with its last words.
    pub(super) async fn exited(&mut self) -> ChildError {
        let status = match self.child.wait().await {
            Ok(status) => status,
            Err(source) => {
                return ChildError::Spawn {
                    name: self.name,
                    source,
                };
            }
        };
        // What it said last is still in the pipe.
        for reader in &mut self.readers {
            let _ = timeout(Duration::from_secs(1), reader).await;
        }
        self.readers.clear();
        ChildError::Died {
            name: self.name,
            status,
            last_lines: self.last_lines(),
            log_file: self.log_file.clone(),
        }
    }

    /// Stops the child in good order, after a while by force.
    pub(super) async fn stop(mut self) {
        drop(self.pipe.take());
        self.signal(Signal::TERM);
        if timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    fn signal(&self, signal: Signal) {
        // `id` is none once the child was waited for.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn last_lines(&self) -> String {
        let lines = self.last_lines.lock();
        lines
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Where the lines of one child go.
#[derive(Clone)]
struct LineSink {
    name: &'static str,
    log: Arc<Mutex<File>>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    ready: Readiness,
    screen: Screen,
}

impl LineSink {
    fn take(&self, line: &str) {
        // A full disk must not stop the instance.
        let _ = writeln!(self.log.lock(), "{line}");
        let event = serde_json::from_str::<Value>(line).ok();
        let target = event
            .as_ref()
            .and_then(|event| event.get("target")?.as_str());
        if target == Some(READY_TARGET) {
            self.ready.set_ready(self.name);
            return;
        }
        match &event {
            Some(event) => self.screen.event(self.name, event),
            None => self.screen.raw(self.name, line),
        }
        if target != Some(crate::decision::TARGET) {
            let mut last = self.last_lines.lock();
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(event.as_ref().map_or_else(|| line.to_owned(), plain));
        }
    }
}

/// One log event as a person reads it.
pub(super) fn plain(event: &Value) -> String {
    let text = |key| event.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut line = format!("{} {}", text("level"), text("message"));
    for (key, value) in event.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "timestamp" | "level" | "message" | "target") {
            continue;
        }
        match value {
            Value::String(value) => line.push_str(&format!(" {key}={value}")),
            value => line.push_str(&format!(" {key}={value}")),
        }
    }
    line
}

/// Lines are capped, so that a child gone wild cannot fill our memory.
async fn read_lines(from: impl AsyncRead + Unpin, sink: LineSink) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        let room = MAX_LINE.saturating_sub(line.len());
        let (used, ended) = match from.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let text = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
                line.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
                (end.map_or(bytes.len(), |end| end + 1), end.is_some())
            }
        };
        from.consume(used);
        if ended {
            sink.take(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    if !line.is_empty() {
        sink.take(&String::from_utf8_lossy(&line));
    }
}

/// Why a child is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// It could not be started or waited for.
    #[error("cannot run `{name}`")]
    Spawn {
        /// Which one.
        name: &'static str,
        /// The reason.
        source: std::io::Error,
    },
    /// It ended by itself.
    #[error("`{name}` ended with {status}; its last lines (all of them in `{}`):\n{last_lines}", log_file.display())]
    Died {
        /// Which one.
        name: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        last_lines: String,
        /// Its whole log.
        log_file: PathBuf,
    },
    /// It runs but did not become ready.
    #[error("`{name}` was not ready after {seconds} s; its last lines (all of them in `{}`):\n{last_lines}", log_file.display())]
    NotReady {
        /// Which one.
        name: &'static str,
        /// The limit.
        seconds: u64,
        /// Its last words.
        last_lines: String,
        /// Its whole log.
        log_file: PathBuf,
    },
}

const READY_LIMIT: Duration = Duration::from_secs(30);

const STOP_LIMIT: Duration = Duration::from_secs(8);

const MAX_LINE: usize = 64 * 1024;

const LAST_LINES: usize = 8;
