//! `broker.toml`: everything one broker needs, read and checked before anything
//! starts.

mod raw;
mod settings;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_identity::{Nkey, NkeyKind, TrustDomain, WorkloadId};
use bulla_keyring::{AuthorityKey, AuthorityRole, CurveSeed, NkeySeed};
use bulla_process::{Zeroizing, secret_file};
use bytes::Bytes;

use raw::{Raw, RawAudit, RawOperatorMode, RawTls};
pub use settings::{Origin, Setting};

use crate::bus_user::BusUser;
use crate::callout::Group;
use crate::cli::chain;
use crate::control::AuditRetention;
use crate::issuing::IssuingKeys;

/// A broker's settings, keys included.
#[derive(Debug)]
pub struct BrokerConfig {
    /// Where nats-server is.
    pub nats_url: String,
    /// How it speaks TLS to it.
    pub tls: BusTls,
    /// Which queue groups of the callout it joins.
    pub group: Group,
    /// Its keys.
    pub keys: BrokerKeys,
    /// The trust domain that it serves.
    pub trust_domain: TrustDomain,
    /// The public keys that it trusts above all: one, or several while the root
    /// is replaced.
    pub roots: Vec<AuthorityKey>,
    /// The signed trust bundle.
    pub bundle: Bytes,
    /// The signed policy.
    pub policy: Bytes,
    /// Where these two were read, to be looked at again.
    pub files: TrustFiles,
    /// The signed revocation list that it knows of, if it was given one: an older
    /// one on the control stream is not taken.
    pub revocations: Option<Bytes>,
    /// How long a message credential is good for.
    pub credential_lifetime: Duration,
    /// For how long it goes by what it has read without reading it again.
    pub state_max_age: Duration,
    /// What it has to know of a nats-server in operator mode.
    pub operator_mode: Option<OperatorMode>,
    /// As whom it exchanges users' tokens, if it does.
    pub exchange: Option<ExchangeConfig>,
    /// How much of the audit log is kept.
    pub audit: AuditRetention,
    /// On how many nodes each of Bulla's own streams lies.
    pub replicas: usize,
    /// Where operators ask for readiness and metrics; nowhere if it is not said.
    pub admin: Option<SocketAddr>,
    /// Every setting as it counts, and who says so.
    pub settings: Vec<Setting>,
}

/// What a broker has to know of a nats-server whose accounts are an operator's JWTs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorMode {
    /// The account `APP` (`A…`), of which [`BrokerKeys::issuer`] is a signing key.
    pub account: Nkey,
    /// What becomes of connections that a change of the policy concerns.
    pub on_change: OnChange,
}

/// What becomes of a connection that may do more or less than when it was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnChange {
    /// nats-server asks about all of its connections anew, and they go on.
    #[default]
    Reauthorise,
    /// It is ended, as with a plain configuration, and connects anew.
    Reconnect,
}

/// TLS to nats-server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusTls {
    /// The certificate authorities (PEM) that count; the system's where there are none.
    pub ca: Option<PathBuf>,
    /// A certificate and its key (PEM), where the server asks for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// The workload under which a broker exchanges users' tokens.
#[derive(Debug, Clone)]
pub struct ExchangeConfig {
    /// The workload; the policy says `exchanges = true` of it.
    pub workload: WorkloadId,
    /// The file with its nkey seed (`SU…`).
    pub seed_file: PathBuf,
    /// The file with the trust root's public key.
    pub root_file: PathBuf,
    /// How it speaks TLS to nats-server.
    pub tls: BusTls,
}

/// The files of the operator that a broker follows.
#[derive(Debug, Clone)]
pub struct TrustFiles {
    /// The signed trust bundle.
    pub bundle: PathBuf,
    /// The signed policy.
    pub policy: PathBuf,
    /// The signed revocation list; it need not be there.
    pub revocations: Option<PathBuf>,
}

