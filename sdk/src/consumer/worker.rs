//! Working off a stream: each message is handled until it is done or given up, and
//! none is lost in between.
//!
//! ```text
//!            ┌─► done ────────────────────────────────────────────► ack
//! handler ───┼─► unavailable, internal, a panic ─► again, later and later
//!            │                                         │ too often
//!            └─► invalid, not found, …  ───────────────┴─► dead letter ─► term
//! ```

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rand::Rng as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::dead_letters::{Cause, Remains};
use super::{Consumer, Delivery, Receipt};
use crate::endpoint::{Endpoint, WithState};
use crate::error::{ConsumeError, LinkError, ServiceError, ServiceErrorCode};
use crate::refusal::chain;
use crate::telemetry::{self, Settled};

/// A handler at work on what a stream stored; made by [`Consumer::worker`].
#[must_use = "nothing is worked off before `run`"]
pub struct Worker<H, A, S> {
    consumer: Consumer,
    handler: WithState<H, A, S>,
    at_once: usize,
    again: Again,
}

/// When what failed is tried again.
#[derive(Debug, Clone, Copy)]
struct Again {
    /// How often a message is delivered before it is given up.
    attempts: u64,
    first: Duration,
    longest: Duration,
}

impl Consumer {
    /// Handles what the stream stored with an async function, as
    /// [`ServiceBuilder::endpoint`](crate::ServiceBuilder::endpoint) takes them; what it
    /// returns is not looked at, only whether it succeeds.
    ///
    /// ```no_run
    /// use bulla_sdk::extract::{Payload, State};
    /// use bulla_sdk::{Client, ServiceError};
    ///
    /// # #[derive(Clone)] struct Mailer;
    /// async fn confirm(
    ///     State(mailer): State<Mailer>,
    ///     Payload(order): Payload<String>,
    /// ) -> Result<(), ServiceError> {
    ///     # drop((mailer, order));
    ///     Ok(())
    /// }
    ///
    /// # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// # let mailer = Mailer;
    /// let orders = client.consume("ORDERS", "mail").await?;
    /// orders
    ///     .dead_letters("dead.mail")
    ///     .worker(confirm, mailer)
    ///     .at_once(8)
    ///     .run(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn worker<A, S, H: Endpoint<A, S>>(self, handler: H, state: S) -> Worker<H, A, S> {
        Worker {
            consumer: self,
            handler: WithState::new(handler, state),
            at_once: 1,
            again: Again {
                attempts: 10,
                first: Duration::from_millis(500),
                longest: Duration::from_secs(60),
            },
        }
    }
}

impl<H, A, S> Worker<H, A, S>
where
    H: Endpoint<A, S>,
    A: 'static,
    S: Send + Sync + 'static,
{
    /// How many messages are handled at once: 1 unless it is said, so that they are
    /// handled in order, and at most 256.
    pub fn at_once(mut self, messages: usize) -> Self {
        self.at_once = messages.clamp(1, super::MOST_AHEAD);
        self
    }

    /// How often a message is tried before it is given up: 10 times unless it is said.
    pub fn attempts(mut self, attempts: u64) -> Self {
        self.again.attempts = attempts.max(1);
        self
    }

    /// How long it is until the second attempt, and at most between two later ones;
    /// each pause is twice the one before, give or take a quarter. Half a second and a
    /// minute unless it is said.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.again.first = first;
        self.again.longest = longest.max(first);
        self
    }

    /// Works until `stop`, then finishes what is in work.
    ///
    /// The handler runs in the message's context and tells the stream by itself that it
    /// is still at work. A message is acknowledged once the handler has succeeded. It
    /// comes again later if the error is `unavailable` or `internal`, or the handler
    /// panics; after the last attempt, and at once with any other error, it is given
    /// up: it becomes a dead letter ([`Consumer::dead_letters`]), or is terminated with
    /// an error in the log. Both are counted ([`Stats::given_up`](crate::Stats::given_up)). If the dead letter cannot be
    /// stored, the message stays in its stream and comes again.
    ///
    /// # Errors
    /// [`ConsumeError`] that ends the consumer; what was in work is finished first.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), ConsumeError> {
        let Self {
            consumer,
            handler,
            at_once,
            again,
        } = self;
        let mut consumer = consumer.ahead(at_once);
        let handler = Arc::new(handler);
        let places = Arc::new(Semaphore::new(at_once));
        let tasks = TaskTracker::new();
        let mut stop = std::pin::pin!(stop);
        let ended = loop {
            let place = tokio::select! {
                biased;
                () = &mut stop => break Ok(()),
                place = Arc::clone(&places).acquire_owned() => place,
            };
            let next = tokio::select! {
                biased;
                () = &mut stop => break Ok(()),
                next = consumer.take_next() => next,
            };
            let (delivery, remains) = match next {
                Ok(next) => next,
                Err(error) => break Err(error),
            };
            let (handler, grave) = (Arc::clone(&handler), consumer.grave.clone());
            let alive = consumer.ack_wait / 3;
            tasks.spawn(async move {
                let job = Job { delivery, alive };
                let (receipt, outcome) = job.run(&handler).await;
                let settled = match outcome {
                    Ok(()) => receipt.ack().await,
                    Err(error) => {
                        let remains = &remains;
                        let grave = grave.as_ref();
                        again.or_bury(&receipt, &error, remains, grave).await
                    }
                };
                if let Err(error) = settled {
                    // The stream has not heard it: it comes again.
                    tracing::warn!(error = chain(&error), "a stream could not be told");
                }
                drop(place);
            });
        };
        // What waits here and is not in work goes back to the stream at once.
        consumer.let_go();
        tasks.close();
        tasks.wait().await;
        ended
    }
}

