//! Work that several ask for at once and that is done once.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;

/// What came of the work, once that is known.
type Outcome<T> = watch::Receiver<Option<T>>;
type Flights<K, T> = Mutex<HashMap<K, Weak<Outcome<T>>>>;

/// Work that several ask for at once, by its key: one task does it, and all get what
/// comes of it.
///
/// The task belongs to none of them, so whoever asked first may be slow or go away
/// without keeping the others. It ends when nobody waits any more, so there are never
/// more tasks than who waits. Nothing is remembered once the work is done.
pub struct SingleFlight<K, T>(Arc<Flights<K, T>>);

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Shows how much is under way.
impl<K, T> fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SingleFlight")
            .field(&self.0.lock().len())
            .finish()
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// What comes of the work that is under way for `key`, or else of `work`, which
    /// begins now. None if its task ended without a result: it panicked, or the
    /// runtime shuts down.
    ///
    /// Work that must not be done again just after it was done looks first whether it
    /// was: between a caller's own look and this one it may have ended.
    ///
    /// Cancel safe: the work goes on for the others, and ends with the last of them.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let flight = self.board(key, work);
        // `flight` itself is what others find, for as long as somebody waits.
        let mut outcome = Outcome::clone(&flight);
        let outcome = outcome.wait_for(Option::is_some).await;
        outcome.ok().and_then(|outcome| outcome.clone())
    }

    fn board<F>(&self, key: K, work: impl FnOnce() -> F) -> Arc<Outcome<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let (tell, outcome) = watch::channel(None);
        let flight = Arc::new(outcome);
        flights.insert(key.clone(), Arc::downgrade(&flight));
        // A runtime that shuts down drops the task at once, and its entry with it.
        drop(flights);
        let entry = Entry {
            flights: Arc::clone(&self.0),
            key,
            flight: Arc::downgrade(&flight),
        };
        let work = work();
        tokio::spawn(async move {
            let done = tokio::select! {
                done = work => done,
                () = tell.closed() => return,
            };
            // Before it is told: who asks from now on is not told the same again.
            drop(entry);
            tell.send_replace(Some(done));
        });
        flight
    }
}

/// Its place in the table, which ends with the task.
struct Entry<K: Hash + Eq, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    flight: Weak<Outcome<T>>,
}

impl<K: Hash + Eq, T> Drop for Entry<K, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // Whoever came when nobody waited any more has begun another.
        let known = flights.get(&self.key);
        if known.is_some_and(|known| Weak::ptr_eq(known, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;
    use std::time::Duration;

    use tokio::sync::Semaphore;

    /// Work that ends when it is let to.
    struct Scene {
        flights: SingleFlight<u8, usize>,
        doors: Arc<Semaphore>,
        begun: Arc<AtomicUsize>,
    }

    type Asking<'a> = Pin<Box<dyn Future<Output = Option<usize>> + Send + 'a>>;

    impl Scene {
        fn new() -> Self {
            Self {
                flights: SingleFlight::default(),
                doors: Arc::new(Semaphore::new(0)),
                begun: Arc::default(),
            }
        }

        /// What comes is which work it was.
        fn ask(&self, key: u8) -> Asking<'_> {
            Box::pin(self.flights.join(key, || {
                let (doors, begun) = (Arc::clone(&self.doors), Arc::clone(&self.begun));
                async move {
                    let number = begun.fetch_add(1, Ordering::SeqCst);
                    doors.acquire().await.unwrap().forget();
                    number
                }
            }))
        }

        fn under_way(&self) -> usize {
            self.flights.0.lock().len()
        }
    }

    /// Polls once, and lets tasks begin; it has to wait.
    async fn begin(asking: &mut Asking<'_>) {
        let poll = std::future::poll_fn(|cx| Poll::Ready(asking.as_mut().poll(cx))).await;
        assert!(poll.is_pending());
        tokio::task::yield_now().await;
    }

    async fn soon(asking: Asking<'_>) -> Option<usize> {
        let asked = tokio::time::timeout(Duration::from_secs(1), asking).await;
        asked.expect("nobody is waited for")
    }

    #[tokio::test]
    async fn who_is_slow_keeps_nobody() {
        let scene = Scene::new();
        let mut idle = [scene.ask(1), scene.ask(1)];
        for asking in &mut idle {
            begin(asking).await;
        }
        scene.doors.add_permits(1);
        assert_eq!(soon(scene.ask(1)).await, Some(0));
        // What is over is not told again, whoever has not heard it yet.
        let mut next = scene.ask(1);
        begin(&mut next).await;
        scene.doors.add_permits(1);
        assert_eq!(soon(next).await, Some(1));
        for asking in idle {
            assert_eq!(soon(asking).await, Some(0));
        }
    }

    #[tokio::test]
    async fn who_goes_away_takes_nothing_along() {
        let scene = Scene::new();
        let (mut first, mut second, mut other) = (scene.ask(1), scene.ask(1), scene.ask(2));
        for asking in [&mut first, &mut second, &mut other] {
            begin(asking).await;
        }
        assert_eq!(scene.begun.load(Ordering::SeqCst), 2);
        drop(first);
        tokio::task::yield_now().await;
        scene.doors.add_permits(2);
        assert_eq!(soon(second).await, Some(0));
        assert_eq!(soon(other).await, Some(1));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_ends() {
        let scene = Scene::new();
        let (mut first, mut second) = (scene.ask(1), scene.ask(1));
        begin(&mut first).await;
        begin(&mut second).await;
        drop((first, second));
        // Whoever comes at this moment is not given what is about to end.
        let mut third = scene.ask(1);
        begin(&mut third).await;
        tokio::task::yield_now().await;
        assert_eq!(scene.under_way(), 1);
        scene.doors.add_permits(1);
        assert_eq!(soon(third).await, Some(1));
        assert_eq!(scene.doors.available_permits(), 0);
        assert_eq!(scene.under_way(), 0);
        // Nor does it stay when nobody comes.
        let mut fourth = scene.ask(1);
        begin(&mut fourth).await;
        drop(fourth);
        tokio::task::yield_now().await;
        assert_eq!(scene.under_way(), 0);
    }

    #[tokio::test]
    async fn a_task_that_tells_nothing_is_told_of() {
        let scene = Scene::new();
        let flights = &scene.flights;
        let lost = flights.join(1, || async { panic!("as a bug does") });
        assert_eq!(soon(Box::pin(lost)).await, None);
        scene.doors.add_permits(1);
        assert_eq!(soon(scene.ask(1)).await, Some(0));
    }

    #[test]
    fn a_runtime_that_ends_holds_nobody() {
        let scene = Scene::new();
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
        };
        let first = runtime();
        let mut asking = scene.ask(1);
        first.block_on(begin(&mut asking));
        drop(first);
        assert_eq!(runtime().block_on(asking), None);
        assert_eq!(scene.under_way(), 0);
    }
}
