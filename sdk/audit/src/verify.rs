//! Whether a log is what its writers wrote: nothing removed, altered or reordered.

use std::collections::BTreeMap;
use std::time::Duration;

use bulla_identity::UnixMillis;
use bulla_keyring::Signature;
use data_encoding::{BASE64, HEXLOWER};

use crate::entry::{Entry, EntryError, EntryHash, Writer};
use crate::event::{Event, Gap, Sealed};
use crate::head::HeadStatement;
use crate::trust::{Claimed, KeyFault, Trust};

/// Looks at a log line by line, in the order in which the stream stored it.
#[derive(Debug, Default)]
pub struct Verifier {
    trust: Option<Trust>,
    kept_since: Option<UnixMillis>,
    writers: BTreeMap<Writer, State>,
    expected: BTreeMap<Writer, Vec<Expected>>,
    findings: Vec<Finding>,
    oldest: Option<UnixMillis>,
    newest: UnixMillis,
    entries: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// How many entries there are.
    pub entries: u64,
    /// Whether heads' keys were traced to a pinned root.
    pub keys_proven: bool,
    /// Each chain.
    pub writers: Vec<WriterReport>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// One chain.
#[derive(Debug, Clone)]
pub struct WriterReport {
    /// Whose.
    pub writer: Writer,
    /// The workload's short name, if one was said; empty of a broker.
    pub workload: Option<String>,
    /// The number of its first entry here. More than 1: earlier ones have aged out,
    /// and nothing is said about them.
    pub first: u64,
    /// The number of its last.
    pub last: u64,
    /// The number of its last genuine head.
    pub head: Option<u64>,
    /// When its last entry was made.
    pub until: UnixMillis,
    /// Entries that lie here twice, which happens when an answer was lost.
    pub duplicates: u64,
    /// Whether the process ended as it should.
    pub stopped: bool,
    /// What it said that it left out, in total.
    pub gap: Gap,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In whose chain, if that is known.
    pub writer: Option<Writer>,
    /// At which entry of it; 0 if that is not known.
    pub seq: u64,
    /// What.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Entries are not there.
    #[error("entries {from} to {to} were removed")]
    Removed {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The chain should begin at 1.
    #[error("entries 1 to {to} were removed: the chain begins at {}", to + 1)]
    MissingStart {
        /// The last that is missing.
        to: u64,
    },
    /// An entry is another than the one that the next one names.
    #[error("the entry was altered: the one after it names another")]
    Altered,
    /// It lies after an entry that was written later.
    #[error("the entry was moved: it lies behind later ones")]
    Reordered,
    /// Two different entries have this number.
    #[error("two different entries have this number")]
    Forked,
    /// Not an entry.
    #[error("a line that is no entry (`{code}`): {text}")]
    Malformed {
        /// The reason's code.
        code: &'static str,
        /// And the reason.
        text: String,
    },
    /// It lies under another writer's subject.
    #[error("the entry lies under the subject of `{subject}`")]
    ForeignWriter {
        /// Whose subject.
        subject: Writer,
    },
    /// The key that a chain names is none.
    #[error("the chain names a key that is none of its own: {0}")]
    Key(#[source] KeyFault),
    /// A head by a key that the chain did not name.
    #[error("a head by a key that the chain has not named")]
    UnknownKey,
    /// The signature of a head is wrong.
    #[error("the head is not signed by the key that it names")]
    BadHead,
    /// The key of a head cannot be traced to a pinned root.
    #[error("the heads from here on are signed by a key that is not proven: {0}")]
    UnprovenKey(#[source] KeyFault),
    /// Much was written after the last head.
    #[error("{entries} entries over {} s are under no head", over.as_secs())]
    Unsealed {
        /// How many.
        entries: u64,
        /// Over which time.
        over: Duration,
    },
    /// An exported head names entries that are not there.
    #[error("an exported head says that the chain had {seq} entries: its end was cut off")]
    Truncated {
        /// The head's number.
        seq: u64,
    },
    /// An exported head names another history.
    #[error("an exported head says that this entry was another one: the chain was rewritten")]
    ContradictsHead,
    /// The writer said that it left something out.
    #[error("the writer left out {} refusals, {} allows and {} others", .0.denies, .0.allows, .0.others)]
    Gap(Gap),
    /// A bundle in the log is not by a pinned root.
    #[error("a trust bundle that no pinned root signed (`{code}`)")]
    Bundle {
        /// The reason's code.
        code: &'static str,
    },
}

impl Fault {
    /// A short stable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Removed { .. } => "removed",
            Self::MissingStart { .. } => "missing_start",
            Self::Altered => "altered",
            Self::Reordered => "reordered",
            Self::Forked => "forked",
            Self::Malformed { .. } => "malformed",
            Self::ForeignWriter { .. } => "foreign_writer",
            Self::Key(_) => "foreign_key",
            Self::UnknownKey => "unknown_key",
            Self::BadHead => "bad_head",
            Self::UnprovenKey(_) => "unproven_key",
            Self::Unsealed { .. } => "unsealed",
            Self::Truncated { .. } => "truncated",
            Self::ContradictsHead => "contradicts_head",
            Self::Gap(_) => "gap",
            Self::Bundle { .. } => "foreign_bundle",
        }
    }

    /// Whether somebody changed the log, or may have; a gap is its writer's own
    /// word that it could not keep up.
    #[must_use]
    pub const fn is_tampering(&self) -> bool {
        !matches!(self, Self::Gap(_))
    }
}

/// What is known of one chain.
#[derive(Debug, Default)]
struct State {
    workload: Option<String>,
    first: u64,
    last: u64,
    /// Number → its `prev` and its hash, of the last ones.
    known: BTreeMap<u64, (EntryHash, EntryHash)>,
    missing: Vec<(u64, u64)>,
    keys: Vec<UsedKey>,
    head: Option<u64>,
    /// The first entry after the last head, and how many there are.
    open: Option<(UnixMillis, u64)>,
    until: UnixMillis,
    duplicates: u64,
    stopped: bool,
    gap: Gap,
}

#[derive(Debug)]
struct UsedKey {
    claimed: Claimed,
    seq: u64,
    /// The times of its first and last head.
    used: Option<(UnixMillis, UnixMillis)>,
}

#[derive(Debug)]
struct Expected {
    seq: u64,
    at: UnixMillis,
    hash: EntryHash,
    is_met: bool,
}

impl Verifier {
    /// Begins. Without trust, heads are compared with the keys that the chains name
    /// themselves, which shows damage and no forgery.
    #[must_use]
    pub fn new(trust: Option<Trust>) -> Self {
        Self {
            trust,
            ..Self::default()
        }
    }

