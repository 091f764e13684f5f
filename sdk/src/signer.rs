//! Group commit: one signature for all messages that wait at the same moment.
//!
//! ```text
//!               idle and alone
//! publish ──┬─────────────────────► seal here, a batch of one ──────────────► NATS
//! request ──┤
//! answer ───┘ otherwise  ┌─────────┐   yield, take all    ┌────────────────┐
//!                ───────►│ waiting │ ───────────────────► │ seal as a batch│ ─► NATS, in order
//!                        └─────────┘                      └────────────────┘
//! ```
//!
//! There is no timer: a message that finds the signer idle is sealed by its own
//! task and waits for nothing. While one is being sealed, and until the sealing
//! task has found a round without work, what comes queues up; the sealing task
//! takes it together. So batches grow with the load and by themselves.
//!
//! The sealing task belongs to the client, not to a sender: a sender that is
//! dropped stalls nobody and takes nobody's message with it. What can be wrong
//! with a draft is found by its own sender before it queues, so that none
//! spoils a batch. Order is kept for each sender: nothing is sealed inline
//! before all that was queued has been handed to the connection.

mod batch;
mod line;
#[cfg(test)]
mod tests;

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use async_nats::client::traits::Publisher as _;
use async_nats::message::OutboundMessage;
use bulla_envelope::{FrameMessage, LeafHash, MAX_ENVELOPE, SealError, SealUnit, Sealed, Sealer};
use bulla_identity::UnixMillis;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use self::batch::Batch;
use self::line::{Calls, GRACE, Line, Place};
use crate::clock;
use crate::connection::Connection;
use crate::error::{LinkError, SendError};
use crate::letter::{Letter, Purpose};
use crate::link::Link;
use crate::own::OwnCredential;
use crate::pending::Pending;
use crate::prefetch::prefetch_value;
use crate::process;
use crate::refusal::chain;
use crate::stats::Stats;

/// What waits at most, in units of [`Letter::weight`]: 4,096 small messages,
/// or about 4 MiB of large ones. Beyond it senders wait their turn.
const WAITING: u32 = 4_096;
/// How often the sealing task lets others run before it takes what waits.
const YIELDS: usize = 2;
/// The same while each time more has come, and not many wait yet.
const YIELDS_FOR_MORE: usize = 6;
/// The same while each time many more have come.
const MOST_YIELDS: usize = 24;
/// So many messages share a signature at a small price each.
const WORTH_IT: usize = 64;
/// So many at hardly any.
const PLENTY: usize = 1_024;
/// Fewer are not worth to be waited for where [`WORTH_IT`] wait already.
const FEW: usize = 8;
/// Subjects for which lost messages are counted until somebody asks.
const MAX_UNSENT: usize = 1_024;

/// In place of the process, where a draft is only looked at.
fn not_encrypted() -> u32 {
    0
}

/// What the signer stands on.
pub(crate) trait Post: Send + Sync + 'static {
    /// Does something with the sealer in use.
    fn with_sealer<T>(
        &self,
        now: UnixMillis,
        act: impl FnOnce(&Arc<Sealer>) -> T,
    ) -> Result<T, SendError>;
    /// The largest envelope that can be sent.
    fn max_payload(&self) -> usize;
    /// Hands an envelope to the connection.
    fn send(
        &self,
        letter: &Letter,
        envelope: Bytes,
    ) -> impl Future<Output = Result<(), LinkError>> + Send;
}

/// This process's credential and its connection.
pub(crate) struct Desk {
    pub(crate) own: OwnCredential,
    pub(crate) connection: Connection,
}

impl Post for Desk {
    fn with_sealer<T>(
        &self,
        now: UnixMillis,
        act: impl FnOnce(&Arc<Sealer>) -> T,
    ) -> Result<T, SendError> {
        self.own.with_sealer(now, act)
    }

    fn max_payload(&self) -> usize {
        self.connection.link().max_payload()
    }

