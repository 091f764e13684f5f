//! Asking: a request leaves, and its replies are waited for, opened and judged.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{
    CheckError, ErrorCode, ErrorReport, Expectation, Kind, LeafHash, OpenedEnvelope,
    SealedEnvelope, VerifiedCredential,
};
use bulla_identity::{Subject, UnixMillis, WorkloadId};
use bulla_keyring::MacKey;
use bulla_policy::{Decision, LONGEST_MAX_AGE, Replies, Request, Verb};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::answers::ERROR_HEADER;
use crate::clock;
use crate::decision_log;
use crate::error::{RequestError, SendError, ServiceError, ServiceErrorCode};
use crate::incoming::{content_type, own_headers};
use crate::letter::{Letter, Purpose, To};
use crate::message::{Response, Sender};
use crate::outgoing::Outgoing;
use crate::own::Issuance;
use crate::pending::Interruption;
use crate::refusal::{Refusal, chain};
use crate::replies::{ExpectedReply, ROOM_FOR_MANY, ROOM_FOR_ONE};
use crate::reply_keys::Side;
use crate::reply_order::{Arrival, Misplaced, ReplyOrder};
use crate::routes::Route;
use crate::shared::Shared;
use crate::telemetry;
use crate::trial;
use crate::user::User;

impl Outgoing<'_> {
    /// Sends it as a request and waits for the verified reply.
    ///
    /// Forged and unsound replies are counted and do not end the wait, so that nobody
    /// can end it for others; if nothing else comes, the error says so. The
    /// time-out counts from when the message may leave, and dropping the future
    /// before that keeps it from leaving. It travels with the request, so that the
    /// service stops when nobody waits any more; inside of a handler it is no longer
    /// than what is left of the deadline of the request that is being handled.
    ///
    /// # Errors
    /// [`RequestError`]; a denial by policy is known before anything is sent,
    /// and [`RequestError::NotOneReply`] if the service answers with a stream.
    pub async fn request(mut self) -> Result<Response, RequestError> {
        let (shared, began) = (Arc::clone(self.shared), Instant::now());
        let span = self.begin_span();
        let outcome = if span.is_none() {
            // Where it stands: what is instrumented is moved first, in whole.
            self.ask_once(began).await
        } else {
            Box::pin(self.ask_once(began))
                .instrument(span.clone())
                .await
        };
        let what = telemetry::of_asking(&outcome);
        telemetry::conclude(&span, what);
        if let Some(recorder) = &shared.options.recorder {
            recorder.0.asked(what, began.elapsed());
        }
        outcome
    }

    async fn ask_once(self, began: Instant) -> Result<Response, RequestError> {
        let timeout = self
            .patience()
            .map_or(self.timeout, |p| p.min(self.timeout));
        let until = self.is_urgent.then(|| began + timeout);
        let (mut asked, letter) = self.ask(ROOM_FOR_ONE, Some(timeout), until).await?;
        let until = until.unwrap_or_else(|| Instant::now() + timeout);
        let outcome = {
            // Pinned where it stands, and not moved into what bounds it.
            let wait = pin!(async {
                asked.send(letter).await?;
                let first = asked.next().await?;
                match first.outcome {
                    Some(outcome) if first.is_final => outcome,
                    _ => Err(RequestError::NotOneReply {
                        subject: asked.subject.as_str().to_owned(),
                    }),
                }
            });
            tokio::time::timeout_at(until, wait).await
        };
        outcome.unwrap_or_else(|_| Err(asked.unanswered(timeout)))
    }

    /// Sends it as a request and gives the verified replies, one after the
    /// other, in the order in which the service sent them.
    ///
    /// Returns once the request is sent. The time-out is how long it may take
    /// to be sent, and then how long each reply may take after the one before.
    ///
    /// # Errors
    /// [`RequestError`]; a denial by policy is known before anything is sent.
    pub async fn request_many(mut self) -> Result<Responses, RequestError> {
        let _span = self.begin_span();
        let (timeout, patience) = (self.timeout, self.patience());
        let (asked, letter) = self.ask(ROOM_FOR_MANY, patience, None).await?;
        // It is on its way when this returns, whoever looks at its replies.
        let send = async {
            asked.send(letter).await?;
            let sent = asked.expected.sent().await;
            sent.map_err(|why| asked.interrupted(why))
        };
        let sent = tokio::time::timeout(timeout, send).await;
        match sent {
            Ok(sent) => sent?,
            Err(_) => {
                return Err(RequestError::Timeout {
                    subject: asked.subject.as_str().to_owned(),
                    after: timeout,
                });
            }
        }
        Ok(Responses {
            asked,
            timeout,
            is_over: false,
        })
    }

    /// `patience` is how long anybody waits for it: its envelope lives no longer,
    /// and so tells the service. Until `until` what it needs is waited for.
    async fn ask(
        self,
        room: usize,
        patience: Option<Duration>,
        until: Option<Instant>,
    ) -> Result<(Asked, Box<Letter>), RequestError> {
        let shared = Arc::clone(self.shared);
        let mut letter = match self.address_at_once(Verb::Request)? {
            Ok(letter) => letter,
            Err(outgoing) => Box::pin(outgoing.address_until(until, patience)).await?,
        };
        if let Some(patience) = patience {
            if patience.is_zero() {
                return Err(RequestError::DeadlinePassed {
                    subject: letter.to.subject().as_str().to_owned(),
                });
            }
            letter.life = letter.life.min(patience);
        }
        let to = letter.to.subject();
        let expected = shared.replies.expect(to, room).map_err(|source| {
            let subject = to.as_str().to_owned();
            SendError::Subject { subject, source }
        })?;
        let reply_to = expected.reply_to().clone();
        let route = match &letter.to {
            To::Route(route) => Some(Arc::clone(route)),
            To::Inbox(_) => None,
        };
        let mut asked = Asked {
            route,
            subject: letter.to.subject().clone(),
            user: letter.user.clone(),
            under: None,
            expected,
            order: ReplyOrder::new(),
            unread: None,
            unsound: None,
            shared,
        };
        letter.purpose = Purpose::Request { reply_to };
        if letter.replies() == Replies::Mac {
            // Its replies are for the holder of this credential.
            let under = asked.shared.own.current(letter.issued_at)?;
            letter.under = Some(Arc::clone(&under.sealer));
            asked.under = Some(under);
        }
        Ok((asked, letter))
    }
}

