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
use bulla_process::SingleFlight;
use bulla_sdk::{Client, Subscription};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::bus::{BusError, BusEvent};
use crate::clock;
use crate::sealed::{event, subscribe_error};

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
    /// Those that are about to be open. Who asked first may go before they are, and a
    /// new one has to wait for seconds: that must not begin again for the next.
    opening: SingleFlight<Subject, Result<Arc<Ear>, BusError>>,
    silent: AtomicUsize,
}

/// What is heard on one subject.
struct Ear {
    /// None when it has ended.
    listeners: Mutex<Option<Vec<mpsc::Sender<BusEvent>>>>,
}

impl Hearing {
    /// Listens to a subject that nothing stores, from now on.
    pub(crate) async fn listen(
        &self,
        client: &Client,
        subject: &Subject,
    ) -> Result<mpsc::Receiver<BusEvent>, BusError> {
        // What is heard here already is for nobody who may not hear it now: it is the
        // client that refuses, and tells.
        if !may_listen(client, subject) {
            let refused = client.subscribe(subject.as_str()).await;
            refused.map_err(|error| subscribe_error(&error))?;
        }
        let ears = &self.0;
        loop {
            let ear = match ears.known(subject) {
                Some(ear) => ear,
                None => {
                    let open = || Arc::clone(ears).open(client.clone(), subject.clone());
                    let opened = ears.opening.join(subject.clone(), open).await;
                    opened.unwrap_or(Err(BusError::Disconnected))?
                }
            };
            // It may have ended a moment ago: then another is opened.
            if let Some(receiver) = ear.attach() {
                return Ok(receiver);
            }
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

impl Ears {
    /// What is open and has not ended.
    fn known(&self, subject: &Subject) -> Option<Arc<Ear>> {
        let known = self.by_subject.lock().get(subject).cloned();
        known.filter(|ear| ear.listeners.lock().is_some())
    }

    async fn open(self: Arc<Self>, client: Client, subject: Subject) -> Result<Arc<Ear>, BusError> {
        // Another may have been opened since the one who asks looked.
        if let Some(ear) = self.known(&subject) {
            return Ok(ear);
        }
        let heard = client.subscribe(subject.as_str()).await;
        let heard = heard.map_err(|error| subscribe_error(&error))?;
        let ear = Arc::new(Ear {
            listeners: Mutex::new(Some(Vec::new())),
        });
        let mut ears = self.by_subject.lock();
        ears.insert(subject.clone(), Arc::clone(&ear));
        drop(ears);
        tokio::spawn(self.hear(subject, Arc::clone(&ear), heard));
        Ok(ear)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use bulla_sdk::testing::TestBus;

    const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"
[workload.edge]
attest = [{ nkey = "@edge@" }]
[workload.orders]
attest = [{ nkey = "@orders@" }]
[[allow]]
id = "edge-hears"
who = ["edge"]
may = ["subscribe"]
on = ["news.*"]
[[allow]]
id = "orders-tells"
who = ["orders"]
may = ["publish"]
on = ["news.*"]
"#;

    /// Polls once; it has to wait.
    async fn begin<F: Future>(mut future: Pin<&mut F>) {
        let poll = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        assert!(poll.is_pending(), "nothing is opened");
        tokio::task::yield_now().await;
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        // Longer than a subscription takes that has to wait out an earlier one.
        let done = tokio::time::timeout(Duration::from_secs(3), future).await;
        done.expect("nobody is waited for")
    }

    #[tokio::test]
    async fn who_is_slow_or_goes_keeps_nobody_from_listening() {
        let bus = TestBus::start(POLICY).unwrap();
        let edge = bus.client("edge").await.unwrap();
        let orders = bus.client("orders").await.unwrap();
        let (hearing, subject) = (Hearing::default(), Subject::parse("news.tea").unwrap());
        let mut idle = pin!(hearing.listen(&edge, &subject));
        let mut gone = Box::pin(hearing.listen(&edge, &subject));
        begin(idle.as_mut()).await;
        begin(gone.as_mut()).await;
        drop(gone);
        let mut events = soon(hearing.listen(&edge, &subject)).await.unwrap();
        let mut late = soon(idle).await.unwrap();
        assert_eq!(hearing.0.by_subject.lock().len(), 1);
        orders.publish("news.tea", &1u32).await.unwrap();
        assert!(soon(events.recv()).await.is_some() && soon(late.recv()).await.is_some());
    }

    /// One that goes just before it is open, and another, and another: who stays waits
    /// for as long as if he were alone.
    #[tokio::test]
    async fn who_goes_takes_nothing_that_was_waited_for_along() {
        let bus = TestBus::start(POLICY).unwrap();
        let edge = bus.client("edge").await.unwrap();
        let (hearing, subject) = (Hearing::default(), Subject::parse("news.tea").unwrap());
        // From now on a new subscription has to wait.
        drop(edge.subscribe("news.tea").await.unwrap());
        let started = Instant::now();
        let waiting = async {
            let staying = hearing.listen(&edge, &subject);
            staying.await.unwrap();
            started.elapsed()
        };
        let leaving = async {
            let mut all = Vec::new();
            for _ in 0..5 {
                let mut one = Box::pin(hearing.listen(&edge, &subject));
                begin(one.as_mut()).await;
                all.push(one);
            }
            for one in all {
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                drop(one);
            }
        };
        let (_, waited) = tokio::join!(leaving, waiting);
        assert!(waited < Duration::from_secs(3), "{waited:?}");
    }
}