/// One message in work.
struct Job {
    delivery: Delivery,
    /// How often the stream hears that it still is.
    alive: Duration,
}

impl Job {
    async fn run<H, A, S>(self, handler: &WithState<H, A, S>) -> (Receipt, Result<(), ServiceError>)
    where
        H: Endpoint<A, S>,
        S: Sync,
    {
        let (message, receipt) = self.delivery.into_parts();
        let context = message.context();
        let (span, began) = (message.span(), Instant::now());
        let handled = handler.endpoint.call(message, &handler.state);
        let handled = handled.instrument(span.clone());
        let mut handled = Box::pin(AssertUnwindSafe(context.scope(handled)).catch_unwind());
        let alive = self.alive.max(Duration::from_millis(100));
        let outcome = loop {
            match tokio::time::timeout(alive, &mut handled).await {
                Ok(outcome) => break outcome,
                Err(_) => {
                    // If it is not heard, the message comes a second time.
                    let _ = receipt.in_progress().await;
                }
            }
        };
        let outcome = match outcome {
            Ok(handled) => handled.map(drop),
            Err(_) => {
                tracing::error!(?receipt, "a handler panicked");
                let why = "the handler panicked";
                Err(ServiceError::new(ServiceErrorCode::Internal, why))
            }
        };
        let what = telemetry::of_handling(&outcome);
        telemetry::conclude(&span, what);
        receipt.record_work(what, began.elapsed());
        (receipt, outcome)
    }
}

impl Again {
    async fn or_bury(
        &self,
        receipt: &Receipt,
        error: &ServiceError,
        remains: &Remains,
        grave: Option<&super::DeadLetters>,
    ) -> Result<(), LinkError> {
        let times = receipt.times_delivered();
        let heals = matches!(
            error.code(),
            ServiceErrorCode::Unavailable | ServiceErrorCode::Internal
        );
        if heals && times < self.attempts {
            let pause = self.pause(times, rand::rng().random_range(0.75..1.25));
            tracing::debug!(?receipt, %error, ?pause, "a message is tried again");
            return receipt.nak(Some(pause)).await;
        }
        let cause = Cause {
            reason: error.code().as_str(),
            message: error.message(),
        };
        receipt.give_up(remains, grave, &cause, self.longest).await
    }

    /// After how long the attempt after that many comes.
    fn pause(&self, times: u64, jitter: f64) -> Duration {
        let doublings = u32::try_from(times.saturating_sub(1)).map_or(31, |n| n.min(31));
        let pause = self.first.saturating_mul(1 << doublings).min(self.longest);
        pause.mul_f64(jitter)
    }
}

impl Receipt {
    /// Nobody will handle it: it is buried first, and then forgotten.
    pub(super) async fn give_up(
        &self,
        remains: &Remains,
        grave: Option<&super::DeadLetters>,
        cause: &Cause<'_>,
        pause: Duration,
    ) -> Result<(), LinkError> {
        let stats = self.stats();
        match grave {
            None => {
                tracing::error!(
                    receipt = ?self,
                    reason = cause.reason,
                    "a message is given up, and there is no subject for dead letters"
                );
            }
            Some(grave) => {
                if let Err(error) = grave.bury(remains, self, cause).await {
                    stats.count_dead_letter_unsent();
                    tracing::error!(
                        receipt = ?self,
                        reason = cause.reason,
                        error = chain(&error),
                        "a dead letter could not be stored: the message stays where it is"
                    );
                    self.record(Settled::Unburied);
                    return self.nak(Some(pause)).await;
                }
            }
        }
        stats.count_given_up();
        let how = match grave {
            Some(_) => Settled::Buried,
            None => Settled::Never,
        };
        self.end(cause.reason, how).await
    }
}

impl<H, A, S> std::fmt::Debug for Worker<H, A, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("consumer", &self.consumer)
            .field("at_once", &self.at_once)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let again = Again {
            attempts: 10,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
        };
        let seconds = |times| again.pause(times, 1.0).as_secs_f64();
        assert_eq!(
            [0, 1, 2, 3, 7, 8, 9, u64::MAX].map(seconds),
            [0.5, 0.5, 1.0, 2.0, 32.0, 60.0, 60.0, 60.0]
        );
        assert_eq!(again.pause(1, 0.5), Duration::from_millis(250));
    }
}