impl Outgoing<'_> {
    /// Addressed before `until`, where that is said.
    async fn address_until(
        self,
        until: Option<Instant>,
        patience: Option<Duration>,
    ) -> Result<Box<Letter>, RequestError> {
        let Some(until) = until else {
            return Ok(self.address(Verb::Request).await?);
        };
        let subject = self
            .subject()
            .map_or_else(String::new, |s| s.as_str().to_owned());
        let address = pin!(self.address(Verb::Request));
        match tokio::time::timeout_at(until, address).await {
            Ok(addressed) => Ok(addressed?),
            Err(_) => Err(RequestError::Timeout {
                subject,
                after: patience.unwrap_or_default(),
            }),
        }
    }
}

/// The verified replies to one request, see
/// [`Outgoing::request_many`](crate::Outgoing::request_many).
///
/// All are by one process, in the order in which it sent them, each once.
/// Dropping it gives up: later replies are counted and ignored, and the service
/// is not told.
pub struct Responses {
    asked: Asked,
    timeout: Duration,
    is_over: bool,
}

impl Responses {
    /// The next reply; `None` after the one that closes them. An error is the
    /// last thing that is given.
    ///
    /// What is not taken waits, up to 1,024 replies; one that finds no room is
    /// lost and counted (`reply_overflow`), and ends this with
    /// [`RequestError::ReplyMissing`]. Replies that come before their turn wait
    /// for the missing ones until the time-out.
    ///
    /// Cancel safe: dropped before it returns, nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Response, RequestError>> {
        if self.is_over {
            return None;
        }
        let next = self.wait().await;
        self.is_over = match &next {
            Ok(taken) => taken.is_final || matches!(taken.outcome, Some(Err(_))),
            Err(_) => true,
        };
        match next {
            Ok(taken) => taken.outcome,
            Err(error) => Some(Err(error)),
        }
    }

    async fn wait(&mut self) -> Result<Taken, RequestError> {
        match tokio::time::timeout(self.timeout, self.asked.next()).await {
            Ok(next) => next,
            Err(_) => Err(self.asked.missed(self.timeout)),
        }
    }
}

/// Shows what was asked, never what came.
impl std::fmt::Debug for Responses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responses")
            .field("subject", &self.asked.subject)
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}

/// A request that waits for its replies.
struct Asked {
    shared: Arc<Shared>,
    /// What is remembered of its subject.
    route: Option<Arc<Route>>,
    subject: Subject,
    user: Option<User>,
    /// Under which it was sealed, where replies may be for its holder alone.
    under: Option<Arc<Issuance>>,
    expected: ExpectedReply,
    order: ReplyOrder<OpenedEnvelope>,
    /// Taken from the bus and not judged yet, with the leaf that it must be bound to:
    /// a caller that stops waiting in between loses nothing.
    unread: Option<(LeafHash, async_nats::Message)>,
    /// What came and does not count.
    unsound: Option<Unsound>,
}

/// Replies that were refused.
#[derive(Debug, Clone, Copy)]
struct Unsound {
    count: u64,
    /// The code of the last one's refusal.
    last: &'static str,
}

