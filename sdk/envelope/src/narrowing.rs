//! `limits`: what a service takes off a user's authority before it passes the
//! user on. SPEC.md, ENV-110 to ENV-112.
//!
//! Limits keep: some scopes, some verticals, some values of listed claims, a
//! shorter time. Whatever they say, a user under limits can do nothing that the
//! user could not do without them; two limits together are what both keep.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bulla_identity::{Claims, UnixMillis};

use crate::DecodeError;
use crate::format::Field;
use crate::limits::MAX_LIMITS;
use crate::reader::Reader;
use crate::writer;

/// What is left of a user. [`Limits::none`] leaves everything; each method
/// takes something away, also when it is called again.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Limits {
    scopes: Option<BTreeSet<String>>,
    reach: Option<BTreeSet<String>>,
    until: Option<UnixMillis>,
    values: BTreeMap<String, BTreeSet<String>>,
}

/// Why limits cannot be stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// The claim has limits of its own, or none: `scope`, `reach`, `sub`.
    #[error("the values of this claim cannot be limited by name")]
    Claim,
    /// They take more room than an envelope gives.
    #[error("the limits take {actual} bytes where at most {limit} are allowed")]
    TooLarge {
        /// [`MAX_LIMITS`].
        limit: usize,
        /// What they take.
        actual: usize,
    },
}

const SCOPES: u64 = 0;
const REACH: u64 = 1;
const UNTIL: u64 = 2;
const VALUES: u64 = 3;

impl Limits {
    /// Everything is left.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Keeps of the user's scopes only these.
    #[must_use]
    pub fn keep_scopes<S: AsRef<str>>(self, scopes: impl IntoIterator<Item = S>) -> Self {
        // What is no scope is none of the user's either.
        let kept = texts(scopes, is_scope);
        self.and(&Self {
            scopes: Some(kept),
            ..Self::default()
        })
    }

    /// Keeps of the verticals that the user's token reaches only these.
    #[must_use]
    pub fn keep_reach<S: AsRef<str>>(self, reach: impl IntoIterator<Item = S>) -> Self {
        let kept = texts(reach, is_vertical);
        self.and(&Self {
            reach: Some(kept),
            ..Self::default()
        })
    }

    /// Ends the user's authority at this time, if it does not end before.
    #[must_use]
    pub fn until(self, end: UnixMillis) -> Self {
        self.and(&Self {
            until: Some(end),
            ..Self::default()
        })
    }

    /// Keeps of a claim only these texts: of a list those elements; a single
    /// value that is none of them becomes an empty list.
    ///
    /// # Errors
    /// [`LimitsError::Claim`] for `scope` and `reach`, which have methods of
    /// their own, and for `sub`, which says who the user is.
    pub fn keep_values<S: AsRef<str>>(
        self,
        claim: &str,
        values: impl IntoIterator<Item = S>,
    ) -> Result<Self, LimitsError> {
        if !is_limitable(claim) {
            return Err(LimitsError::Claim);
        }
        let kept = texts(values, |_| true);
        Ok(self.and(&Self {
            values: BTreeMap::from([(claim.to_owned(), kept)]),
            ..Self::default()
        }))
    }

