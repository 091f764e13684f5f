//! Consuming: verified messages from a stream, each answered for by itself.
//!
//! ```text
//! bind ─► settings of stream and consumer sound? ─► pull ─► open each ─► handler ─► ack
//!              ▲                                               │
//!              └── every few seconds, after each              └── refused: told to the stream,
//!                  reconnection                                   never dropped in silence
//! ```
//!
//! The stream is this consumer's memory: what makes a copy of a message
//! impossible, or visible, are the stream's settings. So they are looked at
//! before the first message, after each reconnection and every few seconds, and
//! where they do not hold the consumer stops.

mod dead_letters;
mod delivery;
mod open;
mod reader;
mod receipt;
mod settings;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use async_nats::StatusCode;
use async_nats::message::OutboundMessage;
use bulla_identity::{Subject, SubjectPattern, reserved};
use bulla_policy::{Retention, Verb};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::audit::Tally;
use crate::clock;
use crate::decision_log;
use crate::error::{ConsumeError, LinkError};
use crate::jetstream::{NoConfiguration, configuration};
use crate::link::Feed;
use crate::message::Message;
use crate::shared::Shared;
use dead_letters::{Cause, DeadLetters, Remains};
use delivery::Delivered;
use open::Outcome;
pub(crate) use open::check_age;

pub use dead_letters::DeadLetter;
pub use reader::{Stored, StreamReader};
pub use receipt::Receipt;
pub use settings::SettingFault;
pub use worker::Worker;

/// How long JetStream may take for one answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a request for messages stands.
const PULL: Duration = Duration::from_secs(10);
/// How long its end may be late before it is taken for lost.
const PULL_GRACE: Duration = Duration::from_secs(2);
/// Between two looks at the stream's settings.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// The longest that may be asked for.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// By what it is multiplied each time, so that consumers do not all look at once.
const LOOK_SPREAD: std::ops::Range<f64> = 0.75..1.25;
/// Between two attempts at something that nobody answered.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an answer may take if the consumer does not say it: nats-server's own.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// After how long a message comes again whose dead letter was not stored.
const UNBURIED: Duration = Duration::from_secs(30);
/// The most messages that one request asks for.
const MOST_AHEAD: usize = 256;

/// Verified messages from one consumer of one stream; made by
/// [`Client::consume`](crate::Client::consume).
pub struct Consumer {
    shared: Arc<Shared>,
    stream: String,
    name: String,
    /// Whether copies are found by claims and not by the stream.
    is_claimed: bool,
    /// The uses of the grant that lets it consume.
    tally: Option<Arc<Tally>>,
    ahead: usize,
    /// How long the stream waits for an answer.
    ack_wait: Duration,
    /// Where what is given up goes.
    grave: Option<DeadLetters>,
    /// Where messages arrive; nothing while none are wanted.
    inbox: Option<Inbox>,
    disturbances: watch::Receiver<u64>,
    look_every: Duration,
    look_at: Instant,
    pull: Option<Pull>,
    /// Once its stream could not be trusted, it stays stopped.
    fault: Option<SettingFault>,
}

struct Inbox {
    subject: String,
    raw: Feed,
}

/// A request for messages that is under way.
struct Pull {
    left: usize,
    until: Instant,
}

/// A verified message and the duty to answer for it.
///
/// One that is dropped is delivered again when the consumer's `ack_wait` is over.
#[derive(Debug)]
#[must_use = "a message that is not answered for comes again"]
pub struct Delivery {
    message: Message<Bytes>,
    receipt: Receipt,
}

impl Delivery {
    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message<Bytes> {
        &self.message
    }

    /// The duty to answer for it.
    #[must_use]
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Both by themselves.
    #[must_use]
    pub fn into_parts(self) -> (Message<Bytes>, Receipt) {
        (self.message, self.receipt)
    }

    /// As [`Receipt::ack`].
    ///
    /// # Errors
    /// As there.
    pub async fn ack(self) -> Result<(), LinkError> {
        self.receipt.ack().await
    }
}