    async fn send(&self, letter: &Letter, envelope: Bytes) -> Result<(), LinkError> {
        if let Purpose::Append(slot) = &letter.purpose {
            slot.put(envelope);
            return Ok(());
        }
        let message = OutboundMessage {
            subject: letter.to.nats(),
            reply: letter.reply_to().map(|to| to.as_str().into()),
            payload: envelope,
            headers: None,
        };
        match self.connection.link() {
            // As `Link` does it, but what is sent is moved about less.
            Link::Nats(nats) => {
                let sending = std::pin::pin!(nats.publish_message(message));
                sending.await.map_err(|_| LinkError::Disconnected)
            }
            other => other.publish_message(message).await,
        }
    }
}

/// Seals and sends what a client says.
pub(crate) struct Signer<P = Desk> {
    inner: Arc<Inner<P>>,
    /// The sealing task sends what waits and ends when the signer is dropped.
    _stop: DropGuard,
}

struct Inner<P> {
    post: P,
    stats: Stats,
    queue: Mutex<Queue>,
    /// Calls the sealing task.
    call: Notify,
    /// Something was settled.
    settled: Notify,
    unsent: Unsent,
}

struct Queue {
    waiting: Vec<Waiting>,
    /// For those for which there is no room.
    line: Line,
    /// Sealed events, for those who send the next ones to drop. What a message counts
    /// references to is then counted by one core, not by two that take it from each
    /// other. Nothing lies here while the sealing task sleeps.
    spent: Vec<Waiting>,
    /// The sealing task was called and has not yet found nothing to do.
    is_awake: bool,
    /// A sender seals its own message.
    is_inline: bool,
    /// How many were ever queued, and how many of them, in this order, were
    /// sent or lost.
    accepted: u64,
    settled: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            line: Line::new(WAITING),
            spent: Vec::new(),
            is_awake: false,
            is_inline: false,
            accepted: 0,
            settled: 0,
        }
    }
}

struct Waiting {
    letter: Box<Letter>,
    weight: u32,
    /// How long its envelope is at most if it is sealed alone.
    size: usize,
    told: Option<Told>,
}

impl Waiting {
    fn new(letter: Box<Letter>, weight: u32, size: usize, told: Option<Told>) -> Self {
        Self {
            letter,
            weight,
            size,
            told,
        }
    }

    /// Whether there is nobody any more who waits for its outcome.
    fn is_abandoned(&self) -> bool {
        self.told.as_ref().is_some_and(Told::is_given_up)
    }
}

/// The room that it takes: one that is larger than all there is gets all.
fn weight_of(letter: &Letter) -> u32 {
    letter.weight().min(WAITING)
}

/// A message in line for its room. It stays its sender's, who may drop it.
struct Entering<'a, P: Post> {
    inner: &'a Inner<P>,
    place: Place,
    /// None once it is queued.
    waiting: Option<Waiting>,
}

impl<P: Post> Entering<'_, P> {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(waiting) = self.waiting.take() else {
            return Poll::Ready(());
        };
        let mut calls = Calls::default();
        let mut queue = self.inner.queue.lock();
        let line = &mut queue.line;
        let spent = if line.show(self.place, waiting.weight, cx.waker(), &mut calls) {
            self.inner.push(&mut queue, waiting)
        } else {
            self.waiting = Some(waiting);
            None
        };
        self.leave_to(queue, calls);
        drop(spent);
        match self.waiting {
            None => Poll::Ready(()),
            Some(_) => Poll::Pending,
        }
    }

    /// Wakes those who are called. The sealing task looks whether they come.
    fn leave_to(&self, mut queue: MutexGuard<'_, Queue>, calls: Calls) {
        if queue.line.has_called() {
            self.inner.rouse(&mut queue);
        }
        drop(queue);
        calls.wake();
    }
}

impl<P: Post> Drop for Entering<'_, P> {
    fn drop(&mut self) {
        if self.waiting.is_some() {
            let mut calls = Calls::default();
            let mut queue = self.inner.queue.lock();
            queue.line.leave(self.place, &mut calls);
            self.leave_to(queue, calls);
        }
    }
}

/// What became of a message: its leaf, once it was handed to the connection.
type Outcome = Result<LeafHash, Failure>;

