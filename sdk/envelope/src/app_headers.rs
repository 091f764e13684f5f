//! Headers that an application adds to its message.

use std::fmt;

use crate::limits::{
    MAX_APP_HEADER_NAME, MAX_APP_HEADER_VALUE, MAX_APP_HEADERS, MAX_APP_HEADERS_LEN,
};
use crate::reader::{EncodingError, Reader, Span};
use crate::writer::{self, Sink};

/// A bounded, ordered set of named texts. Names are case-sensitive and unique.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AppHeaders {
    /// Ascending by name.
    entries: Vec<(String, String)>,
    len: usize,
}

/// Shows their names, never what they say.
impl fmt::Debug for AppHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.entries.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Why a header is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppHeaderError {
    /// Not 1 to 64 letters, digits, `-`, `_` or `.`.
    #[error("a header name is 1 to {MAX_APP_HEADER_NAME} letters, digits, `-`, `_` or `.`")]
    Name,
    /// A control character, or too long.
    #[error(
        "a header value is at most {MAX_APP_HEADER_VALUE} bytes of text without control characters"
    )]
    Value,
    /// The name is there already.
    #[error("the header is there already")]
    Duplicate,
    /// Too many headers.
    #[error("more than {limit} headers")]
    TooMany {
        /// [`MAX_APP_HEADERS`].
        limit: usize,
    },
    /// Too many bytes in all headers together.
    #[error("{actual} bytes of headers where at most {limit} are allowed")]
    TooLarge {
        /// [`MAX_APP_HEADERS_LEN`].
        limit: usize,
        /// With this header.
        actual: usize,
    },
}

impl AppHeaders {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            len: 0,
        }
    }

    /// Adds one header.
    ///
    /// # Errors
    /// [`AppHeaderError`] says which rule it breaks.
    pub fn insert(&mut self, name: &str, value: &str) -> Result<(), AppHeaderError> {
        if !is_name(name) {
            return Err(AppHeaderError::Name);
        }
        if !is_value(value) {
            return Err(AppHeaderError::Value);
        }
        let Err(at) = self.entries.binary_search_by(|(n, _)| n.as_str().cmp(name)) else {
            return Err(AppHeaderError::Duplicate);
        };
        if self.entries.len() == MAX_APP_HEADERS {
            return Err(AppHeaderError::TooMany {
                limit: MAX_APP_HEADERS,
            });
        }
        let len = self.len + name.len() + value.len();
        if len > MAX_APP_HEADERS_LEN {
            return Err(AppHeaderError::TooLarge {
                limit: MAX_APP_HEADERS_LEN,
                actual: len,
            });
        }
        self.len = len;
        self.entries.insert(at, (name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Names and values, ascending by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    pub(crate) fn write(&self, out: &mut impl Sink) {
        writer::map(out, u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        for (name, value) in self.iter() {
            writer::string(out, name);
            writer::string(out, value);
        }
    }
}

/// Reads over a map of headers; `Ok(None)` if one of them breaks a rule.
pub(crate) fn check(reader: &mut Reader<'_>) -> Result<Option<Span>, EncodingError> {
    let start = reader.position();
    let entries = reader.map(MAX_APP_HEADERS)?;
    let (mut last, mut len) = ("", 0);
    let mut sound = entries > 0;
    for _ in 0..entries {
        let (_, name) = reader.string(MAX_APP_HEADER_NAME)?;
        let (_, value) = reader.string(MAX_APP_HEADER_VALUE)?;
        sound &= is_name(name) && is_value(value) && last < name;
        len += name.len() + value.len();
        last = name;
    }
    let span = Span::new(start, reader.position())?;
    Ok((sound && len <= MAX_APP_HEADERS_LEN).then_some(span))
}

/// Names and values of a map that [`check`] went over.
pub(crate) fn iter(bytes: &[u8], span: Option<Span>) -> impl Iterator<Item = (&str, &str)> {
    let mut reader = Reader::within(bytes, span.unwrap_or_default());
    let entries = reader.map(MAX_APP_HEADERS).unwrap_or(0);
    (0..entries).map_while(move |_| {
        let (_, name) = reader.string(MAX_APP_HEADER_NAME).ok()?;
        let (_, value) = reader.string(MAX_APP_HEADER_VALUE).ok()?;
        Some((name, value))
    })
}

fn is_name(name: &str) -> bool {
    (1..=MAX_APP_HEADER_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_value(value: &str) -> bool {
    value.len() <= MAX_APP_HEADER_VALUE && !value.chars().any(char::is_control)
}
