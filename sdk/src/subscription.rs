//! Listening: subscriptions to events, and services that answer requests.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bulla_envelope::{ErrorCode, SealedEnvelope};
use bulla_identity::SubjectPattern;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, warn};

use crate::answers::ReplySender;
use crate::clock;
use crate::connection::Violation;
use crate::content::ContentType;
use crate::decision_log;
use crate::discovery::Tallies;
use crate::error::{LinkError, ReceiveError, ReplyError, SendError, ServiceError, SubscribeError};
use crate::incoming::{AnswerTo, Current, Opener, Received, Refused, Role};
use crate::link::Feed;
use crate::message::{IntoReply, Message, Reply};
use crate::prefetch::prefetch;
use crate::refusal::chain;
use crate::shared::Shared;
use crate::telemetry;
use crate::turn::Turn;

/// How long nats-server may take to confirm a subscription.
const CONFIRM: Duration = Duration::from_secs(5);
/// How long a draining subscription or service waits for what is on its way, and a
/// service until its last answers are sent.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a draining service waits for the end of what has arrived.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How many messages of a queue group are claimed before the first of them is given.
const CLAIMS_AHEAD: usize = 64;
/// How many messages are hashed together.
const PAIR: usize = 2;
/// Of how many bytes at most payloads are asked for before they are read: of larger ones
/// the processor sees by itself what comes next.
const PREFETCHED: usize = 4_096;

/// Verified events from a subject pattern, in the order of their arrival.
///
/// Dropping it unsubscribes.
pub struct Subscription {
    shared: Arc<Shared>,
    /// What the NATS client calls it, if it says so.
    number: Option<u64>,
    opener: Opener,
    raw: Feed,
    /// What was taken from the bus and is not yet given in whole, in the order
    /// of its arrival.
    taken: VecDeque<Current>,
    turn: Turn,
}

impl Subscription {
    pub(crate) async fn open(
        shared: &Arc<Shared>,
        pattern: &str,
        group: bool,
    ) -> Result<Self, SubscribeError> {
        let (opener, mut raw) = listen(shared, pattern, Role::Subscriber, group).await?;
        Ok(Self {
            shared: Arc::clone(shared),
            number: raw.number(),
            opener,
            raw,
            taken: VecDeque::new(),
            turn: Turn::new(std::time::Instant::now()),
        })
    }

