//! `Idempotency-Key` ([draft-ietf-httpapi-idempotency-key-header]): a client names what it
//! asks for, and asks again without fear that it is done twice.
//!
//! ```text
//! first ─► the bus remembers: what was asked, under which id ─► append under that id ─► done
//! again ─► the same, and done?  202     the same, not known?  append under the first id
//!          something else?      422     too long ago to tell? 409
//! ```
//!
//! The memory is the bus's, so that all edges share it. It is of one user and one route: no
//! key of another user's can meet it. The id is random and nobody else reads it, so nobody
//! can take it first; the stream stores one message of an id, so an attempt whose answer
//! was lost is repeated without harm for as long as the stream knows ids.
//!
//! [draft-ietf-httpapi-idempotency-key-header]: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/

use std::time::Duration;

use bulla_identity::UnixMillis;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::breaker::Pass;
use crate::bus::{Bus, BusMessage};
use crate::cache::Answer;
use crate::identity::Identity;
use crate::order::{Order, judge};
use crate::problem::Problem;
use crate::refusal::{Refusal, refuse};
use crate::visit::Visit;

/// The header with which clients name what they ask for.
pub(crate) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that it was done before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY: usize = 255;
/// By how much clocks of edges may differ, and an append may take.
const MARGIN: Duration = Duration::from_secs(10);
/// Under which kinds the bus remembers.
const ASKED: &str = "edge.idempotency";
const DONE: &str = "edge.idempotency.done";

/// `idempotency` of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyConfig {
    /// For how long keys are remembered.
    pub life: Duration,
    /// Whether a request without a key is refused.
    pub is_required: bool,
}

impl<B: Bus> Visit<'_, B> {
    /// Publishes the message; once for each key of the client, if it brings one.
    pub(crate) async fn publish(
        &self,
        order: &Order<'_>,
        message: BusMessage,
        pass: Option<Pass>,
    ) -> Result<Answer, Refusal> {
        let bus = &self.edge.bus;
        let key = match order.route.idempotency {
            Some(config) => key(order.request)?.map(|key| (config, key)),
            None => None,
        };
        let (config, key) = match (key, order.route.idempotency) {
            (Some(found), _) => found,
            (None, Some(config)) if config.is_required => {
                let missing = Problem::BadRequest("send an `Idempotency-Key`");
                return Err(refuse(missing, "idempotency_key_missing"));
            }
            (None, _) => {
                let outcome = bus.publish(message, None, order.timeout).await;
                judge(pass, &outcome);
                outcome?;
                return Ok(accepted(false));
            }
        };
        let identity = order.user.map(|user| &user.identity);
        let name: [&[u8]; 4] = [
            identity.map_or("", Identity::issuer).as_bytes(),
            identity.map_or("", Identity::principal).as_bytes(),
            order.route.id.as_bytes(),
            key.as_bytes(),
        ];
        let attempt = Attempt::new(&message, order.now)?;
        let first = match bus
            .agree(ASKED, &name, &attempt.encode(), config.life)
            .await?
        {
            None => attempt,
            Some(bytes) => {
                let first = Attempt::decode(&bytes).ok_or(Problem::Unavailable)?;
                if first.fingerprint != attempt.fingerprint {
                    let other = Problem::IdempotencyMismatch;
                    return Err(refuse(other, "idempotency_mismatch"));
                }
                if bus.agreed(DONE, &name, config.life).await?.is_some() {
                    return Ok(accepted(true));
                }
                // The stream would take the message a second time, or nobody stores it.
                let knows = bus.knows_ids_for(order.subject).unwrap_or_default();
                let sure_until = first.at.saturating_add(knows.saturating_sub(MARGIN));
                if order.now >= sure_until {
                    let unknown = Problem::IdempotencyUnknown;
                    return Err(refuse(unknown, "idempotency_unknown"));
                }
                first
            }
        };
        let outcome = bus.publish(message, Some(first.id), order.timeout).await;
        judge(pass, &outcome);
        outcome?;
        if let Err(error) = bus.agree(DONE, &name, b"1", config.life).await {
            // Asked again, it is appended under the same id, which changes nothing.
            tracing::warn!(
                ?error,
                "it is not remembered that a request was carried out"
            );
        }
        Ok(accepted(false))
    }
}

fn accepted(replayed: bool) -> Answer {
    let mut headers = HeaderMap::new();
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Answer::new(StatusCode::ACCEPTED, headers, bytes::Bytes::new())
}

/// The client's key: a structured string, or the same without quotes, as most write it.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().map(str::trim).unwrap_or_default();
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let key = inner.unwrap_or(text);
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b',' | b';');
    let good = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(plain);
    if good && values.next().is_none() {
        Ok(Some(key))
    } else {
        let problem = Problem::BadRequest("send one `Idempotency-Key` of up to 255 characters");
        Err(refuse(problem, "idempotency_key_malformed"))
    }
}

/// What was asked for, when, and under which id it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attempt {
    fingerprint: [u8; 32],
    id: [u8; 16],
    at: UnixMillis,
}

impl Attempt {
    fn new(message: &BusMessage, at: UnixMillis) -> Result<Self, Refusal> {
        let mut id = [0; 16];
        // A foreseeable id could be taken first: none is better.
        getrandom::fill(&mut id).map_err(|_| Problem::Internal)?;
        Ok(Self {
            fingerprint: fingerprint(message),
            id,
            at,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(56);
        bytes.extend_from_slice(&self.fingerprint);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.at.as_millis().to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (fingerprint, rest) = bytes.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let at: [u8; 8] = rest.try_into().ok()?;
        Some(Self {
            fingerprint: *fingerprint,
            id: *id,
            at: UnixMillis::from_millis(u64::from_be_bytes(at)),
        })
    }
}

/// All that the message says, but who sends it and when.
fn fingerprint(message: &BusMessage) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(message.subject.as_str().as_bytes());
    part(message.content_type.as_bytes());
    part(&message.payload);
    for (name, value) in &message.headers {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Option<Option<String>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(KEY, HeaderValue::from_str(value).unwrap());
        }
        key(&headers).ok().map(|key| key.map(str::to_owned))
    }

    #[test]
    fn a_key_is_one_plain_text_with_or_without_quotes() {
        assert_eq!(read(&[]), Some(None));
        for good in ["a", "\"a\"", " a "] {
            assert_eq!(read(&[good]), Some(Some("a".into())), "{good}");
        }
        assert_eq!(read(&[&"k".repeat(255)]), Some(Some("k".repeat(255))));
        for bad in [
            vec![""],
            vec!["\"\""],
            vec!["a b"],
            vec!["a\"b"],
            vec!["\"a"],
            vec!["a, b"],
            vec!["\"a\";x=1"],
            vec!["a", "b"],
        ] {
            assert_eq!(read(&bad), None, "{bad:?}");
        }
        assert_eq!(read(&[&"k".repeat(256)]), None);
    }

    #[test]
    fn an_attempt_is_read_as_it_was_written() {
        let attempt = Attempt {
            fingerprint: [1; 32],
            id: [2; 16],
            at: UnixMillis::from_secs(3),
        };
        let bytes = attempt.encode();
        assert_eq!(Attempt::decode(&bytes), Some(attempt));
        assert_eq!(Attempt::decode(&bytes[1..]), None);
        assert_eq!(Attempt::decode(&[&bytes[..], b"x"].concat()), None);
    }
}
