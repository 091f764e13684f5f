//! Where an operator's command finds the bus, and by which keys it speaks there.
//!
//! In a directory that `bulla dev` made everything is there already. Elsewhere an
//! operator has an nkey of a user in the account `JS`, the trust root's public
//! key, and, for what is to be signed, the policy key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_envelope::TrustBundle;
use bulla_identity::{IdentityError, TrustDomain, UnixMillis, Verified};
use bulla_keyring::{
    AuthorityKey, AuthorityKeyError, AuthorityRole, AuthoritySeed, NkeySeed, SeedError,
    VerifyingKey,
};
use bulla_process::{SecretFileError, secret_file};
use serde::Deserialize;

use crate::bus_user::{BusUser, BusUserError};
use crate::clock;
use crate::operator_client::{OperatorClient, OperatorClientError, OperatorPlace};
use crate::trust_dir::{Signer, TrustDir, TrustDirError};

/// Where the bus is and which files to use.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "The bus")]
pub(crate) struct OperatorArgs {
    /// A directory as `bulla dev` and `bulla broker init` make it: what is not given below is taken from there
    #[arg(long, value_name = "DIR", env = "BULLA_DIR", default_value = crate::dev::DEFAULT_DIR)]
    pub(crate) dir: PathBuf,
    /// nats-server
    #[arg(long, value_name = "URL", env = "BULLA_NATS_URL")]
    nats_url: Option<String>,
    /// The operator's nkey seed or NATS credentials, of a user in the account JS (0600)
    #[arg(long, value_name = "FILE", env = "BULLA_OPERATOR_SEED_FILE")]
    seed_file: Option<PathBuf>,
    /// Certificate authorities (PEM) for TLS to nats-server
    #[arg(long, value_name = "FILE", env = "BULLA_TLS_CA_FILE")]
    tls_ca_file: Option<PathBuf>,
    /// The trust root's public key
    #[arg(long, value_name = "FILE", env = "BULLA_TRUST_ROOT_FILE")]
    trust_root_file: Option<PathBuf>,
    /// The trust domain
    #[arg(long, value_name = "NAME", env = "BULLA_TRUST_DOMAIN")]
    trust_domain: Option<String>,
    /// A directory of `bulla trust`: its policy key signs, in a file or behind a command
    #[arg(long, value_name = "DIR", env = "BULLA_TRUST_DIR")]
    trust_dir: Option<PathBuf>,
    /// The policy key (0600), where something is to be signed
    #[arg(
        long,
        value_name = "FILE",
        env = "BULLA_POLICY_KEY_FILE",
        conflicts_with = "trust_dir"
    )]
    policy_key: Option<PathBuf>,
}

/// What `broker.toml` says of it.
#[derive(Deserialize)]
struct BrokerFile {
    nats_url: String,
    trust: TrustSection,
    #[serde(default)]
    tls: TlsSection,
}

#[derive(Default, Deserialize)]
struct TlsSection {
    ca: Option<PathBuf>,
}

#[derive(Deserialize)]
struct TrustSection {
    domain: String,
}

impl OperatorArgs {
    /// Connects and reads the trust bundle.
    pub(crate) async fn connect(&self) -> Result<OperatorClient, OperatorError> {
        let (url, domain) = (self.url()?, self.domain()?);
        let roots = self.root_keys()?;
        let user = self.bus_user(self.file(self.seed_file.as_ref(), "keys/operator-js.nk"))?;
        let place = OperatorPlace {
            url,
            tls_ca_file: self.tls_ca_file(),
            roots,
            domain,
        };
        Ok(OperatorClient::connect(place, user).await?)
    }

