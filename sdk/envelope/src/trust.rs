//! What the offline root vouches for, and what is alike of all that authorities sign.
//! SPEC.md, ENV-55, ENV-57 and ENV-58.
//!
//! ```text
//! bundle    = [ statement, signature by the root ]
//! statement = [ 1, trust domain, version, issued-at, expires-at,
//!               root, [ former root … ],                                       oldest first
//!               [ [ issuing key, expires-at ] … ], [ policy key … ] ]          keys ascending
//! ```

use std::time::Duration;

use bulla_identity::{TrustDomain, UnixMillis, Verified};
use bulla_keyring::{Signature, SigningKey, Tag, VerifyingKey};

use crate::former_root::{FormerRoot, MAX_FORMER_ROOTS};
use crate::reader::{EncodingError, Reader};
use crate::writer;

/// Longest trust bundle in bytes.
pub const MAX_BUNDLE: usize = 16 * 1024;
/// Most issuing keys, and most policy keys, in a bundle.
pub const MAX_BUNDLE_KEYS: usize = 128;
/// Longest time that an issuing key may be trusted from the bundle's issue on.
pub const MAX_ISSUING_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(crate) const VERSION: u64 = 1;
const MAX_TRUST_DOMAIN: usize = 255;

/// Whom to believe: the brokers' issuing keys and the operator's policy keys.
///
/// The offline root signs it ([`TrustBundle::sign`]); whoever pins the root
/// reads it with [`TrustBundle::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// The domain that it speaks for.
    pub trust_domain: TrustDomain,
    /// Higher is newer; it never goes back.
    pub version: u64,
    /// When it was made.
    pub issued_at: UnixMillis,
    /// When nothing may be judged by it any more.
    pub expires_at: UnixMillis,
    /// The root that signs this bundle.
    pub root: VerifyingKey,
    /// Roots before it, oldest first: each vouches for the next one, the last
    /// for `root`. Whoever pins one of them takes this bundle too.
    pub former_roots: Vec<FormerRoot>,
    /// Who may issue credentials.
    pub issuing: Vec<IssuingKey>,
    /// Who may sign policies. No broker holds such a key.
    pub policy_keys: Vec<VerifyingKey>,
}

/// A broker's issuing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuingKey {
    /// The key.
    pub key: VerifyingKey,
    /// What it issues ends no later; at most 7 days after the bundle's issue.
    pub expires_at: UnixMillis,
}

/// Why bytes are not the bundle or the policy that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Too long.
    #[error("{actual} bytes, more than {limit}")]
    TooLarge {
        /// What is allowed.
        limit: usize,
        /// What came.
        actual: usize,
    },
    /// Not strict MessagePack of the expected types.
    #[error("malformed statement")]
    Encoding(#[from] EncodingError),
    /// Another version of the format.
    #[error("version {version} of the format is not supported")]
    UnsupportedVersion {
        /// What it says.
        version: u64,
    },
    /// The signature does not verify.
    #[error("the signature does not verify")]
    BadSignature,
    /// Not a trust domain.
    #[error("the trust domain is malformed")]
    TrustDomain,
    /// For another trust domain.
    #[error("it is of another trust domain")]
    ForeignDomain,
    /// A key that is no sound Ed25519 key.
    #[error("it names an unsound key")]
    Key,
    /// Keys that are repeated or not in ascending order.
    #[error("its keys are repeated or out of order")]
    KeyOrder,
    /// One root twice: the way from the oldest to the newest would be a circle.
    #[error("it names a root twice")]
    RootTwice,
    /// Neither the root that signs it nor a former one is trusted here.
    #[error("it is not by a root that is pinned here, nor by one that followed it")]
    UnknownRoot,
    /// A former root does not vouch for the next one.
    #[error("a former root does not vouch for the one that followed it")]
    RootSuccession,
    /// An issuing key that would be trusted for too long.
    #[error("an issuing key ends more than 7 days after the bundle's issue")]
    IssuingLifeTooLong,
    /// From the future.
    #[error("it was issued in the future")]
    Future,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// By a key that the bundle does not name.
    #[error("it is signed by a key that the trust bundle does not name")]
    UnknownKey,
}

impl TrustError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Encoding(error) => error.code(),
            Self::UnsupportedVersion { .. } => "unsupported_version",
            Self::BadSignature => "bad_signature",
            Self::TrustDomain => "trust_domain",
            Self::ForeignDomain => "foreign_domain",
            Self::Key => "key",
            Self::KeyOrder => "key_order",
            Self::RootTwice => "root_twice",
            Self::UnknownRoot => "unknown_root",
            Self::RootSuccession => "root_succession",
            Self::IssuingLifeTooLong => "issuing_life_too_long",
            Self::Future => "future",
            Self::Expired => "expired",
            Self::UnknownKey => "unknown_key",
        }
    }
}

