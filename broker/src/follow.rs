//! Follows the control stream and the operator's files: a newer trust bundle,
//! policy or revocation list is in force in this broker, and everywhere, without a
//! restart. Every two seconds it says by a head what is in force, unless it could
//! not look itself.
//!
//! An operator replaces the files that `broker.toml` names, of any one broker.
//! They are looked at every few seconds, and at once on SIGHUP; what is newer
//! than the stream's goes onto the stream.
//!
//! The republished news is a hint that can be lost, the stream is the truth: it
//! is looked at after every disturbance of the connection and every few
//! seconds. A record that does not verify, or is older than the one held, is
//! refused, and the held one stays.
//!
//! One task does all of it, so that two records never race. Connections that have
//! what they would not get any more are ended by [`crate::kick`].

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, SubscribeError, Subscriber};
use bulla_envelope::SuccessionError;
use bulla_identity::reserved;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::buckets::Buckets;
use crate::callout::{AdmissionError, Admissions, Callout};
use crate::clock;
use crate::control::{ControlPlane, ControlStream, Record, StreamError};
use crate::files::Files;
use crate::history::History;
use crate::metrics::Metrics;
use crate::seen::Seen;
use crate::spans;
use crate::trial::Candidate;
use crate::trust::{Anchor, Held, HeldPolicy, TrustFault};

/// Listens for news of bundle and policy, to be taken by [`Follower::run`].
/// Whoever listens before he reads the stream misses nothing.
pub(crate) async fn listen(client: &Client) -> Result<Subscriber, SubscribeError> {
    // Credentials have one token more. One subscription, so in order.
    client.subscribe("$BULLA.NEWS.*").await
}

/// Keeps the control plane and the callout up to date.
pub(crate) struct Follower {
    pub(crate) anchor: Anchor,
    pub(crate) files: Files,
    pub(crate) plane: Arc<ControlPlane>,
    pub(crate) callout: Arc<Callout>,
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) stream: ControlStream,
    pub(crate) news: Subscriber,
    /// When the stream was last read.
    pub(crate) seen: Arc<Seen>,
    /// Told when news may have been missed.
    pub(crate) disturbed: Arc<Notify>,
    /// Keeps what was in force.
    pub(crate) history: History,
    pub(crate) metrics: Metrics,
}

