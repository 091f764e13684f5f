//! What a service says to connect: who it is, where the bus is, whom it trusts.

mod read;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::Bounds;
use bulla_identity::WorkloadId;
use bulla_keyring::SigningKey;

use crate::audit::AuditOptions;
use crate::certificate::CertificateFiles;
use crate::content::ContentType;
use crate::enforcer_report::EnforcerKind;
use crate::telemetry::Recorder;

pub use read::OptionsError;

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
    /// Optional: for how many seconds a request waits for its reply.
    pub const REQUEST_TIMEOUT: &str = "BULLA_REQUEST_TIMEOUT_SECONDS";
    /// Optional: for how many seconds connecting waits for everything that it needs.
    pub const CONNECT_TIMEOUT: &str = "BULLA_CONNECT_TIMEOUT_SECONDS";
    /// Optional: how many requests one endpoint handles at once.
    pub const MAX_IN_FLIGHT: &str = "BULLA_MAX_IN_FLIGHT";
    /// Optional: a TOML file with what other variables do not say, see
    /// [`ConnectOptions::from_file`](super::ConnectOptions::from_file).
    pub const CONFIG: &str = "BULLA_CONFIG";
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
#[derive(Clone)]
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

/// Shows who connects and where its files are; not the address, which could hold a
/// password until it is looked at.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("workload", &self.workload)
            .field("seed_file", &self.seed_file)
            .field("token_file", &self.token_file)
            .field("trust_root_file", &self.trust_root_file)
            .field("tls_ca_file", &self.tls_ca_file)
            .field("certificate", &self.certificate)
            .field("state_dir", &self.state_dir)
            .field("has_token_key", &self.token_key.is_some())
            .finish_non_exhaustive()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// ENV-70.
    #[test]
    fn a_data_key_lives_for_ten_minutes_unless_told_otherwise() {
        let workload = WorkloadId::parse("spiffe://acme.example/a").unwrap();
        let options = ConnectOptions::new("nats://localhost", workload, "seed", "root");
        assert_eq!(options.data_key_life, Duration::from_secs(10 * 60));
        assert_eq!(options.data_key_uses, 1 << 28);
        let options = options.data_key_life(Duration::from_secs(60));
        assert_eq!(options.data_key_life, Duration::from_secs(60));
    }
}
