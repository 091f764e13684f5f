//! What a handler's task carries: the user on whose behalf it runs, and the
//! message that caused it.
//!
//! The context is a tokio task-local. The SDK sets it around each handler, and
//! what the handler sends takes the user, the trace and the parent from it. A
//! task that the handler spawns starts without a context on purpose: authority
//! does not leak into background work unless [`Context::scope`] says so.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{Limits, LimitsError};
use bulla_identity::UnixMillis;
use tokio::task::futures::TaskLocalFuture;

use crate::chains::Past;
use crate::clock;
use crate::user::User;

tokio::task_local! {
    static CURRENT: Context;
}

/// The causal context of a message: its user, id and trace.
#[derive(Clone, Debug, Default)]
pub struct Context {
    pub(crate) user: Option<User>,
    pub(crate) parent: Option<bulla_envelope::LeafHash>,
    pub(crate) traceparent: Option<bulla_envelope::TraceParent>,
    /// The message itself, where this workload may have to show it.
    pub(crate) past: Option<Arc<Past>>,
    /// Until when whoever is waiting for this waits.
    pub(crate) deadline: Option<UnixMillis>,
}

impl Context {
    /// The context of the running handler; empty outside of one.
    #[must_use]
    pub fn current() -> Self {
        Self::running().unwrap_or_default()
    }

    /// The same; nothing outside of a handler.
    pub(crate) fn running() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// The user on whose behalf the code runs.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// The W3C trace context of the message that caused this.
    #[must_use]
    pub fn traceparent(&self) -> Option<bulla_envelope::TraceParent> {
        self.traceparent
    }

    /// How long whoever asked still waits: nothing outside of a handler, and zero
    /// when nobody waits any more. Requests that are sent in this context wait no
    /// longer than that, and say so to whom they reach.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_since(clock::now()))
    }

    /// The same context with a nearer deadline; one that is farther than the
    /// context's own changes nothing.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        let own = clock::now().saturating_add(limit);
        self.deadline = Some(self.deadline.map_or(own, |deadline| deadline.min(own)));
        self
    }

    /// The same context without a deadline: for work that goes on after the answer.
    #[must_use]
    pub fn without_deadline(mut self) -> Self {
        self.deadline = None;
        self
    }

    /// The same context without its user.
    #[must_use]
    pub fn without_user(mut self) -> Self {
        self.user = None;
        self
    }

    /// The same context with less of its user's authority. Limits add up: what
    /// was taken away before, here or by the services before this one, stays
    /// away. A context without a user is left as it is.
    ///
    /// # Errors
    /// [`LimitsError::TooLarge`] if all limits together take too much room.
    pub fn narrowed(mut self, limits: &Limits) -> Result<Self, LimitsError> {
        if let Some(user) = &self.user {
            self.user = Some(user.narrowed(limits)?);
        }
        Ok(self)
    }

    /// The same context on behalf of this user, for example one that
    /// [`Client::exchange`](crate::Client::exchange) gave.
    #[must_use]
    pub fn with_user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Spawns a task that runs in this context: what it sends is sent for the same
    /// user, with the same trace and deadline. `tokio::spawn` alone starts without one.
    pub fn spawn<F>(self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.scope(future))
    }

    /// Runs `future` in this context: for a task that a handler spawns.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        self.around(future).await
    }

    /// The same, and no larger than what it takes.
    pub(crate) fn around<F: Future>(self, future: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self, future)
    }
}
