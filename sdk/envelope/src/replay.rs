//! Replay: an exact memory of what was accepted, for as long as it could come again.
//! SPEC.md, ENV-40 to ENV-44.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use bulla_identity::{UnixMillis, WorkloadId};
use bulla_keyring::KeyId;

use crate::{Epoch, LeafHash, Message, OpenedEnvelope};

/// How much a [`ReplayWindow`] remembers at most.
///
/// A page covers 1,024 consecutive sequence numbers of one epoch and takes
/// about 200 bytes, however many of them were seen. A sender that seals
/// `r` messages a second, on whatever subjects, touches at most `r / 1,024`
/// pages a second, and a page lives for the lifetime of its messages plus the
/// skew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayLimits {
    /// Pages for one workload, all its keys together: a workload may hold any
    /// number of credentials, and must not fill the memory of others with them.
    pub pages_per_workload: usize,
    /// Pages for all keys together.
    pub pages: usize,
}

impl Default for ReplayLimits {
    /// A million messages a second from one sender for a minute: about 13 MB
    /// at most for one key, 52 MB in all.
    fn default() -> Self {
        Self {
            pages_per_workload: 1 << 16,
            pages: 1 << 18,
        }
    }
}

/// Which messages one subscription has accepted.
///
/// **Exact.** A bit for each sequence number of each (key id, epoch), in pages.
/// A page dies when the largest expiry that it accepted, plus the skew, has
/// passed: from then on each message in it is refused as expired. So nothing is
/// accepted twice, and nothing is refused because the window has moved on.
/// There is no highest sequence number, and an envelope that is not authentic
/// never gets here, so no forged one can move anything.
///
/// **Time never moves back.** The window keeps the latest time that it was told
/// and judges expiry by that. A clock that jumps far ahead therefore makes it
/// refuse what comes until the clock is there: restart the receiver.
///
/// **Full means refused.** A key that fills its share of the memory is refused
/// until pages die; what was accepted is never forgotten early.
#[derive(Debug)]
pub struct ReplayWindow {
    limits: ReplayLimits,
    skew: Duration,
    now: UnixMillis,
    keys: Vec<Key>,
    /// Where each key lies among them.
    places: HashMap<KeyId, usize>,
    /// Where the key of the last message lies: most often the next is of the same.
    last: usize,
    /// Pages by workload.
    shares: HashMap<WorkloadId, usize>,
    pages: usize,
    /// When to look for dead pages again.
    next_burial: UnixMillis,
}

/// Enough of a leaf to find its envelope in a recording: 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LeafPrefix(pub [u8; 8]);

impl fmt::Display for LeafPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LeafPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafPrefix({self})")
    }
}

/// Why a message is not accepted by the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// This message was accepted before.
    #[error("the message was accepted before")]
    Replayed,
    /// Another message was accepted under the same key, epoch and sequence:
    /// two processes hold that key, or one was restored from a snapshot.
    #[error("another message was accepted under the same key, epoch and sequence")]
    Cloned {
        /// The first bytes of the leaf that was accepted.
        accepted: LeafPrefix,
        /// The first bytes of the leaf that came now.
        offered: LeafPrefix,
    },
    /// It has expired by the window's time.
    #[error("the message has expired")]
    Expired,
    /// The sender's share of the memory is full.
    #[error("the sender has {limit} pages of recent messages, no more are kept")]
    WorkloadFull {
        /// [`ReplayLimits::pages_per_workload`].
        limit: usize,
    },
    /// The memory is full.
    #[error("{limit} pages of recent messages, no more are kept")]
    Full {
        /// [`ReplayLimits::pages`].
        limit: usize,
    },
}

impl ReplayError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Cloned { .. } => "cloned_key",
            Self::Expired => "expired",
            Self::WorkloadFull { .. } => "replay_workload_full",
            Self::Full { .. } => "replay_full",
        }
    }
}

/// Sequence numbers in a page.
const PAGE: u64 = 1024;
const WORDS: usize = 16;
/// How many accepted messages of a key are remembered to tell clones from replays.
const RECENT: usize = 128;

/// An epoch, and the number of a page in it.
type PageId = (Epoch, u64);