/// The secrets of one broker.
#[derive(Debug)]
pub struct BrokerKeys {
    /// Signs the callout's answers (`SA…`).
    pub issuer: NkeySeed,
    /// Opens the callout's requests (`SX…`).
    pub xkey: CurveSeed,
    /// The broker's user in the account `AUTH`.
    pub auth: BusUser,
    /// The broker's user in the account `JS`.
    pub js: BusUser,
    /// The broker's user in the account `SYS`.
    pub sys: BusUser,
    /// Sign message credentials.
    pub issuing: IssuingKeys,
}

impl BrokerConfig {
    /// Reads a configuration file and every file that it names. Relative paths
    /// start at the configuration file's directory. What a variable `BULLA_BROKER_…` of
    /// the environment says counts in the place of the file's.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, std::env::vars_os())
    }

    /// The same with these variables of the environment.
    ///
    /// # Errors
    /// As [`BrokerConfig::load`].
    pub fn load_with(
        path: &Path,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::one(path, format!("cannot be read: {error}")))?;
        let misread = |error: toml::de::Error| {
            ConfigError::one(path, error.to_string().trim_end().to_owned())
        };
        let mut raw: Raw = toml::from_str(&text).map_err(misread)?;
        let file: toml::Table = toml::from_str(&text).map_err(misread)?;
        let mut problems = Vec::new();
        let settings = settings::replace(&mut raw, &file, variables, &mut problems);
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut reader = Reader { dir, problems };

        let group = reader.check("group", raw.group.parse::<Group>());
        let credential_lifetime = reader.within(
            "credential_lifetime",
            &raw.credential_lifetime,
            &CREDENTIAL_LIFETIMES,
        );
        let state_max_age = reader.within("state_max_age", &raw.state_max_age, &STATE_MAX_AGES);
        let issuer = reader.nkey("keys.issuer", &raw.keys.issuer, NkeyKind::Account);
        let auth = reader.user("keys.auth", &raw.keys.auth);
        let js = reader.user("keys.js", &raw.keys.js);
        let sys = reader.user("keys.sys", &raw.keys.sys);
        let xkey = reader.secret("keys.xkey", &raw.keys.xkey, CurveSeed::parse);
        let issuing = IssuingKeys::read(&dir.join(&raw.keys.issuing));
        let issuing = reader.check("keys.issuing", issuing.map_err(|error| chain(&error)));
        let domain = TrustDomain::parse(&raw.trust.domain);
        let trust_domain = reader.check("trust.domain", domain);
        let roots = reader.public("trust.root", &raw.trust.root);
        let bundle = reader.bytes("trust.bundle", &raw.trust.bundle);
        let policy = reader.bytes("trust.policy", &raw.trust.policy);
        let revocations = match &raw.trust.revocations {
            Some(path) => reader.bytes_if_there("trust.revocations", path),
            None => None,
        };

        let tls = raw.tls.read(&mut reader);
        let exchange = raw.exchange.as_ref().and_then(|exchange| {
            let workload = WorkloadId::parse(&exchange.workload);
            let workload = reader.check("exchange.workload", workload);
            // Read again when it is used; here only to say at once if it cannot.
            let seed = reader.nkey("exchange.seed_file", &exchange.seed_file, NkeyKind::User);
            let (workload, _) = (workload?, seed?);
            Some(ExchangeConfig {
                workload,
                seed_file: dir.join(&exchange.seed_file),
                root_file: dir.join(&raw.trust.root),
                tls: tls.clone(),
            })
        });
        let operator_mode = raw
            .operator_mode
            .as_ref()
            .and_then(|mode| mode.read(&mut reader));
        let audit = raw.audit.read(&mut reader);
        let replicas = raw.streams.replicas;
        if !REPLICAS.contains(&replicas) {
            reader.problems.push(format!(
                "`streams.replicas`: `{replicas}` is none of 1, 3 and 5"
            ));
        }
        let files = TrustFiles {
            bundle: dir.join(&raw.trust.bundle),
            policy: dir.join(&raw.trust.policy),
            revocations: raw.trust.revocations.as_ref().map(|path| dir.join(path)),
        };
        let problems = reader.problems;
        match (
            group,
            credential_lifetime,
            issuer,
            state_max_age,
            auth,
            (js, sys),
            xkey,
            issuing,
            trust_domain,
            roots,
            bundle,
            policy,
        ) {
            (
                Some(group),
                Some(credential_lifetime),
                Some(issuer),
                Some(state_max_age),
                Some(auth),
                (Some(js), Some(sys)),
                Some(xkey),
                Some(issuing),
                Some(trust_domain),
                Some(roots),
                Some(bundle),
                Some(policy),
            ) if problems.is_empty() => Ok(Self {
                nats_url: raw.nats_url,
                tls,
                group,
                keys: BrokerKeys {
                    issuer,
                    xkey,
                    auth,
                    js,
                    sys,
                    issuing,
                },
                trust_domain,
                roots,
                bundle,
                policy,
                files,
                revocations,
                credential_lifetime,
                state_max_age,
                operator_mode,
                exchange,
                audit,
                replicas,
                admin: raw.admin.map(|admin| admin.address),
                settings,
            }),
            _ => Err(ConfigError {
                path: path.to_owned(),
                problems,
            }),
        }
    }
}

