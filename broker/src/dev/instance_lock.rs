//! One instance to a directory, and none while an earlier one is still dying.
//!
//! Two lock files. `lock` is held by the instance's first process alone.
//! `lock.family` is opened so that every child inherits it, so it stays locked
//! until the last of them has ended, however the first one died.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::FdFlags;
use tokio::time::{Instant, sleep};

/// Held as long as the instance lives.
#[derive(Debug)]
pub(super) struct InstanceLock {
    _first: File,
    _family: File,
}

impl InstanceLock {
    /// Takes the directory, waiting a little for an earlier instance's
    /// children to end. `dead` is called as soon as it is clear that no
    /// instance lives there.
    pub(super) async fn take(dir: &Path, dead: impl FnOnce()) -> Result<Self, LockError> {
        let first = open(&dir.join("lock"))?;
        if !try_lock(&first) {
            return Err(LockError::Running {
                dir: dir.to_owned(),
            });
        }
        dead();
        let family = open(&dir.join("lock.family"))?;
        let deadline = Instant::now() + STRAGGLER_LIMIT;
        while !try_lock(&family) {
            if Instant::now() > deadline {
                return Err(LockError::Stragglers {
                    dir: dir.to_owned(),
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
        rustix::io::fcntl_setfd(&family, FdFlags::empty()).map_err(|source| LockError::File {
            path: dir.join("lock.family"),
            source: source.into(),
        })?;
        Ok(Self {
            _first: first,
            _family: family,
        })
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|source| LockError::File {
            path: path.to_owned(),
            source,
        })
}

fn try_lock(file: &File) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// An instance lives there.
    #[error("`bulla dev` is already running in `{}`: stop it, or use another directory with `--dir`", dir.display())]
    Running {
        /// The directory.
        dir: PathBuf,
    },
    /// Children of a dead instance do not end.
    #[error("processes of an earlier `bulla dev` in `{0}` are still running: end those that `fuser {0}/lock.family` lists, or use another directory with `--dir`", dir.display())]
    Stragglers {
        /// The directory.
        dir: PathBuf,
    },
    /// The lock file cannot be opened.
    #[error("cannot open the lock file `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

/// A child that lost its parent stops within this time.
const STRAGGLER_LIMIT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    // That the children of a dead instance are waited for is tested with real
    // ones, in `tests/dev.rs`: other tests of this process fork too.
    #[tokio::test]
    async fn a_directory_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = InstanceLock::take(dir.path(), || {}).await.unwrap();
        let not_dead = || panic!("it lives");
        let error = InstanceLock::take(dir.path(), not_dead).await.unwrap_err();
        assert!(matches!(error, LockError::Running { .. }), "{error}");
    }
}