/// Who is told what became of a message.
enum Told {
    /// Its sender, who waits for just that.
    Sender(oneshot::Sender<Outcome>),
    /// The request that it is, whose caller waits for more.
    Request(Arc<Pending>),
}

impl Told {
    fn is_given_up(&self) -> bool {
        match self {
            Self::Sender(sender) => sender.is_closed(),
            Self::Request(pending) => pending.is_given_up(),
        }
    }

    fn tell(self, outcome: Outcome) {
        match self {
            // Nobody waits any more: nothing to tell.
            Self::Sender(sender) => drop(sender.send(outcome)),
            Self::Request(pending) => pending.settle(outcome),
        }
    }
}

/// Accepted messages that were lost, by subject.
#[derive(Default)]
struct Unsent {
    /// Whether there are none, for those who only look.
    is_some: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Unsent {
    fn add(&self, subject: &str) {
        let mut counts = self.counts.lock();
        if counts.len() < MAX_UNSENT || counts.contains_key(subject) {
            let count = counts.entry(subject.to_owned()).or_default();
            *count = count.saturating_add(1);
            self.is_some.store(true, Ordering::Release);
        }
    }

    fn take(&self, subject: &str) -> u64 {
        if !self.is_some.load(Ordering::Acquire) {
            return 0;
        }
        let mut counts = self.counts.lock();
        let count = counts.remove(subject).unwrap_or(0);
        self.is_some.store(!counts.is_empty(), Ordering::Release);
        count
    }

    fn take_all(&self) -> BTreeMap<String, u64> {
        let mut counts = self.counts.lock();
        self.is_some.store(false, Ordering::Release);
        std::mem::take(&mut *counts)
    }
}

/// Why something that was accepted was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the message credential has expired")]
    CredentialExpired,
    #[error("cannot seal the message")]
    Seal(#[from] SealError),
    #[error("cannot reach nats-server")]
    Link(#[from] LinkError),
    /// Its sender has gone before it was sealed.
    #[error("nobody waits for it any more")]
    Abandoned,
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::CredentialExpired => Self::CredentialExpired,
            Failure::Seal(error) => Self::Seal(error),
            Failure::Link(error) => Self::Link(error),
            Failure::Abandoned => Self::Link(LinkError::Disconnected),
        }
    }
}

impl<P: Post> Signer<P> {
    /// Starts the sealing task.
    pub(crate) fn start(post: P, stats: Stats) -> Self {
        let inner = Arc::new(Inner {
            post,
            stats,
            queue: Mutex::default(),
            call: Notify::new(),
            settled: Notify::new(),
            unsent: Unsent::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&inner).run(stop.clone()));
        Self {
            inner,
            _stop: stop.drop_guard(),
        }
    }

    /// Sends a message that nobody waits for. Returns when it is handed to the
    /// connection or, while others are being sealed, when it is queued: what
    /// happens to it then is told by [`Signer::take_unsent`].
    ///
    /// Cancel safe: before it returns, the message is not queued.
    pub(crate) async fn post(&self, letter: Box<Letter>) -> Result<(), SendError> {
        let size = self.inner.check(&letter)?;
        if self.inner.begin_inline() {
            // Whoever publishes once may do so again at once: the sealing task
            // looks, and what comes until then is a batch.
            return self.inner.send_inline(&letter, true).await.map(drop);
        }
        self.inner.queue(letter, size, None).await
    }

    /// The same as far as nothing has to be waited for: gives the letter back
    /// if it is to be sealed by its sender, or there is no room for it.
    pub(crate) fn post_at_once(
        &self,
        letter: Box<Letter>,
    ) -> Result<Option<Box<Letter>>, SendError> {
        let inner = &self.inner;
        let size = inner.check(&letter)?;
        let weight = weight_of(&letter);
        let mut queue = inner.queue.lock();
        let is_idle = !queue.is_awake && !queue.is_inline;
        if is_idle || !queue.line.take(weight) {
            return Ok(Some(letter));
        }
        let spent = inner.push(&mut queue, Waiting::new(letter, weight, size, None));
        drop(queue);
        drop(spent);
        Ok(None)
    }