/// Collects what is wrong and goes on.
struct Reader<'a> {
    dir: &'a Path,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn check<T, E: fmt::Display>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.problems.push(format!("`{key}`: {error}")))
            .ok()
    }

    fn secret<T, E: fmt::Display>(
        &mut self,
        key: &str,
        path: &Path,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text: Result<Zeroizing<String>, _> = secret_file::read_line(&self.dir.join(path));
        let text = self.check(key, text.map_err(|error| chain(&error)))?;
        let parsed = parse(&text).map_err(|error| format!("`{}`: {error}", path.display()));
        self.check(key, parsed)
    }

    fn nkey(&mut self, key: &str, path: &Path, kind: NkeyKind) -> Option<NkeySeed> {
        let seed = self.secret(key, path, NkeySeed::parse)?;
        if seed.kind() != kind {
            let kind = if kind == NkeyKind::User {
                "user (`SU…`)"
            } else {
                "account (`SA…`)"
            };
            let path = path.display();
            self.problems
                .push(format!("`{key}`: `{path}` holds no {kind} seed"));
            return None;
        }
        Some(seed)
    }

    fn user(&mut self, key: &str, path: &Path) -> Option<BusUser> {
        let read = BusUser::read(&self.dir.join(path)).map_err(|error| chain(&error));
        self.check(key, read)
    }

    fn public(&mut self, key: &str, path: &Path) -> Option<Vec<AuthorityKey>> {
        let bytes = self.bytes(key, path)?;
        let text = String::from_utf8_lossy(&bytes);
        let parsed = AuthorityKey::parse_list(AuthorityRole::Root, &text)
            .map_err(|error| format!("`{}`: {error}", path.display()));
        self.check(key, parsed)
    }

    fn bytes(&mut self, key: &str, path: &Path) -> Option<Bytes> {
        let read = std::fs::read(self.dir.join(path))
            .map_err(|error| format!("cannot read `{}`: {error}", path.display()));
        self.check(key, read).map(Bytes::from)
    }

    /// The bytes of a file that need not be there yet.
    fn bytes_if_there(&mut self, key: &str, path: &Path) -> Option<Bytes> {
        match std::fs::read(self.dir.join(path)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            read => {
                let read =
                    read.map_err(|error| format!("cannot read `{}`: {error}", path.display()));
                self.check(key, read).map(Bytes::from)
            }
        }
    }

    fn within(
        &mut self,
        key: &str,
        text: &str,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let duration = self.check(key, humantime::parse_duration(text))?;
        if !range.contains(&duration) {
            self.problems.push(format!(
                "`{key}`: `{text}` is outside {} to {}",
                humantime::format_duration(*range.start()),
                humantime::format_duration(*range.end()),
            ));
            return None;
        }
        Some(duration)
    }
}

