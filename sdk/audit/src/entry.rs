//! One line of the log, strictly decoded.

use std::fmt;

use bulla_identity::{UnixMillis, WorkloadTag, reserved};
use bulla_keyring::{Tag, sha256};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::event::{Event, millis};

/// Longest line in bytes, without its end.
pub const MAX_ENTRY: usize = 32 * 1024;

const VERSION: u64 = 1;

/// SHA-256 of an entry's line under its tag; zeros before the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EntryHash(pub [u8; 32]);

impl EntryHash {
    /// Of a line, without its end.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        Self(sha256(&[Tag::AuditEntry.as_bytes(), line]))
    }
}

impl fmt::Display for EntryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for EntryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who writes a chain: one life of one process. Written as the last two tokens of
/// its subject are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Writer {
    text: Box<str>,
    tag: Option<WorkloadTag>,
}

/// What kind of process a writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterKind {
    /// A process of the workload with this tag.
    Workload(WorkloadTag),
    /// A broker.
    Broker,
}

/// Not a writer's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a writer is `<tag>.<32 hexadecimal digits>` or `broker.<16 hexadecimal digits>`")]
pub struct WriterError;

impl Writer {
    /// A process of a workload, by 16 random bytes.
    #[must_use]
    pub fn workload(tag: WorkloadTag, instance: [u8; 16]) -> Self {
        Self {
            text: format!("{tag}.{}", HEXLOWER.encode(&instance)).into(),
            tag: Some(tag),
        }
    }

    /// A broker, by its id of 8 random bytes.
    #[must_use]
    pub fn broker(instance: [u8; 8]) -> Self {
        let instance = HEXLOWER.encode(&instance);
        Self {
            text: format!("{}.{instance}", reserved::AUDIT_BROKER).into(),
            tag: None,
        }
    }

    /// Reads a writer's name.
    ///
    /// # Errors
    /// [`WriterError`].
    pub fn parse(text: &str) -> Result<Self, WriterError> {
        let (who, instance) = text.split_once('.').ok_or(WriterError)?;
        let bytes = HEXLOWER
            .decode(instance.as_bytes())
            .map_err(|_| WriterError)?;
        let tag = match (who, bytes.len()) {
            (reserved::AUDIT_BROKER, 8) => None,
            (tag, 16) => Some(WorkloadTag::parse(tag).map_err(|_| WriterError)?),
            _ => return Err(WriterError),
        };
        Ok(Self {
            text: text.into(),
            tag,
        })
    }

    /// Workload or broker.
    #[must_use]
    pub const fn kind(&self) -> WriterKind {
        match self.tag {
            Some(tag) => WriterKind::Workload(tag),
            None => WriterKind::Broker,
        }
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Who wrote it.
    pub writer: Writer,
    /// Its number in the chain, from 1.
    pub seq: u64,
    /// The hash of the entry before it.
    pub prev: EntryHash,
    /// When it happened, by the writer's clock.
    pub at: UnixMillis,
    /// What happened.
    pub event: Event,
}

/// Why a line is not an entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Longer than any entry.
    #[error("a line of {actual} bytes, where an entry has at most {limit}")]
    TooLong {
        /// The most.
        limit: usize,
        /// What it has.
        actual: usize,
    },
    /// Not the JSON of an entry.
    #[error("not an entry")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("an entry of version {0}")]
    Version(u64),
    /// Not a writer.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// Not a hash.
    #[error("`prev` is not 64 lower-case hexadecimal digits")]
    Prev,
    /// Entries are counted from 1.
    #[error("an entry with number 0")]
    Number,
}

impl EntryError {
    /// A short stable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "entry_too_long",
            Self::Json(_) => "entry_malformed",
            Self::Version(_) => "entry_version",
            Self::Writer(_) => "entry_writer",
            Self::Prev => "entry_prev",
            Self::Number => "entry_number",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    v: u64,
    writer: String,
    seq: u64,
    prev: String,
    at: u64,
    event: Event,
}

