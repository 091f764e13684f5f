//! What a policy says of buckets.

use super::Policy;
use crate::bucket::Bucket;

impl Policy {
    /// Every bucket that the policy declares, by name.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The bucket with this name.
    #[must_use]
    pub fn bucket(&self, name: &str) -> Option<&Bucket> {
        let at = self.buckets.binary_search_by(|b| b.name().cmp(name)).ok()?;
        self.buckets.get(at)
    }
}
