//! Handlers and callers as [`tower::Service`]s, so that the layers of that crate
//! (time-outs, concurrency limits, load shedding, retries) just work on both sides.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as Polling, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tower::{BoxError, Service, ServiceExt as _};

use crate::answers::ReplySender;
use crate::client::Client;
use crate::content::{ContentType, PayloadError};
use crate::context::Context;
use crate::endpoint::{Endpoint, WithState, encode};
use crate::error::{RequestError, ServiceError, ServiceErrorCode};
use crate::message::{IntoReply, Message, Reply, Response};
use crate::subscription::Handler;

/// An endpoint as a [`tower::Service`], to put layers around it:
///
/// ```no_run
/// use std::time::Duration;
/// use bulla_sdk::extract::Payload;
/// use bulla_sdk::{Client, ServiceError, layered};
///
/// async fn render(Payload(page): Payload<String>) -> Result<Vec<u8>, ServiceError> {
///     Ok(page.into_bytes())
/// }
///
/// # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let render = tower::ServiceBuilder::new()
///     .load_shed()
///     .concurrency_limit(8)
///     .timeout(Duration::from_secs(1))
///     .service(layered(render, ()));
/// let service = client.service().endpoint_service("pages.render", render).start().await?;
/// # drop(service);
/// # Ok(())
/// # }
/// ```
pub fn layered<A, S, H>(endpoint: H, state: S) -> EndpointService<H, A, S>
where
    H: Endpoint<A, S>,
    S: Clone + Send + Sync + 'static,
{
    EndpointService(WithState::new(endpoint, state))
}

/// What [`layered`] makes of an endpoint.
pub struct EndpointService<H, A, S>(WithState<H, A, S>);

impl<H: Clone, A, S: Clone> Clone for EndpointService<H, A, S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H, A, S> Service<Message<Bytes>> for EndpointService<H, A, S>
where
    H: Endpoint<A, S>,
    A: 'static,
    S: Clone + Send + Sync + 'static,
{
    type Response = Reply;
    type Error = ServiceError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, ServiceError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Polling<'_>) -> Poll<Result<(), ServiceError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message<Bytes>) -> Self::Future {
        let WithState {
            endpoint, state, ..
        } = self.0.clone();
        Box::pin(async move { endpoint.call(message, &state).await })
    }
}

/// A [`tower::Service`] as a handler.
pub(crate) struct Layered<T>(Mutex<T>);

impl<T> Layered<T> {
    pub(crate) const fn new(service: T) -> Self {
        Self(Mutex::new(service))
    }
}

impl<T> Handler for Layered<T>
where
    T: Service<Message<Bytes>> + Clone + Send + 'static,
    T::Response: IntoReply + Send,
    T::Error: Into<ServiceError> + Send,
    T::Future: Send,
{
    const IS_BOUNDED: bool = true;

    async fn handle(
        &self,
        message: Message<Bytes>,
        _: &ReplySender,
    ) -> Result<Option<Reply>, ServiceError> {
        // Each request has a clone of its own to wait for: what limits them is shared
        // by the clones.
        let service = self.0.lock().clone();
        let outcome = service.oneshot(message.clone()).await;
        encode(&message, outcome).map(Some)
    }
}

/// What a layer says in place of a handler. Of an error that is neither a
/// [`ServiceError`] nor one of tower's layers the caller learns nothing.
impl From<BoxError> for ServiceError {
    fn from(error: BoxError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(own) => return *own,
            Err(other) => other,
        };
        if error.is::<tower::timeout::error::Elapsed>() {
            let why = "the service did not finish in time";
            return Self::new(ServiceErrorCode::Unavailable, why);
        }
        if error.is::<tower::load_shed::error::Overloaded>() {
            let why = "the service takes no more requests now";
            return Self::new(ServiceErrorCode::Unavailable, why);
        }
        tracing::warn!(error = &*error as &dyn Error, "a handler failed");
        Self::new(ServiceErrorCode::Internal, "the service failed")
    }
}

/// A request for a [`Caller`]: what may be sent again by a layer that retries.
#[derive(Clone)]
pub struct Ask {
    content_type: ContentType,
    body: Bytes,
    headers: Vec<(String, String)>,
}

impl Ask {
    /// Encodes `value`.
    ///
    /// # Errors
    /// [`PayloadError`] if it does not encode as `content_type`.
    pub fn encode<T: Serialize + ?Sized>(
        content_type: ContentType,
        value: &T,
    ) -> Result<Self, PayloadError> {
        let body = content_type.encode(value)?;
        Ok(Self::bytes(content_type, body))
    }

    /// Bytes as they are.
    pub fn bytes(content_type: ContentType, body: impl Into<Bytes>) -> Self {
        Self {
            content_type,
            body: body.into(),
            headers: Vec::new(),
        }
    }

    /// Adds a signed application header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Shows how much is asked, never what.
impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask")
            .field("content_type", &self.content_type)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Requests on one subject as a [`tower::Service`]: for layers that retry, limit or
/// hedge what is asked of others. Made by [`Client::caller`](crate::Client::caller).
///
/// A request is sent in the context in which it was given to the caller, whichever
/// task sends it: its user and deadline come along. A retry is a new message, with an
/// id of its own.
#[derive(Clone, Debug)]
pub struct Caller {
    client: Client,
    subject: String,
}

impl Caller {
    pub(crate) fn new(client: Client, subject: String) -> Self {
        Self { client, subject }
    }
}

impl Service<Ask> for Caller {
    type Response = Response;
    type Error = RequestError;
    type Future = Pin<Box<dyn Future<Output = Result<Response, RequestError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Polling<'_>) -> Poll<Result<(), RequestError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        let (client, subject) = (self.client.clone(), self.subject.clone());
        let context = Context::running();
        Box::pin(async move {
            let mut message = client.message(&subject).bytes(ask.content_type, ask.body);
            if let Some(context) = context {
                message = message.context(context);
            }
            for (name, value) in &ask.headers {
                message = message.header(name, value);
            }
            message.request().await
        })
    }
}
