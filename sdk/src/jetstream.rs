//! What JetStream answers, as far as this crate asks it: a pure reading of payloads and
//! headers, which the fuzz target `jetstream` runs over any bytes.
//!
//! | asked | answer | read by |
//! |---|---|---|
//! | a publish that a stream stores | JSON | [`PublishAnswer`] |
//! | a stream's or a consumer's settings | JSON | [`configuration`] |
//! | a direct get | headers, and the message as it was stored | [`Place`] |

use bulla_identity::UnixMillis;
use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A message could not be stored. nats-server has one code for a subject that has
/// its one message and for a stream that is full; the description tells which.
pub(crate) const NOT_STORED: u64 = 10_077;
pub(crate) const SUBJECT_TAKEN: &str = "maximum messages per subject exceeded";
const STREAM_NOT_FOUND: u64 = 10_059;
const CONSUMER_NOT_FOUND: u64 = 10_014;

/// The answer to a publish.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct PublishAnswer {
    pub(crate) error: Option<ApiError>,
    #[serde(default)]
    pub(crate) stream: String,
    #[serde(default, rename = "seq")]
    pub(crate) sequence: u64,
    /// A message of this id was there already.
    #[serde(default, rename = "duplicate")]
    pub(crate) is_duplicate: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ApiError {
    #[serde(default, rename = "err_code")]
    pub(crate) code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

impl PublishAnswer {
    /// Reads it; nothing if it is none.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// Whether the message lies in this stream now.
    pub(crate) fn is_stored_in(&self, stream: &str) -> bool {
        let is_named = !stream.is_empty() && self.stream == stream;
        self.error.is_none() && is_named && self.sequence > 0
    }

    /// Whether the stream keeps one message for each subject, and had one there.
    pub(crate) fn is_taken(&self) -> bool {
        let error = self.error.as_ref();
        error.is_some_and(|e| e.code == NOT_STORED && e.description == SUBJECT_TAKEN)
    }

    /// Whether the stream had no room for it.
    pub(crate) fn is_full(&self) -> bool {
        let error = self.error.as_ref();
        error.is_some_and(|e| e.code == NOT_STORED && e.description != SUBJECT_TAKEN)
    }
}

/// Why an answer tells no settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoConfiguration {
    /// There is no such stream or consumer.
    Gone,
    /// Not now, for example while a cluster elects the stream's leader.
    Later,
    /// It is no answer to such a question.
    Malformed,
}

/// The settings of a stream or of a consumer.
pub(crate) fn configuration(payload: &[u8]) -> Result<Map<String, Value>, NoConfiguration> {
    #[derive(Deserialize)]
    struct Info {
        error: Option<ApiError>,
        config: Option<Map<String, Value>>,
    }
    let answer: Info = serde_json::from_slice(payload).map_err(|_| NoConfiguration::Malformed)?;
    match (answer.error, answer.config) {
        (None, Some(config)) => Ok(config),
        (None, None) => Err(NoConfiguration::Malformed),
        (Some(error), _) if matches!(error.code, STREAM_NOT_FOUND | CONSUMER_NOT_FOUND) => {
            Err(NoConfiguration::Gone)
        }
        (Some(_), _) => Err(NoConfiguration::Later),
    }
}

/// Where and when a stream stored the message that a direct get answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) stream: String,
    pub(crate) subject: String,
    /// Its number in the stream, from 1.
    pub(crate) sequence: u64,
    pub(crate) stored_at: UnixMillis,
}

impl Place {
    /// Reads the headers of an answer; nothing if they do not say it.
    pub(crate) fn of<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        Some(Self {
            stream: header("Nats-Stream")?.to_owned(),
            subject: header("Nats-Subject")?.to_owned(),
            sequence: number(header("Nats-Sequence")?).filter(|n| *n > 0)?,
            stored_at: stored_at(header)?,
        })
    }
}

