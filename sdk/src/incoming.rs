//! A message on its way in: the order of checks from bytes to handler.
//!
//! size → version → strict decode → key id → credential → proof → subject,
//! kind and times → user's token → policy → chain → replay window → claim → handler. The first
//! check that fails ends it, is counted under its own code, and is silent
//! towards the peer until the proof has verified.

use std::sync::Arc;

use bulla_envelope::{
    ErrorCode, Expectation, Kind, LeafHash, OpenedEnvelope, SealedEnvelope, VerifiedCredential,
};
use bulla_identity::{Subject, UnixMillis};
use bulla_keyring::KeyId;
use bulla_policy::{APPEND_LIFE, Chain, Decision, Permit, Replay, Request, Requirements, Verb};
use bytes::Bytes;
use futures_util::FutureExt as _;
use parking_lot::Mutex;

use crate::clock;
use crate::content::ContentType;
use crate::control::AsOf;
use crate::decision_log::{self, DecisionId};
use crate::message::{Facts, Message};
use crate::once::{Once, Share};
use crate::origins::{Origin, Origins};
use crate::refusal::{Refusal, chain};
use crate::shared::Shared;
use crate::user::User;

/// What a listener does with messages.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Subscriber,
    Server,
}

impl Role {
    fn kind(self) -> Kind {
        match self {
            Self::Subscriber => Kind::Event,
            Self::Server => Kind::Request,
        }
    }

    /// What the sender does.
    fn senders_verb(self) -> Verb {
        match self {
            Self::Subscriber => Verb::Publish,
            Self::Server => Verb::Request,
        }
    }

    /// What this process does.
    pub(crate) fn own_verb(self) -> Verb {
        match self {
            Self::Subscriber => Verb::Subscribe,
            Self::Server => Verb::Serve,
        }
    }
}

/// Opens what arrives on one subscription.
pub(crate) struct Opener {
    shared: Arc<Shared>,
    role: Role,
    once: Once,
    origins: Mutex<Origins>,
    not_before: UnixMillis,
}

/// A message that passed, and what is needed to answer it.
pub(crate) struct Received {
    pub(crate) message: Message<Bytes>,
    pub(crate) answer_to: Option<AnswerTo>,
}

/// Where and to what an answer goes.
#[derive(Clone)]
pub(crate) struct AnswerTo {
    pub(crate) reply_to: Subject,
    pub(crate) request: LeafHash,
    /// Whose request it is: replies may be for that process alone.
    pub(crate) requester: Arc<VerifiedCredential>,
    /// What the request's subject demands.
    pub(crate) requirements: Requirements,
}

/// A message that did not pass; `answer_to` only if its sender is proven.
pub(crate) struct Refused {
    pub(crate) answer_to: Option<AnswerTo>,
    pub(crate) decision: DecisionId,
    /// What the answer may say.
    pub(crate) code: ErrorCode,
}

/// A message from the bus, and how much of it has been given: it may carry
/// several of ours, each of which is decided, taken into the replay window and
/// delivered by itself.
pub(crate) struct Current {
    raw: async_nats::Message,
    /// How many of its messages were given or refused.
    done: usize,
    /// None before it was judged.
    sound: Option<Sound>,
    /// What a member of a queue group has taken of it.
    share: Option<Share>,
    /// Whether it was looked at before its turn, and needs no claim.
    is_seen: bool,
    needs_none: bool,
}

/// An envelope that passed all but the replay window.
struct Sound {
    opened: OpenedEnvelope,
    facts: Arc<Facts>,
    answer_to: Option<AnswerTo>,
    /// When either of them moves on, it is judged anew, in whole.
    judged: Judged,
}

/// By which state of policy and trust, and by which time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Judged {
    generation: u64,
    now: UnixMillis,
}

impl Current {
    pub(crate) fn new(raw: async_nats::Message) -> Self {
        Self {
            raw,
            done: 0,
            sound: None,
            share: None,
            is_seen: false,
            needs_none: false,
        }
    }

    /// Whether all of it was given or refused.
    pub(crate) fn is_done(&self) -> bool {
        let all = self.sound.as_ref().map_or(1, |s| s.opened.message_count());
        self.done >= all
    }
}

