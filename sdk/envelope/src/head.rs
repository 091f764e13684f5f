//! What is in force at a moment, said by a broker. SPEC.md, ENV-100 and
//! ENV-101.
//!
//! ```text
//! head      = [ statement, signature by an issuing key of the bundle ]
//! statement = [ 1, trust domain, issuing key, bundle version,
//!               policy revision, SHA-256 of the policy's record,
//!               revocation sequence, SHA-256 of the list's record, time ]
//! ```

use std::cmp::Ordering;
use std::time::Duration;

use bulla_identity::{TrustDomain, UnixMillis, Verified};
use bulla_keyring::{SigningKey, Tag, sha256};

use crate::reader::{EncodingError, Reader};
use crate::trust::{self, TrustBundle, TrustError};
use crate::writer;

/// Longest head in bytes.
pub const MAX_HEAD: usize = 1024;

/// A number that only grows, and the SHA-256 of the record that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// A policy's revision or a revocation list's sequence; 0 if there is none.
    pub number: u64,
    /// SHA-256 of the signed record; zeros if there is none.
    pub hash: [u8; 32],
}

impl Mark {
    /// Of the record that has this number.
    #[must_use]
    pub fn of(number: u64, record: &[u8]) -> Self {
        Self {
            number,
            hash: sha256(&[record]),
        }
    }

    /// How what this names compares with what is held.
    #[must_use]
    pub fn compare(&self, held: &Self) -> Comparison {
        match self.number.cmp(&held.number) {
            Ordering::Less => Comparison::Behind,
            Ordering::Equal if self.hash == held.hash => Comparison::Same,
            Ordering::Equal => Comparison::Contradiction,
            Ordering::Greater => Comparison::Ahead,
        }
    }
}

/// How what a head names compares with what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// It names an older one.
    Behind,
    /// It names exactly that.
    Same,
    /// It names a newer one, which is to be fetched.
    Ahead,
    /// It names another one of the same number: somebody signed two.
    Contradiction,
}

/// What somebody goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holdings {
    /// The version of the trust bundle.
    pub bundle: u64,
    /// The policy.
    pub policy: Mark,
    /// The revocation list.
    pub revocations: Mark,
}

/// A broker's statement of what is in force.
///
/// It proves nothing about what is in it: bundle, policy and list prove
/// themselves. It says that there is nothing newer, as far as this broker knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The domain that it speaks for.
    pub trust_domain: TrustDomain,
    /// What is in force.
    pub names: Holdings,
    /// When it was made.
    pub time: UnixMillis,
}

/// Why bytes are not a head that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not a strict, genuine statement.
    #[error(transparent)]
    Statement(#[from] TrustError),
    /// By a key that the bundle does not name.
    #[error("it is signed by a key that the trust bundle does not name")]
    UnknownIssuer,
    /// By a key whose time is over.
    #[error("the key that signed it has expired")]
    IssuerExpired,
}

impl From<EncodingError> for HeadError {
    fn from(error: EncodingError) -> Self {
        Self::Statement(error.into())
    }
}

impl HeadError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Statement(error) => error.code(),
            Self::UnknownIssuer => "unknown_issuer",
            Self::IssuerExpired => "issuer_expired",
        }
    }
}

impl Head {
    /// Signs it with a broker's issuing key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let mut statement = Vec::with_capacity(256);
        writer::array(&mut statement, 9);
        writer::uint(&mut statement, trust::VERSION);
        writer::string(&mut statement, self.trust_domain.as_str());
        writer::bin(&mut statement, key.verifying_key().as_bytes());
        writer::uint(&mut statement, self.names.bundle);
        for mark in [&self.names.policy, &self.names.revocations] {
            writer::uint(&mut statement, mark.number);
            writer::bin(&mut statement, &mark.hash);
        }
        writer::uint(&mut statement, self.time.as_millis());
        trust::signed(&statement, &key.sign(Tag::Head, &[&statement]))
    }

    /// Decodes strictly and proves that an issuing key of the bundle signed it,
    /// whose time is not over. How old it may be is [`Freshness`]'s business.
    ///
    /// [`Freshness`]: crate::Freshness
    ///
    /// # Errors
    /// [`HeadError`] names the first thing that does not fit.
    pub fn open(
        bytes: &[u8],
        bundle: &Verified<TrustBundle>,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<Verified<Self>, HeadError> {
        let earliest_now = now.saturating_sub(skew);
        if bundle.expires_at < earliest_now {
            return Err(TrustError::Expired.into());
        }
        let (statement, signature) = trust::split(bytes, MAX_HEAD)?;
        let mut reader = Reader::new(statement);
        reader.array_of(9)?;
        trust::version(&mut reader)?;
        let trust_domain = trust::trust_domain(&mut reader)?;
        let key = trust::key(&mut reader)?;
        let bundle_version = reader.uint()?;
        let policy = mark(&mut reader)?;
        let revocations = mark(&mut reader)?;
        let time = UnixMillis::from_millis(reader.uint()?);
        reader.finish()?;
        if trust_domain != bundle.trust_domain {
            return Err(TrustError::ForeignDomain.into());
        }
        let issuing = bundle
            .issuing
            .iter()
            .find(|issuing| issuing.key == key)
            .ok_or(HeadError::UnknownIssuer)?;
        if issuing.expires_at < earliest_now {
            return Err(HeadError::IssuerExpired);
        }
        key.verify(Tag::Head, &[statement], &signature)
            .map_err(|_| TrustError::BadSignature)?;
        if time > now.saturating_add(skew) {
            return Err(TrustError::Future.into());
        }
        Ok(Verified::danger_assert(Self {
            trust_domain,
            names: Holdings {
                bundle: bundle_version,
                policy,
                revocations,
            },
            time,
        }))
    }
}

fn mark(reader: &mut Reader<'_>) -> Result<Mark, EncodingError> {
    Ok(Mark {
        number: reader.uint()?,
        hash: reader.bin_of()?,
    })
}
