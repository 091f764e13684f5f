//! What a service says to connect: who it is, where the bus is, whom it trusts.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::Bounds;
use bulla_identity::WorkloadId;
use bulla_keyring::SigningKey;

use crate::audit::{AuditOptions, RecordUsers};
use crate::certificate::CertificateFiles;
use crate::content::ContentType;
use crate::enforcer_report::EnforcerKind;
use crate::telemetry::Recorder;

/// Variables that [`ConnectOptions::from_env`] reads.
pub mod variables {
    /// The bus, for example `nats://127.0.0.1:4222` or `tls://bus.acme.example`.
    pub const NATS_URL: &str = "BULLA_NATS_URL";
    /// This process's workload, for example `spiffe://acme.example/orders`.
    pub const WORKLOAD: &str = "BULLA_WORKLOAD";
    /// The file that holds the workload's nkey seed (mode 0600). Where the policy lets a
    /// token or a certificate prove the workload it need not be there.
    pub const SEED_FILE: &str = "BULLA_SEED_FILE";
    /// The file that pins the trust root: its public key, or one on each line
    /// while it is replaced.
    pub const TRUST_ROOT_FILE: &str = "BULLA_TRUST_ROOT_FILE";
    /// Instead of that file: the keys themselves, on one line each or apart by
    /// white space.
    pub const TRUST_ROOT: &str = "BULLA_TRUST_ROOT";
    /// Optional: a PEM file of certificate authorities for TLS to the bus.
    pub const TLS_CA_FILE: &str = "BULLA_TLS_CA_FILE";
    /// Optional: the workload's certificate, PEM, leaf first; with its key it
    /// vouches for this process's credentials.
    pub const CERTIFICATE_FILE: &str = "BULLA_CERTIFICATE_FILE";
    /// The certificate's private key (PEM, mode 0600).
    pub const CERTIFICATE_KEY_FILE: &str = "BULLA_CERTIFICATE_KEY_FILE";
    /// Optional: a file with a token that proves this workload when it connects, for
    /// example a projected service-account token of Kubernetes; read at each connection.
    pub const TOKEN_FILE: &str = "BULLA_TOKEN_FILE";
    /// Optional: the directory where this process keeps its credential.
    pub const STATE_DIR: &str = "BULLA_STATE_DIR";
    /// Optional: the version of the workload's encryption keys, 1 or more.
    pub const KEM_VERSION: &str = "BULLA_KEM_VERSION";
    /// Optional: for how many seconds revocations count without a newer head.
    pub const REVOCATIONS_BOUND: &str = "BULLA_REVOCATIONS_BOUND_SECONDS";
    /// Optional: the same for policy and trust bundle.
    pub const POLICY_BOUND: &str = "BULLA_POLICY_BOUND_SECONDS";
    /// Optional: of how many allowed messages of a grant one is recorded.
    pub const AUDIT_SAMPLE: &str = "BULLA_AUDIT_SAMPLE";
    /// Optional: what the audit log keeps of users, `names`, `pseudonyms` or `nothing`.
    pub const AUDIT_USERS: &str = "BULLA_AUDIT_USERS";
}

/// How to connect. Secrets are named by file, never by value.
///
/// ```
/// use bulla_sdk::ConnectOptions;
/// use bulla_identity::WorkloadId;
///
/// let options = ConnectOptions::new(
///     "nats://127.0.0.1:4222",
///     WorkloadId::parse("spiffe://acme.example/orders")?,
///     "keys/orders.nk",
///     "trust/root.pub",
/// );
/// # Ok::<(), bulla_identity::IdentityError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    pub(crate) nats_url: String,
    pub(crate) workload: WorkloadId,
    pub(crate) seed_file: Option<PathBuf>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) trust_root_file: PathBuf,
    /// Instead of the file's.
    pub(crate) trust_root: Option<String>,
    pub(crate) tls_ca_file: Option<PathBuf>,
    pub(crate) token_key: Option<Arc<SigningKey>>,
    pub(crate) content_type: ContentType,
    pub(crate) request_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) clock_skew: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) subscription_capacity: usize,
    pub(crate) danger_plaintext: bool,
    pub(crate) bounds: Bounds,
    pub(crate) kem_version: u64,
    pub(crate) data_key_life: Duration,
    pub(crate) data_key_uses: u64,
    pub(crate) certificate: Option<CertificateFiles>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) is_sole: bool,
    pub(crate) kind: EnforcerKind,
    pub(crate) audit: AuditOptions,
    pub(crate) recorder: Option<SharedRecorder>,
}

