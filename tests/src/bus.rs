//! The bus of `bulla-testing`, and what attackers and broken brokers do on it.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use async_nats::Client;
use bulla_broker::{BrokerConfig, BrokerError};
use bulla_process::{CancellationToken, Readiness};
use bulla_testing::{BrokerHandle, BusOptions};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::RawSocket;

/// A running bus, see [`bulla_testing::Bus`]. Dropping it kills nats-server and
/// every broker.
#[derive(Debug)]
pub struct Bus(bulla_testing::Bus);

impl Bus {
    /// A bus with one broker and this policy, see [`BusOptions::policy`].
    pub async fn start(policy: &str) -> Self {
        Self(Box::pin(bulla_testing::Bus::start(policy)).await)
    }

    /// A bus as `options` say.
    pub async fn start_with(options: BusOptions) -> Self {
        Self(Box::pin(bulla_testing::Bus::start_with(options)).await)
    }

    /// Ends a broker in the middle of whatever it does.
    pub async fn kill_broker(&mut self, broker: BrokerHandle) {
        self.0.kill_broker(broker).await;
    }

    /// Stops a broker in good order.
    pub async fn stop_broker(&mut self, broker: BrokerHandle) {
        self.0.stop_broker(broker).await;
    }

    /// Why another broker does not start.
    pub async fn broker_that_fails(&self) -> BrokerError {
        let config = BrokerConfig::load(&self.provision().path("broker.toml"))
            .expect("a sound configuration");
        let run = Box::pin(bulla_broker::run(
            config,
            Readiness::new(),
            CancellationToken::new(),
        ));
        let ended = timeout(LIMIT, run).await.expect("a broker that ends");
        ended.expect_err("a broker that does not start")
    }

    /// Joins a queue group of the callout like a broker, and never answers: a
    /// broker that hangs. It hangs until the client is dropped.
    pub async fn hung_broker(&self, queue: &str) -> Client {
        let client = self.broker_client("broker-auth").await;
        let subscription = client
            .queue_subscribe("$SYS.REQ.USER.AUTH", queue.to_owned())
            .await
            .expect("a subscription");
        round_trip(&client).await;
        // Taken from the server, kept from everybody.
        tokio::spawn(subscription.for_each(|_| async {}));
        client
    }

    /// A connection of a workload's, spoken by hand.
    pub async fn raw_socket(&self, name: &str) -> RawSocket {
        let mut socket = RawSocket::connect(self.nats_url()).await;
        let login = RawSocket::login_of(&self.seed(name), socket.nonce());
        assert!(socket.log_in(&login).await, "a workload may connect");
        socket
    }
}

impl Deref for Bus {
    type Target = bulla_testing::Bus;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Bus {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// Returns when nats-server has processed everything that the client sent:
/// a message to oneself goes there and back.
async fn round_trip(client: &Client) {
    let inbox = client.new_inbox();
    let mut echo = client
        .subscribe(inbox.clone())
        .await
        .expect("a subscription");
    client.publish(inbox, "".into()).await.expect("a message");
    timeout(LIMIT, echo.next())
        .await
        .expect("an answer")
        .expect("a connection");
}

const LIMIT: Duration = Duration::from_secs(10);
