//! Keys that this process shares with one other, for replies that prove
//! themselves to their requester alone [ENV-26].
//!
//! Agreeing on one costs an X25519 exchange, about what a signature costs; so
//! it is remembered for the pair of credentials, for as long as the two talk.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::VerifiedCredential;
use bulla_keyring::{KeyId, MacKey};
use moka::sync::Cache;

use crate::own::Issuance;

/// Keys held at once. What does not fit is agreed on again.
const MAX_KEYS: u64 = 10_000;
/// How long a key is held after its last use.
const IDLE: Duration = Duration::from_secs(15 * 60);

/// Who of the two this process is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Responder,
    Requester,
}

/// The keys in use. Each is wiped when it is dropped.
pub(crate) struct ReplyKeys(Cache<(KeyId, KeyId), Arc<MacKey>>);

impl ReplyKeys {
    pub(crate) fn new() -> Self {
        let cache = Cache::builder().max_capacity(MAX_KEYS).time_to_idle(IDLE);
        Self(cache.build())
    }

    /// The key for replies between this process, under the credential `own`, and
    /// the holder of `peer`; nothing if the peer has no key to agree with.
    ///
    /// # Security
    /// `peer` is looked up for this very message: what is remembered here says
    /// nothing about who is still trusted.
    pub(crate) fn between(
        &self,
        own: &Issuance,
        side: Side,
        peer: &VerifiedCredential,
    ) -> Option<Arc<MacKey>> {
        let (own_id, peer_id) = (own.sealer.key_id(), peer.id());
        let place = match side {
            Side::Responder => (own_id, peer_id),
            Side::Requester => (peer_id, own_id),
        };
        if let Some(key) = self.0.get(&place) {
            return Some(key);
        }
        let exchange = &peer.process_keys()?.exchange;
        let peer_hash = peer.credential().hash();
        let (responder, requester) = match side {
            Side::Responder => (&own.credential, peer_hash),
            Side::Requester => (peer_hash, &own.credential),
        };
        let key = own.exchange.mac_key(exchange, responder, requester);
        let key = Arc::new(key.ok()?);
        self.0.insert(place, Arc::clone(&key));
        Some(key)
    }
}
