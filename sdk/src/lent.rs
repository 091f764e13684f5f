//! A connection that the program has made itself, and lends.
//!
//! | what | of ours | of a lent one |
//! |---|---|---|
//! | who it is | proven when it connects | tried: it has to be let into this workload's inbox |
//! | TLS off loopback | demanded | looked for in what nats-server says |
//! | where answers arrive | where no peer can publish | there too, by a subscription for each question |
//! | refusals, full subscriptions | heard | heard with [`Ears`], which are tried; else what nobody answers is not begun |
//! | more rights by the policy | it connects anew | when the program connects anew, or a broker ends the connection |
//! | `drain` | ends it | leaves it to the program |

use std::fmt;
use std::future::{Future, Ready, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::client::traits::Publisher as _;
use async_nats::connection::State;
use async_nats::message::OutboundMessage;
use async_nats::{Event, HeaderMap, Message, RequestErrorKind, ServerInfo, Subject};
use bulla_identity::{WorkloadId, reserved};
use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::connection::{Connection, Refusals, Violation, on_event};
use crate::error::{ConnectError, LinkError};
use crate::link::Link;
use crate::options::ConnectOptions;
use crate::stats::Stats;

/// How long nats-server may take to show that the connection is this workload's.
const ADMITTED: Duration = Duration::from_secs(2);
/// How long a refusal may take from the connection to the ears.
const HEARD: Duration = Duration::from_secs(1);
/// Between two looks at a connection that nobody hears.
const LOOK: Duration = Duration::from_millis(100);

/// What hears of nats-server's refusals, and of subscriptions that are full, on a
/// connection that the program makes itself and then lends
/// ([`Client::over`](crate::Client::over)). nats-server tells them to whoever listens
/// when the connection is made, and to nobody later.
///
/// ```no_run
/// use bulla_sdk::{Bulla, Ears};
///
/// # async fn run(seed: String) -> Result<(), Box<dyn std::error::Error>> {
/// let ears = Ears::new();
/// let nats = async_nats::ConnectOptions::with_nkey(seed)
///     .event_callback(ears.callback())
///     .connect("tls://bus.acme.example")
///     .await?;
/// let client = Bulla::builder().file("orders.toml").over(nats, ears).connect().await?;
/// # drop(client);
/// # Ok(())
/// # }
/// ```
///
/// They belong to one connection; clones are the same ears.
#[derive(Clone)]
pub struct Ears {
    refusals: Arc<Refusals>,
}

impl Ears {
    /// Ears that have heard nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            refusals: Arc::new(Refusals::new(Stats::default())),
        }
    }

    /// For `async_nats::ConnectOptions::event_callback`.
    pub fn callback(&self) -> impl Fn(Event) -> Ready<()> + Send + Sync + use<> + 'static {
        let ears = self.clone();
        move |event| {
            ears.hear(event);
            ready(())
        }
    }

    /// The same for a program that has a callback of its own: it hands each event on.
    pub fn hear(&self, event: Event) {
        on_event(&self.refusals, event);
    }
}

impl Default for Ears {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Ears {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ears").finish_non_exhaustive()
    }
}

/// Why a connection that was lent cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LentError {
    /// It does not stand.
    #[error("it is not connected to nats-server")]
    NotConnected,
    /// Neither TLS nor loopback.
    #[error(
        "nats-server asks for no TLS on it, and it does not come from loopback: connect to a server that demands TLS, or say `danger_allow_plaintext` if the network is encrypted below"
    )]
    Plaintext,
    /// nats-server does not hold it for this workload's.
    #[error(
        "nats-server does not let it into the inbox of `{workload}`: make it with that workload's own nkey, token or certificate, on a server that asks the brokers"
    )]
    NotAdmitted {
        /// Whose it should be.
        workload: WorkloadId,
    },
    /// nats-server lets it do what no workload may.
    #[error(
        "nats-server lets it do what the policy lets nobody: it is one of an operator or broker, make it as a workload's"
    )]
    Unbound,
    /// A refusal on it was not heard.
    #[error(
        "the ears heard nothing of a refusal on it: give `Ears::callback` to the `event_callback` of this very connection"
    )]
    OtherEars,
}

