//! What is known of the servers that ask: the key that we share with each, so that an
//! answer costs no multiplication on the curve.
//!
//! A server makes its xkey when it starts and keeps it until it ends, so one
//! multiplication serves all of its questions. Only a server whose question was proven
//! in full is remembered: whoever merely names keys has nothing remembered and pushes
//! nobody out. Not even a flood of servers that prove themselves, which takes the
//! account `AUTH`, does more harm than that keys are derived once more.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bulla_identity::Nkey;
use bulla_keyring::{BoxError, CurveBox, CurveSeed, VerifyingKey};
use parking_lot::Mutex;

/// Our xkey, and the servers that asked last.
#[derive(Debug)]
pub(super) struct Servers {
    xkey: CurveSeed,
    known: Mutex<Known>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Known {
    /// With the turn in which each asked last.
    by_xkey: HashMap<Nkey, (Arc<Server>, u64)>,
    turn: u64,
}

/// A server, which may not have proven anything yet.
#[derive(Debug)]
pub(super) struct Server {
    /// What its xkey and ours share.
    pub(super) shared: CurveBox,
    /// Who it has proven to be: its name, and the key that it signs with.
    proven: OnceLock<(Nkey, VerifyingKey)>,
}

impl Server {
    /// The key of the server with this name, if this is the one.
    pub(super) fn key_of(&self, name: &Nkey) -> Option<VerifyingKey> {
        let (known, key) = self.proven.get()?;
        (known == name).then_some(*key)
    }
}

impl Servers {
    /// None is known yet; at most `capacity` will be.
    pub(super) fn new(xkey: CurveSeed, capacity: usize) -> Self {
        Self {
            xkey,
            known: Mutex::default(),
            capacity,
        }
    }

    /// How many are known.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.known.lock().by_xkey.len()
    }

    /// Our own xkey.
    #[cfg(test)]
    pub(super) const fn xkey(&self) -> &CurveSeed {
        &self.xkey
    }

    /// The server with this xkey: as it is known, or a stranger that is not remembered.
    ///
    /// # Errors
    /// If the key is none that can be shared with.
    pub(super) fn by_xkey(&self, xkey: &Nkey) -> Result<Arc<Server>, BoxError> {
        if let Some(server) = self.known.lock().find(xkey) {
            return Ok(server);
        }
        Ok(Arc::new(Server {
            shared: self.xkey.shared_with(xkey)?,
            proven: OnceLock::new(),
        }))
    }

    /// From now on this server is known, by what its question has proven. At the bound
    /// the one is forgotten that has not asked for longest.
    pub(super) fn remember(&self, server: &Arc<Server>, name: Nkey, key: VerifyingKey) {
        if server.proven.set((name, key)).is_err() {
            return;
        }
        let mut known = self.known.lock();
        if known.by_xkey.len() >= self.capacity {
            known.forget_oldest();
        }
        known.turn += 1;
        let turn = known.turn;
        let held = (Arc::clone(server), turn);
        known.by_xkey.insert(server.shared.peer(), held);
    }
}

impl Known {
    fn find(&mut self, xkey: &Nkey) -> Option<Arc<Server>> {
        self.turn += 1;
        let (server, used) = self.by_xkey.get_mut(xkey)?;
        *used = self.turn;
        Some(Arc::clone(server))
    }

    fn forget_oldest(&mut self) {
        let oldest = self.by_xkey.iter().min_by_key(|(_, (_, used))| *used);
        if let Some(oldest) = oldest.map(|(xkey, _)| *xkey) {
            self.by_xkey.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use bulla_identity::NkeyKind;
    use bulla_keyring::NkeySeed;

    use super::*;

    fn servers() -> Servers {
        Servers::new(CurveSeed::from_random(&[1; 32]), 2)
    }

    fn xkey(number: u8) -> Nkey {
        CurveSeed::from_random(&[number; 32]).public()
    }

    fn prove(servers: &Servers, number: u8) {
        let seed = NkeySeed::from_random(NkeyKind::Server, &[number; 32]).unwrap();
        let key = VerifyingKey::from_nkey(&seed.public()).unwrap();
        let server = servers.by_xkey(&xkey(number)).unwrap();
        servers.remember(&server, seed.public(), key);
    }

    fn knows(servers: &Servers, number: u8) -> bool {
        servers.known.lock().by_xkey.contains_key(&xkey(number))
    }

    #[test]
    fn our_key_and_what_is_shared_are_not_printed() {
        let random = bulla_keyring::sha256(&[b"our xkey"]);
        let own = CurveSeed::from_random(&random);
        let text = own.to_seed_text();
        let servers = Servers::new(own, 2);
        prove(&servers, 10);
        let secrets = [&random[..], &text.as_bytes()[10..]];
        crate::spellings::assert_unprinted("Servers", &servers, &secrets);
    }

    #[test]
    fn who_has_not_asked_for_longest_is_forgotten() {
        let servers = servers();
        prove(&servers, 10);
        prove(&servers, 11);
        // The first asks again, so the second is the older one.
        servers.by_xkey(&xkey(10)).unwrap();
        prove(&servers, 12);
        assert!(knows(&servers, 10) && !knows(&servers, 11) && knows(&servers, 12));
        prove(&servers, 12);
        assert_eq!(servers.known.lock().by_xkey.len(), 2);
    }

    #[test]
    fn who_only_names_a_key_is_not_remembered_and_pushes_nobody_out() {
        let servers = servers();
        prove(&servers, 10);
        for stranger in 20..40 {
            servers.by_xkey(&xkey(stranger)).unwrap();
        }
        assert!(knows(&servers, 10));
        assert_eq!(servers.known.lock().by_xkey.len(), 1);
    }

    #[test]
    fn a_key_counts_for_the_server_that_proved_it_alone() {
        let servers = servers();
        prove(&servers, 10);
        let server = servers.by_xkey(&xkey(10)).unwrap();
        let name = |number| {
            let seed = NkeySeed::from_random(NkeyKind::Server, &[number; 32]);
            seed.unwrap().public()
        };
        assert!(server.key_of(&name(10)).is_some());
        assert!(server.key_of(&name(11)).is_none());
    }
}
