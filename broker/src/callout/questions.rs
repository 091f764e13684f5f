//! What waits to be answered: few questions, counted, and none that nobody listens
//! to any more.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, SubscribeError, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Group;
use super::decide::{Callout, Random, Silence};
use crate::clock;
use crate::metrics::{Metrics, Waits};

/// Listens for questions. They are answered by [`Questions::serve`].
pub(crate) async fn subscribe(
    client: Client,
    callout: Arc<Callout>,
    group: Group,
    metrics: Metrics,
) -> Result<Questions, SubscribeError> {
    let mut messages = SelectAll::new();
    for queue in group.queues() {
        let queue = (*queue).to_owned();
        messages.push(client.queue_subscribe(REQUEST_SUBJECT, queue).await?);
    }
    Ok(Questions {
        client,
        callout,
        messages,
        metrics,
    })
}

/// Questions of nats-server, subscribed to.
pub(crate) struct Questions {
    client: Client,
    callout: Arc<Callout>,
    messages: SelectAll<Subscriber>,
    metrics: Metrics,
}

/// One of them.
struct Question {
    message: Message,
    arrived: Instant,
    waits: Waits,
}

impl Questions {
    /// Answers until `stop`, then lets no more come and answers what was asked.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let Self {
            client,
            callout,
            messages,
            metrics,
        } = self;
        let (queue, waiting) = mpsc::channel(WAITING);
        let responder = Responder {
            client,
            callout,
            metrics: metrics.clone(),
        };
        tokio::join!(
            enqueue(messages, queue, metrics, stop),
            answer_all(waiting, responder)
        );
    }
}

/// Takes questions as they come. At the bound what comes is dropped: nats-server
/// gives up soon, and its client asks again.
async fn enqueue(
    mut messages: SelectAll<Subscriber>,
    queue: mpsc::Sender<Question>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let take = |message| {
        let question = Question {
            message,
            arrived: Instant::now(),
            waits: metrics.waits(),
        };
        if queue.try_send(question).is_err() {
            metrics.unanswered("queue_full");
        }
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            message = messages.next() => match message {
                Some(message) => take(message),
                None => return,
            },
        }
    }
    // The server hands what it has not sent yet to another member of the group; what
    // it has sent is on its way and would be lost with us.
    let left = async {
        for subscription in messages.iter_mut() {
            let _ = subscription.drain().await;
        }
        while let Some(message) = messages.next().await {
            take(message);
        }
    };
    let _ = timeout(DRAIN_LIMIT, left).await;
}

async fn answer_all(mut waiting: mpsc::Receiver<Question>, responder: Responder) {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let workers = cores.saturating_mul(2);
    let places = Arc::new(Semaphore::new(workers));
    while let Some(question) = waiting.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        let Question {
            message,
            arrived,
            waits,
        } = question;
        drop(waits);
        // To see that costs nothing; to open the question and read its end costs about
        // as much as to answer it. Without this a broker that is behind stays behind.
        if arrived.elapsed() > responder.callout.patience() {
            responder.metrics.unanswered("waited_too_long");
            continue;
        }
        let responder = responder.clone();
        tokio::spawn(async move {
            responder.respond(message, arrived).await;
            drop(place);
        });
    }
    let all = u32::try_from(workers).unwrap_or(u32::MAX);
    let _ = places.acquire_many(all).await;
}

#[derive(Clone)]
struct Responder {
    client: Client,
    callout: Arc<Callout>,
    metrics: Metrics,
}

impl Responder {
    async fn respond(&self, message: Message, arrived: Instant) {
        let Some(answer) = self.answer(&message) else {
            return;
        };
        if let Some(reply) = message.reply {
            // Only a closed connection fails here; the other group answers.
            let _ = self.client.publish(reply, answer).await;
        }
        self.metrics.answered(arrived.elapsed());
    }

    fn answer(&self, message: &Message) -> Option<Bytes> {
        let sender = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(XKEY_HEADER))
            .map(async_nats::HeaderValue::as_str);
        let random = Random::fresh().ok()?;
        let answer = self
            .callout
            .answer(&message.payload, sender, clock::now(), &random);
        match answer {
            Ok(answer) => Some(answer.into()),
            Err(silence) => {
                self.metrics.unanswered(silence.code());
                // Every request comes twice to a broker in both groups.
                if !matches!(silence, Silence::SameRequest) {
                    tracing::warn!(
                        target: "bulla::callout",
                        reason = %silence,
                        "request not answered"
                    );
                }
                None
            }
        }
    }
}

/// Where nats-server asks.
const REQUEST_SUBJECT: &str = "$SYS.REQ.USER.AUTH";

const XKEY_HEADER: &str = "Nats-Server-Xkey";

/// How many questions wait. A long queue would help nobody: a broker that is behind
/// by more than nats-server's patience answers nobody in time.
pub(crate) const WAITING: usize = 256;

/// How long what is on its way may take when the broker stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