impl LentError {
    /// Its stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::Plaintext => "plaintext",
            Self::NotAdmitted { .. } => "not_admitted",
            Self::Unbound => "unbound",
            Self::OtherEars => "other_ears",
        }
    }
}

/// What is lent.
pub(crate) struct Loan {
    pub(crate) nats: async_nats::Client,
    pub(crate) ears: Option<Ears>,
}

impl Connection {
    /// Uses a connection that somebody else has made, once it was tried.
    pub(crate) async fn over(
        loan: Loan,
        options: &ConnectOptions,
    ) -> Result<(Self, Stats), ConnectError> {
        let Loan { nats, ears } = loan;
        let info = standing(&nats, options.connect_timeout).await?;
        if !is_private(&info) && !options.danger_plaintext {
            return Err(LentError::Plaintext.into());
        }
        let refusals = match &ears {
            Some(ears) => Arc::clone(&ears.refusals),
            None => {
                let refusals = Arc::new(Refusals::new(Stats::default()));
                tokio::spawn(look(Arc::downgrade(&refusals), nats.clone()));
                refusals
            }
        };
        let stats = refusals.stats.clone();
        let link = Link::Lent(Lent {
            nats,
            inbox: reserved::inbox_server(options.workload.tag()).into(),
            closing: CancellationToken::new(),
        });
        let connection = Self::lent(link, refusals, ears.is_none());
        // Its answer arrives in the inbox that belongs to this workload alone.
        match connection
            .barrier(ADMITTED.min(options.connect_timeout))
            .await
        {
            Ok(()) => {}
            Err(LinkError::Timeout | LinkError::Refused) => {
                let workload = options.workload.clone();
                return Err(LentError::NotAdmitted { workload }.into());
            }
            Err(error) => return Err(error.into()),
        }
        connection.try_refusal(ears.is_some()).await?;
        Ok((connection, stats))
    }

    /// Does something that no workload may: nats-server has to refuse it, and whoever
    /// says to hear has to hear it.
    async fn try_refusal(&self, has_ears: bool) -> Result<(), ConnectError> {
        let subject = format!("{}{:032x}", Violation::TRIED, rand::random::<u128>());
        let wanted = Violation::Publish {
            subject: subject.clone(),
        };
        let mut watch = self.watch();
        let inbox = self.link().new_inbox();
        let mut answers = self.link().subscribe(inbox.clone()).await?;
        let forbidden = OutboundMessage {
            subject: subject.into(),
            reply: Some(inbox.into()),
            payload: Bytes::new(),
            headers: None,
        };
        self.link().publish_message(forbidden).await?;
        self.barrier(ADMITTED).await?;
        // Had it been let through, "nobody is there" would have come before the answer
        // to the barrier.
        if answers.next().now_or_never().flatten().is_some() {
            return Err(LentError::Unbound.into());
        }
        if has_ears && timeout(HEARD, watch.wait_for(&wanted)).await.is_err() {
            return Err(LentError::OtherEars.into());
        }
        Ok(())
    }
}

/// Waits until it stands; what nats-server says of itself.
async fn standing(nats: &async_nats::Client, patience: Duration) -> Result<ServerInfo, LentError> {
    let end = Instant::now() + patience;
    loop {
        if nats.connection_state() == State::Connected
            && let Some(info) = nats.try_server_info()
        {
            return Ok(info);
        }
        if Instant::now() >= end {
            return Err(LentError::NotConnected);
        }
        tokio::time::sleep(LOOK.min(patience)).await;
    }
}

/// Whether nobody on the way reads it, as far as nats-server's own word tells.
fn is_private(info: &ServerInfo) -> bool {
    let is_loopback = |ip: &str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    info.tls_required || is_loopback(&info.client_ip)
}

/// Sees that a connection without ears was lost and made anew, by counting.
async fn look(refusals: Weak<Refusals>, nats: async_nats::Client) {
    let made = || {
        let statistics = nats.statistics();
        statistics
            .connects
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let mut known = made();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(refusals) = refusals.upgrade() else {
            return;
        };
        let now = made();
        if now != known {
            known = now;
            on_event(&refusals, Event::Connected);
        }
    }
}

/// The connection itself; cloning shares it.
#[derive(Clone)]
pub(crate) struct Lent {
    nats: async_nats::Client,
    /// Where nats-server and brokers answer, and no peer can publish.
    inbox: Arc<str>,
    /// The client that borrowed it has ended.
    closing: CancellationToken,
}

