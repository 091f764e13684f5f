//! Events that nothing stores, for everybody on this node who listens.
//!
//! ```text
//! subject ─► one subscription for the node ─► everybody who listens to the subject
//! ```
//!
//! Each message is opened once, however many listen. And each is given at most once to
//! whoever comes back: the replay memory is the subscription's (ENV-40), so a stream that
//! is opened on one that is there begins at once, while a new one has to wait out what an
//! earlier one may have given (ENV-34). That is why a subscription stays for a while when
//! nobody listens any more: browsers come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bulla_identity::{Subject, SubjectPattern};
use bulla_policy::Verb;
use bulla_sdk::{Client, SubscribeError, Subscription};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use crate::bus::BusEvent;
use crate::clock;
use crate::sealed::event;

/// How many events may wait for a listener. Who is further behind is cut: waiting for him
/// would hold up everybody.
const AHEAD: usize = 64;
/// How long a subscription stays that nobody listens to.
const LINGER: Duration = Duration::from_secs(10);
/// How often it is looked who still listens.
const LOOK: Duration = Duration::from_secs(1);
/// How many subscriptions stay that nobody listens to: subjects may be the clients' choice.
const MOST_SILENT: usize = 256;

/// The subscriptions of this node, by their subject.
#[derive(Default)]
pub(crate) struct Hearing(Arc<Ears>);

#[derive(Default)]
struct Ears {
    by_subject: Mutex<HashMap<Subject, Arc<Ear>>>,
    silent: AtomicUsize,
}

/// What is heard on one subject.
#[derive(Default)]
struct Ear {
    /// Whether its subscription is open.
    opened: OnceCell<()>,
    /// None when it has ended.
    listeners: Mutex<Option<Vec<mpsc::Sender<BusEvent>>>>,
}

impl Hearing {
    /// Listens to a subject that nothing stores, from now on.
    pub(crate) async fn listen(
        &self,
        client: &Client,
        subject: &Subject,
    ) -> Result<mpsc::Receiver<BusEvent>, SubscribeError> {
        // What is heard here already is for nobody who may not hear it now: it is the
        // client that refuses, and tells.
        if !may_listen(client, subject) {
            client.subscribe(subject.as_str()).await?;
        }
        loop {
            let ear = self.0.of(subject);
            let opening = Opening {
                ears: &self.0,
                subject,
                ear: &ear,
            };
            let open = || async {
                let subscription = client.subscribe(subject.as_str()).await?;
                *ear.listeners.lock() = Some(Vec::new());
                let (ears, ear) = (Arc::clone(&self.0), Arc::clone(&ear));
                tokio::spawn(ears.hear(subject.clone(), ear, subscription));
                Ok::<_, SubscribeError>(())
            };
            ear.opened.get_or_try_init(open).await?;
            drop(opening);
            // It may have ended a moment ago: then another is opened.
            if let Some(receiver) = ear.attach() {
                return Ok(receiver);
            }
            self.0.forget(subject, &ear);
        }
    }
}

/// Whether the policy that is in force lets this node listen to a subject.
fn may_listen(client: &Client, subject: &Subject) -> bool {
    let policy = client.policy();
    SubjectPattern::parse(subject.as_str()).is_ok_and(|pattern| {
        let workload = client.workload();
        let asked = policy
            .policy()
            .may_listen(workload, Verb::Subscribe, &pattern, clock::now());
        asked.is_ok()
    })
}

/// An ear that was taken to be opened. It is forgotten where that fails or is given up.
struct Opening<'a> {
    ears: &'a Ears,
    subject: &'a Subject,
    ear: &'a Arc<Ear>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.ear.opened.initialized() {
            self.ears.forget(self.subject, self.ear);
        }
    }
}

impl Ears {
    fn of(&self, subject: &Subject) -> Arc<Ear> {
        let mut ears = self.by_subject.lock();
        Arc::clone(ears.entry(subject.clone()).or_default())
    }

    fn forget(&self, subject: &Subject, ear: &Arc<Ear>) {
        let mut ears = self.by_subject.lock();
        if ears
            .get(subject)
            .is_some_and(|known| Arc::ptr_eq(known, ear))
        {
            ears.remove(subject);
        }
    }

    /// Tells everybody what comes, until nobody has listened for a while.
    async fn hear(self: Arc<Self>, subject: Subject, ear: Arc<Ear>, mut heard: Subscription) {
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = None;
        loop {
            tokio::select! {
                message = heard.next() => match message {
                    Some(message) => ear.tell(&event(&message, None)),
                    None => break,
                },
                _ = look.tick() => {
                    if ear.is_heard() {
                        silence = None;
                        continue;
                    }
                    let silence = silence.get_or_insert_with(|| Silence::begin(&self));
                    if silence.is_over() && ear.end_unheard() {
                        break;
                    }
                }
            }
        }
        // Whoever still listens is told by the end of what he listens to.
        *ear.listeners.lock() = None;
        self.forget(&subject, &ear);
    }
}

/// Nobody listens, since when.
struct Silence {
    since: Instant,
    is_one_too_many: bool,
    ears: Arc<Ears>,
}

impl Silence {
    fn begin(ears: &Arc<Ears>) -> Self {
        let others = ears.silent.fetch_add(1, Ordering::Relaxed);
        Self {
            since: Instant::now(),
            is_one_too_many: others >= MOST_SILENT,
            ears: Arc::clone(ears),
        }
    }

    fn is_over(&self) -> bool {
        self.is_one_too_many || self.since.elapsed() >= LINGER
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.ears.silent.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ear {
    /// One more who listens; none if it has ended.
    fn attach(&self) -> Option<mpsc::Receiver<BusEvent>> {
        let mut listeners = self.listeners.lock();
        let listeners = listeners.as_mut()?;
        let (events, receiver) = mpsc::channel(AHEAD);
        listeners.push(events);
        Some(receiver)
    }

    /// Whoever has gone, and whoever is too far behind, is told nothing more.
    fn tell(&self, event: &BusEvent) {
        if let Some(listeners) = self.listeners.lock().as_mut() {
            listeners.retain(|listener| listener.try_send(event.clone()).is_ok());
        }
    }

    /// Whether somebody listens.
    fn is_heard(&self) -> bool {
        let mut listeners = self.listeners.lock();
        listeners.as_mut().is_some_and(|listeners| {
            listeners.retain(|listener| !listener.is_closed());
            !listeners.is_empty()
        })
    }

    /// Ends it, if nobody has come meanwhile.
    fn end_unheard(&self) -> bool {
        let mut listeners = self.listeners.lock();
        let is_unheard = listeners.as_ref().is_none_or(Vec::is_empty);
        if is_unheard {
            *listeners = None;
        }
        is_unheard
    }
}
