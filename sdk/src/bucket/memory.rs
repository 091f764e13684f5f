//! What this process has read from buckets, so that it goes back no more.
//!
//! A bucket's own word says which entry of a key is the newest, and nothing signed
//! does. So of each key the newest entry that was taken is remembered: what was
//! issued before it, beyond what clocks may differ, is refused, whatever number it
//! comes under; and an envelope that was taken under one number is refused under
//! another.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::MessageId;
use bulla_identity::UnixMillis;
use moka::sync::Cache;
use parking_lot::Mutex;

use super::entry::{Entry, Revision};
use crate::refusal::StoredRefusal;

/// Keys of a bucket that are remembered, those that were read last.
const MAX_KEYS: u64 = 65_536;
/// Envelopes of one key whose numbers are remembered. Older ones are refused by
/// their times.
const MAX_IDS: usize = 32;

/// The memories of one client, by bucket.
#[derive(Default)]
pub(crate) struct Memories(Mutex<HashMap<String, Arc<Memory>>>);

impl Memories {
    /// The memory that all handles of a bucket share. Only buckets of the policy
    /// are asked for, so it does not grow beyond them.
    pub(crate) fn of(&self, bucket: &str) -> Arc<Memory> {
        let mut memories = self.0.lock();
        Arc::clone(memories.entry(bucket.to_owned()).or_default())
    }
}

/// What was read of one bucket.
pub(crate) struct Memory {
    keys: Cache<String, Arc<Mutex<Known>>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            keys: Cache::new(MAX_KEYS),
        }
    }
}

#[derive(Default)]
struct Known {
    revision: u64,
    issued_at: UnixMillis,
    ids: VecDeque<(MessageId, u64)>,
}

impl Memory {
    /// Takes an entry that passed everything else, or says why not (ENV-134).
    pub(super) fn take(&self, entry: &Entry, skew: Duration) -> Result<(), StoredRefusal> {
        let Revision(revision) = entry.revision;
        let message = &entry.message;
        self.take_raw(
            &entry.key,
            revision,
            message.id(),
            message.issued_at(),
            skew,
        )
    }

    /// Remembers what this process wrote itself.
    pub(super) fn note(
        &self,
        key: &str,
        Revision(revision): Revision,
        id: MessageId,
        issued_at: UnixMillis,
    ) {
        let known = self.known(key);
        let mut known = known.lock();
        known.remember(revision, id);
        // Of two writes at a time the second may be told first.
        if revision > known.revision {
            known.revision = revision;
            known.issued_at = known.issued_at.max(issued_at);
        }
    }

    fn take_raw(
        &self,
        key: &str,
        revision: u64,
        id: MessageId,
        issued_at: UnixMillis,
        skew: Duration,
    ) -> Result<(), StoredRefusal> {
        let known = self.known(key);
        let mut known = known.lock();
        let first = known.ids.iter().find(|(known, _)| *known == id);
        if first.is_some_and(|(_, first)| *first != revision) {
            return Err(StoredRefusal::Copy);
        }
        // A bucket that was made anew counts from one again: a smaller number alone
        // is no sign of anything.
        if revision < known.revision && issued_at <= known.issued_at {
            return Err(StoredRefusal::RolledBack);
        }
        // Writers' clocks differ.
        if issued_at.saturating_add(skew.saturating_mul(2)) < known.issued_at {
            return Err(StoredRefusal::RolledBack);
        }
        known.remember(revision, id);
        known.revision = revision;
        known.issued_at = known.issued_at.max(issued_at);
        Ok(())
    }

    fn known(&self, key: &str) -> Arc<Mutex<Known>> {
        self.keys.get_with_by_ref(key, Arc::default)
    }
}

impl Known {
    fn remember(&mut self, revision: u64, id: MessageId) {
        if self.ids.iter().any(|(known, _)| *known == id) {
            return;
        }
        if self.ids.len() >= MAX_IDS {
            self.ids.pop_front();
        }
        self.ids.push_back((id, revision));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: Duration = Duration::from_secs(2);

    fn take(memory: &Memory, revision: u64, id: u8, at: u64) -> Result<(), &'static str> {
        let at = UnixMillis::from_secs(at);
        memory
            .take_raw("k", revision, MessageId([id; 16]), at, SKEW)
            .map_err(StoredRefusal::code)
    }

    #[test]
    fn env_134_an_envelope_counts_under_one_number() {
        let memory = Memory::default();
        assert_eq!(take(&memory, 5, 1, 100), Ok(()));
        assert_eq!(take(&memory, 5, 1, 100), Ok(()), "read again");
        assert_eq!(take(&memory, 6, 1, 100), Err("stored_copy"));
        assert_eq!(take(&memory, 4, 1, 100), Err("stored_copy"));
        assert_eq!(take(&memory, 6, 2, 100), Ok(()));
        assert_eq!(take(&memory, 7, 1, 100), Err("stored_copy"));
    }

    #[test]
    fn env_134_what_is_older_than_what_was_read_is_refused() {
        let memory = Memory::default();
        assert_eq!(take(&memory, 5, 1, 100), Ok(()));
        assert_eq!(take(&memory, 6, 2, 110), Ok(()));
        // The bucket itself shows the older one again.
        assert_eq!(take(&memory, 5, 1, 100), Err("stored_rolled_back"));
        // Stored anew, and never read before.
        assert_eq!(take(&memory, 7, 3, 105), Err("stored_rolled_back"));
        // As much as clocks may differ.
        assert_eq!(take(&memory, 8, 4, 106), Ok(()));
        assert_eq!(
            take(&memory, 9, 5, 105),
            Err("stored_rolled_back"),
            "time stays"
        );
    }

    #[test]
    fn env_134_a_bucket_that_was_made_anew_goes_on() {
        let memory = Memory::default();
        assert_eq!(take(&memory, 500, 1, 100), Ok(()));
        assert_eq!(take(&memory, 1, 2, 110), Ok(()));
        assert_eq!(take(&memory, 1, 2, 110), Ok(()), "read again");
        assert_eq!(take(&memory, 500, 1, 100), Err("stored_rolled_back"));
        assert_eq!(take(&memory, 2, 3, 112), Ok(()));
        assert_eq!(take(&memory, 1, 4, 111), Err("stored_rolled_back"));
    }

    #[test]
    fn what_was_written_here_is_known_whatever_is_told_first() {
        let memory = Memory::default();
        let note = |revision, id, at| {
            let at = UnixMillis::from_secs(at);
            memory.note("k", Revision(revision), MessageId([id; 16]), at);
        };
        note(8, 2, 100);
        note(7, 1, 101);
        assert_eq!(take(&memory, 8, 2, 100), Ok(()));
        assert_eq!(take(&memory, 9, 1, 101), Err("stored_copy"));
    }

    #[test]
    fn memory_is_bounded() {
        let memory = Memory::default();
        for number in 0..200_u64 {
            let id = MessageId(u128::from(number).to_be_bytes());
            let at = UnixMillis::from_secs(1_000 + number);
            assert!(memory.take_raw("k", number + 1, id, at, SKEW).is_ok());
        }
        let known = memory.known("k");
        assert_eq!(known.lock().ids.len(), MAX_IDS);
        // What fell out is refused by its time.
        assert_eq!(take(&memory, 999, 0, 1_000), Err("stored_rolled_back"));
    }
}
