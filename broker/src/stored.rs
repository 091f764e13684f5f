//! All records of a stream beneath a pattern, by direct gets in batches.

use std::time::Duration;

use async_nats::Client;
use bulla_identity::UnixMillis;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::timeout;

/// A record as it lies on a stream.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Under which subject.
    pub(crate) subject: String,
    /// When nats-server stored it.
    pub(crate) at: UnixMillis,
    /// Its bytes.
    pub(crate) payload: Bytes,
}

/// The records of `stream` whose subjects match `pattern`, in the stream's order.
///
/// # Errors
/// If the stream does not answer.
pub(crate) async fn records(
    client: &Client,
    stream: &str,
    pattern: &str,
) -> Result<Vec<Stored>, NoAnswer> {
    let failed = || NoAnswer::of(stream);
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let mut found = Vec::new();
    let mut next = 1;
    loop {
        let inbox = client.new_inbox();
        let mut answers = client
            .subscribe(inbox.clone())
            .await
            .map_err(|_| failed())?;
        let question = json!({ "seq": next, "next_by_subj": pattern, "batch": AT_ONCE });
        client
            .publish_with_reply(subject.clone(), inbox, question.to_string().into())
            .await
            .map_err(|_| failed())?;
        let mut pending = 0;
        loop {
            let answer = timeout(LIMIT, answers.next()).await;
            let answer = answer.ok().flatten().ok_or_else(failed)?;
            let header = |name: &str| {
                let headers = answer.headers.as_ref()?;
                Some(headers.get(name)?.as_str().to_owned())
            };
            match answer.status.map(|status| status.as_u16()) {
                None | Some(200) => {}
                // There is nothing from there on.
                Some(404) => break,
                // The end of a batch.
                Some(204) => {
                    let left = header("Nats-Num-Pending").and_then(|n| n.parse().ok());
                    pending = left.unwrap_or(0_u64);
                    break;
                }
                Some(_) => return Err(failed()),
            }
            let (Some(subject), Some(sequence)) = (
                header("Nats-Subject"),
                header("Nats-Sequence").and_then(|n| n.parse::<u64>().ok()),
            ) else {
                return Err(failed());
            };
            next = sequence.saturating_add(1);
            let at = header("Nats-Time-Stamp").and_then(|text| time(&text));
            found.push(Stored {
                subject,
                at: at.unwrap_or_default(),
                payload: answer.payload,
            });
        }
        if pending == 0 || found.len() >= MOST {
            return Ok(found);
        }
    }
}

fn time(text: &str) -> Option<UnixMillis> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(UnixMillis::from_millis(
        u64::try_from(since.as_millis()).ok()?,
    ))
}

/// The stream is not there, or does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the stream `{stream}` does not answer: does a broker run?")]
pub(crate) struct NoAnswer {
    stream: String,
}

impl NoAnswer {
    pub(crate) fn of(stream: &str) -> Self {
        Self {
            stream: stream.to_owned(),
        }
    }
}

/// Records in one batch.
const AT_ONCE: usize = 1_000;

/// As many as any of our streams holds.
const MOST: usize = 1 << 17;

/// How long the next record may take.
const LIMIT: Duration = Duration::from_secs(3);