/// Shown without what it records.
#[derive(Clone)]
pub(crate) struct SharedRecorder(pub(crate) Arc<dyn Recorder>);

impl fmt::Debug for SharedRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl ConnectOptions {
    /// Options with defaults for everything but who and where.
    #[must_use]
    pub fn new(
        nats_url: impl Into<String>,
        workload: WorkloadId,
        seed_file: impl Into<PathBuf>,
        trust_root_file: impl Into<PathBuf>,
    ) -> Self {
        Self {
            nats_url: nats_url.into(),
            workload,
            seed_file: Some(seed_file.into()),
            token_file: None,
            trust_root_file: trust_root_file.into(),
            trust_root: None,
            tls_ca_file: None,
            token_key: None,
            content_type: ContentType::MessagePack,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            clock_skew: Duration::from_secs(2),
            max_in_flight: 256,
            subscription_capacity: 65_536,
            danger_plaintext: false,
            bounds: Bounds::default(),
            kem_version: 1,
            data_key_life: Duration::from_secs(600),
            data_key_uses: 1 << 28,
            certificate: None,
            state_dir: None,
            is_sole: false,
            kind: EnforcerKind::Service,
            audit: AuditOptions::default(),
            recorder: None,
        }
    }

    /// The same for a workload that has no nkey: a token proves it, which is read from
    /// this file at each connection, because something else renews it.
    ///
    /// Without an nkey nothing but replies can be encrypted to it, and where no
    /// certificate does, only a broker vouches for what it sends; the policy says that
    /// this is enough.
    ///
    /// # Security
    /// Whoever reads the file can connect as the workload until the token ends.
    #[must_use]
    pub fn by_token(
        nats_url: impl Into<String>,
        workload: WorkloadId,
        token_file: impl Into<PathBuf>,
        trust_root_file: impl Into<PathBuf>,
    ) -> Self {
        let mut options = Self::new(nats_url, workload, PathBuf::new(), trust_root_file);
        options.seed_file = None;
        options.token_file = Some(token_file.into());
        options
    }

    /// The same for a workload that has no nkey, and a certificate that proves it in
    /// the TLS handshake: PEM files as in [`ConnectOptions::certificate`], read at each
    /// connection.
    ///
    /// nats-server has to ask for certificates (`tls.verify`). Without an nkey nothing
    /// but replies can be encrypted to the workload.
    #[must_use]
    pub fn by_certificate(
        nats_url: impl Into<String>,
        workload: WorkloadId,
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        trust_root_file: impl Into<PathBuf>,
    ) -> Self {
        let mut options = Self::new(nats_url, workload, PathBuf::new(), trust_root_file);
        options.seed_file = None;
        options.certificate(chain, key)
    }