impl Consumer {
    pub(crate) async fn bind(
        shared: &Arc<Shared>,
        stream: &str,
        name: &str,
    ) -> Result<Self, ConsumeError> {
        let policy = shared.control.policy();
        let declared = policy.policy().stream(stream);
        let rule = may_consume(shared, stream, name)?;
        let whole = Subject::parse(&format!("{stream}.{name}")).ok();
        let tally = whole.and_then(|whole| {
            let workload = &shared.options.workload;
            let verb = Verb::Consume;
            shared.decisions.tally(workload, &rule, verb, &whole)
        });
        if let Some(tally) = &tally {
            tally.count();
        }
        let is_claimed = match declared.map(bulla_policy::Stream::retention) {
            Some(Retention::Limits) => false,
            Some(Retention::WorkQueue | Retention::Interest) => true,
            None => {
                return Err(ConsumeError::NotDeclared {
                    stream: stream.to_owned(),
                });
            }
        };
        let disturbances = shared.connection.disturbances();
        let mut consumer = Self {
            shared: Arc::clone(shared),
            stream: stream.to_owned(),
            name: name.to_owned(),
            is_claimed,
            tally,
            ahead: 1,
            ack_wait: ACK_WAIT,
            grave: None,
            inbox: None,
            disturbances,
            look_every: LOOK_EVERY,
            look_at: Instant::now(),
            pull: None,
            fault: None,
        };
        consumer.look().await?;
        Ok(consumer)
    }

    /// Lets up to this many messages be on their way ahead of the one in work;
    /// 1 unless it is said, at most 256. What waits here longer than the
    /// consumer's `ack_wait` is delivered a second time.
    #[must_use]
    pub fn ahead(mut self, messages: usize) -> Self {
        self.ahead = messages.clamp(1, MOST_AHEAD);
        self
    }

    /// Looks at the settings of stream and consumer about so often, besides the look
    /// after each reconnection: 4 s unless it is said, 1 s to a minute, each time a
    /// quarter more or less. A look is two or three questions to nats-server.
    ///
    /// # Security
    /// For so long a stream that is changed under the consumer is trusted as it was.
    #[must_use]
    pub fn look_every(mut self, time: Duration) -> Self {
        self.look_every = time.clamp(Duration::from_secs(1), LONGEST_LOOK);
        self.look_next();
        self
    }

    /// Appends what nobody will handle to `subject` before it is given up: what does
    /// not pass the checks and cannot heal, and what a [`Worker`] gives up. The policy
    /// lets this workload `append` there, to another stream. Without it such messages
    /// are terminated, counted and logged.
    #[must_use]
    pub fn dead_letters(mut self, subject: &str) -> Self {
        self.grave = Some(DeadLetters::new(&self.shared, subject));
        self
    }

    /// The stream's name.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Its own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next message that passes every check; waits until there is one.
    ///
    /// A message that does not pass is counted, logged, and told to the stream:
    /// terminated if nothing can heal it, handed back for a while if something
    /// may. A delivery that comes again is the same message: whoever handles
    /// messages must expect one twice if he did not answer for it.
    ///
    /// Cancel safe in that what has been taken from the stream and is being
    /// checked when the future is dropped comes again.
    ///
    /// # Errors
    /// [`ConsumeError`]. After [`ConsumeError::Misconfigured`] it stays stopped.
    pub async fn next(&mut self) -> Result<Delivery, ConsumeError> {
        self.take_next().await.map(|(delivery, _)| delivery)
    }

    /// The same with what has to be buried if it is given up.
    async fn take_next(&mut self) -> Result<(Delivery, Remains), ConsumeError> {
        let outcome = self.wait().await;
        if outcome.is_err() {
            self.let_go();
        }
        outcome
    }

    /// What is on its way goes back to the stream at once, and not when its time
    /// is over: nobody takes it here.
    fn let_go(&mut self) {
        self.inbox = None;
        self.pull = None;
    }