    /// What both keep.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut values = self.values.clone();
        for (claim, kept) in &other.values {
            let both = match values.get(claim) {
                Some(own) => own & kept,
                None => kept.clone(),
            };
            values.insert(claim.clone(), both);
        }
        Self {
            scopes: both(&self.scopes, &other.scopes),
            reach: both(&self.reach, &other.reach),
            until: match (self.until, other.until) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            values,
        }
    }

    /// Whether these keep nothing that `earlier` takes away, whoever the user is.
    #[must_use]
    pub fn narrows(&self, earlier: &Self) -> bool {
        self.and(earlier) == *self
    }

    /// Whether everything is left.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// When they end the user's authority.
    #[must_use]
    pub fn end(&self) -> Option<UnixMillis> {
        self.until
    }

    /// What is left of a user's claims. The whole ones stay at hand for rules
    /// that deny, see [`Claims::whole`].
    #[must_use]
    pub fn apply(&self, claims: &Claims) -> Claims {
        let own = [("scope", &self.scopes), ("reach", &self.reach)];
        let own = own
            .into_iter()
            .filter_map(|(claim, kept)| Some((claim, kept.as_ref()?)));
        let values = self.values.iter();
        claims.narrowed(own.chain(values.map(|(claim, kept)| (claim.as_str(), kept))))
    }

    /// The one encoding, for [`Draft::limits`](crate::Draft::limits); nothing
    /// where everything is left.
    ///
    /// # Errors
    /// [`LimitsError::TooLarge`].
    pub fn encode(&self) -> Result<Option<Vec<u8>>, LimitsError> {
        if self.is_none() {
            return Ok(None);
        }
        let mut out = Vec::new();
        let entries = u32::from(self.scopes.is_some())
            + u32::from(self.reach.is_some())
            + u32::from(self.until.is_some())
            + u32::from(!self.values.is_empty());
        writer::map(&mut out, entries);
        for (key, kept) in [(SCOPES, &self.scopes), (REACH, &self.reach)] {
            if let Some(kept) = kept {
                writer::uint(&mut out, key);
                write_texts(&mut out, kept);
            }
        }
        if let Some(until) = self.until {
            writer::uint(&mut out, UNTIL);
            writer::uint(&mut out, until.as_millis());
        }
        if !self.values.is_empty() {
            writer::uint(&mut out, VALUES);
            writer::map(&mut out, count(self.values.len()));
            for (claim, kept) in &self.values {
                writer::string(&mut out, claim);
                write_texts(&mut out, kept);
            }
        }
        if out.len() > MAX_LIMITS {
            return Err(LimitsError::TooLarge {
                limit: MAX_LIMITS,
                actual: out.len(),
            });
        }
        Ok(Some(out))
    }

    /// Reads what [`Limits::encode`] writes, and nothing else.
    ///
    /// # Errors
    /// [`DecodeError::Encoding`] or [`DecodeError::InvalidField`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const INVALID: DecodeError = DecodeError::InvalidField {
            field: Field::Limits,
        };
        if bytes.is_empty() {
            return Err(INVALID);
        }
        let mut limits = Self::default();
        let mut reader = Reader::new(bytes);
        let entries = reader.map(4)?;
        let mut least = 0;
        for _ in 0..entries {
            let key = reader.uint()?;
            if key < least || key > VALUES {
                return Err(INVALID);
            }
            least = key + 1;
            match key {
                SCOPES => limits.scopes = Some(read_texts(&mut reader, is_scope)?.ok_or(INVALID)?),
                REACH => limits.reach = Some(read_texts(&mut reader, is_vertical)?.ok_or(INVALID)?),
                UNTIL => limits.until = Some(UnixMillis::from_millis(reader.uint()?)),
                VALUES => limits.values = read_values(&mut reader)?.ok_or(INVALID)?,
                _ => return Err(INVALID),
            }
        }
        reader.finish()?;
        if limits.is_none() {
            return Err(INVALID);
        }
        Ok(limits)
    }
}

/// Shows how much is said, not what: values are personal data.
impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("scopes", &self.scopes)
            .field("reach", &self.reach)
            .field("until", &self.until)
            .field("claims", &self.values.keys())
            .finish()
    }
}

fn both(
    one: &Option<BTreeSet<String>>,
    other: &Option<BTreeSet<String>>,
) -> Option<BTreeSet<String>> {
    match (one, other) {
        (Some(a), Some(b)) => Some(a & b),
        (a, b) => a.as_ref().or(b.as_ref()).cloned(),
    }
}

fn texts<S: AsRef<str>>(
    all: impl IntoIterator<Item = S>,
    is_sound: impl Fn(&str) -> bool,
) -> BTreeSet<String> {
    let all = all.into_iter();
    all.filter(|text| is_sound(text.as_ref()))
        .map(|text| text.as_ref().to_owned())
        .collect()
}

