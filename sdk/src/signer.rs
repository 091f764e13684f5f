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

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;

use bulla_envelope::{LeafHash, MAX_ENVELOPE, SealError, Sealed, Sealer};
use bulla_identity::UnixMillis;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::clock;
use crate::connection::Connection;
use crate::error::{LinkError, SendError};
use crate::letter::{Letter, Purpose};
use crate::own::OwnCredential;
use crate::refusal::chain;
use crate::stats::Stats;

/// What waits at most, in units of [`Letter::weight`]: 4,096 small messages,
/// or about 4 MiB of large ones. Beyond it senders wait their turn.
const WAITING: u32 = 4_096;
/// Messages under one signature at most. The proof grows by 24 bytes each time
/// this doubles, while the signature's share shrinks by less and less.
const BATCH: usize = 256;
/// Weight of a batch at most: its envelopes share one buffer, which lives until
/// the last of them is written.
const BATCH_WEIGHT: u32 = 1_024;
/// How often the sealing task lets others run before it takes what waits.
const YIELDS: usize = 2;
/// Subjects for which lost messages are counted until somebody asks.
const MAX_UNSENT: usize = 1_024;

/// What the signer stands on.
pub(crate) trait Post: Send + Sync + 'static {
    /// The sealer in use.
    fn sealer(&self, now: UnixMillis) -> Result<Arc<Sealer>, SendError>;
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
    fn sealer(&self, now: UnixMillis) -> Result<Arc<Sealer>, SendError> {
        self.own.sealer(now)
    }

    fn max_payload(&self) -> usize {
        self.connection.nats().max_payload()
    }

    async fn send(&self, letter: &Letter, envelope: Bytes) -> Result<(), LinkError> {
        if let Purpose::Append(slot) = &letter.purpose {
            slot.put(envelope);
            return Ok(());
        }
        let nats = self.connection.nats();
        let subject = letter.subject.as_str().to_owned();
        match letter.reply_to() {
            None => nats.publish(subject, envelope).await,
            Some(reply_to) => {
                let reply_to = reply_to.as_str().to_owned();
                nats.publish_with_reply(subject, reply_to, envelope).await
            }
        }
        .map_err(|_| LinkError::Disconnected)
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
    room: Semaphore,
    /// Calls the sealing task.
    call: Notify,
    /// Something was settled.
    settled: Notify,
    unsent: Mutex<BTreeMap<String, u64>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The sealing task was called and has not yet found nothing to do.
    is_awake: bool,
    /// A sender seals its own message.
    is_inline: bool,
    /// How many were ever queued, and how many of them, in this order, were
    /// sent or lost.
    accepted: u64,
    settled: u64,
}

struct Waiting {
    letter: Letter,
    weight: u32,
    /// Too near to the largest payload to carry a path.
    is_alone: bool,
    told: Option<oneshot::Sender<Result<LeafHash, Failure>>>,
}

/// Why something that was accepted was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Failure {
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
            room: Semaphore::new(WAITING as usize),
            call: Notify::new(),
            settled: Notify::new(),
            unsent: Mutex::default(),
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
    pub(crate) async fn post(&self, letter: Letter) -> Result<(), SendError> {
        let is_alone = self.inner.check(&letter)?;
        if self.inner.begin_inline() {
            // Whoever publishes once may do so again at once: the sealing task
            // looks, and what comes until then is a batch.
            return self.inner.send_inline(&letter, true).await.map(drop);
        }
        self.inner.queue(letter, is_alone, None).await
    }

    /// Sends an answer; `is_crowded` if others are about to send at the same
    /// time, so that it is worth to wait for them.
    ///
    /// Returns as [`Signer::post`]; what is lost later is counted. Cancel safe:
    /// dropped before it returns, a crowded answer is not sent at all.
    pub(crate) async fn post_answer(
        &self,
        letter: Letter,
        is_crowded: bool,
    ) -> Result<(), SendError> {
        let is_alone = self.inner.check(&letter)?;
        if !is_crowded && self.inner.begin_inline() {
            return self.inner.send_inline(&letter, false).await.map(drop);
        }
        self.inner.queue(letter, is_alone, None).await
    }

    /// Sends a message and tells its leaf; `is_crowded` as above.
    ///
    /// Dropped while it waits, it is not sent, unless it is being sealed already.
    pub(crate) async fn post_and_tell(
        &self,
        letter: Letter,
        is_crowded: bool,
    ) -> Result<LeafHash, SendError> {
        let is_alone = self.inner.check(&letter)?;
        if !is_crowded && self.inner.begin_inline() {
            return self.inner.send_inline(&letter, false).await;
        }
        let (told, told_to_us) = oneshot::channel();
        self.inner.queue(letter, is_alone, Some(told)).await?;
        match told_to_us.await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(LinkError::Disconnected.into()),
        }
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
        let mut unsent = self.inner.unsent.lock();
        if unsent.is_empty() {
            return 0;
        }
        unsent.remove(subject).unwrap_or(0)
    }

    /// The same for all subjects.
    pub(crate) fn take_all_unsent(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.inner.unsent.lock())
    }
}