impl Opener {
    pub(crate) fn new(
        shared: Arc<Shared>,
        role: Role,
        in_group: Option<String>,
        not_before: UnixMillis,
    ) -> Self {
        Self {
            once: Once::new(Arc::clone(&shared), in_group),
            shared,
            role,
            origins: Mutex::default(),
            not_before,
        }
    }

    /// Runs every check on what comes alone, as requests do.
    pub(crate) async fn receive(&self, raw: async_nats::Message) -> Result<Received, Refused> {
        let mut current = Current::new(raw);
        let message = self.next(&mut current).await?;
        let answer_to = current.sound.and_then(|sound| sound.answer_to);
        Ok(Received { message, answer_to })
    }

    /// The next message of what came, not to be asked for when all was given.
    ///
    /// Cancel safe: dropped before it ends, it goes on where it was.
    pub(crate) async fn next(&self, current: &mut Current) -> Result<Message, Refused> {
        let judged = self.judged();
        let sound = match &current.sound {
            Some(sound) if sound.judged == judged => sound,
            _ => {
                let mut progress = Progress::default();
                match self.pass(&current.raw, judged, &mut progress).await {
                    Ok(sound) => current.sound.insert(sound),
                    Err(refusal) => {
                        progress.messages -= current.done.min(progress.messages);
                        current.done = usize::MAX;
                        return Err(self.refuse(&current.raw.subject, &progress, &refusal));
                    }
                }
            }
        };
        let place = current.done;
        let given = self.take_once(sound, place, &mut current.share).await;
        if place == 0 && sound.opened.message_count() > 1 {
            self.shared.stats.count_frame_received();
        }
        current.done += 1;
        let message = given.map_err(|refusal| self.refuse_one(sound, &refusal))?;
        self.log_allow(&sound.facts);
        self.shared.stats.count_delivered();
        Ok(Message {
            payload: message.body,
            id: message.id,
            facts: Arc::clone(&sound.facts),
        })
    }

    /// Takes one message of a sound envelope, once for ever: the last step.
    async fn take_once(
        &self,
        sound: &Sound,
        place: usize,
        share: &mut Option<Share>,
    ) -> Result<bulla_envelope::Message, Refusal> {
        let Sound { opened, judged, .. } = sound;
        // There is one at each place that is asked for.
        let message = opened
            .message_at(place)
            .unwrap_or_else(|| opened.first_message());
        if share.is_none() {
            *share = self.share(sound);
        }
        match share {
            Some(share) => share.give(place).await?,
            None => self.once.commit(opened, &message, judged.now)?,
        }
        Ok(message)
    }

    /// Whether other processes get what this one does not.
    pub(crate) const fn is_in_group(&self) -> bool {
        self.once.is_in_group()
    }

    fn share(&self, sound: &Sound) -> Option<Share> {
        let requirements = sound.facts.permit.requirements();
        self.once
            .share(&sound.opened, &requirements, sound.judged.now)
    }

    /// Asks for the claim of an envelope before its turn, once. False if it needs
    /// none, or has to wait for something before that is known; what is to be
    /// refused is refused when its turn comes.
    pub(crate) fn claim_ahead(&self, current: &mut Current) -> bool {
        if !current.is_seen {
            current.is_seen = true;
            let judged = self.judged();
            let mut progress = Progress::default();
            let passed = self.pass(&current.raw, judged, &mut progress);
            match passed.now_or_never() {
                Some(Ok(sound)) => {
                    current.share = self.share(&sound);
                    current.needs_none = current.share.is_none();
                    current.sound = Some(sound);
                }
                Some(Err(_)) => {}
                None => current.needs_none = true,
            }
        }
        !current.needs_none
    }

    fn judged(&self) -> Judged {
        Judged {
            // Read before the state that it names, so that a change in between
            // makes what follows stale rather than wrongly fresh.
            generation: self.shared.control.generation(),
            now: clock::now(),
        }
    }

    fn refuse_one(&self, sound: &Sound, refusal: &Refusal) -> Refused {
        let facts = &sound.facts;
        let progress = Progress {
            origin: Some(Arc::clone(&facts.origin)),
            user: facts.user.clone(),
            answer_to: sound.answer_to.clone(),
            messages: 1,
        };
        self.refuse(facts.origin.subject.as_str(), &progress, refusal)
    }