impl Follower {
    /// Follows until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut log = Log::new(self.metrics.clone());
        let mut asked = match signal(SignalKind::hangup()) {
            Ok(asked) => Some(asked),
            Err(error) => {
                tracing::warn!(%error, "SIGHUP cannot be listened for: files are looked at in turn");
                None
            }
        };
        let follow = async {
            let longest = self.seen.longest_pause();
            let pause = || pause().min(longest);
            let mut next_look = Instant::now() + pause();
            let mut heads = interval(HEAD_EVERY);
            heads.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = heads.tick() => {
                        self.tell_head(&mut log).await;
                        continue;
                    }
                    Some(news) = self.news.next() => {
                        self.hear(&news.subject, news.payload, &mut log).await;
                        continue;
                    }
                    () = self.disturbed.notified() => {}
                    // The operator does not want to wait.
                    Some(()) = hung_up(&mut asked) => {}
                    () = sleep_until(next_look) => {}
                }
                self.look(&mut log).await;
                next_look = Instant::now() + pause();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    }

    async fn hear(&self, subject: &str, record: Bytes, log: &mut Log) {
        let what = match subject {
            reserved::NEWS_REVOCATIONS => "revocation list",
            reserved::NEWS_BUNDLE => "trust bundle",
            reserved::NEWS_CANDIDATE => "policy on trial",
            reserved::NEWS_POLICY => "policy",
            _ => return,
        };
        let taking = self.take_heard(subject, record, log);
        taking.instrument(spans::taking(what)).await;
    }

    async fn take_heard(&self, subject: &str, record: Bytes, log: &mut Log) {
        match subject {
            reserved::NEWS_REVOCATIONS => {
                let taken = self.take_revocations(&record);
                let is_new = matches!(taken, Ok(true));
                log.outcome("revocation list", taken);
                // Enforcers that have missed the news learn of it now.
                if is_new {
                    self.tell_head(log).await;
                }
            }
            reserved::NEWS_BUNDLE => {
                let taken = self.take_bundle(&record);
                let is_new = matches!(taken, Ok(true));
                log.outcome("trust bundle", taken);
                // A policy that did not hold under the old one may hold now.
                if is_new {
                    self.take_last(log).await;
                }
            }
            reserved::NEWS_CANDIDATE => {
                let taken = self.take_candidate(record).await;
                log.outcome("policy on trial", taken);
            }
            reserved::NEWS_POLICY => {
                let taken = self.take_policy(record).await;
                let is_new = matches!(taken, Ok(true));
                log.outcome("policy", taken);
                if is_new {
                    // Who has missed the news learns of it now.
                    self.tell_head(log).await;
                    self.history.keep(&self.plane.held().policy).await;
                }
            }
            _ => {}
        }
    }

    /// Puts what the operator's files hold onto the stream, and takes what lies
    /// there.
    async fn look(&mut self, log: &mut Log) {
        self.plane.issuers().read_again();
        self.history.keep(&self.plane.held().policy).await;
        // Who is not to be believed any more, before anything else.
        if self.offer_revocations(log).await {
            self.look_at_revocations(log).await;
        }
        // A policy first, while its key still counts; one whose key is new, with
        // the bundle that names it.
        let _ = self.offer_policy(log).await;
        if self.offer_bundle(log).await {
            self.take_last(log).await;
            // By a key that is new with the bundle.
            self.offer_revocations(log).await;
            self.offer_policy(log).await;
        }
        self.take_last(log).await;
        let held = self.plane.held();
        let issuer = self.plane.issuers().current(&held.bundle, clock::now());
        log.issuing(issuer.is_some());
    }

    /// Whether the bundle in the file is new and now lies on the stream.
    async fn offer_bundle(&mut self, log: &mut Log) -> bool {
        let held = self.plane.held();
        let offered = self.files.bundle(|record| {
            let newer = held.newer_bundle(&self.anchor, record, clock::now())?;
            Ok(newer.is_some())
        });
        self.offer(reserved::CTL_BUNDLE, "trust bundle file", offered, log)
            .await
    }

    /// The same for the policy.
    async fn offer_policy(&mut self, log: &mut Log) -> bool {
        let held = self.plane.held();
        let offered = self.files.policy(|record| {
            let Some(signed) = held.newer_policy(record, clock::now())? else {
                return Ok(false);
            };
            // What no broker could go by is not put there.
            let policy = HeldPolicy::read(record.clone(), signed)?;
            Admissions::from_policy(&policy.policy)?;
            Ok(true)
        });
        self.offer(reserved::CTL_POLICY, "policy file", offered, log)
            .await
    }

    /// The same for the revocation list.
    async fn offer_revocations(&mut self, log: &mut Log) -> bool {
        let held = self.plane.held();
        let offered = self.files.revocations(|record| {
            let newer = held.newer_revocations(record, clock::now())?;
            Ok(newer.is_some())
        });
        let subject = reserved::CTL_REVOCATIONS;
        self.offer(subject, "revocation list file", offered, log)
            .await
    }

    async fn offer(
        &self,
        subject: &str,
        what: &'static str,
        offered: Result<Option<Bytes>, FollowFault>,
        log: &mut Log,
    ) -> bool {
        let written = match offered {
            Ok(None) => return false,
            Ok(Some(record)) => self.write(subject, record).await,
            Err(fault) => Err(fault),
        };
        let is_written = matches!(written, Ok(true));
        if is_written {
            tracing::info!(what, "put onto the control stream");
        }
        log.outcome(what, written);
        is_written
    }

    async fn write(&self, subject: &str, record: Bytes) -> Result<bool, FollowFault> {
        let previous = self
            .stream
            .last(subject)
            .await?
            .map_or(0, |last| last.sequence);
        // Another broker may have been faster: then the next look tells.
        Ok(self.stream.replace(subject, record, previous).await?)
    }

    /// Takes what lies on the stream.
    async fn take_last(&self, log: &mut Log) {
        let now = clock::now();
        let mut is_read = self.look_at_revocations(log).await;
        let bundle = self.last(reserved::CTL_BUNDLE).await;
        let policy = self.last(reserved::CTL_POLICY).await;
        // A bundle may drop the key of the policy that is held: the newer one
        // first, if it can be, so that nothing is refused in between.
        if let (Ok(bundle), Ok(policy)) = (&bundle, &policy)
            && *bundle != self.plane.held().bundle.bytes
        {
            let _ = self.take_policy(policy.clone()).await;
        }
        let taken = bundle.and_then(|record| self.take_bundle(&record));
        is_read &= !is_outage(&taken);
        if matches!(taken, Ok(true)) {
            // Its key may have come with the bundle.
            is_read &= self.look_at_revocations(log).await;
        }
        log.outcome("trust bundle", taken);
        let taken = match policy {
            Ok(record) => self.take_policy(record).await,
            Err(fault) => Err(fault),
        };
        is_read &= !is_outage(&taken);
        log.outcome("policy", taken);
        // Nothing depends on it, so nobody waits for it.
        if let Ok(Some(Record { payload, .. })) = self.stream.last(reserved::CTL_CANDIDATE).await {
            let taken = self.take_candidate(payload).await;
            log.outcome("policy on trial", taken);
        }
        if is_read {
            self.seen.mark(now);
        }
        log.seen(self.seen.is_recent(now));
    }

    async fn last(&self, subject: &str) -> Result<Bytes, FollowFault> {
        match self.stream.last(subject).await? {
            Some(Record { payload, .. }) => Ok(payload),
            None => Err(FollowFault::Missing),
        }
    }

    /// Takes the revocation list that lies on the stream; false if it cannot be read.
    /// Where the stream has lost it, or was set back, it gets the held one again.
    async fn look_at_revocations(&self, log: &mut Log) -> bool {
        let taken = match self.stream.last(reserved::CTL_REVOCATIONS).await {
            Err(error) => Err(error.into()),
            Ok(None) => self.put_back(0).await,
            Ok(Some(Record { sequence, payload })) => match self.take_revocations(&payload) {
                Err(FollowFault::Trust(TrustFault::Succession {
                    source: SuccessionError::Rollback { .. },
                    ..
                })) => self.put_back(sequence).await,
                taken => taken,
            },
        };
        let is_read = !is_outage(&taken);
        log.outcome("revocation list", taken);
        is_read
    }

    async fn put_back(&self, previous: u64) -> Result<bool, FollowFault> {
        let held = self.plane.held();
        let Some(revocations) = &held.revocations else {
            return Ok(false);
        };
        tracing::error!(
            sequence = revocations.list.sequence,
            "the control stream has lost the revocation list, or was set back: writing it again"
        );
        self.stream
            .replace(
                reserved::CTL_REVOCATIONS,
                revocations.bytes.clone(),
                previous,
            )
            .await?;
        Ok(false)
    }

    /// Says what is in force. A broker that has not been able to look says
    /// nothing: others may know of something newer.
    async fn tell_head(&self, log: &mut Log) {
        if !self.look_at_revocations(log).await || !self.seen.is_recent(clock::now()) {
            return;
        }
        // Without a key that counts nobody would believe it.
        let Some(head) = self.plane.head(clock::now()) else {
            return;
        };
        let told = self.stream.tell(reserved::CTL_HEAD, head.into()).await;
        if told.is_ok() {
            self.metrics.head_told();
        }
        log.outcome("head", told.map(|()| false).map_err(FollowFault::from));
    }

    /// True if it is in force from now on, false if it was.
    fn take_revocations(&self, record: &Bytes) -> Result<bool, FollowFault> {
        let held = self.plane.held();
        let Some(revocations) = held.newer_revocations(record, clock::now())? else {
            return Ok(false);
        };
        tracing::info!(
            target: "bulla::audit",
            event = "revocations-in-force",
            sequence = revocations.list.sequence,
            entries = revocations.list.entries().len(),
        );
        self.plane.audit().revocations(&revocations);
        let held = held.with_revocations(revocations);
        // Turned away first, so that who is kicked does not come back.
        let outcasts = held.outcasts();
        self.callout.cast_out(outcasts);
        self.plane.hold(held);
        Ok(true)
    }

    /// The same for the trust bundle.
    fn take_bundle(&self, record: &Bytes) -> Result<bool, FollowFault> {
        let now = clock::now();
        let held = self.plane.held();
        let Some(bundle) = held.newer_bundle(&self.anchor, record, now)? else {
            return Ok(false);
        };
        tracing::info!(
            version = bundle.bundle.version,
            "a new trust bundle is in force"
        );
        self.plane.audit().bundle(&bundle);
        self.plane.issuers().follow(&bundle);
        let was_vouched = held.is_vouched();
        let held = Held::new(bundle, held.policy.clone(), held.revocations.clone(), now);
        if !held.is_vouched() {
            tracing::warn!("{}: until then nobody is admitted", TrustFault::Unvouched);
            self.callout.fall_silent();
        } else if !was_vouched {
            self.callout
                .admit(Admissions::from_policy(&held.policy.policy)?);
        }
        self.plane.hold(held);
        Ok(true)
    }

    /// The same for the policy on trial.
    async fn take_candidate(&self, record: Bytes) -> Result<bool, FollowFault> {
        let held = self.plane.held();
        let trial = self.callout.trial();
        let Some(signed) = trial.newer(&record, &held.bundle, clock::now())? else {
            return Ok(false);
        };
        let read = tokio::task::spawn_blocking(move || Candidate::read(record, signed));
        let candidate = read.await.map_err(|_| FollowFault::Unreadable)??;
        trial.hold(candidate);
        self.plane.tell_change();
        tracing::info!(
            candidate = trial.number(),
            "another policy is on trial, or none"
        );
        Ok(true)
    }

    /// The same for the policy.
    async fn take_policy(&self, record: Bytes) -> Result<bool, FollowFault> {
        let held = self.plane.held();
        let Some(signed) = held.newer_policy(&record, clock::now())? else {
            return Ok(false);
        };
        // A large policy takes its time to read and compile, and connecting
        // clients wait for their answers meanwhile.
        let read = tokio::task::spawn_blocking(move || {
            let policy = HeldPolicy::read(record, signed)?;
            let admissions = Admissions::from_policy(&policy.policy)?;
            Ok::<_, FollowFault>((policy, admissions))
        });
        let (policy, admissions) = read.await.map_err(|_| FollowFault::Unreadable)??;
        // Whoever connects under it has the rights to its buckets at once. One
        // that takes long is served later, to who connects then.
        let _ = timeout(BUCKETS_LIMIT, self.buckets.make(&policy.policy)).await;
        tracing::info!(
            revision = policy.signed.revision,
            "a new policy is in force"
        );
        self.plane.audit().policy(&policy);
        // Nothing between the two can fail or wait.
        self.callout.admit(admissions);
        let revocations = held.revocations.clone();
        self.plane.hold(Held::new(
            held.bundle.clone(),
            policy,
            revocations,
            clock::now(),
        ));
        Ok(true)
    }
}