#[derive(Debug)]
struct Key {
    id: KeyId,
    workload: WorkloadId,
    /// The page that was asked for last, and found without a look-up: a thousand
    /// messages one after the other are in it.
    open: (PageId, Page),
    /// All others.
    pages: HashMap<PageId, Page>,
    /// What was accepted last.
    recent: VecDeque<Trace>,
}

/// Enough of an accepted message to tell a clone from a replay.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    epoch: Epoch,
    sequence: u64,
    leaf: LeafPrefix,
}

#[derive(Debug, Default)]
struct Page {
    seen: [u64; WORDS],
    /// The largest expiry that was accepted.
    expires_at: UnixMillis,
}

/// What is remembered of one message.
#[derive(Debug, Clone)]
struct Entry<'a> {
    workload: &'a WorkloadId,
    key_id: KeyId,
    epoch: Epoch,
    sequence: u64,
    leaf: LeafHash,
    expires_at: UnixMillis,
}

impl ReplayWindow {
    /// An empty window. `skew` is at least that of the
    /// [`Expectation`](crate::Expectation)s.
    #[must_use]
    pub fn new(limits: ReplayLimits, skew: Duration) -> Self {
        Self {
            limits,
            skew,
            now: UnixMillis::default(),
            keys: Vec::new(),
            places: HashMap::new(),
            last: 0,
            shares: HashMap::new(),
            pages: 0,
            next_burial: UnixMillis::default(),
        }
    }

    /// Accepts a message, once: the last step before its handler.
    ///
    /// # Errors
    /// [`ReplayError`]; the message must then not be handled.
    pub fn commit(
        &mut self,
        envelope: &OpenedEnvelope,
        message: &Message,
        now: UnixMillis,
    ) -> Result<(), ReplayError> {
        let entry = Entry {
            workload: &envelope.sender().workload,
            key_id: envelope.sender().key_id,
            epoch: envelope.epoch(),
            sequence: message.sequence,
            leaf: envelope.leaf(),
            // The sender's own expiry, not the subject's maximum age: a policy
            // that raises that age must not make room for a replay.
            expires_at: envelope.expires_at(),
        };
        self.commit_entry(&entry, now)
    }

    /// The latest time that it was told.
    #[must_use]
    pub const fn now(&self) -> UnixMillis {
        self.now
    }

    /// Pages that are held now, for a metric.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.pages
    }

    fn commit_entry(&mut self, entry: &Entry<'_>, now: UnixMillis) -> Result<(), ReplayError> {
        self.now = self.now.max(now);
        if self.is_dead(entry.expires_at) {
            return Err(ReplayError::Expired);
        }
        if self.now >= self.next_burial {
            self.bury();
        }
        let (number, word, bit) = place(entry.sequence);
        let id = (entry.epoch, number);
        let Some(key) = self.key(entry.key_id) else {
            return self.insert_page(entry, id, word, bit);
        };
        let Some(page) = key.page(id) else {
            return self.insert_page(entry, id, word, bit);
        };
        if !page.insert(word, bit) {
            return Err(key.tell_apart(entry));
        }
        page.expires_at = page.expires_at.max(entry.expires_at);
        key.remember(entry);
        Ok(())
    }

    fn key(&mut self, id: KeyId) -> Option<&mut Key> {
        if self.keys.get(self.last).is_none_or(|key| key.id != id) {
            self.last = *self.places.get(&id)?;
        }
        self.keys.get_mut(self.last)
    }

    fn insert_page(
        &mut self,
        entry: &Entry<'_>,
        id: PageId,
        word: usize,
        bit: u64,
    ) -> Result<(), ReplayError> {
        if self.pages >= self.limits.pages {
            return Err(ReplayError::Full {
                limit: self.limits.pages,
            });
        }
        let share = self.shares.entry(entry.workload.clone()).or_default();
        if *share >= self.limits.pages_per_workload {
            return Err(ReplayError::WorkloadFull {
                limit: self.limits.pages_per_workload,
            });
        }
        let mut page = Page {
            seen: [0; WORDS],
            expires_at: entry.expires_at,
        };
        page.insert(word, bit);
        *share += 1;
        self.pages += 1;
        if let Some(key) = self.key(entry.key_id) {
            key.open(id, page);
            key.remember(entry);
        } else {
            let mut key = Key::new(entry, id, page);
            key.remember(entry);
            self.last = self.keys.len();
            self.places.insert(entry.key_id, self.last);
            self.keys.push(key);
        }
        Ok(())
    }

    /// Whether nothing with this expiry can be accepted any more.
    fn is_dead(&self, expires_at: UnixMillis) -> bool {
        expires_at < self.now.saturating_sub(self.skew)
    }

    /// Drops the dead pages. It looks at all of them, so it runs at most once
    /// in [`BURIAL_PAUSE`].
    fn bury(&mut self) {
        self.next_burial = self.now.saturating_add(BURIAL_PAUSE);
        let dead_before = self.now.saturating_sub(self.skew);
        self.pages = 0;
        self.shares.clear();
        self.places.clear();
        let mut kept = 0;
        self.keys.retain_mut(|key| {
            let held = key.bury(dead_before);
            if held > 0 {
                self.pages += held;
                *self.shares.entry(key.workload.clone()).or_default() += held;
                self.places.insert(key.id, kept);
                kept += 1;
            }
            held > 0
        });
    }
}