    /// All checks but the replay window.
    async fn pass(
        &self,
        raw: &async_nats::Message,
        judged: Judged,
        progress: &mut Progress,
    ) -> Result<Sound, Refusal> {
        let shared = &self.shared;
        let now = judged.now;
        shared.control.check(now)?;
        let sealed = SealedEnvelope::decode(raw.payload.clone())?;
        let key_id = sealed.key_id();
        let messages = sealed.messages_unverified();
        let known = self.known(key_id, &raw.subject, judged);
        let is_new = known.is_none();
        let origin = match known {
            Some(origin) => origin,
            None => self.meet(key_id, &raw.subject, now).await?,
        };
        let authentic = sealed.verify_with(&origin.credential, &shared.roots)?;
        progress.origin = Some(Arc::clone(&origin));
        progress.messages = messages;
        if is_new {
            self.origins.lock().insert(judged.generation, &origin);
        }

        let leaf = authentic.leaf();
        // What a stream stores passes by here as well: its life until it is
        // stored, and where the stream's word goes to, which is nobody's to answer.
        let is_append = self.is_append(&origin.requirements);
        let checked = authentic.check(&Expectation {
            subject: &raw.subject,
            reply_to: raw.reply.as_deref().filter(|_| !is_append),
            kinds: &[self.role.kind()],
            now,
            skew: shared.options.clock_skew,
            max_age: if is_append {
                origin.requirements.max_age.min(APPEND_LIFE)
            } else {
                origin.requirements.max_age
            },
            not_before: self.not_before,
            request: None,
        })?;
        let answer_to = match checked.reply_to() {
            None => None,
            Some(reply_to) if origin.owns_inbox(reply_to) => Some(AnswerTo {
                reply_to: Subject::parse(reply_to).map_err(|_| Refusal::ForeignInbox)?,
                request: leaf,
                requester: Arc::clone(&origin.credential),
                requirements: origin.requirements,
            }),
            Some(_) => return Err(Refusal::ForeignInbox),
        };
        progress.answer_to.clone_from(&answer_to);
        let opened = shared.unlocker.open(checked, &origin.requirements).await?;
        let users = &shared.users;
        let user = users.of_message(&shared.control, &opened, now, now).await?;
        progress.user.clone_from(&user);

        let permit = self.decide(&origin, user.as_ref(), now)?;
        let hops = match permit.requirements().chain {
            Chain::Reported => Vec::new(),
            Chain::Proven => {
                let (user, as_of) = (user.as_ref(), AsOf::Now);
                shared.prove_chain(&opened, user, as_of, now).await?
            }
        };
        let past = shared.past_of(&origin.subject, &opened, user.as_ref());
        let facts = Facts {
            user,
            leaf,
            content_type: opened
                .content_type()
                .map_or_else(unnamed_content, |text| origin.content_type(text)),
            headers: own_headers(&opened),
            issued_at: opened.issued_at(),
            traceparent: opened.traceparent(),
            parent: opened.parent(),
            past,
            hops,
            permit,
            origin,
        };
        Ok(Sound {
            opened,
            facts: Arc::new(facts),
            answer_to,
            judged,
        })
    }

    /// Whether an event on such a subject is one that its sender appended.
    fn is_append(&self, requirements: &Requirements) -> bool {
        self.role == Role::Subscriber && requirements.replay == Some(Replay::Stream)
    }

    /// What is known already of a sender on a subject.
    fn known(&self, key_id: KeyId, subject: &str, judged: Judged) -> Option<Arc<Origin>> {
        let known = self
            .origins
            .lock()
            .find(judged.generation, key_id, subject)?;
        let earliest_now = judged.now.saturating_sub(self.shared.options.clock_skew);
        // If not, looking it up says why.
        (known.usable_until >= earliest_now).then_some(known)
    }

