//! The issuing keys of one broker, and which of them is in use.
//!
//! A key follows another without a gap. The new one lies beside the old one, a
//! trust bundle names both, and the broker goes over to the new one some time
//! after it took that bundle, so that every receiver has it as well.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulla_envelope::CredentialIssuer;
use bulla_identity::UnixMillis;
use bulla_keyring::{AuthorityKeyError, AuthorityRole, AuthoritySeed};
use bulla_process::{SecretFileError, secret_file};
use parking_lot::Mutex;

use crate::trust::HeldBundle;

/// Receivers look at the control stream every twelve seconds at the latest.
const SETTLED: Duration = Duration::from_secs(15);

/// Most keys of one broker.
const MAX_KEYS: usize = 16;

/// Issuing keys as they lie on disk: a file, or a directory in which every
/// `*.key` is one.
#[derive(Debug)]
pub struct IssuingKeys {
    path: PathBuf,
    seeds: Vec<AuthoritySeed>,
}

impl IssuingKeys {
    /// Reads them.
    ///
    /// # Errors
    /// If there is none, or one cannot be read, is no issuing key, or can be
    /// reached by others.
    pub fn read(path: &Path) -> Result<Self, IssuingKeysError> {
        let listed = |source| IssuingKeysError::List {
            path: path.to_owned(),
            source,
        };
        let mut files = Vec::new();
        if path.is_dir() {
            for entry in std::fs::read_dir(path).map_err(listed)? {
                let file = entry.map_err(listed)?.path();
                if file.extension().is_some_and(|extension| extension == "key") {
                    files.push(file);
                }
            }
            files.sort();
        } else {
            files.push(path.to_owned());
        }
        if files.is_empty() || files.len() > MAX_KEYS {
            return Err(IssuingKeysError::Count {
                path: path.to_owned(),
                actual: files.len(),
            });
        }
        let seeds = files.into_iter().map(|file| {
            let text = secret_file::read_line(&file)?;
            AuthoritySeed::parse(AuthorityRole::Issuing, &text)
                .map_err(|source| IssuingKeysError::Key { path: file, source })
        });
        Ok(Self {
            path: path.to_owned(),
            seeds: seeds.collect::<Result<_, _>>()?,
        })
    }

    /// The keys.
    #[must_use]
    pub fn seeds(&self) -> &[AuthoritySeed] {
        &self.seeds
    }
}

/// The keys in use; they are read again now and then.
#[derive(Debug)]
pub(crate) struct Issuers {
    path: PathBuf,
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    issuers: Vec<Arc<CredentialIssuer>>,
    /// Since when this broker holds a bundle that names the key.
    named: HashMap<[u8; 32], Instant>,
    /// What was wrong with the files the last time, told once.
    told: Option<String>,
}

impl Issuers {
    pub(crate) fn new(keys: IssuingKeys) -> Self {
        Self {
            path: keys.path,
            keys: Mutex::new(Keys {
                issuers: issuers(keys.seeds),
                ..Keys::default()
            }),
        }
    }

    /// Takes the keys that are on disk now. If they cannot be read the held ones
    /// stay.
    pub(crate) fn read_again(&self) {
        let read = IssuingKeys::read(&self.path);
        let mut keys = self.keys.lock();
        match read {
            Ok(read) => {
                keys.told = None;
                keys.issuers = issuers(read.seeds);
            }
            Err(error) => {
                let reason = crate::cli::chain(&error);
                if keys.told.as_ref() != Some(&reason) {
                    tracing::warn!(
                        reason,
                        "the issuing keys cannot be read: the held ones stay"
                    );
                    keys.told = Some(reason);
                }
            }
        }
    }

    /// This bundle is in force from now on.
    pub(crate) fn follow(&self, bundle: &HeldBundle) {
        self.follow_at(bundle, Instant::now());
    }

    fn follow_at(&self, bundle: &HeldBundle, at: Instant) {
        let mut keys = self.keys.lock();
        let named = &bundle.bundle.issuing;
        keys.named = named
            .iter()
            .map(|issuing| *issuing.key.as_bytes())
            .map(|key| (key, keys.named.get(&key).copied().unwrap_or(at)))
            .collect();
    }

    /// The key to issue with, and until when it may: the one that is trusted for
    /// longest of those that every receiver knows by now; if none is known for
    /// so long, the one that ends first, which was there before the others.
    pub(crate) fn current(
        &self,
        bundle: &HeldBundle,
        now: UnixMillis,
    ) -> Option<(Arc<CredentialIssuer>, UnixMillis)> {
        self.current_at(bundle, now, Instant::now())
    }

    fn current_at(
        &self,
        bundle: &HeldBundle,
        now: UnixMillis,
        at: Instant,
    ) -> Option<(Arc<CredentialIssuer>, UnixMillis)> {
        let keys = self.keys.lock();
        let usable = keys.issuers.iter().filter_map(|issuer| {
            let until = bundle.issues_until(issuer.verifying_key())?;
            let since = keys.named.get(issuer.verifying_key().as_bytes())?;
            let is_settled = at.saturating_duration_since(*since) >= SETTLED;
            (until > now).then_some((issuer, until, is_settled))
        });
        let usable: Vec<_> = usable.collect();
        let settled = usable.iter().filter(|(_, _, is_settled)| *is_settled);
        let best = settled
            .max_by_key(|(_, until, _)| *until)
            .or_else(|| usable.iter().min_by_key(|(_, until, _)| *until));
        best.map(|(issuer, until, _)| (Arc::clone(issuer), *until))
    }
}

