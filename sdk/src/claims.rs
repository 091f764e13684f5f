//! Claims: what a workload's processes agree upon, each thing once. ENV-45 and ENV-49 of
//! the envelope's SPEC.md.
//!
//! A claim is the one record under its subject on the stream `BULLA_CLAIMS`,
//! beneath the workload's own tag, where nobody else can write. The first writer
//! has it; JetStream tells every other one that it is taken.
//!
//! ```text
//! claim   $BULLA.CLAIMS.<own tag>.<hex of the key>     value: a MessagePack array
//! taken   $BULLA.TAKEN.<own tag>.<hex of the key>      the same, of what a stream stored
//! key     first 16 bytes of SHA-256 over what is claimed, each part with its length
//! ```
//!
//! Claims that are made at the same time wait for each other nowhere: each is a
//! request of its own. A lost answer is an error, although the claim may stand:
//! what it was made for is then done by nobody, never twice.

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use bulla_envelope::MessageId;
use bulla_identity::{UnixMillis, WorkloadTag, reserved};
use bulla_keyring::{KeyId, sha256};
use bytes::Bytes;
use serde::Serialize;

use crate::agreement::Agreed;
use crate::connection::Connection;
use crate::error::{LinkError, Silence};
use crate::jetstream::PublishAnswer;

/// Of a claim's value.
pub(crate) const VERSION: u8 = 1;
/// How long JetStream may take for one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// JetStream counts a record's life in whole seconds, from when it stored it.
const ROUNDING: Duration = Duration::from_secs(2);

/// Where claims lie, by what they are about.
#[derive(Clone, Copy)]
pub(crate) enum Shelf {
    /// What is sent and handled soon: each lives minutes at most.
    Sent,
    /// What a stream stored: each lives for as long as somebody may consume it.
    Stored,
}

impl Shelf {
    fn subject(self, tag: WorkloadTag, key: ClaimKey) -> String {
        match self {
            Self::Sent => reserved::claim(tag, &key.to_hex()),
            Self::Stored => reserved::taken(tag, &key.to_hex()),
        }
    }

    fn direct_get(self, tag: WorkloadTag, key: ClaimKey) -> String {
        match self {
            Self::Sent => reserved::claim_direct_get(tag, &key.to_hex()),
            Self::Stored => reserved::taken_direct_get(tag, &key.to_hex()),
        }
    }

    const fn longest(self) -> Duration {
        match self {
            Self::Sent => reserved::CLAIM_LIFE,
            Self::Stored => reserved::TAKEN_LIFE,
        }
    }

    const fn stream(self) -> &'static str {
        match self {
            Self::Sent => reserved::CLAIMS_STREAM,
            Self::Stored => reserved::TAKEN_STREAM,
        }
    }
}

/// What is claimed, as one short name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClaimKey([u8; 16]);

/// What came of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours.
    Created,
    /// Somebody has it: another process, or this one from an earlier attempt.
    Held,
}

/// What came of a claim that may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimedValue {
    /// It is ours.
    Created,
    /// It was made before, with the same value.
    Equal,
    /// It was made before, with another value.
    Different,
}

/// Why it is not known whether a claim is ours. What it was for must not be done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("the claims stream cannot be reached")]
    Unreachable(#[from] LinkError),
    #[error("the claims stream refused it, with JetStream's error {code}")]
    Refused { code: u64 },
    #[error("the claims stream is full")]
    Full,
    #[error("the claim would end before what it is for")]
    TooLong,
    #[error("the claims stream answered with something else")]
    Malformed,
    #[error("the claim ended before it was known whose it is")]
    Ended,
}

impl ClaimError {
    /// A short stable name for metrics.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(error) => match error.silence() {
                Silence::Unanswered => "claim_unreachable",
                Silence::NobodyThere => "claims_stream_missing",
                Silence::NotPermitted => "claim_not_permitted",
            },
            Self::Refused { .. } => "claim_refused",
            Self::Full => "claims_full",
            Self::TooLong => "claim_too_long",
            Self::Malformed => "claim_malformed",
            Self::Ended => "claim_ended",
        }
    }
}

impl ClaimKey {
    /// One message, for the members of a queue group that listen to one pattern.
    pub(crate) fn message(
        tag: WorkloadTag,
        group: &str,
        pattern: &str,
        sender: KeyId,
        message: MessageId,
    ) -> Self {
        Self::of(
            "message",
            &[
                tag.to_hex().as_bytes(),
                group.as_bytes(),
                pattern.as_bytes(),
                &sender.0,
                &message.0,
            ],
        )
    }

    /// The key of whatever these parts name. Keys of two kinds never meet.
    pub(crate) fn of(kind: &str, parts: &[&[u8]]) -> Self {
        let mut name = Vec::with_capacity(128);
        for part in std::iter::once(&kind.as_bytes()).chain(parts) {
            name.extend_from_slice(&(part.len() as u64).to_be_bytes());
            name.extend_from_slice(part);
        }
        let hash = sha256(&[&name]);
        Self(hash.first_chunk().copied().unwrap_or_default())
    }

