//! The exchange of users' tokens (`$BULLA.TXN`): a narrower token in the place of
//! a message's user's, or a token with which a job starts a chain of calls.
//!
//! It is a service like any other, under a workload of its own that the policy
//! lets exchange: what asks is a sealed request, so the asker is proven, the
//! user's token is verified, encrypted and under its limits, and a recorded
//! request is worth nothing. What is given is minted under this process's token
//! key, which its message credential carries, as an edge's is.

use std::sync::Arc;
use std::time::Duration;

use bulla_audit::{Event, TokenMinted, pseudonym};
use bulla_identity::{WorkloadId, reserved};
use bulla_process::Zeroizing;
use bulla_sdk::{
    Client, ConnectError, ConnectOptions, ContentType, Message, Reply, ServiceError,
    ServiceErrorCode, SubscribeError,
};
use bulla_token::{
    ExchangeFault, ExchangeRequest, ExchangeResponse, MintError, MintTimes, StartGrant,
    TokenSigningKey, TransactionClaims, mint_transaction_token,
};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::ExchangeConfig;
use crate::control::Quota;
use crate::decision::{Decision, Decisions};
use crate::metrics::Metrics;

/// Exchanges tokens until `stop`. Without a bus it tries again, for ever: a broker
/// that cannot exchange still does everything else.
pub(crate) async fn run(
    config: Option<ExchangeConfig>,
    nats_url: String,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let Some(config) = config else { return };
    let mut pause = RETRY_FIRST;
    loop {
        let attempt = serve(&config, &nats_url, &metrics, &stop);
        match tokio::select! {
            () = stop.cancelled() => return,
            attempt = attempt => attempt,
        } {
            Ok(()) => return,
            Err(error) => tracing::warn!(
                error = crate::cli::chain(&error),
                "users' tokens cannot be exchanged yet"
            ),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RETRY_LAST);
    }
}

async fn serve(
    config: &ExchangeConfig,
    nats_url: &str,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(StartError::Random)?;
    let options = ConnectOptions::new(
        nats_url,
        config.workload.clone(),
        &config.seed_file,
        &config.root_file,
    );
    let mut options = options.token_key(&seed);
    if let Some(ca) = &config.tls.ca {
        options = options.tls_ca_file(ca);
    }
    if let Some((certificate, key)) = &config.tls.certificate {
        options = options.certificate(certificate, key);
    }
    let client = Client::connect(options).await?;
    let exchanger = Arc::new(Exchanger {
        key: TokenSigningKey::from_seed(*seed),
        quota: Mutex::new(Quota::with_rate(QUOTA_CAPACITY, QUOTA_REFILL)),
        decisions: Decisions::new("exchange", client.audit().clone(), metrics.clone()),
        client: client.clone(),
    });
    let service = {
        let exchanger = Arc::clone(&exchanger);
        client
            .serve_raw(reserved::EXCHANGE, move |message| {
                let exchanger = Arc::clone(&exchanger);
                async move { exchanger.answer(&message) }
            })
            .await?
    };
    tracing::info!(
        workload = config.workload.path(),
        "users' tokens can be exchanged"
    );
    metrics.exchanges(true);
    stop.cancelled().await;
    metrics.exchanges(false);
    let _ = tokio::time::timeout(DRAIN_LIMIT, service.drain()).await;
    client.drain().await;
    Ok(())
}

struct Exchanger {
    client: Client,
    decisions: Decisions,
    key: TokenSigningKey,
    quota: Mutex<Quota>,
}

impl Exchanger {
    fn answer(&self, message: &Message<Bytes>) -> Result<Reply, ServiceError> {
        let mut id = [0; 16];
        // Without randomness the id says nothing, and minting fails below.
        let _ = getrandom::fill(&mut id);
        let asker = message.sender().workload();
        let decision = Decision {
            workload: asker.path(),
            verb: "exchange",
            subject: reserved::EXCHANGE,
            id,
            revision: self.client.policy().revision(),
            client: None,
        };
        let outcome = self.exchange(message, asker);
        match outcome {
            Ok((response, claims)) => {
                let is_exchanged = message.user().is_some();
                decision.allow(&self.decisions);
                let policy = self.client.policy();
                let domain = policy.policy().trust_domain();
                self.decisions.audit().record(Event::Token(TokenMinted {
                    workload: decision.workload.to_owned(),
                    how: if is_exchanged { "exchanged" } else { "started" }.to_owned(),
                    user: pseudonym(domain, &claims.principal),
                    txn: claims.txn.clone(),
                    scope: claims.scope.clone(),
                    expires_in: response.expires_in,
                    id: HEXLOWER.encode(&id),
                }));
                tracing::info!(
                    target: "bulla::audit",
                    event = if is_exchanged { "token-exchanged" } else { "chain-started" },
                    workload = decision.workload,
                    user = claims.principal,
                    txn = claims.txn,
                    scope = claims.scope,
                    expires_in = response.expires_in,
                    id = HEXLOWER.encode(&id),
                );
                Reply::encode(&ContentType::Json, &response).map_err(ServiceError::from)
            }
            Err(refusal) => {
                let reason = format!("{}: {}", refusal.code(), crate::cli::chain(&refusal));
                decision.deny(&self.decisions, refusal.code(), &reason);
                // The precise reason stays in our log.
                let text = format!("{}, decision {}", refusal.error(), HEXLOWER.encode(&id));
                Err(ServiceError::new(refusal.service_code(), text))
            }
        }
    }

