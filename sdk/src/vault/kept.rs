//! Data keys in use, each made once, by a task of its own: who asked for it may be
//! slow or go away, and those who wait with it get it all the same.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::watch;

use super::{EncryptError, KeyInUse};
use crate::error::LinkError;

type Outcome = Result<Arc<KeyInUse>, EncryptError>;
/// What became of the making of a key, once that is known.
type Slot = watch::Receiver<Option<Outcome>>;

/// Data keys by what they are for.
pub(super) struct Kept<K>(Cache<K, Slot>);

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Kept<K> {
    pub(super) fn new(capacity: u64, life: Duration) -> Self {
        let cache = Cache::builder().max_capacity(capacity).time_to_live(life);
        Self(cache.build())
    }

    /// The key of this place that `take` can take something of. A task makes a new
    /// one, all wait for it, and all get its error if it fails: the next one to ask
    /// tries again.
    pub(super) async fn get<T, F>(
        &self,
        place: K,
        take: impl Fn(&KeyInUse) -> Option<T>,
        make: impl Fn() -> F,
    ) -> Result<(Arc<KeyInUse>, T), EncryptError>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        loop {
            let mut slot = self.slot(&place, &make);
            let outcome = slot.wait_for(Option::is_some).await;
            // A task that is gone has told nothing: its runtime is about to end.
            let outcome = outcome.ok().and_then(|outcome| outcome.clone());
            match outcome.unwrap_or(Err(LinkError::Disconnected.into())) {
                Ok(key) => {
                    if let Some(taken) = take(&key) {
                        return Ok((key, taken));
                    }
                    // Retired: whoever sees it first takes it out.
                    self.take_out(&place, &slot);
                }
                Err(error) => {
                    self.take_out(&place, &slot);
                    return Err(error);
                }
            }
        }
    }

    fn slot<F>(&self, place: &K, make: impl Fn() -> F) -> Slot
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut telling = None;
        let slot = self.0.get_with(place.clone(), || {
            let (tell, slot) = watch::channel(None);
            telling = Some(tell);
            slot
        });
        // It has its place now, so that it can be taken out if it fails.
        if let Some(tell) = telling {
            let (made, cache, place) = (make(), self.0.clone(), place.clone());
            tokio::spawn(async move {
                let outcome = made.await;
                if outcome.is_err() {
                    cache.invalidate(&place);
                }
                tell.send_replace(Some(outcome));
            });
        }
        slot
    }

    fn take_out(&self, place: &K, slot: &Slot) {
        let held = self.0.get(place);
        if held.is_some_and(|held| held.same_channel(slot)) {
            self.0.invalidate(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::Poll;

    use bulla_envelope::{DataKeyDraft, Epoch, Recipient, SealingKey};
    use bulla_identity::{TrustDomain, UnixMillis, WorkloadId};
    use bulla_keyring::{Cipher, CipherSuite, KemSecret, KemSuite};
    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Makes keys when it is let to.
    struct Forge {
        kept: Kept<u8>,
        doors: Arc<Semaphore>,
        made: Arc<AtomicUsize>,
        outcome: Arc<Mutex<fn() -> Outcome>>,
    }

    type Asking<'a> =
        Pin<Box<dyn Future<Output = Result<(Arc<KeyInUse>, ()), EncryptError>> + Send + 'a>>;

    impl Forge {
        fn new(permits: usize) -> Self {
            Self {
                kept: Kept::new(10, Duration::from_secs(600)),
                doors: Arc::new(Semaphore::new(permits)),
                made: Arc::default(),
                outcome: Arc::new(Mutex::new(|| Ok(key()))),
            }
        }

        fn ask(&self) -> Asking<'_> {
            Box::pin(self.kept.get(
                1,
                |key| (key.key.reserve(1) == 1).then_some(()),
                || {
                    let (doors, made) = (Arc::clone(&self.doors), Arc::clone(&self.made));
                    let outcome = Arc::clone(&self.outcome);
                    async move {
                        doors.acquire().await.unwrap().forget();
                        made.fetch_add(1, Ordering::SeqCst);
                        let outcome = *outcome.lock();
                        outcome()
                    }
                },
            ))
        }

        fn made(&self) -> usize {
            self.made.load(Ordering::SeqCst)
        }
    }

    fn key() -> Arc<KeyInUse> {
        let domain = TrustDomain::parse("acme.example").unwrap();
        let workload = WorkloadId::parse("spiffe://acme.example/orders").unwrap();
        let secret = KemSecret::from_seed(KemSuite::X25519, &[1; 32]);
        let draft = DataKeyDraft {
            suite: CipherSuite::new(KemSuite::X25519, Cipher::Aes256Gcm),
            trust_domain: &domain,
            sender: &workload,
            epoch: Epoch([2; 8]),
            expires_at: UnixMillis::from_millis(1_000),
            max_uses: 3,
            process: 1,
        };
        let recipient = Recipient {
            workload: &workload,
            key: secret.public(),
        };
        Arc::new(KeyInUse {
            key: SealingKey::new(&draft, &[recipient], &[3; 32], || [4; 64]).unwrap(),
            is_stored: AtomicBool::new(false),
            is_inline_only: false,
        })
    }

    /// Polls once; whether it waits.
    async fn waits(asking: &mut Asking<'_>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(asking.as_mut().poll(cx).is_pending())).await
    }

    async fn soon(asking: Asking<'_>) -> Result<Arc<KeyInUse>, EncryptError> {
        let asked = tokio::time::timeout(LIMIT, asking).await;
        asked.expect("nobody is waited for").map(|(key, ())| key)
    }

    /// Who began it is polled once and then goes elsewhere.
    #[tokio::test]
    async fn a_slow_sender_stalls_nobody_who_waits_for_the_same_key() {
        let forge = Forge::new(0);
        let mut idle = [forge.ask(), forge.ask()];
        for asking in &mut idle {
            assert!(waits(asking).await);
        }
        forge.doors.add_permits(1);
        let key = soon(forge.ask()).await.unwrap();
        for asking in idle {
            assert!(Arc::ptr_eq(&key, &soon(asking).await.unwrap()));
        }
        assert_eq!(forge.made(), 1);
    }

    #[tokio::test]
    async fn who_is_dropped_while_a_key_is_made_harms_nobody() {
        let forge = Forge::new(0);
        let (mut first, mut second) = (forge.ask(), forge.ask());
        assert!(waits(&mut first).await && waits(&mut second).await);
        drop(first);
        forge.doors.add_permits(1);
        soon(second).await.unwrap();
        // All of them: it is made and kept for the next.
        let forge = Forge::new(0);
        let mut only = forge.ask();
        assert!(waits(&mut only).await);
        drop(only);
        forge.doors.add_permits(1);
        soon(forge.ask()).await.unwrap();
        assert_eq!(forge.made(), 1);
    }

    /// All who wait get the error at once; the next one to ask tries again.
    #[tokio::test]
    async fn a_failure_is_told_to_all_and_kept_for_nobody() {
        let forge = Forge::new(0);
        *forge.outcome.lock() = || Err(EncryptError::NotStored);
        let (mut first, mut second) = (forge.ask(), forge.ask());
        assert!(waits(&mut first).await && waits(&mut second).await);
        drop(first);
        forge.doors.add_permits(1);
        let error = soon(second).await.unwrap_err();
        assert!(matches!(error, EncryptError::NotStored), "{error}");
        // Nor where nobody was left to hear it.
        let mut third = forge.ask();
        assert!(waits(&mut third).await);
        drop(third);
        forge.doors.add_permits(1);
        while forge.made() < 2 {
            tokio::task::yield_now().await;
        }
        *forge.outcome.lock() = || Ok(key());
        forge.doors.add_permits(1);
        soon(forge.ask()).await.unwrap();
        assert_eq!(forge.made(), 3);
        // A task that ends without saying anything.
        let forge = Forge::new(1);
        *forge.outcome.lock() = || panic!("as a bug does");
        soon(forge.ask()).await.unwrap_err();
        *forge.outcome.lock() = || Ok(key());
        forge.doors.add_permits(1);
        soon(forge.ask()).await.unwrap();
    }

    #[tokio::test]
    async fn a_key_that_is_used_up_is_replaced() {
        let forge = Forge::new(2);
        let mut keys = Vec::new();
        for _ in 0..6 {
            keys.push(soon(forge.ask()).await.unwrap());
        }
        keys.dedup_by(|a, b| Arc::ptr_eq(a, b));
        assert_eq!((keys.len(), forge.made()), (2, 2));
    }
}
