//! Opaque tokens: their issuer is asked what they are ([RFC 7662]).
//!
//! What it says is kept for half a minute at most, and never past the token's end, so that
//! a revocation is felt soon. A token is asked about by one request at a time, whoever waits
//! meanwhile gets the same answer. Tokens that do not count are kept apart and briefly.
//! Without an answer nobody passes.
//!
//! [RFC 7662]: https://www.rfc-editor.org/rfc/rfc7662

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::UnixMillis;
use bulla_issuer::is_loopback;
use bulla_process::Zeroizing;
use bulla_token::{AccessTokenValidator, TokenError, ValidatedToken, token_digest};
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE};
use moka::future::Cache;
use url::{Url, form_urlencoded};

/// For how long an answer counts.
const KEEP: Duration = Duration::from_secs(30);
const KEEP_REFUSED: Duration = Duration::from_secs(10);
const MAX_KEPT: u64 = 10_000;
const MAX_REFUSED: u64 = 1_000;
/// The longest token that anybody is asked about, in bytes.
const MAX_TOKEN: usize = 4_096;
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1_024;

/// `introspection` of an `[[issuer]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntrospectionConfig {
    /// Where the issuer is asked.
    pub url: Url,
    /// Who asks.
    pub client_id: String,
    /// The file with the secret by which it is known.
    pub client_secret_file: PathBuf,
}

/// Why the issuer cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum IntrospectionError {
    /// The file with the client's secret cannot be used.
    #[error("cannot use the file with the client's secret")]
    Secret(#[from] bulla_process::SecretFileError),
    /// The HTTP client cannot be set up.
    #[error("cannot set up the client for introspection")]
    Client(#[from] reqwest::Error),
}

/// Whether a token has no structure that could be validated here.
pub(crate) fn is_opaque(token: &str) -> bool {
    token.bytes().filter(|b| *b == b'.').count() != 2
}

/// Asks one issuer.
pub(crate) struct Introspector {
    config: IntrospectionConfig,
    secret: Zeroizing<String>,
    client: reqwest::Client,
    good: Cache<Key, Arc<ValidatedToken>>,
    refused: moka::sync::Cache<Key, TokenError>,
}

/// A token under one policy.
type Key = ([u8; 32], usize);

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Token(TokenError),
    /// The issuer does not answer, or not with what it should.
    NoAnswer,
}

impl Introspector {
    pub(crate) fn new(
        config: &IntrospectionConfig,
        timeout: Duration,
        authorities: Vec<reqwest::Certificate>,
    ) -> Result<Self, IntrospectionError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            .connect_timeout(timeout)
            .user_agent("bulla-gateway");
        if is_loopback(&config.url) {
            builder = builder.no_proxy();
        } else {
            builder = builder.https_only(true);
        }
        if !authorities.is_empty() {
            builder = builder.tls_certs_only(authorities);
        }
        Ok(Self {
            secret: bulla_process::secret_file::read_line(&config.client_secret_file)?,
            config: config.clone(),
            client: builder.build()?,
            good: Cache::builder()
                .max_capacity(MAX_KEPT)
                .time_to_live(KEEP)
                .build(),
            refused: moka::sync::Cache::builder()
                .max_capacity(MAX_REFUSED)
                .time_to_live(KEEP_REFUSED)
                .build(),
        })
    }

    /// What the issuer says of a token, held against the policy with this number.
    pub(crate) async fn validate(
        &self,
        token: &str,
        (policy, validator): (usize, &AccessTokenValidator),
        now: UnixMillis,
    ) -> Result<Arc<ValidatedToken>, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(Refused::Token(TokenError::TooLarge {
                limit: MAX_TOKEN,
                actual: token.len(),
            }));
        }
        let key = (token_digest(token), policy);
        if let Some(refused) = self.refused.get(&key) {
            return Err(Refused::Token(refused));
        }
        let asking = async {
            let answer = self.ask(token).await.ok_or(Refused::NoAnswer)?;
            let validated = validator.validate_introspection(&answer, now);
            validated.map(Arc::new).map_err(Refused::Token)
        };
        match self.good.try_get_with(key, asking).await {
            Ok(token) => token
                .check_times(now)
                .map(|()| token)
                .map_err(Refused::Token),
            Err(refused) => {
                if let Refused::Token(error) = *refused {
                    self.refused.insert(key, error);
                }
                Err(*refused)
            }
        }
    }

    async fn ask(&self, token: &str) -> Option<Vec<u8>> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let request = self
            .client
            .post(self.config.url.clone())
            .basic_auth(&self.config.client_id, Some(self.secret.as_str()))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        let mut answer = match request.send().await {
            Ok(answer) if answer.status() == StatusCode::OK => answer,
            Ok(answer) => {
                let status = answer.status().as_u16();
                tracing::warn!(status, "the issuer does not say what a token is");
                return None;
            }
            Err(error) => {
                // Without the URL: nothing that a client brought is in it, but no need.
                let error = error.without_url();
                tracing::warn!(%error, "the issuer cannot be asked what a token is");
                return None;
            }
        };
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            if body.len() + chunk.len() > MAX_ANSWER {
                tracing::warn!("the issuer says too much of a token");
                return None;
            }
            body.extend_from_slice(&chunk);
        }
        Some(body)
    }
}
