//! What a connection was admitted by, as one number.

use bulla_identity::Nkey;
use bulla_keyring::sha256;
use bulla_policy::{TokenProof, Workload};

/// Names one of the ways in which a workload may prove itself: an nkey, tokens of
/// one account, a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Proof([u8; 32]);

impl Proof {
    /// By this nkey.
    pub(super) fn by_nkey(workload: &Workload, nkey: &Nkey) -> Self {
        Self::of(workload, &[b"nkey", nkey.bytes()])
    }

    /// By tokens that say this.
    pub(super) fn by_token(workload: &Workload, token: &TokenProof) -> Self {
        let issuer = token.issuer();
        let mut text = format!(
            "{:?} {:?} {:?}",
            issuer.issuer(),
            issuer.audience(),
            token.subject()
        );
        for claim in token.claims() {
            text.push_str(&format!(" {claim:?}"));
        }
        Self::of(workload, &[b"token", text.as_bytes()])
    }

    /// By a certificate that names the workload.
    pub(super) fn by_certificate(workload: &Workload) -> Self {
        let mut hashes = Vec::new();
        for authority in workload.anchors().authorities {
            for certificate in authority.certificates() {
                hashes.push(sha256(&[certificate]));
            }
        }
        hashes.sort_unstable();
        Self::of(workload, &[b"certificate", hashes.as_flattened()])
    }

    /// Protocols are part of it: nats-server tells of a connection under which name
    /// it was admitted, and nothing that would show whether it still may be as it is.
    fn of(workload: &Workload, [kind, what]: &[&[u8]; 2]) -> Self {
        let protocols = workload.protocols();
        let door = [u8::from(protocols.nats), u8::from(protocols.websocket)];
        Self(sha256(&[kind, &[0], &door, what]))
    }

    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
