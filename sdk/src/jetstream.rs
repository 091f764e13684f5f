//! What JetStream answers, as far as this crate asks it.

use async_nats::Message;
use bulla_identity::UnixMillis;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A message could not be stored. nats-server has one code for a subject that has
/// its one message and for a stream that is full; the description tells which.
pub(crate) const NOT_STORED: u64 = 10_077;
pub(crate) const SUBJECT_TAKEN: &str = "maximum messages per subject exceeded";

/// The answer to a publish.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct PublishAnswer {
    pub(crate) error: Option<ApiError>,
    #[serde(default)]
    pub(crate) stream: String,
    #[serde(default)]
    pub(crate) seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

impl ApiError {
    /// Whether a stream that keeps one message for each subject has one there.
    pub(crate) fn is_taken(&self) -> bool {
        self.err_code == NOT_STORED && self.description == SUBJECT_TAKEN
    }
}

impl PublishAnswer {
    /// Reads it; nothing if it is none.
    pub(crate) fn read(answer: &Message) -> Option<Self> {
        serde_json::from_slice(&answer.payload).ok()
    }

    /// Whether the message lies in a stream now.
    pub(crate) fn is_stored(&self) -> bool {
        self.error.is_none() && !self.stream.is_empty() && self.seq > 0
    }

    /// Whether there was a message on that subject already.
    pub(crate) fn is_taken(&self) -> bool {
        self.error.as_ref().is_some_and(ApiError::is_taken)
    }
}

/// When a stream took the message that a direct get answered with.
pub(crate) fn stream_timestamp(answer: &Message) -> Option<UnixMillis> {
    let text = answer.headers.as_ref()?.get("Nats-Time-Stamp")?.as_str();
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let millis = time.unix_timestamp_nanos() / 1_000_000;
    Some(UnixMillis::from_millis(u64::try_from(millis).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_and_errors_are_told_apart() {
        let read = |text: &str| serde_json::from_str::<PublishAnswer>(text).unwrap();
        assert!(read(r#"{"stream":"S","seq":1}"#).is_stored());
        for no in [
            r"{}",
            r#"{"stream":"S"}"#,
            r#"{"stream":"S","seq":1,"error":{"code":503,"err_code":10077}}"#,
        ] {
            assert!(!read(no).is_stored(), "{no}");
        }
        let error = |code: u64, text: &str| {
            read(&format!(
                r#"{{"error":{{"code":503,"err_code":{code},"description":"{text}"}},"stream":"S","seq":0}}"#
            ))
        };
        assert!(error(10_077, SUBJECT_TAKEN).is_taken());
        assert!(!error(10_077, SUBJECT_TAKEN).is_stored());
        for (code, text) in [(10_077, "maximum bytes exceeded"), (10_071, SUBJECT_TAKEN)] {
            assert!(!error(code, text).is_taken(), "{text}");
            assert!(!error(code, text).is_stored(), "{text}");
        }
    }
}