/// Why a newer bundle or policy does not replace the one that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// Older than the one that is held.
    #[error("version {offered} is older than version {held}, which is held")]
    Rollback {
        /// What is held.
        held: u64,
        /// What was offered.
        offered: u64,
    },
    /// The same number with other contents: somebody signed two.
    #[error("version {version} is held already with other contents")]
    Equivocation {
        /// Both.
        version: u64,
    },
    /// By another root than the one that is held, and not by one that followed
    /// it: a root that was replaced does not come back.
    #[error("it is by a root that was replaced, or by a foreign one")]
    RootRollback,
}

impl SuccessionError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Rollback { .. } => "rollback",
            Self::Equivocation { .. } => "equivocation",
            Self::RootRollback => "root_rollback",
        }
    }
}

impl TrustBundle {
    /// Signs the bundle with the offline root, which it must name as its root.
    /// The keys' order does not matter.
    ///
    /// # Errors
    /// [`TrustError`] if receivers would refuse it for what it says.
    pub fn sign(&self, root: &SigningKey) -> Result<Vec<u8>, TrustError> {
        let statement = self.statement()?;
        self.proven(&statement, &root.sign(Tag::TrustBundle, &[&statement]))
    }

    /// The bytes that the root signs, for a root that is not in this process.
    ///
    /// # Errors
    /// [`TrustError::TooLarge`] for too many keys.
    pub fn to_sign(&self) -> Result<Vec<u8>, TrustError> {
        Ok(Tag::TrustBundle.message(&[&self.statement()?]))
    }

    /// The bundle with the root's signature over [`TrustBundle::to_sign`].
    ///
    /// # Errors
    /// [`TrustError`] if receivers would refuse it.
    pub fn signed(&self, signature: &Signature) -> Result<Vec<u8>, TrustError> {
        self.proven(&self.statement()?, signature)
    }

    fn proven(&self, statement: &[u8], signature: &Signature) -> Result<Vec<u8>, TrustError> {
        let bytes = signed(statement, signature);
        // What nobody would open is not made.
        Self::open(
            &bytes,
            &[self.root],
            &self.trust_domain,
            self.issued_at,
            Duration::ZERO,
        )?;
        Ok(bytes)
    }

    fn statement(&self) -> Result<Vec<u8>, TrustError> {
        let mut issuing = self.issuing.clone();
        issuing.sort_by_key(|issuing| *issuing.key.as_bytes());
        let mut policy_keys = self.policy_keys.clone();
        policy_keys.sort_by_key(|key| *key.as_bytes());

        let mut statement = Vec::with_capacity(256);
        writer::array(&mut statement, 9);
        writer::uint(&mut statement, VERSION);
        writer::string(&mut statement, self.trust_domain.as_str());
        writer::uint(&mut statement, self.version);
        writer::uint(&mut statement, self.issued_at.as_millis());
        writer::uint(&mut statement, self.expires_at.as_millis());
        writer::bin(&mut statement, self.root.as_bytes());
        writer::array(
            &mut statement,
            count(self.former_roots.len(), MAX_FORMER_ROOTS)?,
        );
        for former in &self.former_roots {
            former.write(&mut statement);
        }
        writer::array(&mut statement, count(issuing.len(), MAX_BUNDLE_KEYS)?);
        for issuing in &issuing {
            writer::array(&mut statement, 2);
            writer::bin(&mut statement, issuing.key.as_bytes());
            writer::uint(&mut statement, issuing.expires_at.as_millis());
        }
        writer::array(&mut statement, count(policy_keys.len(), MAX_BUNDLE_KEYS)?);
        for key in &policy_keys {
            writer::bin(&mut statement, key.as_bytes());
        }
        Ok(statement)
    }

