//! The audit log of a client: its entries go out over its own connection, and its
//! message key signs their heads.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bulla_audit::{HeadStatement, Key};
use bulla_identity::reserved;
use bulla_keyring::Signature;
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::audit::{HeadSigner, Store, StoreError, Stored};
use crate::clock;
use crate::connection::Connection;
use crate::error::LinkError;
use crate::jetstream::PublishAnswer;
use crate::own::{Issuance, OwnCredential};

/// How long JetStream may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Stores over a client's connection.
pub(crate) struct ClientStore(pub(crate) Connection);

impl Store for ClientStore {
    fn store(
        &self,
        subject: String,
        id: String,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<Stored, StoreError>> {
        async move {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", id.as_str());
            let asked = self.0.ask_with_headers(subject, headers, payload, ANSWER);
            let answer = asked.await.map_err(|error| match error {
                LinkError::Refused => StoreError::Refused,
                _ => StoreError::Unreachable,
            })?;
            let answer = PublishAnswer::read(&answer.payload).ok_or(StoreError::Unreachable)?;
            if !answer.is_stored_in(reserved::AUDIT_STREAM) {
                return Err(StoreError::Refused);
            }
            Ok(Stored {
                was_there: answer.is_duplicate,
            })
        }
        .boxed()
    }
}

/// Signs with the message key in use.
pub(crate) struct ClientSigner(pub(crate) OwnCredential);

impl ClientSigner {
    fn issuance(&self) -> Option<Arc<Issuance>> {
        self.0.current(clock::now()).ok()
    }
}

impl HeadSigner for ClientSigner {
    fn key(&self) -> Option<(Key, [u8; 32])> {
        let issuance = self.issuance()?;
        let key = Key::Credential(BASE64.encode(&issuance.bytes));
        Some((key, issuance.credential))
    }

    fn sign(&self, statement: &HeadStatement<'_>) -> Option<Signature> {
        let issuance = self.issuance()?;
        (issuance.credential == statement.key)
            .then(|| statement.sign_with(|parts| issuance.sealer.sign_audit(parts)))
    }
}