    /// What was written since then must still be there.
    pub const fn kept_since(&mut self, at: UnixMillis) {
        self.kept_since = Some(at);
    }

    /// Takes a line of exported heads: what it names must be in the log.
    ///
    /// # Errors
    /// [`EntryError`] if it is no entry.
    pub fn expect(&mut self, line: &[u8]) -> Result<(), EntryError> {
        let entry = Entry::decode(line)?;
        match &entry.event {
            Event::Head(head) => {
                let state = self.writers.entry(entry.writer.clone()).or_default();
                if let Some(fault) = state.check_head(&entry, head) {
                    self.find(Some(&entry.writer), entry.seq, fault);
                }
                let expected = Expected {
                    seq: entry.seq,
                    at: entry.at,
                    hash: EntryHash::of(line),
                    is_met: false,
                };
                self.expected
                    .entry(entry.writer)
                    .or_default()
                    .push(expected);
            }
            Event::Key(_) | Event::Bundle(_) => self.learn(&entry),
            _ => {}
        }
        Ok(())
    }

    /// Takes the next line of the log; `subject` is whose subject it lies under,
    /// where that is known.
    pub fn entry(&mut self, line: &[u8], subject: Option<&Writer>) {
        let entry = match Entry::decode(line) {
            Ok(entry) => entry,
            Err(error) => {
                let fault = Fault::Malformed {
                    code: error.code(),
                    text: error.to_string(),
                };
                self.find(subject, 0, fault);
                return;
            }
        };
        if let Some(subject) = subject
            && *subject != entry.writer
        {
            let fault = Fault::ForeignWriter {
                subject: subject.clone(),
            };
            self.find(Some(&entry.writer), entry.seq, fault);
            return;
        }
        self.entries += 1;
        self.oldest = Some(self.oldest.map_or(entry.at, |oldest| oldest.min(entry.at)));
        self.newest = self.newest.max(entry.at);
        let hash = EntryHash::of(line);
        let mut met = true;
        for expected in self.expected.get_mut(&entry.writer).into_iter().flatten() {
            if expected.seq == entry.seq {
                expected.is_met = true;
                met &= expected.hash == hash;
            }
        }
        if !met {
            self.find(Some(&entry.writer), entry.seq, Fault::ContradictsHead);
        }
        let state = self.writers.entry(entry.writer.clone()).or_default();
        let Place::New { at, fault } = state.place(&entry, hash) else {
            return;
        };
        if let Some(fault) = fault {
            self.find(Some(&entry.writer), at, fault);
        }
        self.learn(&entry);
        let Some(state) = self.writers.get_mut(&entry.writer) else {
            return;
        };
        state.until = state.until.max(entry.at);
        let fault = match &entry.event {
            Event::Head(head) => {
                state.open = None;
                let fault = state.check_head(&entry, head);
                if fault.is_none() {
                    state.head = Some(entry.seq);
                }
                fault
            }
            Event::Gap(gap) => {
                state.gap.denies += gap.denies;
                state.gap.allows += gap.allows;
                state.gap.others += gap.others;
                Some(Fault::Gap(gap.clone()))
            }
            Event::Start(start) => {
                state.workload = Some(start.workload.clone());
                None
            }
            Event::Stop(_) => {
                state.stopped = true;
                None
            }
            _ => None,
        };
        if !matches!(entry.event, Event::Head(_)) {
            let (since, count) = state.open.unwrap_or((entry.at, 0));
            state.open = Some((since, count + 1));
        }
        if let Some(fault) = fault {
            self.find(Some(&entry.writer), entry.seq, fault);
        }
    }