    /// Looks up who holds a key and what the policy says of the subject.
    async fn meet(
        &self,
        key_id: KeyId,
        subject: &str,
        now: UnixMillis,
    ) -> Result<Arc<Origin>, Refusal> {
        let control = &self.shared.control;
        let subject = Subject::parse(subject).map_err(|_| Refusal::Subject)?;
        let credential = control.credential(key_id, now).await?;
        let requirements = control.policy().policy().requirements(&subject);
        let bundle_ends = control.bundle_expires_at();
        Ok(Arc::new(Origin::new(
            subject,
            credential,
            requirements,
            bundle_ends,
        )))
    }

    /// The sender may send it, and this process may receive it, for this user.
    fn decide(
        &self,
        origin: &Origin,
        user: Option<&User>,
        now: UnixMillis,
    ) -> Result<Permit, Refusal> {
        if user.is_none()
            && let Some(permit) = origin.permit()
        {
            return Ok(permit.clone());
        }
        let policy = self.shared.control.policy();
        let ask = |workload, verb| {
            policy.policy().decide(&Request {
                workload,
                verb,
                subject: &origin.subject,
                user: user.map(User::claims),
                now,
            })
        };
        let sent_by = if self.is_append(&origin.requirements) {
            Verb::Append
        } else {
            self.role.senders_verb()
        };
        let permit = match ask(&origin.sender.workload, sent_by) {
            Decision::Allow(permit) => permit,
            Decision::Deny(denial) => return Err(Refusal::Policy(Box::new(denial))),
        };
        match ask(&self.shared.options.workload, self.role.own_verb()) {
            Decision::Allow(_) => {}
            Decision::Deny(denial) => return Err(Refusal::OwnPolicy(Box::new(denial))),
        }
        if user.is_none() {
            origin.remember(&permit);
        }
        Ok(permit)
    }

    fn log_allow(&self, facts: &Facts) {
        decision_log::allow(
            decision_log::Subject {
                enforcer: "receiver",
                workload: facts.origin.sender.workload.path(),
                verb: self.role.senders_verb().as_str(),
                subject: facts.origin.subject.as_str(),
                user: facts.user.as_ref().map(User::principal),
            },
            facts.permit.rule(),
        );
    }

    fn refuse(&self, subject: &str, progress: &Progress, refusal: &Refusal) -> Refused {
        let messages = progress.messages as u64;
        self.shared
            .stats
            .count_refused_many(refusal.code(), messages);
        let rule = match refusal {
            Refusal::Policy(denial) | Refusal::OwnPolicy(denial) => denial.rule(),
            _ => None,
        };
        let origin = progress.origin.as_ref();
        let decision = decision_log::deny(
            decision_log::Subject {
                enforcer: "receiver",
                workload: origin.map_or("?", |origin| origin.sender.workload.path()),
                verb: self.role.senders_verb().as_str(),
                subject,
                user: progress.user.as_ref().map(User::principal),
            },
            rule.unwrap_or_default(),
            &format_args!("{}: {}", refusal.code(), chain(refusal)),
        );
        // A replay is not answered a second time: the first answer stands.
        let answer_to = match refusal {
            Refusal::Replay(_) | Refusal::ReplayedElsewhere => None,
            _ => progress.answer_to.clone(),
        };
        let code = match refusal {
            // Nothing is wrong with the request: it may be sent again.
            Refusal::Claim(_) | Refusal::Standing(_) => ErrorCode::Unavailable,
            _ => ErrorCode::Refused,
        };
        Refused {
            answer_to,
            decision,
            code,
        }
    }
}

/// How far a message got before it was refused.
struct Progress {
    /// Of whom, once that is proven.
    origin: Option<Arc<Origin>>,
    user: Option<User>,
    answer_to: Option<AnswerTo>,
    /// How many of ours it carries; one while nothing is proven.
    messages: usize,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            origin: None,
            user: None,
            answer_to: None,
            messages: 1,
        }
    }
}

pub(crate) fn content_type(opened: &OpenedEnvelope) -> ContentType {
    opened
        .content_type()
        .map_or_else(unnamed_content, ContentType::parse)
}

/// How a body is encoded whose sender does not say it.
fn unnamed_content() -> ContentType {
    ContentType::Other("application/octet-stream".into())
}

pub(crate) fn own_headers(opened: &OpenedEnvelope) -> Vec<(String, String)> {
    opened
        .app_headers()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}