impl<P: Post> Inner<P> {
    /// Finds all that can be wrong with a draft; tells whether it is too near
    /// to the largest payload for a place in a batch.
    fn check(&self, letter: &Letter) -> Result<bool, SendError> {
        let sealer = self.sealer_of(letter)?;
        let limit = self.post.max_payload().min(MAX_ENVELOPE);
        let actual = sealer.measure(&letter.draft(sealer.expires_at()))?;
        if actual > limit {
            return Err(SendError::TooLarge { limit, actual });
        }
        Ok(actual + Sealer::BATCH_ROOM > limit)
    }

    /// The one that the letter is bound to, or else the one in use.
    fn sealer_of(&self, letter: &Letter) -> Result<Arc<Sealer>, SendError> {
        match &letter.under {
            None => self.post.sealer(letter.issued_at),
            Some(sealer) if sealer.expires_at() <= letter.issued_at => {
                Err(SendError::CredentialExpired)
            }
            Some(sealer) => Ok(Arc::clone(sealer)),
        }
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
            if lingers && !queue.is_awake {
                queue.is_awake = true;
                self.call.notify_one();
            }
        }
        let sealed = sealed?;
        self.post.send(letter, sealed.bytes).await?;
        Ok(sealed.leaf)
    }

    fn seal_inline(&self, letter: &Letter) -> Result<Sealed, SendError> {
        let sealer = self.sealer_of(letter)?;
        Ok(sealer.seal(&letter.draft(sealer.expires_at()), letter.id())?)
    }

    async fn queue(
        &self,
        letter: Letter,
        is_alone: bool,
        told: Option<oneshot::Sender<Result<LeafHash, Failure>>>,
    ) -> Result<(), SendError> {
        let weight = letter.weight().min(WAITING);
        // In the order of asking, and never without letting others run for long.
        match self.room.acquire_many(weight).await {
            Ok(room) => room.forget(),
            Err(_) => return Err(LinkError::Disconnected.into()),
        }
        let mut queue = self.queue.lock();
        queue.accepted += 1;
        queue.waiting.push_back(Waiting {
            letter,
            weight,
            is_alone,
            told,
        });
        if !queue.is_awake {
            queue.is_awake = true;
            self.call.notify_one();
        }
        Ok(())
    }

    /// The sealing task.
    async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let is_last = tokio::select! {
                biased;
                () = self.call.notified() => false,
                () = stop.cancelled() => true,
            };
            loop {
                // Who is about to send gets into this batch.
                for _ in 0..YIELDS {
                    tokio::task::yield_now().await;
                }
                if !self.take(&mut batch) {
                    break;
                }
                self.send_batch(&mut batch).await;
            }
            if is_last {
                return;
            }
        }
    }

    /// Takes the next batch; or, if nothing waits, goes to sleep.
    fn take(&self, batch: &mut Vec<Waiting>) -> bool {
        let mut queue = self.queue.lock();
        let mut weight = 0;
        while batch.len() < BATCH {
            match queue.waiting.front() {
                Some(next) if batch.is_empty() || weight + next.weight <= BATCH_WEIGHT => {
                    weight += next.weight;
                    batch.extend(queue.waiting.pop_front());
                }
                _ => break,
            }
        }
        queue.is_awake = !batch.is_empty();
        queue.is_awake
    }

    async fn send_batch(&self, batch: &mut Vec<Waiting>) {
        let mut weight: usize = 0;
        let count = batch.len() as u64;
        let mut sealed = self.seal_batch(batch).into_iter();
        for waiting in batch.drain(..) {
            let Waiting { letter, told, .. } = waiting;
            weight += waiting.weight as usize;
            let sealed = sealed.next().unwrap_or(Err(Failure::Abandoned));
            let outcome = match sealed {
                Ok(Sealed { bytes, leaf, .. }) => match self.post.send(&letter, bytes).await {
                    Ok(()) => Ok(leaf),
                    Err(error) => Err(Failure::Link(error)),
                },
                Err(failure) => Err(failure),
            };
            match told {
                // Nobody waits any more: nothing to tell.
                Some(told) => drop(told.send(outcome)),
                None => {
                    if let Err(failure) = outcome {
                        self.lose(&letter, failure);
                    }
                }
            }
        }
        self.room.add_permits(weight);
        self.queue.lock().settled += count;
        self.settled.notify_waiters();
    }

    /// An outcome for each, in order.
    fn seal_batch(&self, batch: &[Waiting]) -> Vec<Result<Sealed, Failure>> {
        let Ok(sealer) = self.post.sealer(clock::now()) else {
            return vec![Err(Failure::CredentialExpired); batch.len()];
        };
        let end = sealer.expires_at();
        let mut outcomes = vec![Err(Failure::Abandoned); batch.len()];
        let seal = |places: &mut Vec<usize>, outcomes: &mut Vec<Result<Sealed, Failure>>| {
            let drafts: Vec<_> = places
                .drain(..)
                .filter_map(|place| Some((place, batch.get(place)?)))
                .map(|(place, w)| (place, (w.letter.draft(end), w.letter.id())))
                .collect();
            let (places, drafts): (Vec<_>, Vec<_>) = drafts.into_iter().unzip();
            let sealed: Vec<Result<Sealed, SealError>> = match sealer.seal_batch(&drafts) {
                Ok(sealed) => sealed.into_iter().map(Ok).collect(),
                // One that was sound when it queued is not any more; the
                // others are not to suffer for it.
                Err(_) => drafts.iter().map(|(d, id)| sealer.seal(d, *id)).collect(),
            };
            for (place, sealed) in places.into_iter().zip(sealed) {
                if let Some(outcome) = outcomes.get_mut(place) {
                    *outcome = sealed.map_err(Failure::Seal);
                }
            }
        };
        let mut together = Vec::with_capacity(batch.len());
        for (place, waiting) in batch.iter().enumerate() {
            if waiting
                .told
                .as_ref()
                .is_some_and(oneshot::Sender::is_closed)
            {
                continue;
            }
            let other = waiting.letter.under.as_ref();
            if let Some(other) = other.filter(|other| !Arc::ptr_eq(other, &sealer)) {
                let draft = waiting.letter.draft(other.expires_at());
                if let Some(outcome) = outcomes.get_mut(place) {
                    let sealed = other.seal(&draft, waiting.letter.id());
                    *outcome = sealed.map_err(Failure::Seal);
                }
            } else if waiting.is_alone {
                seal(&mut vec![place], &mut outcomes);
            } else {
                together.push(place);
            }
        }
        if !together.is_empty() {
            seal(&mut together, &mut outcomes);
        }
        outcomes
    }

    fn lose(&self, letter: &Letter, failure: Failure) {
        let subject = letter.subject.as_str();
        let error = chain(&failure);
        if !matches!(letter.purpose, Purpose::Event) {
            self.stats.count_refused("reply_not_sent");
            warn!(error, "a reply could not be sent");
            return;
        }
        self.stats.count_refused("publish_not_sent");
        warn!(subject, error, "an accepted message could not be sent");
        let mut unsent = self.unsent.lock();
        if unsent.len() < MAX_UNSENT || unsent.contains_key(subject) {
            let count = unsent.entry(subject.to_owned()).or_default();
            *count = count.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use bulla_envelope::{
        Credential, CredentialIssuer, CredentialRequest, Epoch, MessageId, RequestDraft,
        RequestExpectation, SealedEnvelope, Terms,
    };
    use bulla_identity::{NkeyKind, Subject, TrustDomain, WorkloadId, WorkloadName};
    use bulla_keyring::{NkeySeed, SigningKey};
    use tokio::sync::mpsc;

    const MAX_PAYLOAD: usize = 64 * 1_024;

    /// Hands envelopes to the test; closed doors keep them waiting.
    struct Door {
        sealer: Mutex<Option<Arc<Sealer>>>,
        open: Semaphore,
        out: mpsc::UnboundedSender<(String, Bytes)>,
    }

    #[derive(Clone)]
    struct Handle(Arc<Door>);

    impl Post for Handle {
        fn sealer(&self, _: UnixMillis) -> Result<Arc<Sealer>, SendError> {
            self.0
                .sealer
                .lock()
                .clone()
                .ok_or(SendError::CredentialExpired)
        }

        fn max_payload(&self) -> usize {
            MAX_PAYLOAD
        }

        async fn send(&self, letter: &Letter, envelope: Bytes) -> Result<(), LinkError> {
            let pass = self.0.open.acquire().await;
            pass.map_err(|_| LinkError::Disconnected)?.forget();
            let subject = letter.subject.as_str().to_owned();
            let _ = self.0.out.send((subject, envelope));
            Ok(())
        }
    }

    struct Scene {
        signer: Arc<Signer<Handle>>,
        door: Handle,
        sent: mpsc::UnboundedReceiver<(String, Bytes)>,
        stats: Stats,
    }

    const EVERYBODY: usize = Semaphore::MAX_PERMITS / 2;

    fn scene(passes: usize) -> Scene {
        let (out, sent) = mpsc::unbounded_channel();
        let door = Handle(Arc::new(Door {
            sealer: Mutex::new(Some(Arc::new(sealer()))),
            open: Semaphore::new(passes),
            out,
        }));
        let stats = Stats::default();
        Scene {
            signer: Arc::new(Signer::start(door.clone(), stats.clone())),
            door,
            sent,
            stats,
        }
    }

    fn sealer() -> Sealer {
        let now = clock::now();
        let minute = Duration::from_secs(60);
        let domain = TrustDomain::parse("acme.example").unwrap();
        let workload = WorkloadId::new(&domain, &WorkloadName::parse("orders").unwrap());
        let nkey = NkeySeed::from_random(NkeyKind::User, &[3; 32]).unwrap();
        let key = SigningKey::from_seed(&[4; 32]);
        let request = RequestDraft {
            workload: &workload,
            message_key: &key,
            process_keys: None,
            token_key: None,
            instance: [5; 16],
            challenge: [6; 32],
            requested_at: now,
        };
        let request = CredentialRequest::decode(&request.sign(Some(&nkey)))
            .unwrap()
            .verify(&RequestExpectation {
                tag: workload.tag(),
                challenge: &[6; 32],
                anchors: &[nkey.public()],
                now,
                skew: minute,
                max_age: minute,
            })
            .unwrap();
        let terms = Terms {
            not_before: now,
            expires_at: now.saturating_add(minute),
            serial: [7; 16],
        };
        let issuer = CredentialIssuer::new(SigningKey::from_seed(&[2; 32]));
        let credential: Credential = issuer.issue(&request, terms).unwrap();
        Sealer::new(&credential, key, Epoch([8; 8])).unwrap()
    }

    fn letter(subject: &str, body: impl Into<Bytes>) -> Letter {
        let subject = Subject::parse(subject).unwrap();
        let life = Duration::from_secs(10);
        Letter::new(Purpose::Event, subject, body.into(), clock::now(), life)
    }

    /// How many envelopes share the signature of this one.
    fn signatures(sent: &[(String, Bytes)]) -> usize {
        let mut all: Vec<_> = sent.iter().map(|(_, b)| b.slice(b.len() - 64..)).collect();
        all.sort();
        all.dedup();
        all.len()
    }

    fn all(scene: &mut Scene) -> Vec<(String, Bytes)> {
        std::iter::from_fn(|| scene.sent.try_recv().ok()).collect()
    }

    #[tokio::test]
    async fn at_idle_a_message_is_sent_by_its_own_task() {
        let mut scene = scene(EVERYBODY);
        scene.signer.post(letter("a", "x")).await.unwrap();
        // The sealing task looks for more, finds nothing and sleeps again.
        while scene.signer.inner.queue.lock().is_awake {
            tokio::task::yield_now().await;
        }
        let signer = &scene.signer;
        let leaf = signer.post_and_tell(letter("b", "x"), false).await.unwrap();
        assert_eq!(signer.inner.queue.lock().accepted, 0, "neither was queued");
        assert_ne!(leaf.0, [0; 32]);
        assert_eq!(all(&mut scene).len(), 2);
    }

    /// One task in a loop gets batches too.
    #[tokio::test]
    async fn a_single_task_in_a_loop_shares_signatures_and_keeps_order() {
        let mut scene = scene(EVERYBODY);
        for n in 0..5_000u32 {
            let body = n.to_be_bytes().to_vec();
            scene.signer.post(letter("a", body)).await.unwrap();
        }
        scene.signer.settle().await;
        let sent = all(&mut scene);
        let bodies: Vec<_> = sent.iter().map(|(_, bytes)| sequence_of(bytes)).collect();
        assert_eq!(bodies, (0..5_000).collect::<Vec<u64>>());
        assert!(signatures(&sent) < 500, "{}", signatures(&sent));
        for (_, bytes) in sent {
            SealedEnvelope::decode(bytes).unwrap();
        }
    }

    /// The four-byte body that stands before the proof.
    fn sequence_of(bytes: &Bytes) -> u64 {
        let found = (0..bytes.len() - 6)
            .rev()
            .find(|at| bytes[*at..*at + 2] == [0xc4, 4] && bytes[at + 6] == 0x94)
            .unwrap();
        u64::from(u32::from_be_bytes(
            bytes[found + 2..found + 6].try_into().unwrap(),
        ))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_tasks_share_signatures_and_each_keeps_its_order() {
        let mut scene = scene(EVERYBODY);
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let signer = Arc::clone(&scene.signer);
                tokio::spawn(async move {
                    for n in 0..100u32 {
                        let body = n.to_be_bytes().to_vec();
                        let letter = letter(&format!("t.{task}"), body);
                        if n % 3 == 0 {
                            signer.post_and_tell(letter, true).await.unwrap();
                        } else {
                            signer.post(letter).await.unwrap();
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        scene.signer.settle().await;
        let sent = all(&mut scene);
        assert_eq!(sent.len(), 6_400);
        for task in 0..64 {
            let to = format!("t.{task}");
            let own = sent.iter().filter(|(s, _)| *s == to);
            let order: Vec<_> = own.map(|(_, bytes)| sequence_of(bytes)).collect();
            assert_eq!(order, (0..100).collect::<Vec<u64>>());
        }
        assert!(signatures(&sent) < 3_200, "{}", signatures(&sent));
    }

    /// A task that is dropped while the door is closed holds up nobody.
    #[tokio::test]
    async fn who_is_dropped_stalls_nobody_and_takes_nobody_along() {
        let mut scene = scene(1);
        scene.signer.post(letter("first", "x")).await.unwrap();
        let mut waiting = Vec::new();
        for n in 0..20 {
            let signer = Arc::clone(&scene.signer);
            waiting.push(tokio::spawn(async move {
                signer
                    .post_and_tell(letter(&format!("r.{n}"), "x"), true)
                    .await
            }));
        }
        while scene.signer.inner.queue.lock().accepted < 20 {
            tokio::task::yield_now().await;
        }
        for task in waiting.iter().step_by(2) {
            task.abort();
        }
        scene.door.0.open.add_permits(EVERYBODY);
        for (n, task) in waiting.into_iter().enumerate() {
            match task.await {
                Ok(outcome) => assert!(outcome.is_ok() && n % 2 == 1),
                Err(error) => assert!(error.is_cancelled() && n % 2 == 0),
            }
        }
        scene.signer.post(letter("last", "x")).await.unwrap();
        scene.signer.settle().await;
        let subjects: Vec<_> = all(&mut scene).into_iter().map(|(s, _)| s).collect();
        for n in (1..20).step_by(2) {
            assert!(subjects.contains(&format!("r.{n}")), "{subjects:?}");
        }
        assert_eq!(subjects.last().unwrap(), "last");
        assert_eq!(
            scene.signer.inner.room.available_permits(),
            WAITING as usize
        );
    }

    #[tokio::test]
    async fn what_cannot_be_sealed_harms_no_neighbour() {
        let mut scene = scene(EVERYBODY);
        scene.signer.post(letter("a", "x")).await.unwrap();
        let mut bad = letter("bad", "x");
        bad.content_type = Some(crate::content::ContentType::Other("ä".into()));
        assert!(matches!(
            scene.signer.post(bad).await,
            Err(SendError::Seal(_))
        ));
        let large = scene
            .signer
            .post(letter("large", vec![0; MAX_PAYLOAD]))
            .await;
        assert!(
            matches!(large, Err(SendError::TooLarge { .. })),
            "{large:?}"
        );
        // Fits alone and not beside others: it goes alone, in its place.
        let mut edge = MAX_PAYLOAD - 100;
        while scene
            .signer
            .inner
            .check(&letter("edge", vec![0; edge]))
            .is_err()
        {
            edge -= 1;
        }
        for subject in ["b", "edge", "c"] {
            let body = if subject == "edge" { edge } else { 1 };
            scene
                .signer
                .post(letter(subject, vec![0; body]))
                .await
                .unwrap();
        }
        scene.signer.settle().await;
        let sent = all(&mut scene);
        let subjects: Vec<_> = sent.iter().map(|(s, _)| s.as_str()).collect();
        assert_eq!(subjects, ["a", "b", "edge", "c"]);
        assert!(sent.iter().all(|(_, bytes)| bytes.len() <= MAX_PAYLOAD));
    }

    /// One of a batch that became unsound while it waited.
    #[tokio::test]
    async fn a_batch_that_does_not_seal_is_sealed_one_by_one() {
        let scene = scene(EVERYBODY);
        let mut batch: Vec<_> = (0..3)
            .map(|_| Waiting {
                letter: letter("a", "x"),
                weight: 1,
                is_alone: false,
                told: None,
            })
            .collect();
        batch[1].letter.content_type = Some(crate::content::ContentType::Other("ä".into()));
        let outcomes = scene.signer.inner.seal_batch(&batch);
        let sound: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(sound, [true, false, true]);
        assert_ne!(batch[0].letter.id(), MessageId([0; 16]));
    }

    #[tokio::test]
    async fn what_is_lost_after_it_was_accepted_is_told() {
        let scene = scene(EVERYBODY);
        for _ in 0..4 {
            scene.signer.post(letter("a", "x")).await.unwrap();
        }
        *scene.door.0.sealer.lock() = None;
        scene.signer.settle().await;
        let error = scene.signer.post(letter("a", "x")).await;
        assert!(matches!(error, Err(SendError::CredentialExpired)));
        assert_eq!(scene.signer.take_unsent("b"), 0);
        // The first was sealed inline.
        assert_eq!(scene.signer.take_unsent("a"), 3);
        assert_eq!(scene.signer.take_unsent("a"), 0, "told once");
        assert_eq!(scene.stats.refused_for("publish_not_sent"), 3);
        assert!(scene.signer.take_all_unsent().is_empty());
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_senders_wait_in_turn() {
        let mut scene = scene(1);
        scene.signer.post(letter("a", "x")).await.unwrap();
        let signer = Arc::clone(&scene.signer);
        let flood = tokio::spawn(async move {
            for n in 0..3 * WAITING {
                let body = n.to_be_bytes().to_vec();
                signer.post(letter("f", body)).await.unwrap();
            }
        });
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(!flood.is_finished(), "it waits for room");
        assert_eq!(scene.signer.inner.queue.lock().accepted, u64::from(WAITING));
        scene.door.0.open.add_permits(EVERYBODY);
        flood.await.unwrap();
        scene.signer.settle().await;
        assert_eq!(all(&mut scene).len(), 1 + 3 * WAITING as usize);
    }

    /// A client that is dropped sends what it accepted.
    #[tokio::test]
    async fn what_was_accepted_is_sent_after_the_signer_is_dropped() {
        let mut scene = scene(EVERYBODY);
        for _ in 0..100 {
            scene.signer.post(letter("a", "x")).await.unwrap();
        }
        let Scene { signer, door, .. } = scene;
        drop((signer, door));
        let mut count = 0;
        while scene.sent.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 100);
    }
}
