//! How a broker connects to nats-server: by nkey, patiently, with jitter.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectOptions, Event};
use bulla_identity::Nkey;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::bus_user::BusUser;
use crate::config::BusTls;
use crate::metrics::Metrics;

/// One of a broker's connections, to be made.
pub(crate) struct Connection {
    /// The account, for logs and metrics.
    pub(crate) account: &'static str,
    /// As whom.
    pub(crate) user: Arc<BusUser>,
    /// How many messages a subscription holds; what comes when it is full is dropped.
    pub(crate) waiting: usize,
    /// Told whenever messages may have been missed: at each new connection, and when
    /// a subscription could not take them all.
    pub(crate) disturbed: Arc<Notify>,
}

impl Connection {
    /// Connects, however long that takes: nats-server may start later, or may not know
    /// this nkey before its next reload. Once connected it reconnects for ever.
    pub(crate) async fn make(self, bus: &BusAddress, metrics: &Metrics) -> Client {
        let Self {
            account,
            user,
            waiting,
            disturbed,
        } = self;
        let nkey = user.public();
        let metrics = metrics.clone();
        let url = &*bus.url;
        let options = bus
            .options(user)
            .name(format!("bulla broker: {account}"))
            .reconnect_delay_callback(delay)
            .subscription_capacity(waiting)
            .event_callback(move |event| {
                if matches!(event, Event::SlowConsumer(_)) {
                    metrics.slow_consumer(account);
                }
                if matches!(event, Event::Connected | Event::SlowConsumer(_)) {
                    disturbed.notify_one();
                }
                async move { log(account, &event) }
            });
        let mut attempt = 0_usize;
        let mut told: Option<Instant> = None;
        loop {
            let error = match options.clone().connect(url).await {
                Ok(client) => return client,
                Err(error) => error,
            };
            if told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
                told = Some(Instant::now());
                tracing::warn!(
                    url,
                    account,
                    %nkey,
                    %error,
                    "no connection to nats-server yet: is it running, with the configuration \
                     that names this nkey?"
                );
            }
            attempt = attempt.saturating_add(1);
            tokio::time::sleep(delay(attempt)).await;
        }
    }
}

/// Connects once, as a person who waits for it does: what is not there now is
/// told at once. Its inbox is one that nobody else of the account may read.
pub(crate) async fn connect_once(
    url: &str,
    user: Arc<BusUser>,
    ca_file: Option<PathBuf>,
) -> Result<Client, ConnectionError> {
    let nkey = user.public();
    let mut options = prove_by(user)
        .name("bulla operator")
        .custom_inbox_prefix(operator_inbox(&nkey))
        .connection_timeout(ONCE_LIMIT)
        .reconnect_delay_callback(delay)
        // What was lost on the way is asked for again by whoever asked.
        .event_callback(|event| async move { tracing::debug!(%event, "connection") });
    if let Some(ca_file) = ca_file {
        options = options.add_root_certificates(ca_file).require_tls(true);
    }
    options
        .connect(url)
        .await
        .map_err(|source| ConnectionError::Connect {
            url: url.to_owned(),
            account: "JS",
            nkey: nkey.to_string(),
            source,
        })
}

/// Where an operator's answers come, without a final dot.
pub(crate) fn operator_inbox(nkey: &Nkey) -> String {
    format!("_INBOX.operator.{nkey}")
}

/// Where nats-server is, and how it is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct BusAddress {
    pub(crate) url: String,
    pub(crate) tls: BusTls,
}

impl BusAddress {
    fn options(&self, user: Arc<BusUser>) -> ConnectOptions {
        let mut options = prove_by(user);
        if let Some(ca) = &self.tls.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let Some((certificate, key)) = &self.tls.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        options
    }
}

fn prove_by(user: Arc<BusUser>) -> ConnectOptions {
    ConnectOptions::with_auth_callback(move |nonce| {
        let user = Arc::clone(&user);
        async move { user.auth(&nonce) }
    })
    .ping_interval(Duration::from_secs(5))
}

/// Returns when nats-server has processed everything this connection sent
/// before: a message to oneself goes there and back.
pub(crate) async fn round_trip(client: &Client) -> Result<(), ConnectionError> {
    use futures_util::StreamExt as _;
    let lost = |_| ConnectionError::Lost;
    let inbox = client.new_inbox();
    let mut echo = client
        .subscribe(inbox.clone())
        .await
        .map_err(|_| ConnectionError::Lost)?;
    client
        .publish(inbox, bytes::Bytes::new())
        .await
        .map_err(|_| ConnectionError::Lost)?;
    timeout(ROUND_TRIP_LIMIT, echo.next())
        .await
        .map_err(lost)?
        .ok_or(ConnectionError::Lost)?;
    Ok(())
}

/// From 20 ms doubling up to 2 s, each with up to half of it taken off, so that
/// brokers do not come back in step.
fn delay(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.clamp(1, 8)).unwrap_or(8) - 1;
    let longest = (20_u32 << doublings).min(2_000);
    let mut random = [0; 1];
    // Without randomness there is no jitter, and no harm.
    let _ = getrandom::fill(&mut random);
    let [random] = random;
    let off = longest / 2 * u32::from(random) / 256;
    Duration::from_millis(u64::from(longest - off))
}

fn log(account: &'static str, event: &Event) {
    match event {
        Event::Connected => tracing::info!(account, "connected to nats-server"),
        Event::Closed | Event::Draining => tracing::debug!(account, %event, "connection"),
        Event::Disconnected
        | Event::LameDuckMode
        | Event::SlowConsumer(_)
        | Event::ServerError(_)
        | Event::ClientError(_) => tracing::warn!(account, %event, "connection to nats-server"),
    }
}

/// Why there is no connection to nats-server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Not reachable, or it does not know the broker's nkey.
    #[error(
        "cannot connect to nats-server at `{url}` as `{nkey}` (account {account}): is it running, with the configuration that names this nkey?"
    )]
    Connect {
        /// The address.
        url: String,
        /// Which account the nkey belongs to.
        account: &'static str,
        /// The public nkey.
        nkey: String,
        /// The client's reason.
        source: ConnectError,
    },
    /// It was there, and is gone.
    #[error("the connection to nats-server was lost")]
    Lost,
}

/// A broker that waits for nats-server says so again after this.
pub(crate) const TELL_AGAIN: Duration = Duration::from_secs(30);

/// How many messages wait where none may be lost.
pub(crate) const WAITING: usize = 65_536;

/// How long a person waits for nats-server.
const ONCE_LIMIT: Duration = Duration::from_secs(5);

const ROUND_TRIP_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_two_seconds_and_never_vanish() {
        for attempt in 0..100 {
            let delay = delay(attempt);
            assert!(delay >= Duration::from_millis(10), "{attempt}: {delay:?}");
            assert!(delay <= Duration::from_secs(2), "{attempt}: {delay:?}");
        }
    }
}
