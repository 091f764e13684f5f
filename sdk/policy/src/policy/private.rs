//! Claims that only some workloads may read (POL-82).

use bulla_identity::WorkloadId;

use super::{Policy, Workload};

impl Policy {
    /// The workloads that may read this claim, by name; nothing if everybody who
    /// has the token may.
    pub fn readers_of<'p>(&'p self, claim: &str) -> Option<impl Iterator<Item = &'p Workload>> {
        let at = self
            .private
            .binary_search_by(|spec| (*spec.name).cmp(claim));
        let spec = self.private.get(at.ok()?)?;
        Some(
            spec.readers
                .iter()
                .filter_map(|reader| self.workload_at(*reader)),
        )
    }

    /// Every claim that only some workloads may read, and who they are, by name.
    pub fn private_claims(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &Workload>)> {
        self.private.iter().map(|spec| {
            let readers = spec.readers.iter();
            (&*spec.name, readers.filter_map(|r| self.workload_at(*r)))
        })
    }

    /// Whether this workload is a reader of some private claim.
    #[must_use]
    pub fn reads_private_claims(&self, workload: &WorkloadId) -> bool {
        self.index_of(workload).is_some_and(|w| {
            self.private
                .iter()
                .any(|s| s.readers.binary_search(&w).is_ok())
        })
    }
}
