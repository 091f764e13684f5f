//! TLS for clients: rustls on aws-lc, TLS 1.3 and, unless the configuration says
//! otherwise, 1.2, post-quantum key exchange preferred, HTTP/2 and HTTP/1.1 by ALPN.
//! Certificate and key are replaced while it runs. Where an authority issues them, there may
//! be none yet; then handshakes fail until it is there.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::RwLock;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DEFAULT_VERSIONS, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate chain cannot be read.
    #[error("cannot read certificates from `{}`", file.display())]
    Certificates {
        /// The file.
        file: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("`{}` holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// The file of the key cannot be used.
    #[error("cannot use the key file")]
    KeyFile(#[from] bulla_process::SecretFileError),
    /// The file holds no private key.
    #[error("`{}` holds no private key in PEM", .0.display())]
    Key(PathBuf),
    /// Certificate and key do not go together.
    #[error("certificate and key cannot be used")]
    Unusable(#[from] rustls::Error),
}

/// What clients' handshakes are answered with.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    files: TlsFiles,
}

/// The protocol in which an authority looks whether a host is ours ([RFC 8737]). Nothing is
/// said in it.
///
/// [RFC 8737]: https://www.rfc-editor.org/rfc/rfc8737
pub(crate) const ACME: &[u8] = b"acme-tls/1";

impl Tls {
    pub(crate) fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        let first = match read(files) {
            Err(error) if files.acme.is_some() => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::info!(error, "there is no certificate yet");
                None
            }
            read => Some(Arc::new(read?)),
        };
        let shown = Arc::new(Shown {
            certificate: ArcSwapOption::new(first),
            challenges: RwLock::default(),
        });
        let versions = if files.only_tls13 {
            &[&rustls::version::TLS13][..]
        } else {
            DEFAULT_VERSIONS
        };
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(versions)?
                .with_client_cert_verifier(verifier(files)?)
                .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if files.acme.is_some() {
            config.alpn_protocols.push(ACME.to_vec());
        }
        // Sessions are resumed by tickets, under keys that this process makes and
        // replaces: nothing is kept for each client.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            shown,
            files: files.clone(),
        })
    }

    /// Who issues the certificate, if the edge asks for it itself.
    #[cfg(feature = "acme")]
    pub(crate) fn acme(&self) -> Option<&crate::acme_file::AcmeConfig> {
        self.files.acme.as_ref()
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// The same as [`Tls::reload`], but that one which an authority has not issued yet need
    /// not be there.
    pub(crate) fn reload_if_there(&self) -> Result<(), TlsError> {
        if self.files.acme.is_some() && !self.files.certificates.exists() {
            return Ok(());
        }
        self.reload()
    }

    /// Reads certificate and key again. Handshakes from now on get the new ones;
    /// on an error the old ones stay.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let new = read(&self.files)?;
        self.shown.certificate.store(Some(Arc::new(new)));
        Ok(())
    }

    /// Shows an authority what proves that a host is ours.
    #[cfg(feature = "acme")]
    pub(crate) fn show_challenge(
        &self,
        host: &str,
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        let provider = aws_lc_rs::default_provider();
        let key = provider.key_provider.load_private_key(key)?;
        // Not looked at: it has an extension that only an authority understands.
        let key = CertifiedKey::new(vec![certificate], key);
        let mut challenges = self.shown.challenges.write();
        challenges.insert(host.to_owned(), Arc::new(key));
        Ok(())
    }

    /// Shows no authority anything any more.
    #[cfg(feature = "acme")]
    pub(crate) fn forget_challenges(&self) {
        self.shown.challenges.write().clear();
    }
}

/// Asks clients for a certificate of these authorities, if there are any. One who shows
/// none gets in; whether his token asks for one is seen with each request.
fn verifier(files: &TlsFiles) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(file) = &files.client_ca else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let unreadable = |source| TlsError::Certificates {
        file: file.clone(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
        roots.add(certificate.map_err(unreadable)?)?;
    }
    if roots.is_empty() {
        return Err(TlsError::NoCertificate(file.clone()));
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|_| TlsError::NoCertificate(file.clone()))
}

/// What handshakes are shown.
struct Shown {
    certificate: ArcSwapOption<CertifiedKey>,
    /// What an authority is shown, by host.
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut protocols = hello.alpn().into_iter().flatten();
        if protocols.any(|protocol| protocol == ACME) {
            let host = hello.server_name()?.to_ascii_lowercase();
            return self.challenges.read().get(&host).map(Arc::clone);
        }
        self.certificate.load_full()
    }
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let unreadable = |source| TlsError::Certificates {
        file: files.certificates.clone(),
        source,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificates)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(files.certificates.clone()));
    }
    let pem = bulla_process::secret_file::read(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Key(files.key.clone()))?;
    Ok(CertifiedKey::from_der(
        chain,
        key,
        &aws_lc_rs::default_provider(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spellings::assert_unprinted;

    #[test]
    fn the_key_that_handshakes_are_shown_is_not_printed() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let params = rcgen::CertificateParams::new(["api.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der = key.serialize_der();
        let held = CertifiedKey::from_der(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(der.clone()).unwrap(),
            &aws_lc_rs::default_provider(),
        );
        let held = Arc::new(held.unwrap());
        let shown = Shown {
            certificate: ArcSwapOption::new(Some(Arc::clone(&held))),
            challenges: RwLock::new(HashMap::from([("api.example".to_owned(), held)])),
        };
        // Algorithm and lengths come first in it.
        let seed = der.get(16..48).unwrap();
        assert_unprinted("Shown", &shown, &[seed, certificate.der()]);
    }
}
