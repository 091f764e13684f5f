//! The connection to nats-server: authentication, order, and the refusals that
//! the server reports asynchronously.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Event, HeaderMap, ServerAddr, ServerError};
use bulla_identity::{Subject, reserved};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use crate::connect_proof::ConnectProof;
use crate::error::{ConnectError, LinkError};
use crate::link::{Feed, Link};
use crate::options::ConnectOptions;
use crate::stats::Stats;

/// Refusals by nats-server that wait to be told to a publisher.
const MAX_PENDING_REFUSALS: usize = 1_024;
/// Refusals on their way to waiting calls.
const VIOLATION_CHANNEL: usize = 256;
/// A refusal that comes later than this is nobody's: no broker answered in time.
const REFUSED_WITHIN: Duration = Duration::from_millis(1_500);
/// How long a refusal may trail the answer that follows it on the wire: the
/// NATS client hands events to another task.
pub(crate) const REFUSAL_GRACE: Duration = Duration::from_millis(10);

/// Something that nats-server did not permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    Publish { subject: String },
    Subscribe { subject: String },
}

impl Violation {
    /// How the subjects begin on which it is tried whether refusals are heard: beneath
    /// the barrier, where nobody may publish.
    pub(crate) const TRIED: &str = "$BULLA.BARRIER.";

    /// Whether it was brought about, to see whether it is heard.
    fn is_tried(&self) -> bool {
        matches!(self, Self::Publish { subject } if subject.starts_with(Self::TRIED))
    }

    /// Reads the text of a `-ERR`, for example
    /// `Permissions Violation for Subscription to "a.b" using queue "q"`.
    fn parse(text: &str) -> Option<Self> {
        let rest =
            strip_prefix_ignoring_case(text.trim_matches('\''), "permissions violation for ")?;
        let quoted = |rest: &str| rest.split('"').nth(1).map(str::to_owned);
        if let Some(rest) = strip_prefix_ignoring_case(rest, "publish to ") {
            Some(Self::Publish {
                subject: quoted(rest)?,
            })
        } else if let Some(rest) = strip_prefix_ignoring_case(rest, "subscription to ") {
            Some(Self::Subscribe {
                subject: quoted(rest)?,
            })
        } else {
            None
        }
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix)
        .then(|| text.get(prefix.len()..))
        .flatten()
}

pub(crate) struct Refusals {
    /// Counts the moments at which something that the server sent may have been
    /// missed: a (re)connection, a full subscription.
    disturbances: watch::Sender<u64>,
    /// Counts connections: each was admitted by the policy of its moment.
    admissions: watch::Sender<u64>,
    waiting: broadcast::Sender<Violation>,
    unreported: Mutex<BTreeMap<String, u64>>,
    /// Whether there are any of them, for the publishers, who ask each time.
    has_unreported: AtomicBool,
    /// Whether the connection has ended for good.
    closed: watch::Sender<bool>,
    /// Messages that were dropped because their subscription was full, by the number
    /// that the NATS client gives it.
    overflows: Mutex<BTreeMap<u64, u64>>,
    /// Whether there are any of them, for the subscriptions, which ask each time.
    has_overflows: AtomicBool,
    /// Whether this connection gets what the policy gives it later as it is.
    reauthorises: AtomicBool,
    pub(crate) stats: Stats,
}

impl Refusals {
    pub(crate) fn new(stats: Stats) -> Self {
        Self {
            disturbances: watch::channel(0).0,
            admissions: watch::channel(0).0,
            waiting: broadcast::channel(VIOLATION_CHANNEL).0,
            unreported: Mutex::default(),
            has_unreported: AtomicBool::new(false),
            closed: watch::channel(false).0,
            overflows: Mutex::default(),
            has_overflows: AtomicBool::new(false),
            reauthorises: AtomicBool::new(false),
            stats,
        }
    }

    fn overflow(&self, subscription: u64) {
        self.stats.count_slow_consumer();
        let mut overflows = self.overflows.lock();
        if overflows.len() < MAX_PENDING_REFUSALS || overflows.contains_key(&subscription) {
            let count = overflows.entry(subscription).or_default();
            *count = count.saturating_add(1);
            self.has_overflows.store(true, Ordering::Release);
        }
    }