    /// Sends an answer; `is_crowded` if others are about to send at the same
    /// time, so that it is worth to wait for them.
    ///
    /// Returns as [`Signer::post`]; what is lost later is counted. Cancel safe:
    /// dropped before it returns, a crowded answer is not sent at all.
    pub(crate) async fn post_answer(
        &self,
        letter: Box<Letter>,
        is_crowded: bool,
    ) -> Result<(), SendError> {
        let size = self.inner.check(&letter)?;
        if !is_crowded && self.inner.begin_inline() {
            return self.inner.send_inline(&letter, false).await.map(drop);
        }
        self.inner.queue(letter, size, None).await
    }

    /// Queues an answer that others are about to join; gives it back if there is no
    /// room for it.
    pub(crate) fn post_answer_at_once(
        &self,
        letter: Box<Letter>,
    ) -> Result<Option<Box<Letter>>, SendError> {
        let inner = &self.inner;
        let size = inner.check(&letter)?;
        let weight = weight_of(&letter);
        let mut queue = inner.queue.lock();
        if !queue.line.take(weight) {
            return Ok(Some(letter));
        }
        let spent = inner.push(&mut queue, Waiting::new(letter, weight, size, None));
        drop(queue);
        drop(spent);
        Ok(None)
    }

    /// Sends a message and tells its leaf; `is_crowded` as above.
    ///
    /// Dropped while it waits, it is not sent, unless it is being sealed already.
    pub(crate) async fn post_and_tell(
        &self,
        letter: Box<Letter>,
        is_crowded: bool,
    ) -> Result<LeafHash, SendError> {
        let size = self.inner.check(&letter)?;
        if !is_crowded && self.inner.begin_inline() {
            return self.inner.send_inline(&letter, false).await;
        }
        let (told, told_to_us) = oneshot::channel();
        let told = Some(Told::Sender(told));
        self.inner.queue(letter, size, told).await?;
        match told_to_us.await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(LinkError::Disconnected.into()),
        }
    }

    /// Sends a request; `is_crowded` as above. Returns as [`Signer::post`]; what
    /// becomes of it is told to `pending`.
    ///
    /// Given up while it waits, it is not sent, unless it is being sealed already.
    pub(crate) async fn post_request(
        &self,
        letter: Box<Letter>,
        is_crowded: bool,
        pending: &Arc<Pending>,
    ) -> Result<(), SendError> {
        let size = self.inner.check(&letter)?;
        if !is_crowded && self.inner.begin_inline() {
            let leaf = self.inner.send_inline(&letter, false).await?;
            pending.settle(Ok(leaf));
            return Ok(());
        }
        let told = Some(Told::Request(Arc::clone(pending)));
        self.inner.queue(letter, size, told).await
    }

    /// Returns when everything that was queued before has been handed to the
    /// connection, or lost.
    pub(crate) async fn settle(&self) {
        let inner = &self.inner;
        let target = inner.queue.lock().accepted;
        loop {
            let settled = inner.settled.notified();
            tokio::pin!(settled);
            // Before the look, so that nothing is settled in between.
            settled.as_mut().enable();
            if inner.queue.lock().settled >= target {
                return;
            }
            settled.await;
        }
    }

    /// Takes the number of accepted messages to `subject` that were not sent
    /// and that nobody was told of.
    pub(crate) fn take_unsent(&self, subject: &str) -> u64 {
        self.inner.unsent.take(subject)
    }

    /// The same for all subjects.
    pub(crate) fn take_all_unsent(&self) -> BTreeMap<String, u64> {
        self.inner.unsent.take_all()
    }
}

