//! The HTTP edge: north-south requests become sealed messages.
//!
//! ```text
//!            ┌──────────────────────── gateway ────────────────────────┐
//!  HTTP ────▶│ head ▸ route ▸ token ▸ scopes ▸ body ▸ transaction token │────▶ sealed
//!  client ◀──│ status, headers, problem+json ◂ reply                    │◀──── bus
//!            └──────────▲──────────────────────────────────────────────┘
//!                       │ JWKS, in the background
//!                    issuers
//! ```
//!
//! A route names a method, a path, a subject and who may call it, on adjacent lines;
//! nothing else of HTTP reaches the bus. The client's access token ends here: what
//! travels on is a transaction token for this one request, with the scopes that the
//! route asks for and no others. The `README.md` beside this crate is the reference of
//! both configuration files and of every problem type.
//!
//! # What it deliberately does not do
//!
//! No path of a client becomes a subject, except for captures that a route's subject
//! names, each one plain token. No header is forwarded that the route does not name.
//! No tokens in queries, no retries, no XML, no static files, no proxying to HTTP
//! backends.
//!
//! # Example
//!
//! ```no_run
//! use bulla_gateway::GatewayConfig;
//!
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let config = GatewayConfig::load("gateway.toml".as_ref())?;
//! let stop = bulla_process::shutdown_signal(false)?;
//! bulla_gateway::run(config, stop).await?;
//! # Ok(())
//! # }
//! ```

mod access_log;
#[cfg(feature = "acme")]
mod acme;
mod acme_file;
mod admin;
mod admission;
mod aggregate;
mod api;
mod api_keys;
mod authenticate;
mod body;
mod breaker;
mod bus;
mod cache;
mod certificates;
pub mod cli;
mod client_address;
mod client_stream;
mod clock;
mod compress;
mod config;
mod config_schema;
mod connections;
mod cors;
mod docs_page;
mod document;
mod event_content;
mod events;
mod exchange;
mod explain;
mod finish;
mod following;
mod framing;
#[cfg(any(test, fuzzing))]
mod framing_compared;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod gateway;
mod gateway_file;
#[cfg(any(test, fuzzing))]
mod h2_compared;
mod h2_heads;
mod handle;
mod head;
mod hearing;
mod idempotency;
mod identity;
mod introspection;
mod invalidation;
mod issuer_file;
mod json;
mod key_cli;
mod listen;
mod loaded;
mod mapping;
mod metrics;
mod mint;
mod networks;
mod openapi;
mod order;
mod origin;
mod path;
mod possession;
mod presentation;
mod problem;
mod problem_catalogue;
mod profiles;
mod protection_file;
mod quantities;
mod rate;
#[cfg(test)]
mod redaction;
mod refusal;
mod reload;
mod route_access;
mod route_extras;
mod route_fields;
mod route_file;
mod routes;
mod schema;
mod sealed;
mod section;
mod server;
mod shared_rate;
#[cfg(test)]
#[path = "../../sdk/keyring/tests/redaction/spellings.rs"]
#[allow(unreachable_pub, reason = "the tests of other crates take it too")]
mod spellings;
mod tls;
mod trace;
mod under_policy;
mod unread;
mod user;
mod visit;
mod websocket;

use bulla_process::Zeroizing;
use bulla_sdk::enforcer_report::EnforcerKind;
use bulla_sdk::{Client, ConnectOptions};
use bulla_token::TokenSigningKey;
use tokio_util::sync::CancellationToken;

pub use access_log::AccessLog;
pub use acme_file::AcmeConfig;
pub use admission::Priority;
pub use api::ApiConfig;
pub use api_keys::{ApiKeysConfig, KeyFileError};
pub use breaker::BreakerConfig;
pub use bulla_issuer::SourceError;
pub use bus::{Bus, BusError, BusEvent, BusMessage, BusReply, ServiceFault, TokenKey};
pub use cache::CacheConfig;
pub use certificates::CertificateClients;
pub use client_address::{ClientsConfig, ForwardedBy, NetworkRules};
pub use config::{
    BusConfig, GatewayConfig, IssuerConfig, Limits, ListenConfig, TlsFiles, TransactionConfig,
};
pub use config_schema::{ConfigFile, config_schema};
pub use cors::{CorsConfig, OriginPattern};
pub use document::{ConfigErrors, ConfigProblem};
pub use events::StreamConfig;
pub use explain::{ExplainError, Explanation, Question, explain};
pub use finish::SecurityConfig;
pub use gateway::{Gateway, StartError};
pub use idempotency::IdempotencyConfig;
pub use introspection::{IntrospectionConfig, IntrospectionError};
pub use key_cli::KeyCommand;
pub use loaded::LoadError;
pub use mapping::{Mapping, Source};
pub use networks::Networks;
pub use path::PathTemplate;
pub use rate::{CountBy, RateConfig};
pub use reload::ReloadError;
pub use route_extras::About;
pub use routes::{Access, Mode, Rights, Route, RouteTable};
pub use schema::Schema;
pub use sealed::SealedBus;
pub use server::BindError;
pub use tls::TlsError;
pub use under_policy::{Objection, objections};

/// Connects to the bus and serves until `stop`; returns when everything has drained.
///
/// # Errors
///
/// [`StartError`] if it cannot start. Nothing is left running then.
pub async fn run(config: GatewayConfig, stop: CancellationToken) -> Result<(), StartError> {
    // Drawn anew at each start: the private half never leaves this process.
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(StartError::Random)?;
    let key = TokenSigningKey::from_seed(*seed);
    let mut options = ConnectOptions::new(
        config.bus.url.clone(),
        config.bus.workload.clone(),
        config.bus.seed_file.clone(),
        config.bus.trust_root_file.clone(),
    )
    .token_key(&seed)
    .kind(EnforcerKind::Gateway)
    .connect_timeout(config.bus.connect_timeout)
    .revocations_bound(config.bus.revocations_bound)
    .policy_bound(config.bus.policy_bound)
    .audit(config.bus.audit.clone());
    if let Some(file) = &config.bus.tls_ca_file {
        options = options.tls_ca_file(file);
    }
    let client = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        client = Client::connect(options) => client?,
    };
    let bus = SealedBus::new(client);
    Gateway::new(config, bus, key).await?.run(stop).await;
    Ok(())
}
