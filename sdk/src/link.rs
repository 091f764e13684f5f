//! What carries messages: nats-server and, with the feature `testing`, a bus
//! within this process.
//!
//! Everything that this crate asks of a bus is here, so that nothing above needs
//! to know which one it is.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::client::traits::Publisher as _;
use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, Message, RequestErrorKind, Subject};
use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _};

use crate::error::LinkError;
use crate::lent::{Lent, LentFeed};
#[cfg(feature = "testing")]
use crate::testing::hub;

/// One connection to a bus; cloning shares it.
#[derive(Clone)]
pub(crate) enum Link {
    /// To nats-server.
    Nats(async_nats::Client),
    /// To nats-server too; whoever made it keeps it.
    Lent(Lent),
    /// Within this process.
    #[cfg(feature = "testing")]
    Memory(hub::Socket),
}

/// What arrives on a subscription. Dropping it unsubscribes.
pub(crate) enum Feed {
    Nats(async_nats::Subscriber),
    Lent(Box<LentFeed>),
    #[cfg(feature = "testing")]
    Memory(hub::Feed),
}

impl Link {
    pub(crate) async fn subscribe(&self, subject: impl Into<Subject>) -> Result<Feed, LinkError> {
        match self {
            Self::Nats(nats) => {
                let feed = nats.subscribe(subject.into()).await;
                feed.map(Feed::Nats).map_err(|_| LinkError::Disconnected)
            }
            Self::Lent(lent) => {
                let feed = lent.subscribe(subject.into(), None).await?;
                Ok(Feed::Lent(Box::new(feed)))
            }
            #[cfg(feature = "testing")]
            Self::Memory(socket) => Ok(Feed::Memory(socket.subscribe(subject.into(), None)?)),
        }
    }

    pub(crate) async fn queue_subscribe(
        &self,
        subject: impl Into<Subject>,
        group: String,
    ) -> Result<Feed, LinkError> {
        match self {
            Self::Nats(nats) => {
                let feed = nats.queue_subscribe(subject.into(), group).await;
                feed.map(Feed::Nats).map_err(|_| LinkError::Disconnected)
            }
            Self::Lent(lent) => {
                let feed = lent.subscribe(subject.into(), Some(group)).await?;
                Ok(Feed::Lent(Box::new(feed)))
            }
            #[cfg(feature = "testing")]
            Self::Memory(socket) => {
                let feed = socket.subscribe(subject.into(), Some(group))?;
                Ok(Feed::Memory(feed))
            }
        }
    }

    /// Hands a message to the bus; nothing says that it arrives.
    pub(crate) async fn publish(
        &self,
        subject: impl Into<Subject>,
        payload: Bytes,
    ) -> Result<(), LinkError> {
        self.publish_message(OutboundMessage {
            subject: subject.into(),
            reply: None,
            payload,
            headers: None,
        })
        .await
    }

    pub(crate) async fn publish_message(&self, message: OutboundMessage) -> Result<(), LinkError> {
        match self {
            Self::Nats(nats) => {
                let sent = nats.publish_message(message).await;
                sent.map_err(|_| LinkError::Disconnected)
            }
            Self::Lent(lent) => lent.publish(message).await,
            #[cfg(feature = "testing")]
            Self::Memory(socket) => socket.publish(message),
        }
    }

    /// Asks, and takes the first answer.
    pub(crate) async fn request(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, LinkError> {
        match self {
            Self::Nats(nats) => {
                let mut request = async_nats::Request::new()
                    .payload(payload)
                    .timeout(Some(timeout));
                if !headers.is_empty() {
                    request = request.headers(headers);
                }
                let answer = nats.send_request(subject, request).await;
                answer.map_err(|error| match error.kind() {
                    RequestErrorKind::TimedOut => LinkError::Timeout,
                    RequestErrorKind::NoResponders => LinkError::NoResponders,
                    _ => LinkError::Disconnected,
                })
            }
            Self::Lent(lent) => lent.request(subject, headers, payload, timeout).await,
            #[cfg(feature = "testing")]
            Self::Memory(socket) => socket.request(subject, headers, payload, timeout).await,
        }
    }

    /// A subject that nobody can guess, where only the bus itself answers.
    pub(crate) fn new_inbox(&self) -> String {
        match self {
            Self::Nats(nats) => nats.new_inbox(),
            Self::Lent(lent) => lent.new_inbox(),
            #[cfg(feature = "testing")]
            Self::Memory(socket) => socket.new_inbox(),
        }
    }

    /// The largest payload that the bus takes, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        match self {
            Self::Nats(nats) => nats.max_payload(),
            Self::Lent(lent) => lent.nats().max_payload(),
            #[cfg(feature = "testing")]
            Self::Memory(_) => hub::MAX_PAYLOAD,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        match self {
            Self::Nats(nats) => nats.connection_state() == async_nats::connection::State::Connected,
            Self::Lent(lent) => lent.is_connected(),
            #[cfg(feature = "testing")]
            Self::Memory(socket) => socket.is_open(),
        }
    }

