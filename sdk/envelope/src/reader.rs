//! A strict MessagePack reader: every value has exactly one accepted encoding (SPEC.md, ENV-2).
//!
//! Lengths are compared with the caller's limit and with what is left before
//! anything is taken, and nothing is ever allocated here, so a length bomb
//! costs as much as its own bytes.

use std::ops::Range;

/// Why bytes are not the one strict encoding of the expected value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// The bytes end inside a value.
    #[error("the bytes end inside a value")]
    Truncated,
    /// Another type than expected.
    #[error("expected {expected}")]
    WrongType {
        /// What belongs here.
        expected: &'static str,
    },
    /// A shorter encoding of the same value exists.
    #[error("a value is not in its shortest encoding")]
    NotMinimal,
    /// Longer than this place allows.
    #[error("a value of length {actual} where at most {limit} is allowed")]
    TooLong {
        /// What is allowed.
        limit: usize,
        /// What was announced.
        actual: usize,
    },
    /// Another length than this place needs.
    #[error("a value of length {actual} where {expected} is needed")]
    WrongLength {
        /// What is needed.
        expected: usize,
        /// What was announced.
        actual: usize,
    },
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// Something follows the value.
    #[error("bytes follow the value")]
    TrailingBytes,
}

impl EncodingError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::WrongType { .. } => "wrong_type",
            Self::NotMinimal => "not_minimal",
            Self::TooLong { .. } => "too_long",
            Self::WrongLength { .. } => "wrong_length",
            Self::NotUtf8 => "not_utf8",
            Self::TrailingBytes => "trailing_bytes",
        }
    }
}

type Result<T> = std::result::Result<T, EncodingError>;

/// A place in the bytes that a reader went over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// From one position of a reader to a later one.
    pub(crate) fn new(start: usize, end: usize) -> Result<Self> {
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Ok(Self { start, end }),
            // Far beyond all that is read here.
            _ => Err(EncodingError::TooLong {
                limit: u32::MAX as usize,
                actual: end,
            }),
        }
    }

    pub(crate) const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub(crate) const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The bytes at this place. A span is only ever used on the bytes that it
    /// was read from; on others it might be empty, never out of bounds.
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.range()).unwrap_or_default()
    }

    /// The text at this place, which the reader found to be UTF-8.
    pub(crate) fn str_of(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(self.of(bytes)).unwrap_or_default()
    }
}

/// The place of `N` bytes that are seldom looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place<const N: usize>(u32);

impl<const N: usize> Place<N> {
    /// The bytes at this place. It is only ever used on the bytes that it was read
    /// from; on others they might be zeros, never out of bounds.
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8; N] {
        let rest = bytes.get(self.0 as usize..);
        rest.and_then(<[u8]>::first_chunk).unwrap_or(&[0; N])
    }
}