    /// Where nats-server is.
    pub(crate) fn url(&self) -> Result<String, OperatorError> {
        match (&self.nats_url, self.broker_file()) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(file)) => Ok(file.nats_url),
            (None, None) => Err(self.missing("--nats-url")),
        }
    }

    /// Which certificate authorities count there.
    pub(crate) fn tls_ca_file(&self) -> Option<PathBuf> {
        let given = self.tls_ca_file.clone();
        given.or_else(|| Some(self.dir.join(self.broker_file()?.tls.ca?)))
    }

    /// The directory of `bulla trust` whose policy key signs, if there is one.
    fn signing_dir(&self) -> Option<PathBuf> {
        if self.trust_dir.is_some() || self.policy_key.is_some() {
            return self.trust_dir.clone();
        }
        let own = self.dir.join("trust");
        own.join("trust.toml").exists().then_some(own)
    }

    /// The trust domain.
    pub(crate) fn domain(&self) -> Result<TrustDomain, OperatorError> {
        match (&self.trust_domain, &self.trust_dir, self.broker_file()) {
            (Some(domain), _, _) => Ok(TrustDomain::parse(domain)?),
            (None, Some(dir), _) => Ok(TrustDir::open(dir, SIGN_LIMIT)?.domain().clone()),
            (None, None, Some(file)) => Ok(TrustDomain::parse(&file.trust.domain)?),
            (None, None, None) => Err(self.missing("--trust-domain")),
        }
    }

    /// Who signs with the policy key, which the bundle must name.
    pub(crate) fn policy_signer(
        &self,
        bundle: &Verified<TrustBundle>,
    ) -> Result<Signer, OperatorError> {
        let signer = match self.signing_dir() {
            Some(dir) => TrustDir::open(&dir, SIGN_LIMIT)?.policy_signer()?,
            None => {
                let path = self.file(self.policy_key.as_ref(), "keys/policy.key");
                let text = secret_file::read_line(&path)?;
                let seed = AuthoritySeed::parse(AuthorityRole::Policy, &text)
                    .map_err(|source| OperatorError::Authority { path, source })?;
                Signer::of(seed)
            }
        };
        if !bundle.policy_keys.contains(signer.public().verifying_key()) {
            return Err(OperatorError::NotNamed {
                key: signer.public().to_string(),
            });
        }
        Ok(signer)
    }

    /// The pinned roots.
    pub(crate) fn root_keys(&self) -> Result<Vec<VerifyingKey>, OperatorError> {
        Ok(self.roots()?.iter().map(|r| *r.verifying_key()).collect())
    }

    fn roots(&self) -> Result<Vec<AuthorityKey>, OperatorError> {
        let path = match (&self.trust_root_file, &self.trust_dir) {
            (None, Some(dir)) => dir.join("root.pub"),
            (given, _) => self.file(given.as_ref(), "trust/root.pub"),
        };
        let text = std::fs::read_to_string(&path).map_err(|source| OperatorError::Read {
            path: path.clone(),
            source,
        })?;
        AuthorityKey::parse_list(AuthorityRole::Root, &text)
            .map_err(|source| OperatorError::Authority { path, source })
    }

    /// The user in a file, of which nats-server knows by its configuration or a JWT.
    pub(crate) fn bus_user(&self, path: PathBuf) -> Result<BusUser, OperatorError> {
        Ok(BusUser::read(&path)?)
    }

    /// The nkey seed in a file.
    pub(crate) fn nkey_seed(&self, path: PathBuf) -> Result<NkeySeed, OperatorError> {
        let text = secret_file::read_line(&path)?;
        NkeySeed::parse(&text).map_err(|source| OperatorError::Seed { path, source })
    }

    fn file(&self, given: Option<&PathBuf>, in_dir: &str) -> PathBuf {
        given.cloned().unwrap_or_else(|| self.dir.join(in_dir))
    }

    fn broker_file(&self) -> Option<BrokerFile> {
        let text = std::fs::read_to_string(self.dir.join("broker.toml")).ok()?;
        toml::from_str(&text).ok()
    }

    fn missing(&self, option: &'static str) -> OperatorError {
        OperatorError::Missing {
            option,
            dir: self.dir.clone(),
        }
    }

    /// The directory's own copies of what is published, if it is one.
    pub(crate) fn trust_dir(&self) -> Option<PathBuf> {
        let dir = self
            .trust_dir
            .clone()
            .unwrap_or_else(|| self.dir.join("trust"));
        Path::is_dir(&dir).then_some(dir)
    }
}

/// A time that somebody wrote: RFC 3339, or how long ago (`2h`).
pub(crate) fn time(text: &str) -> Result<UnixMillis, String> {
    let now = clock::now();
    let given = match humantime::parse_duration(text) {
        Ok(ago) => now.saturating_sub(ago),
        Err(_) => {
            let time = humantime::parse_rfc3339_weak(text)
                .map_err(|_| "write a time as 2026-01-31T12:00:00Z, or how long ago, as 2h")?;
            let since = time.duration_since(std::time::UNIX_EPOCH);
            let millis = since.unwrap_or_default().as_millis();
            UnixMillis::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
        }
    };
    if given > now {
        return Err("it lies in the future".to_owned());
    }
    Ok(given)
}

/// A time for people.
pub(crate) fn shown(at: UnixMillis) -> String {
    let since = std::time::Duration::from_millis(at.as_millis());
    let time = std::time::UNIX_EPOCH.checked_add(since);
    time.map_or_else(
        || at.to_string(),
        |time| humantime::format_rfc3339_millis(time).to_string(),
    )
}

/// A command that signs may ask somebody.
const SIGN_LIMIT: Duration = Duration::from_secs(120);

/// Why the control stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperatorError {
    #[error(
        "`{option}` is missing, and `{}` holds no broker.toml that says it: name it, or the directory with --dir",
        dir.display()
    )]
    Missing { option: &'static str, dir: PathBuf },
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error(transparent)]
    User(#[from] BusUserError),
    #[error("`{}` holds no nkey seed", path.display())]
    Seed { path: PathBuf, source: SeedError },
    #[error("`{}` holds no such key", path.display())]
    Authority {
        path: PathBuf,
        source: AuthorityKeyError,
    },
    #[error(
        "the trust bundle in force does not name the policy key `{key}`: nobody would believe what it signs"
    )]
    NotNamed { key: String },
    #[error(transparent)]
    TrustDir(#[from] TrustDirError),
    #[error("not a trust domain")]
    Domain(#[from] IdentityError),
    #[error(transparent)]
    Client(#[from] OperatorClientError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_spans_and_never_ahead() {
        assert_eq!(
            time("2026-01-31T12:00:00Z").unwrap(),
            UnixMillis::from_secs(1_769_860_800)
        );
        let ago = clock::now().saturating_since(time("2h").unwrap());
        assert_eq!(ago.as_secs(), 7_200);
        for bad in ["", "yesterday", "9999-01-01T00:00:00Z"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert_eq!(
            shown(UnixMillis::from_secs(1_769_860_800)),
            "2026-01-31T12:00:00.000Z"
        );
    }
}