    async fn wait(&mut self) -> Result<(Delivery, Remains), ConsumeError> {
        loop {
            may_consume(&self.shared, &self.stream, &self.name)?;
            if self.disturbances.has_changed().unwrap_or(true) || Instant::now() >= self.look_at {
                // What comes during the look asks for another.
                let mut seen = self.disturbances.clone();
                seen.mark_unchanged();
                // Fail closed: nothing is taken from a stream whose settings nobody
                // can tell, nor after a look that failed or was given up.
                if let Err(error) = self.look().await {
                    match error {
                        ConsumeError::Link(LinkError::Timeout | LinkError::Disconnected) => {
                            tokio::time::sleep(PAUSE).await;
                            continue;
                        }
                        other => return Err(other),
                    }
                }
                self.disturbances = seen;
                self.pull = None;
            }
            let until = match &self.pull {
                Some(pull) => pull.until,
                None => self.ask().await?,
            };
            let Some(inbox) = &mut self.inbox else {
                self.pull = None;
                continue;
            };
            let raw = tokio::select! {
                biased;
                raw = inbox.raw.next() => raw,
                changed = self.disturbances.changed() => {
                    if changed.is_err() {
                        return Err(LinkError::Disconnected.into());
                    }
                    self.disturbances.mark_changed();
                    continue;
                }
                () = tokio::time::sleep_until(until.min(self.look_at)) => {
                    self.pull.take_if(|pull| pull.until <= Instant::now());
                    continue;
                }
            };
            let Some(raw) = raw else {
                return Err(LinkError::Disconnected.into());
            };
            match raw.reply.as_deref().and_then(Delivered::parse) {
                Some(delivered) => {
                    if let Some(pull) = &mut self.pull {
                        pull.left = pull.left.saturating_sub(1);
                    }
                    self.pull.take_if(|pull| pull.left == 0);
                    if let Some(delivery) = self.take(raw, delivered).await {
                        return Ok(delivery);
                    }
                }
                None => self.hear(raw.status).await?,
            }
        }
    }

    /// Opens one delivery; what is refused is told to the stream.
    async fn take(
        &self,
        raw: async_nats::Message,
        delivered: Delivered,
    ) -> Option<(Delivery, Remains)> {
        if delivered.stream != self.stream || delivered.consumer != self.name {
            // Somebody's own messages, aimed here: not ours to answer for.
            self.shared.stats.count_refused("foreign_delivery");
            return None;
        }
        let reply = raw.reply.as_deref().unwrap_or_default().to_owned();
        let receipt = Receipt::new(&self.shared, reply, delivered);
        let remains = Remains {
            subject: raw.subject.clone(),
            envelope: raw.payload.clone(),
        };
        match self.open(raw, receipt.delivered()).await {
            Outcome::Message(message) => {
                self.shared.stats.count_delivered();
                if let Some(recorder) = &self.shared.options.recorder {
                    let times = receipt.times_delivered();
                    recorder.0.taken(&self.stream, &self.name, times);
                }
                Some((Delivery { message, receipt }, remains))
            }
            Outcome::Refused { code, again } => {
                let told = match again {
                    None => {
                        let cause = Cause {
                            reason: code,
                            message: "",
                        };
                        let grave = self.grave.as_ref();
                        receipt.give_up(&remains, grave, &cause, UNBURIED).await
                    }
                    Some(after) => receipt.nak(Some(after)).await,
                };
                if told.is_err() {
                    // It comes again, and is refused again.
                    tracing::debug!(code, "the stream could not be told of a refusal");
                }
                None
            }
        }
    }

    /// Asks for messages; until when the request stands.
    async fn ask(&mut self) -> Result<Instant, ConsumeError> {
        let request = json!({
            "batch": self.ahead,
            "expires": u64::try_from(PULL.as_nanos()).unwrap_or(u64::MAX),
        });
        let to = reserved::consumer_next(&self.stream, &self.name);
        let link = self.shared.connection.link();
        let subject = match &self.inbox {
            Some(inbox) => inbox.subject.clone(),
            None => {
                // Where no peer can publish, and under a name that none can guess.
                let subject = link.new_inbox();
                let raw = link.subscribe(subject.clone()).await?;
                self.inbox.insert(Inbox { subject, raw }).subject.clone()
            }
        };
        link.publish_message(OutboundMessage {
            subject: to.into(),
            reply: Some(subject.into()),
            payload: request.to_string().into(),
            headers: None,
        })
        .await?;
        let until = Instant::now() + PULL + PULL_GRACE;
        self.pull = Some(Pull {
            left: self.ahead,
            until,
        });
        Ok(until)
    }

