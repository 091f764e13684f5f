//! Where peers' replies arrive: one subscription in the peers' half of the
//! inbox, and a table of the requests that wait.

use std::collections::HashMap;
use std::sync::Arc;

use bulla_identity::{WorkloadTag, reserved};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::connection::Connection;
use crate::error::LinkError;
use crate::stats::Stats;

/// Replies that one request holds until its caller looks at them: forged ones
/// beyond that are dropped, and a true one has room unless it is flooded.
const REPLIES_PER_REQUEST: usize = 16;

type Waiting = Arc<Mutex<HashMap<String, mpsc::Sender<async_nats::Message>>>>;

/// The reply inbox of one connection.
pub(crate) struct Replies {
    prefix: String,
    waiting: Waiting,
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
        let mut incoming = connection
            .nats()
            .subscribe(format!("{prefix}.*"))
            .await
            .map_err(|_| LinkError::Disconnected)?;
        let waiting = Waiting::default();
        tokio::spawn({
            let waiting = Arc::clone(&waiting);
            async move {
                while let Some(message) = incoming.next().await {
                    let sender = message
                        .subject
                        .rsplit_once('.')
                        .and_then(|(_, token)| waiting.lock().get(token).cloned());
                    match sender {
                        Some(sender) => {
                            if sender.try_send(message).is_err() {
                                stats.count_refused("reply_overflow");
                            }
                        }
                        None => stats.count_late_reply(),
                    }
                }
            }
        });
        Ok(Self { prefix, waiting })
    }

    /// Whether more than one request waits.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.lock().len() > 1
    }

    /// A fresh reply subject and what arrives on it, until it is dropped.
    pub(crate) fn expect(&self) -> ExpectedReply {
        let token = format!("{:032x}", rand::random::<u128>());
        let (sender, receiver) = mpsc::channel(REPLIES_PER_REQUEST);
        self.waiting.lock().insert(token.clone(), sender);
        ExpectedReply {
            subject: format!("{}.{token}", self.prefix),
            token,
            receiver,
            waiting: Arc::clone(&self.waiting),
        }
    }
}

/// A request's claim on its reply subject.
pub(crate) struct ExpectedReply {
    subject: String,
    token: String,
    receiver: mpsc::Receiver<async_nats::Message>,
    waiting: Waiting,
}

impl ExpectedReply {
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// The next message on the reply subject; nothing of it is checked.
    pub(crate) async fn next(&mut self) -> Option<async_nats::Message> {
        self.receiver.recv().await
    }
}

impl Drop for ExpectedReply {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.token);
    }
}
