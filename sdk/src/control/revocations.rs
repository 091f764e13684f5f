//! What is revoked, as this process holds it.

use std::sync::Arc;

use bulla_envelope::{Mark, RevocationList, VerifiedCredential};
use bulla_identity::{UnixMillis, Verified, WorkloadId};
use bulla_keyring::KeyId;
use bytes::Bytes;
use tracing::info;

use super::{Control, Inner, chain};

/// The list in force, with the record that it was read from; there may be none.
#[derive(Debug, Default)]
pub(super) struct RevocationState(Option<(Verified<RevocationList>, Bytes)>);

impl RevocationState {
    pub(super) const fn none() -> Self {
        Self(None)
    }

    pub(super) const fn of(list: Verified<RevocationList>, record: Bytes) -> Self {
        Self(Some((list, record)))
    }

    pub(super) fn list(&self) -> Option<&Verified<RevocationList>> {
        self.0.as_ref().map(|(list, _)| list)
    }

    pub(super) fn record(&self) -> Option<&Bytes> {
        self.0.as_ref().map(|(_, record)| record)
    }

    pub(super) fn mark(&self) -> Mark {
        match &self.0 {
            None => Mark::default(),
            Some((list, record)) => Mark::of(list.sequence, record),
        }
    }

    pub(super) fn workload_since(&self, workload: &WorkloadId) -> Option<UnixMillis> {
        self.list()?.workload_since(workload)
    }

    pub(super) fn key_since(&self, key: KeyId) -> Option<UnixMillis> {
        self.list()?.key_since(key)
    }

    pub(super) fn user_since(&self, principal: &str) -> Option<UnixMillis> {
        self.list()?.user_since(principal)
    }

    pub(super) fn token_since(&self, txn: &str) -> Option<UnixMillis> {
        self.list()?.token_since(txn)
    }
}

/// As of when something is judged: what a stream stored before it was revoked
/// still counts, what comes now does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AsOf {
    /// What comes now. Whatever is revoked is revoked now, from whenever on.
    Now,
    /// What a stream stored at that time.
    Stored(UnixMillis),
}

impl AsOf {
    /// The moment, where it is now.
    pub(crate) const fn moment(self, now: UnixMillis) -> UnixMillis {
        match self {
            Self::Now => now,
            Self::Stored(at) => at,
        }
    }

    /// Whether something that is revoked from `since` on is revoked.
    pub(crate) fn is_revoked(self, since: Option<UnixMillis>) -> bool {
        match (since, self) {
            (None, _) => false,
            (Some(_), Self::Now) => true,
            (Some(since), Self::Stored(at)) => at >= since,
        }
    }
}

/// What was revoked at one moment, see
/// [`Client::revocations`](crate::Client::revocations).
#[derive(Debug, Clone)]
pub struct Revocations(Arc<RevocationState>);

impl Revocations {
    /// The list's number; 0 if nothing was ever revoked.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.0.mark().number
    }

    /// Whether a workload is revoked now.
    #[must_use]
    pub fn is_workload_revoked(&self, workload: &WorkloadId) -> bool {
        self.0.workload_since(workload).is_some()
    }

    /// Whether a credential is revoked now, by its key id alone.
    #[must_use]
    pub fn is_key_revoked(&self, key: KeyId) -> bool {
        self.0.key_since(key).is_some()
    }

    /// Whether a user is revoked now.
    #[must_use]
    pub fn is_user_revoked(&self, principal: &str) -> bool {
        self.0.user_since(principal).is_some()
    }

    /// Whether a transaction token is revoked now, by its `txn`.
    #[must_use]
    pub fn is_token_revoked(&self, txn: &str) -> bool {
        self.0.token_since(txn).is_some()
    }
}

impl Control {
    /// What is revoked now.
    pub(crate) fn revocations(&self) -> Revocations {
        Revocations(self.0.revocations.load_full())
    }

    /// From when on a user's token is revoked: by its user, or by itself.
    pub(crate) fn user_revoked_since(&self, principal: &str, txn: &str) -> Option<UnixMillis> {
        let list = self.0.revocations.load();
        earlier(list.user_since(principal), list.token_since(txn))
    }

    /// From when on a credential is revoked: with its workload, or alone.
    pub(crate) fn revoked_since(&self, credential: &VerifiedCredential) -> Option<UnixMillis> {
        let list = self.0.revocations.load();
        let workload = list.workload_since(credential.workload());
        earlier(workload, list.key_since(credential.id()))
    }
}

fn earlier(a: Option<UnixMillis>, b: Option<UnixMillis>) -> Option<UnixMillis> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

impl Inner {
    pub(super) fn learn_revocations(&self, record: Bytes, now: UnixMillis) -> Result<(), String> {
        let held = self.revocations.load_full();
        if held.record() == Some(&record) {
            return Ok(());
        }
        let bundle = self.bundle.load_full();
        let offered = RevocationList::open(&record, &bundle.bundle, now, self.skew)
            .map_err(|error| chain(&error))?;
        if let Some(held) = held.list() {
            offered
                .check_succession(held)
                .map_err(|error| error.to_string())?;
            if offered.sequence == held.sequence {
                return Ok(());
            }
        }
        info!(
            sequence = offered.sequence,
            entries = offered.entries().len(),
            "a new revocation list is in force"
        );
        let state = RevocationState::of(offered, record);
        self.revocations.store(Arc::new(state));
        // Before anybody is told that it is confirmed: what was remembered under
        // the list before is void from here on.
        self.changed(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_before_it_was_revoked_counts() {
        let at = UnixMillis::from_secs;
        let since = Some(at(100));
        assert!(AsOf::Now.is_revoked(since));
        assert!(AsOf::Now.is_revoked(Some(at(u64::from(u32::MAX)))));
        assert!(!AsOf::Now.is_revoked(None));
        assert!(!AsOf::Stored(at(99)).is_revoked(since));
        assert!(AsOf::Stored(at(100)).is_revoked(since));
        assert!(AsOf::Stored(at(0)).is_revoked(Some(at(0))));
        assert!(!AsOf::Stored(at(100)).is_revoked(None));
    }
}
