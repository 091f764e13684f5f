//! A strict MessagePack reader: every value has exactly one accepted encoding.
//!
//! Lengths are compared with the caller's limit and with what is left before
//! anything is taken, and nothing is ever allocated here, so a length bomb
//! costs as much as its own bytes.

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
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    pub(crate) const fn len(self) -> usize {
        self.end - self.start
    }

    /// The bytes at this place. A span is only ever used on the bytes that it
    /// was read from; on others it might be empty, never out of bounds.
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// The text at this place, which the reader found to be UTF-8.
    pub(crate) fn str_of(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(self.of(bytes)).unwrap_or_default()
    }
}

/// Reads values one after the other.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            end: bytes.len(),
        }
    }

    /// A reader of one span of the same bytes, which gives spans of the whole.
    pub(crate) const fn within(bytes: &'a [u8], span: Span) -> Self {
        Self {
            bytes,
            at: span.start,
            end: span.end,
        }
    }

    /// Succeeds if everything was read.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.at == self.end {
            Ok(())
        } else {
            Err(EncodingError::TrailingBytes)
        }
    }

    /// Where the next value begins.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

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
        let nil = self.at < self.end && self.bytes.get(self.at) == Some(&0xc0);
        self.at += usize::from(nil);
        nil
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
        self.take(len)
    }

    /// A byte string of exactly `N` bytes.
    pub(crate) fn bin_of<const N: usize>(&mut self) -> Result<[u8; N]> {
        let span = self.bin(usize::MAX)?;
        span.of(self.bytes)
            .try_into()
            .map_err(|_| EncodingError::WrongLength {
                expected: N,
                actual: span.len(),
            })
    }

    /// A UTF-8 string of at most `limit` bytes.
    pub(crate) fn string(&mut self, limit: usize) -> Result<(Span, &'a str)> {
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
        let span = self.take(len)?;
        let text = std::str::from_utf8(span.of(self.bytes)).map_err(|_| EncodingError::NotUtf8)?;
        Ok((span, text))
    }

    fn fits(&self, len: u64, limit: usize, bytes_each: usize) -> Result<usize> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > limit {
            return Err(EncodingError::TooLong { limit, actual: len });
        }
        if len.saturating_mul(bytes_each) > self.end - self.at {
            return Err(EncodingError::Truncated);
        }
        Ok(len)
    }

    fn byte(&mut self) -> Result<u8> {
        self.be::<1>().map(|[byte]| byte)
    }

    fn be<const N: usize>(&mut self) -> Result<[u8; N]> {
        let span = self.take(N)?;
        span.of(self.bytes)
            .try_into()
            .map_err(|_| EncodingError::Truncated)
    }

    fn take(&mut self, len: usize) -> Result<Span> {
        if len > self.end - self.at {
            return Err(EncodingError::Truncated);
        }
        let span = Span {
            start: self.at,
            end: self.at + len,
        };
        self.at = span.end;
        Ok(span)
    }
}

/// Refuses a value below the least one that needs its encoding.
fn minimal(value: u64, least: u64) -> Result<u64> {
    if value < least {
        Err(EncodingError::NotMinimal)
    } else {
        Ok(value)
    }
}