    /// Leaves the connection and makes another; subscriptions come along.
    pub(crate) async fn reconnect(&self) -> Result<(), LinkError> {
        match self {
            Self::Nats(nats) => {
                let renewed = nats.force_reconnect().await;
                renewed.map_err(|_| LinkError::Disconnected)
            }
            // Others may be in the middle of something on it.
            Self::Lent(_) => Err(LinkError::Refused),
            // It admits everybody whom the policy names, and knows no other rights.
            #[cfg(feature = "testing")]
            Self::Memory(_) => Ok(()),
        }
    }

    /// Writes what was handed over.
    pub(crate) async fn flush(&self) {
        match self {
            // What cannot be written is lost, as with every lost connection.
            Self::Nats(nats) => drop(nats.flush().await),
            Self::Lent(lent) => drop(lent.nats().flush().await),
            #[cfg(feature = "testing")]
            Self::Memory(_) => {}
        }
    }

    /// Ends all subscriptions after what has arrived, and the connection.
    pub(crate) async fn drain(&self) {
        match self {
            Self::Nats(nats) => drop(nats.drain().await),
            Self::Lent(lent) => lent.close().await,
            #[cfg(feature = "testing")]
            Self::Memory(socket) => socket.close(),
        }
    }
}

impl Feed {
    /// The number by which the NATS client tells that a subscription is full. It
    /// shows it nowhere else; without it losses are counted for the whole client alone.
    pub(crate) fn number(&mut self) -> Option<u64> {
        let shown = match self {
            Self::Nats(feed) => format!("{feed:?}"),
            Self::Lent(feed) => format!("{:?}", feed.subscriber()?),
            #[cfg(feature = "testing")]
            Self::Memory(_) => return None,
        };
        let (_, rest) = shown.split_once("sid: ")?;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        rest.get(..end)?.parse().ok()
    }

    /// Lets nats-server send no more; what it has sent already still arrives, until
    /// [`Feed::drain`].
    pub(crate) async fn stop(&mut self) -> Result<(), LinkError> {
        let feed = match self {
            Self::Nats(feed) => feed,
            Self::Lent(feed) => match feed.subscriber() {
                Some(feed) => feed,
                None => return Ok(()),
            },
            #[cfg(feature = "testing")]
            Self::Memory(feed) => {
                feed.stop();
                return Ok(());
            }
        };
        let told = feed.unsubscribe_after(NEVER).await;
        told.map_err(|_| LinkError::Disconnected)
    }

    /// Takes nothing more; what has arrived is still given.
    pub(crate) async fn drain(&mut self) -> Result<(), LinkError> {
        match self {
            Self::Nats(feed) => feed.drain().await.map_err(|_| LinkError::Disconnected),
            Self::Lent(feed) => match feed.subscriber() {
                Some(feed) => feed.drain().await.map_err(|_| LinkError::Disconnected),
                None => Ok(()),
            },
            #[cfg(feature = "testing")]
            Self::Memory(feed) => {
                feed.stop();
                Ok(())
            }
        }
    }
}

/// After how many messages a subscription ends that is to end now. nats-server reads
/// such a number up to nine digits, and takes a longer one for none: it ends the
/// subscription at once, while the NATS client still takes what is on its way. A
/// server that read it would send on until [`Feed::drain`].
const NEVER: u64 = u64::MAX;

impl Feed {
    /// What has arrived already: none if there is nothing, none of it at the end.
    ///
    /// Takes nothing of the task's budget: its caller sees to it that others run.
    pub(crate) fn next_at_once(&mut self) -> Option<Option<Message>> {
        tokio::task::unconstrained(self.next()).now_or_never()
    }
}

impl Stream for Feed {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        match self.get_mut() {
            Self::Nats(feed) => Pin::new(feed).poll_next(cx),
            Self::Lent(feed) => feed.poll_next(cx),
            #[cfg(feature = "testing")]
            Self::Memory(feed) => feed.poll_next(cx),
        }
    }
}
