//! Who speaks: trust domains and workloads. ENV-54 of the envelope's SPEC.md.

use std::fmt;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// Longest trust domain in bytes ([SPIFFE-ID §2.1]).
///
/// [SPIFFE-ID §2.1]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#21-trust-domain
pub(crate) const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// Longest SPIFFE ID in bytes ([SPIFFE-ID §2.3]).
///
/// [SPIFFE-ID §2.3]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#23-maximum-spiffe-id-length
pub(crate) const MAX_SPIFFE_ID_LEN: usize = 2048;

const MAX_NAME_LEN: usize = 63;

const TAG_DOMAIN: &[u8] = b"bulla/v1/workload-tag\0";

/// Why a name is not an identity. One variant per broken rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nothing there.
    #[error("the {what} is empty")]
    Empty {
        /// Which name.
        what: &'static str,
    },
    /// Longer than its specification allows.
    #[error("the {what} is {actual} bytes long; at most {limit} are allowed")]
    TooLong {
        /// Which name.
        what: &'static str,
        /// The most bytes allowed.
        limit: usize,
        /// The bytes found.
        actual: usize,
    },
    /// A character outside the allowed set.
    #[error("the {what} holds `{}`; allowed are {allowed}", .found.escape_default())]
    Character {
        /// Which name.
        what: &'static str,
        /// The offending character.
        found: char,
        /// The allowed set, for a person.
        allowed: &'static str,
    },
    /// No `spiffe://` in front.
    #[error("a workload id starts with `spiffe://`")]
    Scheme,
    /// A path that is empty, or has an empty, `.` or `..` segment.
    #[error("a workload id has a path of non-empty segments other than `.` and `..`")]
    Path,
    /// Not 32 lowercase hexadecimal digits.
    #[error("a workload tag is 32 lowercase hexadecimal digits")]
    Tag,
}

/// The part of a SPIFFE ID that names who vouches: `acme.example`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a trust domain: lowercase letters, digits, `.`, `-`, `_`, at most 255 bytes.
    ///
    /// # Errors
    /// [`IdentityError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        check_trust_domain(text)?;
        Ok(Self(text.into()))
    }

    /// The domain's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A workload's short name in the policy: `orders`. Lowercase letters, digits,
/// `-` and `_`, starting with a letter or digit, at most 63 bytes.
///
/// It is one NATS token by construction, so it can stand as a queue group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadName(Arc<str>);

impl WorkloadName {
    /// Reads a short name.
    ///
    /// # Errors
    /// [`IdentityError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        const WHAT: &str = "workload name";
        check_length(WHAT, text, MAX_NAME_LEN)?;
        let lead = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bad = text
            .chars()
            .enumerate()
            .find(|(i, c)| !(lead(*c) || (*i > 0 && matches!(c, '-' | '_'))));
        if let Some((_, found)) = bad {
            return Err(IdentityError::Character {
                what: WHAT,
                found,
                allowed: "a-z, 0-9 and, after the first character, `-` and `_`",
            });
        }
        Ok(Self(text.into()))
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A workload: a SPIFFE ID such as `spiffe://acme.example/orders`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId {
    text: Arc<str>,
    /// Where its path begins: asked for with every message.
    path_at: u16,
}

impl WorkloadId {
    const SCHEME: &'static str = "spiffe://";

    /// The id of the workload that a policy of `domain` calls `name`.
    #[must_use]
    pub fn new(domain: &TrustDomain, name: &WorkloadName) -> Self {
        let before = format!("{}{}/", Self::SCHEME, domain.as_str());
        Self::of(&before, name.as_str())
    }

    /// Reads a SPIFFE ID with a path ([SPIFFE-ID §2]).
    ///
    /// [SPIFFE-ID §2]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#2-spiffe-identity
    ///
    /// # Errors
    /// [`IdentityError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        check_length("workload id", text, MAX_SPIFFE_ID_LEN)?;
        let rest = text
            .strip_prefix(Self::SCHEME)
            .ok_or(IdentityError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(IdentityError::Path)?;
        check_trust_domain(domain)?;
        if path
            .split('/')
            .any(|s| s.is_empty() || s == "." || s == "..")
        {
            return Err(IdentityError::Path);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if let Some(found) = path.chars().find(|c| !allowed(*c)) {
            return Err(IdentityError::Character {
                what: "workload id's path",
                found,
                allowed: "a-z, A-Z, 0-9, `-`, `_` and `.`",
            });
        }
        let (before, path) = text.split_at(text.len() - path.len());
        Ok(Self::of(before, path))
    }

    /// `before` is everything up to the path, which fits its limit far below 64 KiB.
    fn of(before: &str, path: &str) -> Self {
        Self {
            text: [before, path].concat().into(),
            path_at: u16::try_from(before.len()).unwrap_or(u16::MAX),
        }
    }

    /// The trust domain's text.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        let end = usize::from(self.path_at).saturating_sub(1);
        self.text.get(Self::SCHEME.len()..end).unwrap_or_default()
    }