    /// The next event that passes every check; `None` when the subscription
    /// has ended. Refused messages are counted, logged and skipped. Events that
    /// travelled together come one after the other, each judged when it is asked
    /// for.
    ///
    /// Cancel safe: nothing that was taken from the bus is lost when the future
    /// is dropped.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            // Of what is refused too: a flood of it is not to hold a thread.
            if self.turn.is_over(std::time::Instant::now) {
                tokio::task::yield_now().await;
            }
            if self.taken.is_empty() {
                let raw = match self.raw.next_at_once() {
                    Some(raw) => raw?,
                    None => {
                        self.turn.begin();
                        self.raw.next().await?
                    }
                };
                self.taken.push_back(Current::new(raw));
            }
            if self.opener.is_in_group() {
                self.claim_ahead();
            } else {
                self.look_ahead();
            }
            let mut taken = self.taken.iter_mut();
            let Some(current) = taken.next() else {
                continue;
            };
            let message = match self.opener.next_at_once(current, taken.next()) {
                Some(given) => given,
                // On the heap: seldom, and larger than what every message does.
                None => Box::pin(self.opener.next(current)).await,
            };
            if current.is_done() {
                self.taken.pop_front();
            }
            if let Ok(message) = message {
                return Some(message);
            }
        }
    }

    /// The next event that passes every check, or what is no envelope at all, as it
    /// came.
    pub(crate) async fn next_or_plain(&mut self) -> Option<Result<Message, async_nats::Message>> {
        loop {
            if self.turn.is_over(std::time::Instant::now) {
                tokio::task::yield_now().await;
            }
            if self.taken.is_empty() {
                let raw = self.raw.next().await?;
                if SealedEnvelope::decode(raw.payload.clone()).is_err() {
                    return Some(Err(raw));
                }
                self.taken.push_back(Current::new(raw));
            }
            let Some(current) = self.taken.front_mut() else {
                continue;
            };
            let message = self.opener.next(current).await;
            if current.is_done() {
                self.taken.pop_front();
            }
            if let Ok(message) = message {
                return Some(Ok(message));
            }
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// As [`Subscription::next`], and tells what was lost: messages that were dropped
    /// because this subscription was full, before those that it still holds.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ReceiveError::Lagged`] once for each loss; [`ReceiveError::Ended`] at the end.
    pub async fn recv(&mut self) -> Result<Message, ReceiveError> {
        let connection = &self.shared.connection;
        let lost = self
            .number
            .map_or(0, |number| connection.take_overflows(number));
        if lost > 0 {
            return Err(ReceiveError::Lagged { at_least: lost });
        }
        self.next().await.ok_or(ReceiveError::Ended)
    }

    /// In a queue group a claim goes to a stream and back. While it is under
    /// way, others for what has arrived already go after it.
    fn claim_ahead(&mut self) {
        for place in 0..CLAIMS_AHEAD {
            if place == self.taken.len() {
                let Some(raw) = self.raw.next_at_once().flatten() else {
                    return;
                };
                self.taken.push_back(Current::new(raw));
            }
            let current = self.taken.get_mut(place);
            if !current.is_some_and(|current| self.opener.claim_ahead(current)) {
                return;
            }
        }
    }

    /// Takes what came after the message whose turn it is, if anything did: two are
    /// hashed together for little more than one. The next two are taken as well: their
    /// bytes come while the first two are being opened.
    fn look_ahead(&mut self) {
        if !self.taken.front().is_some_and(Current::is_new) {
            return;
        }
        while self.taken.len() < 2 * PAIR
            && let Some(raw) = self.raw.next_at_once().flatten()
        {
            prefetch(raw.subject.as_bytes());
            let begun = raw.payload.len().min(PREFETCHED);
            prefetch(raw.payload.get(..begun).unwrap_or_default());
            self.taken.push_back(Current::new(raw));
        }
    }

    /// Ends it without losing anything: nats-server is told to send no more, what it had
    /// sent until then arrives, and [`Subscription::next`] gives all of it and then ends.
    /// Of a queue group the other processes get everything else.
    ///
    /// # Errors
    /// [`LinkError`] if nats-server does not answer: it ends all the same, and what was
    /// on its way may be lost.
    pub async fn drain(&mut self) -> Result<(), LinkError> {
        self.shared.connection.end(&mut self.raw, SETTLE).await
    }
}

/// A running service; made by [`Client::serve`](crate::Client::serve).
///
/// Dropping it stops new requests and lets those in flight finish unattended;
/// [`Service::drain`] waits for them.
#[must_use = "dropping a service stops it"]
pub struct Service {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Service {
    pub(crate) async fn open<H: Handler>(
        shared: &Arc<Shared>,
        pattern: &str,
        handler: H,
    ) -> Result<Self, SubscribeError> {
        Self::open_counted(shared, pattern, handler, Arc::default()).await
    }

    /// The same, and counts what is handled there.
    pub(crate) async fn open_counted<H: Handler>(
        shared: &Arc<Shared>,
        pattern: &str,
        handler: H,
        tallies: Arc<Tallies>,
    ) -> Result<Self, SubscribeError> {
        let (opener, mut raw) = listen(shared, pattern, Role::Server, true).await?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let places = Arc::new(Semaphore::new(shared.options.max_in_flight));
        let worker = Arc::new(Worker {
            endpoint: pattern.into(),
            shared: Arc::clone(shared),
            opener,
            handler,
            tallies,
        });
        tasks.spawn({
            let (stop, tasks) = (stop.clone(), tasks.clone());
            let mut draining = false;
            // Taken from the subscription to see whether something waits there.
            let mut waiting = None;
            // Whether the last request did not come alone.
            let mut is_crowded = false;
            async move {
                loop {
                    // A place first: what waits, waits in the subscription,
                    // whose bound is counted, not in a task each.
                    let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                        break;
                    };
                    let request = if let Some(request) = waiting.take() {
                        Some(request)
                    } else if draining {
                        // Gives what has arrived; bounded, because a connection
                        // that is gone never says that this was all.
                        tokio::time::timeout(DRAIN_LIMIT, raw.next())
                            .await
                            .ok()
                            .flatten()
                    } else {
                        tokio::select! {
                            biased;
                            () = stop.cancelled() => {
                                draining = true;
                                let connection = &worker.shared.connection;
                                if let Err(error) = connection.end(&mut raw, SETTLE).await {
                                    warn!(%error, "requests on their way to a service that stops may be lost");
                                }
                                continue;
                            }
                            request = raw.next() => request,
                        }
                    };
                    let Some(request) = request else { break };
                    // Counted from here on, so that each of several that came
                    // together knows that it is not alone.
                    let handled = Handled::begin(&worker.shared);
                    let mut work = Box::pin(Arc::clone(&worker).work(Arrival {
                        request: Current::new(request),
                        handled,
                        place,
                    }));
                    // Most handlers finish in one go, and a task of their own
                    // would cost more than they do. But nobody is to wait for
                    // one that does not: only while nothing else has come. Under
                    // load what came with it is still being read: it is let in
                    // first, so that the answers share a signature.
                    waiting = raw.next().now_or_never().flatten();
                    if waiting.is_none() && is_crowded {
                        tokio::task::yield_now().await;
                        waiting = raw.next().now_or_never().flatten();
                    }
                    is_crowded = waiting.is_some();
                    let is_done = waiting.is_none()
                        && poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_ready())).await;
                    if !is_done {
                        tasks.spawn(work);
                    }
                }
            }
        });
        tasks.close();
        Ok(Self {
            shared: Arc::clone(shared),
            stop,
            tasks,
        })
    }

    /// Ends it without losing a request: nats-server is told to send no more, what it had
    /// sent until then arrives, and everything is answered before this returns. That
    /// takes as long as the handlers do, so bound it where one may hang. If nats-server
    /// does not answer, what was on its way is lost with a warning, and its callers run
    /// into their time-outs.
    pub async fn drain(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        // Bounded: a server that is gone takes no answers.
        let _ = tokio::time::timeout(SETTLE, self.shared.signer.settle()).await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Worker<H> {
    endpoint: Box<str>,
    shared: Arc<Shared>,
    opener: Opener,
    handler: H,
    tallies: Arc<Tallies>,
}

impl<H: Handler> Worker<H> {
    /// Takes a request to its end. Small, because under load each has a task: what
    /// is seldom waited for is on the heap.
    async fn work(self: Arc<Self>, mut arrival: Arrival) {
        let sent = match self.opener.receive(&mut arrival.request).await {
            Ok(Received { message, answer_to }) => {
                // Every request has a reply subject [ENV-12].
                let Some(to) = answer_to else { return };
                self.answer(message, to).await
            }
            Err(Refused {
                answer_to: Some(to),
                decision,
                code,
            }) => {
                let unread = ContentType::MessagePack;
                let replies = ReplySender::new(&self.shared, *to, unread);
                Box::pin(replies.fail(code, decision)).await
            }
            Err(Refused {
                answer_to: None, ..
            }) => return,
        };
        // A reply that could not be sent is counted and logged, not lost silently.
        if let Err(error) = sent {
            self.shared.stats.count_refused("reply_not_sent");
            warn!(error = chain(&error), "a reply could not be sent");
        }
    }

    async fn answer(&self, message: Message<Bytes>, to: Box<AnswerTo>) -> Result<(), SendError> {
        let deadline = message.deadline().filter(|_| H::IS_BOUNDED);
        let (span, began) = (message.span_of("server"), Instant::now());
        let replies = ReplySender::new(&self.shared, *to, message.content_type().clone());
        let outcome = {
            let context = message.context();
            let run = context.around(self.handler.handle(message, &replies));
            // A panic harms this request only, and its caller is told.
            let mut run = pin!(AssertUnwindSafe(run.instrument(span.clone())).catch_unwind());
            match deadline {
                None => Ok(run.await),
                Some(deadline) => {
                    let left = deadline.saturating_since(clock::now());
                    tokio::time::timeout(left, run.as_mut()).await
                }
            }
        };
        let what = match &outcome {
            Err(_) => "deadline",
            Ok(Err(_)) => "panic",
            Ok(Ok(outcome)) => telemetry::of_handling(outcome),
        };
        telemetry::conclude(&span, what);
        drop(span);
        let took = began.elapsed();
        if let Some(recorder) = &self.shared.options.recorder {
            recorder.0.handled(&self.endpoint, what, took);
        }
        let error = match &outcome {
            Ok(Ok(outcome)) => Tallies::code_of(outcome),
            Ok(Err(_)) => Some("panicked"),
            Err(_) => Some("deadline"),
        };
        self.tallies.count(took, error);
        let code = match outcome {
            Ok(Ok(outcome)) => return replies.close(outcome).await,
            Ok(Err(_)) => ErrorCode::Failed,
            Err(_) => ErrorCode::Deadline,
        };
        let decision = decision_log::fresh_id();
        if code == ErrorCode::Deadline {
            self.shared.stats.count_deadline_passed();
            tracing::warn!(%decision, "a handler did not finish before its deadline");
        } else {
            tracing::error!(%decision, "a handler panicked");
        }
        Box::pin(replies.fail(code, decision)).await
    }
}

/// A request, and what it holds while it is handled.
struct Arrival {
    request: Current,
    #[expect(dead_code, reason = "counts for as long as it is there")]
    handled: Handled,
    #[expect(dead_code, reason = "is free when this is gone")]
    place: OwnedSemaphorePermit,
}

/// Counts a request while it is handled, however that ends.
struct Handled(Arc<Shared>);

impl Handled {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.handling.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        self.0.handling.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a service does with a request that passed.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Whether it is stopped at the request's deadline.
    const IS_BOUNDED: bool;

    /// Gives the last reply, if there is one that `replies` has not sent.
    fn handle(
        &self,
        message: Message<Bytes>,
        replies: &ReplySender,
    ) -> impl Future<Output = Result<Option<Reply>, ServiceError>> + Send;
}

/// A handler whose value is the reply.
pub(crate) struct OneReply<H>(pub(crate) H);

impl<H, F, R> Handler for OneReply<H>
where
    H: Fn(Message<Bytes>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R, ServiceError>> + Send,
    R: IntoReply + Send,
{
    const IS_BOUNDED: bool = true;

    async fn handle(
        &self,
        message: Message<Bytes>,
        _: &ReplySender,
    ) -> Result<Option<Reply>, ServiceError> {
        let content_type = message.content_type().clone();
        let value = (self.0)(message).await?;
        match value.into_reply(&content_type) {
            Ok(reply) => Ok(Some(reply)),
            Err(error) => Err(ReplyError::from(error).into()),
        }
    }
}

/// A handler that sends its replies itself.
pub(crate) struct ManyReplies<H>(pub(crate) H);

impl<H, F> Handler for ManyReplies<H>
where
    H: Fn(Message<Bytes>, ReplySender) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), ServiceError>> + Send,
{
    /// Its caller waits for each reply, not for their end.
    const IS_BOUNDED: bool = false;

    async fn handle(
        &self,
        message: Message<Bytes>,
        replies: &ReplySender,
    ) -> Result<Option<Reply>, ServiceError> {
        (self.0)(message, replies.clone()).await?;
        Ok(None)
    }
}

/// [`typed`] for a handler that sends its replies itself.
pub(crate) fn typed_many<T, H, F>(
    handler: H,
) -> impl Fn(Message<Bytes>, ReplySender) -> BoxFuture<'static, Result<(), ServiceError>>
+ Send
+ Sync
+ 'static
where
    T: DeserializeOwned + Send,
    H: Fn(Message<T>, ReplySender) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), ServiceError>> + Send + 'static,
{
    move |message, replies| match message.typed::<T>() {
        Ok(message) => Box::pin(handler(message, replies)),
        Err(error) => Box::pin(std::future::ready(Err(error.into()))),
    }
}