    fn exchange(
        &self,
        message: &Message<Bytes>,
        asker: &WorkloadId,
    ) -> Result<(ExchangeResponse, TransactionClaims), Refusal> {
        let now = clock::now();
        if !self.quota.lock().take(asker.tag(), now) {
            return Err(Refusal::TooMany);
        }
        let request = ExchangeRequest::parse(message.payload())?;
        let (kid, key_ends) = self.client.signing_key();
        let times = MintTimes { now, key_ends };
        let policy = self.client.policy();
        let policy = policy.policy();
        let claims = match message.user() {
            Some(user) => request.replace(&user.as_subject_token(), asker, times)?,
            None => {
                let wanted = request.requested_subject().ok_or(ExchangeFault::Subject)?;
                // Of whoever brings a token it was looked at on the way here.
                if self.client.revocations().is_user_revoked(wanted) {
                    return Err(Refusal::UserRevoked);
                }
                let starts = policy
                    .workload_by_id(asker)
                    .and_then(|workload| workload.starts())
                    .filter(|starts| starts.covers(wanted))
                    .ok_or(ExchangeFault::MayNotStart)?;
                let scopes: Vec<&str> = starts.scopes().collect();
                let reach: Vec<&str> = starts.reach().collect();
                let grant = StartGrant {
                    scopes: &scopes,
                    reach: &reach,
                    claims: starts.claims(),
                };
                let mut txn = [0; 16];
                getrandom::fill(&mut txn).map_err(Refusal::Random)?;
                request.start(&grant, asker, &HEXLOWER.encode(&txn), times)?
            }
        };
        let domain = policy.trust_domain();
        let token = mint_transaction_token(&self.key, &kid.to_hex(), domain, &claims)?;
        Ok((ExchangeResponse::new(token, &claims), claims))
    }
}

/// Why a token is not exchanged. Logged; the asker learns [`Refusal::error`].
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the workload asks too often")]
    TooMany,
    #[error("the user is revoked")]
    UserRevoked,
    #[error(transparent)]
    Exchange(#[from] ExchangeFault),
    #[error("the new token cannot be minted")]
    Mint(#[from] MintError),
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::TooMany => "exchange_too_many",
            Self::UserRevoked => "user_revoked",
            Self::Exchange(fault) => fault.code(),
            Self::Mint(_) => "exchange_mint",
            Self::Random(_) => "exchange_random",
        }
    }

    fn error(&self) -> &'static str {
        match self {
            Self::TooMany => "temporarily_unavailable",
            Self::UserRevoked => "access_denied",
            Self::Exchange(fault) => fault.error(),
            Self::Mint(_) | Self::Random(_) => "server_error",
        }
    }

    fn service_code(&self) -> ServiceErrorCode {
        match self {
            Self::TooMany => ServiceErrorCode::Unavailable,
            Self::Exchange(fault) if fault.error() == "invalid_request" => {
                ServiceErrorCode::Invalid
            }
            Self::Exchange(_) | Self::UserRevoked => ServiceErrorCode::Forbidden,
            Self::Mint(_) | Self::Random(_) => ServiceErrorCode::Internal,
        }
    }
}

/// Why tokens cannot be exchanged.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot connect as the workload that exchanges")]
    Connect(#[from] ConnectError),
    #[error("cannot listen for exchanges")]
    Subscribe(#[from] SubscribeError),
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(30);
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// An exchange costs two signatures and a verification or two: so many in a
/// second for each workload, and 64 times as many at once.
const QUOTA_REFILL: Duration = Duration::from_millis(2);
const QUOTA_CAPACITY: usize = 16_384;