fn issuers(seeds: Vec<AuthoritySeed>) -> Vec<Arc<CredentialIssuer>> {
    let keys = seeds.into_iter().map(AuthoritySeed::into_signing_key);
    keys.map(|key| Arc::new(CredentialIssuer::new(key)))
        .collect()
}

/// Why the issuing keys cannot be used. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum IssuingKeysError {
    /// The directory cannot be listed.
    #[error("cannot list the directory `{}`", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// None, or too many.
    #[error("the directory `{}` holds {actual} files `*.key`: put 1 to {MAX_KEYS} there", path.display())]
    Count {
        /// The directory.
        path: PathBuf,
        /// How many there are.
        actual: usize,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// Not an issuing key.
    #[error("`{}` is no issuing key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: AuthorityKeyError,
    },
}

#[cfg(test)]
mod tests {
    use bulla_envelope::{IssuingKey, TrustBundle};
    use bulla_identity::TrustDomain;
    use bulla_keyring::SigningKey;

    use super::*;

    const NOW: UnixMillis = UnixMillis::from_secs(1_000_000);

    fn seed(n: u8) -> AuthoritySeed {
        AuthoritySeed::from_random(AuthorityRole::Issuing, &[n; 32])
    }

    fn bundle(keys: &[(u8, u64)]) -> HeldBundle {
        let root = SigningKey::from_seed(&[1; 32]);
        let domain = TrustDomain::parse("acme.example").unwrap();
        let issuing = keys.iter().map(|(n, hours)| IssuingKey {
            key: *seed(*n).public().verifying_key(),
            expires_at: NOW.saturating_add(Duration::from_secs(hours * 3600)),
        });
        let bundle = TrustBundle {
            trust_domain: domain.clone(),
            version: 1,
            issued_at: NOW,
            expires_at: NOW.saturating_add(Duration::from_secs(30 * 24 * 3600)),
            root: *root.verifying_key(),
            former_roots: Vec::new(),
            issuing: issuing.collect(),
            policy_keys: Vec::new(),
        };
        let bytes = bundle.sign(&root).unwrap();
        let roots = [*root.verifying_key()];
        let bundle = TrustBundle::open(&bytes, &roots, &domain, NOW, Duration::ZERO).unwrap();
        HeldBundle {
            bytes: bytes.into(),
            bundle,
        }
    }

    fn write(dir: &Path, name: &str, n: u8) {
        let text = seed(n).to_secret_text();
        secret_file::create(&dir.join(name), text.as_bytes()).unwrap();
    }

    #[test]
    fn a_new_key_is_used_once_every_receiver_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.key", 1);
        let issuers = Issuers::new(IssuingKeys::read(dir.path()).unwrap());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = bundle(&[(1, 10)]);
        issuers.follow_at(&first, at(0));
        let current = |bundle: &HeldBundle, seconds| {
            let current = issuers.current_at(bundle, NOW, at(seconds));
            current.map(|(issuer, _)| *issuer.verifying_key().as_bytes())
        };
        let key = |n| Some(*seed(n).public().verifying_key().as_bytes());
        // The only one is used at once.
        assert_eq!(current(&first, 0), key(1));

        write(dir.path(), "b.key", 2);
        issuers.read_again();
        assert_eq!(current(&first, 50), key(1), "not named yet");
        let both = bundle(&[(1, 10), (2, 100)]);
        issuers.follow_at(&both, at(100));
        assert_eq!(current(&both, 114), key(1), "not known everywhere yet");
        assert_eq!(current(&both, 115), key(2));
        // A later bundle does not begin it anew.
        let again = bundle(&[(1, 11), (2, 101)]);
        issuers.follow_at(&again, at(116));
        assert_eq!(current(&again, 116), key(2));
        // Without the other it is used at once, and the old one never again.
        let only = bundle(&[(2, 100)]);
        issuers.follow_at(&only, at(117));
        assert_eq!(current(&only, 117), key(2));
        let none = bundle(&[(3, 100)]);
        issuers.follow_at(&none, at(118));
        assert_eq!(current(&none, 118), None);
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            IssuingKeys::read(dir.path()),
            Err(IssuingKeysError::Count { actual: 0, .. })
        ));
        write(dir.path(), "a.key", 1);
        let issuers = Issuers::new(IssuingKeys::read(dir.path()).unwrap());
        std::fs::write(dir.path().join("b.key"), "rubbish").unwrap();
        issuers.read_again();
        assert!(issuers.keys.lock().told.is_some());
        assert_eq!(issuers.keys.lock().issuers.len(), 1);
        std::fs::remove_file(dir.path().join("b.key")).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "no key").unwrap();
        issuers.read_again();
        assert!(issuers.keys.lock().told.is_none());
    }
}