    /// The path without its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text
            .get(usize::from(self.path_at)..)
            .unwrap_or_default()
    }

    /// The whole SPIFFE ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash that names this workload in subjects.
    #[must_use]
    pub fn tag(&self) -> WorkloadTag {
        let mut hash = Sha256::new();
        hash.update(TAG_DOMAIN);
        hash.update(self.text.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut tag = [0u8; 16];
        tag.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        WorkloadTag(tag)
    }
}

/// The first 16 bytes of SHA-256(`bulla/v1/workload-tag\0` ‖ workload id).
///
/// It names a workload's private inbox space and its subjects at the broker:
/// fixed length and one NATS token, whatever the SPIFFE ID holds. Two
/// workloads with one tag would take a 128-bit second preimage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadTag([u8; 16]);

impl WorkloadTag {
    /// Reads 32 lowercase hexadecimal digits.
    ///
    /// # Errors
    /// [`IdentityError::Tag`] for anything else.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let raw = HEXLOWER
            .decode(text.as_bytes())
            .map_err(|_| IdentityError::Tag)?;
        raw.try_into().map(Self).map_err(|_| IdentityError::Tag)
    }

    /// 32 lowercase hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Display for WorkloadTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for WorkloadTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

macro_rules! text_fmt {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }
    )*};
}

text_fmt!(TrustDomain, WorkloadName, WorkloadId);

fn check_length(what: &'static str, text: &str, limit: usize) -> Result<(), IdentityError> {
    match text.len() {
        0 => Err(IdentityError::Empty { what }),
        actual if actual > limit => Err(IdentityError::TooLong {
            what,
            limit,
            actual,
        }),
        _ => Ok(()),
    }
}

fn check_trust_domain(text: &str) -> Result<(), IdentityError> {
    const WHAT: &str = "trust domain";
    check_length(WHAT, text, MAX_TRUST_DOMAIN_LEN)?;
    let allowed =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    match text.chars().find(|c| !allowed(*c)) {
        Some(found) => Err(IdentityError::Character {
            what: WHAT,
            found,
            allowed: "a-z, 0-9, `.`, `-` and `_`",
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_domain_and_path() {
        let id = WorkloadId::parse("spiffe://acme.example/ns/shop/sa/orders").unwrap();
        assert_eq!(id.trust_domain(), "acme.example");
        assert_eq!(id.path(), "ns/shop/sa/orders");
    }

    #[test]
    fn malformed_ids_are_refused() {
        for bad in [
            "",
            "acme.example/orders",
            "SPIFFE://acme.example/orders",
            "spiffe://acme.example",
            "spiffe://acme.example/",
            "spiffe:///orders",
            "spiffe://Acme/orders",
            "spiffe://acme:80/orders",
            "spiffe://user@acme/orders",
            "spiffe://acme/a//b",
            "spiffe://acme/a/",
            "spiffe://acme/./a",
            "spiffe://acme/a/..",
            "spiffe://acme/a?x=1",
            "spiffe://acme/a#f",
            "spiffe://acme/a b",
            "spiffe://acme/a%20b",
            "spiffe://acme/ordér",
            "spiffe://acme/a\0",
        ] {
            assert!(WorkloadId::parse(bad).is_err(), "{bad:?}");
        }
        let long = format!("spiffe://acme/{}", "a".repeat(MAX_SPIFFE_ID_LEN));
        assert!(matches!(
            WorkloadId::parse(&long),
            Err(IdentityError::TooLong { .. })
        ));
    }

    #[test]
    fn names_are_one_plain_token() {
        for good in ["orders", "o", "4u", "a-b_c"] {
            assert!(WorkloadName::parse(good).is_ok(), "{good:?}");
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            "-a",
            "_a",
            "A",
            "a.b",
            "a*",
            ">",
            "a b",
            "a\0",
            "ä",
            "a\u{200b}",
            long.as_str(),
        ] {
            assert!(WorkloadName::parse(bad).is_err(), "{bad:?}");
        }
    }

    /// [ENV-54]
    #[test]
    fn the_tag_is_fixed_by_the_id() {
        let id = WorkloadId::parse("spiffe://acme.example/orders").unwrap();
        let tag = id.tag();
        assert_eq!(WorkloadTag::parse(&tag.to_hex()), Ok(tag));
        assert_ne!(
            WorkloadId::parse("spiffe://acme.example/order")
                .unwrap()
                .tag(),
            tag
        );
        for bad in ["", "ab", &tag.to_hex().to_uppercase(), &format!("{tag}00")] {
            assert!(WorkloadTag::parse(bad).is_err(), "{bad:?}");
        }
    }
}
