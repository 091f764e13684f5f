//! The control plane: publishes trust bundle and policy, issues message
//! credentials, takes KEM records.
//!
//! # How a process gets a credential
//!
//! ```text
//! process                                      broker
//!   ── $BULLA.BROKER.<tag>.challenge ──────────►  one of each group
//!   ◄─ broker id, challenge ───────────────────
//!   ── $BULLA.BROKER.<tag>.credential.<id> ────►  that one, with a CredentialRequest
//!   ◄─ credential, or a refusal's decision id ──  after it lies on the control stream
//!   ── $BULLA.BROKER.<tag>.kem ────────────────►  one of each group, with the workload's KEM record
//!   ◄─ accepted, or a refusal's decision id ────
//! ```
//!
//! nats-server lets a workload publish to subjects with its own tag only, so the
//! tag says who asks; the nkey's countersignature in the request must say the
//! same. Both answers are in [`bulla_sdk::broker_protocol`].

mod challenge;
mod join;
mod kem;
mod quota;
mod stream;
mod streams;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::{Client, Message, SubscribeError};
use bulla_audit::{CredentialIssued, Event};
use bulla_envelope::{
    CredentialDecodeError, CredentialRequest, Head, IssueError, RequestError, RequestExpectation,
    Terms,
};
use bulla_identity::{UnixMillis, Verified, WorkloadTag, reserved};
use bulla_policy::Workload;
use bulla_process::Zeroizing;
use bulla_sdk::broker_protocol::{Challenge, Issued};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::audit::BrokerAudit;
use crate::callout::{DenyReason, Group, TokenKeys, prove_workload};
use crate::clock;
use crate::decision::Decision;
use crate::issuing::Issuers;
use crate::metrics::Metrics;
use crate::seen::Seen;
use crate::spans;
use crate::trust::{CLOCK_SKEW, Held};
use challenge::{CHALLENGE_LIFE, Challenger};
pub(crate) use join::Inviters;
pub(crate) use quota::Quota;
pub(crate) use stream::{ControlStream, Record};
pub use streams::{AuditRetention, StreamError};
pub(crate) use streams::{open_for_workloads, open_history, open_taken};

/// Issues credentials for one broker.
pub(crate) struct ControlPlane {
    broker_id: String,
    challenger: Challenger,
    issuers: Issuers,
    lifetime: Duration,
    /// Whether connections get what a policy gives them later as they are.
    reauthorises: bool,
    held: ArcSwap<Held>,
    /// Since when it goes by this policy; told of whatever else it goes by.
    held_since: watch::Sender<UnixMillis>,
    quota: Mutex<Quota>,
    kem_quota: Mutex<Quota>,
    stream: ControlStream,
    seen: Arc<Seen>,
    audit: BrokerAudit,
    token_keys: Arc<TokenKeys>,
    metrics: Metrics,
}