/// Tells what is wrong once, not with every look.
#[derive(Debug)]
struct Log {
    metrics: Metrics,
    told: HashMap<&'static str, String>,
    cannot_issue: bool,
    is_stale: bool,
}

impl Log {
    fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            told: HashMap::new(),
            cannot_issue: false,
            is_stale: false,
        }
    }

    fn outcome(&mut self, what: &'static str, taken: Result<bool, FollowFault>) {
        let fault = match taken {
            Ok(is_new) => {
                if is_new {
                    self.metrics.record(what, "taken");
                }
                self.told.remove(what);
                return;
            }
            Err(fault) => fault,
        };
        self.metrics.record(what, fault.outcome());
        spans::failed(&Span::current(), fault.outcome());
        let reason = chain(&fault);
        if self.told.get(what) != Some(&reason) {
            tracing::warn!(
                what,
                reason,
                "not taken from the control stream: the held one stays"
            );
            self.told.insert(what, reason);
        }
    }

    fn seen(&mut self, is_recent: bool) {
        match (self.is_stale, is_recent) {
            (false, false) => tracing::error!(
                reason = "state_stale",
                "the control stream could not be read for too long: nobody is admitted and nothing is issued"
            ),
            (true, true) => tracing::info!("the control stream can be read again"),
            _ => {}
        }
        self.is_stale = !is_recent;
    }

    fn issuing(&mut self, may_issue: bool) {
        match (self.cannot_issue, may_issue) {
            (false, false) => tracing::warn!(
                "{}: requests for credentials are refused",
                TrustFault::NotAnIssuer
            ),
            (true, true) => tracing::info!("the trust bundle lets this broker issue again"),
            _ => {}
        }
        self.cannot_issue = !may_issue;
    }
}

