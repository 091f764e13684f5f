//! The writer's end of a chain.

use bulla_identity::UnixMillis;
use bulla_keyring::Signature;
use data_encoding::{BASE64, HEXLOWER};

use crate::entry::{Entry, EntryHash, MAX_ENTRY, Writer};
use crate::event::{Event, Sealed};
use crate::head::HeadStatement;

/// A chain that is being written.
#[derive(Debug, Clone)]
pub struct Chain {
    writer: Writer,
    /// The number of the last entry; 0 before the first.
    seq: u64,
    /// Its hash.
    last: EntryHash,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It cannot be written.
    #[error("the entry cannot be encoded")]
    Encode(#[from] serde_json::Error),
    /// Nobody would read it.
    #[error("an entry of {actual} bytes, where {limit} are allowed")]
    TooLong {
        /// The most.
        limit: usize,
        /// What it has.
        actual: usize,
    },
}

impl Chain {
    /// An empty one.
    #[must_use]
    pub const fn new(writer: Writer) -> Self {
        Self {
            writer,
            seq: 0,
            last: EntryHash([0; 32]),
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn writer(&self) -> &Writer {
        &self.writer
    }

    /// How many entries it has.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.seq
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.seq == 0
    }

    /// Appends an entry and gives its line, without an end.
    ///
    /// # Errors
    /// [`ChainError`]; the chain is then as it was.
    pub fn append(&mut self, at: UnixMillis, event: &Event) -> Result<String, ChainError> {
        let seq = self.seq.saturating_add(1);
        let line = Entry::encode(&self.writer, seq, self.last, at, event)?;
        if line.len() > MAX_ENTRY {
            return Err(ChainError::TooLong {
                limit: MAX_ENTRY,
                actual: line.len(),
            });
        }
        self.seq = seq;
        self.last = EntryHash::of(line.as_bytes());
        Ok(line)
    }

    /// Appends a head over everything so far, signed by `sign` under the key of this
    /// name: SHA-256 of a credential, or an issuing key. Nothing if it does not sign.
    ///
    /// # Errors
    /// [`ChainError`]; the chain is then as it was.
    pub fn seal(
        &mut self,
        at: UnixMillis,
        key: [u8; 32],
        sign: impl FnOnce(&HeadStatement<'_>) -> Option<Signature>,
    ) -> Result<Option<String>, ChainError> {
        let statement = HeadStatement {
            writer: &self.writer,
            seq: self.seq.saturating_add(1),
            prev: self.last,
            at,
            key,
        };
        let Some(signature) = sign(&statement) else {
            return Ok(None);
        };
        let head = Event::Head(Sealed {
            key: HEXLOWER.encode(&key),
            signature: BASE64.encode(signature.as_bytes()),
        });
        self.append(at, &head).map(Some)
    }
}
