//! `bulla install-keys`: copies keys to where nobody but this process's user reads them.
//!
//! Kubernetes mounts a Secret so that root owns its files and the pod's group reads
//! them. Brokers refuse keys that a group can read; so a pod's first container puts
//! them into a volume in memory, with mode 0600.

use std::fs::{self, DirBuilder};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bulla_process::Zeroizing;
use bulla_process::secret_file::MAX_SECRET_FILE;

/// Copy keys to where only this user reads them, for the first container of a pod
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
        bulla install-keys /etc/bulla/secret /run/bulla/keys\n\n\
        Files whose names begin with a dot are left out. Exit code: 0 done, 2 an error.")]
pub(super) struct InstallKeysArgs {
    /// Where they lie
    from: PathBuf,
    /// Where they go; made with mode 0700 if it is not there
    to: PathBuf,
}

/// Copies every file of one directory, each in one step, and says how many.
pub(super) fn run(args: &InstallKeysArgs) -> Result<usize, InstallKeysError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| InstallKeysError { path, source }
    };
    let mut builder = DirBuilder::new();
    let builder = builder.recursive(true).mode(0o700);
    builder.create(&args.to).map_err(at(&args.to))?;
    let mut count = 0;
    for entry in fs::read_dir(&args.from).map_err(at(&args.from))? {
        let entry = entry.map_err(at(&args.from))?;
        let (name, path) = (entry.file_name(), entry.path());
        // What a mount keeps for itself; its links lead to the files.
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let file = fs::File::open(&path).map_err(at(&path))?;
        if !file.metadata().map_err(at(&path))?.is_file() {
            continue;
        }
        let mut secret = Zeroizing::new(Vec::with_capacity(4096));
        let mut limited = file.take(MAX_SECRET_FILE.saturating_add(1));
        limited.read_to_end(&mut secret).map_err(at(&path))?;
        if u64::try_from(secret.len()).unwrap_or(u64::MAX) > MAX_SECRET_FILE {
            let source = io::Error::new(io::ErrorKind::InvalidData, "larger than any key");
            return Err(at(&path)(source));
        }
        let to = args.to.join(&name);
        // With mode 0600 from its first moment on.
        let mut copy = tempfile::NamedTempFile::new_in(&args.to).map_err(at(&to))?;
        copy.write_all(&secret).map_err(at(&to))?;
        copy.persist(&to).map_err(|error| at(&to)(error.error))?;
        count += 1;
    }
    Ok(count)
}

/// A file or directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot install `{}`", path.display())]
pub(super) struct InstallKeysError {
    path: PathBuf,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use bulla_process::secret_file;

    use super::*;

    #[test]
    fn what_a_group_could_read_is_read_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("secret"), dir.path().join("run/keys"));
        // As Kubernetes lays it.
        let data = from.join("..2026_11_26");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("js.nk"), "seed\n").unwrap();
        fs::set_permissions(data.join("js.nk"), fs::Permissions::from_mode(0o440)).unwrap();
        symlink("..2026_11_26", from.join("..data")).unwrap();
        symlink("..data/js.nk", from.join("js.nk")).unwrap();
        assert!(secret_file::read_line(&from.join("js.nk")).is_err());
        let args = InstallKeysArgs {
            from,
            to: to.clone(),
        };
        // A container that is started again does it again.
        for _ in 0..2 {
            assert_eq!(run(&args).unwrap(), 1);
            let key = secret_file::read_line(&to.join("js.nk")).unwrap();
            assert_eq!(key.as_str(), "seed");
            assert_eq!(to.metadata().unwrap().mode() & 0o777, 0o700);
        }
        let large = args.from.join("large");
        fs::write(&large, vec![0; 70_000]).unwrap();
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains("large"), "{error}");
    }
}
