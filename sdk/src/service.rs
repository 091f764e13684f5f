//! A service of several endpoints, started and drained together.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bulla_identity::SubjectPattern;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::discovery::{Card, Discovery, Listed, Tallies, is_discoverable, is_version};
use crate::endpoint::{Endpoint, WithState};
use crate::error::{ServiceError, SubscribeError};
use crate::layers::Layered;
use crate::message::{IntoReply, Message};
use crate::shared::Shared;
use crate::subscription::{Handler, Service};

type Opening = Pin<Box<dyn Future<Output = Result<Service, SubscribeError>> + Send>>;
type Open = Box<dyn FnOnce(Arc<Shared>, Arc<Tallies>) -> Opening + Send>;

/// An endpoint that is not served yet.
struct Planned {
    pattern: String,
    name: String,
    open: Open,
}

/// A service that is put together; [`Client::service`](crate::Client::service) starts one.
///
/// ```no_run
/// use bulla_sdk::extract::{Payload, State};
/// use bulla_sdk::{Client, ServiceError, User};
///
/// #[derive(Clone)]
/// struct Prices { per_bowl: u32 }
///
/// async fn quote(
///     State(prices): State<Prices>,
///     Payload(bowls): Payload<u32>,
///     user: User,
/// ) -> Result<u32, ServiceError> {
///     user.require_scope("orders:write")?;
///     Ok(bowls * prices.per_bowl)
/// }
///
/// async fn ping() -> Result<&'static str, ServiceError> {
///     Ok("pong")
/// }
///
/// # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let billing = client
///     .service()
///     .state(Prices { per_bowl: 700 })
///     .endpoint("billing.quote", quote)
///     .endpoint("billing.ping", ping)
///     .start()
///     .await?;
/// # let stop = std::future::ready(());
/// stop.await;
/// billing.drain().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is served before `start`"]
pub struct ServiceBuilder<S = ()> {
    shared: Arc<Shared>,
    state: S,
    endpoints: Vec<Planned>,
    version: String,
    description: String,
    metadata: BTreeMap<String, String>,
}

impl ServiceBuilder {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            state: (),
            endpoints: Vec::new(),
            version: "0.0.0".to_owned(),
            description: String::new(),
            metadata: BTreeMap::new(),
        }
    }
}

impl<S: Clone + Send + Sync + 'static> ServiceBuilder<S> {
    /// What endpoints that are added after this get with
    /// [`State`](crate::extract::State): a handle that is cheap to clone, such as a pool
    /// or an [`Arc`].
    pub fn state<T: Clone + Send + Sync + 'static>(self, state: T) -> ServiceBuilder<T> {
        ServiceBuilder {
            shared: self.shared,
            state,
            endpoints: self.endpoints,
            version: self.version,
            description: self.description,
            metadata: self.metadata,
        }
    }

    /// Answers requests on `pattern` with an async function, see [`Endpoint`].
    ///
    /// It runs in the message's [`Context`](crate::Context), so that what it sends
    /// carries the same user, and is stopped at the request's deadline.
    pub fn endpoint<A, H>(self, pattern: impl Into<String>, endpoint: H) -> Self
    where
        A: 'static,
        H: Endpoint<A, S>,
    {
        let (pattern, state) = (pattern.into(), self.state.clone());
        let handler = WithState::new(endpoint, state);
        self.plan(pattern, handler)
    }

    /// Answers requests on `pattern` with a [`tower::Service`]: an endpoint under
    /// layers of that crate (see [`layered`](crate::layered)), or one of its own.
    pub fn endpoint_service<T>(self, pattern: impl Into<String>, service: T) -> Self
    where
        T: tower::Service<Message<Bytes>> + Clone + Send + 'static,
        T::Response: IntoReply + Send,
        T::Error: Into<ServiceError> + Send,
        T::Future: Send,
    {
        self.plan(pattern.into(), Layered::new(service))
    }

    fn plan<H: Handler>(mut self, pattern: String, handler: H) -> Self {
        let on = pattern.clone();
        let open: Open = Box::new(move |shared, tallies| {
            Box::pin(async move { Service::open_counted(&shared, &on, handler, tallies).await })
        });
        self.endpoints.push(Planned {
            name: Listed::name_of(&pattern),
            pattern,
            open,
        });
        self
    }

    /// Names the endpoint that was added last, for who discovers services: letters,
    /// digits, `-` and `_`. Without it the name is made of its pattern.
    pub fn named(mut self, name: &str) -> Self {
        let name = Listed::name_of(name);
        if let Some(last) = self.endpoints.last_mut().filter(|_| !name.is_empty()) {
            last.name = name;
        }
        self
    }

    /// The service's version, as SemVer writes it, for who discovers services: `0.0.0`
    /// unless it is said.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// What the service is for, for who discovers services.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Something else to be told to who discovers services.
    ///
    /// # Security
    /// It is told in plain, to every workload that the policy lets discover.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Begins to serve all endpoints, in this workload's queue group. Where the policy
    /// calls this workload `discoverable`, the service also answers NATS's own tools
    /// (`nats micro ls`, `info`, `stats`), under the workload's name.
    ///
    /// # Errors
    /// [`SubscribeError`] of the first endpoint that cannot be served, or of a version
    /// that is none; then nothing is served.
    pub async fn start(self) -> Result<RunningService, SubscribeError> {
        if !is_version(&self.version) {
            return Err(SubscribeError::Version {
                version: self.version,
            });
        }
        let (mut listed, mut opening) = (Vec::new(), Vec::new());
        for Planned {
            pattern,
            name,
            open,
        } in self.endpoints
        {
            let tallies = Arc::<Tallies>::default();
            opening.push(open(Arc::clone(&self.shared), Arc::clone(&tallies)));
            listed.push(Listed {
                name,
                subject: shown(&pattern),
                tallies,
            });
        }
        let (mut endpoints, mut failed) = (Vec::new(), None);
        for opened in join_all(opening).await {
            match opened {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let hidden = CancellationToken::new();
        let service = RunningService {
            endpoints,
            hidden: hidden.clone(),
            _hide: hidden.clone().drop_guard(),
        };
        let Some(error) = failed else {
            if is_discoverable(&self.shared) {
                let card = Card {
                    version: self.version,
                    description: self.description,
                    metadata: self.metadata,
                    endpoints: listed,
                };
                let discovery = Discovery::new(&self.shared, card);
                if let Err(error) = discovery.answer(&self.shared, hidden).await {
                    // It serves all the same.
                    tracing::warn!(%error, "the service cannot be discovered");
                }
            }
            return Ok(service);
        };
        service.drain().await;
        Err(error)
    }
}

/// A service that answers on all of its endpoints.
///
/// Dropping it stops new requests and lets those in flight finish unattended.
#[must_use = "dropping a service stops it"]
pub struct RunningService {
    endpoints: Vec<Service>,
    /// Ends its answers to who discovers services.
    hidden: CancellationToken,
    _hide: DropGuard,
}

impl RunningService {
    /// Stops new requests on all endpoints and waits until those that have arrived are
    /// answered, see [`Service::drain`].
    pub async fn drain(&self) {
        self.hidden.cancel();
        join_all(self.endpoints.iter().map(Service::drain)).await;
    }
}

/// As nats-server is told it.
fn shown(pattern: &str) -> String {
    SubjectPattern::parse(pattern).map_or_else(|_| pattern.to_owned(), |p| p.to_nats())
}

impl std::fmt::Debug for RunningService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningService")
            .field("endpoints", &self.endpoints.len())
            .finish_non_exhaustive()
    }
}