/// Reads values one after the other.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    /// What spans are places in.
    bytes: &'a [u8],
    /// Where it stops.
    end: usize,
    /// What is still to be read, up to there.
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            end: bytes.len(),
            rest: bytes,
        }
    }

    /// A reader of one span of the same bytes, which gives spans of the whole.
    pub(crate) fn within(bytes: &'a [u8], span: Span) -> Self {
        Self {
            bytes,
            end: span.range().end,
            rest: span.of(bytes),
        }
    }

    /// Succeeds if everything was read.
    pub(crate) const fn finish(&self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(EncodingError::TrailingBytes)
        }
    }

    /// What spans are places in.
    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next bytes, if there are as many; nothing is taken.
    pub(crate) fn peek<const N: usize>(&self) -> Option<&'a [u8; N]> {
        self.rest.first_chunk()
    }

    /// Goes over bytes that were looked at.
    pub(crate) fn skip(&mut self, len: usize) {
        self.rest = self.rest.get(len..).unwrap_or_default();
    }

    /// Where the next value begins.
    pub(crate) const fn position(&self) -> usize {
        self.end - self.rest.len()
    }

    #[inline]
    pub(crate) fn uint(&mut self) -> Result<u64> {
        const EXPECTED: EncodingError = EncodingError::WrongType {
            expected: "an unsigned integer",
        };
        match self.byte()? {
            fix @ 0..=0x7f => Ok(u64::from(fix)),
            0xcc => minimal(u64::from(u8::from_be_bytes(self.be()?)), 0x80),
            0xcd => minimal(u64::from(u16::from_be_bytes(self.be()?)), 0x100),
            0xce => minimal(u64::from(u32::from_be_bytes(self.be()?)), 0x1_0000),
            0xcf => minimal(u64::from_be_bytes(self.be()?), 0x1_0000_0000),
            // Non-negative values in a signed encoding.
            0xd0..=0xd3 => Err(EncodingError::NotMinimal),
            _ => Err(EXPECTED),
        }
    }

    pub(crate) fn boolean(&mut self) -> Result<bool> {
        match self.byte()? {
            0xc2 => Ok(false),
            0xc3 => Ok(true),
            _ => Err(EncodingError::WrongType {
                expected: "a boolean",
            }),
        }
    }

    /// Takes a nil if one is next.
    pub(crate) fn take_nil(&mut self) -> bool {
        let after = self.rest.strip_prefix(&[0xc0]);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    /// Whether an array is next; nothing is taken.
    pub(crate) fn is_array(&self) -> bool {
        matches!(self.rest, [0x90..=0x9f | 0xdc | 0xdd, ..])
    }

    /// The number of elements of an array, at most `limit`.
    pub(crate) fn array(&mut self, limit: usize) -> Result<usize> {
        const EXPECTED: EncodingError = EncodingError::WrongType {
            expected: "an array",
        };
        let len = match self.byte()? {
            fix @ 0x90..=0x9f => u64::from(fix & 0x0f),
            0xdc => minimal(u64::from(u16::from_be_bytes(self.be()?)), 0x10)?,
            0xdd => minimal(u64::from(u32::from_be_bytes(self.be()?)), 0x1_0000)?,
            _ => return Err(EXPECTED),
        };
        // Each element takes at least one byte.
        self.fits(len, limit, 1)
    }

    /// An array of exactly `len` elements.
    pub(crate) fn array_of(&mut self, len: usize) -> Result<()> {
        match self.array(usize::MAX)? {
            actual if actual == len => Ok(()),
            actual => Err(EncodingError::WrongLength {
                expected: len,
                actual,
            }),
        }
    }

    /// The number of entries of a map, at most `limit`.
    pub(crate) fn map(&mut self, limit: usize) -> Result<usize> {
        const EXPECTED: EncodingError = EncodingError::WrongType { expected: "a map" };
        let len = match self.byte()? {
            fix @ 0x80..=0x8f => u64::from(fix & 0x0f),
            0xde => minimal(u64::from(u16::from_be_bytes(self.be()?)), 0x10)?,
            0xdf => minimal(u64::from(u32::from_be_bytes(self.be()?)), 0x1_0000)?,
            _ => return Err(EXPECTED),
        };
        self.fits(len, limit, 2)
    }

    /// A byte string of at most `limit` bytes.
    #[inline]
    pub(crate) fn bin(&mut self, limit: usize) -> Result<Span> {
        const EXPECTED: EncodingError = EncodingError::WrongType {
            expected: "a byte string",
        };
        let len = match self.byte()? {
            0xc4 => u64::from(u8::from_be_bytes(self.be()?)),
            0xc5 => minimal(u64::from(u16::from_be_bytes(self.be()?)), 0x100)?,
            0xc6 => minimal(u64::from(u32::from_be_bytes(self.be()?)), 0x1_0000)?,
            _ => return Err(EXPECTED),
        };
        let len = self.fits(len, limit, 1)?;
        self.take(len).map(|(span, _)| span)
    }

    /// A byte string of exactly `N` bytes.
    #[inline]
    pub(crate) fn bin_of<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.chunk().map(|(_, bytes)| *bytes)
    }

    /// Where a byte string of exactly `N` bytes is.
    #[inline]
    pub(crate) fn bin_at<const N: usize>(&mut self) -> Result<Place<N>> {
        self.chunk::<N>().map(|(span, _)| Place(span.start))
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<(Span, &'a [u8; N])> {
        let span = self.bin(usize::MAX)?;
        let bytes = span.of(self.bytes);
        match bytes.try_into() {
            Ok(bytes) => Ok((span, bytes)),
            Err(_) => Err(EncodingError::WrongLength {
                expected: N,
                actual: span.len(),
            }),
        }
    }

    /// A UTF-8 string of at most `limit` bytes.
    pub(crate) fn string(&mut self, limit: usize) -> Result<(Span, &'a str)> {
        let (span, text) = self.text(limit)?;
        Ok((span, utf8(text)?))
    }

    /// The same for who looks at each byte: [`utf8`] was not asked yet.
    pub(crate) fn text(&mut self, limit: usize) -> Result<(Span, &'a [u8])> {
        const EXPECTED: EncodingError = EncodingError::WrongType {
            expected: "a string",
        };
        let len = match self.byte()? {
            fix @ 0xa0..=0xbf => u64::from(fix & 0x1f),
            0xd9 => minimal(u64::from(u8::from_be_bytes(self.be()?)), 0x20)?,
            0xda => minimal(u64::from(u16::from_be_bytes(self.be()?)), 0x100)?,
            0xdb => minimal(u64::from(u32::from_be_bytes(self.be()?)), 0x1_0000)?,
            _ => return Err(EXPECTED),
        };
        let len = self.fits(len, limit, 1)?;
        self.take(len)
    }

    #[inline]
    fn fits(&self, len: u64, limit: usize, bytes_each: usize) -> Result<usize> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > limit {
            return Err(EncodingError::TooLong { limit, actual: len });
        }
        if len.saturating_mul(bytes_each) > self.rest.len() {
            return Err(EncodingError::Truncated);
        }
        Ok(len)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8> {
        self.be::<1>().map(|[byte]| byte)
    }

    #[inline]
    fn be<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(EncodingError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<(Span, &'a [u8])> {
        let start = self.position();
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(EncodingError::Truncated)?;
        self.rest = rest;
        Ok((Span::new(start, start + len)?, taken))
    }
}

/// The text that these bytes are.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| EncodingError::NotUtf8)
}