    /// Says what came of it. `complete`: the log is all that was ever written, so
    /// that every chain begins with its first entry.
    #[must_use]
    pub fn finish(mut self, complete: bool) -> Report {
        let mut findings = std::mem::take(&mut self.findings);
        let mut find = |writer: &Writer, seq, fault| {
            findings.push(Finding {
                writer: Some(writer.clone()),
                seq,
                fault,
            });
        };
        for (writer, expected) in &self.expected {
            let state = self.writers.get(writer);
            for head in expected.iter().filter(|head| !head.is_met) {
                let seen = state.filter(|state| state.last > 0);
                let is_cut = match seen {
                    Some(state) if head.seq > state.last => true,
                    // In the middle: told as removed, or before the start: aged out.
                    Some(state) if head.seq > state.first => false,
                    // Nothing older than what is kept has to be there.
                    _ => match (self.kept_since, self.oldest) {
                        (Some(since), _) => head.at >= since,
                        (None, Some(oldest)) => complete || head.at > oldest,
                        (None, None) => true,
                    },
                };
                if is_cut {
                    find(writer, head.seq, Fault::Truncated { seq: head.seq });
                }
            }
        }
        for (writer, state) in self.writers.iter().filter(|(_, state)| state.last > 0) {
            if complete && state.first > 1 {
                let to = state.first - 1;
                find(writer, state.first, Fault::MissingStart { to });
            }
            for (from, to) in &state.missing {
                let (from, to) = (*from, *to);
                find(writer, from, Fault::Removed { from, to });
            }
            if let Some((since, entries)) = state.open {
                let over = state.until.saturating_since(since);
                if over > LONGEST_UNSEALED {
                    let fault = Fault::Unsealed { entries, over };
                    find(writer, state.last, fault);
                }
            }
            let Some(trust) = &self.trust else { continue };
            for key in &state.keys {
                let Some((first, last)) = key.used else {
                    continue;
                };
                let proven = trust
                    .prove(&key.claimed, first)
                    .and_then(|()| trust.prove(&key.claimed, last));
                if let Err(fault) = proven {
                    find(writer, key.seq, Fault::UnprovenKey(fault));
                }
            }
        }
        let writers = self.writers.into_iter().filter(|(_, s)| s.last > 0);
        Report {
            entries: self.entries,
            keys_proven: self.trust.is_some(),
            writers: writers
                .map(|(writer, state)| state.report(writer))
                .collect(),
            findings,
        }
    }

    /// Takes the keys and bundles that an entry names.
    fn learn(&mut self, entry: &Entry) {
        let fault = match &entry.event {
            Event::Key(key) => match Claimed::read(key, &entry.writer) {
                Ok(claimed) => {
                    let state = self.writers.entry(entry.writer.clone()).or_default();
                    if state.workload.is_none() {
                        state.workload.clone_from(&claimed.workload);
                    }
                    if !state.keys.iter().any(|k| k.claimed.name == claimed.name) {
                        state.keys.push(UsedKey {
                            claimed,
                            seq: entry.seq,
                            used: None,
                        });
                    }
                    None
                }
                Err(fault) => Some(Fault::Key(fault)),
            },
            Event::Bundle(bundle) => {
                let record = BASE64.decode(bundle.record.as_bytes()).unwrap_or_default();
                let trust = self.trust.as_mut();
                let added = trust.map(|trust| trust.add_bundle(&record));
                match added {
                    Some(Err(error)) => Some(Fault::Bundle { code: error.code() }),
                    _ => None,
                }
            }
            _ => None,
        };
        if let Some(fault) = fault {
            self.find(Some(&entry.writer), entry.seq, fault);
        }
    }