/// When a stream stored the message that a direct get answered with.
pub(crate) fn stored_at<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<UnixMillis> {
    let time = OffsetDateTime::parse(header("Nats-Time-Stamp")?, &Rfc3339).ok()?;
    let millis = time.unix_timestamp_nanos() / 1_000_000;
    Some(UnixMillis::from_millis(u64::try_from(millis).ok()?))
}

/// A number as nats-server writes it: digits alone.
fn number(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_and_errors_are_told_apart() {
        let read = |text: &str| PublishAnswer::read(text.as_bytes()).unwrap();
        assert!(read(r#"{"stream":"S","seq":1}"#).is_stored_in("S"));
        for no in [
            r"{}",
            r#"{"stream":"S"}"#,
            r#"{"stream":"S","seq":0}"#,
            r#"{"stream":"T","seq":1}"#,
            r#"{"seq":1}"#,
            r#"{"stream":"S","seq":1,"error":{}}"#,
            r#"{"stream":"S","seq":1,"error":{"code":503,"err_code":10077}}"#,
        ] {
            assert!(!read(no).is_stored_in("S"), "{no}");
        }
        assert!(!read(r#"{"seq":1}"#).is_stored_in(""));
        let error = |code: u64, text: &str| {
            let answer = read(&format!(
                r#"{{"error":{{"code":503,"err_code":{code},"description":"{text}"}},"stream":"S","seq":0}}"#
            ));
            assert!(!answer.is_stored_in("S"));
            (answer.is_taken(), answer.is_full())
        };
        assert_eq!(error(10_077, SUBJECT_TAKEN), (true, false));
        assert_eq!(error(10_077, "maximum bytes exceeded"), (false, true));
        assert_eq!(error(10_071, SUBJECT_TAKEN), (false, false));
        for none in ["", "[]", "+OK", r#"{"stream":"S","seq":-1}"#] {
            assert_eq!(PublishAnswer::read(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn settings_are_there_or_it_is_said_why_not() {
        let why = |text: &str| configuration(text.as_bytes()).map(|config| config.len());
        assert_eq!(why(r#"{"config":{"name":"S"}}"#), Ok(1));
        for (answer, reason) in [
            (r#"{"error":{"err_code":10059}}"#, NoConfiguration::Gone),
            (r#"{"error":{"err_code":10014}}"#, NoConfiguration::Gone),
            (
                r#"{"error":{"err_code":10008},"config":{"name":"S"}}"#,
                NoConfiguration::Later,
            ),
            ("{}", NoConfiguration::Malformed),
            ("", NoConfiguration::Malformed),
            (r#"{"config":[]}"#, NoConfiguration::Malformed),
        ] {
            assert_eq!(why(answer), Err(reason), "{answer}");
        }
    }

    #[test]
    fn a_place_is_read_whole_or_not_at_all() {
        let good = [
            ("Nats-Stream", "S"),
            ("Nats-Subject", "orders.created"),
            ("Nats-Sequence", "7"),
            ("Nats-Time-Stamp", "2026-11-27T07:20:05.123456789Z"),
        ];
        let place = |name: &str, value: Option<&'static str>| {
            Place::of(|asked| {
                let found = good.iter().find(|(header, _)| *header == asked);
                if asked == name {
                    value
                } else {
                    found.map(|(_, said)| *said)
                }
            })
        };
        let whole = place("", None).unwrap();
        assert_eq!((&*whole.stream, whole.sequence), ("S", 7));
        assert_eq!(whole.stored_at.as_millis(), 1_795_764_005_123);
        for (name, _) in good {
            assert_eq!(place(name, None), None, "{name}");
        }
        for (name, bad) in [
            ("Nats-Sequence", "0"),
            ("Nats-Sequence", "+7"),
            ("Nats-Sequence", "18446744073709551616"),
            ("Nats-Time-Stamp", "1969-12-31T23:59:59.999Z"),
            ("Nats-Time-Stamp", "yesterday"),
        ] {
            assert_eq!(place(name, Some(bad)), None, "{bad}");
        }
    }
}
