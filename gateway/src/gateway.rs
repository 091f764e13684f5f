//! The process: everything is made, then started, then stopped in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bulla_process::Readiness;
use bulla_process::admin::{AdminError, AdminListener};
use bulla_sdk::decision_log::DecisionLog;
use bulla_token::TokenSigningKey;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[cfg(feature = "acme")]
use crate::acme::CertificateKeeper;
use crate::admin::EdgeProbe;
use crate::admission::Admission;
use crate::bus::Bus;
use crate::client_address::ClientsConfig;
use crate::config::{GatewayConfig, Limits};
use crate::document::ConfigErrors;
use crate::handle::{Edge, Streams};
use crate::loaded::{LoadError, Loaded};
use crate::metrics::Metrics;
use crate::mint::Minter;
use crate::reload::{Fixed, Reloader};
use crate::server::{BindError, Door, bind, serve};
use crate::tls::{Tls, TlsError};
use crate::under_policy::heed;

/// An edge whose addresses are bound and which answers as soon as it runs.
pub struct Gateway<B> {
    edge: Arc<Edge<B>>,
    listener: TcpListener,
    address: SocketAddr,
    admin: Option<AdminListener>,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    clients: Arc<ArcSwap<ClientsConfig>>,
    file: PathBuf,
    fixed: Fixed,
    /// The revision of the policy that the routes were held against.
    policy: u64,
    metrics: Metrics,
    readiness: Readiness,
}

/// Why the edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not ours.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// So is the one for operators.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Certificate or key cannot be used.
    #[error("cannot offer TLS")]
    Tls(#[from] TlsError),
    /// An issuer could never be asked.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A route would do with a secret what the policy does not protect.
    #[error("a route does not go with the policy: {0}")]
    Policy(ConfigErrors),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random(getrandom::Error),
    /// The bus does not let this workload in.
    #[error("cannot connect to the bus")]
    Connect(#[from] bulla_sdk::ConnectError),
}

impl<B: Bus> Gateway<B> {
    /// Binds the addresses and makes everything ready to run.
    ///
    /// `key` signs the transaction tokens; its public half is what the bus publishes
    /// under [`Bus::token_key`].
    ///
    /// # Errors
    ///
    /// [`StartError`]
    pub async fn new(
        config: GatewayConfig,
        bus: B,
        key: TokenSigningKey,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let tls = config
            .listen
            .tls
            .as_ref()
            .map(Tls::new)
            .transpose()?
            .map(Arc::new);
        let policy = bus.policy_revision();
        heed(bus.objections(&config.routes)).map_err(StartError::Policy)?;
        let loaded = Loaded::new(&config, &metrics)?;
        let fixed = Fixed::of(&config);
        let (listener, address) = bind(config.listen.address).await?;
        let admin = match config.admin {
            Some(address) => Some(AdminListener::bind(address).await?),
            None => None,
        };
        let minter = Minter::new(key, &config.bus, &config.transaction);
        let edge = Arc::new(Edge {
            decisions: DecisionLog::new("gateway", bus.audit()),
            bus,
            loaded: ArcSwap::from_pointee(loaded),
            minter,
            metrics: metrics.clone(),
            workload: config.bus.workload.path().to_owned(),
            admission: Arc::new(Admission::new(config.limits.requests)),
            streams: Streams::new(config.limits.event_streams),
            most_headers: config.limits.headers,
        });
        Ok(Self {
            edge,
            listener,
            address,
            admin,
            tls,
            limits: config.limits,
            clients: Arc::new(ArcSwap::from_pointee(config.clients)),
            file: config.file,
            fixed,
            policy,
            metrics,
            readiness: Readiness::new(),
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminListener::address)
    }

    /// Becomes ready when bus and issuers are.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Answers requests until `stop`; returns when all that ran has ended. At each SIGHUP
    /// and with each new policy it reads its configuration again.
    pub async fn run(self, stop: CancellationToken) {
        let Self {
            edge,
            listener,
            address,
            admin,
            tls,
            limits,
            clients,
            file,
            fixed,
            policy,
            metrics,
            readiness,
        } = self;
        tracing::info!(
            address = %address,
            tls = tls.is_some(),
            routes = edge.loaded.load().routes.iter().count(),
            "the gateway listens"
        );
        let background = TaskTracker::new();
        // Takes no more connections. Later than `stop`, with which it becomes unready.
        let closing = CancellationToken::new();
        background.spawn({
            let (stop, closing) = (stop.clone(), closing.clone());
            let streams = edge.streams.stopping.clone();
            async move {
                stop.cancelled().await;
                tokio::time::sleep(limits.unready_for).await;
                closing.cancel();
                streams.cancel();
            }
        });
        // Outlives `stop`: requests that drain may still need keys, and operators
        // watch the drain.
        let last = CancellationToken::new();
        let reloader = Arc::new(Reloader {
            edge: Arc::clone(&edge),
            file,
            clients: Arc::clone(&clients),
            tls: tls.clone(),
            fixed,
            keepers: Mutex::default(),
            key_follower: Mutex::default(),
            changes: Mutex::default(),
            background: background.clone(),
            last: last.clone(),
        });
        reloader.keep(edge.loaded.load().authenticator.issuers());
        reloader.follow_keys(edge.loaded.load().api_keys.as_ref());
        reloader.hear_changes(&edge.loaded.load().routes);
        background.spawn(reloader.follow(policy, stop.clone()));
        background.spawn(watch_readiness(
            Arc::clone(&edge),
            readiness.clone(),
            stop.clone(),
        ));
        if let Some(listener) = admin {
            let (edge, stop) = (Arc::clone(&edge), stop.clone());
            let probe = EdgeProbe { edge, stop };
            background.spawn(listener.serve(Arc::new(probe), last.clone()));
        }
        #[cfg(feature = "acme")]
        if let Some((tls, config)) = tls.as_ref().and_then(|tls| Some((tls, tls.acme()?))) {
            let keeper = CertificateKeeper {
                config: config.clone(),
                tls: Arc::clone(tls),
                metrics: metrics.clone(),
            };
            background.spawn(keeper.keep(stop.clone()));
        }
        let answer = {
            let edge = Arc::clone(&edge);
            move |request, peer| {
                let edge = Arc::clone(&edge);
                async move { edge.handle(request, peer).await }
            }
        };
        let door = Door {
            tls: tls.map(|tls| tls.acceptor()),
            limits: limits.clone(),
            clients,
            metrics,
            unread: {
                let edge = Arc::clone(&edge);
                Arc::new(move |address, unread| edge.unread(address, unread))
            },
        };
        let drain = limits.drain_timeout;
        serve(listener, door, closing, answer).await;
        readiness.set_unready();
        edge.streams.talks.close();
        let talks = edge.streams.talks.wait();
        if tokio::time::timeout(drain, talks).await.is_err() {
            let left = edge.streams.talks.len();
            tracing::warn!(left, "WebSocket connections did not end");
        }
        edge.bus.flush().await;
        last.cancel();
        background.close();
        background.wait().await;
        tracing::info!("the gateway has stopped");
    }
}

/// Says `ready` once everything that a request needs is there.
async fn watch_readiness<B: Bus>(
    edge: Arc<Edge<B>>,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let pause = std::time::Duration::from_millis(20);
    while !(edge.bus.ready() && edge.loaded.load().authenticator.ready()) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
    readiness.set_ready("gateway");
    stop.cancelled().await;
    readiness.set_unready();
}
