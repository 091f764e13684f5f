//! Key files: made for their owner alone, numbered, never overwritten.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bulla_keyring::{AuthorityKey, AuthorityRole, AuthoritySeed};
use bulla_process::{Zeroizing, secret_file};

use super::manifest::{Held, KeyPlace};
use super::{ISSUING, NewKey, TrustDirError};

/// Makes a key file and gives its public half.
///
/// # Errors
/// If the file exists or cannot be written.
pub fn create_key(role: AuthorityRole, path: &Path) -> Result<AuthorityKey, TrustDirError> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *random).map_err(TrustDirError::Random)?;
    let seed = AuthoritySeed::from_random(role, &random);
    secret_file::create(path, seed.to_secret_text().as_bytes())?;
    Ok(seed.public())
}

pub(super) fn new_key(
    dir: &Path,
    role: AuthorityRole,
    new: &NewKey,
    created: &mut Vec<PathBuf>,
) -> Result<KeyPlace, TrustDirError> {
    match new {
        NewKey::Command { command, public } => Ok(KeyPlace {
            public: **public,
            held: Held::Command(command.clone()),
        }),
        NewKey::File => {
            let what = if role == AuthorityRole::Root {
                "root"
            } else {
                "policy"
            };
            let path = free(dir, |n| format!("{what}-{n}.key"));
            let public = create_key(role, &path)?;
            let name = path.file_name().unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            created.push(path);
            Ok(KeyPlace {
                public,
                held: Held::File(name),
            })
        }
    }
}

pub(super) fn new_issuing_key(
    dir: &Path,
    broker: &str,
    created: &mut Vec<PathBuf>,
) -> Result<AuthorityKey, TrustDirError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if broker.is_empty() || broker.len() > 63 || !broker.chars().all(is_plain) {
        return Err(TrustDirError::BrokerName {
            name: broker.to_owned(),
        });
    }
    let dir = dir.join(ISSUING).join(broker);
    make_dir(&dir)?;
    let path = free(&dir, |n| format!("{n}.key"));
    let key = create_key(AuthorityRole::Issuing, &path)?;
    created.push(path);
    Ok(key)
}

/// The first numbered name that no file has.
pub(super) fn free(dir: &Path, name: impl Fn(u32) -> String) -> PathBuf {
    let mut number = 1;
    loop {
        let path = dir.join(name(number));
        if !path.exists() {
            return path;
        }
        number += 1;
    }
}

pub(super) fn make_dir(dir: &Path) -> Result<(), TrustDirError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| TrustDirError::Directory {
        path: dir.to_owned(),
        source,
    })
}

/// Key files of a role in a directory, with their public halves. Others are
/// passed over.
pub(super) fn key_files(
    dir: &Path,
    role: AuthorityRole,
) -> Result<Vec<(PathBuf, AuthorityKey)>, TrustDirError> {
    let at = |source| TrustDirError::Directory {
        path: dir.to_owned(),
        source,
    };
    let mut found = Vec::new();
    if !dir.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(dir).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.extension().is_none_or(|extension| extension != "key") {
            continue;
        }
        if let Ok(text) = secret_file::read_line(&path)
            && let Ok(seed) = AuthoritySeed::parse(role, &text)
        {
            found.push((path, seed.public()));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}
