//! Where the nats-server binary comes from.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::install::{self, InstallError};

/// A release number of nats-server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// Reads what `nats-server --version` prints: `nats-server: v2.15.1`.
    fn from_output(output: &str) -> Option<Self> {
        let (_, text) = output.trim().rsplit_once('v')?;
        let text = text.split(['-', '+']).next()?;
        let mut parts = text.split('.').map(str::parse::<u32>);
        let version = Self {
            major: parts.next()?.ok()?,
            minor: parts.next()?.ok()?,
            patch: parts.next()?.ok()?,
        };
        parts.next().is_none().then_some(version)
    }
}

/// Whether the binary runs and is recent enough.
pub(super) async fn is_sound(path: &Path) -> bool {
    check(path).await.is_ok()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

pub(super) async fn locate(
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(PathBuf, Version), BinaryError> {
    if let Some(path) = std::env::var_os(SERVER_VARIABLE).filter(|value| !value.is_empty()) {
        // The operator's own words: nothing else is tried behind his back.
        let path = PathBuf::from(path);
        let version = check(&path).await?;
        return Ok((path, version));
    }
    for path in on_path(std::env::var_os("PATH").as_deref()) {
        match check(&path).await {
            Ok(version) => return Ok((path, version)),
            Err(error) => progress(&format!("{error}; looking further")),
        }
    }
    let cached = install::cached_binary()?;
    if cached.exists() {
        match check(&cached).await {
            Ok(version) => return Ok((cached, version)),
            Err(error) => progress(&format!("{error}; installing it anew")),
        }
    }
    let installed = install::install(progress).await?;
    let version = check(&installed).await?;
    Ok((installed, version))
}

/// Every executable file named `nats-server` on the search path.
fn on_path(path: Option<&OsStr>) -> Vec<PathBuf> {
    path.map(std::env::split_paths)
        .into_iter()
        .flatten()
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("nats-server"))
        .filter(|candidate| is_executable(candidate))
        .collect()
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The binary's version, if it runs and is recent enough.
async fn check(path: &Path) -> Result<Version, BinaryError> {
    if !path.exists() {
        return Err(BinaryError::Missing {
            path: path.to_owned(),
        });
    }
    if !is_executable(path) {
        return Err(BinaryError::NotExecutable {
            path: path.to_owned(),
        });
    }
    let output = timeout(VERSION_LIMIT, run_version(path))
        .await
        .map_err(|_| BinaryError::NotNatsServer {
            path: path.to_owned(),
        })?
        .map_err(|source| BinaryError::DoesNotRun {
            path: path.to_owned(),
            source,
        })?;
    let found = Version::from_output(&output).ok_or_else(|| BinaryError::NotNatsServer {
        path: path.to_owned(),
    })?;
    if found < MINIMUM_VERSION {
        return Err(BinaryError::TooOld {
            path: path.to_owned(),
            found,
        });
    }
    Ok(found)
}

async fn run_version(path: &Path) -> Result<String, std::io::Error> {
    loop {
        let output = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        match output {
            Ok(output) => return Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            // Just written by a process that is still being forked from.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Why no nats-server binary is at hand.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// The variable names a file that is not there.
    #[error("the nats-server `{}` does not exist: correct or unset BULLA_NATS_SERVER", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Not marked executable.
    #[error("the nats-server `{}` is not an executable file: run `chmod +x` on it, or correct or unset BULLA_NATS_SERVER", path.display())]
    NotExecutable {
        /// The path.
        path: PathBuf,
    },
    /// Not a program of this machine.
    #[error("the nats-server `{}` does not run on this machine: correct or unset BULLA_NATS_SERVER", path.display())]
    DoesNotRun {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Its version cannot be read.
    #[error("`{} --version` does not answer like nats-server: correct or unset BULLA_NATS_SERVER", path.display())]
    NotNatsServer {
        /// The path.
        path: PathBuf,
    },
    /// Below the floor for security fixes.
    #[error(
        "the nats-server `{}` is version {found}, which is too old: version {MINIMUM_VERSION} or later is needed; upgrade it, or name another one in BULLA_NATS_SERVER",
        path.display()
    )]
    TooOld {
        /// The path.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// None was found and none could be installed.
    #[error(transparent)]
    Install(#[from] InstallError),
}

/// Names the binary to use.
pub const SERVER_VARIABLE: &str = "BULLA_NATS_SERVER";

/// The floor for security fixes.
pub const MINIMUM_VERSION: Version = Version {
    major: 2,
    minor: 14,
    patch: 5,
};

const VERSION_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, text: &str, mode: u32) -> PathBuf {
        let path = dir.join("nats-server");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn versions_are_read_and_ordered() {
        let read = |text| Version::from_output(text);
        assert_eq!(read("nats-server: v2.14.5\n"), Some(MINIMUM_VERSION));
        assert!(read("nats-server: v2.15.0-RC.1").unwrap() > MINIMUM_VERSION);
        assert!(read("nats-server: v2.9.99").unwrap() < MINIMUM_VERSION);
        for bad in ["", "v", "nats-server: v2.14", "v2.14.5.6", "v2.x.1"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn unusable_binaries_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let missing = check(&dir.path().join("nothing")).await.unwrap_err();
        assert!(matches!(missing, BinaryError::Missing { .. }), "{missing}");

        let path = script(
            dir.path(),
            "#!/bin/sh\necho 'nats-server: v2.10.0'\n",
            0o755,
        );
        let old = check(&path).await.unwrap_err();
        assert!(matches!(old, BinaryError::TooOld { .. }), "{old}");
        assert!(old.to_string().contains("2.14.5 or later"), "{old}");
        assert!(!old.to_string().contains('\n'), "one sentence");

        let path = script(dir.path(), "#!/bin/sh\necho hello\n", 0o755);
        let other = check(&path).await.unwrap_err();
        assert!(
            matches!(other, BinaryError::NotNatsServer { .. }),
            "{other}"
        );

        let path = script(dir.path(), "", 0o644);
        let plain = check(&path).await.unwrap_err();
        assert!(
            matches!(plain, BinaryError::NotExecutable { .. }),
            "{plain}"
        );

        let path = script(dir.path(), "\u{7f}ELF nonsense", 0o755);
        assert!(check(&path).await.is_err());
    }

    #[test]
    fn only_absolute_directories_of_the_search_path_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "", 0o755);
        let search = std::env::join_paths([Path::new("."), dir.path()]).unwrap();
        assert_eq!(on_path(Some(&search)), [path]);
        assert!(on_path(None).is_empty());
    }
}