/// Refuses a value below the least one that needs its encoding.
fn minimal(value: u64, least: u64) -> Result<u64> {
    if value < least {
        Err(EncodingError::NotMinimal)
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer;

    /// Reads any value of the types that the formats use.
    fn any_value(reader: &mut Reader<'_>, depth: usize) -> Result<()> {
        const UNSUPPORTED: EncodingError = EncodingError::WrongType {
            expected: "a type of the format",
        };
        let first = reader.rest.first().copied();
        match first.ok_or(EncodingError::Truncated)? {
            0xc0 => {
                assert!(reader.take_nil());
                Ok(())
            }
            0xc2 | 0xc3 => reader.boolean().map(drop),
            0x00..=0x7f | 0xcc..=0xd3 => reader.uint().map(drop),
            0xc4..=0xc6 => reader.bin(1 << 20).map(drop),
            0xa0..=0xbf | 0xd9..=0xdb => reader.string(1 << 20).map(drop),
            0x90..=0x9f | 0xdc | 0xdd if depth > 0 => {
                (0..reader.array(100)?).try_for_each(|_| any_value(reader, depth - 1))
            }
            0x80..=0x8f | 0xde | 0xdf if depth > 0 => {
                (0..2 * reader.map(100)?).try_for_each(|_| any_value(reader, depth - 1))
            }
            _ => Err(UNSUPPORTED),
        }
    }

    fn accepts(bytes: &[u8]) -> bool {
        let mut reader = Reader::new(bytes);
        any_value(&mut reader, 4)
            .and_then(|()| reader.finish())
            .is_ok()
    }

    /// The public msgpack test suite lists all encodings of each value: exactly
    /// the shortest is accepted, and none of the types that we do not use.
    #[test]
    fn external_msgpack_vectors() {
        let Some(dir) = std::env::var_os("BULLA_VECTORS") else {
            println!("BULLA_VECTORS is not set: the external msgpack vectors were not run");
            return;
        };
        let path = std::path::Path::new(&dir).join("encoding/msgpack_test_suite.json");
        let text = std::fs::read_to_string(path).unwrap();
        let suite: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (mut accepted, mut refused) = (0, 0);
        for case in suite
            .as_object()
            .unwrap()
            .values()
            .flat_map(|group| group.as_array().unwrap())
        {
            let encodings: Vec<Vec<u8>> = case["msgpack"]
                .as_array()
                .unwrap()
                .iter()
                .map(|hex| {
                    let hex = hex.as_str().unwrap().replace('-', "");
                    data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
                })
                .collect();
            let case = case.as_object().unwrap();
            let used = ["nil", "bool", "binary", "string", "array", "map"]
                .iter()
                .any(|name| case.contains_key(*name))
                || case.get("number").is_some_and(serde_json::Value::is_u64)
                || case
                    .get("bignum")
                    .is_some_and(|n| n.as_str().is_some_and(|n| n.parse::<u64>().is_ok()));
            let shortest = encodings
                .iter()
                .filter(|encoding| !is_float_or_signed(encoding))
                .map(Vec::len)
                .min();
            for encoding in &encodings {
                let expected =
                    used && Some(encoding.len()) == shortest && !is_float_or_signed(encoding);
                assert_eq!(accepts(encoding), expected, "{encoding:x?} of {case:?}");
                if expected {
                    accepted += 1;
                } else {
                    refused += 1;
                }
            }
        }
        println!("{accepted} encodings accepted, {refused} refused");
        assert!(accepted > 40 && refused > 40);
    }

    fn is_float_or_signed(encoding: &[u8]) -> bool {
        matches!(encoding[0], 0xca | 0xcb | 0xd0..=0xd3 | 0xe0..=0xff)
    }

    #[test]
    fn what_is_written_is_what_rmp_writes_and_what_is_read() {
        let edges = [
            0u64,
            1,
            0x7f,
            0x80,
            0xff,
            0x100,
            0xffff,
            0x1_0000,
            0xffff_ffff,
            1 << 32,
            u64::MAX,
        ];
        for value in edges {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            writer::uint(&mut ours, value);
            rmp::encode::write_uint(&mut theirs, value).unwrap();
            assert_eq!(ours, theirs);
            assert_eq!(Reader::new(&ours).uint(), Ok(value));
        }
        for len in [0usize, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            let text = "x".repeat(len);
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            writer::bin(&mut ours, text.as_bytes());
            writer::string(&mut ours, &text);
            rmp::encode::write_bin(&mut theirs, text.as_bytes()).unwrap();
            rmp::encode::write_str(&mut theirs, &text).unwrap();
            assert_eq!(ours, theirs);
            let mut reader = Reader::new(&ours);
            assert_eq!(reader.bin(len).unwrap().of(&ours), text.as_bytes());
            assert_eq!(reader.string(len).unwrap().1, text);
            reader.finish().unwrap();

            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            writer::array(&mut ours, len as u32);
            rmp::encode::write_array_len(&mut theirs, len as u32).unwrap();
            assert_eq!(ours, theirs);
            ours.resize(ours.len() + len, 0xc0);
            assert_eq!(Reader::new(&ours).array(len), Ok(len));
            assert!(len == 0 || Reader::new(&ours).array(len - 1).is_err());
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            writer::map(&mut ours, len as u32);
            rmp::encode::write_map_len(&mut theirs, len as u32).unwrap();
            assert_eq!(ours, theirs);
            ours.resize(ours.len() + 2 * len, 0xc0);
            assert_eq!(Reader::new(&ours).map(len), Ok(len));
            ours.pop();
            assert!(len == 0 || Reader::new(&ours).map(len).is_err());
        }
    }

    #[test]
    fn a_reader_within_a_span_does_not_leave_it() {
        let bytes = [0xc4, 3, 1, 2, 3];
        let span = Span { start: 0, end: 4 };
        assert_eq!(
            Reader::within(&bytes, span).bin(9),
            Err(EncodingError::Truncated)
        );
        let empty = Span { start: 2, end: 2 };
        assert_eq!(
            Reader::within(&bytes, empty).uint(),
            Err(EncodingError::Truncated)
        );
        let nil = [0xc0];
        assert!(!Reader::within(&nil, Span { start: 0, end: 0 }).take_nil());
    }
}
