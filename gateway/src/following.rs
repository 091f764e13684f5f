//! Events that a stream of the bus stores, for everybody on this node who listens.
//!
//! ```text
//! stream ─► one tail for the node ─► everybody who listens to the subject
//!    └────► who comes back, from the number that he saw last, until he is with the tail
//! ```
//!
//! The tail opens each message once, however many listen. Who falls behind reads on from
//! the stream by number, so nothing is lost and nothing piles up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bulla_identity::{Subject, SubjectPattern};
use bulla_process::SingleFlight;
use bulla_sdk::{Client, ConsumeError, Stored, StreamReader};
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::bus::{BusError, BusEvent};
use crate::sealed::{consume_error, event};

/// Between two looks at a stream that had nothing new.
const PAUSE: Duration = Duration::from_millis(100);
/// How far a listener may be behind the tail before he reads from the stream.
const AHEAD: usize = 64;

/// The tails of this node, by their stream.
#[derive(Default)]
pub(crate) struct Following(Arc<Tails>);

#[derive(Default)]
struct Tails {
    by_stream: Mutex<HashMap<String, Weak<Tail>>>,
    /// Those that are about to be followed, each by itself: one stream that does not
    /// answer holds up nobody who listens to another.
    opening: SingleFlight<String, Result<Arc<Tail>, BusError>>,
}

impl Following {
    /// Listens to a subject that a stream stores, from `after` on or from now.
    pub(crate) async fn listen(
        &self,
        client: &Client,
        (stream, consumer): (&str, &str),
        subject: &Subject,
        after: Option<u64>,
    ) -> Result<mpsc::Receiver<BusEvent>, BusError> {
        let tail = self.tail(client, stream, consumer).await?;
        let (events, receiver) = mpsc::channel(AHEAD);
        let listener = Listener {
            live: tail.live_on(subject),
            at: after.unwrap_or_else(|| tail.at.load(Ordering::Acquire)),
            pattern: pattern(subject.as_str()).map_err(|error| consume_error(&error))?,
            tail,
            events,
        };
        tokio::spawn(listener.run(after.is_some()));
        Ok(receiver)
    }

    async fn tail(
        &self,
        client: &Client,
        stream: &str,
        consumer: &str,
    ) -> Result<Arc<Tail>, BusError> {
        let tails = &self.0;
        if let Some(tail) = tails.known(stream) {
            return Ok(tail);
        }
        let open = || {
            let (tails, client) = (Arc::clone(tails), client.clone());
            tails.open(client, stream.to_owned(), consumer.to_owned())
        };
        let opened = tails.opening.join(stream.to_owned(), open).await;
        opened.unwrap_or(Err(BusError::Disconnected))
    }
}

impl Tails {
    fn known(&self, stream: &str) -> Option<Arc<Tail>> {
        let known = self.by_stream.lock().get(stream).and_then(Weak::upgrade);
        known.filter(|tail| !tail.ended.is_cancelled())
    }

    async fn open(
        self: Arc<Self>,
        client: Client,
        stream: String,
        consumer: String,
    ) -> Result<Arc<Tail>, BusError> {
        // Another may have been opened since the one who asks looked.
        if let Some(tail) = self.known(&stream) {
            return Ok(tail);
        }
        let read = async {
            let reader = client.read_stream(&stream, &consumer).await?;
            let everything = pattern(">")?;
            let at = reader.last(&everything).await?;
            Ok((reader, everything, at))
        };
        let (reader, everything, at) = read.await.map_err(|error| consume_error(&error))?;
        let tail = Arc::new(Tail {
            reader,
            at: AtomicU64::new(at),
            live: Mutex::default(),
            ended: CancellationToken::new(),
        });
        tokio::spawn(follow(Arc::downgrade(&tail), everything));
        let mut tails = self.by_stream.lock();
        tails.insert(stream, Arc::downgrade(&tail));
        drop(tails);
        Ok(tail)
    }
}

