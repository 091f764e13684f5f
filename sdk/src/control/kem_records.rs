//! Other workloads' KEM records: what data keys are wrapped to.
//!
//! A record is found under the workload's tag and nkey, proven by that nkey, and
//! held until the news brings a newer version. An older version than the one
//! held is refused, wherever it comes from.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_envelope::KemRecord;
use bulla_identity::{Nkey, Verified, WorkloadTag, reserved};
use bulla_policy::Workload;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use parking_lot::RwLock;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Control, Inner, SNAPSHOT_TIMEOUT, fetch};
use crate::error::LinkError;
use crate::refusal::chain;

/// Records asked for at once.
const AT_ONCE: usize = 32;
/// How long a missing record is not asked for again: the news tells of it.
const MISSING_FOR: Duration = Duration::from_secs(2);
/// How long a record is held without another look at the stream.
const HELD_FOR: Duration = Duration::from_secs(300);

/// What is known of nkeys' records.
pub(super) struct KemRecords {
    known: RwLock<HashMap<Nkey, Known>>,
    /// Grows with every change.
    generation: AtomicU64,
}

struct Known {
    record: Option<Arc<Verified<KemRecord>>>,
    asked: Instant,
}

impl KemRecords {
    pub(super) fn new() -> Self {
        Self {
            known: RwLock::default(),
            generation: AtomicU64::new(1),
        }
    }

    /// After a disturbance the stream is asked again for everything.
    pub(super) fn doubt(&self) {
        let mut known = self.known.write();
        known.retain(|_, known| known.record.is_some());
        for known in known.values_mut() {
            known.asked = known.asked.checked_sub(HELD_FOR).unwrap_or(known.asked);
        }
        drop(known);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The record as known, if the stream need not be asked.
    fn fresh(&self, nkey: &Nkey) -> Option<Option<Arc<Verified<KemRecord>>>> {
        let known = self.known.read();
        let known = known.get(nkey)?;
        let limit = if known.record.is_some() {
            HELD_FOR
        } else {
            MISSING_FOR
        };
        (known.asked.elapsed() < limit).then(|| known.record.clone())
    }

    fn set(&self, nkey: Nkey, offered: Option<Verified<KemRecord>>) {
        let mut known = self.known.write();
        let entry = known.entry(nkey).or_insert_with(|| Known {
            record: None,
            asked: Instant::now(),
        });
        entry.asked = Instant::now();
        let Some(offered) = offered else {
            // A record does not disappear; a stream that lost it changes nothing.
            return;
        };
        match &entry.record {
            Some(held) if held.version() > offered.version() => {
                warn!(
                    workload = held.claimed_workload().as_str(),
                    held = held.version(),
                    offered = offered.version(),
                    "refused an older KEM record",
                );
            }
            Some(held) if **held == offered => {}
            _ => {
                info!(
                    workload = offered.claimed_workload().as_str(),
                    version = offered.version(),
                    "took a KEM record",
                );
                entry.record = Some(Arc::new(offered));
                drop(known);
                self.generation.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

impl Control {
    /// Names the state of all records; a newer one is larger.
    pub(crate) fn kem_generation(&self) -> u64 {
        self.0.kem_records.generation.load(Ordering::Acquire)
    }

    /// The records of these workloads, one for each nkey that has one, and how
    /// many workloads have none.
    ///
    /// # Errors
    /// [`LinkError`] if the control stream does not answer.
    pub(crate) async fn kem_records(
        &self,
        workloads: Vec<Workload>,
    ) -> Result<(Vec<Arc<Verified<KemRecord>>>, usize), LinkError> {
        // Nothing is encrypted to who is revoked, and nobody misses it.
        let revoked = self.revocations();
        let believed = workloads
            .into_iter()
            .filter(|workload| !revoked.is_workload_revoked(workload.id()));
        let asked = stream::iter(believed).map(|workload| async move {
            let mut records = Vec::new();
            for nkey in workload.nkeys() {
                records.extend(self.0.kem_record(&workload, nkey).await?);
            }
            Ok::<_, LinkError>(records)
        });
        let answers: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
        let (mut all, mut without) = (Vec::new(), 0);
        for records in answers {
            let records = records?;
            without += usize::from(records.is_empty());
            all.extend(records);
        }
        Ok((all, without))
    }
}

impl Inner {
    async fn kem_record(
        &self,
        workload: &Workload,
        nkey: &Nkey,
    ) -> Result<Option<Arc<Verified<KemRecord>>>, LinkError> {
        if let Some(known) = self.kem_records.fresh(nkey) {
            return Ok(known);
        }
        let subject = reserved::ctl_kem(workload.tag(), nkey);
        let bytes = fetch(&self.connection, &subject, SNAPSHOT_TIMEOUT).await?;
        let record = bytes.and_then(|bytes| prove(workload, nkey, &bytes));
        self.kem_records.set(*nkey, record);
        let known = self.kem_records.known.read();
        Ok(known.get(nkey).and_then(|known| known.record.clone()))
    }

    /// Takes a record from the news, for what its bytes prove.
    pub(super) fn learn_kem_record(&self, tag: WorkloadTag, record: &Bytes) {
        let policy = self.policy.load();
        let Some(workload) = policy.policy().workload_by_tag(tag) else {
            return;
        };
        let Ok(claimed) = KemRecord::decode(record) else {
            return;
        };
        let nkey = *claimed.nkey();
        if let Some(proven) = prove(workload, &nkey, record) {
            self.kem_records.set(nkey, Some(proven));
        }
    }
}

fn prove(workload: &Workload, nkey: &Nkey, bytes: &[u8]) -> Option<Verified<KemRecord>> {
    let proven = KemRecord::decode(bytes)
        .map_err(|error| chain(&error))
        .and_then(|record| {
            record
                .verify(workload.id(), std::slice::from_ref(nkey))
                .map_err(|error| chain(&error))
        });
    match proven {
        Ok(record) if workload.nkeys().contains(nkey) => Some(record),
        Ok(_) => None,
        Err(error) => {
            warn!(
                workload = workload.name().as_str(),
                error, "refused a KEM record"
            );
            None
        }
    }
}