/// Everything that is wrong with a configuration file.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    problems: Vec<String>,
}

impl ConfigError {
    fn one(path: &Path, problem: String) -> Self {
        Self {
            path: path.to_owned(),
            problems: vec![problem],
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the configuration `{}` is not usable:",
            self.path.display()
        )?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl RawOperatorMode {
    fn read(&self, reader: &mut Reader<'_>) -> Option<OperatorMode> {
        let account = Nkey::parse(&self.account)
            .ok()
            .filter(|nkey| nkey.kind() == NkeyKind::Account)
            .ok_or("no account's public nkey (`A…`)");
        let account = reader.check("operator_mode.account", account);
        let on_change = match &*self.on_change {
            "reauthorise" => Ok(OnChange::Reauthorise),
            "reconnect" => Ok(OnChange::Reconnect),
            other => Err(format!(
                "`{other}` is none of `reauthorise` and `reconnect`"
            )),
        };
        let on_change = reader.check("operator_mode.on_change", on_change);
        Some(OperatorMode {
            account: account?,
            on_change: on_change?,
        })
    }
}

impl RawAudit {
    fn read(&self, reader: &mut Reader<'_>) -> AuditRetention {
        let mut audit = AuditRetention::default();
        if let Some(keep) = reader.within("audit.keep", &self.keep, &AUDIT_KEEP) {
            audit.keep = keep;
        }
        let mebibytes = self.max_mebibytes;
        if !AUDIT_MEBIBYTES.contains(&mebibytes) {
            let (least, most) = (AUDIT_MEBIBYTES.start(), AUDIT_MEBIBYTES.end());
            reader.problems.push(format!(
                "`audit.max_mebibytes`: `{mebibytes}` is outside {least} to {most}"
            ));
        }
        audit.max_bytes = mebibytes.saturating_mul(1 << 20);
        let percent = self.workload_percent;
        if !(1..=100).contains(&percent) {
            reader.problems.push(format!(
                "`audit.workload_percent`: `{percent}` is outside 1 to 100"
            ));
        }
        audit.workload_percent = percent;
        audit
    }
}

impl RawTls {
    /// The files; they are read at each connection, here only to say at once if they
    /// cannot be.
    fn read(&self, reader: &mut Reader<'_>) -> BusTls {
        let dir = reader.dir.to_owned();
        let at = |path: &PathBuf| dir.join(path);
        for (key, path) in [("tls.ca", &self.ca), ("tls.certificate", &self.certificate)] {
            if let Some(path) = path {
                reader.bytes(key, path);
            }
        }
        if let Some(path) = &self.key {
            let read = secret_file::read(&dir.join(path)).map_err(|error| chain(&error));
            reader.check("tls.key", read);
        }
        if self.certificate.is_some() != self.key.is_some() {
            let problem = "`tls.certificate` and `tls.key` come together";
            reader.problems.push(problem.to_owned());
        }
        BusTls {
            ca: self.ca.as_ref().map(at),
            certificate: self
                .certificate
                .as_ref()
                .map(at)
                .zip(self.key.as_ref().map(at)),
        }
    }
}

/// A second is for tests; an hour is how old a policy may be elsewhere.
const STATE_MAX_AGES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Minutes are for tests; ten years is the longest that anybody asks for.
const AUDIT_KEEP: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(3653 * 24 * 3600);

/// What a majority can be made of.
const REPLICAS: [usize; 3] = [1, 3, 5];

/// Up to a pebibyte.
const AUDIT_MEBIBYTES: RangeInclusive<u64> = 1..=1 << 30;

/// Seconds are for tests; a day is the most that a lost process key is worth.
const CREDENTIAL_LIFETIMES: RangeInclusive<Duration> =
    Duration::from_secs(2)..=Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_at_once_and_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.toml");
        secret_file::create(&dir.path().join("issuer.nk"), b"SASECRETSECRET").unwrap();
        std::fs::write(
            &path,
            r#"
            nats_url = "nats://127.0.0.1:4222"
            group = "c"
            credential_lifetime = "400 days"
            state_max_age = "0s"
            streams = { replicas = 2 }
            admin = { address = "127.0.0.1:1" }
            [keys]
            issuer = "issuer.nk"
            xkey = "missing.nk"
            auth = "missing.nk"
            js = "missing.nk"
            sys = "missing.nk"
            issuing = "missing.key"
            [trust]
            domain = "not a domain"
            root = "root.pub"
            bundle = "bundle"
            policy = "policy"
            "#,
        )
        .unwrap();
        let text = BrokerConfig::load(&path).unwrap_err().to_string();
        for part in [
            "`group`",
            "`streams.replicas`",
            "`c`",
            "`credential_lifetime`",
            "`keys.issuer`",
            "`keys.xkey`",
            "`keys.auth`",
            "`keys.js`",
            "`keys.sys`",
            "`state_max_age`",
            "`keys.issuing`",
            "`trust.domain`",
            "`trust.root`",
            "`trust.bundle`",
            "`trust.policy`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("SECRETSECRET"), "{text}");
    }

    #[test]
    fn an_unknown_key_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.toml");
        std::fs::write(&path, "nats_url = \"nats://x\"\nnats_ulr = 1\n").unwrap();
        let text = BrokerConfig::load(&path).unwrap_err().to_string();
        assert!(text.contains("line 2"), "{text}");
        assert!(text.contains("nats_ulr"), "{text}");
    }

