//! A bus within one process: who listens gets what is published.
//!
//! It knows subjects, queue groups and replies, and what [`Office`] answers. It is
//! no nats-server: no permission lists, no accounts, no streams of applications.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, Message, StatusCode, Subject};
use bulla_identity::WorkloadTag;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::office::{Answer, Office};
use crate::error::LinkError;

/// As nats-server's default.
pub(crate) const MAX_PAYLOAD: usize = 1 << 20;

/// The bus; every connection to it shares it.
pub(crate) struct Hub(Mutex<State>);

struct State {
    office: Office,
    listeners: Vec<Listener>,
    /// Names listeners, and shares work out among the members of a group.
    count: u64,
}

struct Listener {
    id: u64,
    pattern: Subject,
    group: Option<String>,
    to: mpsc::UnboundedSender<Message>,
    /// Whose it is.
    connection: Arc<AtomicBool>,
}

impl Hub {
    pub(crate) fn new(office: Office) -> Self {
        Self(Mutex::new(State {
            office,
            listeners: Vec::new(),
            count: 0,
        }))
    }

    /// Does something in the office, and tells everybody what came of it.
    pub(crate) fn in_office<T>(&self, act: impl FnOnce(&mut Office) -> T) -> T {
        let mut state = self.0.lock();
        let done = act(&mut state.office);
        state.tell_news();
        done
    }

    fn publish(&self, message: &OutboundMessage) {
        let mut state = self.0.lock();
        if let Some(answer) = state.office.answer(&message.subject, &message.payload) {
            state.tell_news();
            if let Some(inbox) = &message.reply {
                state.give(&answer.to(inbox.clone()));
            }
            return;
        }
        let given = state.give(&received(message));
        if given == 0
            && let Some(inbox) = &message.reply
        {
            let nobody = Answer::status(StatusCode::NO_RESPONDERS);
            state.give(&nobody.to(inbox.clone()));
        }
    }
}

impl State {
    /// Gives a message to everybody who listens, and to one of each group; to how
    /// many.
    fn give(&mut self, message: &Message) -> usize {
        self.count = self.count.wrapping_add(1);
        let mut groups: BTreeMap<&str, Vec<&Listener>> = BTreeMap::new();
        let mut given = 0;
        for listener in &self.listeners {
            if !matches(&listener.pattern, &message.subject) {
                continue;
            }
            match &listener.group {
                Some(group) => groups.entry(group).or_default().push(listener),
                // Who stops listening at this moment gets nothing.
                None => given += usize::from(listener.to.send(message.clone()).is_ok()),
            }
        }
        for members in groups.values() {
            let turn = usize::try_from(self.count).unwrap_or_default() % members.len();
            let member = members.get(turn);
            given += member.map_or(0, |member| {
                usize::from(member.to.send(message.clone()).is_ok())
            });
        }
        given
    }

    fn tell_news(&mut self) {
        for (subject, payload) in self.office.take_news() {
            self.give(&Answer::body(payload).to(subject.into()));
        }
    }
}

/// One workload's connection; cloning shares it.
#[derive(Clone)]
pub(crate) struct Socket {
    hub: Arc<Hub>,
    /// Where only the bus answers.
    inbox: String,
    is_closed: Arc<AtomicBool>,
}

impl Socket {
    pub(crate) fn new(hub: Arc<Hub>, tag: WorkloadTag) -> Self {
        Self {
            hub,
            inbox: bulla_identity::reserved::inbox_server(tag),
            is_closed: Arc::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.is_closed.load(Ordering::Acquire)
    }

    /// Nothing is sent any more, and what is listened to ends with what has arrived.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        let mut state = self.hub.0.lock();
        state
            .listeners
            .retain(|listener| !Arc::ptr_eq(&listener.connection, &self.is_closed));
    }

    pub(crate) fn new_inbox(&self) -> String {
        format!("{}.{:032x}", self.inbox, rand::random::<u128>())
    }

    pub(crate) fn subscribe(
        &self,
        pattern: Subject,
        group: Option<String>,
    ) -> Result<Feed, LinkError> {
        self.check()?;
        let (to, receiver) = mpsc::unbounded_channel();
        let mut state = self.hub.0.lock();
        state.count = state.count.wrapping_add(1);
        let id = state.count;
        state.listeners.push(Listener {
            id,
            pattern,
            group,
            to,
            connection: Arc::clone(&self.is_closed),
        });
        Ok(Feed {
            id,
            hub: Arc::clone(&self.hub),
            receiver,
        })
    }

    pub(crate) fn publish(&self, message: OutboundMessage) -> Result<(), LinkError> {
        self.check()?;
        self.hub.publish(&message);
        Ok(())
    }

    pub(crate) async fn request(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, LinkError> {
        let inbox = self.new_inbox();
        let mut feed = self.subscribe(inbox.as_str().into(), None)?;
        self.publish(OutboundMessage {
            subject: subject.into(),
            reply: Some(inbox.into()),
            payload,
            headers: Some(headers),
        })?;
        match tokio::time::timeout(timeout, feed.receiver.recv()).await {
            Err(_) => Err(LinkError::Timeout),
            Ok(None) => Err(LinkError::Disconnected),
            Ok(Some(answer)) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                Err(LinkError::NoResponders)
            }
            Ok(Some(answer)) => Ok(answer),
        }
    }

    fn check(&self) -> Result<(), LinkError> {
        self.is_open().then_some(()).ok_or(LinkError::Disconnected)
    }
}

/// What arrives on a subscription.
pub(crate) struct Feed {
    id: u64,
    hub: Arc<Hub>,
    receiver: mpsc::UnboundedReceiver<Message>,
}

impl Feed {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.receiver.poll_recv(cx)
    }

    /// Nothing new comes; what has arrived stays.
    pub(crate) fn stop(&self) {
        let mut state = self.hub.0.lock();
        state.listeners.retain(|listener| listener.id != self.id);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop();
    }
}

/// As it is received.
fn received(message: &OutboundMessage) -> Message {
    Message {
        subject: message.subject.clone(),
        reply: message.reply.clone(),
        payload: message.payload.clone(),
        headers: message.headers.clone().filter(|map| !map.is_empty()),
        status: None,
        description: None,
        length: message.payload.len(),
    }
}

/// Whether a subject is one of a pattern's.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut wanted, mut tokens) = (pattern.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), tokens.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(want), Some(token)) if want == "*" || want == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_those_of_nats() {
        for (pattern, subject) in [
            ("a.b", "a.b"),
            ("a.*", "a.b"),
            ("*.b", "a.b"),
            ("a.>", "a.b"),
            ("a.>", "a.b.c"),
            (">", "a"),
        ] {
            assert!(matches(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [
            ("a.b", "a"),
            ("a", "a.b"),
            ("a.*", "a"),
            ("a.*", "a.b.c"),
            ("a.>", "a"),
            ("b.>", "a.b"),
        ] {
            assert!(!matches(pattern, subject), "{pattern} {subject}");
        }
    }
}