impl<P: Post> Inner<P> {
    /// Finds all that can be wrong with a draft; tells how long its envelope
    /// is at most if it is sealed alone.
    fn check(&self, letter: &Letter) -> Result<usize, SendError> {
        let limit = self.limit();
        // What most messages are, at the price of a glance.
        if let Some(bound) = letter.plain_bound().filter(|bound| *bound <= limit) {
            self.with_sealer(letter, |_| Ok(()))?;
            return Ok(bound);
        }
        if let Some(bound) = letter.bound().filter(|bound| *bound <= limit) {
            self.with_sealer(letter, |sealer| {
                sealer.check(&letter.draft(sealer.expires_at(), not_encrypted))
            })?;
            return Ok(bound);
        }
        let actual = self.with_sealer(letter, |sealer| {
            sealer.measure(&letter.draft(sealer.expires_at(), not_encrypted))
        })?;
        if actual > limit {
            return Err(SendError::TooLarge { limit, actual });
        }
        Ok(actual)
    }

    fn limit(&self) -> usize {
        self.post.max_payload().min(MAX_ENVELOPE)
    }

    /// Whether the caller may seal by itself: nobody does, and nothing waits.
    fn begin_inline(&self) -> bool {
        let mut queue = self.queue.lock();
        let is_idle = !queue.is_awake && !queue.is_inline;
        queue.is_inline |= is_idle;
        is_idle
    }

    async fn send_inline(&self, letter: &Letter, lingers: bool) -> Result<LeafHash, SendError> {
        let sealed = self.seal_inline(letter);
        {
            let mut queue = self.queue.lock();
            queue.is_inline = false;
            if lingers {
                self.rouse(&mut queue);
            }
        }
        let sealed = sealed?;
        self.post.send(letter, sealed.bytes).await?;
        self.stats.count_sent(1, false);
        Ok(sealed.leaf)
    }

    fn seal_inline(&self, letter: &Letter) -> Result<Sealed, SendError> {
        self.with_sealer(letter, |sealer| {
            let draft = letter.draft(sealer.expires_at(), process::id);
            sealer.seal(&draft, letter.id())
        })
    }

    /// Does something with the sealer that the letter is bound to, or else with
    /// the one in use.
    fn with_sealer<T>(
        &self,
        letter: &Letter,
        act: impl FnOnce(&Sealer) -> Result<T, SealError>,
    ) -> Result<T, SendError> {
        match &letter.under {
            None => {
                let done = self
                    .post
                    .with_sealer(letter.issued_at, |sealer| act(sealer))?;
                Ok(done?)
            }
            Some(sealer) if sealer.expires_at() <= letter.issued_at => {
                Err(SendError::CredentialExpired)
            }
            Some(sealer) => Ok(act(sealer)?),
        }
    }

    /// In the order of asking, and never without letting others run for long.
    async fn queue(
        &self,
        letter: Box<Letter>,
        size: usize,
        told: Option<Told>,
    ) -> Result<(), SendError> {
        tokio::task::coop::consume_budget().await;
        let weight = weight_of(&letter);
        if let Err(mut entering) = self.enter(Waiting::new(letter, weight, size, told)) {
            std::future::poll_fn(|cx| entering.poll(cx)).await;
        }
        Ok(())
    }