impl Page {
    /// Marks a sequence number; whether it was new.
    fn insert(&mut self, word: usize, bit: u64) -> bool {
        self.seen.get_mut(word).is_some_and(|seen| {
            let new = *seen & bit == 0;
            *seen |= bit;
            new
        })
    }
}

impl Key {
    fn new(entry: &Entry<'_>, id: PageId, page: Page) -> Self {
        Self {
            id: entry.key_id,
            workload: entry.workload.clone(),
            open: (id, page),
            pages: HashMap::new(),
            recent: VecDeque::new(),
        }
    }

    /// The page with this id, which is then the open one.
    fn page(&mut self, id: PageId) -> Option<&mut Page> {
        if self.open.0 != id {
            let page = self.pages.remove(&id)?;
            self.open(id, page);
        }
        Some(&mut self.open.1)
    }

    /// Opens a page that is not among the others.
    fn open(&mut self, id: PageId, page: Page) {
        let (before, closed) = std::mem::replace(&mut self.open, (id, page));
        self.pages.insert(before, closed);
    }

    /// Drops the pages of which nothing can be accepted after that time; how many
    /// are left. Of none, the key is to be dropped too.
    fn bury(&mut self, dead_before: UnixMillis) -> usize {
        self.pages.retain(|_, page| page.expires_at >= dead_before);
        if self.open.1.expires_at >= dead_before {
            return 1 + self.pages.len();
        }
        let held = self.pages.len();
        if let Some(id) = self.pages.keys().next().copied()
            && let Some(page) = self.pages.remove(&id)
        {
            self.open = (id, page);
        }
        held
    }

    fn remember(&mut self, entry: &Entry<'_>) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(entry.trace());
    }

    /// What a sequence number that was seen before means.
    fn tell_apart(&self, entry: &Entry<'_>) -> ReplayError {
        let ours = entry.trace();
        let other = self.recent.iter().find(|seen| {
            seen.epoch == ours.epoch && seen.sequence == ours.sequence && seen.leaf != ours.leaf
        });
        match other {
            Some(other) => ReplayError::Cloned {
                accepted: other.leaf,
                offered: ours.leaf,
            },
            None => ReplayError::Replayed,
        }
    }
}

impl Entry<'_> {
    fn trace(&self) -> Trace {
        Trace {
            epoch: self.epoch,
            sequence: self.sequence,
            leaf: LeafPrefix(self.leaf.0.first_chunk().copied().unwrap_or_default()),
        }
    }
}

/// Page, word and bit of a sequence number.
const fn place(sequence: u64) -> (u64, usize, u64) {
    let within = sequence % PAGE;
    (sequence / PAGE, (within / 64) as usize, 1 << (within % 64))
}

