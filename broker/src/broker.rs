//! One broker from start to end.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, SubscribeError, Subscriber};
use bulla_envelope::{Head, SuccessionError};
use bulla_identity::{UnixMillis, reserved};
use bulla_process::Readiness;
use bulla_process::admin::{AdminError, AdminListener};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::audit::BrokerAudit;
use crate::audit_quota::{self, AuditQuota};
use crate::buckets::Buckets;
use crate::callout::{self, AdmissionError, Admissions, Callout, Placement, Questions};
use crate::census::{self, Census};
use crate::clock;
use crate::config::{BrokerConfig, OnChange};
use crate::connection::{self, BusAddress, Connection, ConnectionError, TELL_AGAIN, WAITING};
use crate::control::{
    self, AuditRetention, ControlPlane, ControlStream, Record, Requests, StreamError,
};
use crate::durable::Durable;
use crate::exchange;
use crate::files::Files;
use crate::follow::{self, Follower};
use crate::history::History;
use crate::issuing::Issuers;
use crate::kick::Kicker;
use crate::metrics::Metrics;
use crate::probe::{self, BrokerProbe};
use crate::report::Reporter;
use crate::seen::Seen;
use crate::trust::{
    Anchor, CLOCK_SKEW, Held, HeldBundle, HeldPolicy, HeldRevocations, Succession, TrustFault,
};

/// What a broker would go by if nothing newer lies on the control stream.
#[derive(Clone, Copy, Debug)]
pub struct Outlook {
    /// The policy's revision.
    pub revision: u64,
    /// How many workloads it names.
    pub workloads: usize,
    /// The trust bundle's version.
    pub bundle: u64,
    /// When the bundle ends.
    pub bundle_until: UnixMillis,
    /// When this was looked at.
    pub at: UnixMillis,
}

impl Outlook {
    /// Proves what a configuration names, as a broker does at its start: the bundle under
    /// the root, the policy under the bundle, an issuing key that the bundle names, and
    /// that every workload can be admitted.
    ///
    /// # Errors
    /// What a broker would end with.
    pub fn of(config: &BrokerConfig) -> Result<Self, BrokerError> {
        let now = clock::now();
        let bundle = Anchor::of(config).bundle(&config.bundle, now)?;
        let policy = bundle.policy(&config.policy, now)?;
        Admissions::from_policy(&policy.policy)?;
        let mut keys = config.keys.issuing.seeds().iter();
        if !keys.any(|key| bundle.issues_until(key.public().verifying_key()) > Some(now)) {
            return Err(TrustFault::NotAnIssuer.into());
        }
        Ok(Self {
            revision: policy.signed.revision,
            workloads: policy.policy.workloads().len(),
            bundle: bundle.bundle.version,
            bundle_until: bundle.bundle.expires_at,
            at: now,
        })
    }

    /// For how long the bundle counts, in whole seconds.
    #[must_use]
    pub fn bundle_left(&self) -> Duration {
        Duration::from_secs(self.bundle_until.saturating_since(self.at).as_secs())
    }
}

/// Runs a broker until `stop`.
///
/// It is ready when the trust bundle and the policy lie on the control stream
/// and it answers the callout; until then it is silent, and waits for nats-server and
/// JetStream for as long as they are not there. While it runs it takes newer ones from
/// there. On `stop` it takes no new requests and finishes the ones it has.
///
/// # Errors
/// If it cannot start: what it was given does not hold, or nats-server is not
/// configured for it.
pub async fn run(
    config: BrokerConfig,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), BrokerError> {
    let anchor = Anchor::of(&config);
    let bundle = anchor.bundle(&config.bundle, clock::now())?;
    let policy = bundle.policy(&config.policy, clock::now())?;
    let metrics = Metrics::new();
    let probe = Arc::new(BrokerProbe::new(metrics.clone(), stop.clone()));
    // Operators watch the drain too.
    let last = CancellationToken::new();
    let _last = last.clone().drop_guard();
    if let Some(address) = config.admin {
        let listener = AdminListener::bind(address).await?;
        let probe = Arc::clone(&probe);
        tokio::spawn(listener.serve(probe, last));
    }
    let entrance = Entrance {
        anchor,
        bundle,
        policy,
        metrics,
        probe,
    };
    let running = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        running = Box::pin(entrance.start(config, &stop)) => running?,
    };
    readiness.set_ready("broker");
    Box::pin(running.work(readiness, stop)).await;
    Ok(())
}

/// What a broker begins with.
struct Entrance {
    anchor: Anchor,
    bundle: HeldBundle,
    policy: HeldPolicy,
    metrics: Metrics,
    probe: Arc<BrokerProbe>,
}

