//! Sealed messages for NATS: what a service links instead of raw async-nats.
//!
//! Everything that is sent is signed under a credential that a broker issued to
//! this process and that the workload countersigned; everything that reaches a
//! handler has passed signature, subject, freshness, user and policy. The user
//! on whose behalf a message was sent travels on by itself.
//!
//! ```text
//!       your code                                                   your handler
//!           │ publish · request · append                                  ▲ Message<T>
//!  ┌────────▼─────────────────────┐                       ┌───────────────┴──────────────┐
//!  │ policy: may I? for this user?│                       │ replay window: the first time│
//!  │ encrypt, if the subject asks │                       │ policy: may he? may I?       │
//!  │ seal: one signature for all  │                       │ user: token, limits, chain   │
//!  │ that wait at the same moment │                       │ open: signature, subject,    │
//!  └────────┬─────────────────────┘                       │ times, decryption            │
//!           │                                             └───────────────▲──────────────┘
//!           └──────────────►  nats-server: permissions  ──────────────────┘
//!                             compiled from the same policy
//!
//!  control stream ─► trust bundle · policy · revocations · credentials, each verified
//!                    against the pinned root, each in force a moment after it is published
//! ```
//!
//! | to | see |
//! |---|---|
//! | tell, ask, listen, answer | [`Client`], [`Outgoing`], [`Subscription`], [`Service`] |
//! | write a service of endpoints | [`Client::service`], [`extract`], [`layered`] |
//! | store, and work off what is stored | [`Client::append`], [`Consumer`], [`Worker`] |
//! | know for whom it is done | [`User`], [`Context`], [`Exchange`] |
//! | see what happens | [`telemetry`], [`Stats`], [`audit`] |
//! | test it | the module `testing`, with the feature of that name |
//!
//! ```no_run
//! use bulla_sdk::{Client, ConnectOptions, Message, ServiceError};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ConnectOptions::from_env()?).await?;
//!
//! // Answer requests: the message is verified before the handler sees it.
//! let service = client
//!     .serve("greet.hello", async |message: Message<String>| {
//!         let user = message.user().map(|u| u.principal()).unwrap_or("nobody");
//!         Ok::<_, ServiceError>(format!("hello {}, for {user}", message.payload()))
//!     })
//!     .await?;
//!
//! // Ask somebody else.
//! let answer: String = client.request("greet.hello", "world").await?;
//! # drop(answer);
//! service.drain().await;
//! # Ok(())
//! # }
//! ```
//!
//! What should reach who is not there now is appended to a stream:
//!
//! ```no_run
//! # use bulla_sdk::{Client, ConnectOptions};
//! # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! client.append("orders.17.created", "two bowls").await?; // stored
//!
//! let mut orders = client.consume("ORDERS", "billing").await?;
//! loop {
//!     let delivery = orders.next().await?; // verified
//!     let order: String = delivery.message().decode()?;
//!     println!("{order}");
//!     delivery.ack().await?; // comes no more
//! }
//! # }
//! ```
//!
//! What has to be known rather than heard lies in buckets, each value sealed under its
//! key ([`Bucket`]):
//!
//! ```no_run
//! # use bulla_sdk::Client;
//! # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let rates = client.bucket("rates")?;
//! rates.put("eur.usd", &108).await?;
//! let rate: Option<u32> = match rates.get("eur.usd").await? {
//!     Some(entry) => Some(entry.decode()?),
//!     None => None,
//! };
//! # drop(rate);
//! # Ok(())
//! # }
//! ```
//!
//! A subject that asks for encryption is encrypted to whom the policy lets
//! receive there; a missing key is an error, never plaintext.
//!
//! # Features
//!
//! | feature | what it brings |
//! |---|---|
//! | `testing` | a bus within a test's process: the module `testing` |
//! | `otel` | spans that belong to the trace that comes with a message, see [`telemetry`] |
//! | `prometheus` | `telemetry::Prometheus`, a recorder whose page Prometheus reads |
//!
//! # Security
//!
//! Nothing in this crate logs, prints in `Debug` or quotes in an error a token, a
//! key or a payload. The NATS client below it does, at TRACE: a program that
//! installs its own `tracing` subscriber keeps the target `async_nats` at DEBUG or
//! above, as `bulla_process::init_tracing` does.

#[cfg(doctest)]
#[doc = include_str!("../MIGRATION.md")]
mod migration {}

mod agreement;
mod alarm;
mod answers;
mod append;
pub mod audit;
mod bucket;
mod builder;
mod certificate;
mod chains;
mod claims;
mod client;
mod clock;
mod cloud_events;
mod connect_proof;
mod connection;
mod consumer;
mod content;
mod context;
mod control;
pub mod decision_log;
mod discovery;
mod endpoint;
pub mod enforcer_report;
mod error;
mod exchange;
mod incoming;
mod jetstream;
mod kems;
mod layers;
mod lent;
mod letter;
mod link;
mod listened;
mod message;
mod once;
mod open;
mod options;
mod original;
mod origins;
mod outgoing;
mod own;
mod own_audit;
mod pending;
mod prefetch;
mod private_claims;
mod process;
mod readmission;
mod refusal;
mod replies;
mod reply_keys;
mod reply_order;
mod reporter;
mod requests;
mod routes;
mod secret;
mod service;
mod shared;
mod signer;
mod state;
mod stats;
mod subscription;
mod trial;
mod turn;
mod unlock;
mod user;
mod users;
mod vault;

pub mod broker_protocol;
pub mod extract;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use agreement::{AgreeError, Agreed, MAX_AGREED};
pub use alarm::TARGET as ALARM_TARGET;
pub use answers::ReplySender;
pub use append::Appended;
pub use bucket::{Bucket, Entry, Revision, Watch, Write};
pub use builder::{Builder, Bulla, StartError};
pub use bulla_envelope::{
    DecisionId, LeafHash, Limits, LimitsError, MessageId, Stale, TraceParent,
};
pub use bulla_identity::{Claims, Subject, WorkloadId};
pub use bulla_token::MintedToken;
pub use certificate::CertificateFileError;
pub use chains::{Hop, ProofError};
pub use client::Client;
pub use cloud_events::{CloudEvent, CloudEventError};
pub use consumer::{
    Consumer, DeadLetter, Delivery, Receipt, SettingFault, Stored, StreamReader, Worker,
};
pub use content::{ContentType, PayloadError};
pub use context::Context;
pub use control::{PolicyState, Revocations, Standing};
pub use decision_log::TARGET as DECISION_TARGET;
pub use endpoint::Endpoint;
pub use error::{
    AppendError, BucketError, ConnectError, ConsumeError, ControlError, CredentialError,
    FlushError, LinkError, PublishError, ReceiveError, ReplyError, RequestError, SendError,
    ServiceError, ServiceErrorCode, SubscribeError,
};
pub use exchange::{Exchange, ExchangeError};
pub use layers::{Ask, Caller, EndpointService, layered};
pub use lent::{Ears, LentError};
pub use message::{IntoReply, Message, Reply, Response, Sender};
pub use open::{OpenMessage, OpenSubscription, PlainMessage};
pub use options::{ConnectOptions, OptionsError, variables};
pub use original::OriginalToken;
pub use outgoing::Outgoing;
pub use requests::Responses;
pub use service::{RunningService, ServiceBuilder};
pub use stats::Stats;
pub use subscription::{Service, Subscription};
pub use user::{MissingScope, PrivateClaimError, User};
pub use vault::EncryptError;