    /// Reads the variables named in [`variables`].
    ///
    /// # Errors
    /// [`OptionsError`] lists everything that is missing or malformed at once.
    pub fn from_env() -> Result<Self, OptionsError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    pub(crate) fn from_lookup(
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, OptionsError> {
        let mut problems = Vec::new();
        let mut required = |name: &'static str| {
            lookup(name).filter(|v| !v.is_empty()).unwrap_or_else(|| {
                problems.push(format!("`{name}` is not set"));
                String::new()
            })
        };
        let nats_url = required(variables::NATS_URL);
        let workload = required(variables::WORKLOAD);
        // Something has to prove it; an nkey is what is asked for.
        let has_other = [variables::TOKEN_FILE, variables::CERTIFICATE_FILE]
            .iter()
            .any(|name| lookup(name).is_some_and(|path| !path.is_empty()));
        let seed_file = if has_other {
            lookup(variables::SEED_FILE).unwrap_or_default()
        } else {
            required(variables::SEED_FILE)
        };
        let trust_root = lookup(variables::TRUST_ROOT).filter(|keys| !keys.trim().is_empty());
        let trust_root_file = match &trust_root {
            Some(_) => String::new(),
            None => required(variables::TRUST_ROOT_FILE),
        };
        let workload = match WorkloadId::parse(&workload) {
            Ok(id) => Some(id),
            Err(_) if workload.is_empty() => None,
            Err(e) => {
                problems.push(format!("`{}`: {e}", variables::WORKLOAD));
                None
            }
        };
        let kem_version = match lookup(variables::KEM_VERSION) {
            Some(text) if !text.is_empty() => {
                text.parse().ok().filter(|v| *v >= 1).unwrap_or_else(|| {
                    problems.push(format!(
                        "`{}` is not a whole number from 1",
                        variables::KEM_VERSION
                    ));
                    1
                })
            }
            _ => 1,
        };
        let mut seconds = |name: &'static str| {
            let text = lookup(name).filter(|text| !text.is_empty())?;
            let seconds = text.parse().ok().filter(|seconds| *seconds >= 1);
            if seconds.is_none() {
                problems.push(format!("`{name}` is not a whole number from 1"));
            }
            seconds.map(Duration::from_secs)
        };
        let (revocations, policy) = (
            seconds(variables::REVOCATIONS_BOUND),
            seconds(variables::POLICY_BOUND),
        );
        let path = |name: &str| {
            lookup(name)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        };
        let (chain, key) = (
            path(variables::CERTIFICATE_FILE),
            path(variables::CERTIFICATE_KEY_FILE),
        );
        if chain.is_some() != key.is_some() {
            problems.push(format!(
                "`{}` and `{}` come together",
                variables::CERTIFICATE_FILE,
                variables::CERTIFICATE_KEY_FILE
            ));
        }
        let mut audit = AuditOptions::default();
        match lookup(variables::AUDIT_SAMPLE).as_deref() {
            None | Some("") => {}
            Some(text) => match text.parse() {
                Ok(every) if every >= 1 => audit = audit.sample(every),
                _ => problems.push(format!(
                    "`{}` is not a whole number from 1",
                    variables::AUDIT_SAMPLE
                )),
            },
        }
        match lookup(variables::AUDIT_USERS).as_deref() {
            None | Some("" | "pseudonyms") => {}
            Some("names") => audit = audit.users(RecordUsers::Names),
            Some("nothing") => audit = audit.users(RecordUsers::Nothing),
            Some(_) => problems.push(format!(
                "`{}` is none of `names`, `pseudonyms` and `nothing`",
                variables::AUDIT_USERS
            )),
        }
        match workload {
            Some(workload) if problems.is_empty() => {
                let mut options = Self::new(nats_url, workload, seed_file, trust_root_file);
                options.seed_file = options.seed_file.filter(|p| !p.as_os_str().is_empty());
                options.token_file = path(variables::TOKEN_FILE);
                options.tls_ca_file = lookup(variables::TLS_CA_FILE)
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from);
                options.state_dir = lookup(variables::STATE_DIR)
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from);
                options.trust_root =
                    trust_root.map(|keys| keys.split_whitespace().collect::<Vec<_>>().join("\n"));
                options.kem_version = kem_version;
                if let (Some(chain), Some(key)) = (chain, key) {
                    options = options.certificate(chain, key);
                }
                options.audit = audit;
                if let Some(bound) = revocations {
                    options = options.revocations_bound(bound);
                }
                if let Some(bound) = policy {
                    options = options.policy_bound(bound);
                }
                Ok(options)
            }
            _ => Err(OptionsError { problems }),
        }
    }

    /// Connects with the token in this file, read at each connection, instead of the
    /// nkey, which is then there to vouch and to decrypt.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Pins the roots in this file instead.
    #[must_use]
    pub fn trust_root_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.trust_root_file = path.into();
        self.trust_root = None;
        self
    }

    /// Pins these roots instead of a file's: public keys, one on each line.
    #[must_use]
    pub fn trust_root(mut self, keys: impl Into<String>) -> Self {
        self.trust_root = Some(keys.into());
        self
    }

    /// Trusts only the certificate authorities in this PEM file for TLS to the bus.
    #[must_use]
    pub fn tls_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_ca_file = Some(path.into());
        self
    }

    /// The seed of the Ed25519 key with which this process signs transaction
    /// tokens: the public part is written into its message credential. Only
    /// workloads that the policy lets mint get one.
    #[must_use]
    pub fn token_key(mut self, seed: &[u8; 32]) -> Self {
        self.token_key = Some(Arc::new(SigningKey::from_seed(seed)));
        self
    }

    /// How payloads are encoded unless a message says otherwise. Default: MessagePack.
    #[must_use]
    pub fn content_type(mut self, content_type: ContentType) -> Self {
        self.content_type = content_type;
        self
    }

    /// How long a request waits for its reply. Default: 5 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long [`Client::connect`](crate::Client::connect) waits for the bus,
    /// the policy and a credential together. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How far another process's clock may be off. Default: 2 s. A process that
    /// starts waits as long before it listens, because its replay window cannot
    /// tell what an earlier process has handled.
    #[must_use]
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.clock_skew = skew;
        self
    }

    /// For how long this process goes by the revocation list that it holds without
    /// a newer head that confirms it; after that it neither receives nor sends.
    /// Default: 60 s, at least 1 s. Brokers publish a head every two seconds.
    #[must_use]
    pub fn revocations_bound(mut self, bound: Duration) -> Self {
        self.bounds.revocations = bound.max(Duration::from_secs(1));
        self
    }

    /// The same for policy and trust bundle. Default: 1 h, at least 1 s.
    #[must_use]
    pub fn policy_bound(mut self, bound: Duration) -> Self {
        self.bounds.policy = bound.max(Duration::from_secs(1));
        self
    }

    /// How many requests one `serve` handles at once; more wait their turn.
    /// Default: 256.
    #[must_use]
    pub fn max_in_flight(mut self, count: usize) -> Self {
        self.max_in_flight = count.max(1);
        self
    }

    /// How many messages one subscription holds before the NATS client drops
    /// and counts. Default: 65,536.
    #[must_use]
    pub fn subscription_capacity(mut self, messages: usize) -> Self {
        self.subscription_capacity = messages.max(1);
        self
    }

    /// The version of the workload's encryption keys, which are derived from its
    /// nkey's seed. Default: 1. A higher one replaces them: set it in all
    /// replicas. What was encrypted to the three versions before it can still be
    /// read; a lower version than the one that brokers hold is refused.
    #[must_use]
    pub fn kem_version(mut self, version: u64) -> Self {
        self.kem_version = version.max(1);
        self
    }

    /// For how long messages are encrypted under one data key, at least a second.
    /// Default: 10 min.
    #[must_use]
    pub fn data_key_life(mut self, life: Duration) -> Self {
        self.data_key_life = life.max(Duration::from_secs(1));
        self
    }

    /// How many envelopes are encrypted under one data key. Default: 2²⁸.
    #[must_use]
    pub fn data_key_uses(mut self, envelopes: u64) -> Self {
        self.data_key_uses = envelopes.max(1);
        self
    }

    /// The workload's certificate and its private key, PEM files: an X.509-SVID,
    /// leaf first, with an Ed25519 or ECDSA P-256 key. Where the policy lists an
    /// authority for this workload, the certificate vouches for the message
    /// credentials of this process, which then end no later than it does. The
    /// files are read again at each renewal, at half of a credential's life. The
    /// key file has mode 0600.
    #[must_use]
    pub fn certificate(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some(CertificateFiles {
            chain: chain.into(),
            key: key.into(),
        });
        self
    }

    /// Keeps the message credential with its keys in this directory, so that a
    /// restart succeeds while no broker answers, for as long as the credential
    /// lives. Off by default: then those keys are in memory alone. The
    /// directory is one process's, created with mode 0700; what lies in it is
    /// encrypted under a key that is derived from the workload's nkey. A broker
    /// that refuses is obeyed.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// What this process is called in `bulla policy status`. Default: a service.
    #[must_use]
    pub fn kind(mut self, kind: EnforcerKind) -> Self {
        self.kind = kind;
        self
    }

    /// There is no other process of this workload: a credential that is issued
    /// to another one, with this workload's own nkey, is an alarm
    /// (`unasked_credential`), because the nkey is then in other hands.
    #[must_use]
    pub fn sole_process(mut self) -> Self {
        self.is_sole = true;
        self
    }

    /// Is told of what this client handles and asks, for metrics.
    #[must_use]
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Some(SharedRecorder(recorder));
        self
    }

    /// How this process writes to the audit log.
    #[must_use]
    pub fn audit(mut self, audit: AuditOptions) -> Self {
        self.audit = audit;
        self
    }

    /// Permits a connection without TLS to a host that is not loopback.
    ///
    /// # Security
    /// Whoever is on the path reads unencrypted messages and can relay the
    /// connect proof while it happens. For networks that are encrypted below.
    #[must_use]
    pub fn danger_allow_plaintext(mut self) -> Self {
        self.danger_plaintext = true;
        self
    }
}

