//! How an operator's command speaks to the bus: the one connection that all of
//! them use.
//!
//! An operator is a user of his own in the account `JS`, known by an nkey and no
//! broker's. He reads what lies on the streams there, and writes what the policy
//! key signed; brokers and enforcers believe the signature and not the
//! connection. The trust bundle is read from the stream, under the pinned root,
//! before anything else is.

use std::path::PathBuf;
use std::sync::Arc;

use async_nats::jetstream::{self, Context};
use async_nats::{Client, Subscriber};
use bulla_envelope::{TrustBundle, TrustError};
use bulla_identity::{TrustDomain, Verified, reserved};
use bulla_keyring::VerifyingKey;
use futures_util::TryStreamExt as _;
use futures_util::stream::{SelectAll, select_all};

use crate::bus_user::BusUser;
use crate::clock;
use crate::connection::{self, ConnectionError};
use crate::control::{ControlStream, StreamError};
use crate::stored::{self, NoAnswer, Stored};
use crate::trust::CLOCK_SKEW;

/// Where the bus is, and whom its trust bundle must come from.
#[derive(Clone, Debug)]
pub(crate) struct OperatorPlace {
    /// nats-server.
    pub(crate) url: String,
    /// Certificate authorities for TLS to it; the system's where there is none.
    pub(crate) tls_ca_file: Option<PathBuf>,
    /// The pinned trust roots.
    pub(crate) roots: Vec<VerifyingKey>,
    /// The trust domain.
    pub(crate) domain: TrustDomain,
}

/// A connection in the account `JS`, and the trust by which what lies there is
/// read.
#[derive(Debug)]
pub(crate) struct OperatorClient {
    client: Client,
    /// The control stream, as it is.
    pub(crate) stream: ControlStream,
    /// The trust bundle in force.
    pub(crate) bundle: Verified<TrustBundle>,
}

impl OperatorClient {
    /// Connects as this user and reads the trust bundle. Waits for
    /// nothing that is not there now.
    pub(crate) async fn connect(
        place: OperatorPlace,
        user: BusUser,
    ) -> Result<Self, OperatorClientError> {
        let OperatorPlace {
            url,
            tls_ca_file,
            roots,
            domain,
        } = place;
        let client = connection::connect_once(&url, Arc::new(user), tls_ca_file).await?;
        let stream = ControlStream::attach(client.clone()).await?;
        let record = stream.last(reserved::CTL_BUNDLE).await?;
        let record = record.ok_or(OperatorClientError::NoBundle)?;
        let bundle = TrustBundle::open(&record.payload, &roots, &domain, clock::now(), CLOCK_SKEW)?;
        Ok(Self {
            client,
            stream,
            bundle,
        })
    }

    /// The connection, for news and core messages.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The records of a stream beneath a pattern.
    pub(crate) async fn stored(
        &self,
        stream: &str,
        pattern: &str,
    ) -> Result<Vec<Stored>, NoAnswer> {
        stored::records(&self.client, stream, pattern).await
    }

    /// The subjects of a stream's records beneath a pattern.
    pub(crate) async fn subjects(
        &self,
        stream: &str,
        pattern: &str,
    ) -> Result<Vec<String>, NoAnswer> {
        let failed = || NoAnswer::of(stream);
        let found = self.jetstream().get_stream(stream).await;
        let found = found.map_err(|_| failed())?;
        let subjects = found.info_with_subjects(pattern).await;
        let subjects = subjects.map_err(|_| failed())?;
        let list = subjects.map_ok(|(subject, _)| subject).try_collect().await;
        list.map_err(|_| failed())
    }

    /// What comes on these subjects from now on, in one queue.
    pub(crate) async fn listen(&self, subjects: &[&str]) -> Result<News, OperatorClientError> {
        let mut all = Vec::new();
        for subject in subjects {
            let subscription = self.client.subscribe((*subject).to_owned()).await;
            all.push(subscription.map_err(|_| ConnectionError::Lost)?);
        }
        connection::round_trip(&self.client).await?;
        Ok(select_all(all))
    }

    /// JetStream over it, for the streams beside the control stream.
    pub(crate) fn jetstream(&self) -> Context {
        jetstream::new(self.client.clone())
    }
}

/// What several subscriptions bring.
pub(crate) type News = SelectAll<Subscriber>;

/// Why the bus cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperatorClientError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the control stream holds no trust bundle: does a broker run?")]
    NoBundle,
    #[error("the trust bundle on the control stream does not hold")]
    Bundle(#[from] TrustError),
}