    fn to_hex(self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

/// One workload's claims; cloning shares the connection.
#[derive(Clone)]
pub(crate) struct Claims {
    connection: Connection,
    tag: WorkloadTag,
    /// Names this process in its claims, for whoever looks at them.
    instance: [u8; 16],
}

impl Claims {
    pub(crate) fn new(connection: Connection, tag: WorkloadTag) -> Self {
        let instance = rand::random();
        Self {
            connection,
            tag,
            instance,
        }
    }

    /// Claims one message for the members of a queue group that listen to one
    /// pattern.
    pub(crate) async fn claim_message(
        &self,
        group: &str,
        pattern: &str,
        sender: KeyId,
        message: MessageId,
        life: Duration,
    ) -> Result<Claim, ClaimError> {
        let key = ClaimKey::message(self.tag, group, pattern, sender, message);
        let value = to_value(&(VERSION, serde_bytes::Bytes::new(&self.instance)));
        self.claim(key, value, life).await
    }

    /// Claims `key` for `life`. Who has it already has it, whatever its value.
    pub(crate) async fn claim(
        &self,
        key: ClaimKey,
        value: Bytes,
        life: Duration,
    ) -> Result<Claim, ClaimError> {
        self.put(Shelf::Sent, key, value, life).await
    }

    /// Claims a stored message for one consumer of its stream, under the number
    /// that it came with: the same number is a redelivery, another a copy.
    pub(crate) async fn claim_stored(
        &self,
        (stream, consumer): (&str, &str),
        sender: KeyId,
        message: MessageId,
        sequence: u64,
        life: Duration,
    ) -> Result<ClaimedValue, ClaimError> {
        let key = ClaimKey::of(
            "stored",
            &[
                stream.as_bytes(),
                consumer.as_bytes(),
                &sender.0,
                &message.0,
            ],
        );
        let value = to_value(&(VERSION, stream, sequence));
        self.put_value(Shelf::Stored, key, value, life).await
    }

    async fn put(
        &self,
        shelf: Shelf,
        key: ClaimKey,
        value: Bytes,
        life: Duration,
    ) -> Result<Claim, ClaimError> {
        let life = life.saturating_add(ROUNDING);
        if life > shelf.longest() {
            return Err(ClaimError::TooLong);
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-TTL", format!("{}s", life.as_secs()).as_str());
        let subject = shelf.subject(self.tag, key);
        let answer = self
            .connection
            .ask_with_headers(subject, headers, value, ANSWER)
            .await?;
        claim_of(&answer.payload, shelf.stream())
    }

    /// Writes `value` under `key`, or says what was written there first; nothing if that
    /// ended in between.
    pub(crate) async fn first(
        &self,
        shelf: Shelf,
        key: ClaimKey,
        value: &[u8],
        life: Duration,
    ) -> Result<Option<Agreed>, ClaimError> {
        let value = to_value(&(VERSION, serde_bytes::Bytes::new(value)));
        if self.put(shelf, key, value, life).await? == Claim::Created {
            return Ok(Some(Agreed::First));
        }
        Ok(self.read(shelf, key).await?.map(Agreed::Before))
    }

    /// What was written under `key` with [`Claims::first`]; nothing if it has ended.
    pub(crate) async fn read(
        &self,
        shelf: Shelf,
        key: ClaimKey,
    ) -> Result<Option<Bytes>, ClaimError> {
        let subject = shelf.direct_get(self.tag, key);
        let answer = self.connection.ask(subject, Bytes::new(), ANSWER).await?;
        match answer.status {
            None | Some(StatusCode::OK) => {
                let read: Result<(u8, serde_bytes::ByteBuf), _> =
                    rmp_serde::from_slice(&answer.payload);
                match read {
                    Ok((VERSION, first)) => Ok(Some(first.into_vec().into())),
                    _ => Err(ClaimError::Malformed),
                }
            }
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(_) => Err(ClaimError::Malformed),
        }
    }

    /// Claims `key` for `life`, or says whether it was claimed with this value.
    async fn put_value(
        &self,
        shelf: Shelf,
        key: ClaimKey,
        value: Bytes,
        life: Duration,
    ) -> Result<ClaimedValue, ClaimError> {
        match self.put(shelf, key, value.clone(), life).await? {
            Claim::Created => return Ok(ClaimedValue::Created),
            Claim::Held => {}
        }
        let subject = shelf.direct_get(self.tag, key);
        let answer = self.connection.ask(subject, Bytes::new(), ANSWER).await?;
        match answer.status {
            None | Some(StatusCode::OK) if answer.payload == value => Ok(ClaimedValue::Equal),
            None | Some(StatusCode::OK) => Ok(ClaimedValue::Different),
            // Whoever had it, it is not known with what.
            Some(StatusCode::NOT_FOUND) => Err(ClaimError::Ended),
            Some(_) => Err(ClaimError::Malformed),
        }
    }
}

/// A claim's value: MessagePack, never empty and no JSON, so that it is no request
/// to anything that might listen where it goes.
pub(crate) fn to_value(value: &impl Serialize) -> Bytes {
    // Arrays of integers, strings and bytes always encode; an empty value would
    // be refused by nobody, and means the same as any other.
    rmp_serde::to_vec(value).unwrap_or_default().into()
}

/// What JetStream's answer to a claim says.
fn claim_of(answer: &[u8], stream: &str) -> Result<Claim, ClaimError> {
    let answer = PublishAnswer::read(answer).ok_or(ClaimError::Malformed)?;
    if answer.is_stored_in(stream) {
        Ok(Claim::Created)
    } else if answer.is_taken() {
        Ok(Claim::Held)
    } else if answer.is_full() {
        Err(ClaimError::Full)
    } else {
        Err(match answer.error {
            Some(error) => ClaimError::Refused { code: error.code },
            None => ClaimError::Malformed,
        })
    }
}

/// For how long a message can come again: a receiver takes it until it has
/// expired by its own clock, which may be behind ours.
pub(crate) fn life_of(expires_at: UnixMillis, skew: Duration, now: UnixMillis) -> Duration {
    expires_at
        .saturating_add(skew.saturating_mul(2))
        .saturating_since(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jetstream::SUBJECT_TAKEN;

    fn tag(digit: char) -> WorkloadTag {
        WorkloadTag::parse(&digit.to_string().repeat(32)).unwrap()
    }

    #[test]
    fn every_part_of_what_is_claimed_counts_and_none_runs_into_the_next() {
        let key = |tag, group, pattern, sender, id| {
            ClaimKey::message(
                tag,
                group,
                pattern,
                KeyId([sender; 16]),
                MessageId([id; 16]),
            )
            .0
        };
        let base = key(tag('a'), "pay", "pay.charge", 1, 1);
        for other in [
            key(tag('b'), "pay", "pay.charge", 1, 1),
            key(tag('a'), "pays", "pay.charge", 1, 1),
            key(tag('a'), "pay", "pay.*", 1, 1),
            key(tag('a'), "pay", "pay.charge", 2, 1),
            key(tag('a'), "pay", "pay.charge", 1, 2),
            key(tag('a'), "payp", "ay.charge", 1, 1),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base, key(tag('a'), "pay", "pay.charge", 1, 1));
        assert_ne!(ClaimKey::of("a", &[b"bc"]).0, ClaimKey::of("ab", &[b"c"]).0);
    }

    /// Computed with Python's `hashlib`.
    #[test]
    fn a_key_is_a_hash_of_parts_with_their_lengths() {
        let key = ClaimKey::of("message", &[b"a", b""]);
        assert_eq!(key.to_hex(), "9814ede455f90f6d2b44ff85830f6057");
    }

    #[test]
    fn only_the_servers_word_makes_a_claim() {
        let claim = |text: &str| {
            let claimed = claim_of(text.as_bytes(), reserved::CLAIMS_STREAM);
            claimed.map_err(|error| error.code())
        };
        let error = |code: u64, text: &str| {
            claim(&format!(
                r#"{{"error":{{"code":503,"err_code":{code},"description":"{text}"}},"stream":"BULLA_CLAIMS","seq":0}}"#
            ))
        };
        assert_eq!(
            claim(r#"{"stream":"BULLA_CLAIMS","seq":7}"#),
            Ok(Claim::Created)
        );
        for no in [
            "{}",
            r#"{"stream":"BULLA_CLAIMS"}"#,
            r#"{"stream":"BULLA_CLAIMS","seq":0}"#,
            r#"{"stream":"OTHER","seq":7}"#,
            "+OK",
        ] {
            assert_eq!(claim(no), Err("claim_malformed"), "{no}");
        }
        let refused = claim(r#"{"stream":"BULLA_CLAIMS","seq":7,"error":{}}"#);
        assert_eq!(refused, Err("claim_refused"));
        assert_eq!(error(10_077, SUBJECT_TAKEN), Ok(Claim::Held));
        assert_eq!(error(10_077, "maximum bytes exceeded"), Err("claims_full"));
        assert_eq!(error(10_054, SUBJECT_TAKEN), Err("claim_refused"));
    }

    /// A stream that is gone, a right that is missing and a server that is slow are mended
    /// in three places.
    #[test]
    fn who_does_not_answer_is_told_apart() {
        let code = |error: LinkError| ClaimError::from(error).code();
        assert_eq!(code(LinkError::Timeout), "claim_unreachable");
        assert_eq!(code(LinkError::Disconnected), "claim_unreachable");
        assert_eq!(code(LinkError::NoResponders), "claims_stream_missing");
        assert_eq!(code(LinkError::Refused), "claim_not_permitted");
    }

    #[test]
    fn a_claim_outlives_the_last_moment_at_which_a_replica_takes_the_message() {
        let (now, skew) = (UnixMillis::from_secs(1_000), Duration::from_secs(2));
        let life = life_of(UnixMillis::from_secs(1_030), skew, now);
        assert_eq!(life, Duration::from_secs(34));
    }
}