    fn record(&self, violation: Violation) {
        match &violation {
            _ if violation.is_tried() => {}
            // A reply subject is used once: nobody will publish there again and
            // learn of it.
            Violation::Publish { subject } if reserved::is_reserved(subject) => {
                self.stats.count_refused("reply_refused_by_server");
            }
            Violation::Publish { subject } => self.remember(subject),
            Violation::Subscribe { .. } => {
                self.stats.count_refused("subscription_refused_by_server");
            }
        }
        // Nobody waiting is fine: a publish learns of it from `unreported`.
        let _ = self.waiting.send(violation);
    }

    fn remember(&self, subject: &str) {
        let mut unreported = self.unreported.lock();
        if unreported.len() < MAX_PENDING_REFUSALS || unreported.contains_key(subject) {
            let count = unreported.entry(subject.to_owned()).or_default();
            *count = count.saturating_add(1);
            self.has_unreported.store(true, Ordering::Release);
        } else {
            self.stats.count_lost_violation();
        }
    }
}

/// Connects for the first time. A broker that refuses does so at once; where none
/// answers nats-server gives up after two seconds, and then it is tried again until the
/// time-out: brokers may be on their way back.
async fn first_connection(
    nats: async_nats::ConnectOptions,
    address: ServerAddr,
    options: &ConnectOptions,
) -> Result<async_nats::Client, ConnectError> {
    let end = Instant::now() + options.connect_timeout;
    let mut attempts = 0;
    let mut waiting_for = "nats-server";
    loop {
        let began = Instant::now();
        let connected = timeout_at(end, nats.clone().connect(address.clone())).await;
        let source = match connected {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(source)) => source,
            Err(_) => return Err(ConnectError::Timeout { waiting_for }),
        };
        match source.kind() {
            async_nats::ConnectErrorKind::AuthorizationViolation
            | async_nats::ConnectErrorKind::Authentication
                if began.elapsed() < REFUSED_WITHIN =>
            {
                return Err(ConnectError::Unauthorized {
                    workload: options.workload.clone(),
                });
            }
            async_nats::ConnectErrorKind::AuthorizationViolation
            | async_nats::ConnectErrorKind::Authentication => waiting_for = "a broker",
            _ => {
                return Err(ConnectError::Nats {
                    url: redacted(&options.nats_url),
                    source,
                });
            }
        }
        attempts += 1;
        if timeout_at(end, tokio::time::sleep(reconnect_delay(attempts)))
            .await
            .is_err()
        {
            return Err(ConnectError::Timeout { waiting_for });
        }
    }
}

/// A connection of one workload; cloning shares it.
#[derive(Clone)]
pub(crate) struct Connection {
    link: Link,
    refusals: Arc<Refusals>,
    /// Nobody hears of refusals.
    is_deaf: bool,
}

