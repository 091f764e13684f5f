//! The files of a small deployment: keys, trust bundle, signed policy,
//! configurations. For development and for tests; production keeps the root and
//! the policy key elsewhere.
//!
//! ```text
//! keys/      root.key policy.key issuing.key        authorities
//!            callout.nk xkey.nk                     the auth callout
//!            broker-auth.nk broker-js.nk broker-sys.nk
//!            operator-js.nk                         the operator's commands
//!            <workload>.nk
//! trust/     root.pub bundle policy
//! nats-server.conf  broker.toml  jetstream/  run/  logs/
//! ```
//!
//! Secrets are created 0600 and kept; everything below `trust/` and the two
//! configurations is written anew, with versions that only rise.

use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_envelope::{IssuingKey, MAX_ISSUING_LIFE, SignedPolicy, TrustBundle, TrustError};
use bulla_identity::{IdentityError, Nkey, NkeyKind, SubjectPattern, TrustDomain, WorkloadName};
use bulla_keyring::{
    AuthorityKeyError, AuthorityRole, AuthoritySeed, CurveSeed, NkeySeed, SecretString, SeedError,
};
use bulla_policy::{Policy, PolicyErrors};
use bulla_process::{SecretFileError, Zeroizing, secret_file};

use crate::clock;
use crate::engine::EngineConfig;
use crate::nats_accounts::{self, Accounts};
use crate::nats_config::{
    AccountsConfig, BrokerUsers, Listening, OperatorAccounts, PlainAccounts, ServerConfig,
};

/// A directory with the files of a deployment.
#[derive(Clone, Debug)]
pub struct Provision {
    dir: PathBuf,
    is_operator_mode: bool,
}

