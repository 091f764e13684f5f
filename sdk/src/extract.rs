//! What a handler's arguments may be: parts of a verified message.
//!
//! A handler of [`ServiceBuilder::endpoint`](crate::ServiceBuilder::endpoint) is an
//! async function whose arguments say what it needs. Each is taken from the message
//! before the handler runs; what is not there is an error that the caller gets, and
//! the handler is not called.
//!
//! ```
//! use bulla_sdk::extract::{Deadline, Payload, State};
//! use bulla_sdk::{Sender, ServiceError, User};
//!
//! # #[derive(Clone)] struct Shop;
//! async fn create(
//!     State(shop): State<Shop>,
//!     Payload(item): Payload<String>,
//!     user: User,
//!     sender: Sender,
//!     deadline: Deadline,
//! ) -> Result<String, ServiceError> {
//!     user.require_scope("orders:write")?;
//!     # drop((shop, sender, deadline));
//!     Ok(format!("{item} for {}", user.principal()))
//! }
//! # drop(create);
//! ```
//!
//! | argument | what it is | if it is not there |
//! |---|---|---|
//! | [`Payload<T>`] | the body, decoded by its content type | `invalid` |
//! | [`Claims<T>`] | what conditions see of the user, as a `T` | `forbidden` |
//! | [`User`], `Option<User>` | on whose behalf | `forbidden`; `None` |
//! | [`Sender`] | which workload sent it | always there |
//! | [`Subject`] | what it was sent to | always there |
//! | [`Headers`] | the signed application headers | empty |
//! | [`Deadline`] | how long the caller waits | never ends |
//! | [`Context`] | for tasks that the handler spawns | always there |
//! | [`State<S>`] | what the service was built with | always there |
//! | [`Message`] | all of it | always there |

use std::time::Duration;

use bulla_identity::Subject;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error::{ServiceError, ServiceErrorCode};
use crate::message::{Message, Sender};
use crate::user::User;

/// Something that a message of a service with the state `S` has, or may have.
///
/// Implement it for what several handlers need: a tenant, a locale, a session.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no argument of a handler",
    label = "not an extractor",
    note = "see `bulla_sdk::extract` for what handlers may take"
)]
pub trait FromMessage<S>: Sized {
    /// Takes it from the message.
    ///
    /// # Errors
    /// [`ServiceError`], which the caller gets; the handler does not run.
    fn from_message(message: &Message<Bytes>, state: &S) -> Result<Self, ServiceError>;
}

/// The body, decoded by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<T>(pub T);

impl<S, T: DeserializeOwned> FromMessage<S> for Payload<T> {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        Ok(Self(message.decode()?))
    }
}

/// What conditions of the policy see of the user (`sub`, `scope`, the facts of the
/// token's `tctx`), as far as limits leave it, read into a type of the service's own.
/// A user whose claims are no `T`, like no user at all, is `forbidden`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims<T>(pub T);

impl<S, T: DeserializeOwned> FromMessage<S> for Claims<T> {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        let user = message.user().ok_or_else(nobody)?;
        let claims = serde_json::Value::Object(user.claims().as_map().clone());
        let claims = T::deserialize(claims).map_err(|_| {
            let why = "the user's claims are not what this service expects";
            ServiceError::new(ServiceErrorCode::Forbidden, why)
        })?;
        Ok(Self(claims))
    }
}

impl<S> FromMessage<S> for User {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        message.user().cloned().ok_or_else(nobody)
    }
}

impl<S> FromMessage<S> for Option<User> {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        Ok(message.user().cloned())
    }
}

fn nobody() -> ServiceError {
    ServiceError::new(
        ServiceErrorCode::Forbidden,
        "this is done on behalf of a user only",
    )
}

impl<S> FromMessage<S> for Sender {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        Ok(message.sender().clone())
    }
}

impl<S> FromMessage<S> for Subject {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        Ok(message.subject().clone())
    }
}

/// The signed application headers, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The header of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

impl<S> FromMessage<S> for Headers {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        let headers = message.headers();
        Ok(Self(
            headers.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        ))
    }
}

/// How long the caller still waits. The handler is stopped then, and what it asks of
/// others waits no longer; this is for work that can be made smaller.
#[derive(Debug, Clone)]
pub struct Deadline(Context);

impl Deadline {
    /// What is left of it; [`Duration::MAX`] if nobody waits.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.0.remaining().unwrap_or(Duration::MAX)
    }
}

impl<S> FromMessage<S> for Deadline {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        let context = message.context();
        let nobody = Context {
            deadline: context.deadline,
            ..Context::default()
        };
        Ok(Self(nobody))
    }
}

impl<S> FromMessage<S> for Context {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        Ok(message.context())
    }
}

impl<S> FromMessage<S> for Message<Bytes> {
    fn from_message(message: &Message<Bytes>, _: &S) -> Result<Self, ServiceError> {
        Ok(message.clone())
    }
}

/// What the service was built with, see
/// [`ServiceBuilder::state`](crate::ServiceBuilder::state).
#[derive(Debug, Clone, Copy)]
pub struct State<S>(pub S);

impl<S: Clone> FromMessage<S> for State<S> {
    fn from_message(_: &Message<Bytes>, state: &S) -> Result<Self, ServiceError> {
        Ok(Self(state.clone()))
    }
}