/// A reply whose turn has come.
struct Taken {
    is_final: bool,
    /// Nothing in one that only closes.
    outcome: Option<Result<Response, RequestError>>,
}

impl Asked {
    /// Returns when the request is sent or waits to be: the rest is told to who
    /// waits for replies.
    async fn send(&self, letter: Box<Letter>) -> Result<(), SendError> {
        let is_crowded = self.shared.replies.is_crowded();
        let (signer, pending) = (&self.shared.signer, self.expected.pending());
        signer.post_request(letter, is_crowded, pending).await
    }

    /// Why nothing more comes.
    fn interrupted(&self, why: Interruption) -> RequestError {
        match why {
            Interruption::Lost(failure) => SendError::from(failure).into(),
            Interruption::Refused => {
                let (connection, subject) = (&self.shared.connection, self.subject.as_str());
                connection.take_refused_publishes(subject);
                RequestError::RefusedByServer {
                    subject: subject.to_owned(),
                }
            }
        }
    }

    /// The next reply in order. What does not count is counted as refused.
    async fn next(&mut self) -> Result<Taken, RequestError> {
        loop {
            if let Some((_, is_final, opened)) = self.order.take() {
                return Ok(Taken {
                    is_final,
                    outcome: outcome_of(&opened),
                });
            }
            let (leaf, raw) = match &self.unread {
                Some(unread) => unread.clone(),
                None => {
                    // Who was answered was asked: the server let it through.
                    let may_be_refused = self.order.is_untouched();
                    match self.expected.next(may_be_refused).await {
                        Ok(came) => self.unread.insert(came).clone(),
                        Err(why) => return Err(self.interrupted(why)),
                    }
                }
            };
            // nats-server's word, and only while nobody has answered.
            let is_nobody = raw.status == Some(async_nats::StatusCode::NO_RESPONDERS);
            if is_nobody && self.order.is_untouched() {
                return Err(RequestError::NoResponders {
                    subject: self.subject.as_str().to_owned(),
                });
            }
            let judged = self.judge(leaf, raw).await;
            self.unread = None;
            if let Err(refusal) = judged {
                self.unsound = Some(Unsound {
                    count: self.unsound.map_or(1, |before| before.count + 1),
                    last: refusal.code(),
                });
                self.shared.refuse_reply(&self.subject, &refusal);
            }
        }
    }

    /// Every check of a reply, and its place among the others last.
    async fn judge(&mut self, leaf: LeafHash, raw: async_nats::Message) -> Result<(), Refusal> {
        let weight = raw.payload.len();
        let opened = self.pass(leaf, raw).await?;
        // `check` has compared the request: a binding is there.
        let binding = opened.binding().ok_or(CheckError::WrongRequest)?;
        let dropped = self.order.accept(Arrival {
            responder: opened.sender().key_id,
            leaf: opened.leaf(),
            binding,
            weight,
            reply: opened,
        })?;
        for _ in 0..dropped {
            let refusal = Refusal::Reply(Misplaced::AfterFinal);
            self.shared.refuse_reply(&self.subject, &refusal);
        }
        Ok(())
    }

    /// Every check of a reply but its place among the others.
    async fn pass(
        &self,
        leaf: LeafHash,
        raw: async_nats::Message,
    ) -> Result<OpenedEnvelope, Refusal> {
        let shared = &self.shared;
        if raw.status.is_some() {
            return Err(Refusal::Status);
        }
        let now = clock::now();
        shared.control.check(now)?;
        let sealed = SealedEnvelope::decode(raw.payload)?;
        let credential = shared.control.credential(sealed.key_id(), now).await?;
        let authentic = if sealed.has_mac() {
            let key = self.mac_key(&credential)?;
            sealed.verify_mac(&credential, &key)?
        } else {
            sealed.verify_with(&credential, &shared.roots)?
        };
        let checked = authentic.check(&Expectation {
            subject: &raw.subject,
            reply_to: raw.reply.as_deref(),
            kinds: &[Kind::Reply, Kind::Error],
            now,
            skew: shared.options.clock_skew,
            // Bound to a request of our own that is still waiting.
            max_age: LONGEST_MAX_AGE,
            not_before: UnixMillis::default(),
            request: Some(leaf),
        })?;
        let policy = shared.control.policy();
        let route = self
            .route
            .as_deref()
            .filter(|r| r.is_current(&shared.control));
        let opened = if checked.kind() == Kind::Error {
            // A code and a name, for nobody to hide.
            checked.open_clear()?
        } else {
            let requirements = match route {
                Some(route) => route.requirements,
                None => policy.policy().requirements(&self.subject),
            };
            shared.unlocker.open(checked, &requirements).await?
        };
        let workload = &opened.sender().workload;
        let served = route.and_then(|route| route.served(workload, now));
        if let Some((_, permit)) = served.as_ref().and_then(|served| served.as_deref()) {
            trial::allowed(&shared.stats, permit, || self.what(workload));
            return Ok(opened);
        }
        let request = Request {
            workload,
            verb: Verb::Serve,
            subject: &self.subject,
            user: self.user.as_ref().map(User::claims),
            now,
        };
        match shared.control.decide(&policy, &request) {
            Decision::Allow(permit) => {
                trial::allowed(&shared.stats, &permit, || self.what(workload));
                if let Some(route) = route {
                    route.remember_served(workload, permit);
                }
                Ok(opened)
            }
            Decision::Deny(denial) => {
                trial::denied(&shared.stats, &denial, &self.what(workload));
                Err(Refusal::Policy(Box::new(denial)))
            }
        }
    }

