//! The task that writes: entries into messages, messages into the stream, heads
//! over what was written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bulla_audit::{Chain, Event, Key, Started, Uses};
use bulla_identity::{UnixMillis, reserved};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, warn};

use super::{AuditParts, Inner, Progress, Store, StoreError};
use crate::clock;

/// What waits so long is written together.
const COLLECT: Duration = Duration::from_millis(200);
/// Entries in one message, and their bytes.
const MAX_BATCH: usize = 256;
const MAX_BATCH_BYTES: usize = 128 * 1024;
/// Entries in a second: a flood of refusals does not become one of the stream.
const PACE: u32 = 2_000;
/// Grants in one entry.
const USES_AT_ONCE: usize = 50;
/// Pause after what was not stored, doubled up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// How long a writer that ends tries to write what is left.
const LAST_LIMIT: Duration = Duration::from_secs(2);

/// Writes until it is told to stop, then what is left.
pub(super) async fn run(parts: AuditParts, inner: Arc<Inner>) {
    let stop = parts.stop.clone();
    let mut pen = Pen {
        chain: Chain::new(parts.writer.clone()),
        lines: Vec::new(),
        unsealed_since: None,
        announced: None,
        uses_since: clock::now(),
        parts,
        inner: Arc::clone(&inner),
    };
    pen.begin();
    tokio::select! {
        () = stop.cancelled() => {}
        () = pen.write() => {}
    }
    // One that could not be sent is sent now or never.
    let _ = timeout(LAST_LIMIT, pen.end()).await;
    inner.ended.cancel();
}

struct Pen {
    parts: AuditParts,
    inner: Arc<Inner>,
    chain: Chain,
    /// Entries that are in the chain and not in the stream.
    lines: Vec<String>,
    /// Since when something is under no head.
    unsealed_since: Option<Instant>,
    announced: Option<Key>,
    uses_since: UnixMillis,
}

impl Pen {
    fn begin(&mut self) {
        let start = Event::Start(Started {
            trust_domain: self.parts.domain.as_str().to_owned(),
            workload: self.parts.workload.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sample: self.parts.options.sample,
        });
        self.append(clock::now(), &start);
    }

    async fn write(&mut self) {
        let mut next_uses = Instant::now() + self.parts.options.uses_every;
        // The first head comes soon, so that a short life is sealed too.
        self.seal();
        self.send().await;
        loop {
            let head_due = self
                .unsealed_since
                .map(|since| since + self.parts.options.head_every);
            tokio::select! {
                () = self.inner.queue.filled.notified() => sleep(COLLECT).await,
                () = until(head_due) => self.seal(),
                () = sleep_until(next_uses) => {
                    self.tell_uses();
                    next_uses = Instant::now() + self.parts.options.uses_every;
                }
            }
            self.drain().await;
        }
    }

    /// Writes all that waits.
    async fn drain(&mut self) {
        loop {
            let count = self.take();
            self.send().await;
            if count == 0 {
                return;
            }
            // Heads do not wait for a flood to end.
            let every = self.parts.options.head_every;
            if self
                .unsealed_since
                .is_some_and(|since| since.elapsed() >= every)
            {
                self.seal();
                self.send().await;
            }
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            sleep(Duration::from_secs(1).saturating_mul(count) / PACE).await;
        }
    }

    async fn end(&mut self) {
        self.send().await;
        self.tell_uses();
        while self.take() > 0 {
            self.send().await;
        }
        self.append(clock::now(), &Event::stop());
        self.seal();
        self.send().await;
    }

    /// Takes from the queue what fits into one message.
    fn take(&mut self) -> usize {
        let room = MAX_BATCH.saturating_sub(self.lines.len());
        let (taken, gap) = self.inner.queue.take(room);
        let count = taken.len();
        for (at, event) in taken {
            self.append(at, &event);
        }
        if let Some(gap) = gap {
            self.inner.progress.gap();
            self.append(clock::now(), &Event::Gap(gap));
        }
        count
    }