impl Provision {
    /// Opens the directory, creating it and its parts for the owner alone.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn open(dir: &Path) -> Result<Self, ProvisionError> {
        // nats-server runs elsewhere, so its paths must not be relative.
        let absolute = std::path::absolute(dir).map_err(at(dir))?;
        let this = Self {
            dir: absolute,
            is_operator_mode: false,
        };
        for part in ["", "keys", "trust", "jetstream", "run", "logs"] {
            let path = this.dir.join(part);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(at(&path))?;
        }
        Ok(this)
    }

    /// The same, whose nats-server knows accounts by the JWTs of an operator.
    #[must_use]
    pub fn in_operator_mode(mut self) -> Self {
        self.is_operator_mode = true;
        self
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file or directory in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where a workload's nkey seed lies.
    #[must_use]
    pub fn seed_file(&self, workload: &WorkloadName) -> PathBuf {
        self.dir.join("keys").join(format!("{workload}.nk"))
    }

    /// The trust root's public key, which SDKs pin.
    #[must_use]
    pub fn root_file(&self) -> PathBuf {
        self.path("trust/root.pub")
    }

    /// A workload's public nkey. Its seed is made at the first call.
    ///
    /// # Errors
    /// If the seed's file cannot be used.
    pub fn workload(&self, workload: &WorkloadName) -> Result<Nkey, ProvisionError> {
        for own in [
            "callout",
            "xkey",
            "broker-auth",
            "broker-js",
            "broker-sys",
            "operator-js",
        ] {
            if workload.as_str() == own {
                return Err(ProvisionError::ReservedName(workload.clone()));
            }
        }
        Ok(self
            .nkey(&format!("{workload}.nk"), NkeyKind::User)?
            .public())
    }

    /// Signs a new trust bundle that names this deployment's only broker and
    /// its policy key.
    ///
    /// # Errors
    /// If a key file cannot be used.
    pub fn sign_bundle(&self, domain: &TrustDomain) -> Result<(), ProvisionError> {
        let root = self.authority("root.key", AuthorityRole::Root)?;
        let issuing = self.authority("issuing.key", AuthorityRole::Issuing)?;
        let policy = self.authority("policy.key", AuthorityRole::Policy)?;
        let now = clock::now();
        let path = self.path("trust/bundle");
        let version = match read_if_there(&path)? {
            None => 1,
            Some(bytes) => {
                let long_ago = Duration::from_secs(u64::from(u32::MAX));
                let key = *root.signing_key().verifying_key();
                // However old it is: only its number counts here.
                match TrustBundle::open(&bytes, &[key], domain, now, long_ago) {
                    Ok(bundle) => bundle.version.saturating_add(1),
                    Err(_) => 1,
                }
            }
        };
        let expires_at = now.saturating_add(MAX_ISSUING_LIFE);
        let bundle = TrustBundle {
            trust_domain: domain.clone(),
            version,
            issued_at: now,
            expires_at,
            root: *root.public().verifying_key(),
            former_roots: Vec::new(),
            issuing: vec![IssuingKey {
                key: *issuing.public().verifying_key(),
                expires_at,
            }],
            policy_keys: vec![*policy.public().verifying_key()],
        };
        let bytes = bundle.sign(root.signing_key())?;
        write(&path, &bytes)?;
        write(&self.root_file(), format!("{}\n", root.public()).as_bytes())
    }

    /// Signs a policy, as a new revision if the text differs from the last one
    /// that was signed. Gives the policy and its revision.
    ///
    /// # Errors
    /// If the policy does not load, or a key file cannot be used. `name` is
    /// the file that the errors name.
    pub fn sign_policy(&self, name: &str, text: &str) -> Result<(Policy, u64), ProvisionError> {
        let policy = Policy::parse(name, text)?;
        self.sign_bundle(policy.trust_domain())?;
        let key = self.authority("policy.key", AuthorityRole::Policy)?;
        let path = self.path("trust/policy");
        let now = clock::now();
        let last = match (
            read_if_there(&path)?,
            read_if_there(&self.path("trust/bundle"))?,
        ) {
            (Some(bytes), Some(bundle)) => {
                let root = self.authority("root.key", AuthorityRole::Root)?;
                let root = *root.signing_key().verifying_key();
                let domain = policy.trust_domain();
                let ahead = Duration::from_secs(u64::from(u32::MAX));
                TrustBundle::open(&bundle, &[root], domain, now, Duration::ZERO)
                    .and_then(|bundle| SignedPolicy::open(&bytes, &bundle, now, ahead))
                    .ok()
            }
            _ => None,
        };
        let revision = match last {
            Some(last) if last.text == text => return Ok((policy, last.revision)),
            Some(last) => last.revision.saturating_add(1),
            None => 1,
        };
        let signed = SignedPolicy {
            trust_domain: policy.trust_domain().clone(),
            revision,
            issued_at: now,
            comment: String::new(),
            text: text.to_owned(),
        };
        write(&path, &signed.sign(key.signing_key())?)?;
        Ok((policy, revision))
    }

    /// Writes `nats-server.conf`, for the streams of this policy, and gives what
    /// the engine needs.
    ///
    /// # Errors
    /// If a key or the file cannot be used.
    pub fn write_server_config(
        &self,
        port: Option<u16>,
        policy: &Policy,
    ) -> Result<EngineConfig, ProvisionError> {
        let stored = policy.streams().iter().flat_map(|s| s.subjects());
        let stored = stored.cloned().collect::<Vec<_>>();
        let user = |name: &str| Ok::<_, ProvisionError>(self.nkey(name, NkeyKind::User)?.public());
        let broker = BrokerUsers {
            auth: user("broker-auth.nk")?,
            js: user("broker-js.nk")?,
            sys: user("broker-sys.nk")?,
        };
        let operator = user("operator-js.nk")?;
        let issuer = self.nkey("callout.nk", NkeyKind::Account)?.public();
        let xkey = self.xkey()?.public();
        let accounts = if self.is_operator_mode {
            AccountsConfig::Operator(self.vouched(&stored, broker, operator, issuer, xkey)?)
        } else {
            AccountsConfig::Plain(PlainAccounts {
                issuer,
                xkey,
                brokers: vec![broker],
                operators: vec![operator],
                stored,
            })
        };
        let config = ServerConfig {
            server_name: "bulla-dev".to_owned(),
            listening: Listening::loopback(port),
            store_dir: self.path("jetstream"),
            accounts,
        };
        let config_file = self.path("nats-server.conf");
        write(&config_file, config.render().as_bytes())?;
        Ok(EngineConfig {
            config_file,
            log_file: self.path("logs/nats-server.log"),
            run_dir: self.path("run"),
        })
    }

    /// Makes the accounts and users of an operator of our own.
    fn vouched(
        &self,
        stored: &[SubjectPattern],
        broker: BrokerUsers,
        operator: Nkey,
        issuer: Nkey,
        xkey: Nkey,
    ) -> Result<OperatorAccounts, ProvisionError> {
        let now = clock::now();
        let key = self.nkey("operator.nk", NkeyKind::Operator)?;
        let [auth, js, app, sys] = ["AUTH", "JS", "APP", "SYS"]
            .map(|name| self.nkey(&format!("{name}.nk"), NkeyKind::Account));
        let (auth, js, app, sys) = (auth?, js?, app?.public(), sys?);
        for (account, user, name) in [
            (&auth, broker.auth, "broker-auth"),
            (&js, broker.js, "broker-js"),
            (&sys, broker.sys, "broker-sys"),
        ] {
            let jwt = nats_accounts::broker_user(account, user, name, None, now);
            write(&self.path(&format!("keys/{name}.jwt")), jwt.as_bytes())?;
        }
        let jwt = nats_accounts::operator_user(&js, operator, None, now);
        write(&self.path("keys/operator-js.jwt"), jwt.as_bytes())?;
        let sentinel = self.nkey("sentinel.nk", NkeyKind::User)?.public();
        let accounts = Accounts {
            operator: &key,
            auth: &auth,
            js: &js,
            app,
            issuers: &[issuer],
            xkey,
            answering: &[broker.auth],
            stored,
        };
        let system = sys.public();
        Ok(OperatorAccounts {
            operator: nats_accounts::operator(&key, &[key.public()], system, None, now),
            system,
            accounts: vec![
                (system, nats_accounts::system(&key, system, None, now)),
                (auth.public(), accounts.auth(None, now)),
                (js.public(), accounts.js(None, now)),
                (app, accounts.app(None, now)),
            ],
            sentinel: nats_accounts::sentinel(&auth, sentinel, None, now),
            resolver_dir: None,
        })
    }

    /// Writes `broker.toml` and gives its path.
    ///
    /// # Errors
    /// If a key or the file cannot be used.
    pub fn write_broker_config(
        &self,
        nats_url: &str,
        policy: &Policy,
        credential_lifetime: Duration,
    ) -> Result<PathBuf, ProvisionError> {
        let domain = policy.trust_domain();
        let exchanger = policy.workloads().iter().find(|w| w.exchanges());
        let exchange = exchanger.map_or_else(String::new, |workload| {
            format!(
                "\n[exchange]\nworkload = \"{}\"\nseed_file = \"keys/{}.nk\"\n",
                workload.id(),
                workload.name()
            )
        });
        let mode = if self.is_operator_mode {
            let account = self.nkey("APP.nk", NkeyKind::Account)?.public();
            format!("\n[operator_mode]\naccount = \"{account}\"\n")
        } else {
            String::new()
        };
        let path = self.path("broker.toml");
        let lifetime = humantime::format_duration(credential_lifetime);
        let text = format!(
            r#"# Written by bulla; changes are overwritten.
nats_url = "{nats_url}"
# This broker is alone, so it answers for both queue groups of the callout.
group = "both"
credential_lifetime = "{lifetime}"

[keys]
issuer = "keys/callout.nk"
xkey = "keys/xkey.nk"
auth = "keys/broker-auth.nk"
js = "keys/broker-js.nk"
sys = "keys/broker-sys.nk"
issuing = "keys/issuing.key"

[trust]
domain = "{domain}"
root = "trust/root.pub"
bundle = "trust/bundle"
policy = "trust/policy"
# Not there as long as nothing is revoked.
revocations = "trust/revocations"
{exchange}{mode}"#
        );
        write(&path, text.as_bytes())?;
        Ok(path)
    }

    fn nkey(&self, name: &str, kind: NkeyKind) -> Result<NkeySeed, ProvisionError> {
        let text = self.secret(name, |random| {
            Ok(NkeySeed::from_random(kind, random)?.to_seed_text())
        })?;
        let seed = NkeySeed::parse(&text).map_err(|source| self.seed_fault(name, source))?;
        if seed.kind() != kind {
            let expected = match kind {
                NkeyKind::User => "a user seed",
                NkeyKind::Operator => "an operator's seed",
                _ => "an account seed",
            };
            return Err(self.seed_fault(name, SeedError::WrongKind { expected }));
        }
        Ok(seed)
    }

    fn xkey(&self) -> Result<CurveSeed, ProvisionError> {
        let text = self.secret("xkey.nk", |random| {
            Ok(CurveSeed::from_random(random).to_seed_text())
        })?;
        CurveSeed::parse(&text).map_err(|source| self.seed_fault("xkey.nk", source))
    }

    fn authority(&self, name: &str, role: AuthorityRole) -> Result<AuthoritySeed, ProvisionError> {
        let text = self.secret(name, |random| {
            Ok(AuthoritySeed::from_random(role, random).to_secret_text())
        })?;
        AuthoritySeed::parse(role, &text).map_err(|source| ProvisionError::Authority {
            path: self.dir.join("keys").join(name),
            source,
        })
    }

    fn secret(
        &self,
        name: &str,
        make: impl FnOnce(&[u8; 32]) -> Result<SecretString, ProvisionError>,
    ) -> Result<Zeroizing<String>, ProvisionError> {
        let path = self.dir.join("keys").join(name);
        if !path.exists() {
            let mut random = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *random).map_err(ProvisionError::Random)?;
            secret_file::create(&path, make(&random)?.as_bytes())?;
        }
        Ok(secret_file::read_line(&path)?)
    }

    fn seed_fault(&self, name: &str, source: SeedError) -> ProvisionError {
        ProvisionError::Seed {
            path: self.dir.join("keys").join(name),
            source,
        }
    }
}