fn pattern(text: &str) -> Result<SubjectPattern, ConsumeError> {
    SubjectPattern::parse(text).map_err(|_| ConsumeError::Name {
        name: text.to_owned(),
    })
}

/// The end of a stream, as far as this node has read it. Ends with the last who listens.
struct Tail {
    reader: StreamReader,
    /// The number of what was read last.
    at: AtomicU64,
    live: Mutex<HashMap<Subject, broadcast::Sender<BusEvent>>>,
    /// The stream cannot be read any more.
    ended: CancellationToken,
}

impl Tail {
    fn live_on(&self, subject: &Subject) -> broadcast::Receiver<BusEvent> {
        let mut live = self.live.lock();
        let sender = live
            .entry(subject.clone())
            .or_insert_with(|| broadcast::channel(AHEAD).0);
        sender.subscribe()
    }

    fn tell(&self, stored: Stored) {
        let sequence = stored.sequence();
        if let Some(message) = stored.into_message() {
            let mut live = self.live.lock();
            if let Some(sender) = live.get(message.subject()) {
                let event = event(&message, Some(sequence));
                if sender.send(event).is_err() {
                    live.remove(message.subject());
                }
            }
        }
        self.at.store(sequence, Ordering::Release);
    }
}

/// Reads what the stream stores, for as long as somebody listens.
async fn follow(tail: Weak<Tail>, everything: SubjectPattern) {
    while let Some(tail) = tail.upgrade() {
        let at = tail.at.load(Ordering::Acquire);
        match tail.reader.after(&everything, at).await {
            Ok(Some(stored)) => {
                tail.tell(stored);
                continue;
            }
            // An outage: it goes on where it was.
            Ok(None) | Err(ConsumeError::Link(_)) => {}
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(error, "a stream of events cannot be read any more");
                tail.ended.cancel();
                return;
            }
        }
        tail.forget_unheard();
        drop(tail);
        tokio::time::sleep(PAUSE).await;
    }
}

impl Tail {
    fn forget_unheard(&self) {
        self.live.lock().retain(|_, s| s.receiver_count() > 0);
    }
}

struct Listener {
    tail: Arc<Tail>,
    pattern: SubjectPattern,
    live: broadcast::Receiver<BusEvent>,
    /// The number of what he has seen last.
    at: u64,
    events: mpsc::Sender<BusEvent>,
}

/// He hears no more, or there is no more to hear.
struct Gone;

impl Listener {
    /// Ends with its receiver, which the stream's connection holds.
    async fn run(mut self, mut is_behind: bool) {
        loop {
            if is_behind && self.catch_up().await.is_err() {
                return;
            }
            let heard = tokio::select! {
                () = self.events.closed() => return,
                () = self.tail.ended.cancelled() => return,
                heard = self.live.recv() => heard,
            };
            is_behind = match heard {
                Ok(event) => {
                    if self.pass(event).await.is_err() {
                        return;
                    }
                    false
                }
                Err(broadcast::error::RecvError::Lagged(_)) => true,
                Err(broadcast::error::RecvError::Closed) => return,
            };
        }
    }

    async fn catch_up(&mut self) -> Result<(), Gone> {
        loop {
            let tail = Arc::clone(&self.tail);
            let next = tokio::select! {
                () = self.events.closed() => return Err(Gone),
                next = tail.reader.after(&self.pattern, self.at) => next,
            };
            match next {
                Ok(Some(stored)) => {
                    let sequence = stored.sequence();
                    if let Some(message) = stored.into_message() {
                        self.pass(event(&message, Some(sequence))).await?;
                    }
                    self.at = self.at.max(sequence);
                }
                Ok(None) => return Ok(()),
                Err(ConsumeError::Link(_)) => tokio::time::sleep(PAUSE).await,
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Waits for a slow client: what comes meanwhile lies in the stream.
    async fn pass(&mut self, event: BusEvent) -> Result<(), Gone> {
        let place = event.place().unwrap_or_default();
        if place > self.at {
            self.events.send(event).await.map_err(|_| Gone)?;
            self.at = place;
        }
        Ok(())
    }
}