fn write_texts(out: &mut Vec<u8>, texts: &BTreeSet<String>) {
    writer::array(out, count(texts.len()));
    for text in texts {
        writer::string(out, text);
    }
}

/// Texts in strictly ascending order; `Ok(None)` if one of them breaks a rule.
fn read_texts(
    reader: &mut Reader<'_>,
    is_sound: impl Fn(&str) -> bool,
) -> Result<Option<BTreeSet<String>>, DecodeError> {
    let mut out = BTreeSet::new();
    let mut last = None;
    for _ in 0..reader.array(MAX_LIMITS)? {
        let (_, text) = reader.string(MAX_LIMITS)?;
        if !is_sound(text) || last.is_some_and(|last| text <= last) {
            return Ok(None);
        }
        last = Some(text);
        out.insert(text.to_owned());
    }
    Ok(Some(out))
}

fn read_values(
    reader: &mut Reader<'_>,
) -> Result<Option<BTreeMap<String, BTreeSet<String>>>, DecodeError> {
    let mut out = BTreeMap::new();
    let mut last = None;
    for _ in 0..reader.map(MAX_LIMITS)? {
        let (_, claim) = reader.string(MAX_LIMITS)?;
        if !is_limitable(claim) || last.is_some_and(|last| claim <= last) {
            return Ok(None);
        }
        last = Some(claim);
        let Some(kept) = read_texts(reader, |_| true)? else {
            return Ok(None);
        };
        out.insert(claim.to_owned(), kept);
    }
    Ok(Some(out).filter(|out| !out.is_empty()))
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// [RFC 6749 §3.3]
fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
}

/// As a policy spells audiences.
fn is_vertical(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_'))
}