    /// Queues a letter, or gives it a place in the line for room.
    fn enter(&self, waiting: Waiting) -> Result<(), Entering<'_, P>> {
        let mut queue = self.queue.lock();
        if queue.line.take(waiting.weight) {
            let spent = self.push(&mut queue, waiting);
            drop(queue);
            drop(spent);
            return Ok(());
        }
        Err(Entering {
            inner: self,
            place: queue.line.last(),
            waiting: Some(waiting),
        })
    }

    /// Queues a letter that has its room, and gives one that is sealed, to be
    /// dropped without the lock.
    #[must_use]
    fn push(&self, queue: &mut Queue, waiting: Waiting) -> Option<Waiting> {
        queue.accepted += 1;
        queue.waiting.push(waiting);
        self.rouse(queue);
        let spent = queue.spent.pop();
        // The one after it is on its way here until then: another core had it last.
        if let Some(next) = queue.spent.last() {
            prefetch_value(&*next.letter);
        }
        spent
    }

    /// Calls the sealing task.
    fn rouse(&self, queue: &mut Queue) {
        if !queue.is_awake {
            queue.is_awake = true;
            self.call.notify_one();
        }
    }

    /// Looks for those who were called to their room and have not come; whether some
    /// may still come.
    fn pass_over(&self) -> bool {
        let mut calls = Calls::default();
        let mut queue = self.queue.lock();
        queue.line.pass_over(&mut calls);
        let has_called = queue.line.has_called();
        drop(queue);
        calls.wake();
        has_called
    }

    /// The sealing task.
    async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut taken = Vec::new();
        let mut has_called = false;
        loop {
            let is_last = tokio::select! {
                biased;
                () = self.call.notified() => false,
                () = stop.cancelled() => true,
                () = tokio::time::sleep(GRACE), if has_called => false,
            };
            loop {
                self.gather().await;
                if !self.take(&mut taken) {
                    break;
                }
                self.send_all(&mut taken).await;
            }
            has_called = self.pass_over();
            if is_last {
                return;
            }
        }
    }

    /// Lets others run: who is about to send gets into this batch. For longer
    /// while more and more do, as when many callers were answered at once, or one
    /// sends in a loop: a signature costs, here and at each receiver, as much as
    /// many messages.
    async fn gather(&self) {
        let mut waiting = 0;
        for round in 1..=MOST_YIELDS {
            tokio::task::yield_now().await;
            let before = waiting;
            waiting = self.queue.lock().waiting.len();
            let is_enough = match waiting {
                ..WORTH_IT => waiting <= before || round >= YIELDS_FOR_MORE,
                _ => waiting < before + FEW || waiting >= PLENTY,
            };
            if round >= YIELDS && is_enough {
                return;
            }
        }
    }

    /// Takes all that waits; or, if nothing does, goes to sleep.
    fn take(&self, taken: &mut Vec<Waiting>) -> bool {
        let mut spent = Vec::new();
        let mut queue = self.queue.lock();
        std::mem::swap(&mut queue.waiting, taken);
        queue.is_awake = !taken.is_empty();
        if !queue.is_awake {
            std::mem::swap(&mut queue.spent, &mut spent);
        }
        queue.is_awake
    }

    /// Leaves what was sealed to those who send; what they have not dropped of the
    /// time before is dropped here.
    fn spend(&self, sealed: &mut Vec<Waiting>) {
        sealed.retain(|it| it.told.is_none() && matches!(it.letter.purpose, Purpose::Event));
        std::mem::swap(&mut self.queue.lock().spent, sealed);
        sealed.clear();
    }

    async fn send_all(&self, taken: &mut Vec<Waiting>) {
        let mut rest = taken.as_mut_slice();
        while !rest.is_empty() {
            // One for the whole batch, whatever is renewed in the meantime.
            let in_use = self.post.with_sealer(clock::now(), Arc::clone).ok();
            let batch = Batch::cut(rest, self.limit(), in_use.as_ref());
            let (now, later) = rest.split_at_mut(batch.len);
            rest = later;
            self.send_batch(now, &batch.units, batch.sealer.as_deref())
                .await;
            if !rest.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        self.spend(taken);
    }

    async fn send_batch(
        &self,
        batch: &mut [Waiting],
        units: &[Range<usize>],
        sealer: Option<&Sealer>,
    ) {
        let outcomes = seal_units(batch, units, sealer);
        for (unit, sealed) in units.iter().zip(outcomes) {
            let Some(messages) = batch.get_mut(unit.clone()) else {
                continue;
            };
            match sealed {
                Ok(sealed) => {
                    let Some(first) = messages.first() else {
                        continue;
                    };
                    // A batch is sent in one go if the connection takes it: others run
                    // before the next one.
                    let sending = self.post.send(&first.letter, sealed.bytes);
                    let sent = tokio::task::unconstrained(sending).await;
                    self.settle_sent(messages, sent.map(|()| sealed.leaf));
                }
                Err(_) if messages.len() > 1 => {
                    Box::pin(self.send_apart(messages, sealer)).await;
                }
                Err(failure) => self.settle_unit(messages, Err(failure)),
            }
        }
        let mut calls = Calls::default();
        let weight = batch.iter().map(|waiting| waiting.weight).sum();
        let mut queue = self.queue.lock();
        queue.settled += batch.len() as u64;
        queue.line.release(weight, &mut calls);
        queue.line.pass_over(&mut calls);
        drop(queue);
        calls.wake();
        self.settled.notify_waiters();
    }

    /// The messages of a frame that does not seal, each by itself: none is to
    /// suffer for another.
    async fn send_apart(&self, messages: &mut [Waiting], sealer: Option<&Sealer>) {
        for message in messages {
            let alone = std::slice::from_mut(message);
            match seal_units(alone, std::slice::from_ref(&(0..1)), sealer).pop() {
                Some(Ok(sealed)) => {
                    let Some(first) = alone.first() else {
                        continue;
                    };
                    let sent = self.post.send(&first.letter, sealed.bytes).await;
                    self.settle_sent(alone, sent.map(|()| sealed.leaf));
                }
                Some(Err(failure)) => self.settle_unit(alone, Err(failure)),
                None => self.settle_unit(alone, Err(Failure::Abandoned)),
            }
        }
    }

    fn settle_sent(&self, messages: &mut [Waiting], sent: Result<LeafHash, LinkError>) {
        if sent.is_ok() {
            self.stats
                .count_sent(messages.len() as u64, messages.len() > 1);
        }
        self.settle_unit(messages, sent.map_err(Failure::Link));
    }

    /// Tells those who wait, and counts what is lost, message by message.
    fn settle_unit(&self, messages: &mut [Waiting], outcome: Outcome) {
        for message in messages {
            match (message.told.take(), outcome) {
                (Some(told), _) => told.tell(outcome),
                (None, Err(failure)) => self.lose(&message.letter, failure),
                (None, Ok(_)) => {}
            }
        }
    }

    fn lose(&self, letter: &Letter, failure: Failure) {
        let subject = letter.to.subject().as_str();
        let error = chain(&failure);
        if !matches!(letter.purpose, Purpose::Event) {
            self.stats.count_refused("reply_not_sent");
            warn!(error, "a reply could not be sent");
            return;
        }
        self.stats.count_refused("publish_not_sent");
        warn!(subject, error, "an accepted message could not be sent");
        self.unsent.add(subject);
    }
}