impl Connection {
    /// Connects and proves the workload.
    pub(crate) async fn open(
        options: &ConnectOptions,
        proof: ConnectProof,
        stats: Stats,
    ) -> Result<Self, ConnectError> {
        let address = checked_address(options)?;
        let refusals = Arc::new(Refusals::new(stats));
        let tag = options.workload.tag();
        let prover = proof.clone();
        let mut nats = async_nats::ConnectOptions::with_auth_callback(move |nonce| {
            let proof = prover.clone();
            async move { proof.auth(&nonce).await }
        })
        .name(options.workload.path())
        // Ours are checked once, when they are read, and not for every message.
        .skip_subject_validation(true)
        // Peers cannot publish into this half: it is for nats-server and brokers.
        .custom_inbox_prefix(reserved::inbox_server(tag))
        .subscription_capacity(options.subscription_capacity)
        .connection_timeout(options.connect_timeout)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback({
            let refusals = Arc::clone(&refusals);
            move |event| {
                on_event(&refusals, event);
                std::future::ready(())
            }
        });
        if let Some(ca) = &options.tls_ca_file {
            nats = nats.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let Some(files) = &options.certificate {
            // For a server that asks; read again at each connection.
            nats = nats.add_client_certificate(files.chain.clone(), files.key.clone());
            if matches!(proof, ConnectProof::Certificate) {
                nats = nats.require_tls(true);
            }
        }
        let nats = first_connection(nats, address, options).await?;
        Ok(Self {
            link: Link::Nats(nats),
            refusals,
            is_deaf: false,
        })
    }

    /// One that somebody else has made.
    pub(crate) fn lent(link: Link, refusals: Arc<Refusals>, is_deaf: bool) -> Self {
        Self {
            link,
            refusals,
            is_deaf,
        }
    }

    /// Whether somebody else has made it, and keeps it.
    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.link, Link::Lent(_))
    }

    /// What nobody answers is begun only where a refusal would be heard.
    pub(crate) fn check_heard(&self) -> Result<(), LinkError> {
        match self.is_deaf {
            true => Err(LinkError::Deaf),
            false => Ok(()),
        }
    }

    /// A connection to a bus within this process.
    #[cfg(feature = "testing")]
    pub(crate) fn within(socket: crate::testing::hub::Socket, stats: Stats) -> Self {
        Self {
            link: Link::Memory(socket),
            refusals: Arc::new(Refusals::new(stats)),
            is_deaf: false,
        }
    }

    /// What carries messages.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Changes whenever something that the server sent may have been missed.
    pub(crate) fn disturbances(&self) -> watch::Receiver<u64> {
        self.refusals.disturbances.subscribe()
    }

    /// Changes with each connection that nats-server has admitted.
    pub(crate) fn admissions(&self) -> watch::Receiver<u64> {
        self.refusals.admissions.subscribe()
    }

    /// A broker says whether this connection gets what the policy gives it later as it
    /// is, or only when it is made anew.
    pub(crate) fn note_reauthorises(&self, it_does: bool) {
        self.refusals.reauthorises.store(it_does, Ordering::Relaxed);
    }

    /// What a broker said last.
    pub(crate) fn reauthorises(&self) -> bool {
        self.refusals.reauthorises.load(Ordering::Relaxed)
    }

    /// Connects anew, after what was sent has been processed; subscriptions come
    /// along. What comes in between is lost, as with every lost connection.
    pub(crate) async fn renew(&self, timeout: Duration) -> Result<(), LinkError> {
        self.barrier(timeout).await?;
        self.link.reconnect().await
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    /// Ends all subscriptions and the connection, and waits until that is done.
    pub(crate) async fn close(&self, limit: Duration) {
        let mut closed = self.refusals.closed.subscribe();
        let close = async {
            self.link.drain().await;
            // It only queues the wish; and one that was lent stays.
            if self.link.is_connected() && !self.is_lent() {
                let _ = closed.wait_for(|closed| *closed).await;
            }
        };
        let _ = tokio::time::timeout(limit, close).await;
    }

    /// Resolves when there has been no connection for so long.
    pub(crate) async fn is_gone_for(&self, patience: Duration) {
        let mut since: Option<tokio::time::Instant> = None;
        loop {
            match (self.is_connected(), since) {
                (true, _) => since = None,
                (false, None) => since = Some(tokio::time::Instant::now()),
                (false, Some(since)) if since.elapsed() >= patience => return,
                (false, Some(_)) => {}
            }
            tokio::time::sleep(patience / 2).await;
        }
    }

    /// Takes how many messages one subscription is known to have lost.
    pub(crate) fn take_overflows(&self, subscription: u64) -> u64 {
        if !self.refusals.has_overflows.load(Ordering::Acquire) {
            return 0;
        }
        let mut overflows = self.refusals.overflows.lock();
        let count = overflows.remove(&subscription).unwrap_or(0);
        let any = !overflows.is_empty();
        self.refusals.has_overflows.store(any, Ordering::Release);
        count
    }

    /// Returns when nats-server has processed everything sent before: a request
    /// to a subject that nobody can serve is answered in order.
    pub(crate) async fn barrier(&self, timeout: Duration) -> Result<(), LinkError> {
        let (subject, headers) = (reserved::BARRIER.to_owned(), HeaderMap::new());
        let answer = self.link.request(subject, headers, Bytes::new(), timeout);
        match answer.await {
            Err(LinkError::NoResponders) => Ok(()),
            // An answer would mean that somebody serves what nobody may serve.
            Ok(_) => Err(LinkError::BarrierServed),
            Err(error) => Err(error),
        }
    }

    /// Ends a subscription without losing what is on its way: nats-server is told to send
    /// no more, and what it had sent is here before its answer to what comes after.
    ///
    /// The subscription ends in any case; an error says that something may have been
    /// lost.
    pub(crate) async fn end(&self, feed: &mut Feed, limit: Duration) -> Result<(), LinkError> {
        let stopped = feed.stop().await;
        let answered = self.barrier(limit).await;
        feed.drain().await?;
        stopped.and(answered)
    }

    /// Whether a refusal of `wanted` arrives after `watch` was made, within the
    /// grace that an event needs behind a barrier.
    pub(crate) async fn refused_since(&self, watch: &mut Watch, wanted: &Violation) -> bool {
        tokio::time::timeout(REFUSAL_GRACE, watch.wait_for(wanted))
            .await
            .is_ok()
    }

    /// Starts to watch for refusals.
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.refusals.waiting.subscribe())
    }

    /// Takes the refusals of publishes to `subject` that nobody was told of.
    pub(crate) fn take_refused_publishes(&self, subject: &str) -> u64 {
        if !self.refusals.has_unreported.load(Ordering::Acquire) {
            return 0;
        }
        let mut unreported = self.refusals.unreported.lock();
        let count = unreported.remove(subject).unwrap_or(0);
        let any = !unreported.is_empty();
        self.refusals.has_unreported.store(any, Ordering::Release);
        count
    }

    /// Takes all refusals of publishes that nobody was told of.
    pub(crate) fn take_all_refused_publishes(&self) -> BTreeMap<String, u64> {
        let mut unreported = self.refusals.unreported.lock();
        self.refusals.has_unreported.store(false, Ordering::Release);
        std::mem::take(&mut *unreported)
    }

    /// Asks nats-server or a broker; the answer comes to the half of the inbox
    /// where no peer can publish.
    pub(crate) async fn ask(
        &self,
        subject: String,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message, LinkError> {
        let headers = HeaderMap::new();
        self.ask_with_headers(subject, headers, payload, timeout)
            .await
    }

    /// The same with NATS headers, which nobody signs.
    pub(crate) async fn ask_with_headers(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message, LinkError> {
        // A part of it can be what a broker said; the NATS client does not look.
        if Subject::parse(&subject).is_err() {
            return Err(LinkError::Refused);
        }
        let mut watch = self.watch();
        let wanted = Violation::Publish {
            subject: subject.clone(),
        };
        tokio::select! {
            answer = self.link.request(subject.clone(), headers, payload, timeout) => answer,
            () = watch.wait_for(&wanted) => {
                self.take_refused_publishes(&subject);
                Err(LinkError::Refused)
            }
        }
    }
}

/// What an answer's header of a name says, the first if it is there more than once.
pub(crate) fn header_of<'a>(answer: &'a async_nats::Message) -> impl Fn(&str) -> Option<&'a str> {
    let headers = answer.headers.as_ref();
    move |name| headers?.get(name).map(async_nats::HeaderValue::as_str)
}

