//! Reading the configuration again while it runs: all of it takes effect, or nothing.
//!
//! It is read at each SIGHUP, and with each new policy: routes that were written for a
//! policy may lie there before it comes, and routes that go with no policy any more are
//! said to be so at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::api_keys::ApiKeys;
use crate::bus::Bus;
use crate::client_address::ClientsConfig;
use crate::config::GatewayConfig;
use crate::document::ConfigErrors;
use crate::handle::Edge;
use crate::loaded::LoadError;
use crate::routes::RouteTable;
use crate::tls::{Tls, TlsError};
use crate::under_policy::heed;
use bulla_issuer::IssuerKeys;

/// Why a configuration did not take effect. The one before goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration or a routes file is wrong.
    #[error("the configuration is wrong: {0}")]
    Config(#[from] ConfigErrors),
    /// Certificate or key cannot be used.
    #[error("cannot offer TLS")]
    Tls(#[from] TlsError),
    /// An issuer could never be asked.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A route would do with a secret what the policy does not protect.
    #[error("a route does not go with the policy: {0}")]
    Policy(ConfigErrors),
}

/// How often it is looked whether there is a new policy.
const LOOK: Duration = Duration::from_millis(250);

/// What it takes to read the configuration again.
pub(crate) struct Reloader<B> {
    pub(crate) edge: Arc<Edge<B>>,
    pub(crate) file: PathBuf,
    /// What new connections are judged by.
    pub(crate) clients: Arc<ArcSwap<ClientsConfig>>,
    pub(crate) tls: Option<Arc<Tls>>,
    /// What only a restart changes, as it is in force.
    pub(crate) fixed: Fixed,
    /// Who fetches the issuers' keys.
    pub(crate) keepers: Mutex<Vec<Keeper>>,
    /// Who follows the file of API keys.
    pub(crate) key_follower: Mutex<Option<KeyFollower>>,
    /// Who listens for changes of what is kept.
    pub(crate) changes: Mutex<Option<DropGuard>>,
    pub(crate) background: TaskTracker,
    /// Ends every keeper.
    pub(crate) last: CancellationToken,
}

/// A task that keeps one issuer's keys fresh.
pub(crate) struct Keeper {
    keys: Arc<IssuerKeys>,
    stop: CancellationToken,
}

/// A task that follows the file of API keys.
pub(crate) struct KeyFollower {
    keys: Arc<ApiKeys>,
    _stop: DropGuard,
}

/// The parts of the configuration that only a restart changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fixed {
    parts: [(&'static str, String); 5],
}

impl Fixed {
    pub(crate) fn of(config: &GatewayConfig) -> Self {
        let limits = &config.limits;
        let connections = (
            (limits.header_bytes, limits.headers, limits.streams),
            (limits.connections, limits.connections_per_address),
            (limits.requests, limits.event_streams, limits.header_timeout),
            (
                limits.write_timeout,
                limits.unready_for,
                limits.drain_timeout,
            ),
        );
        Self {
            parts: [
                ("[bus]", format!("{:?}", config.bus)),
                ("[listen]", format!("{:?}", config.listen)),
                ("[admin]", format!("{:?}", config.admin)),
                ("[transaction]", format!("{:?}", config.transaction)),
                ("[limits] of connections", format!("{connections:?}")),
            ],
        }
    }

    fn differing<'f>(&'f self, other: &Self) -> Vec<&'f str> {
        let pairs = self.parts.iter().zip(&other.parts);
        pairs.filter(|(a, b)| a != b).map(|(a, _)| a.0).collect()
    }
}

