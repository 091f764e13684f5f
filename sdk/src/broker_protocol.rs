//! The answers of a broker to a process that asks for a credential or hands in
//! its KEM record.
//!
//! ```text
//! challenge  = [ 1, broker id, challenge (32 bytes), reauthorises ]
//! credential = [ 1, credential | nil, reason | nil ]      exactly one of both
//! kem        = [ 1, accepted, reason | nil ]              a reason if not accepted
//! ```
//!
//! MessagePack arrays, and never empty: an answer must not be a request to
//! anything that listens where it is sent.

use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
const MAX_BROKER_ID: usize = 64;
const MAX_REASON: usize = 128;

/// Which broker challenges, with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The broker that must get the request: one NATS token.
    pub broker_id: String,
    /// 32 bytes that the request repeats.
    pub challenge: [u8; 32],
    /// Whether a connection gets what the policy gives it later without being made
    /// anew, as in operator mode.
    pub reauthorises: bool,
}

/// What came of a request for a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issued {
    /// The credential's bytes.
    Credential(Vec<u8>),
    /// A short reason, fit for the asking workload.
    Refused(String),
}

/// What came of handing in a KEM record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// It lies on the control stream.
    Accepted,
    /// A short reason, fit for the asking workload.
    Refused(String),
}

/// An answer that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker's answer is malformed")]
pub struct MalformedAnswer;

#[derive(Serialize, Deserialize)]
struct RawChallenge(u8, String, #[serde(with = "serde_bytes")] Vec<u8>, bool);

#[derive(Serialize, Deserialize)]
struct RawIssued(u8, Option<serde_bytes::ByteBuf>, Option<String>);

#[derive(Serialize, Deserialize)]
struct RawRegistered(u8, bool, Option<String>);

impl Challenge {
    /// The answer's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_vec(&RawChallenge(
            VERSION,
            self.broker_id.clone(),
            self.challenge.to_vec(),
            self.reauthorises,
        ))
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`MalformedAnswer`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedAnswer> {
        let RawChallenge(version, broker_id, challenge, reauthorises) = from_slice(bytes)?;
        let token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let named = !broker_id.is_empty()
            && broker_id.len() <= MAX_BROKER_ID
            && broker_id.chars().all(token);
        match <[u8; 32]>::try_from(challenge) {
            Ok(challenge) if version == VERSION && named => Ok(Self {
                broker_id,
                challenge,
                reauthorises,
            }),
            _ => Err(MalformedAnswer),
        }
    }
}

impl Issued {
    /// The answer's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_vec(&match self {
            Self::Credential(bytes) => RawIssued(VERSION, Some(bytes.clone().into()), None),
            Self::Refused(reason) => RawIssued(VERSION, None, Some(reason.clone())),
        })
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`MalformedAnswer`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedAnswer> {
        match from_slice(bytes)? {
            RawIssued(VERSION, Some(credential), None) => {
                Ok(Self::Credential(credential.into_vec()))
            }
            RawIssued(VERSION, None, Some(reason)) => Ok(Self::Refused(plain(&reason))),
            _ => Err(MalformedAnswer),
        }
    }
}

impl Registered {
    /// The answer's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_vec(&match self {
            Self::Accepted => RawRegistered(VERSION, true, None),
            Self::Refused(reason) => RawRegistered(VERSION, false, Some(reason.clone())),
        })
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`MalformedAnswer`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedAnswer> {
        match from_slice(bytes)? {
            RawRegistered(VERSION, true, None) => Ok(Self::Accepted),
            RawRegistered(VERSION, false, Some(reason)) => Ok(Self::Refused(plain(&reason))),
            _ => Err(MalformedAnswer),
        }
    }
}

/// What of a reason is fit for a log line.
fn plain(reason: &str) -> String {
    reason
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON)
        .collect()
}

fn to_vec<T: Serialize>(value: &T) -> Vec<u8> {
    // Arrays of integers, strings and bytes always encode; an empty answer
    // would be refused by the reader.
    rmp_serde::to_vec(value).unwrap_or_default()
}

fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, MalformedAnswer> {
    rmp_serde::from_slice(bytes).map_err(|_| MalformedAnswer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_round_trip() {
        let challenge = Challenge {
            broker_id: "b-1".into(),
            challenge: [7; 32],
            reauthorises: true,
        };
        assert_eq!(Challenge::decode(&challenge.encode()), Ok(challenge));
        for issued in [
            Issued::Credential(vec![1, 2, 3]),
            Issued::Refused("not_recent".into()),
        ] {
            assert_eq!(Issued::decode(&issued.encode()), Ok(issued));
        }
        for registered in [Registered::Accepted, Registered::Refused("why".into())] {
            assert_eq!(Registered::decode(&registered.encode()), Ok(registered));
        }
    }

    #[test]
    fn hostile_answers_are_refused() {
        for broker_id in ["", "a.b", "*", ">", "a b"] {
            let bytes = Challenge {
                broker_id: broker_id.into(),
                challenge: [7; 32],
                reauthorises: false,
            }
            .encode();
            assert_eq!(
                Challenge::decode(&bytes),
                Err(MalformedAnswer),
                "{broker_id}"
            );
        }
        assert!(Challenge::decode(b"").is_err());
        assert!(Issued::decode(b"{}").is_err());
        assert!(Issued::decode(&to_vec(&RawIssued(1, None, None))).is_err());
        assert!(Issued::decode(&to_vec(&RawIssued(2, None, Some("x".into())))).is_err());
        for raw in [
            RawRegistered(2, true, None),
            RawRegistered(1, true, Some("x".into())),
            RawRegistered(1, false, None),
        ] {
            assert!(Registered::decode(&to_vec(&raw)).is_err());
        }
    }
}