/// Decodes the payload before the handler; a wrong one is the caller's error.
pub(crate) fn typed<T, H, F, R>(
    handler: H,
) -> impl Fn(Message<Bytes>) -> BoxFuture<'static, Result<R, ServiceError>> + Send + Sync + 'static
where
    T: DeserializeOwned + Send,
    H: Fn(Message<T>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R, ServiceError>> + Send + 'static,
    R: Send + 'static,
{
    move |message| match message.typed::<T>() {
        Ok(message) => Box::pin(handler(message)),
        Err(error) => Box::pin(std::future::ready(Err(error.into()))),
    }
}

async fn listen(
    shared: &Arc<Shared>,
    text: &str,
    role: Role,
    group: bool,
) -> Result<(Opener, Feed), SubscribeError> {
    let pattern = SubjectPattern::parse(text).map_err(|source| SubscribeError::Pattern {
        pattern: text.to_owned(),
        source,
    })?;
    shared.connection.check_heard()?;
    let verb = role.own_verb();
    let policy = shared.control.policy();
    let asked = policy
        .policy()
        .may_listen(&shared.options.workload, verb, &pattern, clock::now());
    let denial = match asked {
        // To listen is to use the grant, whether or not anything comes.
        Ok(rule) => {
            shared
                .decisions
                .count_listening(&shared.options.workload, rule, verb, &pattern);
            None
        }
        Err(denial) => Some(denial),
    };
    if let Some(denial) = denial {
        let id = shared.decisions.deny_by(
            decision_log::Subject {
                enforcer: "receiver",
                workload: shared.options.workload.path(),
                verb: verb.as_str(),
                subject: text,
                user: None,
            },
            &denial,
        );
        return Err(SubscribeError::Denied {
            denial: Box::new(denial),
            id,
        });
    }

    let now = clock::now();
    let subject = pattern.to_nats();
    let listening = shared.listened.begin(role, &subject, now);
    // Earlier messages would be refused: in a queue group another replica
    // takes them while this one waits.
    let from = listening.not_before().saturating_add(clock::GRAIN);
    tokio::time::sleep(from.saturating_since(now)).await;

    let mut watch = shared.connection.watch();
    let link = shared.connection.link();
    let raw = if group {
        // The one queue group that a workload may join is its own.
        let own = shared.own_name().to_owned();
        link.queue_subscribe(subject.clone(), own).await?
    } else {
        link.subscribe(subject.clone()).await?
    };
    shared.connection.barrier(CONFIRM).await?;
    let refusal = Violation::Subscribe {
        subject: subject.clone(),
    };
    if shared.connection.refused_since(&mut watch, &refusal).await {
        return Err(SubscribeError::RefusedByServer {
            pattern: text.to_owned(),
        });
    }
    let opener = Opener::new(
        Arc::clone(shared),
        role,
        group.then_some(subject),
        listening,
    );
    Ok((opener, raw))
}