/// Everything that is wrong with the environment, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionsError {
    problems: Vec<String>,
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the environment does not say how to connect: {}",
            self.problems.join("; ")
        )
    }
}

impl std::error::Error for OptionsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_variable_is_named_at_once() {
        let error = ConnectOptions::from_lookup(|name| {
            (name == variables::WORKLOAD).then(|| "orders".to_owned())
        })
        .unwrap_err()
        .to_string();
        for name in [
            variables::NATS_URL,
            variables::WORKLOAD,
            variables::SEED_FILE,
            variables::TRUST_ROOT_FILE,
        ] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn roots_are_pinned_by_file_or_by_value() {
        let options = ConnectOptions::from_lookup(|name| match name {
            variables::WORKLOAD => Some("spiffe://acme.example/orders".to_owned()),
            variables::TRUST_ROOT => Some(" one two\nthree ".to_owned()),
            variables::NATS_URL | variables::SEED_FILE => Some("x".to_owned()),
            _ => None,
        });
        assert_eq!(options.unwrap().trust_root.unwrap(), "one\ntwo\nthree");
    }

    #[test]
    fn a_certificate_comes_with_its_key() {
        let error = ConnectOptions::from_lookup(|name| match name {
            variables::WORKLOAD => Some("spiffe://acme.example/orders".to_owned()),
            variables::CERTIFICATE_KEY_FILE => None,
            _ => Some("x".to_owned()),
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains(variables::CERTIFICATE_KEY_FILE), "{error}");
    }

    #[test]
    fn a_complete_environment_is_taken() {
        let options = ConnectOptions::from_lookup(|name| {
            Some(match name {
                variables::WORKLOAD => "spiffe://acme.example/orders".to_owned(),
                variables::KEM_VERSION => "3".to_owned(),
                variables::TRUST_ROOT => String::new(),
                variables::REVOCATIONS_BOUND => "7".to_owned(),
                variables::POLICY_BOUND => "8".to_owned(),
                variables::AUDIT_SAMPLE => "10".to_owned(),
                variables::AUDIT_USERS => "names".to_owned(),
                other => format!("value-of-{other}"),
            })
        })
        .unwrap();
        assert_eq!(options.workload.path(), "orders");
        assert_eq!(options.kem_version, 3);
        assert_eq!(options.audit.sample, 10);
        assert_eq!(options.audit.users, RecordUsers::Names);
        assert_eq!(options.bounds.revocations, Duration::from_secs(7));
        assert_eq!(options.bounds.policy, Duration::from_secs(8));
        let seed_file = PathBuf::from("value-of-BULLA_SEED_FILE");
        assert_eq!(options.seed_file, Some(seed_file));
        let token_file = PathBuf::from("value-of-BULLA_TOKEN_FILE");
        assert_eq!(options.token_file, Some(token_file));
        let certificate = options.certificate.unwrap();
        assert_eq!(
            certificate.key,
            PathBuf::from("value-of-BULLA_CERTIFICATE_KEY_FILE")
        );
    }
}
