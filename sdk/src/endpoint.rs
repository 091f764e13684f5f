//! Async functions as handlers: their arguments are extracted, their value is the
//! reply.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;

use bytes::Bytes;

use crate::answers::ReplySender;
use crate::error::{ReplyError, ServiceError};
use crate::extract::FromMessage;
use crate::message::{IntoReply, Message, Reply};
use crate::subscription::Handler;

/// An async function that answers a request: up to eight arguments that are
/// [extracted](crate::extract), and a `Result` of any value that serializes (or a
/// [`Reply`]) and any error that becomes a [`ServiceError`].
///
/// `A` are the arguments' types and `S` is the service's state; both are inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer requests",
    label = "not an endpoint",
    note = "an endpoint is an async function of up to eight `FromMessage` arguments that \
            returns `Result<T, E>`, where `T: Serialize` and `E: Into<ServiceError>`"
)]
pub trait Endpoint<A, S>: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn call(
        &self,
        message: Message<Bytes>,
        state: &S,
    ) -> impl Future<Output = Result<Reply, ServiceError>> + Send;
}

/// The value of a handler, encoded as the request was.
pub(crate) fn encode<R, E>(
    message: &Message<Bytes>,
    outcome: Result<R, E>,
) -> Result<Reply, ServiceError>
where
    R: IntoReply,
    E: Into<ServiceError>,
{
    let value = outcome.map_err(Into::into)?;
    let reply = value.into_reply(message.content_type());
    reply.map_err(|error| ReplyError::from(error).into())
}

macro_rules! endpoint {
    ($($argument:ident),*) => {
        #[allow(non_snake_case, reason = "an argument is named as its type is")]
        impl<Function, Running, Value, Error, S, $($argument),*> Endpoint<($($argument,)*), S>
            for Function
        where
            Function: Fn($($argument),*) -> Running + Clone + Send + Sync + 'static,
            Running: Future<Output = Result<Value, Error>> + Send,
            Value: IntoReply + Send,
            Error: Into<ServiceError> + Send,
            S: Sync,
            $($argument: FromMessage<S> + Send,)*
        {
            async fn call(
                &self,
                message: Message<Bytes>,
                state: &S,
            ) -> Result<Reply, ServiceError> {
                let _ = state;
                $(let $argument = $argument::from_message(&message, state)?;)*
                let outcome = self($($argument),*).await;
                encode(&message, outcome)
            }
        }
    };
}

endpoint!();
endpoint!(A1);
endpoint!(A1, A2);
endpoint!(A1, A2, A3);
endpoint!(A1, A2, A3, A4);
endpoint!(A1, A2, A3, A4, A5);
endpoint!(A1, A2, A3, A4, A5, A6);
endpoint!(A1, A2, A3, A4, A5, A6, A7);
endpoint!(A1, A2, A3, A4, A5, A6, A7, A8);

/// An endpoint with its state.
pub(crate) struct WithState<H, A, S> {
    pub(crate) endpoint: H,
    pub(crate) state: S,
    /// Arguments go in and are not kept.
    arguments: PhantomData<fn(A)>,
}

impl<H, A, S> WithState<H, A, S> {
    pub(crate) const fn new(endpoint: H, state: S) -> Self {
        Self {
            endpoint,
            state,
            arguments: PhantomData,
        }
    }
}

impl<H: Clone, A, S: Clone> Clone for WithState<H, A, S> {
    fn clone(&self) -> Self {
        Self::new(self.endpoint.clone(), self.state.clone())
    }
}

impl<H, A, S> Handler for WithState<H, A, S>
where
    H: Endpoint<A, S>,
    A: 'static,
    S: Send + Sync + 'static,
{
    const IS_BOUNDED: bool = true;

    async fn handle(
        &self,
        message: Message<Bytes>,
        _: &ReplySender,
    ) -> Result<Option<Reply>, ServiceError> {
        self.endpoint.call(message, &self.state).await.map(Some)
    }
}

/// A handler that cannot fail says so.
impl From<Infallible> for ServiceError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
