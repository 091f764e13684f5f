//! What is revoked, signed by the policy key. SPEC.md, ENV-102 to ENV-104.
//!
//! ```text
//! list      = [ statement, signature by a policy key of the bundle ]
//! statement = [ 1, trust domain, policy key, sequence, issued-at, [ entry … ] ]   ascending
//! entry     = [ kind, value, since, made-at, reason | nil ]
//! kind      = 0 workload (SPIFFE id) | 1 key id (16 bytes) | 2 user (text) | 3 token id (text)
//! ```

use std::cmp::Ordering;
use std::time::Duration;

use bulla_identity::{TrustDomain, UnixMillis, Verified, WorkloadId};
use bulla_keyring::{KeyId, Signature, SigningKey, Tag, VerifyingKey};

use crate::reader::{EncodingError, Reader};
use crate::request::MAX_WORKLOAD_ID;
use crate::trust::{self, SuccessionError, TrustBundle, TrustError};
use crate::writer;

/// Longest signed list in bytes: a record of the control stream is at most 1 MiB.
pub const MAX_REVOCATION_LIST: usize = 512 * 1024;
/// Most entries.
pub const MAX_REVOCATIONS: usize = 8192;
/// Longest reason in bytes.
pub const MAX_REVOCATION_REASON: usize = 256;

/// Longest name of a user or a token, as transaction tokens have it.
const MAX_NAME: usize = 512;

const WORKLOAD: u64 = 0;
const KEY: u64 = 1;
const USER: u64 = 2;
const TOKEN: u64 = 3;

/// Something that is not to be believed any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// A workload: all its keys, connections and requests, and what its
    /// processes minted.
    Workload(WorkloadId),
    /// One message credential, by its key id.
    Key(KeyId),
    /// A user, by the principal (`sub`) of transaction tokens.
    User(String),
    /// One transaction token, by its `txn`: the whole call chain that it is for.
    Token(String),
}

impl Revoked {
    /// `workload`, `key`, `user` or `token`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Workload(_) => "workload",
            Self::Key(_) => "key",
            Self::User(_) => "user",
            Self::Token(_) => "token",
        }
    }

    /// What names it, as text.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::Workload(id) => id.as_str().to_owned(),
            Self::Key(id) => id.to_hex(),
            Self::User(name) | Self::Token(name) => name.clone(),
        }
    }

    fn place(&self) -> (u64, &[u8]) {
        match self {
            Self::Workload(id) => (WORKLOAD, id.as_str().as_bytes()),
            Self::Key(id) => (KEY, id.as_bytes()),
            Self::User(name) => (USER, name.as_bytes()),
            Self::Token(name) => (TOKEN, name.as_bytes()),
        }
    }
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// What.
    pub what: Revoked,
    /// From when on it is not believed: what a stream stored before counts.
    /// Zero revokes everything.
    pub since: UnixMillis,
    /// When the entry was made.
    pub made_at: UnixMillis,
    /// Why, for people. Every workload can read it.
    pub reason: Option<String>,
}

/// Everything that is revoked, as one record that is replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    /// The domain that it is for.
    pub trust_domain: TrustDomain,
    /// Higher is newer; it never goes back. The first list has 1.
    pub sequence: u64,
    /// When it was signed.
    pub issued_at: UnixMillis,
    /// Each thing once; their order does not matter to [`RevocationList::sign`].
    entries: Vec<Revocation>,
}

/// Why bytes are not the revocation list that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// Not a strict, genuine statement.
    #[error(transparent)]
    Statement(#[from] TrustError),
    /// A kind that there is not.
    #[error("an entry is of the kind {kind}, which there is not")]
    UnknownKind {
        /// What it says.
        kind: u64,
    },
    /// A workload that is none of this domain, or a name that none can have.
    #[error("an entry names something that cannot be")]
    Name,
    /// A reason with control characters, or an empty one.
    #[error("the reason of an entry is empty or has control characters")]
    Reason,
    /// Repeated or not in ascending order.
    #[error("its entries are repeated or out of order")]
    Order,
    /// Revoked from a later time than the entry was made, or made after the list.
    #[error("the times of an entry do not follow each other")]
    Times,
    /// Lists are numbered from 1.
    #[error("its sequence is 0")]
    Sequence,
}

impl From<EncodingError> for RevocationError {
    fn from(error: EncodingError) -> Self {
        Self::Statement(error.into())
    }
}

impl RevocationError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Statement(error) => error.code(),
            Self::UnknownKind { .. } => "unknown_entry",
            Self::Name => "entry_name",
            Self::Reason => "entry_reason",
            Self::Order => "entry_order",
            Self::Times => "entry_times",
            Self::Sequence => "sequence",
        }
    }
}