impl ControlPlane {
    pub(crate) fn new(
        issuers: Issuers,
        lifetime: Duration,
        held: Held,
        stream: ControlStream,
        seen: Arc<Seen>,
        metrics: Metrics,
        reauthorises: bool,
    ) -> Result<Self, getrandom::Error> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret)?;
        let mut id = [0; 8];
        getrandom::fill(&mut id)?;
        Ok(Self {
            // Fresh for each process: a challenge of an earlier one is void.
            broker_id: HEXLOWER.encode(&id),
            challenger: Challenger::new(&secret),
            issuers,
            lifetime,
            reauthorises,
            held: ArcSwap::from_pointee(held),
            held_since: watch::channel(clock::now()).0,
            quota: Mutex::new(Quota::new(QUOTA_CAPACITY)),
            kem_quota: Mutex::new(Quota::new(QUOTA_CAPACITY)),
            stream,
            seen,
            audit: BrokerAudit::new(metrics.clone()),
            token_keys: Arc::default(),
            metrics,
        })
    }

    /// The keys of the issuers of workloads' tokens.
    pub(crate) fn token_keys(&self) -> Arc<TokenKeys> {
        Arc::clone(&self.token_keys)
    }

    /// This broker's chain of the audit log.
    pub(crate) const fn audit(&self) -> &BrokerAudit {
        &self.audit
    }

    /// Names this broker process in subjects.
    pub(crate) fn broker_id(&self) -> &str {
        &self.broker_id
    }

    /// What it goes by.
    pub(crate) fn held(&self) -> Arc<Held> {
        self.held.load_full()
    }

    /// From now on it goes by this. Requests that are being answered go by one
    /// or the other from end to end.
    pub(crate) fn hold(&self, held: Held) {
        let before = self.held.swap(Arc::new(held));
        let is_new = before.policy.bytes != self.held.load().policy.bytes;
        self.held_since.send_modify(|since| {
            if is_new {
                *since = clock::now();
            }
        });
    }

    /// Tells those who listen for changes.
    pub(crate) fn tell_change(&self) {
        self.held_since.send_modify(|_| {});
    }

    /// Told whenever it goes by something else; holds since when it goes by this
    /// policy.
    pub(crate) fn changes(&self) -> watch::Receiver<UnixMillis> {
        self.held_since.subscribe()
    }

    /// The keys that this broker may issue with.
    pub(crate) const fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// A head about what it goes by, signed by this broker; nothing while it may
    /// not issue, because nobody would believe it.
    pub(crate) fn head(&self, now: UnixMillis) -> Option<Vec<u8>> {
        let held = self.held.load();
        let (issuer, _) = self.issuers.current(&held.bundle, now)?;
        Some(issuer.sign_head(&Head {
            trust_domain: held.bundle.bundle.trust_domain.clone(),
            names: held.names(),
            time: now,
        }))
    }

    /// Listens for requests. They are answered by [`Requests::serve`].
    pub(crate) async fn subscribe(
        self: Arc<Self>,
        client: Client,
        group: Group,
    ) -> Result<Requests, SubscribeError> {
        let mut messages = SelectAll::new();
        // As with connections: who hangs takes nothing with him, because one of the other
        // group is asked as well. The first answer counts.
        for queue in group.queues() {
            for subject in ["$BULLA.BROKER.*.challenge", "$BULLA.BROKER.*.kem"] {
                messages.push(client.queue_subscribe(subject, (*queue).to_owned()).await?);
            }
        }
        let own = format!("$BULLA.BROKER.*.credential.{}", self.broker_id);
        messages.push(client.subscribe(own).await?);
        // An invitation is good once: one broker is asked.
        let joining = "$BULLA.BROKER.*.join";
        let queue = "bulla-brokers".to_owned();
        messages.push(client.queue_subscribe(joining, queue).await?);
        Ok(Requests {
            plane: self,
            client,
            messages,
            answered: Copies::default(),
        })
    }

    async fn answer(&self, message: &Message) -> Option<(&'static str, Vec<u8>)> {
        let mut tokens = message.subject.split('.').skip(2);
        let tag = WorkloadTag::parse(tokens.next()?).ok()?;
        let now = clock::now();
        match tokens.next()? {
            "challenge" => {
                let challenge = Challenge {
                    broker_id: self.broker_id.clone(),
                    challenge: self.challenger.challenge(tag, now),
                    reauthorises: self.reauthorises,
                };
                Some(("challenge", challenge.encode()))
            }
            "credential" => {
                let token = message.headers.as_ref();
                let token = token.and_then(|headers| headers.get(reserved::WORKLOAD_TOKEN));
                let asked = Asked {
                    tag,
                    request: &message.payload,
                    token: token.map(async_nats::HeaderValue::as_str),
                };
                let issued = self.answer_credential(asked, now).await;
                Some(("credential", issued.encode()))
            }
            "kem" => {
                let registered = self.answer_kem_record(tag, &message.payload, now).await;
                Some(("kem", registered.encode()))
            }
            "join" => {
                let registered = self.answer_join(tag, &message.payload, now).await;
                Some(("join", registered.encode()))
            }
            _ => None,
        }
    }

    async fn answer_credential(&self, asked: Asked<'_>, now: UnixMillis) -> Issued {
        let tag = asked.tag;
        let mut id = [0; 16];
        // Without randomness the id says nothing, and issuing fails below.
        let _ = getrandom::fill(&mut id);
        let held = self.held.load_full();
        let workload = held.policy.policy.workload_by_tag(tag);
        let decision = Decision {
            workload: workload.map_or("", |workload| workload.name().as_str()),
            verb: "credential",
            id,
            revision: held.policy.signed.revision,
            ..Decision::default()
        };
        let log = self.audit.decisions("broker");
        // Before anything that costs: each credential lies on the stream, and in
        // everybody's cache, until it expires.
        let within_quota = self.quota.lock().take(tag, now);
        let outcome = if within_quota {
            self.issue(&held, workload, asked, now).await
        } else {
            Err(Refusal::TooMany)
        };
        match outcome {
            Ok((key_id, expires_at, credential)) => {
                decision.allow(&log);
                self.audit.record(Event::Credential(CredentialIssued {
                    workload: decision.workload.to_owned(),
                    key_id: key_id.clone(),
                    expires: expires_at.as_millis(),
                    id: HEXLOWER.encode(&id),
                }));
                tracing::info!(
                    target: "bulla::audit",
                    event = "credential-issued",
                    workload = decision.workload,
                    key_id,
                    id = HEXLOWER.encode(&id),
                );
                Issued::Credential(credential.to_vec())
            }
            Err(refusal) => {
                decision.deny(&log, refusal.code(), &refusal.to_string());
                // The precise reason stays in our log.
                Issued::Refused(format!("refused, decision {}", HEXLOWER.encode(&id)))
            }
        }
    }

    async fn issue(
        &self,
        held: &Held,
        workload: Option<&Workload>,
        asked: Asked<'_>,
        now: UnixMillis,
    ) -> Result<(String, UnixMillis, Bytes), Refusal> {
        if !held.is_vouched() {
            return Err(Refusal::Unvouched);
        }
        if !self.seen.is_recent(now) {
            return Err(Refusal::Stale);
        }
        let workload = workload.ok_or(Refusal::UnknownWorkload)?;
        if held.is_revoked(workload.id()) {
            return Err(Refusal::Revoked);
        }
        let request = CredentialRequest::decode(asked.request)?;
        if request.token_key().is_some() && !workload.mints() {
            return Err(Refusal::MayNotMint);
        }
        let request = self.verify(request, workload, asked.tag, now)?;
        let proven_until = if request.is_countersigned() {
            None
        } else {
            // Nobody but us vouches for it, so we do not take it from who connected
            // at some time: the token has to be good now, and bounds the credential.
            let token = asked.token.ok_or(Refusal::NoToken)?;
            Some(prove_workload(workload, token, &self.token_keys, now)?)
        };
        let (issuer, issues_until) = self
            .issuers
            .current(&held.bundle, now)
            .ok_or(Refusal::NotAnIssuer)?;
        let expires_at = now
            .saturating_add(self.lifetime)
            .min(request.longest())
            .min(issues_until)
            .min(proven_until.unwrap_or(issues_until));
        let mut serial = [0; 16];
        getrandom::fill(&mut serial).map_err(|_| Refusal::Random)?;
        let terms = Terms {
            // Receivers' clocks may be a little behind ours.
            not_before: now.saturating_sub(CLOCK_SKEW),
            expires_at,
            serial,
        };
        let credential = issuer.issue(&request, terms)?;
        let key_id = credential.id().to_hex();
        let bytes = Bytes::copy_from_slice(credential.as_bytes());
        // First where receivers look for it, then to the process.
        // What it signs may lie in a stream and be verified long after that.
        let late = held.policy.policy.late_readers_of(workload.id());
        let keep = expires_at.saturating_since(now) + CLOCK_SKEW + late;
        let written = self
            .stream
            .add(
                &reserved::ctl_credential(&key_id),
                bytes.clone(),
                whole_seconds(keep),
            )
            .await;
        match written {
            Ok(true) => Ok((key_id, expires_at, bytes)),
            Ok(false) => Err(Refusal::KeyIdTaken),
            Err(error) => Err(Refusal::Stream(error)),
        }
    }

    fn verify(
        &self,
        request: CredentialRequest,
        workload: &Workload,
        tag: WorkloadTag,
        now: UnixMillis,
    ) -> Result<Verified<CredentialRequest>, Refusal> {
        let mut refusal = RequestError::WrongChallenge;
        for challenge in self.challenger.acceptable(tag, now) {
            let expected = RequestExpectation {
                tag,
                challenge: &challenge,
                anchors: workload.anchors(),
                now,
                skew: CLOCK_SKEW,
                max_age: CHALLENGE_LIFE,
            };
            match request.clone().verify(&expected) {
                Ok(request) => return Ok(request),
                Err(RequestError::WrongChallenge) => {}
                Err(error) => {
                    refusal = error;
                    break;
                }
            }
        }
        Err(Refusal::Request(refusal))
    }
}

