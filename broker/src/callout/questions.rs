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
        let (queue, waiting) = room();
        let responder = Responder {
            client,
            callout,
            metrics: metrics.clone(),
        };
        let is_over = {
            let callout = Arc::clone(&responder.callout);
            move |waited| waited > callout.patience()
        };
        let answer = move |message, arrived| {
            let responder = responder.clone();
            async move { responder.respond(message, arrived).await }
        };
        tokio::join!(
            enqueue(messages, queue, metrics.clone(), stop),
            answer_all(waiting, is_over, metrics, answer)
        );
    }
}

/// Where questions wait, and no more of them than [`WAITING`].
fn room() -> (mpsc::Sender<Question>, mpsc::Receiver<Question>) {
    mpsc::channel(WAITING)
}

/// Takes questions as they come. At the bound what comes is dropped: nats-server
/// gives up soon, and its client asks again.
async fn enqueue(
    mut messages: SelectAll<Subscriber>,
    queue: mpsc::Sender<Question>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let take = |message| wait(message, &queue, &metrics);
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

/// Has a question wait, if there is room.
fn wait(message: Message, queue: &mpsc::Sender<Question>, metrics: &Metrics) {
    let question = Question {
        message,
        arrived: Instant::now(),
        waits: metrics.waits(),
    };
    if queue.try_send(question).is_err() {
        metrics.unanswered("queue_full");
    }
}

/// Answers what waits, some at a time. What has waited for so long that it `is_over` is
/// dropped.
async fn answer_all<A: Future<Output = ()> + Send + 'static>(
    mut waiting: mpsc::Receiver<Question>,
    is_over: impl Fn(Duration) -> bool,
    metrics: Metrics,
    answer: impl Fn(Message, Instant) -> A,
) {
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
        if is_over(arrived.elapsed()) {
            metrics.unanswered("waited_too_long");
            continue;
        }
        let answer = answer(message, arrived);
        tokio::spawn(async move {
            answer.await;
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

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::metrics::Standing;

    fn message(number: usize) -> Message {
        Message {
            subject: REQUEST_SUBJECT.into(),
            reply: None,
            payload: number.to_string().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    fn unanswered(metrics: &Metrics, reason: &str) -> f64 {
        let text = metrics.text(&Standing::default());
        let line = text
            .lines()
            .find(|line| line.contains(&format!(r#"unanswered_total{{reason="{reason}"}}"#)));
        line.map_or(0.0, |line| {
            line.rsplit(' ').next().unwrap().parse().unwrap()
        })
    }

    /// Everything that waits is answered by this many at a time, each for so long.
    async fn answered(asked: usize, each: Duration) -> (Vec<usize>, Metrics) {
        let metrics = Metrics::new();
        let (queue, waiting) = room();
        for number in 0..asked {
            wait(message(number), &queue, &metrics);
        }
        drop(queue);
        let done = Arc::new(Mutex::new(Vec::new()));
        let is_over = |waited| waited > Duration::from_millis(1_900);
        let into = Arc::clone(&done);
        let answer = move |message: Message, _| {
            let into = Arc::clone(&into);
            async move {
                tokio::time::sleep(each).await;
                let number = std::str::from_utf8(&message.payload).unwrap();
                into.lock().push(number.parse().unwrap());
            }
        };
        answer_all(waiting, is_over, metrics.clone(), answer).await;
        let mut done = done.lock().clone();
        done.sort_unstable();
        (done, metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_nothing_waits() {
        // As the documentation says: by a number, not by whatever the program holds.
        let (done, metrics) = answered(300, Duration::from_millis(1)).await;
        assert_eq!(done, (0..256).collect::<Vec<_>>());
        assert_eq!(unanswered(&metrics, "queue_full"), 44.0);
        assert_eq!(unanswered(&metrics, "waited_too_long"), 0.0);
    }

    /// A broker that is behind drops what nobody listens to any more, at no cost.
    #[tokio::test(start_paused = true)]
    async fn what_has_waited_too_long_is_not_even_opened() {
        let (done, metrics) = answered(WAITING, Duration::from_secs(1)).await;
        let workers = 2 * std::thread::available_parallelism().unwrap().get();
        assert_eq!(
            done.len(),
            2 * workers.min(WAITING / 2),
            "those of the first 1.9 s"
        );
        let dropped = unanswered(&metrics, "waited_too_long");
        assert_eq!(dropped, (WAITING - done.len()) as f64);
    }
}