/// What it was told of streams, and what it knows to be revoked.
struct Given {
    audit: AuditRetention,
    replicas: usize,
    revocations: Option<Bytes>,
}

impl Entrance {
    /// Everything that a broker needs, connected and subscribed to.
    async fn start(
        self,
        config: BrokerConfig,
        stop: &CancellationToken,
    ) -> Result<Running, BrokerError> {
        let metrics = self.metrics.clone();
        let url = &BusAddress {
            url: config.nats_url.clone(),
            tls: config.tls.clone(),
        };
        let disturbed = Arc::new(Notify::new());
        self.probe.waits_for("nats-server, account JS");
        let js = Connection {
            account: "JS",
            user: Arc::new(config.keys.js),
            waiting: WAITING,
            disturbed: Arc::clone(&disturbed),
        };
        let js = js.make(url, &metrics).await;
        let news = follow::listen(&js).await?;
        self.probe.waits_for("JetStream");
        let given = Given {
            audit: config.audit,
            replicas: config.replicas,
            revocations: config.revocations,
        };
        let (stream, held) = Box::pin(self.held(&js, &given)).await?;
        if !held.is_vouched() {
            return Err(TrustFault::Unvouched.into());
        }
        let issuers = Issuers::new(config.keys.issuing);
        issuers.follow(&held.bundle);
        if issuers.current(&held.bundle, clock::now()).is_none() {
            return Err(TrustFault::NotAnIssuer.into());
        }
        let admissions = Admissions::from_policy(&held.policy.policy)?;
        let revision = held.policy.signed.revision;
        let buckets = Arc::new(Buckets::new(js.clone()));
        let mut durable = Durable::new(js.clone(), Arc::clone(&buckets), config.replicas);
        durable.make(&held.policy.policy, revision).await;
        let version = held.bundle.bundle.version;

        let mode = config.operator_mode;
        let in_place = mode.is_some_and(|mode| mode.on_change == OnChange::Reauthorise);
        let placement =
            mode.map_or_else(Placement::default, |mode| Placement::Vouched(mode.account));
        let seen = Arc::new(Seen::new(config.state_max_age, clock::now()));
        let outcasts = held.outcasts();
        let plane = ControlPlane::new(
            issuers,
            config.credential_lifetime,
            held,
            stream.clone(),
            Arc::clone(&seen),
            metrics.clone(),
            in_place,
        );
        let plane = Arc::new(plane.map_err(BrokerError::Random)?);
        let audit = plane.audit().clone();
        audit.start(js.clone(), &plane, CancellationToken::new());
        // Whoever connects finds a head of now.
        if let Some(head) = plane.head(clock::now()) {
            stream.tell(reserved::CTL_HEAD, head.into()).await?;
            metrics.head_told();
        }
        let requests = Arc::clone(&plane)
            .subscribe(js.clone(), config.group)
            .await?;
        let audited = audit_quota::listen(&js).await?;
        let census = Arc::new(Census::default());
        let reports = census::listen(&js).await?;
        connection::round_trip(&js).await?;

        self.probe.waits_for("nats-server, account SYS");
        let sys = Connection {
            account: "SYS",
            user: Arc::new(config.keys.sys),
            waiting: WAITING,
            disturbed: Arc::default(),
        };
        let sys = sys.make(url, &metrics).await;
        self.probe.waits_for("nats-server, account AUTH");
        let auth = Connection {
            account: "AUTH",
            user: Arc::new(config.keys.auth),
            waiting: callout::WAITING,
            // Whoever is not answered asks again: nothing is missed.
            disturbed: Arc::default(),
        };
        let auth = auth.make(url, &metrics).await;
        let callout = Callout::new(config.keys.issuer, config.keys.xkey)
            .placing(placement)
            .while_seen(Arc::clone(&seen))
            .with_token_keys(plane.token_keys())
            .inviting({
                let plane = Arc::clone(&plane);
                move || plane.inviters()
            })
            .telling(audit.decisions("callout"))
            .with_buckets(buckets.served());
        let callout = Arc::new(callout);
        callout.cast_out(Arc::clone(&outcasts));
        callout.admit(admissions);
        let asked = Arc::clone(&callout);
        let questions =
            callout::subscribe(auth.clone(), asked, config.group, metrics.clone()).await?;
        connection::round_trip(&auth).await?;
        self.probe.runs(probe::Running {
            plane: Arc::clone(&plane),
            seen: Arc::clone(&seen),
            trial: Arc::clone(callout.trial()),
            census: Arc::clone(&census),
            audit: audit.log(),
            clients: [
                ("AUTH", auth.clone()),
                ("JS", js.clone()),
                ("SYS", sys.clone()),
            ],
        });
        let kicker = Kicker {
            sys: sys.clone(),
            callout: Arc::clone(&callout),
            account: placement.account(),
            in_place,
            changes: plane.changes(),
            buckets: buckets.changes(),
            audit: audit.log(),
            metrics: metrics.clone(),
        };
        let quota = AuditQuota {
            js: js.clone(),
            heard: audited,
            retention: config.audit,
            plane: Arc::clone(&plane),
            callout: Arc::clone(&callout),
            audit: audit.log(),
            metrics: metrics.clone(),
        };
        let reporter = Reporter::new(
            js.clone(),
            Arc::clone(&plane),
            Arc::clone(&seen),
            Arc::clone(callout.trial()),
        );
        let follower = Follower {
            anchor: self.anchor,
            files: Files::new(config.files),
            plane: Arc::clone(&plane),
            callout,
            history: History::new(stream.clone()),
            buckets,
            stream,
            news,
            seen,
            disturbed,
            metrics: metrics.clone(),
        };
        tracing::info!(
            broker_id = plane.broker_id(),
            policy_revision = revision,
            bundle_version = version,
            "broker is up"
        );
        follower.history.keep(&plane.held().policy).await;
        let exchange = exchange::run(config.exchange, config.nats_url, metrics, stop.clone());
        Ok(Running {
            clients: [auth, js, sys],
            requests,
            questions,
            follower,
            durable,
            kicker,
            quota,
            reporter,
            census,
            reports,
            plane,
            audit,
            exchange: Box::pin(exchange),
        })
    }