    fn append(&mut self, at: UnixMillis, event: &Event) {
        match self.chain.append(at, event) {
            Ok(line) => {
                self.inner.progress.took(at);
                self.lines.push(line);
                self.unsealed_since.get_or_insert_with(Instant::now);
            }
            Err(error) => {
                warn!(%error, event = event.name(), "an entry is left out of the audit log");
                self.inner.queue.leave_out(at, event);
            }
        }
    }

    fn seal(&mut self) {
        let Some((key, name)) = self.parts.signer.key() else {
            return;
        };
        let now = clock::now();
        if self.announced.as_ref() != Some(&key) {
            self.append(now, &Event::Key(key.clone()));
            self.announced = Some(key);
        }
        let signer = Arc::clone(&self.parts.signer);
        match self.chain.seal(now, name, |head| signer.sign(head)) {
            Ok(Some(line)) => {
                self.inner.progress.took(now);
                self.lines.push(line);
                self.unsealed_since = None;
            }
            // Its key was replaced at this moment: with the next one.
            Ok(None) => self.unsealed_since = Some(Instant::now()),
            Err(error) => warn!(%error, "a head of the audit log is left out"),
        }
    }

    fn tell_uses(&mut self) {
        self.inner
            .shadow_left
            .store(super::SHADOW_AT_ONCE, Ordering::Relaxed);
        let (rules, uncounted) = self.inner.tallies.take(&self.inner.workload);
        let now = clock::now();
        let (from, to) = (self.uses_since.as_millis(), now.as_millis());
        self.uses_since = now;
        let mut uncounted = Some(uncounted).filter(|count| *count > 0);
        let mut chunks: Vec<_> = rules.chunks(USES_AT_ONCE).collect();
        if chunks.is_empty() && uncounted.is_some() {
            chunks.push(&[]);
        }
        for rules in chunks {
            let uses = Uses {
                from,
                to,
                rules: rules.to_vec(),
                uncounted: uncounted.take().unwrap_or(0),
            };
            self.append(now, &Event::Uses(uses));
        }
    }

    /// Stores the entries that are not stored, however long that takes: the next
    /// ones name them.
    async fn send(&mut self) {
        while !self.lines.is_empty() {
            let mut size = 0;
            let fitting = self.lines.iter().take_while(|line| {
                size += line.len() + 1;
                size <= MAX_BATCH_BYTES
            });
            let count = fitting.count().max(1);
            let batch: Vec<&str> = self.lines.iter().take(count).map(String::as_str).collect();
            let payload = Bytes::from(batch.join("\n"));
            let subject = reserved::audit(self.chain.writer().as_str());
            store(&*self.parts.store, subject, payload, &self.inner.progress).await;
            self.lines.drain(..count);
            self.inner.progress.stored(count, self.lines.len());
        }
    }
}

/// Stores one message, again and again until it is.
async fn store(store: &dyn Store, subject: String, payload: Bytes, progress: &Progress) {
    let mut pause = RETRY_FIRST;
    let mut told: Option<StoreError> = None;
    let mut id = fresh_id();
    let mut is_first = true;
    loop {
        let stored = store
            .store(subject.clone(), id.clone(), payload.clone())
            .await;
        match stored {
            Ok(stored) if stored.was_there && is_first => {
                // Nobody can foresee it, so this says that the stream is not what it
                // should be.
                error!(target: crate::alarm::TARGET, alarm = "audit_id_taken", "the audit log says that it has what was never written");
                id = fresh_id();
            }
            Ok(_) => {
                if told.is_some() {
                    tracing::info!("the audit log is written again");
                }
                return;
            }
            Err(error) => {
                is_first = false;
                progress.failed(error);
                if told != Some(error) {
                    warn!(%error, "what is to be recorded waits");
                    told = Some(error);
                }
                sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause = (pause * 2).min(RETRY_LAST);
            }
        }
    }
}

fn fresh_id() -> String {
    HEXLOWER.encode(&rand::random::<[u8; 16]>())
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