    /// A word of the server about the request: it has ended.
    async fn hear(&mut self, status: Option<StatusCode>) -> Result<(), ConsumeError> {
        match status {
            None => {
                // No delivery and no status: nothing that belongs here.
                self.shared.stats.count_refused("foreign_delivery");
            }
            Some(StatusCode::TIMEOUT) => self.pull = None,
            Some(_) => {
                self.pull = None;
                // Whatever it is, is the consumer still there and as it was?
                self.look_at = Instant::now();
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Looks at the settings of stream and consumer.
    async fn look(&mut self) -> Result<(), ConsumeError> {
        if let Some(fault) = &self.fault {
            return Err(self.misconfigured(fault.clone()));
        }
        let stream = self.settings(reserved::stream_info(&self.stream)).await?;
        let consumer = reserved::consumer_info(&self.stream, &self.name);
        let consumer = self.settings(consumer).await?;
        let policy = self.shared.control.policy();
        let Some(declared) = policy.policy().stream(&self.stream) else {
            return Err(ConsumeError::NotDeclared {
                stream: self.stream.clone(),
            });
        };
        self.is_claimed = declared.retention() != Retention::Limits;
        let skew = self.shared.options.clock_skew;
        let mut sound = settings::check_stream(&stream, declared, skew)
            .and_then(|()| settings::check_consumer(&consumer));
        if let Some(origin) = declared.mirror().and_then(|o| policy.policy().stream(o)) {
            let copied = self.settings(reserved::stream_info(origin.name())).await?;
            sound = sound.and_then(|()| settings::check_stream(&copied, origin, skew));
        }
        if let Some(nanos) = consumer.get("ack_wait").and_then(Value::as_u64) {
            self.ack_wait = Duration::from_nanos(nanos);
        }
        if let Err(fault) = sound {
            self.shared.stats.count_refused("stream_misconfigured");
            tracing::error!(
                stream = self.stream,
                consumer = self.name,
                %fault,
                "the stream is not what its messages need: the consumer stops"
            );
            self.fault = Some(fault.clone());
            return Err(self.misconfigured(fault));
        }
        self.look_next();
        Ok(())
    }

    fn look_next(&mut self) {
        let pause = self.look_every.mul_f64(rand::random_range(LOOK_SPREAD));
        self.look_at = Instant::now() + pause;
    }

    fn misconfigured(&self, fault: SettingFault) -> ConsumeError {
        ConsumeError::Misconfigured {
            stream: self.stream.clone(),
            consumer: self.name.clone(),
            fault,
        }
    }

    async fn settings(&self, subject: String) -> Result<Map<String, Value>, ConsumeError> {
        let asked = self.shared.connection.ask(subject, Bytes::new(), ANSWER);
        let answer = match asked.await {
            Ok(answer) if answer.status.is_none() => answer,
            Ok(_) | Err(LinkError::NoResponders) => return Err(LinkError::Timeout.into()),
            Err(error) => return Err(error.into()),
        };
        configuration(&answer.payload).map_err(|why| match why {
            NoConfiguration::Gone => ConsumeError::Gone {
                stream: self.stream.clone(),
                consumer: self.name.clone(),
            },
            NoConfiguration::Later => LinkError::Timeout.into(),
            NoConfiguration::Malformed => ConsumeError::Malformed {
                stream: self.stream.clone(),
            },
        })
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("stream", &self.stream)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Whether the policy lets this workload consume there, and by which rule; asked for
/// each message, so that a right that is gone ends it before anything is taken.
fn may_consume(shared: &Shared, stream: &str, name: &str) -> Result<String, ConsumeError> {
    let whole = format!("{stream}.{name}");
    let pattern = SubjectPattern::parse(&whole).map_err(|_| ConsumeError::Name {
        name: whole.clone(),
    })?;
    let policy = shared.control.policy();
    let workload = &shared.options.workload;
    let asked = policy
        .policy()
        .may_listen(workload, Verb::Consume, &pattern, clock::now());
    let denial = match asked {
        Ok(rule) => return Ok(rule.to_owned()),
        Err(denial) => denial,
    };
    let id = shared.decisions.deny_by(
        decision_log::Subject {
            enforcer: "receiver",
            workload: workload.path(),
            verb: Verb::Consume.as_str(),
            subject: &whole,
            user: None,
        },
        &denial,
    );
    Err(ConsumeError::Denied {
        denial: Box::new(denial),
        id,
    })
}
