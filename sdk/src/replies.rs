//! Where peers' replies arrive: one subscription in the peers' half of the
//! inbox, and a table of the requests that wait.

use std::future::poll_fn;
use std::sync::Arc;

use bulla_envelope::LeafHash;
use bulla_identity::{Subject, SubjectError, WorkloadTag, reserved};
use data_encoding::HEXLOWER;
use futures_util::StreamExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::connection::{Connection, Violation};
use crate::error::LinkError;
use crate::pending::{Delivery, Interruption, Pending};
use crate::stats::Stats;

/// Messages that a request for one reply holds until its caller looks at them:
/// forged ones beyond that are dropped, and a true one has room unless it is
/// flooded.
pub(crate) const ROOM_FOR_ONE: usize = 16;
/// The same for a request for many.
pub(crate) const ROOM_FOR_MANY: usize = 1_024;

/// Chosen at random and here, whatever is looked up: a quick hash will do.
type Waiting = Arc<Mutex<FxHashMap<Token, Arc<Pending>>>>;

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
        let mut watch = connection.watch();
        let hearing = tokio::spawn({
            let waiting = Arc::clone(&waiting);
            async move {
                while let Some(violation) = watch.next().await {
                    if let Violation::Publish { subject } = violation {
                        for pending in waiting.lock().values() {
                            pending.refuse(&subject);
                        }
                    }
                }
            }
        });
        tokio::spawn({
            let (waiting, stats) = (Arc::clone(&waiting), stats.clone());
            async move {
                while let Some(message) = incoming.next().await {
                    let pending = message
                        .subject
                        .rsplit_once('.')
                        .and_then(|(_, text)| token_of(text))
                        .and_then(|token| waiting.lock().get(&token).cloned());
                    match pending.map_or(Delivery::TooLate, |p| p.deliver(message)) {
                        Delivery::Taken => {}
                        Delivery::NoRoom => stats.count_refused("reply_overflow"),
                        Delivery::TooLate => stats.count_late_reply(),
                    }
                }
                hearing.abort();
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

    /// A fresh reply subject for a request to `subject` and what arrives on it,
    /// until it is dropped.
    pub(crate) fn expect(
        &self,
        subject: &Subject,
        room: usize,
    ) -> Result<ExpectedReply, SubjectError> {
        let token: Token = rand::random();
        let mut reply_to = String::with_capacity(self.prefix.len() + 1 + 2 * token.len());
        reply_to.push_str(&self.prefix);
        reply_to.push('.');
        HEXLOWER.encode_append(&token, &mut reply_to);
        let reply_to = Subject::parse(&reply_to)?;
        let pending = Arc::new(Pending::new(subject.clone(), room));
        self.waiting.lock().insert(token, Arc::clone(&pending));
        Ok(ExpectedReply {
            reply_to,
            token,
            pending,
            waiting: Arc::clone(&self.waiting),
            stats: self.stats.clone(),
        })
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
    reply_to: Subject,
    token: Token,
    pending: Arc<Pending>,
    waiting: Waiting,
    stats: Stats,
}

impl ExpectedReply {
    pub(crate) const fn reply_to(&self) -> &Subject {
        &self.reply_to
    }

    /// Where the signer says what became of the request.
    pub(crate) const fn pending(&self) -> &Arc<Pending> {
        &self.pending
    }

    /// Returns when the request is sent.
    pub(crate) async fn sent(&self) -> Result<(), Interruption> {
        poll_fn(|cx| self.pending.poll_sent(cx)).await
    }

    /// The next message on the reply subject, of which nothing is checked, and the
    /// request's leaf. A refusal by nats-server counts only while `may_be_refused`.
    /// Cancel safe.
    pub(crate) async fn next(
        &mut self,
        may_be_refused: bool,
    ) -> Result<(LeafHash, async_nats::Message), Interruption> {
        poll_fn(|cx| self.pending.poll_next(may_be_refused, cx)).await
    }
}

impl Drop for ExpectedReply {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.token);
        // Came in time, and nobody asked for it any more.
        for _ in 0..self.pending.give_up() {
            self.stats.count_late_reply();
        }
    }
}
