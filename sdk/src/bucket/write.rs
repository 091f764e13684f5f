//! Writing a value, or that a key is deleted.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bulla_envelope::Limits;
use bulla_identity::reserved;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use super::entry::Revision;
use super::open::{OPERATION, OPERATION_DELETED};
use super::{Bucket, DELETED};
use crate::append::Slot;
use crate::content::ContentType;
use crate::error::{BucketError, LinkError};
use crate::jetstream::PublishAnswer;
use crate::letter::Purpose;
use crate::outgoing::Outgoing;
use crate::user::User;

/// The header by which a write says which revision of its key it expects.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Another revision than the expected one is the newest.
const WRONG_REVISION: u64 = 10_071;
/// Between two attempts when the answer was that nobody is there: a bucket whose
/// leader changes is silent for some seconds.
const PAUSE: Duration = Duration::from_millis(100);

/// A value that is being put together; [`Bucket::write`] starts one.
#[must_use = "nothing is written before `put` or `delete`"]
pub struct Write<'a> {
    bucket: &'a Bucket,
    key: String,
    outgoing: Outgoing<'a>,
    expected: Option<Revision>,
    timeout: Duration,
}

impl<'a> Write<'a> {
    pub(super) fn new(bucket: &'a Bucket, key: &str) -> Self {
        let subject = reserved::bucket_key(&bucket.name, key);
        Self {
            bucket,
            key: key.to_owned(),
            outgoing: Outgoing::new(&bucket.shared, &subject),
            expected: None,
            timeout: bucket.shared.options.request_timeout,
        }
    }

    /// As [`Outgoing::payload`].
    pub fn payload<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.outgoing = self.outgoing.payload(value);
        self
    }

    /// As [`Outgoing::json`].
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.outgoing = self.outgoing.json(value);
        self
    }

    /// As [`Outgoing::bytes`].
    pub fn bytes(mut self, content_type: ContentType, body: impl Into<Bytes>) -> Self {
        self.outgoing = self.outgoing.bytes(content_type, body);
        self
    }

    /// As [`Outgoing::header`].
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.outgoing = self.outgoing.header(name, value);
        self
    }

    /// As [`Outgoing::without_user`].
    pub fn without_user(mut self) -> Self {
        self.outgoing = self.outgoing.without_user();
        self
    }

    /// As [`Outgoing::user`].
    pub fn user(mut self, user: User) -> Self {
        self.outgoing = self.outgoing.user(user);
        self
    }

    /// As [`Outgoing::user_token`].
    pub fn user_token(mut self, token: impl Into<String>) -> Self {
        self.outgoing = self.outgoing.user_token(token);
        self
    }

    /// As [`Outgoing::narrow`].
    pub fn narrow(mut self, limits: &Limits) -> Self {
        self.outgoing = self.outgoing.narrow(limits);
        self
    }

    /// Writes only if this is the newest revision of the key;
    /// [`Revision::NONE`] if it is to have none.
    pub fn expecting(mut self, revision: Revision) -> Self {
        self.expected = Some(revision);
        self
    }

    /// How long the bucket may take for its answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Writes the value, and returns when the bucket has it.
    ///
    /// # Errors
    /// [`BucketError`]. After [`BucketError::Unconfirmed`] it may have been written.
    pub async fn put(self) -> Result<Revision, BucketError> {
        self.send(false).await
    }

    /// Writes, in the place of a value, that the key is deleted.
    ///
    /// # Errors
    /// As [`Write::put`].
    pub async fn delete(mut self) -> Result<Revision, BucketError> {
        let word = ContentType::Other(DELETED.into());
        self.outgoing = self.outgoing.bytes(word, Bytes::new());
        self.send(true).await
    }

    async fn send(self, is_delete: bool) -> Result<Revision, BucketError> {
        let Self { bucket, key, .. } = self;
        let shared = &bucket.shared;
        let name = bucket.key(&key)?;
        let mut letter = self.outgoing.address_value(&name).await?;
        let is_deleted = letter.content_type.as_ref().map(ContentType::as_str) == Some(DELETED);
        if is_deleted != is_delete {
            // It would be read as what it is not.
            return Err(BucketError::Reserved);
        }
        let slot = Arc::new(Slot::default());
        letter.purpose = Purpose::Append(Arc::clone(&slot));
        let (id, issued_at) = (letter.id(), letter.issued_at);
        let subject = letter.to.subject().as_str().to_owned();
        shared.signer.post_and_tell(letter, false).await?;
        let envelope = slot.take().ok_or(LinkError::Disconnected)?;
        let mut headers = HeaderMap::new();
        if is_delete {
            headers.insert(OPERATION, OPERATION_DELETED);
        }
        if let Some(Revision(expected)) = self.expected {
            headers.insert(EXPECTED, expected.to_string().as_str());
        }
        let until = Instant::now() + self.timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let asked = shared.connection.ask_with_headers(
                subject.clone(),
                headers.clone(),
                envelope.clone(),
                left,
            );
            let answer = match asked.await {
                Ok(answer) if answer.status.is_none() => answer,
                // Nothing was stored: nobody took it.
                Ok(_) | Err(LinkError::NoResponders) if left > PAUSE => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Ok(_) | Err(LinkError::NoResponders | LinkError::Refused) => {
                    return Err(bucket.unreachable(LinkError::NoResponders));
                }
                // The same bytes must not be stored twice: it is not tried again.
                Err(_) => {
                    return Err(BucketError::Unconfirmed {
                        key: name.as_str().to_owned(),
                        after: self.timeout,
                    });
                }
            };
            let revision = bucket.written(name.as_str(), &answer)?;
            bucket.memory.note(&key, revision, id, issued_at);
            return Ok(revision);
        }
    }
}

impl Bucket {
    fn written(&self, key: &str, answer: &async_nats::Message) -> Result<Revision, BucketError> {
        let malformed = || BucketError::Malformed {
            bucket: self.name.to_string(),
        };
        let answer = PublishAnswer::read(&answer.payload).ok_or_else(malformed)?;
        let key = key.to_owned();
        match &answer.error {
            None if answer.is_stored_in(&reserved::bucket_stream(&self.name)) => {
                Ok(Revision(answer.sequence))
            }
            None => Err(malformed()),
            Some(error) if error.code == WRONG_REVISION => Err(BucketError::Conflict { key }),
            Some(error) => Err(BucketError::NotStored {
                key,
                code: error.code,
                reason: error.description.clone(),
            }),
        }
    }
}