/// Dead pages are looked for at most this often.
const BURIAL_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::sync::LazyLock;

    const SKEW: Duration = Duration::from_millis(50);

    static WORKLOADS: LazyLock<Vec<WorkloadId>> = LazyLock::new(|| {
        let names = (0..100).map(|n| format!("spiffe://acme.example/w{n}"));
        names.map(|n| WorkloadId::parse(&n).unwrap()).collect()
    });

    fn entry(key: u8, epoch: u8, sequence: u64, expires_at: u64) -> Entry<'static> {
        let mut leaf = [0; 32];
        leaf[..8].copy_from_slice(&sequence.to_be_bytes());
        leaf[0] ^= key ^ epoch;
        Entry {
            workload: &WORKLOADS[usize::from(key % 100)],
            key_id: KeyId([key; 16]),
            epoch: Epoch([epoch; 8]),
            sequence,
            leaf: LeafHash(leaf),
            expires_at: UnixMillis::from_millis(expires_at),
        }
    }

    fn window(pages_per_workload: usize, pages: usize) -> ReplayWindow {
        ReplayWindow::new(
            ReplayLimits {
                pages_per_workload,
                pages,
            },
            SKEW,
        )
    }

    fn commit(window: &mut ReplayWindow, entry: &Entry<'_>, now: u64) -> Result<(), &'static str> {
        window
            .commit_entry(entry, UnixMillis::from_millis(now))
            .map_err(|error| error.code())
    }

    /// Remembers everything for ever.
    #[derive(Default)]
    struct Naive {
        seen: HashSet<(u8, u8, u64)>,
        now: u64,
    }

    impl Naive {
        fn commit(
            &mut self,
            key: u8,
            epoch: u8,
            sequence: u64,
            expires_at: u64,
            now: u64,
        ) -> Result<(), &'static str> {
            self.now = self.now.max(now);
            if expires_at + 50 < self.now {
                return Err("expired");
            }
            if self.seen.insert((key, epoch, sequence)) {
                Ok(())
            } else {
                Err("replayed")
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Against a memory that never forgets, with a clock that jumps both ways.
        #[test]
        fn exact_while_the_clock_moves(
            steps in proptest::collection::vec(
                (0u8..2, 0u8..2, 0u64..2, 0u64..12, -1500i64..2000), 1..400
            )
        ) {
            let (mut window, mut naive) = (window(1000, 1000), Naive::default());
            let mut clock = 100_000i64;
            for (key, epoch, page, within, jump) in steps {
                clock += jump;
                let now = clock.unsigned_abs();
                // A message's expiry is part of the message: fixed by its sequence,
                // and neighbours in a page have very different ones.
                let sequence = page * 40_000 + within;
                let expires_at = 100_000 + (sequence * 7919) % 90_000;
                let ours = commit(&mut window, &entry(key, epoch, sequence, expires_at), now);
                let theirs = naive.commit(key, epoch, sequence, expires_at, now);
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    /// The longest-lived message of a page keeps all of it.
    #[test]
    fn a_page_lives_as_long_as_its_longest_message() {
        let mut window = window(10, 10);
        for (sequence, expires_at) in [(1, 1000), (2, 9000), (3, 1000)] {
            assert_eq!(
                commit(&mut window, &entry(1, 1, sequence, expires_at), 0),
                Ok(())
            );
        }
        for now in [2000, 4000, 9050] {
            assert_eq!(
                commit(&mut window, &entry(1, 1, 2, 9000), now),
                Err("replayed")
            );
        }
        assert_eq!(
            commit(&mut window, &entry(1, 1, 2, 9000), 9051),
            Err("expired")
        );
    }

    /// A sequence at the far end does not push out the others.
    #[test]
    fn no_sequence_moves_the_window() {
        let mut window = window(10, 10);
        assert_eq!(
            commit(&mut window, &entry(1, 1, u64::MAX - 1, 1000), 0),
            Ok(())
        );
        for sequence in [0, 1, 1023, 1024, u64::MAX - 2] {
            assert_eq!(commit(&mut window, &entry(1, 1, sequence, 1000), 0), Ok(()));
            assert_eq!(
                commit(&mut window, &entry(1, 1, sequence, 1000), 0),
                Err("replayed")
            );
        }
        assert_eq!(
            commit(&mut window, &entry(1, 1, u64::MAX - 1, 1000), 0),
            Err("replayed")
        );
    }

    #[test]
    fn epochs_and_keys_are_apart() {
        let mut window = window(10, 10);
        for (key, epoch) in [(1, 1), (1, 2), (2, 1)] {
            assert_eq!(commit(&mut window, &entry(key, epoch, 5, 1000), 0), Ok(()));
            assert_eq!(
                commit(&mut window, &entry(key, epoch, 5, 1000), 0),
                Err("replayed")
            );
        }
    }

    #[test]
    fn many_keys_of_one_workload_share_one_budget() {
        let mut window = window(2, 10);
        // Keys 1, 101 and 201 are of one workload, key 2 of another.
        assert_eq!(commit(&mut window, &entry(1, 1, 1, 1000), 0), Ok(()));
        assert_eq!(commit(&mut window, &entry(101, 1, 1, 1000), 0), Ok(()));
        assert_eq!(
            commit(&mut window, &entry(201, 1, 1, 1000), 0),
            Err("replay_workload_full")
        );
        assert_eq!(commit(&mut window, &entry(2, 1, 1, 1000), 0), Ok(()));
        // Its share is free again when its pages are dead.
        assert_eq!(commit(&mut window, &entry(201, 1, 1, 9000), 5000), Ok(()));
    }

    #[test]
    fn attack_19_a_clock_that_moves_back_reopens_nothing() {
        let mut window = window(10, 10);
        assert_eq!(commit(&mut window, &entry(1, 1, 1, 1000), 0), Ok(()));
        // The page dies, and is buried.
        assert_eq!(commit(&mut window, &entry(1, 1, 5000, 9000), 5000), Ok(()));
        assert_eq!(window.pages(), 1);
        assert_eq!(
            commit(&mut window, &entry(1, 1, 1, 1000), 500),
            Err("expired")
        );
    }

    #[test]
    fn a_page_lives_to_its_last_millisecond() {
        let mut window = window(10, 10);
        assert_eq!(commit(&mut window, &entry(1, 1, 1, 1000), 0), Ok(()));
        // 50 ms of skew: at 1,050 the message would still be accepted.
        assert_eq!(
            commit(&mut window, &entry(1, 1, 1, 1000), 1050),
            Err("replayed")
        );
        assert_eq!(
            commit(&mut window, &entry(1, 1, 1, 1000), 1051),
            Err("expired")
        );
    }

    #[test]
    fn a_full_key_is_refused_until_its_pages_die() {
        let mut window = window(2, 3);
        assert_eq!(commit(&mut window, &entry(1, 1, 0, 1000), 0), Ok(()));
        assert_eq!(commit(&mut window, &entry(1, 2, 0, 1000), 0), Ok(()));
        // A third page for the key, in whatever epoch.
        for (epoch, sequence) in [(1, 1024), (2, 1024), (3, 0)] {
            let code = commit(&mut window, &entry(1, epoch, sequence, 1000), 0);
            assert_eq!(code, Err("replay_workload_full"));
        }
        // Its pages still take and still remember.
        assert_eq!(commit(&mut window, &entry(1, 1, 1, 1000), 0), Ok(()));
        assert_eq!(
            commit(&mut window, &entry(1, 1, 0, 1000), 0),
            Err("replayed")
        );
        // Another key is not hurt, but for the whole.
        assert_eq!(commit(&mut window, &entry(2, 1, 0, 9000), 0), Ok(()));
        assert_eq!(
            commit(&mut window, &entry(3, 1, 0, 1000), 0),
            Err("replay_full")
        );
        // Later there is room again.
        assert_eq!(commit(&mut window, &entry(1, 3, 0, 9000), 1051), Ok(()));
        assert_eq!(window.pages(), 2);
    }

    #[test]
    fn a_clone_is_told_from_a_replay_for_recent_messages() {
        let mut window = window(10, 10);
        for sequence in 0..200 {
            assert_eq!(commit(&mut window, &entry(1, 1, sequence, 1000), 0), Ok(()));
        }
        let other = |sequence| Entry {
            leaf: LeafHash([0xff; 32]),
            ..entry(1, 1, sequence, 1000)
        };
        assert_eq!(commit(&mut window, &other(199), 0), Err("cloned_key"));
        assert_eq!(commit(&mut window, &other(72), 0), Err("cloned_key"));
        assert_eq!(
            commit(&mut window, &entry(1, 1, 199, 1000), 0),
            Err("replayed")
        );
        // Longer ago it is refused all the same, as a replay.
        assert_eq!(commit(&mut window, &other(71), 0), Err("replayed"));
    }
}