#[derive(Serialize)]
struct RawRef<'a> {
    v: u64,
    writer: &'a str,
    seq: u64,
    prev: String,
    at: u64,
    event: &'a Event,
}

impl Entry {
    /// Decodes a line without its end. Strict: no unknown and no repeated key, one
    /// version, bounded before anything is allocated.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn decode(line: &[u8]) -> Result<Self, EntryError> {
        if line.len() > MAX_ENTRY {
            return Err(EntryError::TooLong {
                limit: MAX_ENTRY,
                actual: line.len(),
            });
        }
        let raw: Raw = serde_json::from_slice(line)?;
        if raw.v != VERSION {
            return Err(EntryError::Version(raw.v));
        }
        if raw.seq == 0 {
            return Err(EntryError::Number);
        }
        let prev = HEXLOWER
            .decode(raw.prev.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(EntryError::Prev)?;
        Ok(Self {
            writer: Writer::parse(&raw.writer)?,
            seq: raw.seq,
            prev: EntryHash(prev),
            at: UnixMillis::from_millis(raw.at),
            event: raw.event,
        })
    }

    /// The line, without its end. What is read is never encoded again: only a
    /// writer calls this.
    pub(crate) fn encode(
        writer: &Writer,
        seq: u64,
        prev: EntryHash,
        at: UnixMillis,
        event: &Event,
    ) -> Result<String, serde_json::Error> {
        serde_json::to_string(&RawRef {
            v: VERSION,
            writer: writer.as_str(),
            seq,
            prev: prev.to_string(),
            at: millis(at),
            event,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let mut value = serde_json::json!({
            "v": 1, "writer": "broker.0011223344556677", "seq": 1,
            "prev": "0".repeat(64), "at": 5, "event": { "stop": {} },
        });
        change(&mut value);
        value.to_string().into_bytes()
    }

    #[test]
    fn aud_2_decoding_is_strict() {
        assert!(Entry::decode(&line(|_| {})).is_ok());
        let code = |bytes: &[u8]| Entry::decode(bytes).unwrap_err().code();
        assert_eq!(code(&line(|v| v["v"] = 2.into())), "entry_version");
        assert_eq!(code(&line(|v| v["seq"] = 0.into())), "entry_number");
        assert_eq!(code(&line(|v| v["seq"] = (-1).into())), "entry_malformed");
        assert_eq!(code(&line(|v| v["x"] = 1.into())), "entry_malformed");
        assert_eq!(
            code(&line(|v| v["event"]["stop"]["x"] = 1.into())),
            "entry_malformed"
        );
        assert_eq!(
            code(&line(|v| v["event"]["head"] = 1.into())),
            "entry_malformed"
        );
        assert_eq!(code(&line(|v| v["prev"] = "0".into())), "entry_prev");
        assert_eq!(
            code(&line(|v| v["prev"] = "A".repeat(64).into())),
            "entry_prev"
        );
        for writer in [
            "",
            "broker",
            "broker.00",
            "other.0011223344556677",
            "broker.001122334455667G",
        ] {
            assert_eq!(
                code(&line(|v| v["writer"] = writer.into())),
                "entry_writer",
                "{writer}"
            );
        }
        let text = String::from_utf8(line(|_| {})).unwrap();
        let twice = text.replacen('{', "{\"v\":1,", 1);
        assert_eq!(code(twice.as_bytes()), "entry_malformed");
        assert_eq!(code(format!("{text}{text}").as_bytes()), "entry_malformed");
        assert_eq!(code(&vec![b' '; MAX_ENTRY + 1]), "entry_too_long");
    }

    #[test]
    fn writers_are_named_as_their_subjects_end() {
        let tag = WorkloadTag::parse(&"a".repeat(32)).unwrap();
        for writer in [Writer::workload(tag, [9; 16]), Writer::broker([1; 8])] {
            assert_eq!(Writer::parse(writer.as_str()).unwrap(), writer);
        }
        assert_eq!(Writer::broker([1; 8]).kind(), WriterKind::Broker);
    }
}