/// Requests of workloads, subscribed to.
pub(crate) struct Requests {
    plane: Arc<ControlPlane>,
    client: Client,
    messages: SelectAll<async_nats::Subscriber>,
    answered: Copies,
}

impl Requests {
    /// Answers until `stop`, then lets no more come and answers what was asked.
    pub(crate) async fn serve(mut self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                message = self.messages.next() => match message {
                    Some(message) => message,
                    None => break,
                },
            };
            self.answer(message, &places).await;
        }
        // What the server has sent already is answered by us or by nobody.
        let left = async {
            for subscription in self.messages.iter_mut() {
                let _ = subscription.drain().await;
            }
            while let Some(message) = self.messages.next().await {
                self.answer(message, &places).await;
            }
        };
        let _ = timeout(DRAIN_LIMIT, left).await;
        let all = u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
        let _ = places.acquire_many(all).await;
    }

    async fn answer(&mut self, message: Message, places: &Arc<Semaphore>) {
        if self.answered.holds(&message) {
            return;
        }
        let Ok(place) = Arc::clone(places).acquire_owned().await else {
            return;
        };
        let (plane, client) = (Arc::clone(&self.plane), self.client.clone());
        let span = spans::requested(verb_of(&message.subject));
        let answer = async move {
            let began = Instant::now();
            // Requests come through the account import, whose replies the
            // server itself names; nothing else is answered.
            let reply = message
                .reply
                .clone()
                .filter(|reply| reply.starts_with(IMPORT_REPLY) || reply.starts_with("_INBOX."));
            if let Some(reply) = reply
                && let Some((verb, answer)) = plane.answer(&message).await
            {
                let _ = client.publish(reply, answer.into()).await;
                plane.metrics.control_answered(verb, began.elapsed());
            }
            drop(place);
        };
        tokio::spawn(answer.instrument(span));
    }
}

