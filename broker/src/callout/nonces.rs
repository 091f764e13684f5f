//! Which challenges were already answered.

use std::collections::{HashMap, HashSet, VecDeque};

use bulla_identity::{Nkey, UnixMillis};

/// A bounded memory of `(server, nonce)` with the client that used it.
///
/// nats-server makes a fresh nonce for each connection, so a second request
/// with the same one is a replay, whoever it claims to be about. Entries live
/// as long as the request that brought them could still be answered: after
/// that its copy is refused for its age. When the memory is full of live
/// entries nothing new is admitted; only clients that hold a registered key
/// get entries in.
#[derive(Debug)]
pub(super) struct Nonces {
    seen: HashMap<(Nkey, String), Use>,
    by_age: VecDeque<(UnixMillis, (Nkey, String))>,
    capacity: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    client_id: u64,
    request: [u8; 32],
}

/// What the memory says about one use of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NonceUse {
    /// Never seen.
    First,
    /// The very same request, delivered to this broker a second time through
    /// its other queue group: the first delivery answers it.
    SameRequest,
    /// Another request with this nonce.
    Replayed,
    /// No room to remember it.
    Full,
}

impl Nonces {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            seen: HashMap::new(),
            by_age: VecDeque::new(),
            capacity,
        }
    }

    /// Checks and remembers in one step.
    pub(super) fn admit(
        &mut self,
        (server, client_id, nonce): (Nkey, u64, &str),
        request: [u8; 32],
        now: UnixMillis,
        forget_at: UnixMillis,
    ) -> NonceUse {
        self.forget(now);
        let key = (server, nonce.to_owned());
        let this = Use { client_id, request };
        if let Some(earlier) = self.seen.get(&key) {
            return if *earlier == this {
                NonceUse::SameRequest
            } else {
                NonceUse::Replayed
            };
        }
        if self.seen.len() >= self.capacity {
            return NonceUse::Full;
        }
        self.by_age.push_back((forget_at, key.clone()));
        self.seen.insert(key, this);
        NonceUse::First
    }

    /// Servers' deadlines differ by their time-outs only, so the queue is in
    /// order but for a little; an entry may stay a little longer than needed.
    fn forget(&mut self, now: UnixMillis) {
        while let Some((forget_at, _)) = self.by_age.front() {
            if *forget_at > now {
                return;
            }
            if let Some((_, key)) = self.by_age.pop_front() {
                self.seen.remove(&key);
            }
        }
    }
}

/// The hashes of the requests seen last.
///
/// A broker in both queue groups gets every request twice; this keeps it from
/// deciding, and logging, a refusal twice. An entry that was pushed out costs a
/// second line in the log and nothing else.
#[derive(Debug)]
pub(super) struct RecentRequests {
    known: HashSet<[u8; 32]>,
    by_age: VecDeque<[u8; 32]>,
    capacity: usize,
}

impl RecentRequests {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            known: HashSet::new(),
            by_age: VecDeque::new(),
            capacity,
        }
    }

    /// Whether this is the first time.
    pub(super) fn is_new(&mut self, request: [u8; 32]) -> bool {
        if !self.known.insert(request) {
            return false;
        }
        self.by_age.push_back(request);
        if self.by_age.len() > self.capacity
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use bulla_identity::NkeyKind;

    use super::*;

    const T0: UnixMillis = UnixMillis::from_millis(1_000);
    const T1: UnixMillis = UnixMillis::from_millis(2_000);

    fn server(byte: u8) -> Nkey {
        Nkey::from_bytes(NkeyKind::Server, [byte; 32])
    }

    #[test]
    fn a_nonce_counts_once_per_server() {
        let mut nonces = Nonces::new(10);
        assert_eq!(
            nonces.admit((server(1), 7, "n"), [1; 32], T0, T1),
            NonceUse::First
        );
        assert_eq!(
            nonces.admit((server(2), 7, "n"), [2; 32], T0, T1),
            NonceUse::First
        );
        assert_eq!(
            nonces.admit((server(1), 7, "n"), [3; 32], T0, T1),
            NonceUse::Replayed
        );
        assert_eq!(
            nonces.admit((server(1), 8, "n"), [1; 32], T0, T1),
            NonceUse::Replayed
        );
    }

    #[test]
    fn the_second_delivery_of_one_request_is_no_replay() {
        let mut nonces = Nonces::new(10);
        nonces.admit((server(1), 7, "n"), [1; 32], T0, T1);
        assert_eq!(
            nonces.admit((server(1), 7, "n"), [1; 32], T0, T1),
            NonceUse::SameRequest
        );
    }

    #[test]
    fn a_full_memory_admits_nothing_until_entries_expire() {
        let mut nonces = Nonces::new(1);
        nonces.admit((server(1), 1, "a"), [1; 32], T0, T1);
        assert_eq!(
            nonces.admit((server(1), 2, "b"), [2; 32], T0, T1),
            NonceUse::Full
        );
        assert_eq!(
            nonces.admit(
                (server(1), 2, "b"),
                [2; 32],
                T1,
                UnixMillis::from_millis(9_000)
            ),
            NonceUse::First
        );
    }

    #[test]
    fn recent_requests_are_bounded() {
        let mut recent = RecentRequests::new(2);
        assert!(recent.is_new([1; 32]));
        assert!(!recent.is_new([1; 32]));
        assert!(recent.is_new([2; 32]));
        assert!(recent.is_new([3; 32]));
        assert!(recent.is_new([1; 32]), "pushed out");
        assert_eq!(recent.known.len(), 2);
    }
}