async fn hung_up(asked: &mut Option<Signal>) -> Option<()> {
    match asked {
        Some(asked) => asked.recv().await,
        None => std::future::pending().await,
    }
}

/// Why a record of the control stream, or a file, is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowFault {
    #[error(transparent)]
    Trust(#[from] TrustFault),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("there is none any more")]
    Missing,
    #[error("it cannot be read")]
    File(#[from] std::io::Error),
    #[error("reading it ended in a fault of the program")]
    Unreadable,
}

impl FollowFault {
    /// What became of the record, for metrics.
    const fn outcome(&self) -> &'static str {
        match self {
            Self::Trust(_) | Self::Admission(_) => "refused",
            Self::Stream(_) | Self::Missing | Self::File(_) | Self::Unreadable => "unreadable",
        }
    }
}

/// Whether it is not what lies there that is wrong, but that nobody could look.
fn is_outage(taken: &Result<bool, FollowFault>) -> bool {
    matches!(taken, Err(FollowFault::Stream(_)))
}

/// The error with everything that led to it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The longest that a new policy waits for its buckets.
const BUCKETS_LIMIT: Duration = Duration::from_millis(500);

/// How often a broker says what is in force.
const HEAD_EVERY: Duration = Duration::from_secs(2);

/// Between two looks: 8 to 12 s, so that brokers do not look in step.
fn pause() -> Duration {
    let mut random = [0; 1];
    // Without randomness there is no jitter, and no harm.
    let _ = getrandom::fill(&mut random);
    let [random] = random;
    Duration::from_secs(8) + Duration::from_secs(4) * u32::from(random) / 256
}
