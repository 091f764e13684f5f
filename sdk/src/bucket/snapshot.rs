//! What a bucket holds, for who may read all of it.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::message::OutboundMessage;
use bulla_identity::reserved;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::Bucket;
use super::open::Stored;
use crate::error::{BucketError, LinkError};

/// Entries in one answer.
const AT_ONCE: usize = 256;
/// The most entries that are held at once.
const MOST: usize = 100_000;
const ANSWER: Duration = Duration::from_secs(3);

impl Bucket {
    /// The entries under the keys of a pattern, in the order in which they were
    /// stored: all that are kept, or the newest of each key.
    pub(super) async fn stored(
        &self,
        pattern: &str,
        only_newest: bool,
    ) -> Result<Vec<Stored>, BucketError> {
        let mut found: Vec<Stored> = Vec::new();
        let mut newest: HashMap<String, Stored> = HashMap::new();
        let mut next = 1;
        loop {
            let pending = self
                .batch(pattern, &mut next, |stored| {
                    if only_newest {
                        newest.insert(stored.key.clone(), stored);
                    } else {
                        found.push(stored);
                    }
                })
                .await?;
            if found.len().max(newest.len()) > MOST {
                return Err(BucketError::TooMany { limit: MOST });
            }
            if pending == 0 {
                break;
            }
        }
        found.extend(newest.into_values());
        found.sort_by_key(|stored| stored.revision);
        Ok(found)
    }

    /// One answer; how many there are behind it.
    async fn batch(
        &self,
        pattern: &str,
        next: &mut u64,
        mut take: impl FnMut(Stored),
    ) -> Result<u64, BucketError> {
        let link = self.shared.connection.link();
        let malformed = || BucketError::Malformed {
            bucket: self.name.to_string(),
        };
        // Where no peer can publish, and under a name that none can guess.
        let inbox = link.new_inbox();
        let mut answers = link.subscribe(inbox.clone()).await?;
        let question = json!({
            "seq": *next,
            "next_by_subj": reserved::bucket_key(&self.name, pattern),
            "batch": AT_ONCE,
        });
        let ask = reserved::bucket_direct_gets(&self.name);
        let ask = OutboundMessage {
            subject: ask.into(),
            reply: Some(inbox.into()),
            payload: question.to_string().into(),
            headers: None,
        };
        link.publish_message(ask).await?;
        loop {
            let answer = timeout(ANSWER, answers.next()).await;
            let answer = answer.ok().flatten().ok_or(LinkError::Timeout)?;
            match answer.status.map(|status| status.as_u16()) {
                None | Some(200) => {}
                // There is nothing from there on.
                Some(404) => return Ok(0),
                // The end of a batch.
                Some(204) => {
                    let headers = answer.headers.as_ref();
                    let left = headers.and_then(|h| h.get("Nats-Num-Pending"));
                    return Ok(left.and_then(|n| n.as_str().parse().ok()).unwrap_or(0));
                }
                Some(503) => return Err(self.unreachable(LinkError::NoResponders)),
                Some(_) => return Err(malformed()),
            }
            let stored = Stored::of(&self.name, answer).ok_or_else(malformed)?;
            if stored.revision < *next {
                return Err(malformed());
            }
            *next = stored.revision.saturating_add(1);
            take(stored);
        }
    }
}
