//! What a listener knows of where messages come from: a subject and a proven
//! sender. One more message from there costs no look-up and no decision.
//!
//! All of it holds for one state of policy and trust, and is forgotten when that
//! changes: the credential was found and verified under it, the requirements
//! and the permit are the policy's. A permit is remembered only of messages
//! without a user, or where it is the same for every user (POL-56); besides the
//! state it depended on the sender, the subject and the listener's own verb and
//! workload. Times are judged for every message.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bulla_envelope::VerifiedCredential;
use bulla_identity::{Subject, UnixMillis, reserved};
use bulla_keyring::KeyId;
use bulla_policy::{Permit, Requirements};
use parking_lot::Mutex;

use crate::audit::Tally;
use crate::content::ContentType;
use crate::message::Sender;

/// Origins that a listener remembers; then it forgets them all and begins
/// anew. None is remembered before its sender has proven itself.
const MAX_ORIGINS: usize = 4_096;
/// Senders on one subject, which are looked through one by one.
const SENDERS_PER_SUBJECT: usize = 32;

/// A subject and who sends there.
pub(crate) struct Origin {
    pub(crate) subject: Subject,
    pub(crate) sender: Sender,
    pub(crate) credential: Arc<VerifiedCredential>,
    pub(crate) requirements: Requirements,
    /// When the credential or what vouches for it ends.
    pub(crate) usable_until: UnixMillis,
    /// Both decisions for a message without a user, or for any: the sender's and our own.
    permit: OnceLock<Permit>,
    inbox: OnceLock<String>,
    /// The uses of the own grant that the first of its messages had.
    tally: OnceLock<Option<Arc<Tally>>>,
    /// Whether it has proven itself.
    is_remembered: AtomicBool,
    /// How the last message was encoded: most often the next is too.
    content_type: Mutex<ContentType>,
}

impl Origin {
    pub(crate) fn new(
        subject: Subject,
        credential: Arc<VerifiedCredential>,
        requirements: Requirements,
        usable_until: UnixMillis,
    ) -> Self {
        Self {
            subject,
            sender: Sender {
                workload: credential.workload().clone(),
                key_id: credential.id(),
            },
            usable_until: usable_until.min(credential.expires_at()),
            credential,
            requirements,
            permit: OnceLock::new(),
            inbox: OnceLock::new(),
            tally: OnceLock::new(),
            is_remembered: AtomicBool::new(false),
            content_type: Mutex::default(),
        }
    }

    /// Whether it has proven itself before, and a listener remembers it.
    pub(crate) fn is_remembered(&self) -> bool {
        self.is_remembered.load(Ordering::Relaxed)
    }

    /// The permit of an earlier message, if it still counts for this one, with a user or
    /// without.
    pub(crate) fn permit(&self, has_user: bool, now: UnixMillis) -> Option<&Permit> {
        let permit = self.permit.get();
        permit.filter(|permit| now < permit.until() && (!has_user || permit.is_for_anybody()))
    }

    /// Remembers the permit of a message without a user, or one that is the same for all.
    pub(crate) fn remember(&self, has_user: bool, permit: Permit) {
        if has_user && !permit.is_for_anybody() {
            return;
        }
        // Another task was faster: it asked the same.
        let _ = self.permit.set(permit);
    }

    /// Counts one use of the own grant of this rule. `find` finds the counter.
    pub(crate) fn count_use(&self, rule: &str, find: impl Fn() -> Option<Arc<Tally>>) {
        match self.tally.get_or_init(&find) {
            Some(tally) if tally.is_of(rule) => tally.count(),
            Some(_) => {
                if let Some(tally) = find() {
                    tally.count();
                }
            }
            None => {}
        }
    }

    /// Counts one more use of the grant that the last message had, which needed no
    /// decision.
    pub(crate) fn count_use_again(&self) {
        if let Some(Some(tally)) = self.tally.get() {
            tally.count();
        }
    }

    /// Whether what is allowed now is one that is recorded.
    pub(crate) fn is_due(&self) -> bool {
        matches!(self.tally.get(), Some(Some(tally)) if tally.is_due())
    }

    /// Whether a reply subject lies in the sender's own inbox.
    pub(crate) fn owns_inbox(&self, reply_to: &str) -> bool {
        let inbox = self
            .inbox
            .get_or_init(|| reserved::inbox_peers(self.sender.workload.tag()));
        reply_to
            .strip_prefix(inbox.as_str())
            .is_some_and(|rest| rest.starts_with('.'))
    }

    /// The content type that a header names.
    pub(crate) fn content_type(&self, text: &str) -> ContentType {
        if text == ContentType::MESSAGE_PACK {
            return ContentType::MessagePack;
        }
        let mut last = self.content_type.lock();
        if last.as_str() != text {
            *last = ContentType::parse(text);
        }
        last.clone()
    }
}

/// The origins of one listener.
#[derive(Default)]
pub(crate) struct Origins {
    /// The state of policy and trust that they are of.
    generation: u64,
    /// The one that was asked for last.
    last: Option<Arc<Origin>>,
    /// Others choose the subjects, and the table is large: hashed so that they cannot
    /// make them meet.
    by_subject: HashMap<Box<str>, Vec<Arc<Origin>>>,
    count: usize,
}

impl Origins {
    /// What is known under this state of policy and trust.
    pub(crate) fn find(
        &mut self,
        generation: u64,
        key_id: KeyId,
        subject: &str,
    ) -> Option<Arc<Origin>> {
        if self.generation != generation {
            return None;
        }
        if let Some(last) = &self.last
            && last.sender.key_id == key_id
            && last.subject.as_str() == subject
        {
            return Some(Arc::clone(last));
        }
        let senders = self.by_subject.get(subject)?;
        let found = senders.iter().find(|o| o.sender.key_id == key_id)?;
        self.last = Some(Arc::clone(found));
        Some(Arc::clone(found))
    }

    /// Remembers an origin that has proven itself under this state.
    pub(crate) fn insert(&mut self, generation: u64, origin: &Arc<Origin>) {
        if self.generation > generation {
            return;
        }
        if self.generation < generation || self.count >= MAX_ORIGINS {
            *self = Self {
                generation,
                ..Self::default()
            };
        }
        let subject = origin.subject.as_str();
        let senders = match self.by_subject.get_mut(subject) {
            Some(senders) => senders,
            None => self.by_subject.entry(subject.into()).or_default(),
        };
        if senders.len() >= SENDERS_PER_SUBJECT {
            self.count -= senders.len();
            senders.clear();
        }
        origin.is_remembered.store(true, Ordering::Relaxed);
        let key_id = origin.sender.key_id;
        match senders.iter_mut().find(|o| o.sender.key_id == key_id) {
            // Another task was faster.
            Some(held) => *held = Arc::clone(origin),
            None => {
                senders.push(Arc::clone(origin));
                self.count += 1;
            }
        }
    }
}
