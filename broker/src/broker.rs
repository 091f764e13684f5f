//! One broker from start to end.

use std::sync::Arc;
use std::time::Duration;

use async_nats::SubscribeError;
use bulla_envelope::{Head, SuccessionError};
use bulla_identity::reserved;
use bulla_process::Readiness;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::buckets::Buckets;
use crate::callout::{self, AdmissionError, Admissions, Callout};
use crate::clock;
use crate::config::BrokerConfig;
use crate::connection::{self, ConnectionError, WAITING};
use crate::control::{self, ControlPlane, ControlStream, Record, StreamError};
use crate::durable::Durable;
use crate::exchange;
use crate::files::Files;
use crate::follow::{self, Follower};
use crate::history::History;
use crate::issuing::Issuers;
use crate::kick::Kicker;
use crate::report::Reporter;
use crate::seen::Seen;
use crate::trust::{
    Anchor, CLOCK_SKEW, Held, HeldBundle, HeldPolicy, HeldRevocations, Succession, TrustFault,
};

/// Runs a broker until `stop`.
///
/// It is ready when the trust bundle and the policy lie on the control stream
/// and it answers the callout; until then it is silent. While it runs it takes
/// newer ones from there. On `stop` it takes no
/// new requests and finishes the ones it has.
///
/// # Errors
/// If it cannot start: what it was given does not hold, or nats-server is not
/// reachable or not configured for it.
pub async fn run(
    config: BrokerConfig,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), BrokerError> {
    let anchor = Anchor::of(&config);
    let bundle = anchor.bundle(&config.bundle, clock::now())?;
    let policy = bundle.policy(&config.policy, clock::now())?;

    let url = &config.nats_url;
    let disturbed = Arc::new(Notify::new());
    let js = Arc::new(config.keys.js);
    let js = connection::connect(url, "JS", js, WAITING, Arc::clone(&disturbed)).await?;
    let news = follow::listen(&js).await?;
    let (stream, (), ()) = tokio::try_join!(
        ControlStream::open(js.clone()),
        control::open_for_workloads(&js, config.audit),
        control::open_history(&js)
    )?;
    let bundle = publish_bundle(&stream, &anchor, bundle).await?;
    let policy = publish_policy(&stream, &bundle, policy).await?;
    let revocations = revocations(&stream, &bundle, config.revocations).await?;
    let held = Held::new(bundle, policy, revocations, clock::now());
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
    let mut durable = Durable::new(js.clone(), Arc::clone(&buckets));
    durable.make(&held.policy.policy, revision).await;
    let version = held.bundle.bundle.version;

    let seen = Arc::new(Seen::new(config.state_max_age, clock::now()));
    let outcasts = held.outcasts();
    let plane = Arc::new(
        ControlPlane::new(
            issuers,
            config.credential_lifetime,
            held,
            stream.clone(),
            Arc::clone(&seen),
        )
        .map_err(BrokerError::Random)?,
    );
    let audit = plane.audit().clone();
    audit.start(js.clone(), &plane, CancellationToken::new());
    // Whoever connects finds a head of now.
    if let Some(head) = plane.head(clock::now()) {
        stream.tell(reserved::CTL_HEAD, head.into()).await?;
    }
    let broker_id = plane.broker_id().to_owned();
    let requests = Arc::clone(&plane).subscribe(js.clone()).await?;
    connection::round_trip(&js).await?;

    let auth = Arc::new(config.keys.auth);
    // Whoever is not answered asks again: nothing is missed.
    let auth = connection::connect(url, "AUTH", auth, callout::WAITING, Arc::default()).await?;
    let sys = Arc::new(config.keys.sys);
    let sys = connection::connect(url, "SYS", sys, WAITING, Arc::default()).await?;
    let callout = Callout::new(config.keys.issuer, config.keys.xkey);
    let callout = callout
        .while_seen(Arc::clone(&seen))
        .with_token_keys(plane.token_keys())
        .telling(audit.decisions("callout"));
    let callout = Arc::new(callout.with_buckets(buckets.served()));
    callout.cast_out(Arc::clone(&outcasts));
    callout.admit(admissions);
    let kicker = Kicker {
        sys: sys.clone(),
        callout: Arc::clone(&callout),
        changes: plane.changes(),
        audit: audit.log(),
    };
    let questions = callout::subscribe(auth.clone(), Arc::clone(&callout), config.group).await?;
    connection::round_trip(&auth).await?;
    let held_by = Arc::clone(&plane);
    let reporter = Reporter::new(
        js.clone(),
        Arc::clone(&plane),
        Arc::clone(&seen),
        Arc::clone(callout.trial()),
    );
    let follower = Follower {
        anchor,
        files: Files::new(config.files),
        plane,
        callout,
        history: History::new(stream.clone()),
        buckets,
        stream,
        news,
        seen: Arc::clone(&seen),
        disturbed,
    };

    tracing::info!(
        broker_id,
        policy_revision = revision,
        bundle_version = version,
        "broker is up"
    );
    follower.history.keep(&held_by.held().policy).await;
    readiness.set_ready("broker");
    tokio::join!(
        requests.serve(stop.clone()),
        questions.serve(stop.clone()),
        follower.run(stop.clone()),
        durable.run(held_by, stop.clone()),
        kicker.run(stop.clone()),
        reporter.run(stop.clone()),
        exchange::run(config.exchange, config.nats_url.clone(), stop.clone()),
    );
    readiness.set_unready();
    audit.close(AUDIT_LIMIT).await;
    // What was answered last must still leave, if there is anywhere to go.
    for client in [auth, js, sys] {
        let _ = timeout(FLUSH_LIMIT, client.flush()).await;
        let _ = timeout(FLUSH_LIMIT, client.drain()).await;
    }
    Ok(())
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
async fn revocations(
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
            Some(Record { sequence, payload }) => match open(&payload) {
                Ok(stored) => match ours.check_succession(&stored) {
                    Ok(()) if *stored.bytes() == *ours.bytes() => return Ok(ours),
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
    /// No connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
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

const AUDIT_LIMIT: Duration = Duration::from_secs(1);

const FLUSH_LIMIT: Duration = Duration::from_millis(500);