impl RevocationList {
    /// A list of these entries, in any order; of two about one thing the later
    /// made one stays.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        sequence: u64,
        issued_at: UnixMillis,
        mut entries: Vec<Revocation>,
    ) -> Self {
        entries.sort_by(|a, b| {
            let by_place = a.what.place().cmp(&b.what.place());
            by_place.then(b.made_at.cmp(&a.made_at))
        });
        entries.dedup_by(|later, first| later.what == first.what);
        Self {
            trust_domain,
            sequence,
            issued_at,
            entries,
        }
    }

    /// What is revoked, in the list's order.
    #[must_use]
    pub fn entries(&self) -> &[Revocation] {
        &self.entries
    }

    /// From when on the workload is not believed; nothing if it is.
    #[must_use]
    pub fn workload_since(&self, workload: &WorkloadId) -> Option<UnixMillis> {
        self.since((WORKLOAD, workload.as_str().as_bytes()))
    }

    /// The same of a credential.
    #[must_use]
    pub fn key_since(&self, key: KeyId) -> Option<UnixMillis> {
        self.since((KEY, key.as_bytes()))
    }

    /// The same of a user.
    #[must_use]
    pub fn user_since(&self, principal: &str) -> Option<UnixMillis> {
        self.since((USER, principal.as_bytes()))
    }

    /// The same of a transaction token.
    #[must_use]
    pub fn token_since(&self, txn: &str) -> Option<UnixMillis> {
        self.since((TOKEN, txn.as_bytes()))
    }

    fn since(&self, place: (u64, &[u8])) -> Option<UnixMillis> {
        let at = self
            .entries
            .binary_search_by(|entry| entry.what.place().cmp(&place))
            .ok()?;
        self.entries.get(at).map(|entry| entry.since)
    }

    /// The workloads that are revoked.
    pub fn workloads(&self) -> impl Iterator<Item = &WorkloadId> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            Revoked::Workload(id) => Some(id),
            Revoked::Key(_) | Revoked::User(_) | Revoked::Token(_) => None,
        })
    }

    /// Signs the list with a policy key of the bundle.
    ///
    /// # Errors
    /// [`RevocationError`] if receivers would refuse it for what it says.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, RevocationError> {
        let statement = self.statement(key.verifying_key())?;
        self.sealed(&statement, &key.sign(Tag::Revocations, &[&statement]))
    }

    /// What is to be signed under this key, where something else holds it: the tag
    /// and the statement.
    ///
    /// # Errors
    /// [`RevocationError`] if there are too many entries.
    pub fn to_sign(&self, key: &VerifyingKey) -> Result<Vec<u8>, RevocationError> {
        Ok(Tag::Revocations.message(&[&self.statement(key)?]))
    }

    /// The record with a signature over [`RevocationList::to_sign`].
    ///
    /// # Errors
    /// [`RevocationError`] if the signature is not by that key, or receivers would
    /// refuse the list for what it says.
    pub fn signed(
        &self,
        key: &VerifyingKey,
        signature: &Signature,
    ) -> Result<Vec<u8>, RevocationError> {
        let statement = self.statement(key)?;
        key.verify(Tag::Revocations, &[&statement], signature)
            .map_err(|_| TrustError::BadSignature)?;
        self.sealed(&statement, signature)
    }

    fn statement(&self, key: &VerifyingKey) -> Result<Vec<u8>, RevocationError> {
        let mut statement = Vec::with_capacity(256);
        writer::array(&mut statement, 6);
        writer::uint(&mut statement, trust::VERSION);
        writer::string(&mut statement, self.trust_domain.as_str());
        writer::bin(&mut statement, key.as_bytes());
        writer::uint(&mut statement, self.sequence);
        writer::uint(&mut statement, self.issued_at.as_millis());
        writer::array(&mut statement, count(self.entries.len())?);
        for entry in &self.entries {
            write_entry(&mut statement, entry);
        }
        Ok(statement)
    }

    fn sealed(&self, statement: &[u8], signature: &Signature) -> Result<Vec<u8>, RevocationError> {
        let bytes = trust::signed(statement, signature);
        // What nobody would open is not made.
        let (statement, _) = trust::split(&bytes, MAX_REVOCATION_LIST)?;
        Self::read(statement)?;
        Ok(bytes)
    }

    /// Decodes strictly and proves that a policy key of the bundle signed it.
    /// It does not expire by itself: heads say whether it is the newest.
    ///
    /// # Errors
    /// [`RevocationError`] names the first thing that does not fit.
    pub fn open(
        bytes: &[u8],
        bundle: &Verified<TrustBundle>,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<Verified<Self>, RevocationError> {
        if bundle.expires_at < now.saturating_sub(skew) {
            return Err(TrustError::Expired.into());
        }
        let (statement, signature) = trust::split(bytes, MAX_REVOCATION_LIST)?;
        // Before its entries are read: a stranger's list costs nothing.
        let mut reader = Reader::new(statement);
        reader.array_of(6)?;
        trust::version(&mut reader)?;
        let trust_domain = trust::trust_domain(&mut reader)?;
        let key = trust::key(&mut reader)?;
        if trust_domain != bundle.trust_domain {
            return Err(TrustError::ForeignDomain.into());
        }
        if !bundle.policy_keys.contains(&key) {
            return Err(TrustError::UnknownKey.into());
        }
        key.verify(Tag::Revocations, &[statement], &signature)
            .map_err(|_| TrustError::BadSignature)?;
        let list = Self::read(statement)?;
        if list.issued_at > now.saturating_add(skew) {
            return Err(TrustError::Future.into());
        }
        Ok(Verified::danger_assert(list))
    }

    fn read(statement: &[u8]) -> Result<Self, RevocationError> {
        let mut reader = Reader::new(statement);
        reader.array_of(6)?;
        trust::version(&mut reader)?;
        let trust_domain = trust::trust_domain(&mut reader)?;
        trust::key(&mut reader)?;
        let sequence = reader.uint()?;
        let issued_at = UnixMillis::from_millis(reader.uint()?);
        let mut entries: Vec<Revocation> = Vec::new();
        for _ in 0..reader.array(MAX_REVOCATIONS)? {
            let entry = read_entry(&mut reader, &trust_domain)?;
            if let Some(before) = entries.last()
                && before.what.place().cmp(&entry.what.place()) != Ordering::Less
            {
                return Err(RevocationError::Order);
            }
            if entry.since > entry.made_at || entry.made_at > issued_at {
                return Err(RevocationError::Times);
            }
            entries.push(entry);
        }
        reader.finish()?;
        if sequence == 0 {
            return Err(RevocationError::Sequence);
        }
        Ok(Self {
            trust_domain,
            sequence,
            issued_at,
            entries,
        })
    }

    /// Whether this list may replace `held`: it is newer, or the same.
    ///
    /// # Errors
    /// [`SuccessionError`] for an older one or another of the same number.
    pub fn check_succession(&self, held: &Self) -> Result<(), SuccessionError> {
        trust::check_succession(self.sequence, held.sequence, self == held)
    }
}