    #[test]
    fn the_environment_replaces_what_the_file_says_and_a_misspelt_word_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let provision = crate::provision::Provision::open(dir.path()).unwrap();
        let text = "version = 1\ntrust_domain = \"acme.example\"\n";
        let (policy, _) = provision.sign_policy("policy.toml", text).unwrap();
        provision.write_server_config(None, &policy).unwrap();
        let path = provision
            .write_broker_config("nats://127.0.0.1:1", &policy, Duration::from_secs(60))
            .unwrap();
        let load = |given: &[(&str, &str)]| {
            let given = given
                .iter()
                .map(|(name, value)| (name.into(), value.into()));
            BrokerConfig::load_with(&path, given.collect::<Vec<_>>().into_iter())
        };
        let config = load(&[
            ("PATH", "/bin"),
            ("BULLA_BROKER_CONFIG", "elsewhere.toml"),
            ("BULLA_BROKER_NATS_URL", "nats://127.0.0.1:2"),
            ("BULLA_BROKER_ADMIN__ADDRESS", "127.0.0.1:9"),
            ("BULLA_BROKER_STREAMS__REPLICAS", "3"),
            ("BULLA_BROKER_STATE_MAX_AGE", "10s"),
        ])
        .unwrap();
        assert_eq!(config.nats_url, "nats://127.0.0.1:2");
        assert_eq!(config.admin, Some("127.0.0.1:9".parse().unwrap()));
        assert_eq!(config.replicas, 3);
        assert_eq!(config.state_max_age, Duration::from_secs(10));
        let of = |key: &str| {
            let setting = config.settings.iter().find(|s| s.key == key).unwrap();
            (setting.value.as_str(), setting.origin)
        };
        assert_eq!(of("nats_url"), ("nats://127.0.0.1:2", Origin::Environment));
        assert_eq!(of("credential_lifetime"), ("1m", Origin::File));
        assert_eq!(of("audit.keep"), ("30d", Origin::Default));
        assert_eq!(of("exchange.workload"), ("", Origin::Default));
        let error = load(&[
            ("BULLA_BROKER_NATS_ULR", "nats://127.0.0.1:2"),
            ("BULLA_BROKER_STREAMS__REPLICAS", "two"),
            ("BULLA_BROKER_GROUP", "c"),
        ]);
        let error = error.unwrap_err().to_string();
        for part in ["`BULLA_BROKER_NATS_ULR`", "`two`", "`group`"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