/// Replaces a file in one step: readers see the old one or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), ProvisionError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(at(path))?;
    file.write_all(bytes).map_err(at(path))?;
    file.as_file().sync_all().map_err(at(path))?;
    file.persist(path).map_err(|error| at(path)(error.error))?;
    Ok(())
}

/// The file's bytes, or nothing if there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ProvisionError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ProvisionError {
    let path = path.to_owned();
    move |source| ProvisionError::File { path, source }
}

/// Why the files are not there.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// A file or directory cannot be used.
    #[error("cannot use `{}`", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A secret file cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// A file holds no seed of the right kind.
    #[error("the key file `{}` is damaged: restore it, or delete it to get a new key", path.display())]
    Seed {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: SeedError,
    },
    /// A fresh seed cannot be made.
    #[error(transparent)]
    FreshSeed(#[from] SeedError),
    /// A file holds no authority's key of the right role.
    #[error("the key file `{}` is damaged: restore it, or delete it to get a new key", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: AuthorityKeyError,
    },
    /// A key of the broker's would be overwritten.
    #[error("a workload cannot be named `{0}`: the broker has a key file of that name")]
    ReservedName(WorkloadName),
    /// Not a workload's name.
    #[error("not a workload's name")]
    Name(#[from] IdentityError),
    /// The policy does not load.
    #[error(transparent)]
    Policy(#[from] PolicyErrors),
    /// Something cannot be signed.
    #[error("cannot sign")]
    Sign(#[from] TrustError),
    /// No random bytes.
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::BrokerConfig;

    fn text(provision: &Provision, extra: &str) -> String {
        let name = WorkloadName::parse("orders").unwrap();
        let nkey = provision.workload(&name).unwrap();
        format!(
            "version = 1\ntrust_domain = \"acme.example\"\n[workload.orders]\nattest = [{{ nkey = \"{nkey}\" }}]\n{extra}"
        )
    }

    #[test]
    fn revisions_rise_with_changes_only_and_versions_always() {
        let dir = tempfile::tempdir().unwrap();
        let provision = Provision::open(dir.path()).unwrap();
        let first = text(&provision, "");
        let sign = |text: &str| provision.sign_policy("policy.toml", text).unwrap().1;
        assert_eq!(sign(&first), 1);
        assert_eq!(sign(&first), 1);
        assert_eq!(sign(&text(&provision, "# changed\n")), 2);
        assert_eq!(sign(&first), 3);
    }

    #[test]
    fn what_is_written_makes_a_broker_and_secrets_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let provision = Provision::open(dir.path()).unwrap();
        let (policy, _) = provision
            .sign_policy("policy.toml", &text(&provision, ""))
            .unwrap();
        provision.write_server_config(None, &policy).unwrap();
        let url = "nats://127.0.0.1:4222";
        let lifetime = Duration::from_secs(3600);
        let path = provision
            .write_broker_config(url, &policy, lifetime)
            .unwrap();
        let config = BrokerConfig::load(&path).unwrap();
        assert_eq!(config.credential_lifetime, lifetime);
        let mut keys = 0;
        for entry in std::fs::read_dir(provision.path("keys")).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().mode();
            assert_eq!(mode & 0o777, 0o600);
            keys += 1;
        }
        assert_eq!(keys, 10);
    }

    #[test]
    fn a_broken_policy_is_signed_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let provision = Provision::open(dir.path()).unwrap();
        assert!(provision.sign_policy("policy.toml", "version = 2").is_err());
        assert!(!provision.path("trust/policy").exists());
    }
}
