//! A service of several endpoints, started and drained together.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::endpoint::{Endpoint, WithState};
use crate::error::{ServiceError, SubscribeError};
use crate::layers::Layered;
use crate::message::{IntoReply, Message};
use crate::shared::Shared;
use crate::subscription::Service;

type Opening = Pin<Box<dyn Future<Output = Result<Service, SubscribeError>> + Send>>;
type Open = Box<dyn FnOnce(Arc<Shared>) -> Opening + Send>;

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
    endpoints: Vec<Open>,
}

impl ServiceBuilder {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            state: (),
            endpoints: Vec::new(),
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
        }
    }

    /// Answers requests on `pattern` with an async function, see [`Endpoint`].
    ///
    /// It runs in the message's [`Context`](crate::Context), so that what it sends
    /// carries the same user, and is stopped at the request's deadline.
    pub fn endpoint<A, H>(mut self, pattern: impl Into<String>, endpoint: H) -> Self
    where
        A: 'static,
        H: Endpoint<A, S>,
    {
        let (pattern, state) = (pattern.into(), self.state.clone());
        self.endpoints.push(Box::new(move |shared| {
            let handler = WithState::new(endpoint, state);
            Box::pin(async move { Service::open(&shared, &pattern, handler).await })
        }));
        self
    }

    /// Answers requests on `pattern` with a [`tower::Service`]: an endpoint under
    /// layers of that crate (see [`layered`](crate::layered)), or one of its own.
    pub fn endpoint_service<T>(mut self, pattern: impl Into<String>, service: T) -> Self
    where
        T: tower::Service<Message<Bytes>> + Clone + Send + 'static,
        T::Response: IntoReply + Send,
        T::Error: Into<ServiceError> + Send,
        T::Future: Send,
    {
        let pattern = pattern.into();
        self.endpoints.push(Box::new(move |shared| {
            let handler = Layered::new(service);
            Box::pin(async move { Service::open(&shared, &pattern, handler).await })
        }));
        self
    }

    /// Begins to serve all endpoints, in this workload's queue group.
    ///
    /// # Errors
    /// [`SubscribeError`] of the first endpoint that cannot be served; then none is.
    pub async fn start(self) -> Result<RunningService, SubscribeError> {
        let opening = self
            .endpoints
            .into_iter()
            .map(|open| open(Arc::clone(&self.shared)));
        let (mut endpoints, mut failed) = (Vec::new(), None);
        for opened in join_all(opening).await {
            match opened {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let service = RunningService { endpoints };
        let Some(error) = failed else {
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
}

impl RunningService {
    /// Stops new requests on all endpoints and waits until those that have arrived are
    /// answered, see [`Service::drain`].
    pub async fn drain(&self) {
        join_all(self.endpoints.iter().map(Service::drain)).await;
    }
}

impl std::fmt::Debug for RunningService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningService")
            .field("endpoints", &self.endpoints.len())
            .finish_non_exhaustive()
    }
}
