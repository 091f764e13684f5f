//! Where peers' replies arrive: one subscription in the peers' half of the
//! inbox, and a table of the requests that wait.

use std::collections::HashMap;
use std::sync::Arc;

use bulla_identity::{WorkloadTag, reserved};
use data_encoding::HEXLOWER;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::connection::Connection;
use crate::error::LinkError;
use crate::stats::Stats;

/// Messages that a request for one reply holds until its caller looks at them:
/// forged ones beyond that are dropped, and a true one has room unless it is
/// flooded.
pub(crate) const ROOM_FOR_ONE: usize = 16;
/// The same for a request for many.
pub(crate) const ROOM_FOR_MANY: usize = 1_024;

/// Boxed, because a channel has room for 32 at once from its start.
type Waiting = Arc<Mutex<HashMap<Token, mpsc::Sender<Box<async_nats::Message>>>>>;

/// What makes a reply subject unguessable: its last part, in hexadecimal.
type Token = [u8; 16];

/// The reply inbox of one connection.
pub(crate) struct Replies {
    prefix: String,
    waiting: Waiting,
    stats: Stats,
}

impl Replies {
    /// Subscribes to a random, unguessable part of the workload's inbox space.
    pub(crate) async fn open(
        connection: &Connection,
        tag: WorkloadTag,
        stats: Stats,
    ) -> Result<Self, LinkError> {
        let prefix = format!(
            "{}.{:032x}",
            reserved::inbox_peers(tag),
            rand::random::<u128>()
        );
        let mut incoming = connection.link().subscribe(format!("{prefix}.*")).await?;
        let waiting = Waiting::default();
        tokio::spawn({
            let (waiting, stats) = (Arc::clone(&waiting), stats.clone());
            async move {
                while let Some(message) = incoming.next().await {
                    let sender = message
                        .subject
                        .rsplit_once('.')
                        .and_then(|(_, text)| token_of(text))
                        .and_then(|token| waiting.lock().get(&token).cloned());
                    match sender {
                        Some(sender) => {
                            if sender.try_send(Box::new(message)).is_err() {
                                stats.count_refused("reply_overflow");
                            }
                        }
                        None => stats.count_late_reply(),
                    }
                }
            }
        });
        Ok(Self {
            prefix,
            waiting,
            stats,
        })
    }

    /// Whether more than one request waits.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.lock().len() > 1
    }

    /// Whether no request waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// A fresh reply subject and what arrives on it, until it is dropped.
    pub(crate) fn expect(&self, room: usize) -> ExpectedReply {
        let token: Token = rand::random();
        let (sender, receiver) = mpsc::channel(room);
        self.waiting.lock().insert(token, sender);
        let mut subject = String::with_capacity(self.prefix.len() + 1 + 2 * token.len());
        subject.push_str(&self.prefix);
        subject.push('.');
        HEXLOWER.encode_append(&token, &mut subject);
        ExpectedReply {
            subject,
            token,
            receiver,
            waiting: Arc::clone(&self.waiting),
            stats: self.stats.clone(),
        }
    }
}

/// The token that the last part of a subject says; each is written in one way only.
fn token_of(text: &str) -> Option<Token> {
    let mut token = Token::default();
    if text.len() != 2 * token.len() {
        return None;
    }
    HEXLOWER.decode_mut(text.as_bytes(), &mut token).ok()?;
    Some(token)
}

/// A request's claim on its reply subject.
pub(crate) struct ExpectedReply {
    subject: String,
    token: Token,
    receiver: mpsc::Receiver<Box<async_nats::Message>>,
    waiting: Waiting,
    stats: Stats,
}

impl ExpectedReply {
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// The next message on the reply subject; nothing of it is checked. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<async_nats::Message> {
        self.receiver.recv().await.map(|message| *message)
    }
}

impl Drop for ExpectedReply {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.token);
        // Came in time, and nobody asked for it any more.
        while self.receiver.try_recv().is_ok() {
            self.stats.count_late_reply();
        }
    }
}