    /// The control stream and what counts of what lies there and what we were given.
    /// JetStream may not be there yet: then it is waited for.
    async fn held(&self, js: &Client, given: &Given) -> Result<(ControlStream, Held), BrokerError> {
        let mut told: Option<Instant> = None;
        loop {
            let error = match Box::pin(self.held_now(js, given)).await {
                Ok(held) => return Ok(held),
                Err(BrokerError::Stream(error)) => error,
                Err(error) => return Err(error),
            };
            if told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
                told = Some(Instant::now());
                tracing::warn!(
                    error = crate::cli::chain(&error),
                    "JetStream is not available yet: this broker admits nobody and waits"
                );
            }
            sleep(STREAM_PAUSE).await;
        }
    }

    async fn held_now(
        &self,
        js: &Client,
        given: &Given,
    ) -> Result<(ControlStream, Held), BrokerError> {
        let (stream, (), ()) = tokio::try_join!(
            ControlStream::open(js.clone(), given.replicas),
            control::open_for_workloads(js, given.audit, given.replicas),
            control::open_history(js, given.replicas)
        )?;
        let bundle = publish_bundle(&stream, &self.anchor, self.bundle.clone()).await?;
        let policy = publish_policy(&stream, &bundle, self.policy.clone()).await?;
        let revocations = held_revocations(&stream, &bundle, given.revocations.clone()).await?;
        let held = Held::new(bundle, policy, revocations, clock::now());
        Ok((stream, held))
    }
}

/// A broker that has started.
struct Running {
    /// In `AUTH`, `JS` and `SYS`.
    clients: [Client; 3],
    requests: Requests,
    questions: Questions,
    follower: Follower,
    durable: Durable,
    kicker: Kicker<UnixMillis>,
    quota: AuditQuota,
    reporter: Reporter,
    census: Arc<Census>,
    reports: Subscriber,
    plane: Arc<ControlPlane>,
    audit: BrokerAudit,
    exchange: BoxFuture<'static, ()>,
}

impl Running {
    async fn work(self, readiness: Readiness, stop: CancellationToken) {
        let unready = async {
            stop.cancelled().await;
            readiness.set_unready();
        };
        tokio::join!(
            unready,
            self.requests.serve(stop.clone()),
            self.questions.serve(stop.clone()),
            self.follower.run(stop.clone()),
            self.durable.run(self.plane, stop.clone()),
            self.kicker.run(stop.clone()),
            self.quota.run(stop.clone()),
            self.reporter.run(stop.clone()),
            census::follow(self.census, self.reports, stop.clone()),
            self.exchange,
        );
        self.audit.close(AUDIT_LIMIT).await;
        // What was answered last must still leave, if there is anywhere to go.
        for client in self.clients {
            let _ = timeout(FLUSH_LIMIT, client.flush()).await;
            let _ = timeout(FLUSH_LIMIT, client.drain()).await;
        }
    }
}