/// An outcome for each unit, in order.
fn seal_units(
    batch: &[Waiting],
    units: &[Range<usize>],
    sealer: Option<&Sealer>,
) -> Vec<Result<Sealed, Failure>> {
    let Some(sealer) = sealer else {
        return vec![Err(Failure::CredentialExpired); units.len()];
    };
    let (end, process) = (sealer.expires_at(), LazyCell::new(process::id));
    let mut drafts = Vec::with_capacity(units.len());
    let mut messages = Vec::with_capacity(batch.len());
    for waiting in units.iter().filter_map(|unit| batch.get(unit.clone())) {
        // What they share is what the first says; of times, the earliest.
        if let Some(first) = waiting.first() {
            drafts.push(first.letter.draft(end, || *process));
        }
        messages.extend(waiting.iter().map(|waiting| FrameMessage {
            id: waiting.letter.id(),
            body: &waiting.letter.body,
        }));
    }
    let mut rest = messages.as_slice();
    let sealing: Vec<SealUnit<'_>> = units
        .iter()
        .zip(&drafts)
        .map(|(unit, draft)| {
            let (own, others) = rest.split_at_checked(unit.len()).unwrap_or_default();
            rest = others;
            SealUnit {
                draft,
                messages: own,
            }
        })
        .collect();
    match sealer.seal_units(&sealing) {
        Ok(sealed) => sealed.into_iter().map(Ok).collect(),
        Err(error) if sealing.len() == 1 => vec![Err(error.into())],
        // One that was sound when it queued is not any more; the others
        // are not to suffer for it.
        Err(_) => sealing
            .iter()
            .map(|unit| {
                let mut sealed = sealer.seal_units(std::slice::from_ref(unit))?;
                sealed.pop().ok_or(Failure::Abandoned)
            })
            .collect(),
    }
}