    /// What this workload does who replies.
    fn what<'a>(&'a self, workload: &'a WorkloadId) -> decision_log::Subject<'a> {
        decision_log::Subject {
            enforcer: "requester",
            workload: workload.path(),
            verb: Verb::Serve.as_str(),
            subject: self.subject.as_str(),
            user: self.user.as_ref(),
        }
    }

    /// The key of a code that counts instead of a signature: where the policy
    /// says so now and said so when this was asked.
    fn mac_key(&self, responder: &VerifiedCredential) -> Result<Arc<MacKey>, Refusal> {
        let policy = self.shared.control.policy();
        let replies = policy.policy().requirements(&self.subject).replies;
        let under = self.under.as_ref().filter(|_| replies == Replies::Mac);
        let under = under.ok_or(Refusal::MacNotAllowed)?;
        let keys = &self.shared.reply_keys;
        keys.between(under, Side::Requester, responder)
            .ok_or(Refusal::MacWithoutKey)
    }

    /// Why nothing came in time.
    fn missed(&self, after: Duration) -> RequestError {
        match self.order.missing() {
            None => self.unanswered(after),
            Some(index) => RequestError::ReplyMissing {
                subject: self.subject.as_str().to_owned(),
                index,
                after,
            },
        }
    }

    /// What it is that nothing which counts came in time.
    fn unanswered(&self, after: Duration) -> RequestError {
        let subject = self.subject.as_str().to_owned();
        match self.unsound {
            None => RequestError::Timeout { subject, after },
            Some(Unsound { count, last }) => RequestError::UnsoundReply {
                subject,
                after,
                count,
                reason: last,
            },
        }
    }
}

impl Shared {
    /// Counts and logs a reply that does not count.
    fn refuse_reply(&self, request_subject: &Subject, refusal: &Refusal) {
        self.stats.count_refused(refusal.code());
        self.decisions.deny(
            decision_log::Subject {
                enforcer: "receiver",
                workload: "?",
                verb: Verb::Serve.as_str(),
                subject: request_subject.as_str(),
                user: None,
            },
            "",
            refusal.code(),
            &format_args!("{}: {}", refusal.code(), chain(refusal)),
        );
    }
}

/// What a reply says; nothing if it only closes.
fn outcome_of(opened: &OpenedEnvelope) -> Option<Result<Response, RequestError>> {
    if let Some(report) = opened.error() {
        return Some(Err(reported(report)));
    }
    let body = opened.first_message().body;
    if let Some(code) = opened.app_header(ERROR_HEADER) {
        let message = String::from_utf8_lossy(&body).into_owned();
        let code = ServiceErrorCode::parse(code);
        return Some(Err(service_error(code, message)));
    }
    let is_mark = opened.content_type().is_none() && body.is_empty();
    (!is_mark).then(|| {
        Ok(Response {
            body,
            content_type: content_type(opened),
            headers: own_headers(opened),
            sender: Sender {
                workload: opened.sender().workload.clone(),
                key_id: opened.sender().key_id,
            },
        })
    })
}

fn reported(report: ErrorReport) -> RequestError {
    let (code, message) = match report.code {
        ErrorCode::Refused => {
            return RequestError::Refused {
                decision: report.decision.to_hex(),
            };
        }
        ErrorCode::Unavailable => (
            ServiceErrorCode::Unavailable,
            "the service takes no requests now",
        ),
        ErrorCode::Failed => (ServiceErrorCode::Internal, "the service failed"),
        ErrorCode::TooLarge => (
            ServiceErrorCode::Internal,
            "the reply is too large to be sent",
        ),
        ErrorCode::Deadline => (
            ServiceErrorCode::Unavailable,
            "the service did not finish in time",
        ),
    };
    service_error(code, message.to_owned())
}

fn service_error(code: ServiceErrorCode, message: String) -> RequestError {
    RequestError::Service(ServiceError::new(code, message))
}
