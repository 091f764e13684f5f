//! Secrets on disk: created for the owner alone, refused if others can read.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Reads a whole secret file. The buffer is wiped when it is dropped.
///
/// # Errors
/// If the file cannot be read, is not a regular file, is larger than
/// [`MAX_SECRET_FILE`], belongs to another user than the reader or root, or
/// its mode gives group or others any access.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let at = |source| SecretFileError::Read {
        path: path.to_owned(),
        source,
    };
    // Checked on the open file, so that it cannot be swapped in between.
    // Non-blocking, so that a pipe in its place is refused and not waited for.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(at)?;
    let size = check(path, &file)?;
    // Room for everything at once: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size.saturating_add(1)));
    (&file)
        .take(MAX_SECRET_FILE.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(at)?;
    too_large(path, bytes.len())?;
    Ok(bytes)
}

/// Reads a secret that is one line of text, without surrounding white space.
///
/// # Errors
/// As [`read`], and if it is not UTF-8 or empty.
pub fn read_line(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretFileError::NotText {
        path: path.to_owned(),
    })?;
    let line = text.trim();
    if line.is_empty() {
        return Err(SecretFileError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// Creates a secret file with mode 0600. It must not exist yet.
///
/// # Errors
/// If it exists or cannot be written; a file written in part is removed.
pub fn create(path: &Path, secret: &[u8]) -> Result<(), SecretFileError> {
    let at = |source| SecretFileError::Write {
        path: path.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(path)
        .map_err(at)?;
    file.write_all(secret)
        .and_then(|()| file.sync_all())
        .map_err(|source| {
            let _ = std::fs::remove_file(path);
            at(source)
        })
}

/// Reads a secret, or creates it from `fresh` if the file does not exist.
///
/// # Errors
/// As [`read`] and [`create`], or what `fresh` returns.
pub fn read_or_create<E: From<SecretFileError>>(
    path: &Path,
    fresh: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, E>,
) -> Result<Zeroizing<Vec<u8>>, E> {
    if !path.exists() {
        let secret = fresh()?;
        create(path, &secret)?;
    }
    Ok(read(path)?)
}

fn check(path: &Path, file: &File) -> Result<usize, SecretFileError> {
    let metadata = file.metadata().map_err(|source| SecretFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    if !metadata.is_file() {
        return Err(SecretFileError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me && metadata.uid() != 0 {
        return Err(SecretFileError::ForeignOwner {
            path: path.to_owned(),
        });
    }
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    too_large(path, size)?;
    Ok(size)
}

fn too_large(path: &Path, size: usize) -> Result<(), SecretFileError> {
    if u64::try_from(size).unwrap_or(u64::MAX) > MAX_SECRET_FILE {
        return Err(SecretFileError::TooLarge {
            path: path.to_owned(),
            limit: MAX_SECRET_FILE,
        });
    }
    Ok(())
}

/// Why a secret file could not be used. Never holds what is in the file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The operating system refused to read it.
    #[error("cannot read the secret file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The operating system refused to write it.
    #[error("cannot create the secret file `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Group or others have access.
    #[error(
        "the secret file `{}` has mode {mode:04o}, so that others can reach it: run `chmod 600 {}`",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user owns it, who therefore can read it.
    #[error("the secret file `{}` belongs to another user: run `chown` and `chmod 600` on it", path.display())]
    ForeignOwner {
        /// The file.
        path: PathBuf,
    },
    /// A directory, pipe or device.
    #[error("the secret file `{}` is not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Larger than any secret.
    #[error("the secret file `{}` is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// Text was expected.
    #[error("the secret file `{}` is not text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("the secret file `{}` is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Keys and certificates are smaller than this many bytes.
pub const MAX_SECRET_FILE: u64 = 64 * 1024;

const OWNER_ONLY: u32 = 0o600;

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_created_is_read_back_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, b"  secret\n").unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(&read(&path).unwrap()[..], b"  secret\n");
        assert_eq!(read_line(&path).unwrap().as_str(), "secret");
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, b"first").unwrap();
        let error = create(&path, b"second").unwrap_err();
        assert!(matches!(error, SecretFileError::Write { .. }));
        assert_eq!(&read(&path).unwrap()[..], b"first");
    }

    #[test]
    fn a_file_that_others_can_reach_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, b"secret").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o666] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, SecretFileError::Exposed { mode: m, .. } if m == mode));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn directories_pipes_and_large_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(
            read(dir.path()).unwrap_err(),
            SecretFileError::NotAFile { .. }
        ));
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::Mode::from_raw_mode(0o600),
        )
        .unwrap();
        assert!(matches!(
            read(&pipe).unwrap_err(),
            SecretFileError::NotAFile { .. }
        ));
        let large = dir.path().join("large");
        create(&large, &vec![b'x'; 65 * 1024]).unwrap();
        assert!(matches!(
            read(&large).unwrap_err(),
            SecretFileError::TooLarge { .. }
        ));
    }

    #[test]
    fn empty_and_binary_lines_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        create(&empty, b" \n").unwrap();
        assert!(matches!(
            read_line(&empty).unwrap_err(),
            SecretFileError::Empty { .. }
        ));
        let binary = dir.path().join("binary");
        create(&binary, &[0xff, 0xfe]).unwrap();
        assert!(matches!(
            read_line(&binary).unwrap_err(),
            SecretFileError::NotText { .. }
        ));
    }

    #[test]
    fn read_or_create_creates_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = read_or_create::<SecretFileError>(&path, || Ok(Zeroizing::new(vec![1])));
        let second = read_or_create::<SecretFileError>(&path, || Ok(Zeroizing::new(vec![2])));
        assert_eq!(first.unwrap(), second.unwrap());
    }
}