fn is_limitable(claim: &str) -> bool {
    !matches!(claim, "sub" | "scope" | "reach")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claims(value: Value) -> Claims {
        let Value::Object(map) = value else {
            panic!("an object")
        };
        Claims::from_map(map)
    }

    fn some() -> Limits {
        Limits::none()
            .keep_scopes(["b", "a"])
            .keep_reach(["retail", "ops"])
            .until(UnixMillis::from_millis(1_000))
            .keep_values("tenants", ["t1", "t2"])
            .unwrap()
    }

    #[test]
    fn limits_are_read_as_they_were_written() {
        let bytes = some().encode().unwrap().unwrap();
        assert_eq!(Limits::decode(&bytes), Ok(some()));
        assert_eq!(Limits::none().encode(), Ok(None));
        let nothing = Limits::none().keep_scopes([""; 0]);
        let bytes = nothing.encode().unwrap().unwrap();
        assert_eq!(bytes, [0x81, 0x00, 0x90]);
        assert_eq!(Limits::decode(&bytes), Ok(nothing));
    }

    #[test]
    fn two_limits_together_are_what_both_keep() {
        let one = some();
        let other = Limits::none()
            .keep_scopes(["a", "c"])
            .until(UnixMillis::from_millis(2_000))
            .keep_values("tenants", ["t2", "t3"])
            .unwrap()
            .keep_values("roles", ["buyer"])
            .unwrap();
        let want = Limits::none()
            .keep_scopes(["a"])
            .keep_reach(["ops", "retail"])
            .until(UnixMillis::from_millis(1_000))
            .keep_values("tenants", ["t2"])
            .unwrap()
            .keep_values("roles", ["buyer"])
            .unwrap();
        assert_eq!(one.and(&other), want);
        assert_eq!(other.and(&one), want);
        assert!(want.narrows(&one) && want.narrows(&other) && want.narrows(&want));
        assert!(one.narrows(&Limits::none()));
        assert!(!one.narrows(&other) && !Limits::none().narrows(&one));
        // What is said twice does not come back.
        let less = one.keep_scopes(["a"]).keep_scopes(["a", "b"]);
        assert!(less.narrows(&Limits::none().keep_scopes(["a"])));
    }

    #[test]
    fn the_largest_of_all_keys_is_unknown_like_any_other() {
        let mut bytes = vec![0x81, 0xcf];
        bytes.extend([0xff; 8]);
        bytes.push(0);
        let unknown = Limits::decode(&bytes).unwrap_err();
        assert_eq!(unknown.code(), "invalid_field");
    }

    #[test]
    fn what_is_left_of_the_claims() {
        let whole = claims(json!({
            "sub": "alice", "scope": "c a  d", "reach": ["retail", "billing"],
            "tenants": ["t1", "t9", 7], "tenant": "t1", "plan": "gold", "age": 7,
            "odd": null, "flag": true, "more": {"a": 1},
        }));
        let limits = Limits::none()
            .keep_scopes(["a", "b"])
            .keep_reach(["billing", "ops"]);
        let limits = [
            "tenants", "tenant", "plan", "age", "odd", "flag", "more", "absent",
        ]
        .into_iter()
        .fold(limits, |l, claim| l.keep_values(claim, ["t1"]).unwrap());
        let left = limits.apply(&whole);
        assert_eq!(
            Value::Object(left.as_map().clone()),
            json!({
                "sub": "alice", "scope": "a", "reach": ["billing"],
                "tenants": ["t1"], "tenant": "t1", "plan": [], "age": [],
                "odd": null, "flag": [], "more": [],
            })
        );
        assert_eq!(left.whole(), &whole);
        // Again: the whole ones are still the token's.
        let again = Limits::none().keep_scopes([""; 0]).apply(&left);
        assert_eq!(again.scopes().count(), 0);
        assert_eq!(again.whole(), &whole);
        // A claim that is absent stays absent.
        let bare = limits.apply(&claims(json!({"sub": "alice"})));
        assert_eq!(bare.as_map().len(), 1);
    }

    #[test]
    fn who_the_user_is_cannot_be_limited() {
        for claim in ["sub", "scope", "reach"] {
            let refused = Limits::none().keep_values(claim, ["x"]);
            assert_eq!(refused, Err(LimitsError::Claim));
        }
        let huge = Limits::none().keep_scopes(["s".repeat(4096)]);
        assert!(matches!(huge.encode(), Err(LimitsError::TooLarge { .. })));
        // What is no scope cannot be kept, and keeps nothing else.
        let odd = Limits::none().keep_scopes(["a b", ""]);
        assert_eq!(odd, Limits::none().keep_scopes([""; 0]));
    }

    #[test]
    fn nothing_but_the_one_encoding_is_read() {
        for (bad, why) in [
            (&b"\x80"[..], "nothing"),
            (b"", "no map"),
            (b"\x90", "no map"),
            (b"\x81\x04\x90", "an unknown key"),
            (b"\x82\x01\x90\x00\x90", "keys out of order"),
            (b"\x82\x00\x90\x00\x90", "a key twice"),
            (b"\x81\x00\x92\xa1b\xa1a", "texts out of order"),
            (b"\x81\x00\x92\xa1a\xa1a", "a text twice"),
            (b"\x81\x00\x91\xa0", "an empty scope"),
            (b"\x81\x00\x91\xa3a b", "no scope"),
            (b"\x81\x01\x91\xa1A", "no audience"),
            (b"\x81\x03\x80", "no claim"),
            (b"\x81\x03\x81\xa3sub\x90", "the user's name"),
            (b"\x81\x03\x81\xa5scope\x90", "scopes by another way"),
            (b"\x81\x03\x82\xa1b\x90\xa1a\x90", "claims out of order"),
            (b"\x81\x02\xcc\x01", "not the shortest integer"),
            (b"\x81\x02\xc0", "no time"),
            (b"\x81\x00\x90\x00", "something after it"),
            (
                b"\x81\x00\xdd\xff\xff\xff\xff",
                "a length that is not there",
            ),
        ] {
            assert!(Limits::decode(bad).is_err(), "{why}");
        }
    }
}