impl<B: Bus> Reloader<B> {
    /// Reads everything again at each SIGHUP, and whenever another policy is in force than
    /// the one of revision `policy`, until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, mut policy: u64, stop: CancellationToken) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => Some(hangups),
            Err(error) => {
                tracing::warn!(%error, "SIGHUP cannot be heard");
                None
            }
        };
        loop {
            let hangup = async {
                match &mut hangups {
                    Some(hangups) => hangups.recv().await,
                    None => std::future::pending().await,
                }
            };
            let why = tokio::select! {
                () = stop.cancelled() => return,
                heard = hangup => match heard {
                    Some(()) => "SIGHUP",
                    None => return,
                },
                () = self.other_policy(policy) => "a new policy",
            };
            // Before anything is held against it: one that comes meanwhile is another.
            policy = self.edge.bus.policy_revision();
            // Files are read and schemas compiled: not on a thread that answers.
            let this = Arc::clone(&self);
            let outcome = tokio::task::spawn_blocking(move || this.reload()).await;
            let good = matches!(outcome, Ok(Ok(())));
            self.edge.metrics.reloaded(good);
            match outcome {
                Ok(Ok(())) => tracing::info!(why, "the configuration was read again"),
                Ok(Err(error)) => {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::error!(error, why, "nothing was changed");
                }
                Err(error) => tracing::error!(%error, why, "nothing was changed"),
            }
        }
    }

    /// Returns when another policy is in force than that of `revision`.
    async fn other_policy(&self, revision: u64) {
        while self.edge.bus.policy_revision() == revision {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Reads everything again. On an error nothing changes.
    pub(crate) fn reload(&self) -> Result<(), ReloadError> {
        let config = GatewayConfig::load(&self.file)?;
        heed(self.edge.bus.objections(&config.routes)).map_err(ReloadError::Policy)?;
        let before = self.edge.loaded.load_full();
        let next = before.next(&config, &self.edge.metrics)?;
        if let Some(tls) = &self.tls {
            tls.reload_if_there()?;
        }
        for part in self.fixed.differing(&Fixed::of(&config)) {
            tracing::warn!(part, "changed, which takes effect at the next start");
        }
        self.keep(next.authenticator.issuers());
        self.follow_keys(next.api_keys.as_ref());
        self.hear_changes(&next.routes);
        self.clients.store(Arc::new(config.clients));
        self.edge.loaded.store(Arc::new(next));
        Ok(())
    }

    /// Hears of the changes that the routes name, and of no others any more.
    pub(crate) fn hear_changes(&self, routes: &RouteTable) {
        let stop = self.last.child_token();
        for invalidation in &routes.invalidations {
            let edge = Arc::clone(&self.edge);
            self.background
                .spawn(Arc::clone(invalidation).follow(edge, stop.clone()));
        }
        *self.changes.lock() = Some(stop.drop_guard());
    }

    /// Follows the file of API keys, and no other any more.
    pub(crate) fn follow_keys(&self, keys: Option<&Arc<ApiKeys>>) {
        let mut follower = self.key_follower.lock();
        let known = follower.as_ref().map(|f| &f.keys);
        match (keys, known) {
            (Some(keys), Some(known)) if Arc::ptr_eq(keys, known) => {}
            (Some(keys), _) => {
                let stop = self.last.child_token();
                self.background.spawn(Arc::clone(keys).follow(stop.clone()));
                *follower = Some(KeyFollower {
                    keys: Arc::clone(keys),
                    _stop: stop.drop_guard(),
                });
            }
            (None, _) => *follower = None,
        }
    }

    /// Begins to fetch the keys of issuers that are new, and ends it for those that are
    /// gone. A request that began before goes on with the keys that it has.
    pub(crate) fn keep(&self, issuers: &[Arc<IssuerKeys>]) {
        let mut keepers = self.keepers.lock();
        keepers.retain(|keeper| {
            let stays = issuers.iter().any(|keys| Arc::ptr_eq(keys, &keeper.keys));
            if !stays {
                keeper.stop.cancel();
            }
            stays
        });
        for keys in issuers {
            if keepers.iter().any(|k| Arc::ptr_eq(&k.keys, keys)) {
                continue;
            }
            let stop = self.last.child_token();
            self.background
                .spawn(Arc::clone(keys).keep_fresh(stop.clone()));
            keepers.push(Keeper {
                keys: Arc::clone(keys),
                stop,
            });
        }
    }
}