/// Where answers went last. A broker in both groups gets both copies of a question,
/// which nats-server gives one and the same reply subject.
#[derive(Default)]
struct Copies(VecDeque<async_nats::Subject>);

impl Copies {
    /// Whether this one was answered a moment ago. From now on it was.
    fn holds(&mut self, message: &Message) -> bool {
        let Some(reply) = &message.reply else {
            return false;
        };
        if self.0.contains(reply) {
            return true;
        }
        if self.0.len() >= COPIES {
            self.0.pop_front();
        }
        self.0.push_back(reply.clone());
        false
    }
}

/// What is asked for under such a subject.
fn verb_of(subject: &str) -> &'static str {
    match subject.split('.').nth(3) {
        Some("challenge") => "challenge",
        Some("credential") => "credential",
        Some("kem") => "kem",
        Some("join") => "join",
        _ => "unknown",
    }
}

/// A request for a credential as it came.
#[derive(Clone, Copy)]
struct Asked<'a> {
    tag: WorkloadTag,
    request: &'a [u8],
    /// What the workload connects with, where that is a token.
    token: Option<&'a str>,
}

/// Why no credential is issued. Logged; the asker learns the decision's id.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("too_many")]
    TooMany,
    #[error("what is in force was read from the control stream too long ago (`state_stale`)")]
    Stale,
    #[error("the workload is revoked")]
    Revoked,
    #[error("the policy names no workload with this tag")]
    UnknownWorkload,
    #[error("the request does not decode: {0}")]
    Decode(#[from] CredentialDecodeError),
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("nothing of the workload's own vouches, and no token shows who asks")]
    NoToken,
    #[error("{0}")]
    Token(#[from] DenyReason),
    #[error("the request names a token key, but the policy does not let this workload mint")]
    MayNotMint,
    #[error("the trust bundle does not name the key that signed the policy in force")]
    Unvouched,
    #[error("the trust bundle no longer lets this broker issue")]
    NotAnIssuer,
    #[error("{0}")]
    Issue(#[from] IssueError),
    #[error("{0}")]
    Stream(StreamError),
    #[error("its key id is taken already")]
    KeyIdTaken,
    #[error("the operating system gives no random bytes")]
    Random,
}

impl Refusal {
    /// A short stable name.
    const fn code(&self) -> &'static str {
        match self {
            Self::TooMany => "credential_too_many",
            Self::Stale => "state_stale",
            Self::Revoked => "workload_revoked",
            Self::UnknownWorkload => "unknown_workload",
            Self::Decode(error) => error.code(),
            Self::Request(error) => error.code(),
            Self::NoToken => "workload_token_missing",
            Self::Token(reason) => reason.code(),
            Self::MayNotMint => "may_not_mint",
            Self::Unvouched => "policy_unvouched",
            Self::NotAnIssuer => "not_an_issuer",
            Self::Issue(_) => "credential_terms",
            Self::Stream(_) => "control_stream_unreachable",
            Self::KeyIdTaken => "key_id_taken",
            Self::Random => "no_random_bytes",
        }
    }
}

/// JetStream counts a record's life in whole seconds, at least one.
fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs().max(1))
}

/// How nats-server names replies that cross an account import.
const IMPORT_REPLY: &str = "_R_.";

/// How long what is on its way may take when the broker stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Requests worked on at the same time; the others wait.
const AT_ONCE: usize = 64;

/// Questions that may lie between the two copies of one; beyond that it is answered twice,
/// which harms nobody.
const COPIES: usize = 64;

/// Workloads whose requests are counted at the same time.
const QUOTA_CAPACITY: usize = 16_384;
