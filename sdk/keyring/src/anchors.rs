//! Who may vouch for a workload.

use std::sync::Arc;

use bulla_identity::Nkey;

use crate::CertificateAuthorities;

/// What the policy lists as a workload's attestors: any one of them vouches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anchors<'a> {
    /// Its own nkeys.
    pub nkeys: &'a [Nkey],
    /// Who issues its certificates.
    pub authorities: &'a [Arc<CertificateAuthorities>],
    /// Whether a broker's word is enough: what the workload proves itself by at
    /// connect signs nothing that others could check.
    pub brokers: bool,
}

impl Anchors<'_> {
    /// Nobody may vouch.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nkeys.is_empty() && self.authorities.is_empty() && !self.brokers
    }
}

impl<'a> From<&'a [Nkey]> for Anchors<'a> {
    fn from(nkeys: &'a [Nkey]) -> Self {
        Self {
            nkeys,
            authorities: &[],
            brokers: false,
        }
    }
}

impl<'a, const N: usize> From<&'a [Nkey; N]> for Anchors<'a> {
    fn from(nkeys: &'a [Nkey; N]) -> Self {
        nkeys.as_slice().into()
    }
}

impl<'a> From<&'a Vec<Nkey>> for Anchors<'a> {
    fn from(nkeys: &'a Vec<Nkey>) -> Self {
        nkeys.as_slice().into()
    }
}