    fn find(&mut self, writer: Option<&Writer>, seq: u64, fault: Fault) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding {
                writer: writer.cloned(),
                seq,
                fault,
            });
        }
    }
}

/// Where an entry belongs.
enum Place {
    /// It is there already.
    Twice,
    New {
        at: u64,
        fault: Option<Fault>,
    },
}

impl State {
    fn place(&mut self, entry: &Entry, hash: EntryHash) -> Place {
        let (seq, prev) = (entry.seq, entry.prev);
        let (mut at, mut fault) = (seq, None);
        if self.last == 0 {
            self.first = seq;
            if seq == 1 && prev != EntryHash::default() {
                fault = Some(Fault::Altered);
            }
        } else if seq <= self.last {
            match self.known.get(&seq) {
                Some((_, known)) if *known == hash => {
                    self.duplicates += 1;
                    return Place::Twice;
                }
                Some(_) => fault = Some(Fault::Forked),
                None => {
                    fault = Some(Fault::Reordered);
                    self.fill(seq);
                    self.first = self.first.min(seq);
                }
            }
        } else if seq - self.last > 1 {
            self.missing.push((self.last + 1, seq - 1));
        }
        if fault.is_none() {
            let before = seq.checked_sub(1).and_then(|seq| self.known.get(&seq));
            let after = seq.checked_add(1).and_then(|seq| self.known.get(&seq));
            if before.is_some_and(|(_, hash)| *hash != prev) {
                (at, fault) = (seq - 1, Some(Fault::Altered));
            } else if after.is_some_and(|(prev, _)| *prev != hash) {
                fault = Some(Fault::Altered);
            }
        }
        self.known.entry(seq).or_insert((prev, hash));
        if self.known.len() > REMEMBERED {
            self.known.pop_first();
        }
        self.last = self.last.max(seq);
        Place::New { at, fault }
    }

    /// Takes a number out of what is missing.
    fn fill(&mut self, seq: u64) {
        let place = self
            .missing
            .iter()
            .position(|(from, to)| (*from..=*to).contains(&seq));
        let Some(place) = place else { return };
        let (from, to) = self.missing.swap_remove(place);
        if from < seq {
            self.missing.push((from, seq - 1));
        }
        if seq < to {
            self.missing.push((seq + 1, to));
        }
    }

    fn check_head(&mut self, entry: &Entry, head: &Sealed) -> Option<Fault> {
        let name: Option<[u8; 32]> = HEXLOWER
            .decode(head.key.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        let used = name.and_then(|name| self.keys.iter_mut().find(|k| k.claimed.name == name));
        let Some(used) = used else {
            return Some(Fault::UnknownKey);
        };
        let signature = BASE64.decode(head.signature.as_bytes()).ok();
        let signature = signature.and_then(|bytes| Signature::from_slice(&bytes));
        let statement = HeadStatement {
            writer: &entry.writer,
            seq: entry.seq,
            prev: entry.prev,
            at: entry.at,
            key: used.claimed.name,
        };
        let is_good = signature.is_some_and(|s| statement.is_signed_by(&used.claimed.key, &s));
        if !is_good {
            return Some(Fault::BadHead);
        }
        let (first, last) = used.used.unwrap_or((entry.at, entry.at));
        used.used = Some((first.min(entry.at), last.max(entry.at)));
        None
    }

    fn report(self, writer: Writer) -> WriterReport {
        WriterReport {
            writer,
            workload: self.workload,
            first: self.first,
            last: self.last,
            head: self.head,
            until: self.until,
            duplicates: self.duplicates,
            stopped: self.stopped,
            gap: self.gap,
        }
    }
}

/// Entries of each chain that are remembered to tell moved ones from repeated ones.
const REMEMBERED: usize = 16_384;

/// After so much time without a head something is wrong: one is due every ten
/// seconds, and a process that was killed leaves no more than that.
const LONGEST_UNSEALED: Duration = Duration::from_secs(300);

const MAX_FINDINGS: usize = 10_000;