fn count(len: usize) -> Result<u32, TrustError> {
    u32::try_from(len)
        .ok()
        .filter(|_| len <= MAX_REVOCATIONS)
        .ok_or(TrustError::TooLarge {
            limit: MAX_REVOCATIONS,
            actual: len,
        })
}

fn write_entry(out: &mut Vec<u8>, entry: &Revocation) {
    let (kind, value) = entry.what.place();
    writer::array(out, 5);
    writer::uint(out, kind);
    match &entry.what {
        Revoked::Key(_) => writer::bin(out, value),
        Revoked::Workload(id) => writer::string(out, id.as_str()),
        Revoked::User(name) | Revoked::Token(name) => writer::string(out, name),
    }
    writer::uint(out, entry.since.as_millis());
    writer::uint(out, entry.made_at.as_millis());
    match &entry.reason {
        None => writer::nil(out),
        Some(reason) => writer::string(out, reason),
    }
}

fn read_entry(
    reader: &mut Reader<'_>,
    domain: &TrustDomain,
) -> Result<Revocation, RevocationError> {
    reader.array_of(5)?;
    let what = match reader.uint()? {
        WORKLOAD => {
            let (_, text) = reader.string(MAX_WORKLOAD_ID)?;
            WorkloadId::parse(text)
                .ok()
                .filter(|id| id.trust_domain() == domain.as_str())
                .map(Revoked::Workload)
                .ok_or(RevocationError::Name)?
        }
        KEY => Revoked::Key(KeyId(reader.bin_of()?)),
        USER => Revoked::User(name(reader)?),
        TOKEN => Revoked::Token(name(reader)?),
        kind => return Err(RevocationError::UnknownKind { kind }),
    };
    let since = UnixMillis::from_millis(reader.uint()?);
    let made_at = UnixMillis::from_millis(reader.uint()?);
    let reason = if reader.take_nil() {
        None
    } else {
        let (_, text) = reader.string(MAX_REVOCATION_REASON)?;
        if !is_clean(text) {
            return Err(RevocationError::Reason);
        }
        Some(text.to_owned())
    };
    Ok(Revocation {
        what,
        since,
        made_at,
        reason,
    })
}

fn name(reader: &mut Reader<'_>) -> Result<String, RevocationError> {
    let (_, text) = reader.string(MAX_NAME)?;
    if !is_clean(text) {
        return Err(RevocationError::Name);
    }
    Ok(text.to_owned())
}

fn is_clean(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}
