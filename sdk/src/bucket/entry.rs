//! What is read from a bucket.

use std::fmt;

use bulla_identity::UnixMillis;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::content::PayloadError;
use crate::message::{Message, Sender};
use crate::user::User;

/// The number under which a bucket stored an entry: it grows with every write to
/// the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Of a key that has no entry.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A verified value of a key, or the verified word that the key is deleted.
#[derive(Clone)]
pub struct Entry {
    pub(super) message: Message<Bytes>,
    pub(super) key: String,
    pub(super) revision: Revision,
    pub(super) stored_at: UnixMillis,
    pub(super) is_deleted: bool,
}

impl Entry {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Under which number the bucket stored it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// When the bucket stored it, by nats-server's clock.
    #[must_use]
    pub fn stored_at(&self) -> UnixMillis {
        self.stored_at
    }

    /// Whether it says that the key is deleted; then there is no value.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.is_deleted
    }

    /// Which workload wrote it.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        self.message.sender()
    }

    /// The user on whose behalf it was written.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.message.user()
    }

    /// The envelope's message, for everything else: headers, content type, bytes.
    #[must_use]
    pub fn message(&self) -> &Message<Bytes> {
        &self.message
    }

    /// Decodes the value by its content type.
    ///
    /// # Errors
    /// [`PayloadError`] if it is not a `T`, and for a deleted key.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        self.message.decode()
    }
}

/// Shows where a value came from, never what it is.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .field("sender", self.message.sender())
            .field("is_deleted", &self.is_deleted)
            .finish_non_exhaustive()
    }
}
