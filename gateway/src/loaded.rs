//! What the configuration became: everything that a reload replaces, as one whole.

use std::sync::Arc;

use crate::access_log::AccessLog;
use crate::api_keys::ApiKeys;
use crate::authenticate::Authenticator;
use crate::cache::Answers;
use crate::certificates::CertificateClients;
use crate::client_address::ClientsConfig;
use crate::config::{GatewayConfig, IssuerConfig, Limits};
use crate::cors::CorsConfig;
use crate::finish::SecurityConfig;
use crate::introspection::{IntrospectionError, Introspector};
use crate::metrics::Metrics;
use crate::presentation::Presentation;
use crate::rate::{RateConfig, Rates};
use crate::routes::RouteTable;
use bulla_issuer::{IssuerKeys, SourceError};

/// Why a configuration cannot take effect.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// An issuer's keys could never be fetched.
    #[error("cannot fetch keys")]
    Source(#[from] SourceError),
    /// An issuer can never be asked about its tokens.
    #[error("cannot ask about opaque tokens")]
    Introspection(#[from] IntrospectionError),
}

/// One state of the configuration. A request goes by the one that it began with.
pub(crate) struct Loaded {
    pub(crate) routes: RouteTable,
    pub(crate) authenticator: Authenticator,
    pub(crate) limits: Limits,
    pub(crate) clients: ClientsConfig,
    pub(crate) rates: Arc<Rates>,
    /// The rates that count requests without a route.
    pub(crate) default_rates: Vec<usize>,
    pub(crate) cors: Option<CorsConfig>,
    pub(crate) security: SecurityConfig,
    pub(crate) problem_base: String,
    pub(crate) presentation: Presentation,
    pub(crate) access_log: AccessLog,
    pub(crate) api_keys: Option<Arc<ApiKeys>>,
    pub(crate) certificates: CertificateClients,
    /// Replies that are given again. Anew with each state: routes may mean something else.
    pub(crate) answers: Answers,
    /// What the rates and the issuers were made of, to tell what a reload changes.
    rate_configs: Vec<RateConfig>,
    issuer_configs: Vec<IssuerConfig>,
}

impl Loaded {
    pub(crate) fn new(config: &GatewayConfig, metrics: &Metrics) -> Result<Self, LoadError> {
        Self::make(config, metrics, None)
    }

    /// The next state. Rates, breakers and issuers that stay as they are keep what they know:
    /// nobody gets a full bucket by a reload, nothing is sent where nobody answers, and no key
    /// is fetched anew.
    pub(crate) fn next(
        &self,
        config: &GatewayConfig,
        metrics: &Metrics,
    ) -> Result<Self, LoadError> {
        Self::make(config, metrics, Some(self))
    }

    fn make(
        config: &GatewayConfig,
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Result<Self, LoadError> {
        let mut issuers = Vec::new();
        for issuer in &config.issuers {
            let known = before.and_then(|b| b.keys_of(issuer));
            issuers.push(match known {
                Some(keys) => keys,
                None => {
                    let metrics = metrics.clone();
                    let told = move |issuer: &str, is_good| metrics.key_fetch(issuer, is_good);
                    Arc::new(IssuerKeys::new(issuer.source(), told)?)
                }
            });
        }
        let introspectors = config.issuers.iter().map(introspector);
        let introspectors = introspectors.collect::<Result<Vec<_>, LoadError>>()?;
        let rates = before
            .filter(|b| b.rate_configs == config.rates)
            .map_or_else(
                || Arc::new(Rates::new(&config.rates)),
                |b| Arc::clone(&b.rates),
            );
        Ok(Self {
            authenticator: Authenticator::new(
                issuers,
                introspectors,
                config.routes.policies().to_vec(),
            ),
            routes: match before {
                Some(before) => config.routes.clone().with_breakers_of(&before.routes),
                None => config.routes.clone(),
            }
            .counted_anew(),
            limits: config.limits.clone(),
            clients: config.clients.clone(),
            rates,
            default_rates: config.default_rates.clone(),
            cors: config.cors.clone(),
            security: config.security.clone(),
            problem_base: config.problem_base.clone(),
            access_log: config.access_log,
            api_keys: match (&config.api_keys, before.and_then(|b| b.api_keys.as_ref())) {
                // Their file is followed: the same file needs no second reader.
                (Some(keys), Some(known)) if known.is_of(keys) => Some(Arc::clone(known)),
                (Some(keys), _) => Some(Arc::new(ApiKeys::new(keys))),
                (None, _) => None,
            },
            certificates: config.certificates.clone(),
            answers: Answers::new(config.limits.cache),
            presentation: Presentation::new(&config.api, &config.routes),
            rate_configs: config.rates.clone(),
            issuer_configs: config.issuers.clone(),
        })
    }

    fn keys_of(&self, issuer: &IssuerConfig) -> Option<Arc<IssuerKeys>> {
        let index = self.issuer_configs.iter().position(|i| i == issuer)?;
        self.authenticator.issuers().get(index).map(Arc::clone)
    }
}

fn introspector(issuer: &IssuerConfig) -> Result<Option<Introspector>, LoadError> {
    let Some(config) = &issuer.introspection else {
        return Ok(None);
    };
    let mut authorities = Vec::new();
    if let Some(file) = &issuer.ca_file {
        let pem = std::fs::read(file).map_err(|source| SourceError::CaFile {
            file: file.display().to_string(),
            source,
        })?;
        authorities =
            reqwest::Certificate::from_pem_bundle(&pem).map_err(IntrospectionError::from)?;
    }
    Ok(Some(Introspector::new(
        config,
        issuer.timeout,
        authorities,
    )?))
}