impl Lent {
    /// The NATS client itself.
    pub(crate) fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    fn open(&self) -> Result<(), LinkError> {
        match self.closing.is_cancelled() {
            true => Err(LinkError::Disconnected),
            false => Ok(()),
        }
    }

    pub(crate) async fn subscribe(
        &self,
        subject: Subject,
        group: Option<String>,
    ) -> Result<LentFeed, LinkError> {
        self.open()?;
        let feed = match group {
            Some(group) => self.nats.queue_subscribe(subject, group).await,
            None => self.nats.subscribe(subject).await,
        };
        let feed = feed.map_err(|_| LinkError::Disconnected)?;
        let closing = Box::pin(self.closing.clone().cancelled_owned());
        Ok(LentFeed::Open { feed, closing })
    }

    pub(crate) async fn publish(&self, message: OutboundMessage) -> Result<(), LinkError> {
        self.open()?;
        let sent = self.nats.publish_message(message).await;
        sent.map_err(|_| LinkError::Disconnected)
    }

    pub(crate) async fn request(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, LinkError> {
        self.open()?;
        // The program's own inbox may lie where peers can publish.
        let mut request = async_nats::Request::new()
            .payload(payload)
            .timeout(Some(timeout))
            .inbox(self.new_inbox());
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        let answer = self.nats.send_request(subject, request).await;
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::TimedOut => LinkError::Timeout,
            RequestErrorKind::NoResponders => LinkError::NoResponders,
            _ => LinkError::Disconnected,
        })
    }

    pub(crate) fn new_inbox(&self) -> String {
        format!("{}.{:032x}", self.inbox, rand::random::<u128>())
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.open().is_ok() && self.nats.connection_state() == State::Connected
    }

    /// Ends what was begun over it, and leaves it to its owner.
    pub(crate) async fn close(&self) {
        // What cannot be written is lost, as with every lost connection.
        let _ = self.nats.flush().await;
        self.closing.cancel();
    }
}

/// What arrives on a subscription over it. Dropping it unsubscribes.
pub(crate) enum LentFeed {
    Open {
        feed: async_nats::Subscriber,
        closing: Pin<Box<WaitForCancellationFutureOwned>>,
    },
    /// Nothing new is wanted.
    Ending(Pin<Box<dyn Future<Output = async_nats::Subscriber> + Send + Sync>>),
    /// Gives what it holds.
    Ended(async_nats::Subscriber),
    /// Between two of these.
    Gone,
}

impl LentFeed {
    /// The subscription itself, unless it is being ended.
    pub(crate) fn subscriber(&mut self) -> Option<&mut async_nats::Subscriber> {
        match self {
            Self::Open { feed, .. } | Self::Ended(feed) => Some(feed),
            Self::Ending(_) | Self::Gone => None,
        }
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            match self {
                Self::Open { feed, closing } => {
                    if closing.as_mut().poll(cx).is_pending() {
                        return Pin::new(feed).poll_next(cx);
                    }
                    if let Self::Open { mut feed, .. } = std::mem::replace(self, Self::Gone) {
                        *self = Self::Ending(Box::pin(async move {
                            let _ = feed.unsubscribe().await;
                            feed
                        }));
                    }
                }
                Self::Ending(end) => match end.as_mut().poll(cx) {
                    Poll::Ready(feed) => *self = Self::Ended(feed),
                    Poll::Pending => return Poll::Pending,
                },
                Self::Ended(feed) => return Pin::new(feed).poll_next(cx),
                Self::Gone => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_could_read_is_known_by_the_servers_word() {
        let info = |tls, ip: &str| ServerInfo {
            tls_required: tls,
            client_ip: ip.to_owned(),
            ..ServerInfo::default()
        };
        for (tls, ip, is_sound) in [
            (true, "192.0.2.7", true),
            (false, "127.0.0.1", true),
            (false, "::1", true),
            (false, "192.0.2.7", false),
            (false, "", false),
            (false, "127.0.0.1.example", false),
        ] {
            assert_eq!(is_private(&info(tls, ip)), is_sound, "{tls} {ip}");
        }
    }
}
