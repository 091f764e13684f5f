//! A directory for one process's secrets: its owner's alone, used by one
//! process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use zeroize::Zeroizing;

use crate::secret_file::{self, SecretFileError};

/// Holds the directory until it is dropped.
#[derive(Debug)]
pub struct PrivateDir {
    path: PathBuf,
    _lock: File,
}

impl PrivateDir {
    /// Opens the directory, or creates it with mode 0700.
    ///
    /// # Errors
    /// If it cannot be used, others can reach it, or another process uses it.
    pub fn open(path: &Path) -> Result<Self, PrivateDirError> {
        let at = |source| PrivateDirError::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(at)?;
        let metadata = std::fs::metadata(path).map_err(at)?;
        let mode = metadata.mode() & 0o777;
        let me = rustix::process::geteuid().as_raw();
        if mode & 0o077 != 0 || metadata.uid() != me {
            return Err(PrivateDirError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(at)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            PrivateDirError::InUse {
                path: path.to_owned(),
            }
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// A secret file in it, or nothing if there is none.
    ///
    /// # Errors
    /// As [`secret_file::read`].
    pub fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, SecretFileError> {
        match secret_file::read(&self.path.join(name)) {
            Err(SecretFileError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// Replaces a secret file in one step: a later process finds the old one or
    /// the new one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn replace(&self, name: &str, secret: &[u8]) -> Result<(), SecretFileError> {
        let part = self.path.join(format!("{name}.part"));
        // Of a process that died while it wrote; this one holds the directory.
        let _ = std::fs::remove_file(&part);
        secret_file::create(&part, secret)?;
        let path = self.path.join(name);
        std::fs::rename(&part, &path).map_err(|source| SecretFileError::Write { path, source })
    }
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateDirError {
    /// The operating system refuses it.
    #[error("cannot use the directory `{}`", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Group or others have access, or it is somebody else's.
    #[error(
        "the directory `{}` has mode {mode:04o} or another owner, so that others can reach it: run `chmod 700 {}` as its owner",
        path.display(), path.display()
    )]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process holds it.
    #[error("the directory `{}` is in use by another process: give each process its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_private_and_one_process_has_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let dir = PrivateDir::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        assert!(matches!(
            PrivateDir::open(&path),
            Err(PrivateDirError::InUse { .. })
        ));
        drop(dir);
        let _again = PrivateDir::open(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(
            PrivateDir::open(&path),
            Err(PrivateDirError::Exposed { mode: 0o750, .. })
        ));
    }

    #[test]
    fn what_is_kept_is_private_and_replaced_in_one_step() {
        let parent = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open(&parent.path().join("state")).unwrap();
        assert!(dir.read("key").unwrap().is_none());
        dir.replace("key", b"first").unwrap();
        std::fs::write(parent.path().join("state/key.part"), "of a dead one").unwrap();
        dir.replace("key", b"second").unwrap();
        assert_eq!(dir.read("key").unwrap().unwrap().as_slice(), b"second");
        let mode = parent.path().join("state/key").metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
