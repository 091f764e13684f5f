//! Other programs, which end with this one, however it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::path::Connection;

/// How long a program may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether there is no such program.
pub fn missing(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = PathBuf::from("/usr/sbin");
    !std::env::split_paths(&path)
        .chain([sbin])
        .any(|dir| dir.join(program).is_file())
}

/// A program on a core, or on any. It is killed when this one is.
pub fn command(program: impl AsRef<OsStr>, core: Option<&str>) -> Command {
    let mut before = Vec::new();
    if !missing("setpriv") {
        before.extend(["setpriv", "--pdeathsig", "KILL"]);
    }
    if let Some(core) = core {
        before.extend(["taskset", "-c", core]);
    }
    let Some((first, rest)) = before.split_first() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// A port that nobody listens on, at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A server that is another program; dropping it ends it.
pub struct Running {
    what: &'static str,
    child: Child,
    said: PathBuf,
    _dir: TempDir,
}

impl Running {
    /// Starts it, with its files in a directory. What it says goes into a file, because a pipe
    /// of ours would stay open for as long as it runs.
    pub fn start(what: &'static str, command: &mut Command, dir: TempDir) -> Self {
        let said = dir.path().join("said");
        let file = File::create(&said).unwrap();
        let child = command
            .stdout(Stdio::from(file.try_clone().unwrap()))
            .stderr(Stdio::from(file))
            .spawn()
            .unwrap_or_else(|error| panic!("{what} cannot be started: {error}"));
        Self {
            what,
            child,
            said,
            _dir: dir,
        }
    }

    /// Waits until it listens on a port, and says 200 if it is asked something.
    ///
    /// # Panics
    /// If it ends before, or takes too long.
    pub async fn ready(mut self, port: u16, request: Option<&[u8]>) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = tokio::time::timeout(Duration::from_secs(2), is_ready(port, request));
            if answer.await == Ok(true) {
                return self;
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let said = read(&self.said);
                let how = ended.map_or("does not get ready".to_owned(), |s| format!("ends, {s}"));
                panic!("{} {how}; it says: {said}", self.what);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

async fn is_ready(port: u16, request: Option<&[u8]>) -> bool {
    match (
        Connection::open(&format!("127.0.0.1:{port}")).await,
        request,
    ) {
        (Ok(mut connection), Some(request)) => matches!(connection.ask(request).await, Ok(200)),
        (opened, _) => opened.is_ok(),
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
