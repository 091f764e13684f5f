//! A certificate authority of the tests' own, which issues X.509-SVIDs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_identity::WorkloadId;
use bulla_keyring::CertifiedKey;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SignatureAlgorithm,
};
use time::OffsetDateTime;

/// A certificate authority with a key of its own.
#[derive(Debug)]
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Svid {
    /// The chain.
    pub chain: String,
    /// The private key.
    pub key: String,
}

/// Where a certificate and its key lie.
#[derive(Clone, Debug)]
pub struct SvidFiles {
    /// The chain.
    pub chain: PathBuf,
    /// The private key, mode 0600.
    pub key: PathBuf,
}

impl Pki {
    /// A new authority. Two of one name are still two.
    ///
    /// # Panics
    /// If no key can be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// `[x509.NAME]` of a policy.
    #[must_use]
    pub fn x509(&self, name: &str) -> String {
        format!("[x509.{name}]\nca = \"\"\"\n{}\"\"\"\n", self.pem)
    }

    /// A certificate of `workload` that is good from a minute ago for this long.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn issue(&self, workload: &WorkloadId, life: Duration) -> Svid {
        self.issue_for(workload, life, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// The same for a key of this kind.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn issue_for(
        &self,
        workload: &WorkloadId,
        life: Duration,
        kind: &'static SignatureAlgorithm,
    ) -> Svid {
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = now - Duration::from_secs(60);
        params.not_after = now + life;
        let id = workload.as_str().try_into().expect("ASCII");
        params.subject_alt_names = vec![SanType::URI(id)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate_for(kind).expect("a key");
        let certificate = params.signed_by(&key, &self.issuer);
        Svid {
            chain: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Pki {
    /// A certificate of this machine, as server and as client, that names no workload.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn issue_host(&self, life: Duration) -> Svid {
        let now = OffsetDateTime::now_utc();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = DistinguishedName::new();
        params.not_before = now - Duration::from_secs(60);
        params.not_after = now + life;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer);
        Svid {
            chain: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Svid {
    /// As the SDK reads it.
    ///
    /// # Panics
    /// If it does not fit.
    #[must_use]
    pub fn certified(&self) -> CertifiedKey {
        CertifiedKey::from_pem(self.chain.as_bytes(), self.key.as_bytes()).expect("a pair")
    }

    /// Writes both files of this name, each in one step.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> SvidFiles {
        let put = |kind: &str, text: &str| {
            let path = dir.join(format!("{name}.{kind}.pem"));
            let part = path.with_extension("part");
            std::fs::write(&part, text).expect("a file");
            std::fs::set_permissions(&part, Permissions::from_mode(0o600)).expect("a mode");
            std::fs::rename(&part, &path).expect("a file");
            path
        };
        SvidFiles {
            chain: put("certificate", &self.chain),
            key: put("key", &self.key),
        }
    }
}
