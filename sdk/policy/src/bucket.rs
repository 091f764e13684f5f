//! Buckets that the policy declares: keys and their values.

use crate::source::Place;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::reserved;

use crate::requirements::LONGEST_STREAM_MAX_AGE;

/// The most values of one key that a bucket can keep.
pub(crate) const MOST_HISTORY: u64 = 64;
/// The shortest and the longest that a bucket keeps a value by a policy's word.
pub(crate) const SHORTEST_TTL: Duration = Duration::from_secs(1);
pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A bucket of keys and values as the policy declares it; always in files, and
/// never one that lets a writer of one key roll up others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    pub(crate) name: Arc<str>,
    pub(crate) place: Place,
    pub(crate) history: u64,
    pub(crate) ttl: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) replicas: u64,
}

impl Bucket {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the stream that it lies in.
    #[must_use]
    pub fn stream(&self) -> String {
        reserved::bucket_stream(&self.name)
    }

    /// Where its table stands.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How many values of each key it keeps, from 1 to 64.
    #[must_use]
    pub fn history(&self) -> u64 {
        self.history
    }

    /// For how long it keeps a value; for ever where nothing is said.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// For how long after it was written a value counts: what the policy says,
    /// otherwise as long as it is kept, at most 30 days.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        self.max_age
            .or(self.ttl)
            .unwrap_or(LONGEST_STREAM_MAX_AGE)
            .min(LONGEST_STREAM_MAX_AGE)
    }

    /// The most bytes that it stores; a full bucket takes nothing new.
    #[must_use]
    pub fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// On how many servers it lies.
    #[must_use]
    pub fn replicas(&self) -> u64 {
        self.replicas
    }
}
