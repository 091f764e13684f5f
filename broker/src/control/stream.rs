//! The control stream: where trust bundle, policy, revocation list, heads,
//! credentials and KEM records lie, and from where they are republished to every enforcer.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use bulla_identity::reserved;
use bytes::Bytes;

use super::streams::{self, StreamError};

/// The stream, with the configuration that Bulla relies on.
#[derive(Clone, Debug)]
pub(crate) struct ControlStream {
    context: Context,
    stream: Stream,
}

/// The newest record under one subject.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Its place in the stream, for [`ControlStream::replace`].
    pub(crate) sequence: u64,
    /// Its bytes.
    pub(crate) payload: Bytes,
}

impl ControlStream {
    /// Creates the stream, or brings an existing one to our configuration.
    pub(crate) async fn open(client: Client, replicas: usize) -> Result<Self, StreamError> {
        let (context, stream) = streams::open(client, streams::control(), replicas).await?;
        Ok(Self { context, stream })
    }

    /// An existing stream as it is, for who reads and writes records alone.
    pub(crate) async fn attach(client: Client) -> Result<Self, StreamError> {
        let (context, stream) = streams::attach(client, reserved::CTL_STREAM).await?;
        Ok(Self { context, stream })
    }

    /// Writes a record whatever is there, and does not wait: whoever needs it
    /// learns of it as news, and the next one follows soon.
    pub(crate) async fn tell(&self, subject: &str, payload: Bytes) -> Result<(), StreamError> {
        let message = PublishMessage::build().payload(payload);
        match self.context.send_publish(subject.to_owned(), message).await {
            Ok(_acknowledgement) => Ok(()),
            Err(_) => Err(StreamError::Write {
                subject: subject.to_owned(),
            }),
        }
    }

    /// The newest record under `subject`, if there is one.
    pub(crate) async fn last(&self, subject: &str) -> Result<Option<Record>, StreamError> {
        match self.stream.direct_get_last_for_subject(subject).await {
            Ok(message) => Ok(Some(Record {
                sequence: message.sequence,
                payload: message.payload,
            })),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(_) => Err(StreamError::Read {
                subject: subject.to_owned(),
            }),
        }
    }

    /// Writes a record if `previous` is still the newest under its subject
    /// (zero: if there is none). False if another broker was faster.
    pub(crate) async fn replace(
        &self,
        subject: &str,
        payload: Bytes,
        previous: u64,
    ) -> Result<bool, StreamError> {
        let message = PublishMessage::build()
            .payload(payload)
            .expected_last_subject_sequence(previous);
        self.publish(subject, message).await
    }

    /// Writes a record that disappears by itself. The first one under a
    /// subject stands.
    pub(crate) async fn add(
        &self,
        subject: &str,
        payload: Bytes,
        ttl: Duration,
    ) -> Result<bool, StreamError> {
        let message = PublishMessage::build()
            .payload(payload)
            .ttl(ttl)
            .expected_last_subject_sequence(0);
        self.publish(subject, message).await
    }

    /// Writes a record that stands: the first one under its subject, on whichever
    /// stream has that. False if there is one.
    pub(crate) async fn keep(&self, subject: &str, payload: Bytes) -> Result<bool, StreamError> {
        let message = PublishMessage::build()
            .payload(payload)
            .expected_last_subject_sequence(0);
        self.publish(subject, message).await
    }

    async fn publish(&self, subject: &str, message: PublishMessage) -> Result<bool, StreamError> {
        let failed = || StreamError::Write {
            subject: subject.to_owned(),
        };
        let ack = self
            .context
            .send_publish(subject.to_owned(), message)
            .await
            .map_err(|_| failed())?;
        match ack.await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
            Err(_) => Err(failed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineConfig};

    /// POL-161: what an operator signs as the next revision is not published over what
    /// somebody else has published meanwhile.
    #[tokio::test]
    async fn of_two_who_replace_one_record_the_later_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let store = at("streams");
        let text = format!(
            "host: 127.0.0.1\nport: -1\njetstream {{ store_dir: \"{}\" }}\n",
            store.display()
        );
        std::fs::write(at("nats.conf"), text).unwrap();
        let config = EngineConfig {
            config_file: at("nats.conf"),
            log_file: at("nats.log"),
            run_dir: dir.path().to_owned(),
        };
        let engine = Engine::locate(&|line| eprintln!("{line}")).await.unwrap();
        let server = engine.start(&config).await.unwrap();
        let client = async_nats::connect(server.client_url()).await.unwrap();
        let stream = ControlStream::open(client, 1).await.unwrap();
        let subject = reserved::CTL_POLICY;

        assert!(stream.replace(subject, "one".into(), 0).await.unwrap());
        let base = stream.last(subject).await.unwrap().unwrap().sequence;
        assert!(stream.replace(subject, "two".into(), base).await.unwrap());
        assert!(!stream.replace(subject, "three".into(), base).await.unwrap());
        assert!(!stream.replace(subject, "three".into(), 0).await.unwrap());
        let last = stream.last(subject).await.unwrap().unwrap();
        assert_eq!(last.payload, "two");
    }
}