/// Sees the refusals that arrive after it was made.
pub(crate) struct Watch(broadcast::Receiver<Violation>);

impl Watch {
    /// The next refusal; nothing when the connection is gone. Of very many at once
    /// some are left out.
    pub(crate) async fn next(&mut self) -> Option<Violation> {
        loop {
            match self.0.recv().await {
                Ok(violation) => return Some(violation),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Resolves when anything is refused; never if nothing is.
    pub(crate) async fn any(&mut self) {
        if self.next().await.is_none() {
            std::future::pending().await
        }
    }

    /// Resolves when `wanted` is refused; never if it is not.
    pub(crate) async fn wait_for(&mut self, wanted: &Violation) {
        while let Some(violation) = self.next().await {
            if violation == *wanted {
                return;
            }
        }
        std::future::pending().await
    }
}

/// What the NATS client tells of the connection.
pub(crate) fn on_event(refusals: &Refusals, event: Event) {
    match event {
        Event::ServerError(ServerError::Other(text)) => match Violation::parse(&text) {
            Some(violation) if violation.is_tried() => refusals.record(violation),
            Some(violation) => {
                warn!(?violation, "nats-server refused");
                refusals.record(violation);
            }
            None => warn!(error = %text, "nats-server reported an error"),
        },
        Event::SlowConsumer(subscription)
        | Event::ServerError(ServerError::SlowConsumer(subscription)) => {
            refusals.overflow(subscription);
            refusals
                .disturbances
                .send_modify(|count| *count = count.wrapping_add(1));
            warn!("a subscription is full: messages were dropped");
        }
        Event::ServerError(ServerError::AuthorizationViolation) => {
            warn!(
                "nats-server refused the connection: the policy no longer lets this workload in, or no broker answered"
            );
        }
        Event::Connected => {
            for count in [&refusals.disturbances, &refusals.admissions] {
                count.send_modify(|count| *count = count.wrapping_add(1));
            }
            info!("connected to nats-server");
        }
        Event::Closed => {
            refusals.closed.send_replace(true);
        }
        Event::Disconnected => warn!("lost the connection to nats-server"),
        other => debug!(event = %other, "connection event"),
    }
}

/// Exponential back-off from 50 ms to 4 s with full jitter, so that a fleet
/// does not return in step.
fn reconnect_delay(attempts: usize) -> Duration {
    let exponent = u32::try_from(attempts.min(7)).unwrap_or(7);
    let ceiling = 50u64
        .saturating_mul(2u64.saturating_pow(exponent))
        .min(4_000);
    Duration::from_millis(rand::random_range(ceiling / 4..=ceiling))
}

fn checked_address(options: &ConnectOptions) -> Result<ServerAddr, ConnectError> {
    let url = || redacted(&options.nats_url);
    let address =
        ServerAddr::from_str(&options.nats_url).map_err(|_| ConnectError::Url { url: url() })?;
    if address.has_user_pass() {
        return Err(ConnectError::UrlCredentials);
    }
    let host = address.host().trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    let tls = address.tls_required() || options.tls_ca_file.is_some();
    if !loopback && !tls && !options.danger_plaintext {
        return Err(ConnectError::Plaintext { url: url() });
    }
    Ok(address)
}

/// The URL without what might be a password in it.
fn redacted(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        (None, Some((_, host))) => format!("…@{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_identity::WorkloadId;

    fn options(url: &str) -> ConnectOptions {
        let id = WorkloadId::parse("spiffe://acme.example/orders").unwrap();
        ConnectOptions::new(url, id, "seed", "root")
    }

    #[test]
    fn refusals_are_read_from_the_servers_text() {
        let publish = |s: &str| Some(Violation::Publish { subject: s.into() });
        let subscribe = |s: &str| Some(Violation::Subscribe { subject: s.into() });
        for (text, want) in [
            (
                "Permissions Violation for Publish to \"a.b\"",
                publish("a.b"),
            ),
            ("'permissions violation for publish to \"a\"'", publish("a")),
            (
                "Permissions Violation for Subscription to \"a.*\"",
                subscribe("a.*"),
            ),
            (
                "Permissions Violation for Subscription to \"a\" using queue \"q\"",
                subscribe("a"),
            ),
            ("Permissions Violation for Publish to ", None),
            ("Permissions Violation", None),
            ("Stale Connection", None),
            ("", None),
            ("ä", None),
        ] {
            assert_eq!(Violation::parse(text), want, "{text}");
        }
    }

    #[test]
    fn plaintext_off_loopback_is_refused() {
        for good in [
            "nats://127.0.0.1:4222",
            "nats://localhost",
            "nats://[::1]:4222",
            "tls://bus.example",
            "127.0.0.1:4222",
        ] {
            assert!(checked_address(&options(good)).is_ok(), "{good}");
        }
        for bad in [
            "nats://bus.example:4222",
            "nats://10.0.0.1",
            "nats://127.0.0.1.evil.example",
        ] {
            assert!(
                matches!(
                    checked_address(&options(bad)),
                    Err(ConnectError::Plaintext { .. })
                ),
                "{bad}"
            );
        }
        assert!(checked_address(&options("nats://bus.example").danger_allow_plaintext()).is_ok());
        let error = checked_address(&options("nats://joe:secret@127.0.0.1")).unwrap_err();
        assert!(matches!(error, ConnectError::UrlCredentials));
        assert_eq!(redacted("nats://joe:secret@h:1"), "nats://…@h:1");
    }

    #[test]
    fn the_back_off_is_jittered_and_bounded() {
        for attempts in [0, 1, 5, 1_000_000] {
            assert!(reconnect_delay(attempts) <= Duration::from_secs(4));
        }
        let seen: std::collections::BTreeSet<_> = (0..50).map(|_| reconnect_delay(6)).collect();
        assert!(seen.len() > 5);
    }
}
