//! `trust.toml`: which keys sign, and where they are.
//!
//! ```toml
//! domain = "acme.example"
//!
//! [root]
//! public = "bulla-root-public-1:…"
//! key = "root-1.key"                      # beside this file, mode 0600
//!
//! [policy]
//! public = "bulla-policy-public-1:…"
//! sign_with = "hsm-sign --slot 2"         # or a command that holds it
//!
//! [issuing]
//! broker = "bulla-issuing-public-1:…"     # the newest key of each broker
//! ```
//!
//! No secret is in it. Commands in it are run, so nobody else may write it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_identity::TrustDomain;
use bulla_keyring::{AuthorityKey, AuthorityKeyError, AuthorityRole};
use serde::{Deserialize, Serialize};

use super::signer::{SignCommand, Signer, SignerError};

/// The file's name.
pub(super) const FILE: &str = "trust.toml";

/// Which keys sign now.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) domain: TrustDomain,
    pub(super) root: KeyPlace,
    pub(super) policy: KeyPlace,
    /// The newest issuing key of each broker.
    pub(super) issuing: BTreeMap<String, AuthorityKey>,
}

/// A key, and how to sign with it.
#[derive(Debug, Clone)]
pub(super) struct KeyPlace {
    pub(super) public: AuthorityKey,
    pub(super) held: Held,
}

/// Where a key is held.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// In this file of the directory.
    File(String),
    /// By this command.
    Command(String),
}

impl KeyPlace {
    /// Who signs with it. A command may take `limit`.
    pub(super) fn signer(&self, dir: &Path, limit: Duration) -> Result<Signer, SignerError> {
        match &self.held {
            Held::File(name) => Signer::from_file(&dir.join(name), self.public),
            Held::Command(command) => Ok(Signer::by_command(
                self.public,
                SignCommand::new(command.clone(), limit),
            )),
        }
    }
}

impl Manifest {
    /// Reads it.
    pub(super) fn read(dir: &Path) -> Result<Self, ManifestError> {
        let path = dir.join(FILE);
        let at = |source| ManifestError::Read {
            path: path.clone(),
            source,
        };
        let metadata = std::fs::metadata(&path).map_err(at)?;
        let me = rustix::process::geteuid().as_raw();
        let is_mine = metadata.uid() == me || metadata.uid() == 0;
        if metadata.mode() & 0o022 != 0 || !is_mine {
            return Err(ManifestError::Writable { path });
        }
        let text = std::fs::read_to_string(&path).map_err(at)?;
        let raw: Raw = toml::from_str(&text).map_err(|source| ManifestError::Toml {
            path: path.clone(),
            source: Box::new(source),
        })?;
        let domain = TrustDomain::parse(&raw.domain)
            .map_err(|_| ManifestError::Domain { path: path.clone() })?;
        let key = |name: &'static str, role, text: &str| {
            AuthorityKey::parse(role, text).map_err(|source| ManifestError::Key {
                path: path.clone(),
                name,
                source,
            })
        };
        let place = |name: &'static str, role, raw: RawKey| {
            let held = match (raw.key, raw.sign_with) {
                (Some(file), None) => Held::File(file),
                (None, Some(command)) => Held::Command(command),
                _ => {
                    let path = path.clone();
                    return Err(ManifestError::Place { path, name });
                }
            };
            let public = key(name, role, &raw.public)?;
            Ok(KeyPlace { public, held })
        };
        let issuing = raw.issuing.into_iter().map(|(broker, text)| {
            let key = key("issuing", AuthorityRole::Issuing, &text)?;
            Ok::<_, ManifestError>((broker, key))
        });
        let issuing = issuing.collect::<Result<_, _>>()?;
        Ok(Self {
            domain,
            root: place("root", AuthorityRole::Root, raw.root)?,
            policy: place("policy", AuthorityRole::Policy, raw.policy)?,
            issuing,
        })
    }

    /// The file's text.
    pub(super) fn render(&self) -> String {
        let key = |place: &KeyPlace| RawKey {
            public: place.public.to_string(),
            key: match &place.held {
                Held::File(name) => Some(name.clone()),
                Held::Command(_) => None,
            },
            sign_with: match &place.held {
                Held::File(_) => None,
                Held::Command(command) => Some(command.clone()),
            },
        };
        let raw = Raw {
            domain: self.domain.as_str().to_owned(),
            root: key(&self.root),
            policy: key(&self.policy),
            issuing: self
                .issuing
                .iter()
                .map(|(broker, key)| (broker.clone(), key.to_string()))
                .collect(),
        };
        // Texts and tables of texts always have a form in TOML.
        let text = toml::to_string(&raw).unwrap_or_default();
        format!("# Written by `bulla trust`: which keys sign. It holds no secret.\n{text}")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    domain: String,
    root: RawKey,
    policy: RawKey,
    #[serde(default)]
    issuing: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    public: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sign_with: Option<String>,
}

/// Why `trust.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not there, or not readable.
    #[error("cannot read `{}`: run `bulla trust init`, or name its directory with --dir", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Others could have it run a command of theirs.
    #[error("`{}` can be written by others, and commands in it are run: run `chmod go-w` on it", path.display())]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// Not TOML, or other keys in it.
    #[error("`{}` cannot be read", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<toml::de::Error>,
    },
    /// Not a trust domain.
    #[error("`{}`: `domain` is no trust domain", path.display())]
    Domain {
        /// The file.
        path: PathBuf,
    },
    /// Not a key.
    #[error("`{}`: `{name}` names no such public key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// `root`, `policy` or `issuing`.
        name: &'static str,
        /// The reason.
        source: AuthorityKeyError,
    },
    /// Neither a file nor a command, or both.
    #[error("`{}`: `{name}` needs either `key` or `sign_with`", path.display())]
    Place {
        /// The file.
        path: PathBuf,
        /// `root` or `policy`.
        name: &'static str,
    },
}