/// Puts the bundle on the control stream unless a newer one lies there, and
/// gives the one that counts.
async fn publish_bundle(
    stream: &ControlStream,
    anchor: &Anchor,
    ours: HeldBundle,
) -> Result<HeldBundle, BrokerError> {
    // What lies there may be by a root that ours followed.
    let anchor = anchor.and_roots_of(&ours);
    publish(
        stream,
        reserved::CTL_BUNDLE,
        "trust bundle",
        ours,
        |bytes| anchor.bundle(bytes, clock::now()),
    )
    .await
}

/// The same for the policy.
async fn publish_policy(
    stream: &ControlStream,
    bundle: &HeldBundle,
    ours: HeldPolicy,
) -> Result<HeldPolicy, BrokerError> {
    publish(stream, reserved::CTL_POLICY, "policy", ours, |bytes| {
        bundle.policy(bytes, clock::now())
    })
    .await
}

/// The revocation list that counts: the newer one of what we were given and what
/// lies on the control stream. Nothing there is nothing revoked only if no broker
/// has seen a list.
async fn held_revocations(
    stream: &ControlStream,
    bundle: &HeldBundle,
    ours: Option<Bytes>,
) -> Result<Option<HeldRevocations>, BrokerError> {
    let held = match ours {
        Some(bytes) => {
            let ours = bundle.revocations(&bytes, clock::now())?;
            let what = "revocation list";
            let open = |bytes: &Bytes| bundle.revocations(bytes, clock::now());
            Some(publish(stream, reserved::CTL_REVOCATIONS, what, ours, open).await?)
        }
        None => match stream.last(reserved::CTL_REVOCATIONS).await? {
            Some(Record { payload, .. }) => Some(bundle.revocations(&payload, clock::now())?),
            None => None,
        },
    };
    let sequence = held.as_ref().map_or(0, |held| held.list.sequence);
    let head = stream.last(reserved::CTL_HEAD).await?;
    // Whatever its time, and if its key still counts: only a number is asked for.
    let head = head
        .and_then(|head| Head::open(&head.payload, &bundle.bundle, clock::now(), CLOCK_SKEW).ok());
    if let Some(named) = head.map(|head| head.names.revocations.number)
        && named > sequence
    {
        let held = sequence;
        return Err(TrustFault::RevocationsLost { named, held }.into());
    }
    Ok(held)
}

async fn publish<T: Succession>(
    stream: &ControlStream,
    subject: &str,
    what: &'static str,
    ours: T,
    open: impl Fn(&Bytes) -> Result<T, TrustFault>,
) -> Result<T, BrokerError> {
    // Brokers that start together race; whoever loses looks again.
    loop {
        let previous = match stream.last(subject).await? {
            None => 0,
            // What was read once is not read again.
            Some(Record { payload, .. }) if payload == *ours.bytes() => return Ok(ours),
            Some(Record { sequence, payload }) => match open(&payload) {
                Ok(stored) => match ours.check_succession(&stored) {
                    Ok(()) => sequence,
                    // A newer one by a root that was replaced is no newer one.
                    Err(SuccessionError::Rollback { held, offered })
                        if stored.check_succession(&ours).is_ok() =>
                    {
                        tracing::warn!(
                            what,
                            held,
                            offered,
                            "the control stream holds a newer one: using that"
                        );
                        return Ok(stored);
                    }
                    Err(source) => return Err(TrustFault::Contradiction { what, source }.into()),
                },
                // It was good once, and nobody goes by it any more.
                Err(fault) if fault.is_outlived() => sequence,
                Err(source) => return Err(BrokerError::Foreign { what, source }),
            },
        };
        if stream
            .replace(subject, ours.bytes().clone(), previous)
            .await?
        {
            return Ok(ours);
        }
    }
}

/// Why a broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// What it was given does not hold.
    #[error(transparent)]
    Trust(#[from] TrustFault),
    /// What lies on the control stream is not of this deployment.
    #[error(
        "the control stream `BULLA_CTL` holds a {what} of another deployment: if the trust root was replaced on purpose, delete that stream first"
    )]
    Foreign {
        /// `trust bundle` or `policy`.
        what: &'static str,
        /// How it differs.
        source: TrustFault,
    },
    /// The policy's workloads cannot be admitted.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The connection was lost while it started.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The address for operators cannot be listened on.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The control stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A subscription was refused.
    #[error("nats-server refuses the broker's subscriptions")]
    Subscribe(#[from] SubscribeError),
    /// No random bytes.
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// Between two looks for JetStream.
const STREAM_PAUSE: Duration = Duration::from_millis(500);

const AUDIT_LIMIT: Duration = Duration::from_secs(1);

const FLUSH_LIMIT: Duration = Duration::from_millis(500);
