//! Certificates from an authority ([RFC 8555]), proven over TLS itself ([RFC 8737]).
//!
//! ```text
//! due? ─► account ─► order ─► challenge: a certificate for the authority alone
//!                               authority ── TLS, acme-tls/1 ──► edge
//!         certificate.pem ◄── certificate ◄─┘        then handshakes get the new one
//! ```
//!
//! It is due when there is none, when it is for other hosts than the configuration says, and
//! when a third of its life is left. What fails is tried again, less and less often; the
//! certificate that is there goes on meanwhile. One node asks for it; others get the file
//! from there.
//!
//! [RFC 8555]: https://www.rfc-editor.org/rfc/rfc8555
//! [RFC 8737]: https://www.rfc-editor.org/rfc/rfc8737

use std::future::Future;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bulla_issuer::is_loopback;
use bulla_keyring::CertificateNames;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use instant_acme::{
    Account, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, HttpClient,
    Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use crate::acme_file::AcmeConfig;
use crate::clock;
use crate::metrics::Metrics;
use crate::tls::{Tls, TlsError};

/// How long it waits after a first failure, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// How often it looks, however long the certificate lives.
const LOOK: Duration = Duration::from_secs(3_600);
/// How long the authority may take to check and to issue.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one of its answers may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest of its answers, in bytes.
const MAX_ANSWER: usize = 256 * 1_024;

/// Why there is no certificate this time.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("the authority refuses, or cannot be asked")]
    Authority(#[from] instant_acme::Error),
    #[error("the authority does not offer `tls-alpn-01` for `{0}`")]
    NoChallenge(String),
    #[error("the authority could not see that the host is ours: it is {0:?}")]
    NotProven(OrderStatus),
    #[error("cannot make a certificate for the authority to see")]
    Challenge(#[from] rcgen::Error),
    #[error("cannot use the folder")]
    Folder(#[from] std::io::Error),
    #[error("cannot use a secret file")]
    Secret(#[from] bulla_process::SecretFileError),
    #[error("the account file is none")]
    Account(#[from] serde_json::Error),
    #[error("the certificate cannot be used")]
    Certificate(#[from] TlsError),
    #[error("cannot make a client for the authority")]
    Client(#[from] reqwest::Error),
}

/// Keeps one certificate fresh.
pub(crate) struct CertificateKeeper {
    pub(crate) config: AcmeConfig,
    pub(crate) tls: Arc<Tls>,
    pub(crate) metrics: Metrics,
}

impl CertificateKeeper {
    /// Asks for a certificate whenever one is due, until `stop`.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_on() => {}
        }
    }

    async fn keep_on(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let wait = self.due_in();
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(LOOK)).await;
                continue;
            }
            let outcome = self.order().await;
            self.metrics.certificate_ordered(outcome.is_ok());
            match outcome {
                Ok(()) => {
                    tracing::info!(domains = ?self.config.domains, "there is a new certificate");
                    pause = FIRST_PAUSE;
                }
                Err(error) => {
                    tell(&error, pause);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// How long the certificate that lies there is good enough.
    fn due_in(&self) -> Duration {
        let leaf = CertificateDer::from_pem_file(self.config.certificate()).ok();
        let Some(names) = leaf.and_then(|leaf| CertificateNames::read(&leaf)) else {
            return Duration::ZERO;
        };
        if !self.config.domains.iter().all(|d| names.hosts.contains(d)) {
            return Duration::ZERO;
        }
        let life = names.not_after.saturating_since(names.not_before);
        let renew = names.not_before.saturating_add(life * 2 / 3);
        renew.saturating_since(clock::now())
    }

    async fn order(&self) -> Result<(), OrderError> {
        let account = self.account().await?;
        let hosts = self.config.domains.iter();
        let hosts: Vec<_> = hosts.map(|d| Identifier::Dns(d.clone())).collect();
        let mut order = account.new_order(&NewOrder::new(&hosts)).await?;
        // Taken back however this ends.
        let challenges = Challenges(&self.tls);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let host = authorization.identifier().to_string();
            let missing = || OrderError::NoChallenge(host.clone());
            let mut challenge = authorization
                .challenge(ChallengeType::TlsAlpn01)
                .ok_or_else(missing)?;
            let digest = challenge.key_authorization().digest();
            challenges.show(&host, digest.as_ref())?;
            challenge.set_ready().await?;
        }
        let retry = RetryPolicy::new().timeout(PATIENCE);
        let status = order.poll_ready(&retry).await?;
        if status != OrderStatus::Ready {
            return Err(OrderError::NotProven(status));
        }
        let key = bulla_process::Zeroizing::new(order.finalize().await?);
        let chain = order.poll_certificate(&retry).await?;
        let whole = bulla_process::Zeroizing::new(format!("{chain}\n{}", &*key));
        write_secret(&self.config.certificate(), whole.as_bytes())?;
        self.tls.reload()?;
        Ok(())
    }

    /// The account at the authority: the one that is known, or a new one.
    async fn account(&self) -> Result<Account, OrderError> {
        let http =
            || Http::new(&self.config).map(|http| Account::builder_with_http(Box::new(http)));
        let file = self.config.account();
        // Nobody else has to know what lies there.
        let mut folder = std::fs::DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(&self.config.folder)?;
        if file.exists() {
            let known = bulla_process::secret_file::read(&file)?;
            let account = http()?.from_credentials(serde_json::from_slice(&known)?);
            return Ok(account.await?);
        }
        let contact: Vec<&str> = self.config.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let directory = self.config.directory.to_string();
        let (account, credentials) = http()?.create(&new, directory, None).await?;
        let text = bulla_process::Zeroizing::new(serde_json::to_vec(&credentials)?);
        write_secret(&file, &text)?;
        Ok(account)
    }
}

fn tell(error: &(dyn std::error::Error + 'static), again_in: Duration) {
    tracing::error!(error, ?again_in, "there is no new certificate");
}

/// Puts a file in place in one step, readable by its owner alone.
fn write_secret(file: &Path, secret: &[u8]) -> Result<(), OrderError> {
    let beside = file.with_extension("new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    bulla_process::secret_file::create(&beside, secret)?;
    Ok(std::fs::rename(&beside, file)?)
}

/// What the authority is shown, as long as this lives.
struct Challenges<'t>(&'t Tls);

impl Challenges<'_> {
    fn show(&self, host: &str, digest: &[u8]) -> Result<(), OrderError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([host.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let made = params.self_signed(&key)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        self.0.show_challenge(host, made.der().clone(), key)?;
        Ok(())
    }
}

impl Drop for Challenges<'_> {
    fn drop(&mut self) {
        self.0.forget_challenges();
    }
}

/// How the authority is asked.
struct Http(reqwest::Client);

impl Http {
    fn new(config: &AcmeConfig) -> Result<Self, OrderError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT);
        if is_loopback(&config.directory) {
            builder = builder.no_proxy();
        } else {
            builder = builder.https_only(true);
        }
        if let Some(file) = &config.ca_file {
            let authorities = reqwest::Certificate::from_pem_bundle(&std::fs::read(file)?)?;
            builder = builder.tls_certs_only(authorities);
        }
        Ok(Self(builder.build()?))
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>>;

impl HttpClient for Http {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Answer {
        let client = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let failed = |error: reqwest::Error| instant_acme::Error::Other(error.into());
            let asked = client
                .request(parts.method, parts.uri.to_string())
                .headers(parts.headers)
                .body(body);
            let mut said = asked.send().await.map_err(failed)?;
            let mut answer = Response::new(());
            *answer.status_mut() = said.status();
            *answer.headers_mut() = said.headers().clone();
            let (parts, ()) = answer.into_parts();
            let mut body = Vec::new();
            while let Some(chunk) = said.chunk().await.map_err(failed)? {
                if body.len() + chunk.len() > MAX_ANSWER {
                    return Err(instant_acme::Error::Str("the authority says too much"));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(BytesResponse {
                parts,
                body: Box::new(Bytes::from(body)),
            })
        })
    }
}
