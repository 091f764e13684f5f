//! The auth callout: nats-server asks about every connection, we answer with
//! that workload's permissions.
//!
//! ```text
//! $SYS.REQ.USER.AUTH ─► group bulla-a ─► one broker ─┐
//!                    └► group bulla-b ─► one broker ─┴► the first answer wins
//! ```
//!
//! A member of a queue group that hangs takes its share with it, so there are
//! two groups and every request reaches one member of each. A broker that is
//! not ready stays silent and never denies.
//!
//! Nothing here does I/O between question and answer.

mod admissions;
mod answer;
mod attest;
mod decide;
mod deny_reason;
mod nonces;
mod proof;
mod request;
mod token_keys;
mod tokens;

use std::num::NonZero;
use std::str::FromStr;
use std::sync::Arc;

use async_nats::{Client, SubscribeError, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use admissions::{AdmissionError, Admissions};
pub(crate) use admissions::{MARK, Standing};
pub use answer::ACCOUNT;
pub use decide::Callout;
pub(crate) use deny_reason::DenyReason;
pub(crate) use token_keys::TokenKeys;
pub(crate) use tokens::prove_workload;

use crate::clock;
use decide::{Random, Silence};

/// Which queue groups a broker joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Group {
    /// The first.
    A,
    /// The second.
    B,
    /// Both: right for a broker that is alone. The second copy of a request is
    /// recognised and not answered again.
    #[default]
    Both,
}

impl Group {
    fn queues(self) -> &'static [&'static str] {
        match self {
            Self::A => &["bulla-a"],
            Self::B => &["bulla-b"],
            Self::Both => &["bulla-a", "bulla-b"],
        }
    }
}

impl FromStr for Group {
    type Err = UnknownGroup;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "a" => Ok(Self::A),
            "b" => Ok(Self::B),
            "both" => Ok(Self::Both),
            other => Err(UnknownGroup(other.to_owned())),
        }
    }
}

/// Neither `a`, `b` nor `both`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown broker group `{0}`: use `a`, `b` or `both`")]
pub struct UnknownGroup(String);

/// Listens for questions. They are answered by [`Questions::serve`].
pub(crate) async fn subscribe(
    client: Client,
    callout: Arc<Callout>,
    group: Group,
) -> Result<Questions, SubscribeError> {
    let mut subscriptions = Vec::new();
    for queue in group.queues() {
        subscriptions.push(
            client
                .queue_subscribe(REQUEST_SUBJECT, (*queue).to_owned())
                .await?,
        );
    }
    Ok(Questions {
        client,
        callout,
        messages: select_all(subscriptions),
    })
}

/// Questions of nats-server, subscribed to.
pub(crate) struct Questions {
    client: Client,
    callout: Arc<Callout>,
    messages: SelectAll<Subscriber>,
}

impl Questions {
    /// Answers until `stop`, then finishes what it has begun.
    pub(crate) async fn serve(mut self, stop: CancellationToken) {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let workers = cores.saturating_mul(2);
        let places = Arc::new(Semaphore::new(workers));
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                message = self.messages.next() => match message {
                    Some(message) => message,
                    None => break,
                },
            };
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                break;
            };
            let callout = Arc::clone(&self.callout);
            let client = self.client.clone();
            tokio::spawn(async move {
                if let (Some(answer), Some(reply)) = (answer(&callout, &message), message.reply) {
                    // Only a closed connection fails here; the other group answers.
                    let _ = client.publish(reply, answer).await;
                }
                drop(place);
            });
        }
        let all = u32::try_from(workers).unwrap_or(u32::MAX);
        let _ = places.acquire_many(all).await;
    }
}

fn answer(callout: &Callout, message: &async_nats::Message) -> Option<Bytes> {
    let sender = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(XKEY_HEADER))
        .map(async_nats::HeaderValue::as_str);
    let random = Random::fresh().ok()?;
    match callout.answer(&message.payload, sender, clock::now(), &random) {
        Ok(answer) => Some(answer.into()),
        // Every request comes twice to a broker in both groups.
        Err(Silence::SameRequest) => None,
        Err(silence) => {
            tracing::warn!(target: "bulla::callout", reason = %silence, "request not answered");
            None
        }
    }
}

/// Where nats-server asks.
const REQUEST_SUBJECT: &str = "$SYS.REQ.USER.AUTH";

const XKEY_HEADER: &str = "Nats-Server-Xkey";

/// How many questions wait in each group. What comes then is dropped, and
/// nats-server's client asks again. A long queue would help nobody: it costs about
/// as much to see that a question has no time left as to answer it, so a broker
/// that is behind by more than nats-server's patience would never catch up.
pub(crate) const WAITING: usize = 256;
