//! The workload's certificate, where it has one: read again each time that it
//! has to vouch, because something else (SPIRE's agent, cert-manager) renews it.

use std::path::PathBuf;

use bulla_identity::WorkloadId;
use bulla_keyring::{CertifiedKey, CertifiedKeyError};
use bulla_policy::Policy;
use bulla_process::SecretFileError;

/// Where a certificate and its key lie.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

/// Why the workload's certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateFileError {
    /// The file of the certificates cannot be read.
    #[error("cannot read the certificate `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of the private key cannot be used.
    #[error("cannot use the certificate's key file")]
    Key(#[from] SecretFileError),
    /// What is in them does not fit.
    #[error("cannot use the certificate `{}`", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CertifiedKeyError,
    },
}

impl CertificateFiles {
    /// Reads both. Where they are replaced one after the other, it may find one
    /// that does not fit the other; whoever asks tries again.
    pub(crate) async fn read(&self) -> Result<CertifiedKey, CertificateFileError> {
        let files = self.clone();
        let read = tokio::task::spawn_blocking(move || files.read_now()).await;
        read.unwrap_or_else(|interrupted| {
            Err(CertificateFileError::Read {
                path: self.chain.clone(),
                source: interrupted.into(),
            })
        })
    }

    fn read_now(&self) -> Result<CertifiedKey, CertificateFileError> {
        let path = || self.chain.clone();
        let chain = std::fs::read(&self.chain).map_err(|source| CertificateFileError::Read {
            path: path(),
            source,
        })?;
        let key = bulla_process::secret_file::read(&self.key)?;
        CertifiedKey::from_pem(&chain, &key).map_err(|source| CertificateFileError::Certificate {
            path: path(),
            source,
        })
    }
}

/// Whether certificates may vouch for this workload.
pub(crate) fn certificates_vouch(policy: &Policy, workload: &WorkloadId) -> bool {
    policy
        .workload_by_id(workload)
        .is_some_and(|workload| !workload.anchors().authorities.is_empty())
}