    /// Decodes strictly and proves that one of `roots`, or a root that followed
    /// one of them, signed it for this domain, and that it is valid now.
    ///
    /// `roots` are the pinned ones; a process that holds a bundle goes by that
    /// bundle's [`root`](Self::root) and by
    /// [`check_succession`](Self::check_succession).
    ///
    /// # Errors
    /// [`TrustError`] names the first thing that does not fit.
    pub fn open(
        bytes: &[u8],
        roots: &[VerifyingKey],
        trust_domain: &TrustDomain,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<Verified<Self>, TrustError> {
        let (statement, signature) = split(bytes, MAX_BUNDLE)?;
        let bundle = Self::read(statement)?;
        // Before any signature: a stranger's bundle costs no cryptography.
        if !roots.iter().any(|root| bundle.is_under(root)) {
            return Err(TrustError::UnknownRoot);
        }
        bundle
            .root
            .verify(Tag::TrustBundle, &[statement], &signature)
            .map_err(|_| TrustError::BadSignature)?;
        if bundle.trust_domain != *trust_domain {
            return Err(TrustError::ForeignDomain);
        }
        let next = bundle.former_roots.iter().skip(1).map(FormerRoot::key);
        for (former, next) in bundle.former_roots.iter().zip(next.chain([&bundle.root])) {
            former.verify(trust_domain, next)?;
        }
        let latest = bundle.issued_at.saturating_add(MAX_ISSUING_LIFE);
        if bundle.issuing.iter().any(|key| key.expires_at > latest) {
            return Err(TrustError::IssuingLifeTooLong);
        }
        if bundle.issued_at > now.saturating_add(skew) {
            return Err(TrustError::Future);
        }
        if bundle.expires_at < now.saturating_sub(skew) {
            return Err(TrustError::Expired);
        }
        Ok(Verified::danger_assert(bundle))
    }

    /// Whether `root` is this bundle's root or one before it.
    #[must_use]
    pub fn is_under(&self, root: &VerifyingKey) -> bool {
        self.root == *root || self.former_roots.iter().any(|former| former.key() == root)
    }

    fn read(statement: &[u8]) -> Result<Self, TrustError> {
        let mut reader = Reader::new(statement);
        reader.array_of(9)?;
        version(&mut reader)?;
        let trust_domain = trust_domain(&mut reader)?;
        let number = reader.uint()?;
        let issued_at = UnixMillis::from_millis(reader.uint()?);
        let expires_at = UnixMillis::from_millis(reader.uint()?);
        let root = key(&mut reader)?;
        let mut former_roots = Vec::new();
        for _ in 0..reader.array(MAX_FORMER_ROOTS)? {
            former_roots.push(FormerRoot::read(&mut reader)?);
        }
        let mut issuing = Vec::new();
        for _ in 0..reader.array(MAX_BUNDLE_KEYS)? {
            reader.array_of(2)?;
            issuing.push(IssuingKey {
                key: key(&mut reader)?,
                expires_at: UnixMillis::from_millis(reader.uint()?),
            });
        }
        let mut policy_keys = Vec::new();
        for _ in 0..reader.array(MAX_BUNDLE_KEYS)? {
            policy_keys.push(key(&mut reader)?);
        }
        reader.finish()?;
        let ascending = issuing.is_sorted_by(|a, b| a.key.as_bytes() < b.key.as_bytes())
            && policy_keys.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes());
        if !ascending {
            return Err(TrustError::KeyOrder);
        }
        let mut all: Vec<_> = former_roots.iter().map(|former| *former.key()).collect();
        all.push(root);
        all.sort_by_key(|key| *key.as_bytes());
        if !all.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()) {
            return Err(TrustError::RootTwice);
        }
        Ok(Self {
            trust_domain,
            version: number,
            issued_at,
            expires_at,
            root,
            former_roots,
            issuing,
            policy_keys,
        })
    }

    /// Whether this bundle may replace `held`: it is newer, or the same, and by
    /// its root or one that followed it.
    ///
    /// # Errors
    /// [`SuccessionError`] for an older one, another of the same version, or
    /// one by a root that was replaced.
    pub fn check_succession(&self, held: &Self) -> Result<(), SuccessionError> {
        if !self.is_under(&held.root) {
            return Err(SuccessionError::RootRollback);
        }
        check_succession(self.version, held.version, self == held)
    }
}

pub(crate) fn check_succession(offered: u64, held: u64, same: bool) -> Result<(), SuccessionError> {
    if offered < held {
        return Err(SuccessionError::Rollback { held, offered });
    }
    if offered == held && !same {
        return Err(SuccessionError::Equivocation { version: held });
    }
    Ok(())
}

pub(crate) fn signed(statement: &[u8], signature: &Signature) -> Vec<u8> {
    let mut out = Vec::with_capacity(statement.len() + 80);
    writer::array(&mut out, 2);
    writer::bin(&mut out, statement);
    writer::bin(&mut out, signature.as_bytes());
    out
}

pub(crate) fn split(bytes: &[u8], limit: usize) -> Result<(&[u8], Signature), TrustError> {
    if bytes.len() > limit {
        return Err(TrustError::TooLarge {
            limit,
            actual: bytes.len(),
        });
    }
    let mut reader = Reader::new(bytes);
    reader.array_of(2)?;
    let statement = reader.bin(limit)?.of(bytes);
    let signature = Signature::from_bytes(reader.bin_of()?);
    reader.finish()?;
    Ok((statement, signature))
}

fn count(len: usize, limit: usize) -> Result<u32, TrustError> {
    u32::try_from(len)
        .ok()
        .filter(|_| len <= limit)
        .ok_or(TrustError::TooLarge { limit, actual: len })
}

pub(crate) fn version(reader: &mut Reader<'_>) -> Result<(), TrustError> {
    match reader.uint()? {
        VERSION => Ok(()),
        version => Err(TrustError::UnsupportedVersion { version }),
    }
}

pub(crate) fn trust_domain(reader: &mut Reader<'_>) -> Result<TrustDomain, TrustError> {
    let (_, text) = reader.string(MAX_TRUST_DOMAIN)?;
    TrustDomain::parse(text).map_err(|_| TrustError::TrustDomain)
}

pub(crate) fn key(reader: &mut Reader<'_>) -> Result<VerifyingKey, TrustError> {
    VerifyingKey::from_bytes(&reader.bin_of()?).map_err(|_| TrustError::Key)
}
