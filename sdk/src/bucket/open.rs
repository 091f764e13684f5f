//! An entry of a bucket on its way in.
//!
//! Time is the bucket's: credential, envelope and user's token are judged as of
//! when the bucket stored the entry, and for as long after that as the bucket's
//! `max_age` says. Trust bundle, policy and revocations are those of now.

use std::sync::Arc;

use bulla_envelope::{Expectation, Kind, OpenedEnvelope, SealedEnvelope};
use bulla_identity::{Subject, UnixMillis, reserved};
use bulla_policy::{APPEND_LIFE, Decision, Permit, Request, Verb};
use bytes::Bytes;

use super::entry::{Entry, Revision};
use super::{Bucket, DELETED};
use crate::clock;
use crate::connection::header_of;
use crate::consumer::check_age;
use crate::decision_log;
use crate::incoming::{content_type, own_headers};
use crate::jetstream::Place;
use crate::message::{Facts, Message, Sender};
use crate::original;
use crate::origins::Origin;
use crate::refusal::{Refusal, StoredRefusal, chain};
use crate::trial;
use crate::user::User;

/// The header by which ordinary clients know that a key is deleted. Nothing is
/// decided by it, but it must not say otherwise than the envelope.
pub(super) const OPERATION: &str = "KV-Operation";
/// What it says then.
pub(super) const OPERATION_DELETED: &str = "DEL";

/// An entry as nats-server answers with it. The answer came where no workload can
/// publish.
#[derive(Clone)]
pub(super) struct Stored {
    /// `BUCKET.KEY`.
    pub(super) name: Subject,
    pub(super) key: String,
    pub(super) revision: u64,
    at: UnixMillis,
    is_marked_deleted: bool,
    payload: Bytes,
}

impl Stored {
    /// Reads an answer; nothing if it is not an entry of this bucket.
    pub(super) fn of(bucket: &str, answer: async_nats::Message) -> Option<Self> {
        let is_marked_deleted = header_of(&answer)(OPERATION).is_some();
        let place = Place::of(header_of(&answer))?;
        if place.stream != reserved::bucket_stream(bucket) {
            return None;
        }
        let within = reserved::bucket_key(bucket, "");
        let key = place.subject.strip_prefix(&within)?.to_owned();
        Some(Self {
            name: Subject::parse(&format!("{bucket}.{key}")).ok()?,
            revision: place.sequence,
            at: place.stored_at,
            is_marked_deleted,
            key,
            payload: answer.payload,
        })
    }
}

/// What is known of an entry when it is refused.
#[derive(Default)]
pub(super) struct Progress {
    sender: Option<Sender>,
    user: Option<User>,
}

impl Bucket {
    /// Runs every check but what was read before.
    pub(super) async fn open(
        &self,
        stored: Stored,
        progress: &mut Progress,
    ) -> Result<Entry, Refusal> {
        let shared = &self.shared;
        let (at, now) = (stored.at, clock::now());
        let skew = shared.options.clock_skew;
        shared.control.check(now)?;
        let policy = shared.control.policy();
        let bucket = policy.policy().bucket(&self.name);
        let max_age = bucket.ok_or(StoredRefusal::NoBucket)?.max_age();
        check_age(at, now, skew, max_age)?;

        let subject = reserved::bucket_key(&self.name, &stored.key);
        let subject = Subject::parse(&subject).map_err(|_| Refusal::Subject)?;
        let sealed = SealedEnvelope::decode(stored.payload)?;
        let key_id = sealed.key_id();
        let credential = shared.control.credential_as_of(key_id, at, now).await?;
        let authentic = sealed.verify_with(&credential, &shared.roots)?;
        let sender = Sender {
            workload: authentic.sender().workload.clone(),
            key_id: authentic.sender().key_id,
        };
        progress.sender = Some(sender);
        let leaf = authentic.leaf();
        let checked = authentic.check(&Expectation {
            subject: subject.as_str(),
            reply_to: None,
            kinds: &[Kind::Event],
            now: at,
            skew,
            max_age: APPEND_LIFE,
            not_before: UnixMillis::default(),
            request: None,
        })?;
        // Values are signed; what is encrypted is for somebody else.
        let opened = checked.open_clear()?;
        if opened.message_count() != 1 {
            return Err(Refusal::Frame);
        }
        let first = opened.first_message();
        let is_deleted = opened.content_type() == Some(DELETED);
        if is_deleted != stored.is_marked_deleted || (is_deleted && !first.body.is_empty()) {
            return Err(StoredRefusal::Mark.into());
        }
        let users = &shared.users;
        let user = users.of_message(&shared.control, &opened, at, now).await?;
        progress.user.clone_from(&user);
        let permit = self.may_write(&opened, &stored.name, user.as_ref(), at)?;
        let requirements = permit.requirements();
        let sender = &opened.sender().workload;
        let original = original::of_message(&opened, &requirements, user.as_ref(), sender)?;
        let ends = credential.expires_at();
        let facts = Facts {
            original,
            parent: opened.parent(),
            past: None,
            hops: Vec::new(),
            origin: Arc::new(Origin::new(subject, credential, requirements, ends)),
            user,
            leaf,
            content_type: content_type(&opened),
            headers: own_headers(&opened),
            issued_at: opened.issued_at(),
            deadline: None,
            traceparent: opened.traceparent(),
            permit,
        };
        Ok(Entry {
            message: Message {
                payload: first.body,
                id: first.id,
                facts: Arc::new(facts),
            },
            key: stored.key,
            revision: Revision(stored.revision),
            stored_at: at,
            is_deleted,
        })
    }

    /// Its writer might write it, for this user, when the bucket stored it.
    fn may_write(
        &self,
        opened: &OpenedEnvelope,
        name: &Subject,
        user: Option<&User>,
        at: UnixMillis,
    ) -> Result<Permit, Refusal> {
        let shared = &self.shared;
        let policy = shared.control.policy();
        let request = Request {
            workload: &opened.sender().workload,
            verb: Verb::Write,
            subject: name,
            user: user.map(User::claims),
            now: at,
        };
        let what = decision_log::Subject {
            enforcer: "receiver",
            workload: opened.sender().workload.path(),
            verb: Verb::Write.as_str(),
            subject: name.as_str(),
            user,
        };
        match shared.control.decide(&policy, &request) {
            Decision::Allow(permit) => {
                trial::allowed(&shared.stats, &permit, || what);
                shared.decisions.allow(what, &permit, false);
                Ok(permit)
            }
            Decision::Deny(denial) => {
                trial::denied(&shared.stats, &denial, &what);
                Err(Refusal::Policy(Box::new(denial)))
            }
        }
    }

    /// Counts and tells what is not believed.
    pub(super) fn refuse(&self, name: &Subject, progress: &Progress, refusal: &Refusal) {
        let shared = &self.shared;
        shared.stats.count_refused(refusal.code());
        let denial = match refusal {
            Refusal::Policy(denial) => Some(denial),
            _ => None,
        };
        let code = denial.map_or(refusal.code(), |denial| denial.reason().code());
        shared.decisions.deny_beside(
            decision_log::Subject {
                enforcer: "receiver",
                workload: progress.sender.as_ref().map_or("?", |s| s.workload.path()),
                verb: Verb::Write.as_str(),
                subject: name.as_str(),
                user: progress.user.as_ref(),
            },
            denial.and_then(|denial| denial.rule()).unwrap_or_default(),
            denial.and_then(|denial| denial.would()),
            (
                code,
                &format_args!("{}: {}", refusal.code(), chain(refusal)),
            ),
        );
    }
}
